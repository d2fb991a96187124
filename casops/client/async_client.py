"""`AsyncClient`: ask servers for operations, from asyncio code.  For threads: `Client` (client.py).

It drives the generators of asking.py, probing.py and looking.py: puts their messages on their way, wakes them when
something has happened that concerns them, and tells the application what the desk has to tell.

A cancelled call is a caller that went away: what it sent is left running, and asking again with the same id tells
what became of it.

Must not be in here: what is sent to whom, and what a reply means.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
import uuid
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import httpx

from casops.client.aging import check_age, has_to_be_young
from casops.client.asking import Asking
from casops.client.desk import Desk
from casops.client.http import Connect, Replied, connect_plainly, exchange
from casops.client.looking import Question, looking
from casops.client.messages import Concern, Message, Send, Steps
from casops.client.notices import Counters, Notice
from casops.client.options import ClientOptions
from casops.client.pending import Asked, Entry
from casops.client.pending_list import PendingList
from casops.client.probing import Health, probing
from casops.client.recovering import TOGETHER, Left, Recovered, check_heard, operation_of
from casops.client.servers import Server
from casops.client.telling import log, tell
from casops.client.translating import asked_of, check_urls, looked_up, outcome_of
from casops.errors import (
    CasOpsError,
    Closed,
    InvariantViolation,
    OutcomeUnknown,
    StoreUnavailable,
    UsageError,
    not_asked,
)
from casops.ids import check_id
from casops.operations import Operation, know
from casops.outcome import Outcome, Pending
from casops.tasks import own_task
from casops.wire import path_of

R = TypeVar("R")
T = TypeVar("T")

# Seconds between looks for a server that tells its retention, which nothing else repeats: a connection that broke, or
# a server that starts, should not put off what is pending to the next `recover`.
LOOKS = (0.05, 0.2, 1.0, 1.0)


class AsyncClient:
    """Operations of casops over the network, for one event loop of one process.

    `servers`: base URLs (`https://bank.example/api`).  `pending`: a file for the pending list, so that it outlives this
    process.  `on_notice`: called with every Notice, in the event loop, so it must not block.  `operations`: classes
    that `recover` and `outcome` shall know, beside those that were run here.  `connect`: makes the httpx client of a
    server (for TLS, authentication …); it must neither retry nor follow redirects.
    """

    def __init__(
        self,
        servers: Iterable[str],
        *,
        options: ClientOptions | None = None,
        operations: Iterable[type[Operation[Any]]] = (),
        pending: str | os.PathLike[str] | None = None,
        on_notice: Callable[[Notice], None] | None = None,
        connect: Connect | None = None,
    ) -> None:
        self._options = options or ClientOptions()
        self._desk = Desk(check_urls(servers), self._options, uuid.uuid4().hex)
        self._connect = connect or connect_plainly(self._options)
        self._connections: dict[Server, httpx.AsyncClient] = {}
        self._on_notice = on_notice
        self._operations: dict[str, type[Operation[Any]]] = {}
        for each in operations:
            know(self._operations, each)
        self._tasks: set[asyncio.Task[None]] = set()
        self._probed: set[Server] = set()
        self._closed = False
        self._closing: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wakes: set[Callable[[], None]] = set()
        self._process = os.getpid()
        self._list = PendingList(pending)
        for asked in self._list.waiting():
            self._desk.table.restore(asked)

    # --- what callers ask for ---------------------------------------------------------------

    async def run(self, operation: Operation[R], *, operation_id: str) -> R:
        """Make the operation happen exactly once under this id and return its result.

        Raises Declined or Cancelled if it ended so, and what `execute` raises.
        """
        return (await self.execute(operation, operation_id=operation_id)).result

    async def execute(self, operation: Operation[R], *, operation_id: str) -> Outcome[R]:
        """Like `run`, but tells more, and a refusal is an outcome like any other.

        Raises what CasOps.execute raises, OutcomeUnknown if no server answered in time, and BusinessError where a
        local call would raise the exception of `apply` itself.  The outcome has no history (`outcome` tells it).
        """
        return await self._execute(operation, operation_id)

    async def _execute(self, operation: Operation[R], operation_id: str, held: list[str] | None = None) -> Outcome[R]:
        """`held`: takes the ids of what is settled, which stays on the pending list until it is handed over."""
        self._check_usable(operation_id)
        began = time.monotonic()
        work, asked = asked_of(operation, operation_id, time.time())
        know(self._operations, type(operation))
        if operation_id in self._desk.acknowledgements:
            told = "this id was acknowledged, so its result may be forgotten; an id is never used again"
            raise not_asked(UsageError(told, operation_id=operation_id))
        entry = self._desk.table.enter(asked, f"/operations/{path_of(type(operation))}")
        settled = noted = False
        final: CasOpsError | None = None
        try:
            await self._check_age(entry, asked.at, began)
            await self._list.asks(entry.asked, began + self._options.deadline - time.monotonic())
            noted = True
            await self._drive(entry, Asking(self._desk, entry, began).run())
            assert entry.answer is not None
            answer = replace(entry.answer, replayed=entry.answer.replayed or entry.taken)
            outcome = outcome_of(asked, answer, work.adapter)
            settled = entry.taken = True
            return outcome
        except CasOpsError as error:
            # What cannot be right stays on the list, and what is too old to be asked for: somebody has to look at it.
            settled = noted and not error.retry and not isinstance(error, InvariantViolation)
            final = error if settled and error.happened is False else None
            settled = settled or (not noted and entry.sent == 0)  # nothing is known of it anywhere
            error.operation_id = operation_id
            raise
        finally:
            if settled and held is not None:
                held.append(operation_id)
            if self._desk.leave(entry, delivered=settled and held is None):
                self._list.ends(operation_id)
                if final is not None:
                    await self._make_sure(final, began)

    async def _make_sure(self, final: CasOpsError, began: float) -> None:
        """Nobody is told for good that nothing happened while the list, and so the next life, would ask once more."""
        if not await self._list.is_true(began + self._options.deadline - time.monotonic()):
            final.happened, final.retry = None, True
            final.add_note("casops: the disk under the pending list does not say yet that this has ended")

    async def hold(self, operation: Operation[R], operation_id: str, held: list[str]) -> Outcome[R]:
        """Like `execute`, but what is answered stays on the pending list until `hand_over(held)`.

        For a caller that may be interrupted between the answer and its return (client.py).
        """
        began = time.monotonic()
        try:
            return await self._execute(operation, operation_id, held)
        except CasOpsError as error:
            if self.hand_over(held) and error.happened is False:
                await self._make_sure(error, began)
            raise

    def hand_over(self, held: list[str]) -> bool:
        """Take off the pending list what the application has by now.  Whether there is anything of it."""
        settled = [each for each in held if self._desk.hand_over(each)]
        for operation_id in settled:
            self._list.ends(operation_id)
        return settled != []

    async def outcome(self, operation_id: str) -> Outcome[Any] | Pending | None:
        """Did it happen?  None: nothing is known of it (see CasOps.outcome).  Changes nothing.

        Raises StoreUnavailable if no server tells.  A result keeps its JSON form unless its operation is known here.
        """
        self._check_usable(operation_id)
        question = Question(check_id(operation_id))
        seen = await self._drive(question, looking(self._desk, question, time.monotonic()))
        return None if seen.found is None else looked_up(seen.found, self._operations)

    async def recover(self) -> Recovered:
        """Ask again for everything that is pending: what this client, or its earlier life, got no answer for.

        What is answered stays on the list until this returns: if it is cancelled, the next one tells the same.  What is
        so old that the servers may have forgotten it is left with Expired, and stays on the list until it is forgotten.
        It goes on for as long as servers answer: after one deadline (ClientOptions) without any answer all that has not
        been asked for is left with OutcomeUnknown.  Raises Closed; UsageError after a fork or in another event loop.
        """
        held: list[str] = []
        recovered = await self.recover_and_hold(held)
        self.hand_over(held)
        return recovered

    async def recover_and_hold(self, held: list[str]) -> Recovered:
        """Like `recover`, but what is settled stays on the pending list until `hand_over(held)`."""
        self._check_usable()
        gate = asyncio.Semaphore(TOGETHER)
        began = time.monotonic()

        async def one(asked: Asked) -> Outcome[Any] | Left:
            async with gate:
                try:
                    silence = time.monotonic() - max(began, self._desk.heard)
                    check_heard(asked, silence, self._options.deadline)
                    return await self._execute(operation_of(asked, self._operations), asked.operation_id, held)
                except CasOpsError as error:
                    return Left(asked, error)

        ended = await asyncio.gather(*(one(each) for each in self.pending()))
        return Recovered(
            tuple(each for each in ended if isinstance(each, Outcome)),
            tuple(each for each in ended if isinstance(each, Left)),
        )

    def pending(self) -> list[Asked]:
        """What was asked for and not answered, that of an earlier life included."""
        return self._desk.table.waiting()

    def acknowledge(self, operation_id: str) -> None:
        """The application has put the answer away and will never ask with this id again; servers may forget it.

        Only after it is certain that nobody asks again: once forgotten, the same id would run a second time.
        """
        self._check_open(operation_id)
        self._desk.renounce(check_id(operation_id))
        self._list.ends(operation_id, then=partial(self._desk.acknowledge, operation_id))

    def forget(self, operation_id: str) -> None:
        """Take an operation off the pending list without an answer.  It may have happened, or happen yet."""
        self._check_open(operation_id)
        self._desk.forget(check_id(operation_id))
        self._list.ends(operation_id)

    @property
    def counters(self) -> Counters:
        return self._desk.counters

    def servers(self) -> dict[str, str]:
        """How each server is doing: up, slow or suspect."""
        return {each.url: each.state for each in self._desk.servers.all}

    async def aclose(self) -> None:
        """Let go of what is still under way; the pending list keeps it.  Whoever waits for this may be cancelled."""
        if self._process != os.getpid():  # the connections are the parent's
            return
        if self._closing is None:
            self._closed = True
            self._closing = own_task(self._let_go(), "casops-client-closing")
        if not self._closing.done():
            await asyncio.shield(self._closing)

    async def _let_go(self) -> None:
        try:
            for wake in self._wakes:
                wake()
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for http in self._connections.values():
                await http.aclose()
        finally:  # in another event loop than that of the calls all this may fail
            await self._list.close(self._options.deadline)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _check_age(self, entry: Entry, wall: float, began: float) -> None:
        """See aging.py.  A server that is asked anything tells its retention."""
        if has_to_be_young(entry):
            if entry.earlier and self._desk.retention is None:
                await self._hear_retention(entry.asked.operation_id, began)
            check_age(entry, wall, self._desk.retention)

    async def _hear_retention(self, operation_id: str, began: float) -> None:
        """Whatever a server tells of the operation, that is asked for in a moment.  Raises OutcomeUnknown."""
        trouble: StoreUnavailable | None = None
        for pause in (0.0, *LOOKS):
            if trouble is not None and time.monotonic() + pause >= began + self._options.deadline:
                break
            await asyncio.sleep(pause)
            question = Question(operation_id)
            try:
                await self._drive(question, looking(self._desk, question, began))
            except StoreUnavailable as error:
                if self._desk.retention is not None:
                    return
                trouble = error
            except Closed:
                raise
            except CasOpsError:
                return
            else:
                return  # whether it has told it or not
        assert trouble is not None
        raise OutcomeUnknown(f"{trouble.message}; ask again later with the same id", operation_id=operation_id)

    # --- driving ----------------------------------------------------------------------------

    async def _drive(self, concern: Concern, steps: Steps[T]) -> T:
        """Run a generator of this package to its end."""
        wake = asyncio.Event()
        concern.listeners.append(wake.set)
        self._wakes.add(wake.set)
        now: Any = None  # a generator that has not begun takes nothing else
        try:
            while True:
                # Only this may raise StopIteration: what the request does stays outside of the `try`.
                try:
                    request = steps.send(now)
                except StopIteration as stop:
                    return cast(T, stop.value)
                self._tell()
                if self._closed:
                    raise OutcomeUnknown("the client was closed during the call; ask again later with the same id")
                if isinstance(request, Send):
                    self._post(request.message)
                else:
                    await _until(wake, request.until + random.random() * request.spread)
                    wake.clear()
                now = time.monotonic()
        finally:
            steps.close()
            self._wakes.discard(wake.set)
            concern.listeners.remove(wake.set)
            self._tell()

    def _post(self, message: Message) -> None:
        self._desk.sending(message, time.monotonic())

        def ended() -> None:
            if message.fate is None:  # it was cancelled before it began
                self._desk.lost(message, "it was given up", sent=False, now=time.monotonic())

        self._start(self._carry(message), ended)

    async def _carry(self, message: Message) -> None:
        """Carry one message; it outlives the call that sent it."""
        sent = False
        try:
            http = self._connections.get(message.server)
            if http is None:
                http = self._connections[message.server] = self._connect(message.server.address)
            sent = True
            reply = await exchange(http, message, self._options)
        except BaseException as error:  # closing, or a fault of `connect`
            self._desk.lost(message, type(error).__name__, sent=sent, now=time.monotonic())
            raise
        now = time.monotonic()
        if isinstance(reply, Replied):
            self._desk.replied(message, reply.status, reply.headers, reply.body, now)
        else:
            self._desk.lost(message, reply.why, sent=reply.sent, now=now)
        self._tell()

    async def _probe(self, server: Server) -> None:
        health = Health()
        await self._drive(health, probing(self._desk, server, health, time.monotonic()))

    def _start(self, work: Coroutine[Any, Any, None], ended: Callable[[], None]) -> None:
        """`ended`: called when it has ended in any way, also if it was cancelled before it began."""
        task = own_task(work, "casops-client-message")
        self._tasks.add(task)
        task.add_done_callback(partial(self._ended, ended))

    def _ended(self, ended: Callable[[], None], task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        ended()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a message could not be carried", exc_info=error)

    # --- telling ----------------------------------------------------------------------------

    def _tell(self) -> None:
        """Log what the desk has to tell, call the application, look after suspect servers."""
        for notice in self._desk.take_notices():
            tell(notice, self._on_notice)
        for server in self._desk.servers.all:
            if server.state == "suspect" and server not in self._probed and not self._closed:
                self._probed.add(server)
                self._start(self._probe(server), partial(self._probed.discard, server))

    # --- small things -----------------------------------------------------------------------

    def _check_open(self, operation_id: str | None) -> None:
        if self._process != os.getpid():
            told = "this client was opened before a fork: its connections are the parent's. Open one in each process"
            raise not_asked(UsageError(told, operation_id=operation_id))
        if self._closed:
            raise Closed("this client is closed; nothing was asked", operation_id=operation_id)

    def _check_usable(self, operation_id: str | None = None) -> None:
        self._check_open(operation_id)
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            told = "this client belongs to another event loop, and so do its connections"
            raise not_asked(UsageError(told, operation_id=operation_id))


async def _until(wake: asyncio.Event, until: float) -> None:
    """Wait for a wake-up, or for that moment of time.monotonic()."""
    with suppress(TimeoutError):
        async with asyncio.timeout(max(0.0, until - time.monotonic())):
            await wake.wait()
