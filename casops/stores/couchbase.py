"""A store in a Couchbase bucket, on the official SDK; it needs only the data service.

`CouchbaseStore` is for the sync driver, `AsyncCouchbaseStore` for the async one.  Both are given a bucket or a scope
of the SDK, which stays its owner's; a URL opens one of their own (casops.stores.couchbase_opening).

The requests of a batch go out together: a thread for each (sync) or a task for each (async).  What each asks of the SDK
is told by generators (casops.stores.couchbase_documents, couchbase_intentions); here they are only driven:

    sync    _run    send the call, hand back what came
    async   _run    the same with `await`

What becomes of an error is decided in one table (casops.stores.couchbase_errors).  A call that is cancelled or
interrupted goes on; nobody is told that it was not done.  close() waits for such calls.

Must not be in here: what a request means, what an exception means.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from casops.errors import Closed, StoreUnavailable, UsageError
from casops.messages import INTENTIONS, AtOnce, Forget, Read, Refused, Reply, Scan, StoreRequest, Unknown
from casops.running import interrupted
from casops.stores.couchbase_calls import Answer, Call, Calls, answer, send
from casops.stores.couchbase_clock import ServerClock
from casops.stores.couchbase_documents import Documents, Steps
from casops.stores.couchbase_errors import Trouble, judge
from casops.stores.couchbase_intentions import Edit, Intentions, Lane
from casops.stores.couchbase_places import Place, Settings
from casops.stores.couchbase_threads import Threads
from casops.stores.rows import check
from casops.tasks import own_task

__all__ = ["AsyncCouchbaseStore", "CouchbaseStore"]

T = TypeVar("T")

# Calls of a CouchbaseStore under way at once, beside those that callers' own threads make.  They wait for the network
# and cost little: with 32, callers at a server 10 ms away waited for a thread.  Started as they are needed.
THREADS: Final = 128

_INTERRUPTED: Final = Unknown("the call that wrote for several operations was interrupted")


class Plan:
    """A batch sorted out: replies that are clear already, generators, and edits of intentions by their lanes."""

    def __init__(self, batch: Sequence[StoreRequest], documents: Documents, intentions: Intentions) -> None:
        self.replies: list[Reply | None] = [check(request) for request in batch]
        self.steps: list[tuple[int, Steps]] = []
        self.edits: dict[int, Edit] = {}
        self.lanes: dict[Place, tuple[Lane, list[Edit]]] = {}
        for index, request in enumerate(batch):
            if self.replies[index] is not None:
                continue
            if isinstance(request, AtOnce):
                # Not an assert statement: python -O must not turn this into silent damage.
                raise AssertionError("a bug in casops: Couchbase is not asked to write several documents at once")
            if isinstance(request, Scan):
                self.steps.append((index, intentions.serve(request)))
            elif request.key.collection != INTENTIONS:
                assert not isinstance(request, Forget)  # check has seen to it
                self.steps.append((index, documents.serve(request)))
            elif isinstance(request, Read):
                self.steps.append((index, intentions.serve(request)))
            else:
                lane = intentions.lane_of(request)
                edit = self.edits[index] = Edit(request)
                self.lanes.setdefault(lane.place, (lane, []))[1].append(edit)
        # Only now, when nothing can be raised any more: others may carry out what waits in a lane.
        for lane, edits in self.lanes.values():
            lane.waiting.extend(edits)

    def answers(self) -> list[Reply]:
        """The replies, when all is carried out."""
        for index, edit in self.edits.items():
            self.replies[index] = edit.reply
        return [_INTERRUPTED if reply is None else reply for reply in self.replies]


class _Shared:
    """What the two stores have in common: settings, generators, and the SDK's collections by name."""

    def __init__(self, where: Any, settings: Settings | None) -> None:
        scope = None if where is None or hasattr(where, "default_scope") else where.name
        self.settings = settings or Settings(scope=scope or "_default")
        if scope is not None and {scope} != {self.settings.scope, self.settings.records_at[0]}:
            raise UsageError(f"this is the scope {scope!r}: for documents or records in another one give the bucket")
        self.calls = Calls(self.settings)
        self.documents = Documents(self.settings, self.calls, ServerClock(self.calls, self.settings.shard(0)))
        self.intentions = Intentions(self.settings, self.calls)
        self.where: Any = where
        self._collections: dict[tuple[str, str], Any] = {}
        self.pid = os.getpid()
        self.closed = False

    def plan(self, batch: Sequence[StoreRequest]) -> Plan:
        self.check_usable()
        return Plan(batch, self.documents, self.intentions)

    def connect_to(self, where: Any) -> None:
        """Use this connection from now on."""
        self.where = where
        self._collections.clear()

    def collection(self, place: Place) -> Any:
        """The SDK's collection that a place is in."""
        name = (place.scope, place.collection)
        if name not in self._collections:
            scope = self.where.scope(place.scope) if hasattr(self.where, "default_scope") else self.where
            self._collections[name] = scope.collection(place.collection)
        return self._collections[name]

    def check_usable(self) -> None:
        """Raise UsageError if the store is closed or was opened before a fork."""
        if os.getpid() != self.pid:
            raise UsageError("this store was opened before a fork, which its connections do not survive; open it after")
        if self.closed:
            raise Closed("this store is closed; nothing was asked")


