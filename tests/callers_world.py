"""A small world of processes on one file, whose every step is chosen: by a seed, or one after the other all there are.

The explorer and the simulator (casops.testing) drive the protocol's generators request by request.  Here whole fronts
are driven (`AsyncCasOps`), and so what lies between them and a file: callers who go together (casops.callers,
casops.combining), writes in conversations, and asking again after a transaction that failed (casops.conversations).

Nothing happens by itself: an event loop of ours has a clock that stands still, and whenever nobody can go on, one step
is chosen.  A step is one of these:

    a request that somebody has sent is carried out, whoever sent it first, or fails in any way that a store may fail
    a transaction that nobody was told of comes to light, unless something was written since
    a call, or the task that leads others, is cancelled; what it had sent may still be carried out
    a process dies, and what it had sent with it, before or after it was carried out
    time passes until somebody stops waiting

What is checked: every single write (casops.testing.checkers), all that callers are told, at the end that a fresh
process finishes everything, and that answers and documents have a serial order.  An attempt carries the name of the
call that made it, so that a call which was told "not by this call" can be held to its word for ever.

Must not be in here: tests, rules of the protocol; wall clocks, real files, threads.
"""

from __future__ import annotations

import asyncio
import logging
import random
import selectors
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, Protocol, TypeAlias
from unittest.mock import patch

from casops import (
    AsyncCasOps,
    CasOps,
    CasOpsError,
    Documents,
    Operation,
    Options,
    OutcomeUnknown,
    Ref,
    StoreUnavailable,
)
from casops.callers import Callers
from casops.documents import dump
from casops.messages import (
    INTENTIONS,
    RESULTS,
    AtOnce,
    Batch,
    Clock,
    Insert,
    Key,
    Read,
    ReadClock,
    Refused,
    Reply,
    Request,
    Scan,
    Steps,
    Stored,
    StoreRequest,
    Unknown,
    Version,
)
from casops.protocol.environment import Environment
from casops.stores import TalkTo
from casops.stores.memory import MemoryStore
from casops.testing.checkers import Heard, Model, Violation, Watcher, check_put_away, check_serial
from casops.testing.programs import OPERATIONS, Purse, answer_of, error_of, model_of, purses_in
from casops.testing.telling import tell_reply, tell_request
from tests import fibers

WALL: Final = 1_800_000_000.0

# Steps of one world, of which the usual one takes a hundred; more means that somebody goes round in circles.
MAX_STEPS: Final = 4_000

TICK: Final = 1e-6  # seconds of a step, lest somebody wait again and again for less than the clock can tell

REFUSED: Final = Refused("the file is busy")
UNKNOWN: Final = Unknown("the disk is in trouble")

# Which call it is that asks for an id: it goes with the context, into whatever task or transaction.
_CALL: ContextVar[str] = ContextVar("call")


class Follow(Operation[int], name="Follow"):
    """Puts a coin into a purse that only the first one tells, so that it is not declared.  In a thread it is slow."""

    purse: Ref[Purse]
    others: int

    def apply(self, documents: Documents) -> int:
        _CALL.get()  # it runs in the context of its caller
        fibers.take(6.0)
        first = documents.get(self.purse)
        ref = Purse.ref(f"p{(first.coins if first else 0) % self.others}")
        other = documents.get(ref)
        if other is None:
            other = documents.create(ref, Purse(coins=0))
        other.coins += 1
        return other.coins


class Odd(Operation[int], name="Odd"):
    """Raises at an odd number of coins."""

    purse: Ref[Purse]

    def apply(self, documents: Documents) -> int:
        purse = documents[self.purse]
        purse.coins += 2
        if purse.coins % 2:
            raise ZeroDivisionError("a bug")
        return purse.coins


def model(operation: Operation[Any]) -> Model:
    """As casops.testing.programs.model_of, for these operations, too."""
    if isinstance(operation, Follow):
        return partial(_follow, operation)
    return partial(_odd, operation) if isinstance(operation, Odd) else model_of(operation)


