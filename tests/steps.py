"""What the tests of the protocol have in common: tiny business code and workers stepped by hand.

Documents are integers as JSON text in the collection "n".  Must not be in here: tests.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from casops.messages import (
    Forget,
    Insert,
    Key,
    Missing,
    Read,
    Remove,
    Replace,
    Reply,
    Steps,
    StoreRequest,
    Unknown,
    Version,
)
from casops.options import Options
from casops.protocol.at_once import Foresight
from casops.protocol.ended import Ended
from casops.protocol.environment import Environment
from casops.protocol.execution import Execution
from casops.protocol.settling import put_away, settle_documents
from casops.protocol.work import Evaluation, Failed, Refused, Success, Value, Wants
from casops.records import Record, decode_record, intention_key, result_key
from casops.stores.memory import MemoryStore
from casops.testing.worker import SimulatedClock, Worker

T = TypeVar("T")
OPTIONS = Options(poll=0.01, patience=1.0, deadline=30.0, retention=10_000.0)
REMEMBERED = OPTIONS.retention + 2 * OPTIONS.skew  # seconds that R(i) lives once it is settled


def n(name: str) -> Key:
    return Key("n", name)


Function = Callable[[dict[str, int | None]], Any]


@dataclass
class Job:
    """Work on integers.  `function` changes its argument and returns the result, or raises a Refusal."""

    function: Function
    names: Sequence[str]
    name: str = "job"
    fingerprint: str = "f"
    arguments: str = "{}"
    declares: Sequence[str] | None = None  # those read in step 1; default: all
    looks_at: list[frozenset[Key]] = field(default_factory=list)

    @property
    def declared(self) -> tuple[Key, ...]:
        return tuple(n(each) for each in (self.names if self.declares is None else self.declares))

    def evaluate(self, values: Mapping[Key, Value]) -> Evaluation:
        keys = [n(each) for each in self.names]
        unread = frozenset(keys) - values.keys()
        if unread:
            return Wants(unread)
        numbers = {key.id: None if (body := values[key].body) is None else int(json.loads(body)) for key in keys}
        try:
            result = self.function(numbers)
        except Refusal as refusal:
            return Refused(str(refusal), {}, frozenset(keys))
        except Exception as error:  # noqa: BLE001 - as business code may
            return Failed(error, isinstance(error, LookupError), frozenset(keys))
        return Success({key: None if (v := numbers[key.id]) is None else json.dumps(v) for key in keys}, result)


class Refusal(Exception):
    """The business says no."""


def move(source: str, target: str, amount: int) -> Job:
    """The reference operation on integers; refuses what the source does not have."""

    def function(numbers: dict[str, int | None]) -> int:
        have = numbers[source] or 0
        if have < amount:
            raise Refusal("insufficient")
        numbers[source] = have - amount
        numbers[target] = (numbers[target] or 0) + amount
        return have - amount

    return Job(function, sorted({source, target}), fingerprint=f"{source}>{target}:{amount}")


def add(name: str, amount: int) -> Job:
    def function(numbers: dict[str, int | None]) -> int:
        numbers[name] = (numbers[name] or 0) + amount
        return numbers[name] or 0

    return Job(function, [name], fingerprint=f"{name}+{amount}")


def settle(environment: Environment, ended: Ended) -> Steps[None]:
    standing, _ = yield from settle_documents(environment, ended)
    yield from put_away(environment, ended.operation_id, standing)


class World:
    """A memory store, a clock, and workers on them."""

    def __init__(self, options: Options = OPTIONS, **documents: int) -> None:
        self.options = options
        self.clock = SimulatedClock()
        self.store = MemoryStore(clock=self.clock.wall)
        for name, value in documents.items():
            self.store.perform([Insert(n(name), json.dumps(value))])
        self._workers = 0

    def environment(self, name: str | None = None) -> Environment:
        self._workers += 1
        return Environment(self.options, name or f"w{self._workers}")

    def worker(
        self,
        operation_id: str,
        job: Job,
        name: str | None = None,
        behind: Iterable[str] = (),
        *,
        at_once: bool = False,
    ) -> Worker[Ended]:
        """behind: documents that others of its process are at.  at_once: where a store can write several at once."""
        environment = self.environment(name)
        foresight = Foresight(job) if at_once else None
        steps = Execution(environment, operation_id, job).run(foresight=foresight, behind=frozenset(map(n, behind)))
        return Worker(environment.worker, steps, self.clock)

    def run(self, operation_id: str, job: Job) -> Ended:
        return self.worker(operation_id, job).finish(self.store)

    def settle(self, ended: Ended) -> None:
        Worker("settler", settle(self.environment(), ended), self.clock).finish(self.store)

    def do(self, operation_id: str, job: Job) -> Ended:
        ended = self.run(operation_id, job)
        self.settle(ended)
        return ended

    # --- looking at the store, past the protocol --------------------------------------------

    def version(self, key: Key) -> Version | None:
        (reply,) = self.store.perform([Read(key)])
        assert isinstance(reply, Version | Missing)
        return reply if isinstance(reply, Version) else None

    def body(self, name: str) -> Any:
        version = self.version(n(name))
        return None if version is None or version.body is None else json.loads(version.body)

    def stage(self, name: str) -> str | None:
        version = self.version(n(name))
        return None if version is None or version.stage is None else version.stage.meta

    def record(self, operation_id: str) -> Record | None:
        version = self.version(result_key(operation_id))
        return None if version is None else decode_record(version.body, operation_id)

    def intention(self, operation_id: str) -> Version | None:
        return self.version(intention_key(operation_id))


def writes(batch: Iterable[StoreRequest] | None) -> list[Insert | Replace | Remove | Forget]:
    return [each for each in batch or () if isinstance(each, Insert | Replace | Remove | Forget)]


def only(world: World, worker: Worker[Any], keep: Callable[[StoreRequest], bool]) -> list[StoreRequest]:
    """Carry out only what `keep` says; the replies of the rest are lost.  Gives the lost requests."""
    assert worker.batch is not None
    lost: list[StoreRequest] = []
    replies: list[Reply] = []
    for request in worker.batch:
        if keep(request):
            replies += world.store.perform([request])
        else:
            lost.append(request)
            replies.append(Unknown("lost"))
    worker.answer(replies)
    return lost


def reply_lost(world: World, worker: Worker[Any], which: Callable[[StoreRequest], bool]) -> None:
    """Carry out everything, but the replies to `which` are lost."""
    assert worker.batch is not None
    batch = worker.batch
    replies = world.store.perform(batch)
    worker.answer([Unknown("lost") if which(request) else reply for request, reply in zip(batch, replies, strict=True)])


def is_record(request: StoreRequest) -> bool:
    return isinstance(request, Insert | Replace) and request.key.collection == "_casops.results"


def proposes(worker: Worker[Any]) -> bool:
    """Is it about to write a proposal?"""
    return any(is_record(each) and '"state":"proposed"' in str(each) for each in worker.batch or ())


def is_on(name: str) -> Callable[[StoreRequest], bool]:
    return lambda request: isinstance(request, Insert | Replace | Remove | Forget) and request.key == n(name)


def ask(world: World, steps: Steps[T]) -> T:
    """What an operator is told."""
    return Worker("operator", steps, world.clock).finish(world.store)


def staged(world: World, operation_id: str, job: Job, *, on: str, record: bool = True) -> None:
    """A worker that dies when it proposes, with only these writes done."""
    worker = world.worker(operation_id, job)
    while not any(is_record(each) for each in writes(worker.batch)):
        worker.step(world.store)
    only(world, worker, lambda request: (is_record(request) and record) or any(is_on(name)(request) for name in on))
    worker.crash()
