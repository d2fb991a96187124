"""For tests of users: one operation, crashed, duplicated, delayed and made deaf at every step.

    def test_a_transfer_survives_everything() -> None:
        crash_everywhere(
            Transfer(source="alice", target="bob", amount=30),
            documents={Account.ref("alice"): Account(balance=100), Account.ref("bob"): Account(balance=0)},
            check=lambda documents, outcome: ...,   # asserts what must hold in every world
        )

Each world is a store in memory in which one thing goes wrong with the first worker; then a second one is asked for the
same operation (or a sweep finds it), what was under way arrives, everything is put away, and a third one is asked.
In every world all must hear the same answer, the documents must become the same as in the undisturbed world, and nothing
may be left pending.  There are about ten worlds for each request that the operation makes.

Must not be in here: rules of the protocol; anything of a test framework; wall clocks.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeAlias, TypeVar

from casops import messages as m
from casops.business import OperationWork
from casops.documents import Document, Documents, Ref, dump
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
Check: TypeAlias = Callable[[Documents, Outcome[R]], object]
Trouble: TypeAlias = Callable[[Any], None]  # befalls a _World

OPERATION_ID = "the-operation"
ORDERS = 20  # of two workers at once; more find no more in an operation that is alone in its world
MAX_BATCHES = 2_000  # of one worker; alone in its world it takes some tens, so more means that it does not end


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
        if type(document) is not ref.model:
            raise UsageError(f"{ref!r} needs a {ref.model.__name__}, not a {type(document).__name__}")
    initial = {ref.key: dump(ref.key, document) for ref, document in documents.items()}
    apply = _Apply(operation, OPERATION_ID)
    last = undisturbed = _World(apply, initial, "undisturbed", None)
    undisturbed.live(_World[R].deaf, check)
    worlds = _worlds(undisturbed.sent)
    if world not in (None, "undisturbed", *worlds):
        raise UsageError(f"there is no world {world!r} for this operation; there are: {', '.join(worlds)}")
    names = ("undisturbed", *worlds) if world is None else (world,)
    for name in worlds.keys() & names if world else worlds:
        last = _World(apply, initial, name, undisturbed)
        last.live(worlds[name], check)
    assert undisturbed.heard is not None
    return Report(names, undisturbed.heard, tuple(last.trace))


class _Apply(OperationWork[R]):
    """The operation as the protocol takes it, run twice at first and compared ever after."""

    _known: dict[frozenset[tuple[Key, Value]], str] | None = None

    def evaluate(self, values: Mapping[Key, Value]) -> Evaluation:
        self._known = self._known or {}
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
    if isinstance(evaluation, Success):
        changes = {str(key): body for key, body in sorted(evaluation.changes.items())}
        return f"the result {json.dumps(evaluation.result)} and the documents {changes}"
    if isinstance(evaluation, Refused):
        return f"the refusal {evaluation.code} {json.dumps(evaluation.details)}"
    if isinstance(evaluation, Failed):
        return f"{type(evaluation.error).__name__}: {evaluation.error}"
    return f"looking up {', '.join(map(str, sorted(evaluation.keys)))}"


def _worlds(sent: list[tuple[int, m.StoreRequest]]) -> dict[str, Trouble]:
    """Every world in which something goes wrong.  `sent`: what the first worker sends, with the number of its batch."""
    worlds: dict[str, Trouble] = {}
    for count in range(len(sent) + 1):
        worlds[f"crash after {count} requests"] = partial(_World[Any].crash, count)
        worlds[f"crash after {count} requests, then a sweep"] = partial(_World[Any].crash, count, swept=True)
        worlds[f"crash after {count} requests, the rest late"] = partial(_World[Any].crash, count, late=True)
    for number, (batch, request) in enumerate(sent, 1):
        if [each for each, _ in sent].count(batch) > 1:
            alone = f"crash after request {number} alone of its batch"
            worlds[alone] = partial(_World[Any].crash, number, alone=True)
            worlds[f"{alone}, the rest late"] = partial(_World[Any].crash, number, alone=True, late=True)
        worlds[f"request {number} lost"] = partial(_World[Any].deaf, number, "request lost")
        worlds[f"reply {number} lost"] = partial(_World[Any].deaf, number, "reply lost")
        if not isinstance(request, m.Read):
            worlds[f"request {number} late"] = partial(_World[Any].deaf, number, "late")
    for seed in range(ORDERS):
        worlds[f"two at once, order {seed}"] = partial(_World[Any].two, seed)
    return worlds
