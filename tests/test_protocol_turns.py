"""Waiting for one's turn: what is done before it, what one is told then, and that it is not believed blindly."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import partial
from typing import Any

import pytest

from casops import AsyncCasOps, CasOps
from casops.messages import Insert, Key, Read, Replace, Reply, StoreRequest, Version
from casops.protocol.environment import Environment
from casops.protocol.settling import settle_documents
from casops.records import intention_key, result_key
from casops.stores.memory import AsyncMemoryStore, MemoryStore
from casops.testing.worker import Worker
from casops.turns import Known, Ticket, Turns
from tests.bank import Account, Open, Transfer
from tests.steps import OPTIONS, World, add, move, n, proposes

LONG = 20.0


def read(world: World, name: str) -> Version:
    version = world.version(n(name))
    assert version is not None
    return version


def told(**documents: Version) -> dict[Key, Version]:
    return {n(name): version for name, version in documents.items()}


def never() -> dict[Key, Version]:
    raise AssertionError("nobody needs to wait for this")


def keys(worker: Worker[Any]) -> list[Key]:
    return [each.key for each in worker.batch or () if isinstance(each, Read | Insert | Replace)]


# --- the protocol -----------------------------------------------------------------------------


def test_what_others_are_at_is_not_read_before_the_turn_all_else_is() -> None:
    world = World(hot=5, cold=5)
    worker = world.worker("i", move("hot", "cold", 1), behind=["hot"])
    assert keys(worker) == [intention_key("i"), result_key("i"), n("cold")]
    worker.step(world.store)
    assert keys(worker) == [n("hot")]  # nobody has told anything
    world.settle(worker.finish(world.store))
    assert (world.body("hot"), world.body("cold")) == (4, 6)


def test_who_is_told_what_the_documents_are_proposes_at_once() -> None:
    world = World(hot=5, cold=5)
    worker = world.worker("i", move("hot", "cold", 1), behind=["hot"])
    worker.turn = partial(told, hot=read(world, "hot"))
    worker.step(world.store)
    assert proposes(worker)
    worker.step(world.store)
    assert worker.result is not None
    assert not worker.result.replayed
    world.settle(worker.result)
    assert (world.body("hot"), world.body("cold")) == (4, 6)


def test_what_one_is_told_may_be_old() -> None:
    world = World(hot=5, cold=5)
    old = read(world, "hot")
    world.do("before", add("hot", 10))
    worker = world.worker("i", move("hot", "cold", 1), behind=["hot"])
    worker.turn = partial(told, hot=old)
    world.settle(worker.finish(world.store))
    assert (world.body("hot"), world.body("cold")) == (14, 6)


def test_nobody_is_refused_for_what_he_was_told() -> None:
    """A simulated world found it: the document had what was asked for, and had had it before the call began."""
    world = World(hot=0)
    old = read(world, "hot")
    world.do("before", add("hot", 10))
    worker = world.worker("i", move("hot", "hot", 1), behind=["hot"])
    worker.turn = partial(told, hot=old)
    ended = worker.finish(world.store)
    assert ended.record.state == "proposed"


def test_who_waits_behind_his_own_double_gets_its_answer_without_deciding_anything() -> None:
    world = World(hot=5)
    first = world.worker("i", add("hot", 1))
    first.step(world.store)  # declared
    double = world.worker("i", add("hot", 1), behind=["hot"])

    def wait() -> dict[Key, Version]:
        world.settle(first.finish(world.store))
        return {}

    double.turn = wait
    ended = double.finish(world.store)
    assert ended.replayed
    assert not ended.taken_over
    assert world.body("hot") == 6


def test_an_operation_that_has_ended_is_answered_without_a_turn() -> None:
    world = World(hot=5)
    world.do("i", add("hot", 1))
    double = world.worker("i", add("hot", 1), behind=["hot"])
    double.turn = never
    assert double.finish(world.store).replayed


def test_settling_tells_how_it_has_left_the_documents() -> None:
    world = World(hot=5, cold=5)
    ended = world.run("i", move("hot", "cold", 1))
    worker = Worker("settler", settle_documents(Environment(OPTIONS, "w"), ended), world.clock)
    _, known = worker.finish(world.store)
    assert known == {n("hot"): read(world, "hot"), n("cold"): read(world, "cold")}


def test_settling_tells_nothing_of_a_document_with_an_expiry() -> None:
    """A store may round it, and what is told must be what a read would show."""
    world = World(hot=5)
    version = read(world, "hot")
    world.store.perform([Replace(n("hot"), version.cas, json.dumps(5), expires=2_000_000_000)])
    ended = world.run("i", add("hot", 1))
    worker = Worker("settler", settle_documents(Environment(OPTIONS, "w"), ended), world.clock)
    _, known = worker.finish(world.store)
    assert (known, read(world, "hot").expires) == ({}, 2_000_000_000)


# --- lines ------------------------------------------------------------------------------------


def line(turns: Turns, *names: str) -> Ticket:
    ticket = Ticket([n(name) for name in names], lambda: None)
    turns.join(ticket)
    return ticket


def test_what_is_known_goes_to_who_comes_next_and_to_nobody_else() -> None:
    turns, known = Turns(), {n("a"): Version(1, "1"), n("b"): Version(2, "2")}
    first, second, third, elsewhere = line(turns, "a", "b"), line(turns, "a"), line(turns, "a"), line(turns, "c")
    assert turns.behind(first) == frozenset()
    assert turns.behind(second) == {n("a")}
    turns.leave(first, known)
    assert (second.known, third.known, elsewhere.known) == ({n("a"): Version(1, "1")}, {}, {})
    assert turns.behind(second) == frozenset()


def test_who_went_ahead_of_his_turn_tells_nobody() -> None:
    turns = Turns()
    first, second, third = line(turns, "a"), line(turns, "a"), line(turns, "a")
    turns.leave(second, {n("a"): Version(1, "1")})
    assert (first.known, third.known) == ({}, {})


# --- the fronts -------------------------------------------------------------------------------


def settles_first(batch: Sequence[StoreRequest]) -> bool:
    return any(isinstance(each, Replace) and each.key == result_key("first") for each in batch)


def proposes_first(batch: Sequence[StoreRequest]) -> bool:
    return any(isinstance(each, Insert) and each.key == result_key("first") for each in batch)


class Log:
    """What a store was asked for."""

    def __init__(self) -> None:
        self.batches: list[Sequence[StoreRequest]] = []

    def declared(self, operation_id: str) -> bool:
        return any(isinstance(e, Insert) and e.key == intention_key(operation_id) for b in self.batches for e in b)

    def reads_of(self, key: Key, operation_id: str) -> int:
        """Reads of a document from the declaration of an operation on."""
        begun, reads = False, 0
        for batch in self.batches:
            begun = begun or any(isinstance(e, Insert) and e.key == intention_key(operation_id) for e in batch)
            reads += sum(begun and isinstance(each, Read) and each.key == key for each in batch)
        return reads


class Gated(MemoryStore):
    """gated: what waits for the gate."""

    def __init__(self, gated: Callable[[Sequence[StoreRequest]], bool]) -> None:
        super().__init__()
        self.gated = gated
        self.log, self.gate, self.second = Log(), threading.Event(), threading.Event()

    def perform(self, batch: Sequence[StoreRequest], /) -> list[Reply]:
        self.log.batches.append(batch)
        if self.gated(batch):
            assert self.gate.wait(LONG)
        replies = super().perform(batch)
        if self.log.declared("second"):
            self.second.set()
        return replies


@pytest.mark.parametrize("gated", [proposes_first, settles_first])
def test_who_waits_has_declared_and_is_told_what_he_need_not_read(
    gated: Callable[[Sequence[StoreRequest]], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And settling, which may linger for as long as it likes, hurries for him."""
    monkeypatch.setattr("casops.front.LINGER", 3600.0)
    store = Gated(gated)
    with CasOps(store) as casops:
        for account in ("a", "b", "c"):
            casops.run(Open(account=account, balance=Decimal(10)), operation_id=account)
        operations = {"first": Transfer(source="a", target="b", amount=Decimal(1))}
        operations["second"] = Transfer(source="a", target="c", amount=Decimal(1))
        asked = [
            threading.Thread(target=casops.run, args=(operation,), kwargs={"operation_id": id})
            for id, operation in operations.items()
        ]
        asked[0].start()
        while not any(map(proposes_first, store.log.batches)):
            asked[0].join(0.001)
        if gated is settles_first:  # it is answered, and waits to be settled
            asked[0].join(LONG)
        asked[1].start()
        assert store.second.wait(LONG)
        store.gate.set()
        for each in asked:
            each.join(LONG)
        assert store.log.reads_of(Account.ref("a").key, "second") == 0
        assert casops.read(Account.ref("a")) == Account(balance=Decimal(8))


