"""The little bank that explorer, simulator and mutants work on, and what its workers do.

Operations are real `Operation`s on the real engine; beside each stands its model, a plain function
that the checkers use instead.

Must not be in here: schedules, faults.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from casops.documents import Document, Documents, Ref
from casops.engine import Engine
from casops.errors import CasOpsError, Declined
from casops.messages import Key, Request, Version
from casops.operations import Operation
from casops.options import Options
from casops.outcome import Outcome
from casops.protocol.at_once import Foresight
from casops.testing.checkers import Model


class Purse(Document, collection="purses"):
    coins: int


class Move(Operation[int]):
    """Moves coins; refuses what the source does not have; brings the target into being."""

    source: Ref[Purse]
    target: Ref[Purse]
    coins: int

    def apply(self, documents: Documents) -> int:
        source = documents.get(self.source)
        target = documents.get(self.target)
        if source is None or source.coins < self.coins:
            raise Declined("insufficient")
        if target is None:
            target = documents.create(self.target, Purse(coins=0))
        source.coins -= self.coins
        target.coins += self.coins
        return source.coins


class Put(Operation[int]):
    """Adds coins to a purse, which it brings into being where needed."""

    purse: Ref[Purse]
    coins: int

    def apply(self, documents: Documents) -> int:
        purse = documents.get(self.purse)
        if purse is None:
            purse = documents.create(self.purse, Purse(coins=0))
        purse.coins += self.coins
        return purse.coins


class Open(Operation[int]):
    """Brings a purse into being; raises where there is one: what has happened makes its function fail."""

    purse: Ref[Purse]
    coins: int

    def apply(self, documents: Documents) -> int:
        return documents.create(self.purse, Purse(coins=self.coins)).coins


class Burn(Operation[int]):
    """Removes a purse."""

    purse: Ref[Purse]

    def apply(self, documents: Documents) -> int:
        purse = documents.get(self.purse)
        if purse is None:
            raise Declined("nothing to burn")
        documents.remove(self.purse)
        return purse.coins


class Require(Operation[int]):
    """Tells what two purses hold together; refuses if it is less than `coins`.  Changes nothing."""

    first: Ref[Purse]
    second: Ref[Purse]
    coins: int

    def apply(self, documents: Documents) -> int:
        held = [0 if (purse := documents.get(ref)) is None else purse.coins for ref in (self.first, self.second)]
        if sum(held) < self.coins:
            raise Declined("too little")
        return sum(held)


OPERATIONS: tuple[type[Operation[Any]], ...] = (Move, Put, Open, Burn, Require)


def model_of(operation: Operation[Any]) -> Model:
    """The same on plain values: names of purses to coins (None: no purse)."""
    if isinstance(operation, Move):
        return _move(operation.source.id, operation.target.id, operation.coins)
    if isinstance(operation, Put):
        return _put(operation.purse.id, operation.coins)
    if isinstance(operation, Require):
        return _require(operation.first.id, operation.second.id, operation.coins)
    if isinstance(operation, Open):
        return _open(operation.purse.id, operation.coins)
    assert isinstance(operation, Burn)
    return _burn(operation.purse.id)


def _move(source: str, target: str, coins: int) -> Model:
    def model(purses: dict[str, Any]) -> Any:
        have = purses.get(source)
        if have is None or have < coins:
            return ["declined", "insufficient"]
        purses[source] = have - coins
        purses[target] = (purses.get(target) or 0) + coins
        return ["applied", purses[source] if source != target else have]

    return model


def _put(name: str, coins: int) -> Model:
    def model(purses: dict[str, Any]) -> Any:
        purses[name] = (purses.get(name) or 0) + coins
        return ["applied", purses[name]]

    return model


def _open(name: str, coins: int) -> Model:
    def model(purses: dict[str, Any]) -> Any:
        if purses.get(name) is not None:
            return ["error", "DocumentExists", "did not happen"]
        purses[name] = coins
        return ["applied", coins]

    return model


def _burn(name: str) -> Model:
    def model(purses: dict[str, Any]) -> Any:
        have = purses.get(name)
        if have is None:
            return ["declined", "nothing to burn"]
        purses[name] = None
        return ["applied", have]

    return model


def _require(first: str, second: str, coins: int) -> Model:
    def model(purses: dict[str, Any]) -> Any:
        held = (purses.get(first) or 0) + (purses.get(second) or 0)
        return ["applied", held] if held >= coins else ["declined", "too little"]

    return model


def reading_model(names: Iterable[str]) -> Model:
    names = tuple(names)

    def model(purses: dict[str, Any]) -> Any:
        return ["read", [purses.get(name) for name in names]]

    return model


def purses_in(versions: Mapping[Key, Version]) -> dict[str, Any]:
    """What an ordinary reader sees."""
    return {
        key.id: json.loads(version.body)["coins"]
        for key, version in versions.items()
        if key.collection == Purse.document_collection and version.body is not None
    }


# --- what workers do --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Asks:
    """A worker begins to ask for something; yielded beside the protocol's own requests."""

    operation_id: str


