"""Business code and calls that nobody expects: what they are told is true, and nobody else suffers from them."""

from __future__ import annotations

import dataclasses
import time
import uuid
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, model_serializer

from casops import (
    AsyncCasOps,
    CasOps,
    Closed,
    Declined,
    Document,
    Documents,
    Expired,
    Operation,
    Ref,
    UsageError,
    new_operation_id,
)
from casops.client import AsyncClient
from tests.bank import MENDED, Account, Broken, Open
from tests.conftest import QUICK, Bank


class Panic(BaseException):
    """As extensions in Rust raise it."""


class Person(Document, collection="accounts"):
    """The documents of Account, as others see them."""

    name: str = ""


class Panics(Operation[None]):
    account: Ref[Account]

    def apply(self, documents: Documents) -> None:
        documents.get(self.account)
        raise Panic("a bug")


async def test_what_is_no_exception_is_counted_too_and_stops_no_sweep(bank: Bank) -> None:
    casops = bank.open(dataclasses.replace(QUICK, park_after=3), operations=[Panics, Broken])
    await casops.run(Open(account="alice"), operation_id="open")
    with pytest.raises(Panic) as told:
        await casops.run(Panics(account="alice"), operation_id="a")
    assert "did not happen and is pending" in told.value.__notes__[0]
    with pytest.raises(ZeroDivisionError):
        await casops.run(Broken(account="alice"), operation_id="b")
    MENDED.append(True)
    try:
        recovery = await casops.recover()
    finally:
        MENDED.clear()
    assert [each.operation_id for each in recovery.finished] == ["b"]
    (left,) = recovery.left
    assert (left.operation_id, left.note) == ("a", "Panic: a bug")
    await casops.recover()
    (left,) = await casops.pending()
    assert (left.failures, left.parked) == (3, True)


class Stops(Operation[None]):
    account: Ref[Account]

    def apply(self, documents: Documents) -> None:
        documents.get(self.account)
        if TO_STOP:
            raise SystemExit(TO_STOP.pop())


TO_STOP: list[int] = []


async def test_the_end_of_the_process_is_not_kept_from_it(bank: Bank) -> None:
    """Whoever turns a signal into SystemExit means the process, whatever runs just then: it is no failure of that."""
    casops = bank.open(operations=[Stops])
    TO_STOP[:] = [3]
    with pytest.raises(SystemExit):
        await casops.run(Stops(account="alice"), operation_id="s")
    for pending in await casops.pending():  # on a file nothing was declared yet
        assert pending.failures == 0
        TO_STOP[:] = [3]
        with pytest.raises(SystemExit):
            await casops.recover()
    assert await casops.run(Stops(account="alice"), operation_id="s") is None


class Refuses(Operation[None]):
    def apply(self, documents: Documents) -> None:
        raise Declined("no", why=WHY[0])


WHY: list[Any] = []


class Odd(BaseModel):
    @model_serializer
    def unwritable(self) -> str:
        raise KeyError("its own bug")


class Misuse(Operation[None]):
    """Business code that has not read how documents are changed."""

    how: str
    account: Ref[Account]

    def apply(self, documents: Documents) -> None:
        anything: Any = documents
        if self.how == "assign":
            anything[self.account] = Account(balance=Decimal(1))
        elif self.how == "look up":
            anything["alice"]
        else:
            anything.create("alice", Account(balance=Decimal(1)))


@pytest.mark.parametrize(
    ("how", "told"), [("assign", "documents are not assigned"), ("look up", "a reference"), ("create", "a reference")]
)
def test_misuse_of_documents_is_told_and_leaves_nothing_pending(how: str, told: str) -> None:
    with CasOps.open("memory://") as casops:
        with pytest.raises(UsageError, match=told) as error:
            casops.run(Misuse(how=how, account="alice"), operation_id="i")
        assert error.value.happened is False
        assert casops.pending() == []


