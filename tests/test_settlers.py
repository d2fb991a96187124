"""Settling in the background: whoever waits for the store does not keep others from being settled."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from casops import AsyncCasOps, CasOps, Options
from casops.drivers import adrive
from casops.front import SETTLERS
from casops.messages import RESULTS, Replace, Reply, StoreRequest
from casops.records import result_key
from casops.stores.memory import AsyncMemoryStore, MemoryStore
from tests.bank import Open

# Seconds until a settling that does not come is given up; it takes milliseconds.
LONG = 20.0

# The first of them is held; the third is more than a batch that waits.
IDS = ("held", "two", "three")
ONE_BY_ONE = Options(settle_together=1)


def settles(batch: Sequence[StoreRequest], operation_id: str) -> bool:
    """Does it say that the operation is settled, or begin to?"""
    return any(isinstance(each, Replace) and each.key == result_key(operation_id) for each in batch)


class Held(MemoryStore):
    """The settling of the first operation waits; tells when that of others is over."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = threading.Event()
        self.others = {id: threading.Event() for id in IDS[1:]}

    def perform(self, batch: Sequence[StoreRequest], /) -> list[Reply]:
        if settles(batch, IDS[0]):
            assert self.go_on.wait(3 * LONG)  # longer than anybody waits for the others
        replies = super().perform(batch)
        for id, told in self.others.items():
            if settles(batch, id):
                told.set()
        return replies


def test_a_settler_that_waits_does_not_keep_others_waiting() -> None:
    store = Held()
    with CasOps(store, options=ONE_BY_ONE) as casops:
        for id in IDS:
            casops.run(Open(account=id), operation_id=id)
        try:
            assert all(told.wait(LONG) for told in store.others.values())
        finally:
            store.go_on.set()


class AsyncHeld(AsyncMemoryStore):
    """As Held."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = asyncio.Event()
        self.others = {id: asyncio.Event() for id in IDS[1:]}
        self.asked = False

    async def perform(self, batch: Sequence[StoreRequest], /) -> list[Reply]:
        if settles(batch, IDS[0]):
            self.asked = True
            await self.go_on.wait()
        replies = await super().perform(batch)
        for id, told in self.others.items():
            if settles(batch, id):
                told.set()
        return replies


async def test_a_settling_task_that_waits_does_not_keep_others_waiting() -> None:
    store = AsyncHeld()
    async with AsyncCasOps(store, options=ONE_BY_ONE) as casops:
        for id in IDS:
            await casops.run(Open(account=id), operation_id=id)
        try:
            async with asyncio.timeout(LONG):
                for told in store.others.values():
                    await told.wait()
        finally:
            store.go_on.set()


async def test_a_settling_task_that_is_cancelled_leaves_nobody_standing_in_line() -> None:
    store = AsyncHeld()
    async with AsyncCasOps(store, options=ONE_BY_ONE) as casops:
        await casops.run(Open(account="a"), operation_id="held")
        (settler,) = [each for each in asyncio.all_tasks() if each.get_name() == "casops-settler"]
        while not store.asked:
            await asyncio.sleep(0)
        settler.cancel()
        await asyncio.wait({settler})
        assert not casops._turns._lines
        store.go_on.set()


def settlers() -> list[asyncio.Task[Any]]:
    return [each for each in asyncio.all_tasks() if each.get_name() == "casops-settler"]


async def test_who_ends_while_it_is_being_closed_settles_by_himself() -> None:
    """A task was hired for it, which closing did not know of: the store was closed under it."""
    store, opened = AsyncHeld(), asyncio.Event()

    async def slow(operation_id: str) -> None:
        steps = casops._engine.execute(casops._engine.work(Open(account="two"), operation_id), operation_id)
        _, ended = await adrive(steps, store)
        await opened.wait()
        await casops._settler.add(ended)

    casops = AsyncCasOps(store, options=ONE_BY_ONE)
    async with asyncio.timeout(LONG):
        await casops.run(Open(account="held"), operation_id="held")
        call = asyncio.create_task(slow("two"))
        closing = asyncio.create_task(casops.close())
        while not casops._settler._closing:
            await asyncio.sleep(0)
        opened.set()
        await call
        assert store.others["two"].is_set()
        store.go_on.set()
        await closing
        assert not settlers()


class AsyncStuck(AsyncMemoryStore):
    """Nothing is ever settled."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    async def perform(self, batch: Sequence[StoreRequest], /) -> list[Reply]:
        if any(settles(batch, str(number)) for number in range(SETTLERS + 1)):
            self.asked += 1
            await asyncio.Event().wait()
        return await super().perform(batch)


