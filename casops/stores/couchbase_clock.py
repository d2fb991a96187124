"""The clock of the server, for lifetimes that have to be given as a moment.

Couchbase takes a lifetime of 30 days or more only as seconds since 1970.  Which moment that is must not depend on
whether this machine's clock is right, so the server is asked (`$vbucket.HLC`, the clock that its CAS values come
from), once an hour; in between this machine's monotonic clock counts on.

Must not be in here: what lifetimes are for.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator
from typing import Final

from casops.messages import Refused, Unknown
from casops.stores.couchbase_calls import Answer, Call, Calls
from casops.stores.couchbase_errors import Trouble
from casops.stores.couchbase_places import Place
from casops.stores.couchbase_specs import field

__all__ = ["ServerClock"]

# Seconds.  A quartz is off by less than 0.2 s in this time.
ASK_AGAIN: Final = 3600.0

_HLC: Final = (field("$vbucket.HLC", hidden=True),)


class ServerClock:
    """`place`: a document that exists, to ask its node."""

    def __init__(self, calls: Calls, place: Place, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._calls = calls
        self._place = place
        self._monotonic = monotonic
        self._seen: tuple[float, float] | None = None  # the server's seconds since 1970, our monotonic ones

    def now(self) -> Generator[Call, Answer | Trouble, float | Unknown | Refused]:
        """Seconds since 1970 by the server's clock."""
        here = self._monotonic()
        if self._seen is None or here - self._seen[1] > ASK_AGAIN:
            answer = yield self._calls.look(self._place, _HLC)
            if isinstance(answer, Trouble):
                return Unknown(f"the server's clock could not be read: {answer.why}")
            try:
                there = float(json.loads(answer.fields[0] or b"")["now"])
            except (ValueError, TypeError, KeyError):
                return Refused("the server does not tell its clock ($vbucket.HLC), which lifetimes of 30 days need")
            self._seen = (there, here)
        return self._seen[0] + here - self._seen[1]