class Looks(Operation[str]):
    """Looks up a document in a way that the types forbid."""

    how: str
    account: Ref[Account]

    def apply(self, documents: Documents) -> str:
        if self.how == "list":
            return str(list(documents))
        documents.get(self.account)
        return str(documents.get(Ref(Person, self.account.id)))


@pytest.mark.parametrize(
    ("how", "told"), [("list", "cannot be listed"), ("twice", "used both as Account and as Person")]
)
def test_documents_are_looked_up_one_by_one_each_as_one_model(how: str, told: str) -> None:
    with CasOps.open("memory://") as casops:
        casops.run(Open(account="alice"), operation_id="open")
        with pytest.raises(UsageError, match=told) as error:
            casops.run(Looks(how=how, account="alice"), operation_id="i")
        assert (error.value.happened, error.value.operation_id) == (False, "i")
        assert casops.pending() == []


def test_a_snapshot_gives_a_document_as_what_it_was_asked_for() -> None:
    with CasOps.open("memory://") as casops:
        casops.run(Open(account="a"), operation_id="open")
        seen = casops.snapshot([Account.ref("a")])
        with pytest.raises(UsageError, match="was asked for as Account, not Person"):
            seen.get(Ref(Person, "a"))


class Homeless(Document):
    """Of no collection: to derive from."""


def test_a_reference_to_what_has_no_collection_is_told() -> None:
    with pytest.raises(UsageError, match="Homeless has no collection"):
        Ref(Homeless, "a")
    assert Account.ref("a") != "a"


class Waits(Operation[None]):
    async def apply(self, documents: Documents) -> None:  # type: ignore[override]
        raise AssertionError("nobody waits for it")


class Soon:
    """An awaitable that is no coroutine."""

    def __await__(self) -> Any:
        raise AssertionError("nobody waits for it")


class GivesSoon(Operation[Any]):
    def apply(self, documents: Documents) -> Any:
        return Soon()


class Nothing(Operation[None]):
    """Its business is missing."""


async def test_a_business_function_that_is_async_or_missing_is_told(bank: Bank) -> None:
    casops = bank.open()
    for operation in (Waits(), GivesSoon()):
        with pytest.raises(UsageError, match="an ordinary function, not async") as error:
            await casops.run(operation, operation_id="i")
        assert (error.value.happened, error.value.operation_id) == (False, "i")
        assert await casops.pending() == []
    with pytest.raises(NotImplementedError, match="Nothing does not define apply"):
        await casops.run(Nothing(), operation_id="n")


class Lazy(BaseModel):
    model_config = ConfigDict(defer_build=True)

    number: int


class Deferred(Operation[Lazy]):
    def apply(self, documents: Documents) -> Lazy:
        return Lazy(number=1)


class Forward(Operation["Later"]):  # type: ignore[name-defined]
    def apply(self, documents: Documents) -> Any:
        return None


@pytest.mark.parametrize("known", ["Transfer", 5, Account, Open(account="a")])
def test_what_is_no_class_of_operations_is_told(known: Any) -> None:
    with pytest.raises(UsageError, match="a class of operations is needed"):
        CasOps.open("memory://", operations=[known])
    with pytest.raises(UsageError, match="a class of operations is needed"):
        AsyncClient(["http://localhost"], operations=[known])


def test_a_result_that_is_named_only_is_told_before_anything_is_asked() -> None:
    with CasOps.open("memory://") as casops:
        with pytest.raises(UsageError, match="write the type itself"):
            casops.run(Forward(), operation_id="i")
        assert casops.outcome("i") is None
        assert casops.run(Deferred(), operation_id="i") == Lazy(number=1)


def test_a_snapshot_shows_what_it_holds() -> None:
    with CasOps.open("memory://") as casops:
        casops.run(Open(account="a"), operation_id="i")
        seen = casops.snapshot([Account.ref("a"), Account.ref("b")])
        assert repr(seen) == f"Snapshot(accounts/a: {seen[Account.ref('a')]!r}, accounts/b: None)"


