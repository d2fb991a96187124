"""For tests of users: one operation, crashed, duplicated, delayed and made deaf at every step.

Each world is a store in memory in which one thing goes wrong with the first worker; then a second one is asked for the
same operation (or a sweep finds it), what was under way arrives, everything is put away, and a third one is asked.
In every world all must hear the same answer, the documents must become what they become in the undisturbed world, and
nothing may be left pending.  There are about ten worlds for each request that the operation makes.

Must not be in here: rules of the protocol; anything of a test framework; wall clocks.
"""

from __future__ import annotations

import inspect
import json
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeAlias, TypeVar

from casops import messages as m
from casops.business import OperationWork
from casops.documents import Document, Documents, Ref, check_ref, dump
from casops.engine import Engine
from casops.errors import CasOpsError, UsageError
from casops.messages import Key, Steps
from casops.operations import Operation
from casops.options import Options
from casops.outcome import Outcome
from casops.protocol.work import Evaluation, Failed, Refused, Success, Value
from casops.stores.memory import MemoryStore
from casops.testing.checkers import Watcher
from casops.testing.telling import tell_reply, tell_request
from casops.testing.worker import SimulatedClock, Worker

R = TypeVar("R")
Check: TypeAlias = Callable[[Documents, Outcome[R]], bool | None]
Trouble: TypeAlias = Callable[[Any], None]  # befalls a _World

OPERATION_ID = "the-operation"
ADDRESS = re.compile(r"\b0x[0-9a-f]+\b")  # of an object in what an error tells: never the same twice
ORDERS = 20  # of two workers at once; more find no more in an operation that is alone in its world


@dataclass(frozen=True)
class Report(Generic[R]):
    """What `crash_everywhere` did: the worlds, how the undisturbed one ended, the conversation in the last one."""

    names: tuple[str, ...]
    outcome: Outcome[R]
    trace: tuple[str, ...]

    @property
    def worlds(self) -> int:
        return len(self.names)


def crash_everywhere(
    operation: Operation[R],
    *,
    documents: Mapping[Ref[Any], Document],
    check: Check[R] | None = None,
    world: str | None = None,
) -> Report[R]:
    """Run the operation in every world.  Raises AssertionError, with the conversation, for one that ends wrong.

    documents: what is there before.  check(documents, outcome): called at the end of each world with what is there
    then and what the last who asked was told; raises AssertionError where it is not content.
    world: the name of a world, as an error tells it: only that one.
    An operation that raises where nothing goes wrong raises here; a refusal (Declined) is an outcome like any other.
    """
    __tracebackhide__ = True
    for ref, document in documents.items():
        check_ref(ref)
        if type(document) is not ref.model:
            raise UsageError(f"{ref!r} needs a {ref.model.__name__}, not a {type(document).__name__}")
    initial = {ref.key: dump(ref.key, document) for ref, document in documents.items()}
    apply = _Apply(operation)
    last = undisturbed = _World(apply, initial, "undisturbed", None)
    undisturbed.live(_deaf, check)
    worlds = _worlds(undisturbed.sent)
    if world not in (None, "undisturbed", *worlds):
        raise UsageError(f"there is no world {world!r} for this operation; there are: {', '.join(worlds)}")
    names = ("undisturbed", *worlds) if world is None else (world,)
    for name in names:
        if name != "undisturbed":
            last = _World(apply, initial, name, undisturbed)
            last.live(worlds[name], check)
    assert undisturbed.heard is not None
    return Report(names, undisturbed.heard, tuple(last.trace))


class _Apply(OperationWork[R]):
    """The operation as the protocol takes it, run twice at first and compared ever after."""

    def __init__(self, operation: Operation[R]) -> None:
        super().__init__(operation, OPERATION_ID)
        self.operation = type(operation)
        self._known: dict[frozenset[tuple[Key, Value]], str] = {}

    def evaluate(self, values: Mapping[Key, Value]) -> Evaluation:
        given = frozenset(values.items())
        before = self._known.get(given) or _told(super().evaluate(values))
        evaluation = super().evaluate(values)
        self._known[given] = before
        if _told(evaluation) != before:
            read = "".join(f"\n    {key} = {value.body}" for key, value in sorted(values.items()))
            raise AssertionError(
                f"apply of {self.name} does not always do the same.  With the arguments {self.arguments} and{read}\n"
                f"it once led to\n    {before}\nand now to\n    {_told(evaluation)}\n"
                "apply may run several times, in several processes, before it counts, so it must depend on nothing but "
                "its arguments and the documents: no clock, no random numbers, no new ids (make them before and pass "
                "them as arguments), nothing that is remembered from one call to the next."
            )
        return evaluation


