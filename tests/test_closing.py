"""Fronts whose store is closed under them, and that are asked from where they may not be."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from casops import AsyncCasOps, CasOps, Closed, Documents, Options, StoreUnavailable, UsageError
from casops.stores.memory import MemoryStore
from tests.bank import Account, Open
from tests.conftest import QUICK, Face


class ClosedMeanwhile:
    """A store that its owner closes while calls are under way; behind it is one that goes on."""

    def __init__(self) -> None:
        self.behind = MemoryStore()
        self.closed = False

    def perform(self, batch: Any, /) -> list[Any]:
        if self.closed:
            raise Closed("this store is closed")
        return self.behind.perform(batch)

    def close(self) -> None:
        self.closed = True


class AsyncClosedMeanwhile(ClosedMeanwhile):
    async def perform(self, batch: Any, /) -> list[Any]:  # type: ignore[override]
        return super().perform(batch)

    async def close(self) -> None:  # type: ignore[override]
        super().close()


CLOSING: list[ClosedMeanwhile] = []


class CloseAndOpen(Open):
    def apply(self, documents: Documents, /) -> None:
        for store in CLOSING:
            store.closed = True
        super().apply(documents)


@pytest.mark.parametrize("face", ["sync", "async"])
async def test_who_is_in_the_middle_when_the_store_is_closed_is_not_told_that_it_did_not_happen(face: str) -> None:
    store = ClosedMeanwhile() if face == "sync" else AsyncClosedMeanwhile()
    CLOSING[:] = [store]
    operation = CloseAndOpen(account="a", balance=1)
    casops = AsyncCasOps(store) if isinstance(store, AsyncClosedMeanwhile) else CasOps(store)
    with pytest.raises(StoreUnavailable, match="closed; it is declared and pending; ask again") as caught:
        await Face(casops).run(operation, operation_id="i")
    assert (caught.value.happened, caught.value.retry) == (None, True)
    CLOSING.clear()
    with CasOps(store.behind, operations=[CloseAndOpen], options=QUICK) as later:
        assert [each.operation_id for each in later.pending()] == ["i"]
        later.recover()
        assert later.read(Account.ref("a")) == Account(balance=Decimal(1))


async def test_a_store_of_the_other_kind_is_told_before_anything_is_declared() -> None:
    sync: Any = MemoryStore()
    with pytest.raises(UsageError, match="an async store is needed"):
        AsyncCasOps(sync)
    other: Any = AsyncClosedMeanwhile()
    with pytest.raises(UsageError, match="which AsyncCasOps takes"):
        CasOps(other)


async def test_who_comes_to_a_closed_store_is_told_so() -> None:
    store = AsyncClosedMeanwhile()
    await store.close()
    with pytest.raises(UsageError, match="closed"):
        await AsyncCasOps(store).run(Open(account="a", balance=1), operation_id="i")


class Gone(UsageError):
    """What a store says that was opened before a fork."""


class Refusing(ClosedMeanwhile):
    """It raises this when it is asked for the second time, or at once."""

    def __init__(self, error: UsageError, *, at_once: bool) -> None:
        super().__init__()
        self.error = error
        self.left = 0 if at_once else 1

    def perform(self, batch: Any, /) -> list[Any]:
        if self.left == 0:
            raise self.error
        self.left -= 1
        return self.behind.perform(batch)


class AsyncRefusing(Refusing):
    async def perform(self, batch: Any, /) -> list[Any]:  # type: ignore[override]
        return super().perform(batch)

    async def close(self) -> None:  # type: ignore[override]
        super().close()


class Conversing(Refusing):
    """It says so before anything is asked of it."""

    def converse(self, conversations: Any, /) -> list[Any]:
        raise AssertionError("not asked")

    def check_usable(self) -> None:
        raise self.error


class AsyncConversing(AsyncRefusing):
    async def converse(self, conversations: Any, /) -> list[Any]:
        raise AssertionError("not asked")

    def check_usable(self) -> None:
        raise self.error


@pytest.mark.parametrize("kind", [Refusing, AsyncRefusing, Conversing, AsyncConversing])
@pytest.mark.parametrize(("error", "at_once"), [(Closed, True), (Gone, True), (Gone, False)])
@pytest.mark.parametrize("ask", ["run", "cancel", "outcome"])
async def test_a_store_that_is_of_no_use_speaks_of_the_operation_and_does_not_say_no(
    kind: Any, error: Any, at_once: bool, ask: str
) -> None:
    """Who was told "did not happen" by a store that nobody had asked might take a new id, and pay twice."""
    store = kind(error("of no use"), at_once=at_once or ask == "outcome")
    casops = Face(CasOps(store) if kind in (Refusing, Conversing) else AsyncCasOps(store))
    arguments = [Open(account="a", balance=1)] if ask == "run" else []
    with pytest.raises(error, match="of no use") as caught:
        await getattr(casops, ask)(*arguments, operation_id="i")
    assert (caught.value.happened, caught.value.operation_id) == (None, "i")


def test_an_async_front_is_for_one_loop_at_a_time(tmp_path: Path) -> None:
    casops = AsyncCasOps.open(f"sqlite:///{tmp_path}/x.db")

    async def ask(id: str) -> None:
        await casops.run(Open(account=id, balance=1), operation_id=id)

    asyncio.run(ask("a"))
    asyncio.run(ask("b"))  # the loop before is closed

    async def both() -> None:
        await ask("c")
        with pytest.raises(UsageError, match="another event loop") as caught:
            await asyncio.to_thread(asyncio.run, ask("d"))
        assert (caught.value.happened, caught.value.operation_id) == (None, "d")
        await casops.close()

    asyncio.run(both())


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda casops: casops.read("alice"), "a reference is needed"),
        (lambda casops: casops.snapshot(["alice"]), "a reference is needed"),
        (lambda casops: casops.snapshot("alice"), "a reference is needed"),
        (lambda casops: casops.forget("abc"), "a list of ids is needed"),
        (lambda _: CasOps.open("memory://", options={"deadline": 3}), "given as Options"),  # type: ignore[arg-type]
        (lambda _: Options(deadline="30"), "option deadline"),  # type: ignore[arg-type]
        (lambda _: Options(attempts=2.5), "option attempts"),  # type: ignore[arg-type]
    ],
)
def test_what_is_asked_wrongly_is_told_so(wrong: Any, told: str) -> None:
    with CasOps.open("memory://") as casops, pytest.raises(UsageError, match=told):
        wrong(casops)


async def test_a_file_that_is_being_closed_takes_nothing_more(tmp_path: Path) -> None:
    """Its threads still work for one call while another comes."""
    casops = AsyncCasOps.open(f"sqlite:///{tmp_path}/x.db", options=QUICK)
    await casops.run(Open(account="a", balance=1), operation_id="a")
    with closing(sqlite3.connect(tmp_path / "x.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        first = asyncio.create_task(casops.run(Open(account="b", balance=1), operation_id="b"))
        await asyncio.sleep(0.05)
        end = asyncio.create_task(casops._store.close())
        await asyncio.sleep(0.05)
        for ask in (casops.read(Account.ref("a")), casops.run(Open(account="c", balance=1), operation_id="c")):
            with pytest.raises(UsageError, match="closed"):
                await ask
        other.execute("ROLLBACK")
        await first
        await end