class AsyncGated(AsyncMemoryStore):
    """As Gated."""

    def __init__(self, gated: Callable[[Sequence[StoreRequest]], bool]) -> None:
        super().__init__()
        self.gated = gated
        self.log, self.gate, self.second = Log(), asyncio.Event(), asyncio.Event()

    async def perform(self, batch: Sequence[StoreRequest], /) -> list[Reply]:
        self.log.batches.append(batch)
        if self.gated(batch):
            await self.gate.wait()
        replies = await super().perform(batch)
        if self.log.declared("second"):
            self.second.set()
        return replies


@pytest.mark.parametrize("gated", [proposes_first, settles_first])
async def test_who_waits_in_a_task_likewise(
    gated: Callable[[Sequence[StoreRequest]], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("casops.async_front.LINGER", 3600.0)
    store = AsyncGated(gated)
    async with AsyncCasOps(store) as casops, asyncio.timeout(LONG):
        for account in ("a", "b", "c"):
            await casops.run(Open(account=account, balance=Decimal(10)), operation_id=account)
        first = asyncio.create_task(
            casops.run(Transfer(source="a", target="b", amount=Decimal(1)), operation_id="first"), name="first"
        )
        while not any(map(proposes_first, store.log.batches)):
            await asyncio.sleep(0.001)
        if gated is settles_first:
            await first
        second = asyncio.create_task(
            casops.run(Transfer(source="a", target="c", amount=Decimal(1)), operation_id="second"), name="second"
        )
        await store.second.wait()
        store.gate.set()
        await asyncio.gather(first, second)
        assert store.log.reads_of(Account.ref("a").key, "second") == 0
        assert await casops.read(Account.ref("a")) == Account(balance=Decimal(8))


def test_a_front_tells_what_it_was_left() -> None:
    known: Known = {n("a"): Version(1, "1")}
    turns = Turns()
    first, second = line(turns, "a"), line(turns, "a")
    turns.leave(first, known)
    turns.leave(first, {n("a"): Version(9, "9")})  # the second time does nothing
    assert second.known == known
