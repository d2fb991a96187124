"""What is being worked on here: one thread for each operation, however many requests wait for it.

A request for an operation that is in the table waits for the answer of the one that brought it there.  Requests come
and go; an operation stays until it has ended, so a caller who was told "in progress" finds its result later.

The table's key is the id *and* the content.  The same id with other content runs beside it, and the protocol says
which of the two the id belongs to: this table has only seen one of them begin, which proves nothing.

Business code is ordinary synchronous code and may be slow.  On an event loop it would hold up every other request, so
the service takes a `CasOps` and runs it in threads.

Must not be in here: HTTP.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, TypeAlias, TypeVar

from casops.engine import describe
from casops.errors import CasOpsError
from casops.outcome import Outcome
from casops.tasks import own_task
from casops.threads import Threads

T = TypeVar("T")
Work: TypeAlias = Callable[[], Outcome[Any]]

log = logging.getLogger("casops.service")

# Seconds that somebody who only looks waits, where nobody waits for what is worked on: enough for a read.
LEAST_LOOK = 1.0


class TooMany(Exception):
    """A bound is reached; nothing was begun."""


class InProgress(Exception):
    """The caller's time is over; the work goes on."""


class InFlight:
    """The table of one event loop."""

    def __init__(self, *, threads: int, operations: int, requests: int) -> None:
        self._working = Threads(threads, "casops-working")
        self._looking = Threads(threads, "casops-looking")
        self._most_operations = operations
        self._most_requests = requests
        self._requests = 0
        self._table: dict[tuple[str, str], asyncio.Task[Outcome[Any]]] = {}

    async def ask(self, operation_id: str, fingerprint: str, work: Work, within: float) -> tuple[Outcome[Any], bool]:
        """The outcome, and whether another request's work gave it.  `within`: seconds to wait.

        Raises TooMany, InProgress, and whatever the work raises.
        """
        with self._request():
            task, joined = self._begin_or_join(operation_id, fingerprint, work)
            # `wait` leaves the task alone when the time is over, or when this request is cancelled.
            await asyncio.wait([task], timeout=within)
        if not task.done():
            raise InProgress
        return task.result(), joined

    async def look(self, work: Callable[[], T], within: float) -> T:
        """For requests that only look: within the same bounds, beside the threads of those that work.

        Raises TooMany, InProgress, and whatever the work raises.
        """
        waiting = True

        def look() -> T:
            if not waiting:  # it would hold up those who do
                raise InProgress
            return work()

        with self._request():
            looking = self._looking.run(look)
            try:
                await asyncio.wait([looking], timeout=max(within, LEAST_LOOK))
            finally:  # this request may be cancelled, too
                waiting = False
                looking.cancel()  # if it is not done: what it comes to is for nobody
        if looking.cancelled():
            raise InProgress
        return looking.result()

    def ids(self) -> frozenset[str]:
        """The operations that are being worked on here."""
        return frozenset(operation_id for operation_id, _ in self._table)

    async def finish(self, within: float) -> frozenset[str]:
        """The end: wait for everything in flight, for so many seconds at most.  Gives what is left."""
        if tasks := list(self._table.values()):
            await asyncio.wait(tasks, timeout=within)
        self._working.close()
        self._looking.close()
        return self.ids()

    @contextmanager
    def _request(self) -> Generator[None]:
        if self._requests >= self._most_requests:
            raise TooMany(f"{self._requests} requests are waiting for answers")
        self._requests += 1
        try:
            yield
        finally:
            self._requests -= 1

    def _begin_or_join(
        self, operation_id: str, fingerprint: str, work: Work
    ) -> tuple[asyncio.Task[Outcome[Any]], bool]:
        key = (operation_id, fingerprint)
        standing = self._table.get(key)
        if standing is not None and not standing.done():  # done: it is about to be taken away
            return standing, True
        if len(self._table) >= self._most_operations:
            raise TooMany(f"{len(self._table)} operations are in flight")
        task = self._table[key] = own_task(self._work(work), f"casops {operation_id}")

        def ended(task: asyncio.Task[Outcome[Any]]) -> None:
            if self._table.get(key) is task:
                del self._table[key]
            _report(operation_id, task)

        task.add_done_callback(ended)
        return task, False

    async def _work(self, work: Work) -> Outcome[Any]:
        return await self._working.run(work)


def _report(operation_id: str, task: asyncio.Task[Outcome[Any]]) -> None:
    """Tell the operator, once for all who waited, and also when nobody waits any more."""
    if task.cancelled():
        log.warning("operation %s: the service stopped waiting for it; ask again with the same id", operation_id)
    elif isinstance(error := task.exception(), CasOpsError):
        level = logging.INFO if error.happened is False else logging.WARNING
        log.log(level, "operation %s: %s: %s", operation_id, type(error).__name__, describe(error))
    elif error is not None:
        log.error("operation %s failed unexpectedly and is pending", operation_id, exc_info=error)
