"""The simulator: larger worlds, one for each seed; the seed decides everything, the probabilities included.

A world has a few workers, operations that several of them are asked for, purses (some of them hot), requests and
replies that take their time, get lost or come late, workers that crash and come back, clocks that disagree, a
store that refuses for a while, expiries and retention.  First a safety phase in which all of that goes on; then
faults stop, and everything that was asked for must come to its end within a bound.

The checkers watch every write, and look at answers and documents in the end (checkers.py).  The same seed gives
the same world, whatever machine it runs on.

Must not be in here: rules of the protocol; wall clocks.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from casops.documents import dump
from casops.errors import OutcomeUnknown, StoreUnavailable
from casops.messages import (
    Batch,
    Clock,
    FreshId,
    Insert,
    Key,
    Missing,
    Pause,
    Read,
    ReadClock,
    Refused,
    Replace,
    Reply,
    Scan,
    Stored,
    StoreRequest,
    Turn,
    Unknown,
    Version,
)
from casops.operations import Operation
from casops.options import Options
from casops.protocol.environment import StoreFailed, TimeUp
from casops.stores.memory import MemoryStore
from casops.testing.alone import WALL
from casops.testing.checkers import Heard, Violation, Watcher, check_put_away, check_serial, check_told, parsed
from casops.testing.programs import (
    Asks,
    Burn,
    Hears,
    MakeProgram,
    Move,
    Program,
    Purse,
    Put,
    Require,
    cancels,
    engine_for,
    forgets,
    model_of,
    reading_model,
    reads,
    runs,
    sweeps,
)
from casops.testing.queueing import Queueing
from casops.testing.sharing import SharingStore
from casops.testing.telling import tell_reply, tell_request

# Steps of one world.  A world of 12 operations takes some hundreds; more means that it does not come to an end.
MAX_EVENTS = 60_000

LIVENESS = 600.0  # simulated seconds in which everything must have ended after the faults stopped


@dataclass(frozen=True)
class Trouble:
    """How likely each thing is to go wrong, for one request or one step."""

    request_lost: float
    reply_lost: float
    late: float  # applied, but long after the caller gave up on it
    refused: float
    crash: float  # for one batch
    slow: float  # for one request: a hundred times the latency


@dataclass(frozen=True)
class Lived:
    """What became of a world."""

    seed: int
    operations: int
    events: int
    crashes: int
    unknown: int
    taken_over: int
    violation: str | None
    trace: tuple[str, ...]


def live(seed: int, *, traced: bool = False) -> Lived:
    """Live one world to its end.  With `traced` the conversation is kept."""
    world = World(seed, traced)
    violation: str | None = None
    try:
        world.run()
    except Violation as error:
        violation = str(error)
    return Lived(
        seed,
        len(world.operations),
        world.events,
        world.crashes,
        world.unknown,
        world.taken_over,
        violation,
        tuple(world.trace),
    )


class Process:
    """One worker with what it is doing."""

    def __init__(self, name: str, make: MakeProgram, skew: float, again: bool) -> None:
        self.name = name
        self.make = make
        self.skew = skew
        self.again = again  # begins anew after a crash
        self.program: Program | None = None
        self.lives = 0
        self.ids = 0
        self.ended: dict[str, Any] = {}  # what had ended when it last sent something


class World:
    """Everything of one seed."""

    def __init__(self, seed: int, traced: bool) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.time = 0.0
        self.events = self.crashes = self.unknown = self.taken_over = 0
        self.trace: list[str] = []
        self._traced = traced
        self._queue: list[tuple[float, int, Callable[[], object]]] = []
        self._counter = 0  # events of the same moment happen in the order they were thought of
        self._safe = False  # faults have stopped
        self._asked: dict[str, float] = {}
        self._answered: dict[str, tuple[float, Any]] = {}
        self._make()

    # --- what kind of world -------------------------------------------------------------------

    def _make(self) -> None:
        chance = self.random
        level = chance.choice((0.0, 0.02, 0.1, 0.3))

        def often() -> float:
            return level * chance.choice((0.0, 0.0, 0.3, 1.0))

        self.trouble = Trouble(often(), often(), often(), often() / 4, often() / 2, often())
        self.latency = chance.choice((0.0001, 0.001, 0.01))
        retention = chance.choice((2_000.0, 100_000.0))
        self.options = Options(
            patience=chance.choice((0.0, self.latency, self.latency * 30)),
            poll=chance.choice((0.0, self.latency)),
            deadline=chance.choice((self.latency * 200, 20.0)),
            attempts=chance.choice((2, 8, 64)),
            grace=chance.choice((0.0, 5.0)),
            retention=retention,
            park_after=0,
        )
        self._wait = self.latency * chance.choice((5, 50))  # after which a caller gives up on a reply
        # By the seed itself, not drawn: so the worlds of the seeds that tests keep stay what they were.
        kind = SharingStore if self.seed % 4 == 0 else MemoryStore
        self.store = kind(clock=lambda: WALL + self.time, tombstones=retention)
        names = [f"p{each}" for each in range(chance.choice((1, 2, 2, 3, 5)))]
        self.purses: dict[str, Any] = {name: chance.choice((None, 0, 3, 10)) for name in names}
        self.expiring = chance.random() < 0.2
        for name, coins in self.purses.items():
            if coins is not None:
                self._put_purse(Purse.ref(name).key, coins)
        self.watcher = Watcher(self.store.versions())
        self.operations = {
            f"o{each}": self._some_operation(names) for each in range(chance.choice((1, 2, 3, 5, 8, 12)))
        }
        self.readers: dict[str, Sequence[str]] = {}
        self.queueing = Queueing(self.seed, self.latency)
        self.processes: list[Process] = []
        for each in range(chance.choice((1, 2, 3, 4))):
            mine = [(name, self.operations[name]) for name in self.operations if chance.random() < 0.6]
            chance.shuffle(mine)
            settles = chance.random() < 0.8
            # Alone, and beside workers that take the stream log; none of the seeds that tests keep is among them.
            at_once = self.seed % 16 == 4 or (self.seed % 16 in (2, 6, 8) and each % 2 == 0)
            asking = runs(*mine, settles=settles, at_once=at_once, queues=self.seed % 8 in (1, 4))
            self._process(f"w{each}", asking, chance.random() < 0.7)
        for each in range(chance.choice((0, 0, 1, 2))):
            self.readers[f"r{each}"] = chance.sample(names, chance.randint(1, len(names)))
            self._process(f"reader{each}", reads(f"r{each}", *self.readers[f"r{each}"]), False)
        if chance.random() < 0.3:
            self._process("sweeper", sweeps(chance.choice((1, 3))), True)
        if chance.random() < 0.15:
            self._process("canceller", cancels(chance.choice(list(self.operations))), False)

    def _put_purse(self, key: Key, coins: int) -> None:
        (reply,) = self.store.perform([Insert(key, body := dump(key, Purse(coins=coins)))])
        if self.expiring:
            assert isinstance(reply, Stored)
            self.store.perform([Replace(key, reply.cas, body, expires=int(WALL) + 10**9)])

    def _some_operation(self, names: Sequence[str]) -> Operation[Any]:
        chance = self.random
        name, other = chance.choice(names), chance.choice(names)
        kind = chance.random()
        if kind < 0.6:
            return Move(source=name, target=other, coins=chance.choice((1, 2, 5)))
        if kind < 0.7:
            total = sum(coins or 0 for coins in {name: self.purses[name], other: self.purses[other]}.values())
            return Require(first=name, second=other, coins=total)
        if kind < 0.9:
            return Put(purse=name, coins=chance.choice((1, 4)))
        return Burn(purse=name)

    def _process(self, name: str, make: MakeProgram, again: bool) -> None:
        process = Process(name, make, self.random.uniform(-60, 60), again)
        self.processes.append(process)
        self._after(self.random.uniform(0, self.latency * 20), lambda: self._begin(process))

    # --- time ---------------------------------------------------------------------------------

    def run(self) -> None:
        self._until_quiet()
        self._safe = True
        if self.random.random() < 0.15:
            self._sleep()
            return
        self._finish_everything()
        if self.seed % 8 == 0:
            # Everybody has acknowledged, and nothing is on its way any more.
            self.time += 10 * self.options.deadline
            self._alone("forgetter", forgets(*self.operations))
            self._alone("sweeper-after-forgetting", sweeps())
        if self.random.random() < 0.3:
            # Long after, when results are forgotten, a late sweep must not run anything again.
            self.time += self.options.retention * self.random.choice((0.6, 1.5))
            self._alone("late-sweeper", sweeps())
            self._until_quiet()
        self._check_end()

    def _until_quiet(self) -> None:
        while self._queue:
            self.time, _, happen = heapq.heappop(self._queue)
            self.events += 1
            if self.events > MAX_EVENTS:
                raise Violation(f"no end after {MAX_EVENTS} events")
            happen()

    def _after(self, seconds: float, happen: Callable[[], object]) -> None:
        self._counter += 1
        heapq.heappush(self._queue, (self.time + seconds, self._counter, happen))

    # --- workers ------------------------------------------------------------------------------

    def _begin(self, process: Process) -> None:
        process.lives += 1
        process.program = process.make(engine_for(process.name, self.options))
        self._note(f"{process.name} begins")
        self._resume(process, process.lives, None)

    def _resume(self, process: Process, life: int, reply: Any) -> None:
        if process.program is None or process.lives != life:
            return  # it died while this was under way
        while True:
            try:
                request = process.program.send(reply)
            except StopIteration:
                process.program = None
                self._note(f"{process.name} is done")
                return
            except Violation:
                raise
            except Exception as error:
                # Expected endings (OutcomeUnknown …) are caught by the programs; in settling they are not.
                process.program = None
                self._note(f"{process.name} ends: {type(error).__name__}: {error}")
                if not _expected(error):
                    raise Violation(f"{process.name} ended with {type(error).__name__}: {error}") from error
                return
            if isinstance(request, tuple):
                self._send(process, life, request)
                return
            if isinstance(request, Pause):
                self._after(request.seconds * self.random.uniform(0.5, 1.0), lambda: self._resume(process, life, None))
                return
            if isinstance(request, Turn):
                self._after(self.queueing.wait(), partial(self._resume, process, life, self.queueing.known(request)))
                return
            reply = self._local(process, request)

    def _local(self, process: Process, request: Any) -> Any:
        if isinstance(request, ReadClock):
            return Clock(self.time, WALL + self.time + process.skew)
        if isinstance(request, FreshId):
            process.ids += 1
            return f"{process.name}-{process.ids}"
        if isinstance(request, Asks):
            self._asked.setdefault(request.operation_id, self.time)
            self._note(f"{process.name} asks for {request.operation_id}")
            return None
        assert isinstance(request, Hears)
        self._note(f"{process.name} hears {request.operation_id}: {request.answer}")
        check_told(process.ended.get(request.operation_id), request.operation_id, request.answer)
        self._hear(request.operation_id, request.answer)
        return None

    def _hear(self, operation_id: str, answer: Any) -> None:
        if answer[0] == "error":
            if answer[1] not in ("OutcomeUnknown", "Contended", "StoreUnavailable"):
                raise Violation(f"{operation_id} was answered with {answer[1]}")
            return
        known = self._answered.setdefault(operation_id, (self.time, answer))
        if known[1] != answer:
            raise Violation(f"{operation_id} was answered {known[1]} and then {answer}")

    def _send(self, process: Process, life: int, batch: Batch) -> None:
        if not self._safe and self.random.random() < self.trouble.crash:
            self._crash(process, batch)
            return
        process.ended = dict(self.watcher.ended)
        replies: list[Reply | None] = [None] * len(batch)
        left = [len(batch)]

        def arrive(place: int, reply: Reply) -> None:
            if replies[place] is None:  # an answer after its caller gave up changes nothing
                replies[place] = reply
                left[0] -= 1
                if not left[0]:
                    self._resume(process, life, list(replies))

        for place, request in enumerate(batch):
            self._request(process, request, partial(arrive, place))

    def _request(self, process: Process, request: StoreRequest, arrive: Callable[[Reply], None]) -> None:
        chance, trouble, latency = self.random, self.trouble, self.latency
        there, back = chance.uniform(0.5, 1.5) * latency, chance.uniform(0.5, 1.5) * latency
        fate = 1.0 if self._safe else chance.random()
        if not self._safe and chance.random() < trouble.slow:
            there *= 100
        reading = isinstance(request, Read | Scan)
        if fate < trouble.request_lost:
            self._note(f"{process.name} → {tell_request(request)}   (request lost)")
            self._after(self._wait, lambda: self._unknown(arrive))
        elif (fate := fate - trouble.request_lost) < trouble.reply_lost:
            self._after(there, lambda: self._apply(process, request, "reply lost"))
            self._after(self._wait, lambda: self._unknown(arrive))
        elif (fate := fate - trouble.reply_lost) < trouble.late and not reading:
            delay = self._wait * chance.choice((1, 3, 30, 300))
            self._after(delay, lambda: self._apply(process, request, "late"))
            self._after(self._wait, lambda: self._unknown(arrive))
        elif fate - trouble.late < trouble.refused and not reading:
            self._after(there + back, lambda: arrive(Refused("the store is full")))
        else:

            def apply() -> None:
                reply = self._apply(process, request, "")
                self._after(back, lambda: arrive(reply))

            self._after(there, apply)

    def _unknown(self, arrive: Callable[[Reply], None]) -> None:
        self.unknown += 1
        arrive(Unknown("no reply in time"))

    def _apply(self, process: Process, request: StoreRequest, how: str) -> Reply:
        reply = self.store.perform_one(request)
        if isinstance(request, Read):
            self.queueing.saw(request.key, reply)
        if self._traced:
            after = f"   ({how})" if how else ""
            self._note(f"{process.name} → {tell_request(request)}   {tell_reply(reply)}{after}")
        if isinstance(reply, Stored):
            self._forget()
            self.watcher.saw(request, self.store.version)
        return reply

    def _forget(self) -> None:
        """Tell the watcher what ceased to be by itself; only worth a look in worlds that got so old."""
        if self.time > self.options.retention / 2:
            for key in list(self.watcher.versions):
                if isinstance(self.store.perform_one(Read(key)), Missing):
                    self.watcher.forgotten(key)

    def _crash(self, process: Process, batch: Batch) -> None:
        """What it was about to send may have left, or not, or arrives late."""
        assert process.program is not None
        process.program.close()
        process.program = None
        self.crashes += 1
        self._note(f"{process.name} crashes")
        for request in batch:
            if not isinstance(request, Read | Scan) and self.random.random() < 0.5:
                delay = self._wait * self.random.choice((0.1, 1, 30))
                self._after(delay, partial(self._apply, process, request, "sent before the crash"))
        if process.again and process.lives < 5:
            self._after(self.latency * self.random.choice((1, 100)), lambda: self._begin(process))

    # --- the end ------------------------------------------------------------------------------

    def _alone(self, name: str, make: MakeProgram) -> None:
        began, events = self.time, self.events
        process = Process(name, make, 0.0, False)
        self._begin(process)
        self._until_quiet()
        if self.time - began > LIVENESS:
            raise Violation(f"{name}, alone and without faults, took {self.time - began:.0f} simulated seconds")
        self.events = events  # the bound is one of the faulty phase

    def _finish_everything(self) -> None:
        for operation_id, operation in self.operations.items():
            self._alone(f"fresh-{operation_id}", runs((operation_id, operation)))
            if operation_id not in self._answered:
                raise Violation(f"{operation_id} was not finished by a fresh worker")
        self.time += max(self.options.grace, 1.0) + 120.0  # clocks disagree by two minutes at most
        self._alone("fresh-sweeper", sweeps())
        check_put_away(self.watcher.versions)

    def _sleep(self) -> None:
        """Everybody is away until results are forgotten; then a sweep comes by.

        It may finish what never ended, and must not run again what did (the watcher sees that).
        """
        self.time += self.options.retention * self.random.choice((0.6, 1.5))
        self._forget()
        for each in range(3):
            self._alone(f"sweeper-after-sleep{each}", sweeps())
        self._check_end()

    def _check_end(self) -> None:
        """Answers, and the documents as ordinary readers see them."""
        heard: list[Heard] = []
        for operation_id, operation in self.operations.items():
            ended = self.watcher.ended.get(operation_id)
            if ended is None and operation_id not in self._answered:
                continue  # nobody was left who knew of it
            if ended is None:
                raise Violation(f"{operation_id} was answered {self._answered[operation_id]}, but has not ended")
            self._asked.setdefault(operation_id, self.time)
            answered, answer = self._answered.get(operation_id, (self.time, ended.answer))
            if ended.answer != answer:
                raise Violation(f"{operation_id} was answered {answer}, but stored is {ended.answer}")
            if answer != ["cancelled"]:
                heard.append(Heard(operation_id, model_of(operation), self._asked[operation_id], answered, answer))
        for reader, names in self.readers.items():
            if reader in self._answered:
                answered, answer = self._answered[reader]
                heard.append(Heard(reader, reading_model(names), self._asked[reader], answered, answer))
        final: dict[str, Any] = {}
        for name in self.purses:
            found = self.store.perform_one(Read(Purse.ref(name).key))
            body = found.body if isinstance(found, Version) else None
            final[name] = None if body is None else Purse.model_validate_json(body).coins
        check_serial(self.purses, final, heard)
        self._check_expiries()

    def _check_expiries(self) -> None:
        """A document's own expiry survives every operation on it (until it is removed)."""
        burned = {each.purse.id for each in self.operations.values() if isinstance(each, Burn)}
        for name, coins in self.purses.items():
            if not self.expiring or coins is None or name in burned:
                continue
            found = self.store.perform_one(Read(Purse.ref(name).key))
            # A stage that landed after everybody had finished is void; it stays until somebody meets it.
            kept = parsed(found.stage.meta)["expires"] if isinstance(found, Version) and found.stage else None
            if not isinstance(found, Version) or int(WALL) + 10**9 not in (found.expires, kept):
                raise Violation(f"{name} lost its expiry: {found}")

    def _note(self, text: str) -> None:
        if self._traced:
            self.trace.append(f"{self.time:12.4f}  {text}")


def _expected(error: Exception) -> bool:
    """What settling and sweeping may end with while the store is in trouble; they are tried again by others."""
    return isinstance(error, OutcomeUnknown | StoreUnavailable | StoreFailed | TimeUp)
