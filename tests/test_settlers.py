"""Settling in the background: whoever waits for the store does not keep others from being settled."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

from casops import AsyncCasOps, CasOps, Options
from casops.messages import Replace, Reply, StoreRequest
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

    async def perform(self, batch: Sequence[StoreRequest], /) -> list[Reply]:
        if settles(batch, IDS[0]):
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
