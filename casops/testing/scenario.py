"""Scenarios: stories about workers and a network, told in text files that carry the protocol's trace.

A line that begins in the first column is a command (or a `#` comment); the indented lines below it are what it led to.
`play` runs the commands on the production protocol and gives the whole text again, with what they lead to now.

    documents a=100 b=0         the world before; `total stays`: the coins in all purses must never change
    first asks t1 move a b 30   a worker begins to ask for operation t1 (`move a b 30`, `put a 5`, `burn a`)
    first settles | sweeps | cancels t1 | reads a b     or begins something else
    first sends                 what it has to send reaches the store; the replies are on their way
    first wakes                 it is told the replies, and goes on to what it has to send next
    first steps                 both; `first runs`: until it has ended (`first asks … and runs`: the same at once)
    first crashes               it is never heard of again
    deliver                     the writes that were held back reach the store now
    clock +5                    so many seconds pass; `forget`: more than the retention
    show documents              what is stored, stages included; `show record t1`, `show intention t1`
    all settled                 checks that nothing is pending and no stage is left

`sends` and `steps` take faults: `first steps; request lost: record; reply lost: stage a, stage b; held: all`.
Requests are called `record`, `intention`, `stage a`, `settle a` (a write that leaves no stage), `read a`, `scan`.
Every write is watched, every answer is compared with those before, and in the end there must be a serial order
that explains all answers and documents (checkers.py).

Must not be in here: rules of the protocol; stories.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from casops import messages as m
from casops.documents import dump
from casops.errors import CasOpsError
from casops.operations import Operation
from casops.options import Options
from casops.protocol.fate import ttl_seconds
from casops.stores.memory import MemoryStore
from casops.testing.checkers import Heard, Violation, Watcher, check_put_away, check_serial, committed_in, stage_in
from casops.testing.programs import OPERATIONS, Purse, answer_of, engine_for, model_of, reading_model
from casops.testing.telling import tell_reply, tell_request
from casops.testing.worker import SimulatedClock, Worker

INDENT = "    "
COLLECTIONS = {"record": m.RESULTS, "intention": m.INTENTIONS, "documents": Purse.document_collection}
MAX_STEPS = 1_000  # batches of one `runs`; a scenario takes some tens, so more of them means that it never ends


def play(text: str, story: Scenario | None = None) -> str:
    """The same scenario with what its commands lead to now.  Raises AssertionError (also for what is no command).

    `story`: where it is played; default: in memory.
    """
    story, lines = Scenario() if story is None else story, list[str]()
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith(INDENT):
            continue
        lines.append(line)
        if line and not line.startswith("#"):
            try:
                story.command(line)
            except AssertionError as error:
                error.add_note("\n".join([f"in line {number}: {line}", *story.told]))
                raise
            lines += [INDENT + each for each in story.told]
            story.told.clear()
    story.check()
    return "\n".join(lines) + "\n"


@dataclass
class Actor:
    """One worker of the story and what it is doing."""

    name: str
    lives: int = 0
    worker: Worker[Any] | None = None
    ends: Callable[[Any], str] = str  # tells what it ended with
    replies: list[m.Reply] | None = None  # on their way to it
    ended: Any = None  # what it would settle
    waited: float = 0.0


class Shelf(Protocol):
    """What a story needs of a store."""

    def perform_one(self, request: m.StoreRequest) -> m.Reply: ...

    def versions(self) -> dict[m.Key, m.Version]:
        """Everything that is stored, past the protocol."""
        ...


class Scenario:
    """One world: a store, a clock, workers, and writes that are still under way."""

    store: Shelf

    def __init__(self) -> None:
        self.options = Options(patience=1.0, poll=1.0, retention=10_000.0)  # one wait is the whole patience
        self.clock = SimulatedClock()
        self.store = MemoryStore(clock=self.clock.wall)
        self.watcher = Watcher({})
        self.told: list[str] = []
        self.actors: dict[str, Actor] = {}
        self.held: list[tuple[str, m.StoreRequest]] = []
        self.initial: dict[str, int] = {}
        self.total: int | None = None
        self.moment = 0  # one for each command, so that answers respect real time
        self.operations: dict[str, tuple[Operation[Any], int]] = {}  # with the moment they were asked for
        self.heard: dict[str, tuple[Any, int]] = {}
        self.readings: list[Heard] = []

    def command(self, line: str) -> None:
        self.moment += 1
        command, _, faults = line.partition(";")
        match command.split():
            case ["documents", *purses]:
                self.initial = {name: int(coins) for name, coins in (each.split("=") for each in purses)}
                for key, coins in ((Purse.ref(name).key, coins) for name, coins in self.initial.items()):
                    self.store.perform_one(m.Insert(key, dump(key, Purse(coins=coins))))
                self.watcher = Watcher(self.store.versions())
            case ["total", "stays"]:
                self.total = sum(self.purses().values())
            case ["clock", seconds]:
                self.pass_time(float(seconds))
            case ["forget"]:
                self.pass_time((ttl_seconds(self.options) or 0) + 1)
            case ["deliver"]:
                for name, request in self.held:
                    self.perform(name, request, "late")
                self.held.clear()
            case ["show", what, *ids]:
                self.show(COLLECTIONS[what], ids)
            case ["all", "settled"]:
                self.all_settled()
            case [name, "sends" | "steps" | "wakes" as how]:
                actor = self.actors[name]
                if how != "wakes":
                    self.send(actor, faults)
                if how != "sends":
                    self.wake(actor)
            case [name, *words, "runs"]:
                if words:
                    self.start(name, words[:-1])
                self.run(self.actors[name])
            case [name, "crashes"]:
                worker = self.actors[name].worker
                assert worker is not None, f"{name} is doing nothing"
                worker.crash()
            case words:
                self.start(words[0], words[1:])

    # --- workers ------------------------------------------------------------------------------

    def start(self, name: str, words: list[str]) -> None:
        actor = self.actors.setdefault(name, Actor(name))
        assert actor.worker is None or actor.worker.ended, f"{name} is still at work"
        engine, began = engine_for(name, self.options), self.moment
        steps: Any
        match words:
            case ["asks", operation_id, *words]:
                operation = self.operations.setdefault(operation_id, (made(words), began))[0]
                steps = engine.execute(engine.work(operation, operation_id), operation_id)
                actor.ends = lambda result: self.hear(actor, *result)
            case ["cancels", operation_id]:
                steps = engine.cancel(operation_id)
                actor.ends = lambda result: self.hear(actor, *result)
            case ["settles"]:
                steps = engine.settle(actor.ended)
                actor.ends = lambda _: "has settled"
            case ["sweeps"]:
                steps = engine.recover()
                actor.ends = swept
            case ["reads", *names]:
                steps = engine.snapshot([Purse.ref(name) for name in names])
                actor.ends = lambda result: self.has_read(names, began, result)
            case _:
                raise AssertionError("no command")
        actor.lives += 1
        life = name if actor.lives == 1 else f"{name}{actor.lives}"  # ids it makes must be fresh
        actor.waited, actor.replies, actor.worker = 0.0, None, Worker[Any](life, steps, self.clock)

    def run(self, actor: Actor) -> None:
        for _ in range(MAX_STEPS):
            if actor.worker is None or actor.worker.ended:
                return
            if actor.replies is None:
                self.send(actor, "")
            self.wake(actor)
        raise Violation(f"{actor.name} does not come to an end")

    def send(self, actor: Actor, faults: str) -> None:
        assert actor.worker is not None and actor.replies is None, f"{actor.name} has nothing to send"  # noqa: PT018
        batch = actor.worker.batch or ()
        hows = [part.split(":") for part in faults.split(";") if part]
        trouble = {name.strip(): how.strip() for how, names in hows for name in names.split(",")}
        labels = [label(request) for request in batch]
        assert trouble.keys() <= {"all", *labels}, f"{actor.name} sends {labels}"
        actor.replies = []
        for request, name in zip(batch, labels, strict=True):
            how = trouble.get(name, trouble.get("all", ""))
            assert how in ("", "request lost", "reply lost", "held"), how
            if how in ("", "reply lost"):
                reply = self.perform(actor.name, request, how)
            else:
                reply = m.Unknown("no reply")
                self.tell(f"{actor.name} → {tell_request(request)}", f"({how})")
                self.held += [(actor.name, request)] if how == "held" else []
                self.lose(request, how)
            actor.replies.append(m.Unknown("no reply") if how else reply)

    def wake(self, actor: Actor) -> None:
        worker, replies = actor.worker, actor.replies
        assert worker is not None and replies is not None, f"{actor.name} has sent nothing"  # noqa: PT018
        actor.replies = None
        worker.answer(replies)
        if worker.paused > actor.waited:
            self.tell(f"{actor.name} waits {worker.paused - actor.waited:g} s")
            actor.waited = worker.paused
            self.pass_time(0)
        if worker.error is not None:
            assert isinstance(worker.error, CasOpsError), repr(worker.error)
            self.tell(f"{actor.name} hears an error: {type(worker.error).__name__}: {worker.error}")
        elif worker.ended:
            self.tell(f"{actor.name} {actor.ends(worker.result)}")

    def hear(self, actor: Actor, outcome: Any, ended: Any) -> str:
        actor.ended, answer, name = ended, answer_of(outcome), outcome.operation_id
        first = self.heard.setdefault(name, (answer, self.moment))[0]
        assert first == answer, f"{name} was answered {first} and now {answer}"
        how = (", replayed" if outcome.replayed else "") + (", taken over" if outcome.taken_over else "")
        return f"hears {name}: {' '.join(map(str, answer))}{how}"

    def has_read(self, names: list[str], began: int, snapshot: Any) -> str:
        coins = [None if (each := snapshot.get(Purse.ref(name))) is None else each.coins for name in names]
        self.readings.append(Heard("a reading", reading_model(names), began, self.moment, ["read", coins]))
        return "reads " + " ".join(f"{name}={each}" for name, each in zip(names, coins, strict=True))

    # --- the store ----------------------------------------------------------------------------

    def lose(self, request: m.StoreRequest, how: str) -> None:
        """It never reaches the store, or not now.  Nothing happens; on a network one sees to it that it does not."""

    def perform(self, name: str, request: m.StoreRequest, how: str) -> m.Reply:
        reply = self.store.perform_one(request)
        self.tell(f"{name} → {tell_request(request)}", tell_reply(reply) + (f" ({how})" if how else ""))
        if isinstance(reply, m.Stored):
            self.watcher.saw(request, self.store.versions().get)
            total = sum(self.purses().values())
            assert self.total in (None, total), f"there were {self.total} coins, and now there are {total}"
        return reply

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        for key in sorted(self.watcher.versions.keys() - self.store.versions().keys()):
            self.watcher.forgotten(key)
            self.tell(f"{str(key).removeprefix('_casops.')} is forgotten")

    def purses(self) -> dict[str, int]:
        """What is committed, whether or not it was noticed and settled."""
        found, ended = dict[str, int](), committed_in(self.watcher.versions)
        for key, version in sorted(self.watcher.versions.items()):
            name, attempt = stage_in(version) or ("", "")
            counts = version.stage is not None and name in ended and ended[name].attempt == attempt
            body = version.stage.body if version.stage is not None and counts else version.body
            if key.collection == COLLECTIONS["documents"] and body is not None:
                found[key.id] = json.loads(body)["coins"]
        return found

    def show(self, collection: str, ids: list[str]) -> None:
        for key in [m.Key(collection, id) for id in ids] or sorted(self.watcher.versions):
            version = self.watcher.versions.get(key)
            past = json.loads(version.body or "{}").get("history", ()) if version else ()
            if key.collection == collection:
                self.tell(f"{key.id}: {tell_reply(version or m.Missing())}")
                self.told += ["  " + " ".join(filter(None, (x["what"], x["attempt"], "by", x["worker"]))) for x in past]

    def all_settled(self) -> None:
        check_put_away(self.watcher.versions)
        versions = self.watcher.versions.items()
        left = [str(key) for key, each in versions if key.collection == m.INTENTIONS or each.stage is not None]
        assert not left, f"not settled: {', '.join(left)}"
        self.tell(" ".join(f"{name}={coins}" for name, coins in self.purses().items()) or "no purses")

    def check(self) -> None:
        """All that was heard and all that is stored must fit together."""
        history = list(self.readings)
        for name, (operation, asked) in self.operations.items():
            answer, heard_at = self.heard.get(name, (None, None))
            ended = self.watcher.ended.get(name)
            assert heard_at is None or (ended is not None and ended.answer == answer), f"{name}: {answer}, not {ended}"
            if ended is not None and ended.answer != ["cancelled"]:
                history.append(Heard(name, model_of(operation), asked, heard_at, ended.answer))
        check_serial(self.initial, self.purses(), history)

    def tell(self, what: str, reply: str = "") -> None:
        self.told.append(f"{what:<62} {reply}" if reply else what)


def made(words: list[str]) -> Operation[Any]:
    operation = {each.__name__.lower(): each for each in OPERATIONS}[words[0]]
    return operation(**dict(zip(operation.__annotations__, words[1:], strict=True)))


def label(request: m.StoreRequest) -> str:
    """What a scenario calls a request."""
    if isinstance(request, m.Scan):
        return "scan"
    name = {m.RESULTS: "record", m.INTENTIONS: "intention"}.get(request.key.collection)
    if isinstance(request, m.Read):
        return f"read {name or request.key.id}"
    stages = isinstance(request, m.Insert | m.Replace) and request.stage is not None
    return name or f"{'stage' if stages else 'settle'} {request.key.id}"


def swept(recovery: Any) -> str:
    finished = [f"finished {each.operation_id}: {' '.join(map(str, answer_of(each)))}" for each in recovery.finished]
    left = [f"left {each.operation_id}: {each.note}" for each in recovery.left]
    return f"has swept: {', '.join([f'put away {recovery.settled}', *finished, *left])}"
