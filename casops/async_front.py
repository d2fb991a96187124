"""`AsyncCasOps`: the front door of asyncio code, the twin of `CasOps` (front.py).

A cancelled call is a crashed worker: its writes may still land, and asking again with the same id
tells what became of them.

Must not be in here: anything that is not the twin of something in front.py.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import Callable, Container, Iterable, Sequence
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

from casops.callers import AsyncCallers
from casops.documents import D, Ref
from casops.drivers import adrive
from casops.engine import Engine
from casops.errors import Closed, UsageError, not_asked
from casops.front import LINGER, SETTLERS, Unsettled, nobody_waits, report, worker_name
from casops.operations import Operation
from casops.options import Options
from casops.outcome import Outcome, Pending, Recovery, Snapshot
from casops.protocol.ended import Ended
from casops.protocol.together import together
from casops.stores import AsyncConversingStore, AsyncStore
from casops.stores.opening import open_async_store
from casops.tasks import own_task
from casops.turns import NOTHING, Known, Ticket, Turns, patience, rounds

R = TypeVar("R")


class AsyncCasOps:
    """Operations on one store, for one event loop; when that is closed, for the next.

    `store`: an async one.  The rest, and what is raised, as in CasOps; UsageError in another event loop, too.
    """

    def __init__(
        self,
        store: AsyncStore,
        *,
        options: Options | None = None,
        operations: Iterable[type[Operation[Any]]] = (),
        worker: str | None = None,
    ) -> None:
        ours = type(store).__module__.startswith("casops.")  # others may give an awaitable in another way
        if ours and not inspect.iscoroutinefunction(store.perform):
            raise UsageError(f"an async store is needed, not {store!r:.80}; CasOps takes this one")
        self._engine = Engine(options or Options(), operations, worker or worker_name())
        self._store = store
        self._loop: asyncio.AbstractEventLoop | None = None  # whose tasks use this
        self._for_a_loop(())
        self._closed = False

    @classmethod
    def open(
        cls,
        url: str,
        *,
        options: Options | None = None,
        operations: Iterable[type[Operation[Any]]] = (),
        worker: str | None = None,
    ) -> Self:
        """See CasOps.open.  Blocks until the store is known to work."""
        return cls(open_async_store(url), options=options, operations=operations, worker=worker)

    @property
    def options(self) -> Options:
        return self._engine.options

    def register(self, operation: type[Operation[Any]]) -> None:
        """See CasOps.register."""
        self._engine.register(operation)

    async def run(self, operation: Operation[R], *, operation_id: str) -> R:
        """See CasOps.run."""
        return (await self.execute(operation, operation_id=operation_id)).result

    async def execute(self, operation: Operation[R], *, operation_id: str) -> Outcome[R]:
        """See CasOps.execute."""
        self._check_open(operation_id)
        work = self._engine.work(operation, operation_id)
        if self._callers is not None:
            at_once = self._engine.execute_at_once(work, operation_id)
            outcome, unsettled = await self._callers.run(at_once, operation_id)
            if unsettled is not None:
                await self._settler.add(unsettled)
            return outcome
        ours = asyncio.Event()
        ticket = Ticket(work.declared, ours.set)
        self._turns.join(ticket)
        behind = self._turns.behind(ticket)
        try:
            if behind:
                self._settler.hurry()
            steps = self._engine.execute(work, operation_id, behind=behind)
            outcome, ended = await adrive(
                steps, self._store, lambda: self._turn(ticket, ours), operation_id=operation_id
            )
            hurry = self._turns.followed(ticket)
            await self._settler.add(ended, partial(self._turns.leave, ticket), hurry=hurry)
        except BaseException:
            self._turns.leave(ticket)
            raise
        return outcome

    async def outcome(self, operation_id: str) -> Outcome[Any] | Pending | None:
        """See CasOps.outcome."""
        self._check_open(operation_id)
        return await adrive(self._engine.outcome(operation_id), self._store, operation_id=operation_id)

    async def read(self, ref: Ref[D]) -> D | None:
        """See CasOps.read."""
        self._check_open()
        return await adrive(self._engine.read(ref), self._store)

    async def snapshot(self, refs: Sequence[Ref[Any]]) -> Snapshot:
        """See CasOps.snapshot."""
        self._check_open()
        return await adrive(self._engine.snapshot(refs), self._store)

    async def pending(self) -> list[Pending]:
        """See CasOps.pending."""
        self._check_open()
        return await adrive(self._engine.pending(), self._store)

    async def recover(self, *, busy: Container[str] = ()) -> Recovery:
        """See CasOps.recover."""
        self._check_open()
        return await adrive(self._engine.recover(busy), self._store)

    async def forget(self, operation_ids: Sequence[str]) -> int:
        """See CasOps.forget."""
        self._check_open()
        return await adrive(self._engine.forget(operation_ids), self._store)

    async def cancel(self, operation_id: str) -> Outcome[Any]:
        """See CasOps.cancel."""
        self._check_open(operation_id)
        outcome, ended = await adrive(self._engine.cancel(operation_id), self._store, operation_id=operation_id)
        await self._settler.add(ended)
        return outcome

    async def close(self) -> None:
        """See CasOps.close."""
        if not self._closed:
            self._adopt_loop()
            self._closed = True
            try:
                await self._settler.close()
            finally:  # the wait for it may be cancelled
                await self._store.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _check_open(self, operation_id: str | None = None) -> None:
        if self._closed:
            raise Closed("this AsyncCasOps is closed; nothing was asked", operation_id=operation_id)
        self._adopt_loop(operation_id)
        self._engine.check_not_running()

    def _adopt_loop(self, operation_id: str | None = None) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is loop:
            return
        if self._loop is not None:
            if not self._loop.is_closed():
                told = "this AsyncCasOps is used by another event loop: open one for each"
                raise not_asked(UsageError(told, operation_id=operation_id))
            self._for_a_loop(self._settler.left())
        self._loop = loop

    def _for_a_loop(self, unsettled: Iterable[Ended]) -> None:
        """What tasks of one event loop share: those of one that is closed will never say that they are done."""
        store = self._store
        # One that converses has one writer at a time: no turns are needed.
        deadline = self._engine.options.deadline
        self._callers = AsyncCallers(store, deadline) if isinstance(store, AsyncConversingStore) else None
        self._turns = Turns()
        self._settler = AsyncSettler(self._engine, store, unsettled)

    async def _turn(self, ticket: Ticket, ours: asyncio.Event) -> Known:
        """See CasOps._turn."""
        before = self._turns.ahead(ticket)
        for _ in range(rounds(self.options)):
            with suppress(TimeoutError):
                async with asyncio.timeout(patience(self.options)):
                    await ours.wait()
            if ours.is_set() or (now := self._turns.ahead(ticket)) == before:
                break
            before = now
        return ticket.known


class AsyncSettler:
    """Settles in a task, many operations together; a process that dies leaves it to others."""

    def __init__(self, engine: Engine, store: AsyncStore, unsettled: Iterable[Ended]) -> None:
        self._engine = engine
        self._store = store
        self._waiting: deque[Unsettled] = deque((ended, nobody_waits) for ended in unsettled)
        self._tasks: list[asyncio.Task[None]] = []
        self._lingerer: asyncio.Task[None] | None = None  # one of them: something waits, but not enough
        self._enough = asyncio.Event()
        self._hurried = False  # somebody waits for what is waiting here
        self._closing = False

    async def add(
        self, ended: Ended, documents_done: Callable[[Known], None] = nobody_waits, *, hurry: bool = False
    ) -> None:
        """See Settler.add."""
        if ended.put_away:
            documents_done(NOTHING)
            return
        if self._closing or len(self._waiting) >= self._engine.options.settle_queue:
            await self._settle([(ended, documents_done)])
            return
        self._waiting.append((ended, documents_done))
        self._tasks = [task for task in self._tasks if not task.done()]
        self._hurried = self._hurried or hurry
        if self._is_enough():
            self._enough.set()
        if not self._lingering and len(self._tasks) < SETTLERS:
            self._hire()

    def _insist(self) -> None:
        """That somebody is at it: those who were may have been cancelled."""
        self._tasks = [task for task in self._tasks if not task.done()]
        if self._waiting and not self._tasks:
            self._hire()

    def left(self) -> list[Ended]:
        """What waits here, when its tasks will not go on."""
        return [ended for ended, _ in self._waiting]

    @property
    def _lingering(self) -> bool:
        return self._lingerer is not None and not self._lingerer.done()  # it may be cancelled before it begins

    def _hire(self) -> None:
        self._lingerer = own_task(self._work(), "casops-settler")
        self._tasks.append(self._lingerer)

    def hurry(self) -> None:
        """See Settler.hurry."""
        if self._waiting:
            self._hurried = True
            self._enough.set()
            self._insist()

    async def close(self) -> None:
        """Wait for its tasks, for as long as the deadline at most.  None is left."""
        self._closing = True
        self._enough.set()
        self._insist()
        try:
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=self._engine.options.deadline)
        finally:  # the wait for them may be cancelled
            tasks, left = self._tasks, list(self._waiting)
            for task in tasks:
                task.cancel()
            self._waiting.clear()
            report(left, [Closed("this AsyncCasOps was closed meanwhile") for _ in left])
            if tasks:
                await asyncio.wait(tasks)

    async def _work(self) -> None:
        while True:
            await self._linger()
            several = min(len(self._waiting), self._engine.options.settle_together)
            batch = [self._waiting.popleft() for _ in range(several)]
            self._hurried = self._hurried and bool(self._waiting)
            await self._settle(batch)
            if self._lingering or not self._waiting:
                return  # if anything waits, then for another task
            self._lingerer = asyncio.current_task()

    async def _linger(self) -> None:
        """Lest each operation be settled alone."""
        try:
            if not self._is_enough():
                self._enough.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(LINGER):
                        await self._enough.wait()
        finally:
            self._lingerer = None

    def _is_enough(self) -> bool:
        return self._hurried or self._closing or len(self._waiting) >= self._engine.options.settle_together

    async def _settle(self, batch: list[Unsettled]) -> None:
        errors: list[Exception | None]
        try:
            errors = await adrive(together([self._engine.settle(*each) for each in batch]), self._store)
        except Exception as error:  # noqa: BLE001 - settling is a courtesy; the answer was given
            errors = [error for _ in batch]
        except asyncio.CancelledError as cancelled:  # others may have the documents all the same
            report(batch, [cancelled for _ in batch])
            raise
        report(batch, errors)
