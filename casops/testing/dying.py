"""A store whose process dies at one moment of the protocol, so that takeover can be seen and tested for real.

    CasOps(DyingStore(open_store(url), "half:propose:order-29401"))

The moment is WHEN:PHASE or WHEN:PHASE:OPERATION_ID.  WHEN is `before`, `after`, or `half` (the first request of the
batch is carried out and the others are not).  PHASE is one of PHASES.  Death is SIGKILL: nothing is cleaned up.

Must not be in here: anything that production code would use.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence

from casops.errors import UsageError
from casops.messages import INTENTIONS, RESULTS, Body, Forget, Insert, Replace, Reply, StoreRequest
from casops.records import decode_record
from casops.stores import Store

# In the order in which an operation goes through them: its intention is declared; result and stages are proposed (or a
# refusal recorded); the result says committed; bodies move into place; the intention goes; the result gets its time
# to live.
PHASES = ("declare", "propose", "commit", "settle", "withdraw", "finish")
WHEN = ("before", "half", "after")


class DyingStore:
    """A store for the sync driver.  Raises UsageError for a moment that there is not."""

    def __init__(self, store: Store, moment: str) -> None:
        self._store = store
        self._when, _, rest = moment.partition(":")
        self._phase, _, operation_id = rest.partition(":")
        self._operation_id = operation_id or None  # none: whichever comes first
        if self._when not in WHEN or self._phase not in PHASES:
            raise UsageError(f"{moment!r} is no moment to die at: {'|'.join(WHEN)}:{'|'.join(PHASES)}[:OPERATION_ID]")

    def perform(self, batch: Sequence[StoreRequest], /) -> list[Reply]:
        if not any(self._is_fatal(request) for request in batch):
            return self._store.perform(batch)
        if self._when == "half":
            self._store.perform(batch[:1])
        elif self._when == "after":
            self._store.perform(batch)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("still alive")

    def close(self) -> None:
        self._store.close()

    def _is_fatal(self, request: StoreRequest) -> bool:
        if phase_of(request) != self._phase:
            return False
        if self._operation_id is None or self._phase == "settle":  # which names no operation
            return True
        return isinstance(request, Insert | Replace | Forget) and request.key.id == self._operation_id


def phase_of(request: StoreRequest) -> str | None:
    """The phase a request belongs to; None for reads, and for what only happens after races."""
    if isinstance(request, Forget):
        return "withdraw"
    if not isinstance(request, Insert | Replace):
        return None
    if request.body is Body.STAGED:
        return "settle"
    if request.key.collection == INTENTIONS:
        return "declare"
    if request.key.collection == RESULTS and isinstance(request.body, str):
        record = decode_record(request.body, request.key.id)
        if record.settled:
            return "finish"
        return {"proposed": "propose", "committed": "commit", "declined": "propose"}.get(record.state)
    return None
