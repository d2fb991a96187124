"""The explorer: all schedules of a small case, with the production protocol on the memory store.

Each request of a batch is a step of its own, in any order.  A write may at any moment get no reply (then it
was lost, or was applied, or is applied at any later moment: all three are explored).  A worker may
be crashed at any point; what it had sent may still land.  States seen before are not explored again.

How it is fast enough in Python: a worker is a function of the replies it got, so its states form a tree
that is computed once (`Node`), and so is the effect of each request on each state of the store.  What is
enumerated are small tuples of numbers.

What is checked: every single write (checkers.Watcher); every end (all workers ended or crashed): what was told not to
have happened does not happen by itself (checkers.check_unhappened); fresh workers must bring every operation to its
end, all who asked must have got the same answers, and documents and answers must have a serial order that respects
real time (checkers.check_serial).

Must not be in here: cases (cases.py), rules.
"""

from __future__ import annotations

import time
from ast import literal_eval
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeAlias, TypeVar

from casops.documents import dump
from casops.messages import (
    Batch,
    Clock,
    FreshId,
    Insert,
    Pause,
    Read,
    ReadClock,
    Reply,
    Scan,
    Stored,
    StoreRequest,
    Unknown,
)
from casops.operations import Operation
from casops.options import Options
from casops.stores.memory import MemoryStore
from casops.testing.alone import WALL, finish
from casops.testing.checkers import (
    LATER,
    Heard,
    Violation,
    Watcher,
    check_put_away,
    check_serial,
    check_told,
    check_unhappened,
    committed_in,
    ended_in,
    moments_of,
)
from casops.testing.frozen import comparable, frozen
from casops.testing.programs import (
    Asks,
    Hears,
    MakeProgram,
    Program,
    Purse,
    engine_for,
    model_of,
    purses_in,
    reading_model,
    runs,
    sweeps,
)
from casops.testing.telling import tell_reply, tell_request

T = TypeVar("T", bound=Hashable)
Epilogue: TypeAlias = tuple[dict[str, Any], dict[str, Any], dict[str, Operation[Any]]]  # answers, purses, who counts

# Nobody waits in an exhaustive search: taking over early is the harder case.  Few attempts keep it finite.
OPTIONS = Options(patience=0.0, poll=0.0, grace=0.0, attempts=3, deadline=1.0, retention=100.0)
FRESH = replace(OPTIONS, attempts=20)  # a fresh worker may lose to fences of its own, but comes through
LOST = Unknown("no reply")


@dataclass(frozen=True)
class Case:
    """Documents, workers, and how much may go wrong."""

    name: str
    purses: Mapping[str, int]
    operations: Mapping[str, Operation[Any]]
    workers: Sequence[MakeProgram]
    lost_replies: int = 0
    crashes: int = 0
    readers: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    # Asked for under an id of `operations`, too; such a one may end with either, or as an error.
    rivals: Mapping[str, Operation[Any]] = field(default_factory=dict[str, Operation[Any]])
    options: Options = OPTIONS
    begun: int = 0  # batches the first worker has behind it when it crashes and the others come (0: it lives)


@dataclass(frozen=True)
class Found:
    """What an exploration found out."""

    case: str
    states: int
    steps: int
    finals: int
    seconds: float
    violation: str | None
    trace: tuple[str, ...]
    complete: bool


class State(NamedTuple):
    """Everything that decides what may happen next, as numbers of interned things."""

    store: int
    workers: tuple[tuple[int, tuple[int, ...]], ...]  # node, replies so far (-1: not yet); (-1, ()): crashed
    late: tuple[int, ...]  # writes that may still land
    order: tuple[tuple[str, frozenset[str]], ...]  # what had been answered when each operation was asked for
    heard: tuple[tuple[str, str], ...]  # who heard what, as text
    lost_left: int
    crashes_left: int


class Node:
    """A worker that got exactly these replies."""

    __slots__ = ("batch", "children", "error", "events", "ids", "number", "path", "program", "worker")

    def __init__(self, number: int, worker: int, path: tuple[tuple[Reply, ...], ...]) -> None:
        self.number = number
        self.worker = worker
        self.path = path
        self.batch: tuple[int, ...] | None = None
        self.events: list[Asks | Hears] = []  # since the last batch
        self.children: dict[tuple[int, ...], int] = {}
        self.error: Exception | None = None
        self.ids = 0  # fresh ids it was given
        self.program: Program | None = None  # waiting for the replies to `batch`


class Interned:
    """Numbers for things, and things for numbers."""

    def __init__(self) -> None:
        self._numbers: dict[Any, int] = {}
        self.things: list[Any] = []

    def number(self, thing: Any, key: Hashable = None) -> int:
        key = thing if key is None else key
        known = self._numbers.get(key)
        if known is None:
            known = self._numbers[key] = len(self.things)
            self.things.append(thing)
        return known


