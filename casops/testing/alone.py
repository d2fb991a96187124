"""One worker, alone on a store, without faults: it must come to its end.

Must not be in here: schedules.
"""

from __future__ import annotations

from typing import Any

from casops.messages import Clock, FreshId, ReadClock
from casops.options import Options
from casops.stores.memory import MemoryStore
from casops.testing.checkers import Violation
from casops.testing.programs import Asks, Hears, MakeProgram, engine_for

WALL = 1_800_000_000.0

# Batches of one worker that is alone; it needs some dozens at most.
MAX_BATCHES = 1_000


def finish(make: MakeProgram, store: MemoryStore, name: str, options: Options) -> list[Asks | Hears]:
    """Run one worker to its end on a store, alone.  Raises Violation if it does not come to one."""
    program = make(engine_for(name, options))
    events: list[Asks | Hears] = []
    reply: Any = None
    ids = batches = 0
    while True:
        try:
            request = program.send(reply)
        except StopIteration:
            return events
        if isinstance(request, tuple):
            batches += 1
            if batches > MAX_BATCHES:
                raise Violation(f"a worker that is alone does not come to an end ({name})")
            reply = store.perform(request)
        elif isinstance(request, Asks | Hears):
            events.append(request)
            reply = None
        elif isinstance(request, ReadClock):
            reply = Clock(0.0, WALL)
        elif isinstance(request, FreshId):
            ids += 1
            reply = f"{name}-{ids}"
        else:
            reply = None
