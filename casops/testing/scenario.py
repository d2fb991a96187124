"""Scenarios: stories about workers and a network, told in text files that carry the protocol's trace.

A line that begins in the first column is a command (or a `#` comment); the indented lines below it are what it led to.
`play` runs the commands on the production protocol and gives the whole text again, with what they lead to now.

    documents a=100 b=0         the world before; `total stays`: the coins in all purses never change from now on
    options patience=5          other options for those who begin after this
    first asks t1 move a b 30   a worker begins to ask for operation t1 (`move`, `put a 5`, `burn a`)
    first settles | sweeps | cancels t1 | reads a b     or begins something else
    first sends                 what it wants to send now reaches the store; the replies are on their way
    first wakes                 it is told the replies, and goes on to what it will send next
    first steps                 both
    first runs                  steps until it has ended (after any of the above also as `… and runs`)
    first crashes               it is never heard of again
    clock +5                    so many seconds pass; `forget`: the retention, too
    deliver                     writes that were held back reach the store now (`deliver stage b`: this one)
    show documents | record t1 | intention t1           what is stored, void stages included
    all settled                 checks that nothing is pending and no stage of a committed attempt is left

`sends` and `steps` take faults: `first steps; request lost: record; reply lost: stage a; held: stage b`.  The names of
requests are `record`, `intention`, `stage a`, `settle a` (any write that leaves no stage), `read a`, `scan`, `all`.

Every write is watched, every answer is compared with those before, and in the end there must be a serial order that
explains all answers and documents (checkers.py).

Must not be in here: rules of the protocol; stories.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from casops.documents import dump
from casops.errors import CasOpsError
from casops.messages import (
    Insert,
    Read,
    Reply,
    Scan,
    Stored,
    StoreRequest,
    Unknown,
    Version,
)
from casops.operations import Operation
from casops.options import Options
from casops.outcome import Outcome
from casops.protocol.execution import Ended
from casops.stores.memory import MemoryStore
from casops.testing.checkers import Heard, Violation, Watcher
from casops.testing.programs import Purse, answer_of, engine_for, reading_model
from casops.testing.telling import tell_reply, tell_request
from casops.testing.worker import SimulatedClock, Worker

INDENT = "    "

# Steps of one `runs`.  A scenario takes some tens; more means that it does not come to an end.
MAX_STEPS = 1_000


def play(text: str) -> str:
    """The same scenario with what its commands lead to now.  Raises Violation, or ValueError for a bad command."""
    story = Scenario()
    lines: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith(INDENT):
            continue
        lines.append(line)
        if line and not line.startswith("#"):
            story.told = []
            try:
                story.command(line)
            except (Violation, ValueError, KeyError) as error:
                error.add_note(f"in line {number}: {line}; so far: " + "\n".join(["", *story.told]))
                raise
            lines += [INDENT + each for each in story.told]
    story.check()
    return "\n".join(lines) + "\n"


class Actor:
    """One worker of the story and what it is doing."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lives = 0
        self.worker: Worker[Any] | None = None
        self.ends: Callable[[Any], str] = str  # tells what it ended with
        self.replies: list[Reply] | None = None  # on their way
        self.ended: Ended | None = None  # what it would settle
        self.waited = 0.0