async def test_who_is_closed_says_for_which_operation() -> None:
    casops = CasOps.open("memory://")
    casops.close()
    for ask in (casops.outcome, casops.cancel, lambda id: casops.run(Open(account="a"), operation_id=id)):
        with pytest.raises(Closed) as told:
            ask("i")
        assert told.value.operation_id == "i"
    apart = AsyncCasOps.open("memory://")
    await apart.close()
    with pytest.raises(Closed) as told:
        await apart.run(Open(account="a"), operation_id="i")
    assert told.value.operation_id == "i"


@pytest.mark.filterwarnings("ignore:Field name:UserWarning")
def test_an_argument_must_not_take_the_place_of_the_name_of_its_operation() -> None:
    """It decided whom a sweep took the operation for."""
    with pytest.raises(UsageError, match="must not have an argument operation_name"):
        type("Named", (Operation[None],), {"__annotations__": {"operation_name": str}, "__module__": __name__})


@pytest.mark.parametrize(
    "why", ["\ud800", {"deep": ["\ud800"]}, object(), Odd()], ids=["half", "deep", "object", "its own bug"]
)
async def test_details_that_are_not_json_leave_nothing_pending(bank: Bank, why: Any) -> None:
    casops = bank.open()
    WHY[:] = [why]
    with pytest.raises(UsageError, match="not JSON"):
        await casops.run(Refuses(), operation_id="r")
    assert await casops.pending() == []


async def test_a_reference_in_the_details_is_its_id_and_the_answer_may_be_asked_for_again(bank: Bank) -> None:
    casops = bank.open()
    WHY[:] = [[Account.ref("alice")]]
    outcome = await casops.execute(Refuses(), operation_id="r")
    depths = []
    for _ in range(3):
        with pytest.raises(Declined) as told:
            _ = outcome.result
        assert told.value.details == {"why": ["alice"]}
        depths.append(len(told.traceback))
    assert len(set(depths)) == 1


class Classy(Operation[None]):
    def apply(self, documents: Documents) -> None:
        documents.create(Account.ref("alice"), Account)  # type: ignore[misc]  # pyright: ignore[reportArgumentType]


async def test_a_class_is_no_document(bank: Bank) -> None:
    with pytest.raises(UsageError, match=r"from a Account, not <class '.*Account'>"):
        await bank.open().run(Classy(), operation_id="c")


def made_at(seconds: float) -> str:
    """A UUIDv7 of another time."""
    return str(uuid.UUID(int=uuid.UUID(new_operation_id()).int & (1 << 80) - 1 | int(seconds * 1000) << 80))


async def test_what_may_be_forgotten_is_not_told_to_be_cancelled(bank: Bank) -> None:
    """It said "it did not happen" of what had happened."""
    casops = bank.open(dataclasses.replace(QUICK, retention=60.0, deadline=1.0))
    old = made_at(time.time() - 61)
    with pytest.raises(Expired, match="whether it happened was forgotten"):
        await casops.cancel(old)
    assert await casops.outcome(old) is None
    assert (await casops.cancel(made_at(time.time() - 30))).status == "cancelled"


async def test_a_snapshot_takes_references_however_they_come_and_nothing_else(bank: Bank) -> None:
    casops = bank.open()
    for name in ("alice", "bob"):
        await casops.run(Open(account=name), operation_id=name)
    assert len(await casops.snapshot(Account.ref(name) for name in ("alice", "bob"))) == 2
    for wrong in (Account.ref("alice"), ["alice"]):
        with pytest.raises(UsageError, match="reference"):
            await casops.snapshot(wrong)


@pytest.mark.parametrize("url", [None, 5, b"memory://"])
def test_a_store_that_is_not_named_by_a_text(url: Any) -> None:
    with pytest.raises(UsageError, match="named by a URL"):
        CasOps.open(url)