def _told(evaluation: Evaluation) -> str:
    match evaluation:
        case Success(changes, result):
            return f"the result {json.dumps(result)} and the documents {sorted(changes.items())}"
        case Refused(code, details):
            return f"the refusal {code} {json.dumps(details)}"
        case Failed(error):
            return f"{type(error).__name__}: {ADDRESS.sub('0x…', str(error))}"
        case _:
            return f"looking up {', '.join(map(str, sorted(evaluation.keys)))}"


def _worlds(sent: list[tuple[int, m.StoreRequest]]) -> dict[str, Trouble]:
    """Every world in which something goes wrong.  `sent`: what the first worker sends, with the number of its batch."""
    worlds: dict[str, Trouble] = {}
    for count in range(len(sent) + 1):
        worlds[f"crash after {count} requests"] = partial(_crash, count=count)
        worlds[f"crash after {count} requests, then a sweep"] = partial(_crash, count=count, swept=True)
        worlds[f"crash after {count} requests, the rest late"] = partial(_crash, count=count, late=True)
    for number, (batch, request) in enumerate(sent, 1):
        if [each for each, _ in sent].count(batch) > 1:
            alone = f"crash after request {number} alone of its batch"
            worlds[alone] = partial(_crash, count=number, alone=True)
            worlds[f"{alone}, the rest late"] = partial(_crash, count=number, alone=True, late=True)
        worlds[f"request {number} lost"] = partial(_deaf, number=number, how="request lost")
        worlds[f"reply {number} lost"] = partial(_deaf, number=number, how="reply lost")
        if not isinstance(request, m.Read):
            worlds[f"request {number} late"] = partial(_deaf, number=number, how="late")
    for seed in range(ORDERS):
        worlds[f"two at once, order {seed}"] = partial(_two, seed=seed)
    return worlds


def _crash(world: _World[Any], *, count: int, alone: bool = False, late: bool = False, swept: bool = False) -> None:
    """The first worker dies when `count` of its requests have arrived.

    alone: the last of them without the others of its batch.  late: the rest of the batch arrives in the end.
    """
    worker, done = world.asks("first"), 0
    while worker.batch is not None and done + len(worker.batch) <= count - alone:
        done += len(worker.batch)
        world.step(worker)
    if worker.error is not None:
        raise worker.error
    for number, request in enumerate(worker.batch or (), done + 1):
        arrives = number == count or (number < count and not alone)
        world.send("first", request, "" if arrives else "late" if late else "request lost")
    worker.crash()
    world.trace.append("first crashes")
    if swept:
        world.sweep()


def _deaf(world: _World[Any], *, number: int = 0, how: str = "") -> None:
    """The first worker gets no reply to one request (if any), and goes on."""
    world.befalls[number] = how
    world.run(world.asks("first"), may_fail=bool(how))


def _two(world: _World[Any], *, seed: int) -> None:
    """Two workers are asked at once; their requests arrive in a random order."""
    chance = random.Random(seed)
    workers = (world.asks("first"), world.asks("twin"))
    got: dict[str, list[m.Reply]] = {"first": [], "twin": []}
    while alive := [worker for worker in workers if worker.batch is not None]:
        worker = chance.choice(alive)
        batch, replies = worker.batch or (), got[worker.name]
        replies.append(world.send(worker.name, batch[len(replies)]))
        if len(replies) == len(batch):
            got[worker.name] = []
            worker.answer(replies)
    for worker in workers:
        world.run(worker, may_fail=True)


