"""Several generators as one: their batches go out merged, so that they share the cost of a commit.

Must not be in here: knowledge of what the generators do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from casops.messages import Pause, ReadClock, Request, Steps, StoreRequest


def together(members: Sequence[Steps[None]]) -> Steps[list[Exception | None]]:
    """Run all to their end.  Gives, for each, the error that ended it or None.

    A member's wait delays the others by the longest wait of a round: for background work.
    """
    errors: list[Exception | None] = [None] * len(members)
    replies: dict[int, Any] = dict.fromkeys(range(len(members)))
    while replies:
        asked: dict[int, Request] = {}
        for index, reply in replies.items():
            try:
                asked[index] = members[index].send(reply)
            except StopIteration:
                continue
            except Exception as error:  # noqa: BLE001 - one member's failure must not stop the others
                errors[index] = error
        replies = {}
        merged: list[StoreRequest] = []
        for request in asked.values():
            if isinstance(request, tuple):
                merged.extend(request)
        answers = iter((yield tuple(merged)) if merged else ())
        pauses = [request.seconds for request in asked.values() if isinstance(request, Pause)]
        if pauses:
            yield Pause(max(pauses))
        clock: Any = None
        for index, request in asked.items():
            if isinstance(request, tuple):
                replies[index] = [next(answers) for _ in request]
            elif isinstance(request, Pause):
                replies[index] = None
            else:
                assert isinstance(request, ReadClock), "background work has nothing else to ask for"
                if clock is None:
                    clock = yield request
                replies[index] = clock
    return errors
