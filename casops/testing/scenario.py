"""Scenarios: stories about workers and a network, told in text files that carry the protocol's trace.

A line that begins in the first column is a command (or a `#` comment); the indented lines below it are what it led to.
`play` runs the commands on the production protocol and gives the whole text again, with what they lead to now.

    documents a=100 b=0         the world before; `total stays`: the coins in all purses must never change
    options patience=5          for those who begin after this
    first asks t1 move a b 30   a worker begins to ask for operation t1 (`move a b 30`, `put a 5`, `burn a`)
    first settles | sweeps | cancels t1 | reads a b     or begins something else
    first sends                 what it has to send reaches the store; the replies are on their way
    first wakes                 it is told the replies, and goes on to what it has to send next
    first steps                 both; `first runs`: until it has ended (`first asks … and runs`: the same at once)
    first crashes               it is never heard of again
    clock +5                    so many seconds pass; `forget`: more than the retention
    deliver                     the writes that were held back reach the store now
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
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from casops.documents import dump
from casops.errors import CasOpsError
from casops.messages import INTENTIONS, RESULTS, Insert, Key, Read, Replace, Reply, Scan, Stored, StoreRequest
from casops.messages import Unknown, Version
from casops.operations import Operation
from casops.options import Options
from casops.stores.memory import MemoryStore
from casops.testing.checkers import Heard, Violation, Watcher, check_put_away, check_serial, committed_in, stage_in
from casops.testing.programs import Burn, Move, Purse, Put, answer_of, engine_for, model_of, reading_model
from casops.testing.telling import tell_reply, tell_request
from casops.testing.worker import SimulatedClock, Worker

INDENT = "    "

# Batches of one `runs`.  A scenario takes some tens; more means that it does not come to an end.
MAX_STEPS = 1_000


def play(text: str) -> str:
    """The same scenario with what its commands lead to now.  Raises Violation, or ValueError for a bad command."""
    story, lines = Scenario(), list[str]()
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith(INDENT):
            continue
        lines.append(line)
        if line and not line.startswith("#"):
            try:
                story.command(line)
            except (Violation, ValueError) as error:
                error.add_note("\n".join([f"in line {number}: {line}", *story.told]))
                raise
            lines += [INDENT + each for each in story.told]
            story.told.clear()
    story.check()
    return "\n".join(lines) + "\n"


class Actor:
    """One worker of the story and what it is doing."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lives = 0
        self.worker: Worker[Any] | None = None
        self.ends: Callable[[Any], str] = str  # tells what it ended with
        self.replies: list[Reply] | None = None  # on their way to it
        self.ended: Any = None  # what it would settle
        self.waited = 0.0

    def at_work(self) -> Worker[Any]:
        if self.worker is None or self.worker.ended:
            raise ValueError(f"{self.name} is doing nothing")
        return self.worker


