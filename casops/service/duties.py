"""What the service does besides answering: sweeps that finish what dead servers left, and forgetting.

Both are courtesies: whatever fails here is left to the next sweep, to another server, or to the retention.

Must not be in here: HTTP; what a sweep or forgetting does.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterable
from itertools import islice
from typing import Final

from casops.engine import describe
from casops.front import CasOps
from casops.outcome import Recovery
from casops.protocol.limits import MAX_FORGOTTEN
from casops.service.in_flight import InFlight
from casops.service.options import ServiceOptions
from casops.tasks import own_task
from casops.threads import in_thread

log = logging.getLogger("casops.service")

# Deadlines.  An operation of a sweep takes one at most, unless its function hangs; what so many together take longer
# than is not waited for, or one such function would be the last thing that this server looks after.
PATIENCE: Final = 10

# Sweeps at once, each a thread.  A function that hangs is parked after a few of them (`park_after`).
MOST_SWEEPS: Final = 10


class Duties:
    """The background work of one service."""

    def __init__(self, casops: CasOps, in_flight: InFlight, options: ServiceOptions) -> None:
        self._casops = casops
        self._in_flight = in_flight
        self._options = options
        self._due: dict[str, float] = {}  # operation id -> loop time; the first is due first
        self._more = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._sweeps: set[asyncio.Task[None]] = set()  # one, and those that take too long
        self._told: set[tuple[str, str]] = set()

    def start(self) -> None:
        if self._options.sweep_every:
            self._tasks.append(own_task(self._sweep_now_and_then(), "casops-sweeps"))
        self._tasks.append(own_task(self._forget_when_due(), "casops-forgetting"))

    async def stop(self) -> None:
        tasks = [*self._tasks, *self._sweeps]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._tasks.clear()

    # --- forgetting -------------------------------------------------------------------------

    def acknowledged(self, operation_ids: Iterable[str]) -> None:
        """Forget these once their grace is over.  What does not fit in memory stays for the retention."""
        if not self._options.forget_after:
            return
        due = asyncio.get_running_loop().time() + self._options.forget_after
        for operation_id in operation_ids:
            if len(self._due) >= self._options.acknowledged:
                log.info("too many acknowledged results wait to be forgotten; this one stays: %s", operation_id)
            elif operation_id not in self._due:
                self._due[operation_id] = due
                self._more.set()

    def asked(self, operation_id: str) -> None:
        """It was acknowledged too early: somebody, or a copy of a request, still asks.

        The retention is enough for it.
        """
        self._due.pop(operation_id, None)

    async def _forget_when_due(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            while not self._due:
                self._more.clear()
                await self._more.wait()
            await asyncio.sleep(next(iter(self._due.values())) - loop.time())
            now = loop.time()
            ready = [each for each, due in islice(self._due.items(), MAX_FORGOTTEN) if due <= now]
            for each in ready:
                del self._due[each]
            if not ready:
                continue
            try:
                await in_thread(lambda ids=ready: self._casops.forget(ids))  # type: ignore[misc]
            except Exception as error:  # noqa: BLE001 - a courtesy
                log.warning("acknowledged results stay until their retention is over: %s", describe(error))

    # --- sweeps -----------------------------------------------------------------------------

    async def _sweep_now_and_then(self) -> None:
        longest = PATIENCE * self._casops.options.deadline
        while True:
            # Spread, so that servers which were started together do not sweep together.
            await asyncio.sleep(self._options.sweep_every * random.uniform(0.5, 1.0))
            if len(self._sweeps) >= MOST_SWEEPS:
                log.warning("%d sweeps hang in business functions; this server sweeps no more", len(self._sweeps))
                await asyncio.wait(self._sweeps, return_when=asyncio.FIRST_COMPLETED)
            sweep = own_task(self._sweep(), "casops-sweep")
            self._sweeps.add(sweep)
            sweep.add_done_callback(self._sweeps.discard)
            await asyncio.wait({sweep}, timeout=longest)
            if not sweep.done():
                log.warning("a sweep takes longer than %g s; the next one does not wait for it", longest)

    async def _sweep(self) -> None:
        try:
            busy = self._in_flight.ids()
            self._tell(await in_thread(lambda: self._casops.recover(busy=busy)))
        except Exception as error:  # noqa: BLE001 - the next sweep may do better
            log.warning("a sweep failed: %s", describe(error))

    def _tell(self, recovery: Recovery) -> None:
        for outcome in recovery.finished:
            log.info("operation %s was left behind and is finished: %s", outcome.operation_id, outcome.status)
        left = {(each.operation_id, each.note) for each in recovery.left}
        for operation_id, note in sorted(left - self._told):  # each once, not at every sweep
            log.warning("operation %s is pending: %s", operation_id, note)
        self._told = left
