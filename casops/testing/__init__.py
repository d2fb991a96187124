"""For tests of your own operations: `crash_everywhere` crashes, duplicates and delays one of them at every step.

def test_a_transfer_survives_everything() -> None:
    alice, bob = Account.ref("alice"), Account.ref("bob")

    def check(documents: Documents, outcome: Outcome[Receipt]) -> None:  # called at the end of every world
        assert documents[alice].balance + documents[bob].balance == 100

    crash_everywhere(
        Transfer(source="alice", target="bob", amount=30),
        documents={alice: Account(balance=Decimal(100)), bob: Account(balance=Decimal(0))},
        check=check,
    )
"""

from casops.testing.couchbase_server import CouchbaseProcess, CouchbaseServer
from casops.testing.crashing import Report, crash_everywhere

__all__ = ["CouchbaseProcess", "CouchbaseServer", "Report", "crash_everywhere"]