class Scenario:
    """One world: a store, a clock, workers, and writes that are still under way."""

    def __init__(self) -> None:
        self.options = Options(patience=1.0, poll=1.0, retention=10_000.0)  # one wait is the whole patience
        self.clock = SimulatedClock()
        self.store = MemoryStore(clock=self.clock.wall)
        self.watcher = Watcher({})
        self.told: list[str] = []
        self.actors: dict[str, Actor] = {}
        self.held: list[tuple[str, StoreRequest]] = []
        self.initial: dict[str, Any] = {}
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
                for name, coins in (each.split("=") for each in purses):
                    key, self.initial[name] = Purse.ref(name).key, int(coins)
                    self.store.perform_one(Insert(key, dump(key, Purse(coins=int(coins)))))
                self.watcher = Watcher(self.store.versions())
            case ["total", "stays"]:
                self.total = sum(self.purses().values())
            case ["options", *changes]:
                changed: dict[str, Any] = {name: float(value) for name, value in (each.split("=") for each in changes)}
                self.options = replace(self.options, **changed)
            case ["clock", seconds]:
                self.pass_time(float(seconds))
            case ["forget"]:
                self.pass_time(self.options.retention + 1)
            case ["deliver"]:
                late, self.held = self.held, []
                for name, request in late:
                    self.perform(name, request, "late")
            case ["show", "documents"]:
                for key, version in self.watcher.versions.items():
                    if key.collection == "purses":
                        self.tell(key.id, tell_reply(version))
            case ["show", "record" | "intention" as what, operation_id]:
                self.show(what, operation_id)
            case ["all", "settled"]:
                check_put_away(self.watcher.versions)
                left = [str(key) for key, each in self.watcher.versions.items() if key[0] == INTENTIONS or each.stage]
                if left:
                    raise Violation(f"not settled: {', '.join(left)}")
                self.tell(" ".join(f"{name}={coins}" for name, coins in self.purses().items()) or "nothing is left")
            case [name, *words]:
                self.worker_does(self.actors.setdefault(name, Actor(name)), words, faults)
            case _:
                raise ValueError("not a command")

    def worker_does(self, actor: Actor, words: list[str], faults: str) -> None:
        match words:
            case ["sends"]:
                self.send(actor, faults)
            case ["wakes"]:
                self.wake(actor)
            case ["steps"]:
                self.send(actor, faults)
                self.wake(actor)
            case ["runs"]:
                self.run(actor)
            case ["crashes"]:
                actor.at_work().crash()
                actor.replies = None
            case [*words, "and", "runs"]:
                self.start(actor, words)
                self.run(actor)
            case _:
                self.start(actor, words)

    # --- workers ------------------------------------------------------------------------------

    def start(self, actor: Actor, words: list[str]) -> None:
        if actor.worker is not None and not actor.worker.ended:
            raise ValueError(f"{actor.name} is still at work")
        engine, began, steps = engine_for(actor.name, self.options), self.moment, None
        match words:
            case ["asks", operation_id, *words]:
                operation, _ = self.operations.setdefault(operation_id, (made(words), began))
                if operation != made(words):
                    raise ValueError(f"{operation_id} is another operation")
                steps = engine.execute(engine.work(made(words), operation_id), operation_id)
                actor.ends = lambda result: self.hear(actor, *result)
            case ["cancels", operation_id]:
                steps = engine.cancel(operation_id)
                actor.ends = lambda result: self.hear(actor, *result)
            case ["settles"] if actor.ended is not None:
                steps = engine.settle(actor.ended)
                actor.ends = lambda _: "has settled"
            case ["sweeps"]:
                steps = engine.recover()
                actor.ends = swept
            case ["reads", *names]:
                steps = engine.snapshot([Purse.ref(name) for name in names])
                actor.ends = lambda result: self.has_read(names, began, result)
            case _:
                raise ValueError(f"{actor.name} cannot do that")
        actor.lives += 1
        life = actor.name if actor.lives == 1 else f"{actor.name}{actor.lives}"  # ids it makes must be fresh
        actor.waited, actor.replies = 0.0, None
        actor.worker = Worker[Any](life, steps, self.clock)
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
        batch = actor.at_work().batch or ()
        if actor.replies is not None:
            raise ValueError(f"{actor.name} waits for replies: it wakes first")
        hows = [part.split(":") for part in faults.split(";") if part]
        troubles = {name.strip(): how.strip() for how, names in hows for name in names.split(",")}
        labels = [label(request) for request in batch]
        if not troubles.keys() <= {"all", *labels} or not set(troubles.values()) <= {"request lost", "reply lost", "held"}:
            raise ValueError(f"{actor.name} sends {labels}; {troubles} cannot happen to that")
        actor.replies = []
        for request, name in zip(batch, labels, strict=True):
            how = troubles.get(name, troubles.get("all", ""))
            if how in ("", "reply lost"):
                reply = self.perform(actor.name, request, how)
            else:
                self.tell(f"{actor.name} → {tell_request(request)}", f"({how})")
                self.held += [(actor.name, request)] if how == "held" else []
            actor.replies.append(Unknown("no reply") if how else reply)

    def wake(self, actor: Actor) -> None:
        if actor.replies is None:
            raise ValueError(f"{actor.name} has sent nothing")
        replies, actor.replies = actor.replies, None
        actor.at_work().answer(replies)
        self.after(actor)
