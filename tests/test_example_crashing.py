"""The test that users copy: the example's own operations, crashed and duplicated at every step."""

from __future__ import annotations

from decimal import Decimal

import pytest

from casops import Documents, Outcome
from casops.testing import crash_everywhere
from examples.balance_transfer.model import Account, OpenAccount, Receipt, Transfer

ALICE, BOB = Account.ref("alice"), Account.ref("bob")


@pytest.mark.parametrize(("amount", "left"), [("30", "70"), ("100", "0"), ("100.01", "100")])
def test_a_transfer_survives_everything(amount: str, left: str) -> None:
    def check(documents: Documents, outcome: Outcome[Receipt]) -> None:
        assert documents[ALICE].balance == Decimal(left)
        assert documents[ALICE].balance + documents[BOB].balance == 100
        assert outcome.status == ("declined" if left == "100" else "applied")

    report = crash_everywhere(
        Transfer(source="alice", target="bob", amount=amount),
        documents={ALICE: Account(balance=Decimal(100)), BOB: Account(balance=Decimal(0))},
        check=check,
    )
    assert report.worlds > 20


def test_a_transfer_to_an_account_that_is_not_there_yet_survives_everything() -> None:
    def check(documents: Documents, outcome: Outcome[Receipt]) -> None:
        assert documents[BOB].balance == outcome.result.target_balance == 30

    crash_everywhere(
        Transfer(source="alice", target="bob", amount="30"),
        documents={ALICE: Account(balance=Decimal(100))},
        check=check,
    )


def test_opening_an_account_survives_everything() -> None:
    crash_everywhere(OpenAccount(account="alice", balance="12.30"), documents={})