class _World(Generic[R]):
    """A store, the workers on it, and what they said."""

    def __init__(self, apply: _Apply[R], initial: Mapping[Key, str], name: str, usual: _World[R] | None) -> None:
        self.apply, self.name, self.usual = apply, name, usual
        self.trace: list[str] = []
        self.sent: list[tuple[int, m.StoreRequest]] = []  # by the first worker, with the number of its batch
        self.befalls: dict[int, str] = {}  # its n-th request
        self.late: list[tuple[str, m.StoreRequest]] = []
        self.heard: Outcome[R] | None = None
        self.final: dict[str, Any] = {}
        self.clock = SimulatedClock()
        self.store = MemoryStore(clock=self.clock.wall)
        self.store.perform([m.Insert(key, body) for key, body in initial.items()])
        self.watcher = Watcher(self.store.versions())
        # No patience: whoever comes second takes over while the first is at it, which is the worst case.
        self.options = Options(patience=0.0, poll=0.01, grace=0.0, park_after=0)

    def live(self, trouble: Trouble, check: Check[R] | None) -> None:
        """Let the trouble happen, then bring everything to its end and look at it."""
        __tracebackhide__ = True
        try:
            trouble(self)
            if self.usual is not None:
                self.run(self.asks("second"))
            for name, request in self.late:
                self.send(name, request)
            self.sweep()
            outcome: Outcome[R] = self.run(self.asks("third"))
            assert outcome.replayed, "the last who asked did it again"
            bodies = self._look()
            if check is not None:
                answer = check(Documents(_Everything(bodies)), outcome)
                assert answer is not False, "check returned False"
                assert not inspect.isawaitable(answer), "check has to be an ordinary function: nobody awaits its answer"
        except Exception as error:
            told = "\n  ".join([f"in the world {self.name!r}: {error}\n\nwhat happened there:", *self.trace])
            told += f"\n\nto see this world alone: crash_everywhere(…, world={self.name!r})"
            if isinstance(error, AssertionError) or self.usual is not None:
                raise AssertionError(told) from error
            error.add_note(told)
            raise

    def _look(self) -> dict[Key, Value]:
        bodies: dict[Key, Value] = {}
        for key, version in sorted(self.store.versions().items(), key=lambda each: each[0]):
            assert key.collection != m.INTENTIONS, "it is still pending"
            assert version.stage is None, f"{key} still carries a stage"
            if version.body is not None and not key.collection.startswith(m.RESERVED):
                bodies[key] = Value(version.body)
        self.final = {str(key): json.loads(value.body or "") for key, value in bodies.items()}
        usual = (self.usual or self).final
        assert self.final == usual, f"the documents became {self.final}, but where nothing goes wrong {usual}"
        return bodies

    def asks(self, name: str) -> Worker[Outcome[R]]:
        self.trace.append(f"{name} is asked")
        return Worker(name, self._asking(Engine(self.options, [], name)), self.clock)

    def _asking(self, engine: Engine) -> Steps[Outcome[R]]:
        outcome, ended = yield from engine.execute(self.apply, OPERATION_ID)
        self.trace.append(f"{engine.worker} hears: {_answer(outcome)}{', replayed' if outcome.replayed else ''}")
        self.heard = self.heard or outcome
        before, now = _answer(self.heard), _answer(outcome)
        assert before == now, f"who asked first was answered {before}, and then {now}"
        yield from engine.settle(ended)
        return outcome

    def sweep(self) -> None:
        engine = Engine(self.options, [self.apply.operation], f"sweeper {len(self.trace)}")  # never the same twice
        self.run(Worker(engine.worker, engine.recover(), self.clock))

    def step(self, worker: Worker[Any]) -> None:
        replies: list[m.Reply] = []
        batch_number = self.sent[-1][0] + 1 if self.sent else 0
        for request in worker.batch or ():
            self.sent += [(batch_number, request)] if worker.name == "first" else []
            how = self.befalls.get(len(self.sent), "") if worker.name == "first" else ""
            replies.append(self.send(worker.name, request, how))
        worker.answer(replies)

    def run(self, worker: Worker[Any], *, may_fail: bool = False) -> Any:
        """Step it to its end.  Raises what it raised; may_fail: unless it is an error after which one asks again."""
        while worker.batch is not None:  # ends at the deadline at the latest, as every call does
            self.step(worker)
        if worker.error is not None:
            self.trace.append(f"{worker.name} ends with {worker.error!r}")
            if not (may_fail and isinstance(worker.error, CasOpsError) and worker.error.retry):
                raise worker.error
        return worker.result

    def send(self, name: str, request: m.StoreRequest, how: str = "") -> m.Reply:
        """One request, and what befalls it on its way."""
        told = f"({how})"
        reply: m.Reply = m.Unknown("no reply")
        if how in ("", "reply lost"):
            done = self.store.perform_one(request)
            told = _tell(request, done) + (f" {told}" if how else "")
            reply = reply if how else done
            if isinstance(done, m.Stored):
                self.watcher.saw(request, self.store.version)
        elif how == "late" and not isinstance(request, m.Read):
            self.late.append((name, request))
        self.trace.append(f"{name} → {tell_request(request)}   {told}")
        return reply


class _Everything(dict[Key, Value]):
    """Final documents as `Documents` takes them: what is not there is known not to be there."""

    def __contains__(self, key: object) -> bool:
        return True

    def __missing__(self, key: Key) -> Value:
        return Value(None)


def _answer(outcome: Outcome[Any]) -> str:
    """As it was recorded: what a result looks like (`repr`) may be another thing each time."""
    refusal = outcome.refusal
    recorded = outcome.recorded if refusal is None else [refusal.code, dict(refusal.details)]
    return f"{outcome.status} {json.dumps(recorded, sort_keys=True)}"


def _tell(request: m.StoreRequest, reply: m.Reply) -> str:
    if not isinstance(reply, m.Version) or isinstance(request, m.Scan) or request.key[0].startswith(m.RESERVED):
        return tell_reply(reply)
    stage = "" if reply.stage is None else f" + stage {json.loads(reply.stage.meta)['attempt']} = {reply.stage.body}"
    return f"{reply.body}{stage} ({reply.cas})"
