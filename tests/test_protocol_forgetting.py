"""Forgetting acknowledged results: only what is final and settled, and only where no intention stands."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from casops import Outcome, UsageError
from casops.messages import Read, Refused, Remove, Replace, Unknown
from casops.protocol.environment import StoreFailed
from casops.protocol.forgetting import forget
from casops.protocol.limits import MAX_FORGOTTEN
from casops.protocol.sweeping import cancel
from casops.records import encode, result_key
from casops.testing.worker import Worker
from tests.bank import Account, Broken, Echo, Open, Transfer
from tests.conftest import Bank
from tests.steps import World, add, move, writes


def forgetter(world: World, *operation_ids: str) -> Worker[int]:
    return Worker("forgetter", forget(world.environment(), operation_ids), world.clock)


def test_what_has_ended_is_forgotten_in_two_steps_whatever_the_end_was() -> None:
    world = World(a=5, b=5)
    world.do("applied", move("a", "b", 1))
    world.do("declined", move("a", "b", 100))
    world.settle(Worker("c", cancel(world.environment(), "cancelled"), world.clock).finish(world.store))
    ids = ("applied", "declined", "cancelled", "unheard")
    worker = forgetter(world, *ids)
    assert worker.batch is not None
    assert all(isinstance(each, Read) for each in worker.batch)
    worker.step(world.store)
    assert worker.batch is not None
    assert all(isinstance(each, Remove) for each in worker.batch)
    assert worker.finish(world.store) == 3
    assert [world.record(each) for each in ids] == [None] * 4
    assert (world.body("a"), world.body("b")) == (4, 6)


def test_what_is_not_settled_stays() -> None:
    world = World(a=5, b=5)
    ended = world.run("i", move("a", "b", 1))  # committed, and nobody has noticed
    assert forgetter(world, "i").finish(world.store) == 0
    assert world.record("i") is not None
    world.settle(ended)
    assert forgetter(world, "i").finish(world.store) == 1


def test_what_says_committed_and_is_not_settled_stays() -> None:
    world = World(a=5, b=5)
    ended = world.run("i", move("a", "b", 1))
    world.settle(ended)
    record, version = world.record("i"), world.version(result_key("i"))
    assert record is not None
    assert version is not None
    assert record.state == "committed"
    unsettled = replace(record, settled=False)
    world.store.perform([Replace(result_key("i"), version.cas, encode(unsettled))])
    assert forgetter(world, "i").finish(world.store) == 0


def test_what_is_open_or_only_declared_stays() -> None:
    world = World(a=5)
    worker = world.worker("i", add("a", 1))
    worker.step(world.store)  # declared
    assert forgetter(world, "i").finish(world.store) == 0
    assert world.intention("i") is not None
    assert worker.finish(world.store).record.state == "proposed"


def test_a_result_stays_while_the_declaration_of_a_dead_retry_stands() -> None:
    """A sweep that found the declaration and no result would run the operation a second time."""
    world = World(a=5)
    world.do("i", add("a", 1))
    retry = world.worker("i", add("a", 1))
    retry.step(world.store)  # it declares, and reads that it has ended
    retry.crash()
    assert world.intention("i") is not None
    assert forgetter(world, "i").finish(world.store) == 0
    assert world.run("i", add("a", 1)).replayed
    assert world.body("a") == 6


def test_what_has_moved_in_between_stays() -> None:
    world = World(a=5)
    world.do("i", add("a", 1))
    worker = forgetter(world, "i")
    worker.step(world.store)
    record, version = world.record("i"), world.version(result_key("i"))
    assert record is not None
    assert version is not None
    world.store.perform([Replace(result_key("i"), version.cas, encode(record))])
    assert worker.finish(world.store) == 0
    assert world.record("i") is not None


def test_trouble_is_left_to_the_retention() -> None:
    world = World(a=5)
    world.do("i", add("a", 1))
    worker = forgetter(world, "i")
    worker.step(world.store)
    assert worker.batch is not None
    worker.answer([Unknown("lost") for _ in worker.batch])
    assert worker.batch is None
    assert worker.result == 0
    worker = forgetter(world, "i")
    assert worker.batch is not None
    worker.answer([Refused("away") for _ in worker.batch])
    assert isinstance(worker.error, StoreFailed)


def test_nothing_is_written_for_nothing() -> None:
    world = World()
    worker = forgetter(world, "unheard")
    worker.step(world.store)
    assert worker.batch is None
    assert writes(worker.batch) == []


# --- through the fronts ---------------------------------------------------------------------------


async def settled(casops: Any, operation_id: str) -> None:
    async with asyncio.timeout(30):
        while True:
            outcome: Outcome[Any] = await casops.outcome(operation_id)
            if outcome.history[-1].what == "settled":
                return
            await asyncio.sleep(0.002)


async def test_forget_on_both_stores(bank: Bank) -> None:
    casops = bank.open()
    await casops.run(Open(account="alice", balance=100), operation_id="a")
    await casops.run(Open(account="bob"), operation_id="b")
    await casops.run(Transfer(source="alice", target="bob", amount=30), operation_id="t")
    for each in ("a", "b", "t"):
        await settled(casops, each)
    assert await casops.forget(["a", "t", "t", "never heard of"]) == 2
    assert [await casops.outcome(each) for each in ("a", "t")] == [None, None]
    assert isinstance(await casops.outcome("b"), Outcome)
    assert (await casops.read(Account.ref("bob"))).balance == 30
    assert await casops.forget([]) == 0


async def test_forget_leaves_what_is_pending(bank: Bank) -> None:
    casops = bank.open()
    await casops.run(Open(account="alice"), operation_id="a")
    with pytest.raises(ZeroDivisionError):
        await casops.run(Broken(account="alice"), operation_id="b")
    assert await casops.forget(["b"]) == 0
    assert [each.operation_id for each in await casops.pending()] == ["b"]


async def test_what_forget_refuses(bank: Bank) -> None:
    casops = bank.open()
    with pytest.raises(UsageError, match="at most 64"):
        await casops.forget([str(number) for number in range(MAX_FORGOTTEN + 1)])
    with pytest.raises(UsageError, match="empty"):
        await casops.forget([""])


async def test_recover_leaves_alone_what_the_caller_is_working_on(bank: Bank) -> None:
    casops = bank.open(operations=[Echo, Broken])
    await casops.run(Open(account="alice"), operation_id="a")
    with pytest.raises(ZeroDivisionError):
        await casops.run(Broken(account="alice"), operation_id="b")
    left = (await casops.recover(busy={"b"})).left
    assert [(each.operation_id, each.note, each.failures) for each in left] == [("b", "being worked on here", 1)]
    left = (await casops.recover()).left
    assert [(each.operation_id, each.note) for each in left] == [("b", "ZeroDivisionError: a bug")]