def _follow(operation: Follow, purses: dict[str, Any]) -> Any:
    name = f"p{(purses.get(operation.purse.id) or 0) % operation.others}"
    purses[name] = (purses.get(name) or 0) + 1
    return ["applied", purses[name]]


def _odd(operation: Odd, purses: dict[str, Any]) -> Any:
    coins = purses.get(operation.purse.id)
    if coins is None or coins % 2:
        return ["error"]
    purses[operation.purse.id] = coins + 2
    return ["applied", coins + 2]


# --- what is to happen --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Actor:
    """A process.  `callers`: the ids that each of its callers asks for, one after the other.

    log: it takes the stream log, batch by batch, as if its store could do no more.  dies_after: so many single requests
    of it are carried out before anybody else begins, then it dies.  threads: its callers are threads (tests/fibers.py).
    """

    callers: Sequence[Sequence[str]] = ()
    log: bool = False
    sweeps: int = 0
    cancels: Sequence[str] = ()
    dies_after: int | None = None
    threads: bool = False


@dataclass(frozen=True)
class Plan:
    """Documents, operations, processes, and how much may go wrong."""

    purses: Mapping[str, int]
    operations: Mapping[str, Operation[Any]]
    actors: Sequence[Actor]
    options: Options
    faults: int = 0  # of the store
    losses: int = 0  # calls cancelled, processes dead
    switches: int = 10**6  # how often whoever came first is passed over
    leaps: int = 0  # of time, while somebody could go on
    parts: int = 0  # requests of a batch that are carried out before its others
    tries: int = 2  # of a caller who has no certain answer
    begin_apart: bool = False
    most: int = 50  # callers that go together
    batches: int = 64  # in a conversation
    few: int = 4  # documents that are read with R(i)
    stands_still: float = 0.05  # seconds that callers wait for those who lead


class Chooser(Protocol):
    def choose(self, weights: Sequence[float]) -> int: ...


class Seeded:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def choose(self, weights: Sequence[float]) -> int:
        return self.random.choices(range(len(weights)), weights)[0]


class Scripted:
    """Choices that are prescribed, then the first of each."""

    def __init__(self, script: Sequence[int]) -> None:
        self._script = script
        self.made: list[tuple[int, int]] = []  # what was chosen, of how many

    def choose(self, weights: Sequence[float]) -> int:
        at = len(self.made)
        chosen = self._script[at] if at < len(self._script) else 0
        self.made.append((chosen, len(weights)))
        return chosen

    def next(self) -> list[int] | None:
        """The script that comes after this one.  None: this was the last."""
        made = list(self.made)
        while made:
            chosen, of = made.pop()
            if chosen + 1 < of:
                return [*(each for each, _ in made), chosen + 1]
        return None


# --- the world ----------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Asked:
    """Something that was sent to the store, or (nothing) a caller that is about to begin."""

    process: Process
    wish: tuple[Any, ...]  # a batch, or conversations
    talks: bool
    future: asyncio.Future[Any]
    replies: list[Reply] = field(default_factory=list)  # to what was carried out before the rest of a batch

    @property
    def writes(self) -> bool:
        return self.talks or not all(isinstance(each, Read | Scan) for each in self.wish)


@dataclass(eq=False)
class Transaction:
    """What it would leave, and what it wrote, write by write."""

    after: MemoryStore
    wrote: list[tuple[StoreRequest, dict[Key, Version | None]]] = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)


