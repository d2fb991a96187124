"""The clock of the server, for lifetimes that have to be given as a moment.

Couchbase takes a lifetime of 30 days or more only as seconds since 1970.  Which moment that is must not depend on
whether this machine's clock is right, so the server is asked (`$vbucket.HLC`, the clock that its CAS values come
from), once an hour; in between this machine's monotonic clock counts on.

The monotonic clock stands still while a machine sleeps, and a lifetime reckoned from before would be over too early.
So the server is asked again when the wall clock says that another time has passed; it raises a doubt, and no more.

Must not be in here: what lifetimes are for.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator
from typing import Final, NamedTuple

from casops.messages import Refused, Unknown
from casops.stores.couchbase_calls import Answer, Call, Calls
from casops.stores.couchbase_errors import Meaning, Trouble
from casops.stores.couchbase_places import Place
from casops.stores.couchbase_specs import field

__all__ = ["ServerClock"]

# Seconds.  A quartz is off by less than 0.2 s in this time.
ASK_AGAIN: Final = 3600.0

# Seconds by which the time that has passed may differ between this machine's two clocks: far more than reading both
# takes, far less than a lifetime.  A doubt without a reason costs one call.
DOUBT: Final = 1.0

_HLC: Final = (field("$vbucket.HLC", hidden=True),)


class _Seen(NamedTuple):
    """The three clocks, in seconds, when the server was asked."""

    server: float
    monotonic: float
    wall: float


class ServerClock:
    """`place`: a document to ask its node; an empty one is put there if there is none."""

    def __init__(
        self,
        calls: Calls,
        place: Place,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._calls = calls
        self._place = place
        self._monotonic = monotonic
        self._wall = wall
        self._seen: _Seen | None = None

    def now(self) -> Generator[Call, Answer | Trouble, float | Unknown | Refused]:
        """Seconds since 1970 by the server's clock."""
        # Both before the server is asked: should the machine sleep meanwhile, they differ the next time.
        monotonic, wall = self._monotonic(), self._wall()
        seen = self._seen
        if seen is None or _doubtful(monotonic - seen.monotonic, wall - seen.wall):
            answer = yield from self._ask()
            if isinstance(answer, Trouble):
                return Unknown(f"the server's clock could not be read: {answer.why}")
            try:
                there = float(json.loads(answer.fields[0] or b"")["now"])
            except (ValueError, TypeError, KeyError):
                return Refused("the server does not tell its clock ($vbucket.HLC), which lifetimes of 30 days need")
            seen = self._seen = _Seen(there, monotonic, wall)
        return seen.server + monotonic - seen.monotonic

    def _ask(self) -> Generator[Call, Answer | Trouble, Answer | Trouble]:
        answer = yield self._calls.look(self._place, _HLC)
        if isinstance(answer, Answer) or answer.meaning is not Meaning.MISSING:
            return answer
        made = yield self._calls.insert(self._place, "{}")
        if isinstance(made, Trouble) and made.meaning is not Meaning.EXISTS:
            return made
        return (yield self._calls.look(self._place, _HLC))


def _doubtful(passed: float, passed_by_the_wall_clock: float) -> bool:
    return passed > ASK_AGAIN or abs(passed_by_the_wall_clock - passed) > DOUBT