class CouchbaseStore:
    """A sync store in a bucket.

    where: a Bucket, or a Scope, of the SDK's sync API.  settings: where in it (default: its scope, see Settings).
    close: called at the end, by the owner of a connection that nobody else knows.
    """

    def __init__(
        self, where: Any, settings: Settings | None = None, *, close: Callable[[], None] | None = None
    ) -> None:
        self._shared = _Shared(where, settings)
        self._close = close
        self._locks = {lane.place: threading.RLock() for lane in self._shared.intentions.lanes}
        self._threads = Threads(THREADS, "casops-couchbase")

    def perform(self, batch: Sequence[StoreRequest], /) -> list[Reply]:
        """One reply for each request; blocks until all are there, for a few times the timeout at most.

        Raises UsageError if the store is closed or was opened before a fork, AssertionError for a bug of the
        caller.  Where anything else is raised (KeyboardInterrupt), the outcome is unknown.
        """
        plan = self._shared.plan(batch)
        tasks: list[Callable[[], Any]] = [partial(self._run, steps) for _, steps in plan.steps]
        tasks += [partial(self._edit, lane, edits) for lane, edits in plan.lanes.values()]
        results = self._threads.together(tasks)
        for (index, _), result in zip(plan.steps, results, strict=False):
            plan.replies[index] = result
        return plan.answers()

    def close(self) -> None:
        """Wait for calls under way, then let go of the connection if it is this store's own.  May be called twice.

        In a signal handler that interrupts a call nobody is waited for, and the connection stays until the process
        ends: others may wait for that call, which needs it.
        """
        if self._shared.closed or os.getpid() != self._shared.pid:
            return
        self._shared.closed = True
        wait = not interrupted((self,))
        self._threads.close(wait=wait)
        if wait and self._close is not None:
            self._close()

    def _run(self, steps: Generator[Call, Answer | Trouble, T]) -> T:
        came: Any = None
        while True:
            try:
                call = steps.send(came)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]
            try:
                came = answer(call, send(self._shared.collection(call.place), call))
            except Exception as error:  # noqa: BLE001 - whatever the SDK raises has a meaning in one table
                came = judge(error, reading=call.reading)

    def _edit(self, lane: Lane, edits: Sequence[Edit]) -> None:
        """Until these have their replies; whoever has the lock carries out what others wait for, too."""
        with self._locks[lane.place]:
            while any(edit.reply is None for edit in edits):
                taken = lane.take()
                if not taken:  # one who had taken them was interrupted before it began
                    _interrupted(edits)
                    break
                try:
                    self._run(self._shared.intentions.carry_out(lane, taken))
                finally:
                    _interrupted(taken)