@pytest.mark.parametrize("cancelled", [True, False], ids=["cancelled", "out of time"])
async def test_no_settler_outlives_closing_and_nobody_stands_in_line_for_one(
    cancelled: bool, caplog: pytest.LogCaptureFixture
) -> None:
    store = AsyncStuck()
    casops = AsyncCasOps(store, options=Options(settle_together=1, deadline=3 * LONG))
    async with asyncio.timeout(LONG):
        for number in range(SETTLERS + 1):
            await casops.run(Open(account=f"{number}"), operation_id=f"{number}")
        while store.asked < SETTLERS:
            await asyncio.sleep(0)
        if not cancelled:
            casops._engine.options = replace(casops.options, deadline=0.001)
        closing = asyncio.create_task(casops.close())
        while not casops._settler._closing:
            await asyncio.sleep(0)
        if cancelled:
            closing.cancel()
        await asyncio.wait([closing])
    assert closing.cancelled() is cancelled
    assert not settlers()
    assert not casops._turns._lines
    assert len([each for each in caplog.messages if "left to a sweep" in each]) == SETTLERS + 1


class Counting(MemoryStore):
    """How many batches began to settle something."""

    def __init__(self) -> None:
        super().__init__()
        self.settled: list[int] = []

    def perform(self, batch: Sequence[StoreRequest], /) -> list[Reply]:
        begun = sum(isinstance(each, Replace) and each.ttl is None and each.key.collection == RESULTS for each in batch)
        if begun:
            self.settled.append(begun)
        return super().perform(batch)


class AsyncCounting(AsyncMemoryStore):
    """As Counting."""

    def __init__(self) -> None:
        super().__init__()
        self.settled: list[int] = []

    async def perform(self, batch: Sequence[StoreRequest], /) -> list[Reply]:
        begun = sum(isinstance(each, Replace) and each.ttl is None and each.key.collection == RESULTS for each in batch)
        if begun:
            self.settled.append(begun)
        return await super().perform(batch)


def test_what_nobody_waits_for_is_settled_together_and_at_the_end_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("casops.front.LINGER", 3600.0)
    store = Counting()
    with CasOps(store, options=Options(settle_together=4)) as casops:
        for number in range(6):
            casops.run(Open(account=f"{number}"), operation_id=f"{number}")
    assert store.settled == [4, 2]


async def test_a_task_settles_together_and_at_the_end_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("casops.async_front.LINGER", 3600.0)
    store = AsyncCounting()
    async with AsyncCasOps(store, options=Options(settle_together=4)) as casops, asyncio.timeout(LONG):
        for number in range(6):
            await casops.run(Open(account=f"{number}"), operation_id=f"{number}")
    assert store.settled == [4, 2]


def test_it_does_not_linger_for_ever() -> None:
    store = Counting()
    with CasOps(store) as casops:
        casops.run(Open(account="one"), operation_id="one")
        waited = threading.Event()
        while not store.settled:
            waited.wait(0.001)


def test_a_settler_that_ends_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was counted as idle for ever, and whoever came later was left to it."""
    store = Counting()
    with CasOps(store, options=Options(settle_together=2)) as casops:
        ended = threading.Event()

        def no_memory(seconds: float | None = None) -> bool:
            raise MemoryError

        with monkeypatch.context() as patched:
            patched.setattr(threading, "excepthook", lambda _: ended.set())
            patched.setattr(casops._settler._changed, "wait", no_memory)
            casops.run(Open(account="one"), operation_id="one")
            assert ended.wait(LONG)
        casops.run(Open(account="two"), operation_id="two")
        for _ in range(int(LONG * 1000)):
            if store.settled:
                break
            ended.clear()
            ended.wait(0.001)
    assert store.settled == [2]


async def test_a_task_does_not_linger_for_ever() -> None:
    store = AsyncCounting()
    async with AsyncCasOps(store) as casops, asyncio.timeout(LONG):
        await casops.run(Open(account="one"), operation_id="one")
        while not store.settled:
            await asyncio.sleep(0.001)