class Process:
    """One process with its front."""

    def __init__(self, world: World, name: str, actor: Actor, options: Options) -> None:
        self.name = name
        self.actor = actor
        self.dead = False
        self.calls: dict[asyncio.Task[Any], str] = {}
        self._threads: list[asyncio.Task[None]] = []
        more: Any = {"operations": (*OPERATIONS, Follow, Odd), "worker": name}
        if actor.threads:  # whose settlers are none
            self._sync = CasOps(ThreadsStore(world, self), options=replace(options, settle_queue=0), **more)
        else:
            store = LogStore(world, self) if actor.log else FileStore(world, self)
            self._async = AsyncCasOps(store, options=options, **more)

    async def call(self, what: str, *arguments: Any, **named: Any) -> Any:
        """Of its front."""
        if self.actor.threads:
            return await fibers.run(partial(getattr(self._sync, what), *arguments, **named), lambda: not self.dead)
        return await getattr(self._async, what)(*arguments, **named)

    def leads_for(self, callers: Callers) -> bool:
        return self.actor.threads and self._sync._callers is callers

    def start(self, do: Callable[[], None]) -> None:
        """A thread that leads others."""
        self._threads.append(asyncio.create_task(fibers.run(do, lambda: not self.dead)))

    def leaders(self) -> list[asyncio.Task[None]]:
        """Tasks that can be cancelled: nobody interrupts a thread but the main one."""
        if self.actor.threads or self._async._callers is None:
            return []
        return [each for each in self._async._callers._tasks if not each.done()]

    def tasks(self) -> list[asyncio.Task[Any]]:
        settlers = [] if self.actor.threads else self._async._settler._tasks
        return [*self.calls, *self.leaders(), *self._threads, *settlers]


class LogStore:
    """The file as a store that can do no more than batches."""

    def __init__(self, world: World, process: Process) -> None:
        self._world = world
        self._process = process

    async def perform(self, batch: Sequence[StoreRequest], /) -> list[Reply]:
        replies: list[Reply] = await self._world.ask(self._process, tuple(batch), talks=False)
        return replies

    async def close(self) -> None:
        pass


class FileStore(LogStore):
    """The file as it is."""

    async def converse(self, conversations: Sequence[TalkTo], /) -> list[Refused | Unknown | None]:
        told: list[Refused | Unknown | None] = await self._world.ask(self._process, tuple(conversations), talks=True)
        return told

    def check_usable(self) -> None:
        pass


class ThreadsStore:
    """The file as threads see it."""

    def __init__(self, world: World, process: Process) -> None:
        self._world = world
        self._process = process

    def perform(self, batch: Sequence[StoreRequest], /) -> list[Reply]:
        replies: list[Reply] = self._wait(tuple(batch), talks=False)
        return replies

    def converse(self, conversations: Sequence[TalkTo], /) -> list[Refused | Unknown | None]:
        told: list[Refused | Unknown | None] = self._wait(tuple(conversations), talks=True)
        return told

    def _wait(self, wish: tuple[Any, ...], *, talks: bool) -> Any:
        return fibers.wait_for(lambda: self._world.ask(self._process, wish, talks=talks))

    def check_usable(self) -> None:
        pass

    def close(self) -> None:
        pass


Step: TypeAlias = tuple[float, str, Callable[[], None]]