class AsyncCouchbaseStore:
    """An async store in a bucket.

    where: a Bucket, or a Scope, of the SDK's async API (acouchbase), which stays its owner's and belongs to one event
    loop; or None.  connect: then connects and gives such a bucket or scope and what closes it.  It is called at the
    first request, where it has failed at the next one, and again in another event loop when that of
    before is closed.  settings: as in CouchbaseStore.
    """

    def __init__(
        self,
        where: Any,
        settings: Settings | None = None,
        *,
        connect: Callable[[], Awaitable[tuple[Any, Callable[[], Awaitable[None]]]]] | None = None,
    ) -> None:
        self._shared = _Shared(where, settings)
        self._connect = connect
        self._attempt: asyncio.Task[tuple[Any, Callable[[], Awaitable[None]]]] | None = None  # to connect
        self._close: Callable[[], Awaitable[None]] | None = None
        self._locks = {lane.place: asyncio.Lock() for lane in self._shared.intentions.lanes}
        self._under_way: set[asyncio.Task[Any]] = set()
        self._closing: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # that the connection belongs to

    async def perform(self, batch: Sequence[StoreRequest], /) -> list[Reply]:
        """As CouchbaseStore.perform.  Cancelling does not stop the writes: their outcome is then unknown."""
        self._shared.check_usable()
        self._adopt_loop()
        return await self._shielded(self._perform(batch))

    async def close(self) -> None:
        """Wait for calls under way, cancelled ones too, then let go of the connection if it is this store's own.

        Goes on where whoever waits for it is cancelled; who calls it again waits for the same.
        """
        if os.getpid() != self._shared.pid:
            return
        self._shared.closed = True
        if self._loop is not asyncio.get_running_loop():
            return  # nothing is under way, and what is connected cannot be reached from here
        if self._closing is None:
            self._closing = own_task(self._let_go(), "casops-couchbase-closing")
        if not self._closing.done():
            await asyncio.shield(self._closing)

    async def _let_go(self) -> None:
        if self._under_way:
            await asyncio.wait(self._under_way)
        if self._close is not None:
            await self._close()

    def _adopt_loop(self) -> None:
        """The SDK's connection is of use in the event loop only that it was made in.  Raises UsageError."""
        loop = asyncio.get_running_loop()
        if self._loop is loop:
            return
        if self._loop is not None:
            if self._connect is None or not self._loop.is_closed():
                raise UsageError("the connection of this store belongs to another event loop: open one for each")
            self._shared.connect_to(None)
            self._attempt = self._close = None
            self._locks = {lane.place: asyncio.Lock() for lane in self._shared.intentions.lanes}
            self._under_way = set()
        self._loop = loop

    async def _shielded(self, work: Coroutine[Any, Any, T]) -> T:
        return await asyncio.shield(self._begun(work))

    def _begun(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = own_task(work, "casops-couchbase")
        self._under_way.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # seen, should nobody wait for it any more

    async def _perform(self, batch: Sequence[StoreRequest]) -> list[Reply]:
        if self._shared.where is None:
            try:
                await self._connected()
            except StoreUnavailable as error:
                checked = [check(request) for request in batch]
                return [Refused(str(error)) if reply is None else reply for reply in checked]
        plan = self._shared.plan(batch)
        calls: list[Coroutine[Any, Any, Any]] = [self._run(steps) for _, steps in plan.steps]
        calls += [self._edit(lane, edits) for lane, edits in plan.lanes.values()]
        results = [await calls[0]] if len(calls) == 1 else await asyncio.gather(*map(self._begun, calls))
        for (index, _), result in zip(plan.steps, results, strict=False):
            plan.replies[index] = result
        return plan.answers()

    async def _connected(self) -> None:
        """All who wait share one attempt, and what it comes to."""
        attempt = self._attempt
        if attempt is None or (attempt.done() and (attempt.cancelled() or attempt.exception() is not None)):
            self._attempt = attempt = self._begun(self._connecting())
        where, self._close = await asyncio.shield(attempt)
        if self._shared.where is None:
            self._shared.connect_to(where)

    async def _connecting(self) -> tuple[Any, Callable[[], Awaitable[None]]]:
        assert self._connect is not None
        return await self._connect()

    async def _run(self, steps: Generator[Call, Answer | Trouble, T]) -> T:
        came: Any = None
        while True:
            try:
                call = steps.send(came)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]
            try:
                came = answer(call, await send(self._shared.collection(call.place), call))
            except Exception as error:  # noqa: BLE001 - whatever the SDK raises has a meaning in one table
                came = judge(error, reading=call.reading)

    async def _edit(self, lane: Lane, edits: Sequence[Edit]) -> None:
        async with self._locks[lane.place]:
            while any(edit.reply is None for edit in edits):
                taken = lane.take()
                if not taken:  # one who had taken them was interrupted before it began
                    _interrupted(edits)
                    break
                try:
                    await self._run(self._shared.intentions.carry_out(lane, taken))
                finally:
                    _interrupted(taken)


def _interrupted(edits: Sequence[Edit]) -> None:
    """Who waits for an edit that was taken and not ended is told so."""
    for edit in edits:
        if edit.reply is None:
            edit.reply = _INTERRUPTED