class Scenario:
    """One world: a store, a clock, workers, and writes that are still under way."""

    def __init__(self) -> None:
        # One look in the middle of a patience, so that waiting is told in one line or two.
        self.options = Options(patience=1.0, poll=1.0, retention=10_000.0)
        self.clock = SimulatedClock()
        self.store = MemoryStore(clock=self.clock.wall)
        self.told: list[str] = []
        self.actors: dict[str, Actor] = {}
        self.held: list[tuple[str, StoreRequest]] = []
        self.begin({})
        self.total: int | None = None
        self.moment = 0  # one for each command, so that answers respect real time
        self.operations: dict[str, Operation[Any]] = {}
        self.asked: dict[str, int] = {}
        self.heard: dict[str, tuple[int, Any]] = {}
        self.readings: list[Heard] = []

    def begin(self, purses: dict[str, int]) -> None:
        for name, coins in purses.items():
            key = Purse.ref(name).key
            self.store.perform_one(Insert(key, dump(key, Purse(coins=coins))))
        self.initial = dict[str, Any](purses)
        self.watcher = Watcher(self.store.versions())

    def command(self, line: str) -> None:
        self.moment += 1
        command, _, faults = line.partition(";")
        match command.split():
            case ["documents", *purses]:
                self.begin({name: int(coins) for name, coins in (each.split("=") for each in purses)})
            case ["total", "stays"]:
                self.total = sum(each or 0 for each in self.purses().values())
            case ["options", *changes]:
                told = {name: float(value) for name, value in (each.split("=") for each in changes)}
                self.options = replace(self.options, **{**told, **({"attempts": 3} if "attempts" in told else {})})
            case ["clock", seconds]:
                self.pass_time(float(seconds))
            case ["forget"]:
                self.pass_time(self.options.retention + 1)
            case ["deliver", *words]:
                self.deliver(" ".join(words) or "all")
            case ["show", *words]:
                self.show(words)
            case ["all", "settled"]:
                self.all_settled()
            case [name, *words, "and", "runs"]:
                self.start(self.actor(name), words)
                self.run(self.actor(name))
            case [name, "sends"]:
                self.send(self.actor(name), faults)
            case [name, "wakes"]:
                self.wake(self.actor(name))
            case [name, "steps"]:
                self.send(self.actor(name), faults)
                self.wake(self.actor(name))
            case [name, "runs"]:
                self.run(self.actor(name))
            case [name, "crashes"]:
                self.working(self.actor(name)).crash()
            case [name, *words]:
                self.start(self.actor(name), words)
            case _:
                raise ValueError("not a command")

    # --- workers ------------------------------------------------------------------------------

    def actor(self, name: str) -> Actor:
        return self.actors.setdefault(name, Actor(name))

    def working(self, actor: Actor) -> Worker[Any]:
        if actor.worker is None or actor.worker.ended:
            raise ValueError(f"{actor.name} is doing nothing")
        return actor.worker

    def start(self, actor: Actor, words: list[str]) -> None:
        if actor.worker is not None and not actor.worker.ended:
            raise ValueError(f"{actor.name} is still at work")
        engine = engine_for(actor.name, self.options)
        steps: Any
        match words:
            case ["asks", operation_id, *words]:
                operation = self.operations.setdefault(operation_id, made(words))
                self.asked.setdefault(operation_id, self.moment)
                steps = engine.execute(engine.work(made(words), operation_id), operation_id)
                actor.ends = lambda result: self.hear(actor, operation_id, result)
                assert operation == made(words)
            case ["cancels", operation_id]:
                steps = engine.cancel(operation_id)
                actor.ends = lambda result: self.hear(actor, operation_id, result)
            case ["settles"]:
                assert actor.ended is not None, f"{actor.name} has heard nothing that it could settle"
                steps = engine.settle(actor.ended)
                actor.ends = lambda _: "has settled"
            case ["sweeps"]:
                steps = engine.recover()
                actor.ends = swept
            case ["reads", *names]:
                began = self.moment
                steps = engine.snapshot([Purse.ref(name) for name in names])
                actor.ends = lambda result: self.has_read(names, began, result)
            case _:
                raise ValueError("nothing a worker can do")
        actor.lives += 1
        life = f"{actor.name}{actor.lives if actor.lives > 1 else ''}"  # ids it makes must be fresh
        actor.waited, actor.replies = 0.0, None
        actor.worker = Worker(life, steps, self.clock)
        self.after(actor)

    def run(self, actor: Actor) -> None:
        for _ in range(MAX_STEPS):
            if actor.worker is not None and actor.worker.ended:
                return
            if actor.replies is None:
                self.send(actor, "")
            self.wake(actor)
        raise Violation(f"{actor.name} does not come to an end")

    def send(self, actor: Actor, faults: str) -> None:
        batch = self.working(actor).batch
        assert batch is not None
        if actor.replies is not None:
            raise ValueError(f"{actor.name} waits for replies: it wakes first")
        troubles = [(name.strip(), how) for how, names in parts(faults) for name in names]
        unused = {name for name, _ in troubles} - {"all"} - {label(request) for request in batch}
        if unused:
            raise ValueError(f"{actor.name} does not send {unused}, but {[label(request) for request in batch]}")
        actor.replies = []
        for request in batch:
            how = next((how for name, how in troubles if name in ("all", label(request))), "")
            if how in ("", "reply lost"):
                reply = self.perform(actor.name, request, how)
            else:
                self.tell(f"{actor.name} → {tell_request(request)}", f"({how})")
                reply = Unknown("no reply")
            if how == "held":
                self.held.append((actor.name, request))
            actor.replies.append(Unknown("no reply") if how else reply)

    def wake(self, actor: Actor) -> None:
        worker = self.working(actor)
        if actor.replies is None:
            raise ValueError(f"{actor.name} has sent nothing")
        replies, actor.replies = actor.replies, None
        worker.answer(replies)
        self.after(actor)

    def after(self, actor: Actor) -> None:
        """Tell what a worker did besides sending."""
        worker = actor.worker
        assert worker is not None
        if worker.paused > actor.waited:
            self.tell(f"{actor.name} waits {worker.paused - actor.waited:g} s")
            actor.waited = worker.paused
            self.pass_time(0)
        if worker.error is not None:
            if not isinstance(worker.error, CasOpsError):
                raise Violation(f"{actor.name} ended with {worker.error!r}") from worker.error
            self.tell(f"{actor.name} hears an error: {type(worker.error).__name__}: {worker.error}")
        elif worker.ended:
            self.tell(f"{actor.name} {actor.ends(worker.result)}")

    def hear(self, actor: Actor, operation_id: str, result: tuple[Outcome[Any], Ended]) -> str:
        outcome, actor.ended = result
        answer = answer_of(outcome)
        before = self.heard.setdefault(operation_id, (self.moment, answer))
        if before[1] != answer:
            raise Violation(f"{operation_id} was answered {before[1]} and now {answer}")
        how = (", replayed" if outcome.replayed else "") + (", taken over" if outcome.taken_over else "")
        return f"hears {operation_id}: {' '.join(map(str, answer))}{how}"

    def has_read(self, names: list[str], began: int, snapshot: Any) -> str:
        found = [snapshot.get(Purse.ref(name)) for name in names]
        coins = [None if each is None else each.coins for each in found]
        self.readings.append(Heard("a reading", reading_model(names), began, self.moment, ["read", coins]))
        return "reads " + " ".join(f"{name}={each}" for name, each in zip(names, coins, strict=True))

    # --- the store ----------------------------------------------------------------------------

    def perform(self, name: str, request: StoreRequest, how: str) -> Reply:
        reply = self.store.perform_one(request)
        self.tell(f"{name} → {tell_request(request)}", tell_reply(reply) + (f" ({how})" if how else ""))
        if isinstance(reply, Stored) and not isinstance(request, Read | Scan):
            now = self.store.perform_one(Read(request.key))
            self.watcher.wrote(request.key, now if isinstance(now, Version) else None)
            total = sum(each or 0 for each in self.purses().values())
            if self.total not in (None, total):
                raise Violation(f"there were {self.total} coins, and now there are {total}")
        return reply