class World:
    """One plan, with choices."""

    def __init__(self, plan: Plan, chooser: Chooser) -> None:
        self.plan = plan
        self.trace: list[str] = []
        self.steps = 0
        self.told: list[str] = []  # kinds of answers, for those who want to know whether anything went wrong
        self._chooser = chooser
        self._loop = _Loop(self._step)
        self._loop.set_exception_handler(self._complain)
        self._complaints: list[BaseException] = []
        self._log = logging.Logger("callers", logging.DEBUG)
        self._log.addHandler(_Listener(self._leader_failed))
        self._store = MemoryStore(clock=lambda: WALL + self._loop.time())
        for name, coins in plan.purses.items():
            self._store.perform_one(Insert(key := Purse.ref(name).key, dump(key, Purse(coins=coins))))
        self._watcher = Watcher(self._store.versions())
        self._written = 0
        self._late: tuple[int, Transaction] | None = None  # nobody knows of it, and it may come to light
        self._pending: list[Asked] = []
        self._processes: list[Process] = []
        self._faults, self._losses, self._leaps = plan.faults, plan.losses, plan.leaps
        self._switches, self._parts = plan.switches, plan.parts
        self._moment = self._ids = self._calls = 0
        self._asked: dict[str, int] = {}
        self._answered: dict[str, tuple[int, Any]] = {}
        self._at_work: dict[str, str] = {}  # calls that have not ended, or were cancelled and may be carried out yet
        self._not_by: set[str] = set()  # calls that were told that it did not happen, or not by them
        self._denied: set[str] = set()  # operations that nobody is at, and of which the last was told so
        self._looked: dict[tuple[str, str], bool] = {}  # had this operation ended when this process looked last?

    def run(self) -> None:
        """To its end.  Raises Violation."""
        with self._patched():
            try:
                asyncio.set_event_loop(self._loop)
                self._loop.run_until_complete(self._all())
            finally:
                self._end()

    # --- processes ----------------------------------------------------------------------------------------

    async def _all(self) -> None:
        plan = self.plan
        for number, actor in enumerate(plan.actors):
            process = self._process(f"w{number}", actor)
            if actor.dies_after is not None:
                await self._die_first(process, actor.dies_after)
        alive = [each for each in self._processes if not each.dead]
        await self._together([program for each in alive for program in self._programs(each)])
        self._faults = self._losses = self._leaps = 0
        fresh = self._process("fresh", Actor(log=bool(self._chooser.choose((1, 1))) if plan.begin_apart else False))
        await self._together([self._finish_everything(fresh)])
        self._check_end()

    def _process(self, name: str, actor: Actor) -> Process:
        process = Process(self, name, actor, self.plan.options)
        self._processes.append(process)
        return process

    def _programs(self, process: Process) -> list[Any]:
        actor = process.actor
        programs: list[Any] = [self._caller(process, ids) for ids in actor.callers]
        programs += [self._canceller(process, each) for each in actor.cancels]
        return [*programs, self._sweeper(process)] if actor.sweeps else programs

    async def _together(self, programs: Sequence[Any]) -> None:
        tasks = [asyncio.create_task(each) for each in programs]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _die_first(self, process: Process, requests: int) -> None:
        """A process that is alone, until it dies."""
        programs = [asyncio.create_task(each) for each in self._programs(process)]
        for _ in range(requests):
            for _ in range(20):  # turns of the loop, which is more than it takes to send the next
                await asyncio.sleep(0)
            for asked in self._pending[:1]:
                self._carry_out(asked, "in part" if len(asked.wish) > 1 else "done")
        self._kill(process, "not done")
        await asyncio.wait(programs)

    async def _caller(self, process: Process, ids: Sequence[str]) -> None:
        for operation_id in ids:
            for _ in range(self.plan.tries):
                if self.plan.begin_apart:
                    await self.ask(process, (), talks=False)
                certain = process.dead or await self._ask(process, operation_id)
                if certain:
                    break

    async def _ask(self, process: Process, operation_id: str) -> bool:
        """False: it makes sense to ask again."""
        operation = self.plan.operations[operation_id]
        ask = partial(process.call, "execute", operation, operation_id=operation_id)
        return await self._call(process, operation_id, ask)

    async def _canceller(self, process: Process, operation_id: str) -> None:
        if self.plan.begin_apart:
            await self.ask(process, (), talks=False)
        await self._call(process, operation_id, partial(process.call, "cancel", operation_id))

    async def _sweeper(self, process: Process) -> None:
        for _ in range(process.actor.sweeps):
            if self.plan.begin_apart:
                await self.ask(process, (), talks=False)
            if process.dead:
                return
            self._calls += 1
            _CALL.set(f"sweep{self._calls}")
            for each in self.plan.operations:
                self._at_work[f"sweep{self._calls} {each}"] = each
            task = asyncio.create_task(process.call("recover"))
            process.calls[task] = "sweep"
            await asyncio.wait([task])
            if not task.cancelled() and (error := task.exception()) is not None and not _is_trouble(error):
                raise Violation(f"a sweep ended with {error!r}") from error
            if not task.cancelled():
                for each in self.plan.operations:
                    self._at_work.pop(f"sweep{self._calls} {each}", None)

    async def _call(self, process: Process, operation_id: str, ask: Callable[[], Any]) -> bool:
        self._calls += 1
        call = f"{process.name}c{self._calls}"
        _CALL.set(call)
        self._moment += 1
        self._asked.setdefault(operation_id, self._moment)
        self._denied.discard(operation_id)
        self._at_work[call] = operation_id
        self._note(f"{process.name} asks for {operation_id} ({call})")
        task = asyncio.create_task(ask())
        process.calls[task] = call
        await asyncio.wait([task])
        del process.calls[task]
        if task.cancelled():
            self._note(f"{call} was cancelled")
            return process.dead
        error = task.exception()
        if error is None:
            self._hear(call, operation_id, answer_of(task.result()))
            return True
        return self._hear_error(process, call, operation_id, error)

    def _start(self, callers: Callers, do: Callable[[], None]) -> None:
        for process in self._processes:
            if process.leads_for(callers):
                process.start(do)

    # --- what callers hear --------------------------------------------------------------------------------

    def _hear(self, call: str, operation_id: str, answer: Any) -> None:
        self._note(f"{call} hears {operation_id}: {answer}")
        self.told.append(answer[0])
        del self._at_work[call]
        self._moment += 1
        _, known = self._answered.setdefault(operation_id, (self._moment, answer))
        if known != answer:
            raise Violation(f"{operation_id} was answered {known} and then {answer}")
        ended = self._watcher.ended.get(operation_id)
        if ended is None or ended.answer != answer:
            raise Violation(f"{operation_id} was answered {answer}, but what is durable is {ended}")

    def _hear_error(self, process: Process, call: str, operation_id: str, error: BaseException) -> bool:
        told = error_of(error) if isinstance(error, CasOpsError) else ["error", type(error).__name__, "pending"]
        self._note(f"{call} hears {operation_id}: {told} {error}")
        self.told.append(told[1])
        if isinstance(error, OutcomeUnknown | OSError):
            if "hangs" not in str(error):  # else it is in somebody's hands still
                self._at_work.pop(call, None)
            return False
        del self._at_work[call]
        if told[1] not in ("StoreUnavailable", "Contended", "DocumentExists", "DocumentMissing", "ZeroDivisionError"):
            raise Violation(f"{operation_id} was answered with {error!r}") from error
        self._not_by.add(call)
        alone = operation_id not in self._at_work.values()
        if told[1] == "StoreUnavailable" and ("changed nothing" in str(error) or "nothing was changed" in str(error)):
            self._check_nothing_declared(process, call, operation_id)
        if told[2] == "did not happen" and alone:
            if self._looked.get((process.name, operation_id)):
                raise Violation(f"{operation_id} had happened when {call} looked, which was told {told}")
            if self._late is None and not any(each.future.done() for each in self._pending):
                self._denied.add(operation_id)
        self._check_word()
        return told[1] not in ("StoreUnavailable", "Contended")

    def _check_nothing_declared(self, process: Process, call: str, operation_id: str) -> None:
        version = self._store.version(Key(INTENTIONS, operation_id))
        if version is not None and f'"{call}-' in (version.body or ""):
            raise Violation(f"{call} was told that it changed nothing, but it has declared {operation_id}")

    def _check_word(self) -> None:
        for operation_id, ended in self._watcher.ended.items():
            if ended.answer[0] == "applied" and ended.attempt.partition("-")[0] in self._not_by:
                raise Violation(f"{operation_id} was told not to have happened by this call, but: {ended}")
            if ended.answer[0] == "applied" and operation_id in self._denied:
                raise Violation(f"{operation_id} was told not to have happened, nobody asked again, but: {ended}")

    # --- the file -----------------------------------------------------------------------------------------

    async def ask(self, process: Process, wish: Any, *, talks: bool) -> Any:
        asked = Asked(process, wish, talks, self._loop.create_future())
        if not process.dead:
            self._pending.append(asked)
        elif not wish:
            return None
        return await asked.future

    def _carry_out(self, asked: Asked, fate: str) -> None:
        self._note(f"{asked.process.name}: {self._tell(asked)} {fate}")
        if fate == "in part":
            asked.replies += self._perform(asked.process, asked.wish[:1], "done")
            asked.wish = asked.wish[1:]
            return
        self._pending.remove(asked)
        if asked.talks:
            parts = {fate: asked.wish}
            if fate.startswith("split"):
                at = self._chooser.choose([1.0] * (len(asked.wish) - 1)) + 1
                first, second = fate.removeprefix("split ").split(", ")
                parts = {first: asked.wish[:at], second: asked.wish[at:]}
            told: list[Any] = []
            for how, part in parts.items():
                told += [self._converse(part, how)] * len(part)
        else:
            told = asked.replies + self._perform(asked.process, asked.wish, fate)
        if asked.future.done():
            return
        if fate.startswith("raised"):
            asked.future.set_exception(OSError("something broke"))
        else:
            asked.future.set_result(told)

    def _converse(self, talks: Sequence[Any], fate: str) -> Refused | Unknown | None:
        if fate in ("refused", "unknown, not begun", "raised, not begun"):
            return UNKNOWN if fate.startswith("unknown") else REFUSED
        transaction = Transaction(self._store.copy())
        for talk in talks:
            talk(partial(self._within, transaction))
        return self._decide(transaction, fate)

    def _perform(self, process: Process, batch: Batch, fate: str) -> list[Reply]:
        if not batch:
            return []
        transaction = Transaction(self._store.copy())
        if fate not in ("refused", "unknown, not begun", "raised, not begun"):
            self._within(transaction, batch)
            failed = self._decide(transaction, fate)
        else:
            failed = UNKNOWN if fate.startswith("unknown") else REFUSED
        for request in batch:
            if not isinstance(request, Scan) and request.key.collection == RESULTS:
                ended = self._watcher.ended.get(request.key.id)
                self._looked[process.name, request.key.id] = ended is not None and ended.answer[0] == "applied"
        return transaction.replies if failed is None else [failed] * len(batch)

    def _within(self, transaction: Transaction, batch: Sequence[StoreRequest]) -> list[Reply]:
        replies: list[Reply] = []
        for request in batch:
            reply = transaction.after.perform_one(request)
            replies.append(reply)
            if isinstance(reply, Stored):
                keys = [each.key for each in request.writes] if isinstance(request, AtOnce) else [request.key]  # type: ignore[union-attr]
                transaction.wrote.append((request, {key: transaction.after.version(key) for key in keys}))
            self._note(f"      {tell_request(request)}   {tell_reply(reply)}")
        transaction.replies += replies
        return replies

    def _decide(self, transaction: Transaction, fate: str) -> Refused | Unknown | None:
        if fate in ("done", "unknown, done", "raised, done"):
            self._commit(transaction)
        elif fate == "unknown, late" and transaction.wrote:
            self._late = self._written, transaction
        return None if fate == "done" else REFUSED if fate.startswith("refused") else UNKNOWN

    def _commit(self, transaction: Transaction) -> None:
        if not transaction.wrote:
            return
        self._store, self._written, self._late = transaction.after, self._written + 1, None
        for request, versions in transaction.wrote:
            self._watcher.saw(request, versions.get)
        self._check_word()

    # --- steps --------------------------------------------------------------------------------------------

    def _step(self, until: float | None) -> float:
        """Nobody can go on: choose what happens.  Gives how much time passes.  until: somebody waits no longer."""
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise Violation(f"no end after {MAX_STEPS} steps")
        steps = [step for place, asked in enumerate(self._pending) for step in self._fates(asked, place)]
        passed = 0.0

        def leap(cost: int) -> None:
            nonlocal passed
            self._leaps -= cost
            passed = until or 0.0

        if until is not None and (self._leaps > 0 or not self._pending):
            steps.append((max(0.2, self.plan.leaps / 10), "time passes", partial(leap, int(bool(self._pending)))))
        if self._late is not None:
            steps.append((0.3, "what nobody knew of comes to light", self._come_to_light))
        if self._losses > 0:
            steps += self._ways_to_lose()
        if not steps:
            raise Violation("nobody goes on")
        chosen = 0
        if len(steps) > 1:
            chosen = self._chooser.choose([weight for weight, _, _ in steps])
        _, name, do = steps[chosen]
        if name:
            self._note(name)
        do()
        return passed

    def _fates(self, asked: Asked, place: int) -> Iterator[Step]:
        if place and self._switches <= 0:
            return
        fates = [(1.0, "done")]
        if not asked.talks and len(asked.wish) > 1 and self._parts > 0:
            fates.append((0.3, "in part"))
        if self._faults > 0 and asked.wish:
            fates += [(0.03, "unknown, not begun"), (0.05, "refused"), (0.02, "raised, not begun")]
            if asked.writes:
                fates += [(0.1, "refused, undone"), (0.1, "unknown, done"), (0.1, "unknown, undone")]
                fates += [(0.1, "unknown, late"), (0.02, "raised, done")]
            if asked.talks and len(asked.wish) > 1:
                fates += [(0.1, "split done, refused"), (0.1, "split refused, done")]
                fates += [(0.03, "split done, unknown"), (0.03, "split unknown, done")]
        for weight, fate in fates:
            yield weight, "", partial(self._fate, asked, place, fate)

    def _fate(self, asked: Asked, place: int, fate: str) -> None:
        self._switches -= bool(place)
        self._parts -= fate == "in part"
        self._faults -= fate not in ("done", "in part")
        self._carry_out(asked, fate)

    def _come_to_light(self) -> None:
        assert self._late is not None
        written, transaction = self._late
        self._late = None
        if written == self._written:
            self._commit(transaction)

    def _ways_to_lose(self) -> Iterator[Step]:
        for process in self._processes:
            if process.dead:
                continue
            for task, call in process.calls.items():
                yield 0.02, f"{call} is cancelled", partial(self._lose, task.cancel)
            for task in process.leaders():
                yield 0.02, f"{process.name}: who leads is cancelled", partial(self._lose, task.cancel)
            if process.calls:
                for what in ("done", "not done", "unknown, late"):
                    yield 0.01, f"{process.name} dies", partial(self._lose, partial(self._kill, process, what))

    def _lose(self, do: Callable[[], object]) -> None:
        self._losses -= 1
        do()

    def _kill(self, process: Process, what: str) -> None:
        """what: becomes of that which it had sent."""
        for asked in [each for each in self._pending if each.process is process]:
            if what == "not done" and asked.wish:
                self._pending.remove(asked)
            else:
                self._carry_out(asked, what)
        process.dead = True
        self._note(f"{process.name} is dead")
        for call, _ in list(self._at_work.items()):
            if call in process.calls.values():
                del self._at_work[call]
        for task in process.tasks():
            task.cancel()

    # --- the end ------------------------------------------------------------------------------------------

    async def _finish_everything(self, fresh: Process) -> None:
        for operation_id in self.plan.operations:
            certain = False
            for _ in range(3):  # what others had sent may come in between
                certain = certain or await self._ask(fresh, operation_id)
            if not certain:
                raise Violation(f"a fresh process cannot finish {operation_id}")
        for operation_id in self.plan.operations:
            if operation_id not in self._answered and isinstance(self.plan.operations[operation_id], Odd):
                await self._canceller(fresh, operation_id)
        while self._pending:
            await asyncio.sleep(1.0)
        if self._late is not None and self._chooser.choose((1, 1)):  # later it would be for the next sweep
            self._come_to_light()
        self._late = None
        left = await fresh.call("recover")
        for each in left.left:
            await fresh.call("cancel", each.operation_id)
        for process in self._processes:
            if not process.dead:
                await process.call("close")

    def _complain(self, _loop: asyncio.AbstractEventLoop, about: dict[str, Any]) -> None:
        if isinstance(error := about.get("exception"), Exception) and not _is_trouble(error):
            self._complaints.append(error)

    def _leader_failed(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and not isinstance(error, OSError | KeyboardInterrupt):
            self._complaints.append(error)

    def _check_end(self) -> None:
        if self._complaints:
            raise Violation(f"a task or a callback ended with {self._complaints[0]!r}") from self._complaints[0]
        versions = self._store.versions()
        check_put_away(versions)
        if left := [key.id for key in versions if key.collection == INTENTIONS]:
            raise Violation(f"these are declared after everything was finished: {left}")
        heard: list[Heard] = []
        for operation_id, operation in self.plan.operations.items():
            ended = self._watcher.ended.get(operation_id)
            answered = self._answered.get(operation_id)
            if answered is not None and (ended is None or ended.answer != answered[1]):
                raise Violation(f"{operation_id} was answered {answered[1]}, but stored is {ended}")
            if ended is not None and ended.answer != ["cancelled"]:
                moment = None if answered is None else answered[0]
                heard.append(Heard(operation_id, model(operation), self._asked[operation_id], moment, ended.answer))
        check_serial(self.plan.purses, {**dict.fromkeys(self.plan.purses), **purses_in(versions)}, heard)

    def _end(self) -> None:
        """Whatever is still at work goes no further."""
        for process in self._processes:
            process.dead = True
        self._pending.clear()
        self._loop.over = True
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        if tasks:
            self._loop.run_until_complete(asyncio.wait(tasks))
        self._loop.close()
        asyncio.set_event_loop(None)

    # --- what needs nobody else ---------------------------------------------------------------------------

    @contextmanager
    def _patched(self) -> Iterator[None]:
        new = {
            "casops.callers.MOST": self.plan.most,
            "casops.callers.PATIENCE": self.plan.stands_still,
            "casops.conversations.MAX_BATCHES": self.plan.batches,
            "casops.protocol.at_once.FEW": self.plan.few,
            "casops.protocol.environment.Environment.fresh_id": lambda environment: self._fresh_id(environment),
            "casops.drivers.spread": lambda seconds: seconds,
            **{f"casops.{name}.local_reply": self._local for name in ("drivers", "conversations", "combining")},
        }
        with ExitStack() as stack:
            for name, value in new.items():
                stack.enter_context(patch(name, value))
            stack.enter_context(patch("casops.callers.log", self._log))
            if any(each.threads for each in self.plan.actors):
                for name, value in fibers.names_for_callers(self._loop, self._start).items():
                    stack.enter_context(patch(name, value))
            yield

    def _local(self, request: Request) -> Clock:
        assert isinstance(request, ReadClock)
        return Clock(self._loop.time(), WALL + self._loop.time())

    def _fresh_id(self, _: Environment) -> Steps[str]:
        """Asked for within a worker, and so in the context of its caller."""
        self._ids += 1
        return f"{_CALL.get()}-{self._ids}"
        yield

    # --- telling ------------------------------------------------------------------------------------------

    def _note(self, text: str) -> None:
        self.trace.append(text)

    def _tell(self, asked: Asked) -> str:
        if asked.talks:
            return f"{len(asked.wish)} conversations:"
        return "begins" if not asked.wish else "a batch:"


def _is_trouble(error: BaseException) -> bool:
    return isinstance(error, OutcomeUnknown | StoreUnavailable | OSError)


class _Listener(logging.Handler):
    def __init__(self, heard: Callable[[logging.LogRecord], None]) -> None:
        super().__init__()
        self._heard = heard

    def emit(self, record: logging.LogRecord) -> None:
        self._heard(record)


class _Loop(asyncio.SelectorEventLoop):
    """An event loop that asks what is to happen, whenever it would wait."""

    def __init__(self, step: Callable[[float | None], float]) -> None:
        self._now = 0.0
        self._choose = step
        self.over = False
        super().__init__(_Selector(self._would_wait))

    def time(self) -> float:
        return self._now

    def _would_wait(self, until: float | None) -> None:
        if self.over:
            assert until is not None, "somebody cannot be stopped"
        self._now += until if self.over and until is not None else self._choose(until)
        self._now += TICK


class _Selector(selectors.SelectSelector):
    def __init__(self, would_wait: Callable[[float | None], None]) -> None:
        super().__init__()
        self._would_wait = would_wait

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout > 0:
            self._would_wait(timeout)
        return []
