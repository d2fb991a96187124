"""Whether it is too late to ask again: a result that the servers have forgotten would come about a second time.

The servers remember a result for their retention from its end, which is later than the moment at which it was first
asked for (`Asked.at`).  So what was asked for less than one retention ago is remembered still.  From one life of a
client to the next there is no clock but the wall clock, which somebody may have set meanwhile: asking stops at half of
the retention, as it does for servers (protocol/sweeping.py, too_old_to_start), and then no harm is done for as long as
the clock is wrong by less than the other half.  Where it is seen to be wrong by more, since something was asked for in
the future, that is not asked again, either.  Within one life it is the same: other clocks stand still while the machine
sleeps.

Ids that tell their time (UUIDv7) are left to the servers: these see themselves how old they are.

Must not be in here: clocks; how the retention is found out.
"""

from __future__ import annotations

from casops.client.pending import Entry
from casops.errors import Expired, OutcomeUnknown
from casops.ids import time_of


def has_to_be_young(entry: Entry) -> bool:
    """Whether its result may have come about already, and the servers cannot tell how long ago."""
    return entry.answer is None and entry.sent > 0 and time_of(entry.asked.operation_id) is None


def check_age(entry: Entry, wall: float, retention: float | None) -> None:
    """`wall`: seconds since 1970.  `retention`: seconds; None: no server has told it yet.

    Raises Expired if it is too late to ask for this operation again, OutcomeUnknown if that cannot be told.
    """
    operation_id = entry.asked.operation_id
    if retention is None:
        if entry.earlier:
            raise OutcomeUnknown(
                "an earlier life of this client asked for it, and no server tells for how long results are remembered "
                "(Idempotency-Retention); without that it is not asked for again: it could run a second time",
                operation_id=operation_id,
            )
        return  # asked for by this process, and by no other before: its callers know since when
    age = wall - entry.asked.at
    if abs(age) > retention / 2:
        when = f"{age:.0f} seconds ago" if age > 0 else f"{-age:.0f} seconds from now (this machine's clock is wrong)"
        raise Expired(
            f"it was first asked for {when}, and servers remember results for {retention:.0f} seconds: whether it "
            "happened may be forgotten, so it is not asked for again. See what `outcome` tells, then `forget` it",
            operation_id=operation_id,
        )