class Explorer:
    """One exhaustive search."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self._requests = Interned()
        self._replies = Interned()
        self._stores = Interned()
        self._nodes: list[Node] = []
        self._effects: dict[tuple[int, int], tuple[int, int]] = {}
        self._epilogues: dict[tuple[int, tuple[int, ...]], Epilogue] = {}
        self._serial: set[Any] = set()
        self._askers: dict[str, set[int]] = {}
        self._unhappened: set[Any] = set()
        self._same: dict[Hashable, int] = {}
        self._lost = self._replies.number(LOST)

    def explore(self, *, seconds: float = 600.0, states: int = 5_000_000) -> Found:
        """Look at every state, or until the bounds; stops at the first violation."""
        began = time.monotonic()
        start = self._start()
        came_from: dict[State, tuple[State, str] | None] = {start: None}
        stack = [start]
        steps = finals = 0
        violation: str | None = None
        state, doing = start, ""
        try:
            while stack and len(came_from) < states and time.monotonic() - began < seconds:
                state, doing = stack.pop(), ""
                following = self._following(state)
                if all(node < 0 or self._nodes[node].batch is None for node, _ in state.workers):
                    finals += 1
                    self._check_end(state)
                for label, make in following:
                    doing = label
                    after = make()
                    steps += 1
                    if after not in came_from:
                        came_from[after] = (state, label)
                        stack.append(after)
        except Violation as error:
            violation = str(error)
        return Found(
            self.case.name,
            len(came_from),
            steps,
            finals,
            time.monotonic() - began,
            violation,
            (*self._trace(came_from, state), *([self._tell(state, doing)] if doing else ())) if violation else (),
            complete=not stack and violation is None,
        )

    # --- states -----------------------------------------------------------------------------

    def _start(self) -> State:
        store = MemoryStore(clock=lambda: WALL)
        for name, coins in self.case.purses.items():
            key = Purse.ref(name).key
            store.perform_one(Insert(key, dump(key, Purse(coins=coins))))
        workers = tuple(self._waiting(self._node(index, ())) for index in range(len(self.case.workers)))
        state = State(self._store(store), workers, (), (), (), self.case.lost_replies, self.case.crashes)
        for _ in range(self.case.begun):
            for place, request in enumerate(self._nodes[state.workers[0][0]].batch or ()):
                state = self._perform(state, 0, place, request)
        return self._crash(state._replace(crashes_left=state.crashes_left + 1), 0) if self.case.begun else state

    def _waiting(self, node: Node) -> tuple[int, tuple[int, ...]]:
        return node.number, tuple(-1 for _ in node.batch or ())

    def _store(self, store: MemoryStore) -> int:
        return self._stores.number(store, comparable(store.state()))

    def _node(self, worker: int, path: tuple[tuple[Reply, ...], ...], parent: Node | None = None) -> Node:
        """The worker that got these replies.

        Run from its beginning, or a step further from its parent, if that one's generator was not used yet
        (a generator can be resumed once, and cannot be copied).
        """
        node = Node(len(self._nodes), worker, path)
        self._nodes.append(node)
        if parent is not None and parent.program is not None:
            program, node.ids, parent.program = parent.program, parent.ids, None
            self._resume(node, program, list(path[-1]))
            return node
        program = self.case.workers[worker](engine_for(f"w{worker + 1}", self.case.options))
        self._resume(node, program, None)
        for replies in path:
            node.events.clear()
            self._resume(node, program, list(replies))
        return node

    def _merged(self, node: Node) -> int:
        """The number of the first node in the same state."""
        if node.batch is None or node.error is not None:
            return node.number
        state = node.worker, node.batch, repr(node.events), frozen(node.program), node.ids
        first = self._nodes[self._same.setdefault(state, node.number)]
        if first is not node and first.program is None:
            first.program, node.program = node.program, None  # spares running the next child from its beginning
        return first.number

    def _resume(self, node: Node, program: Program, reply: Any) -> None:
        """Up to its next batch, or its end."""
        node.batch, node.program = None, None
        while True:
            try:
                request = program.send(reply)
            except StopIteration:
                return
            except Exception as error:  # noqa: BLE001 - whatever a worker ends with is looked at by the checks
                node.error = error
                return
            if isinstance(request, tuple):
                batch: Batch = request
                node.batch = tuple(self._requests.number(each, comparable(each)) for each in batch)
                node.program = program
                return
            if isinstance(request, Asks | Hears):
                node.events.append(request)
                reply = None
            elif isinstance(request, ReadClock):
                reply = Clock(0.0, WALL)
            elif isinstance(request, FreshId):
                node.ids += 1
                reply = f"w{node.worker + 1}-{node.ids}"
            else:
                assert isinstance(request, Pause)
                reply = None

    def _effect(self, store: int, request: int) -> tuple[int, int]:
        """What a request does to a store: the store after it, and the reply.  Checked once."""
        known = self._effects.get((store, request))
        if known is None:
            before: MemoryStore = self._stores.things[store]
            after = before.copy()
            reply = after.perform_one(self._requests.things[request])
            after_number = self._store(after) if isinstance(reply, Stored) else store
            if after_number != store:
                watcher = Watcher(before.versions())
                watcher.saw(self._requests.things[request], after.version)
            known = self._effects[store, request] = (after_number, self._replies.number(reply, comparable(reply)))
        return known

    def _following(self, state: State) -> list[tuple[str, Callable[[], State]]]:
        """Every step that may be next, with a name for traces."""
        steps: list[tuple[str, Callable[[], State]]] = []
        for index, (number, replies) in enumerate(state.workers):
            node = self._nodes[number] if number >= 0 else None
            if node is None or node.batch is None:
                continue
            for place, request in enumerate(node.batch):
                if replies[place] >= 0:
                    continue
                steps.append((f"{index}:{request}", _bind(self._perform, state, index, place, request)))
                if state.lost_left and not isinstance(self._requests.things[request], Read | Scan):
                    steps.append((f"{index}?{request}", _bind(self._lose, state, index, place, request)))
            if state.crashes_left:
                steps.append((f"{index}!", _bind(self._crash, state, index)))
        for request in dict.fromkeys(state.late):
            after, _ = self._effect(state.store, request)
            if after != state.store:
                steps.append((f"late:{request}", _bind(self._land, state, request)))
        return steps

    def _perform(self, state: State, index: int, place: int, request: int) -> State:
        store, reply = self._effect(state.store, request)
        return self._replied(state._replace(store=store), index, place, reply)

    def _lose(self, state: State, index: int, place: int, request: int) -> State:
        """No reply; the write may land at any later moment, or never."""
        late = tuple(sorted((*state.late, request)))
        return self._replied(state._replace(late=late, lost_left=state.lost_left - 1), index, place, self._lost)

    def _land(self, state: State, request: int) -> State:
        store, _ = self._effect(state.store, request)
        late = list(state.late)
        late.remove(request)
        return state._replace(store=store, late=tuple(late))

    def _crash(self, state: State, index: int) -> State:
        number, replies = state.workers[index]
        batch = self._nodes[number].batch or ()
        sent = [
            request
            for request, reply in zip(batch, replies, strict=True)
            if reply < 0 and not isinstance(self._requests.things[request], Read | Scan)
        ]
        workers = (*state.workers[:index], (-1, ()), *state.workers[index + 1 :])
        return state._replace(
            workers=workers, late=tuple(sorted((*state.late, *sent))), crashes_left=state.crashes_left - 1
        )

    def _replied(self, state: State, index: int, place: int, reply: int) -> State:
        number, replies = state.workers[index]
        node = self._nodes[number]
        if not node.path and all(each < 0 for each in replies):
            state = self._note(state, index, node)  # its first request: now it has asked
        replies = (*replies[:place], reply, *replies[place + 1 :])
        after = (number, replies)
        if min(replies) >= 0:
            child = node.children.get(replies)
            if child is None:
                told = tuple(self._replies.things[each] for each in replies)
                child = node.children[replies] = self._merged(self._node(index, (*node.path, told), node))
            state = self._note(state, index, self._nodes[child])
            after = self._waiting(self._nodes[child])
        return state._replace(workers=(*state.workers[:index], after, *state.workers[index + 1 :]))

    def _note(self, state: State, index: int, node: Node) -> State:
        """Keep what callers asked and heard."""
        if node.error is not None:
            raise Violation(f"worker w{index + 1} ended with {type(node.error).__name__}: {node.error}")
        for event in node.events:
            if isinstance(event, Asks):
                name = event.operation_id  # the first asking counts: whoever retries is the same caller
                self._askers.setdefault(name, set()).add(index)
                answered = frozenset(operation_id for operation_id, said in state.heard if not said.startswith(ERROR))
                if all(each != name for each, _ in state.order):
                    state = state._replace(order=tuple(sorted((*state.order, (name, answered)))))
            else:
                store: MemoryStore = self._stores.things[state.store]
                if event.operation_id not in self.case.rivals or event.answer != MISMATCH:
                    check_told(ended_in(store.versions(), event.operation_id), event.operation_id, event.answer)
                said = (event.operation_id, repr(event.answer))
                if said not in state.heard:
                    state = state._replace(heard=tuple(sorted((*state.heard, said))))
        return state

    # --- ends -------------------------------------------------------------------------------

    def _check_end(self, state: State) -> None:
        self._check_unhappened(state)
        answers, purses, counted = self._epilogue(state.store, state.late)
        for operation_id, said in state.heard:
            if said.startswith((ERROR, READ)):
                continue
            if said != repr(answers[operation_id]):
                raise Violation(f"{operation_id}: somebody was told {said}, others {answers[operation_id]!r}")
        key = (state.order, state.heard, repr(answers), repr(purses))
        if key not in self._serial:
            self._serial.add(key)
            self._check_serial(state, answers, purses, counted)

    def _check_unhappened(self, state: State) -> None:
        """What its only caller was told not to have happened does not happen by itself, whatever lands late."""
        heard: dict[str, list[str]] = {}
        for operation_id, said in state.heard:
            heard.setdefault(operation_id, []).append(said)
        alone = (name for name, askers in self._askers.items() if len(askers) == 1)
        told = tuple(name for name in alone if [said[-16:-2] for said in heard.get(name, ())] == [UNHAPPENED])
        if not told or (state.store, state.late, told) in self._unhappened:
            return
        self._unhappened.add((state.store, state.late, told))
        world: MemoryStore = self._stores.things[state.store].copy()
        for request in state.late:
            world.perform_one(self._requests.things[request])
        finish(sweeps(), world, "sweeper", FRESH)
        check_unhappened(world.versions(), told)

    def _check_serial(
        self, state: State, answers: Mapping[str, Any], purses: Mapping[str, Any], counted: Mapping[str, Operation[Any]]
    ) -> None:
        order = dict(state.order)
        told = dict(state.heard)
        moments = moments_of(order, {name for name, said in told.items() if not said.startswith(ERROR)})
        heard: list[Heard] = []
        for operation_id, operation in counted.items():
            if answers[operation_id][0] in ("cancelled", "error"):
                continue
            asked, answered = moments.get(operation_id, (LATER, None))
            heard.append(Heard(operation_id, model_of(operation), asked, answered, answers[operation_id]))
        for reader, names in self.case.readers.items():
            if reader in told and told[reader].startswith(READ):
                asked, answered = moments[reader]
                values = literal_eval(told[reader])
                heard.append(Heard(reader, reading_model(names), asked, answered, values))
        check_serial(self.case.purses, purses, heard)

    def _epilogue(self, store: int, late: tuple[int, ...]) -> Epilogue:
        """Fresh workers finish everything; then whatever is still under way lands and must change nothing."""
        known = self._epilogues.get((store, late))
        if known is not None:
            return known
        world: MemoryStore = self._stores.things[store].copy()
        answers: dict[str, Any] = {}
        counted: dict[str, Operation[Any]] = {}
        for operation_id, operation in self.case.operations.items():
            for asked in (operation, self.case.rivals.get(operation_id, operation)):
                if answers.get(operation_id, MISMATCH) == MISMATCH:
                    for event in finish(runs((operation_id, asked)), world, f"fresh-{operation_id}", FRESH):
                        if isinstance(event, Hears):
                            answers[operation_id], counted[operation_id] = event.answer, asked
            if answers[operation_id][0] == "error" and operation_id not in self.case.rivals:
                raise Violation(f"a fresh worker cannot finish {operation_id}: {answers[operation_id]}")
        finish(sweeps(), world, "fresh-sweeper", FRESH)
        before = world.versions()
        check_put_away(before)
        purses = purses_in(before)
        for request in late:
            world.perform_one(self._requests.things[request])
        after = world.versions()
        if purses_in(after) != purses or committed_in(after) != committed_in(before):
            raise Violation("a write that landed after everything was finished changed something")
        self._epilogues[store, late] = answers, purses, counted
        return answers, purses, counted

    # --- telling ----------------------------------------------------------------------------

    def _trace(self, came_from: Mapping[State, tuple[State, str] | None], end: State) -> list[str]:
        steps: list[tuple[State, str]] = []
        at = came_from.get(end)
        while at is not None:
            steps.append(at)
            at = came_from[at[0]]
        return [self._tell(state, label) for state, label in reversed(steps)]

    def _tell(self, state: State, label: str) -> str:
        if label.endswith("!"):
            return f"w{int(label[:-1]) + 1} crashes"
        who, mark, number = label.partition("?") if "?" in label else label.partition(":")
        request: StoreRequest = self._requests.things[int(number)]
        if who == "late":
            return f"(late) {tell_request(request)}"
        if mark == "?":
            return f"w{int(who) + 1}  {tell_request(request)}  -> no reply"
        answer = self._stores.things[state.store].copy().perform_one(request)
        return f"w{int(who) + 1}  {tell_request(request)}  -> {tell_reply(answer)}"


UNHAPPENED = "did not happen"
MISMATCH = ["error", "OperationMismatch", UNHAPPENED]
ERROR, READ = "['error'", "['read'"  # how answers begin that are no answers of operations


def _bind(function: Callable[..., State], *arguments: Any) -> Callable[[], State]:
    return lambda: function(*arguments)