@dataclass(frozen=True, slots=True)
class Hears:
    """A worker has its answer."""

    operation_id: str
    answer: Any


Program: TypeAlias = Generator[Request | Asks | Hears, Any, None]
MakeProgram: TypeAlias = Callable[[Engine], Program]


def engine_for(name: str, options: Options) -> Engine:
    return Engine(options, OPERATIONS, name)


def runs(
    *asked: tuple[str, Operation[Any]], settles: bool = True, at_once: bool = False, queues: bool = False
) -> MakeProgram:
    """Asks for operations one after the other, settling each.

    at_once: in one step, where it can.  queues: as one of many in its process, who has to wait for its turn.
    """

    def program(engine: Engine) -> Program:
        for operation_id, operation in asked:
            yield Asks(operation_id)
            try:
                work = engine.work(operation, operation_id)
                behind = frozenset(work.declared if queues else ())
                foresight = Foresight(work) if at_once else None
                outcome, ended = yield from engine.execute(work, operation_id, foresight=foresight, behind=behind)
            except CasOpsError as error:
                yield Hears(operation_id, error_of(error))
                continue
            yield Hears(operation_id, answer_of(outcome))
            if settles and not ended.put_away:
                yield from engine.settle(ended)

    return program


def sweeps(times: int = 1) -> MakeProgram:
    def program(engine: Engine) -> Program:
        for _ in range(times):
            yield from engine.recover()

    return program


def forgets(*operation_ids: str) -> MakeProgram:
    """Has results forgotten whose askers will never ask again."""

    def program(engine: Engine) -> Program:
        yield from engine.forget(operation_ids)

    return program


def cancels(operation_id: str) -> MakeProgram:
    def program(engine: Engine) -> Program:
        yield Asks(operation_id)
        outcome, ended = yield from engine.cancel(operation_id)
        yield Hears(operation_id, answer_of(outcome))
        yield from engine.settle(ended)

    return program


def reads(reader: str, *names: str) -> MakeProgram:
    """One purse by `read`, several by `snapshot`.  `reader` names this reading."""

    def program(engine: Engine) -> Program:
        yield Asks(reader)
        refs = [Purse.ref(name) for name in names]
        try:
            if len(refs) == 1:
                purses = [(yield from engine.read(refs[0]))]
            else:
                snapshot = yield from engine.snapshot(refs)
                purses = [snapshot.get(ref) for ref in refs]
        except CasOpsError as error:
            yield Hears(reader, ["error", type(error).__name__])
            return
        yield Hears(reader, ["read", [None if purse is None else purse.coins for purse in purses]])

    return program


def error_of(error: CasOpsError) -> Any:
    return ["error", type(error).__name__, "did not happen" if error.happened is False else "unknown"]


def answer_of(outcome: Outcome[Any]) -> Any:
    if outcome.refusal is not None:
        return ["declined", outcome.refusal.code]
    return ["cancelled"] if outcome.status == "cancelled" else ["applied", outcome.value]
