"""Every public call, on both stores, sync and async."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Sequence
from contextlib import suppress
from contextvars import Context, copy_context
from decimal import Decimal
from typing import Any

import pytest

from casops import (
    AsyncCasOps,
    Cancelled,
    Contended,
    Declined,
    DocumentExists,
    DocumentMissing,
    Documents,
    Expired,
    InvalidDocument,
    Operation,
    OperationMismatch,
    Options,
    Outcome,
    Pending,
    Recovery,
    UsageError,
    new_operation_id,
)
from casops.business import OperationWork
from casops.local import local_reply
from casops.messages import Body, Exists, Insert, Mismatch, Read, Replace, Reply, Stored, StoreRequest, Version
from casops.protocol.execution import Execution
from casops.stores.memory import AsyncMemoryStore
from tests.bank import MENDED, Account, Broken, Close, Echo, Open, Overdraw, Receipt, Transfer
from tests.conftest import QUICK, Bank, something_is_in_the_way

ALICE, BOB = Account.ref("alice"), Account.ref("bob")


async def opened(bank: Bank, **more: Any) -> Any:
    """A front on a store with two settled accounts."""
    first = bank.open()
    await first.run(Open(account="alice", balance=100), operation_id="open-alice")
    await first.run(Open(account="bob"), operation_id="open-bob")
    await first.close()
    return bank.open(**more)


async def test_run_gives_the_result_and_gives_it_again(bank: Bank) -> None:
    casops = await opened(bank)
    transfer = Transfer(source="alice", target="bob", amount=30)
    for _ in range(3):
        assert await casops.run(transfer, operation_id="t") == Receipt(left=Decimal(70))
    assert (await casops.read(ALICE)).balance == 70
    assert (await casops.read(BOB)).balance == 30


async def test_execute_tells_more(bank: Bank) -> None:
    casops = await opened(bank)
    transfer = Transfer(source="alice", target="bob", amount=30)
    first = await casops.execute(transfer, operation_id="t")
    again = await casops.execute(transfer, operation_id="t")
    assert isinstance(first, Outcome)
    assert (first.status, first.replayed, first.taken_over, first.attempts) == ("applied", False, False, 1)
    assert (again.status, again.replayed, again.result) == ("applied", True, first.result)
    assert [event.what for event in first.history][:2] == ["declared", "proposed"]


async def test_a_refusal_is_recorded_and_replayed(bank: Bank) -> None:
    casops = await opened(bank)
    for amount_of_bob in (0, 1):
        with pytest.raises(Declined) as caught:
            await casops.run(Transfer(source="bob", target="alice", amount=1), operation_id="t")
        assert caught.value.code == "insufficient_funds"
        assert caught.value.details == {"balance": "0"}
        assert caught.value.operation_id == "t"
        outcome = await casops.execute(Transfer(source="bob", target="alice", amount=1), operation_id="t")
        assert (outcome.status, outcome.replayed, outcome.value) == ("declined", True, None)
        if not amount_of_bob:
            await casops.run(Transfer(source="alice", target="bob", amount=50), operation_id="more")
    assert (await casops.read(BOB)).balance == 50


async def test_outcome_answers_did_it_happen(bank: Bank) -> None:
    casops = await opened(bank)
    assert await casops.outcome("t") is None
    await casops.run(Transfer(source="alice", target="bob", amount=30), operation_id="t")
    outcome = await casops.outcome("t")
    assert isinstance(outcome, Outcome)
    assert outcome.result == Receipt(left=Decimal(70))
    # A process that does not know the operation sees the JSON of the result.
    assert (await bank.open().outcome("t")).result == {"left": "70"}


async def test_a_snapshot_of_many(bank: Bank) -> None:
    casops = await opened(bank)
    snapshot = await casops.snapshot([ALICE, BOB, Account.ref("nobody")])
    assert snapshot[ALICE].balance + snapshot[BOB].balance == 100
    assert snapshot.get(Account.ref("nobody")) is None
    assert Account.ref("nobody") not in snapshot
    assert len(snapshot) == len(list(snapshot)) == 3
    with pytest.raises(DocumentMissing):
        snapshot[Account.ref("nobody")]
    with pytest.raises(UsageError):
        snapshot[Account.ref("not asked for")]


async def test_create_remove_and_is_there_one(bank: Bank) -> None:
    casops = await opened(bank)
    with pytest.raises(DocumentExists):
        await casops.run(Open(account="alice"), operation_id="again")
    assert await casops.run(Close(account="alice"), operation_id="close") == Decimal(100)
    assert await casops.read(ALICE) is None
    with pytest.raises(DocumentMissing) as caught:
        await casops.run(Close(account="alice"), operation_id="close-2")
    assert caught.value.operation_id == "close-2"
    await casops.run(Open(account="alice", balance=7), operation_id="reopen")
    assert (await casops.read(ALICE)).balance == 7
    assert await casops.pending() == []


class Infinite(Operation[float]):
    refuses: bool

    def apply(self, documents: Documents) -> float:
        if self.refuses:
            raise Declined("too_much", most=float("inf"))
        return float("inf")


async def test_what_json_has_no_number_for_is_not_answered_once_and_lost_then(bank: Bank) -> None:
    casops = bank.open()
    for _ in range(2):
        with pytest.raises(InvalidDocument):
            await casops.run(Infinite(refuses=False), operation_id="i")
        assert (await casops.execute(Infinite(refuses=True), operation_id="r")).refusal.details == {"most": None}


async def test_an_invalid_document_is_not_written(bank: Bank) -> None:
    casops = await opened(bank)
    with pytest.raises(InvalidDocument, match=r"accounts/alice.*balance.*nothing was written") as caught:
        await casops.run(Overdraw(account="alice"), operation_id="o")
    assert caught.value.operation_id == "o"
    assert (await casops.read(ALICE)).balance == 100
    assert await casops.pending() == []


async def test_a_business_function_must_not_ask_the_front_that_runs_it(bank: Bank) -> None:
    casops, other = await opened(bank), bank.open()
    kept: list[Context] = []

    class Nested(Operation[None], name="Nested"):
        def apply(self, documents: Documents) -> None:
            kept.append(copy_context())
            asked = casops.front.run(Open(account="inner"), operation_id="inner")
            if inspect.isawaitable(asked):
                asked.send(None)  # type: ignore[attr-defined]

    class Around(Operation[None], name="Around"):
        def apply(self, documents: Documents) -> None:
            if bank.face == "async":  # where it cannot run inside of a function
                raise UsageError("must not ask the store")
            other.front.run(Nested(), operation_id="nested")

    for operation in (Nested(), Around()):
        with pytest.raises(UsageError, match="must not ask the store"):
            await casops.run(operation, operation_id="outer")
    assert await casops.read(Account.ref("inner")) is None
    assert await casops.pending() == []
    for context in kept:  # whatever keeps the context of a function that is over may ask
        context.run(casops.front._check_open)


async def test_an_exception_of_the_business_leaves_it_pending_until_a_sweep_finishes_it(bank: Bank) -> None:
    casops = await opened(bank)
    with pytest.raises(ZeroDivisionError):
        await casops.run(Broken(account="alice"), operation_id="b")
    (pending,) = await casops.pending()
    assert isinstance(pending, Pending)
    assert (pending.operation_id, pending.operation, pending.failures) == ("b", "Broken", 1)
    assert pending.last_error == "ZeroDivisionError: a bug"
    assert isinstance(await casops.outcome("b"), Pending)
    for failures in range(2, QUICK.park_after + 1):
        recovery = await casops.recover()
        assert isinstance(recovery, Recovery)
        assert recovery.left[0].note == "ZeroDivisionError: a bug"
        assert (await casops.pending())[0].failures == failures
    (parked,) = (await casops.recover()).left
    assert parked.parked
    assert "parked" in parked.note
    MENDED.append(True)
    try:
        await casops.run(Broken(account="alice"), operation_id="b")  # the operator's retry
    finally:
        MENDED.clear()
    assert (await casops.read(ALICE)).balance == 101
    assert await casops.pending() == []


async def leave_behind(casops: Any, operation: Any, operation_id: str, batches: int) -> None:
    """A worker that dies after so many batches were carried out, without hearing of the last one."""
    front = casops.front
    work = front._engine.work(operation, operation_id)
    steps = Execution(front._engine.environment(), operation_id, work).run()
    reply: Any = None
    while batches:
        request = steps.send(reply)
        if isinstance(request, tuple):
            reply = await maybe(front._store.perform(request))
            batches -= 1
        else:
            reply = local_reply(request)
    steps.close()


@pytest.mark.parametrize("batches", [1, 2])
async def test_recover_finishes_what_a_dead_worker_left(bank: Bank, batches: int) -> None:
    casops = await opened(bank)
    await leave_behind(casops, Transfer(source="alice", target="bob", amount=30), "t", batches)
    left = [] if batches == 2 else ["t"]  # after two it has happened, though nobody was told
    assert [each.operation_id for each in await casops.pending()] == left
    recovery = await bank.open().recover()
    assert [each.note for each in recovery.left] == ["this process does not know the operation" for _ in left]
    recovery = await bank.open(operations=[Transfer]).recover()
    assert [each.operation_id for each in recovery.finished] == left
    assert all(each.taken_over for each in recovery.finished)
    assert recovery.left == ()
    outcome = await casops.outcome("t")
    assert outcome.result == Receipt(left=Decimal(70))
    assert (await casops.read(ALICE)).balance == 70
    assert await casops.pending() == []


async def test_cancel(bank: Bank) -> None:
    casops = await opened(bank)
    assert (await casops.cancel("never")).status == "cancelled"
    with pytest.raises(Cancelled):
        await casops.run(Transfer(source="alice", target="bob", amount=30), operation_id="never")
    await casops.run(Transfer(source="alice", target="bob", amount=30), operation_id="done")
    assert (await casops.cancel("done")).status == "applied"
    assert (await casops.read(ALICE)).balance == 70


async def test_the_same_id_with_other_arguments(bank: Bank) -> None:
    casops = await opened(bank)
    await casops.run(Transfer(source="alice", target="bob", amount=30), operation_id="t")
    with pytest.raises(OperationMismatch):
        await casops.run(Transfer(source="alice", target="bob", amount=31), operation_id="t")
    with pytest.raises(OperationMismatch):
        await casops.run(Echo(), operation_id="t")
    assert (await casops.read(ALICE)).balance == 70


@pytest.mark.parametrize(
    "value",
    [0, None, [], "", False, {}, 1.5, "text", [1, [2]], {"a": None}, 10**30, -1],
    ids=lambda value: repr(value)[:12],
)
async def test_results_are_anything_json_can_hold(bank: Bank, value: Any) -> None:
    casops = bank.open()
    for _ in range(2):
        result = await casops.run(Echo(value=value), operation_id="e")
        assert result == value
        assert type(result) is type(value)


@pytest.mark.parametrize(
    "value",
    [(1, 2), float("nan"), float("inf"), {1: 2}, object(), b"\xff", "\ud800"],
    ids=lambda value: type(value).__name__ + repr(value)[:6],
)
async def test_results_that_would_come_back_as_something_else_are_refused(bank: Bank, value: Any) -> None:
    casops = bank.open()

    class Result(Echo, name="Result"):
        def apply(self, documents: Any) -> Any:
            return value

    with pytest.raises(InvalidDocument, match="nothing was written"):
        await casops.run(Result(), operation_id="r")
    assert await casops.pending() == []


@pytest.mark.parametrize("operation_id", ["", "x" * 201, "ä" * 101, "a\nb", "\ud800", None, 7])
async def test_impossible_ids(bank: Bank, operation_id: Any) -> None:
    casops = bank.open()
    for call in (
        casops.run(Echo(), operation_id=operation_id),
        casops.outcome(operation_id),
        casops.cancel(operation_id),
    ):
        with pytest.raises(UsageError):
            await call


@pytest.mark.parametrize("operation_id", ["order-29401", "x" * 200, "a b/c'd\"`%\\", "ключ", "UUIDv7"])
async def test_any_other_text_is_an_id(bank: Bank, operation_id: str) -> None:
    if operation_id == "UUIDv7":
        operation_id = new_operation_id()
    casops = bank.open()
    assert await casops.run(Echo(value=1), operation_id=operation_id) == 1
    assert (await casops.execute(Echo(value=1), operation_id=operation_id)).replayed


async def test_an_old_uuid7_is_expired(bank: Bank) -> None:
    casops = bank.open()
    with pytest.raises(Expired):
        await casops.run(Echo(), operation_id="01800000-0000-7000-8000-000000000000")  # of 2022


async def test_one_document_as_source_and_target(bank: Bank) -> None:
    casops = await opened(bank)
    await casops.run(Transfer(source="alice", target="alice", amount=30), operation_id="t")
    assert (await casops.read(ALICE)).balance == 100


async def test_fields_of_other_programs_survive(bank: Bank) -> None:
    casops = await opened(bank)
    performed = casops.front._store.perform([Insert(Account.ref("c").key, '{"balance": 5, "colour": "red"}')])
    if asyncio.iscoroutine(performed):
        await performed
    await casops.run(Transfer(source="c", target="bob", amount=2), operation_id="t")
    assert (await casops.read(Account.ref("c"))).model_dump(mode="json") == {
        "balance": "3",
        "note": None,
        "colour": "red",
    }


async def test_each_document_keeps_its_own_expiry(bank: Bank) -> None:
    casops = await opened(bank)
    stranger = bank.stranger()
    carol = Account.ref("carol")
    stored = await maybe(stranger.perform([Insert(carol.key, '{"balance":"1"}', ttl=5_000)]))
    assert isinstance(stored[0], Stored)
    (before,) = await maybe(stranger.perform([Read(carol.key)]))
    await casops.run(Transfer(source="alice", target="carol", amount=1), operation_id="t")
    await casops.close()
    after = [(await maybe(stranger.perform([Read(key)])))[0] for key in (ALICE.key, carol.key)]
    assert [each.stage for each in after] == [None, None]
    assert [each.expires for each in after] == [None, before.expires]
    assert before.expires is not None


async def test_close_finishes_settling(bank: Bank) -> None:
    casops = await opened(bank)
    for each in range(20):
        await casops.run(Transfer(source="alice", target="bob", amount=1), operation_id=f"t{each}")
    store = casops.front._store
    if bank.kind == "memory":
        await casops.close()
        await casops.close()
        cells = await maybe(store.perform([_read("alice"), _read("bob")]))
        assert [cell.stage for cell in cells] == [None, None]
    await casops.close()
    with pytest.raises(UsageError, match="closed"):
        await casops.read(ALICE)


async def maybe(value: Any) -> Any:
    return await value if asyncio.iscoroutine(value) else value


def _read(name: str) -> Any:
    return Read(Account.ref(name).key)


async def test_many_at_once_on_few_documents(bank: Bank) -> None:
    casops = await opened(bank)

    async def one(each: int) -> None:
        source, target = ("alice", "bob") if each % 2 else ("bob", "alice")
        with suppress(Declined):
            await casops.run(Transfer(source=source, target=target, amount=1), operation_id=f"t{each}")

    await asyncio.gather(*(one(each // 2) for each in range(60)))  # every one is asked for twice
    snapshot = await casops.snapshot([ALICE, BOB])
    assert snapshot[ALICE].balance + snapshot[BOB].balance == 100


async def test_two_fronts_race_for_one_document(bank: Bank) -> None:
    fronts = [await opened(bank), bank.open(), bank.open()]

    async def one(each: int) -> None:
        await fronts[each % 3].run(Transfer(source="alice", target="bob", amount=1), operation_id=f"t{each}")

    await asyncio.gather(*(one(each) for each in range(30)))
    assert (await fronts[0].read(BOB)).balance == 30


async def test_what_cannot_be_settled_is_said_and_left_to_a_sweep(
    bank: Bank, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    casops = await opened(bank)
    monkeypatch.setattr("casops.protocol.execution.at_once", something_is_in_the_way)  # on a file nothing is left else

    def broken(ended: Any) -> Any:
        raise RuntimeError("no")
        yield

    monkeypatch.setattr(casops.front._engine, "settle", broken)
    with caplog.at_level(logging.WARNING, "casops"):
        await casops.run(Transfer(source="alice", target="bob", amount=1), operation_id="t")
        await casops.close()
    assert "operation t is answered, its settling is left to a sweep" in caplog.text
    other = bank.open(operations=[Transfer])
    assert (await other.recover()).settled == 1


async def test_a_full_settling_queue_makes_callers_settle(bank: Bank) -> None:
    casops = await opened(bank, options=Options(settle_queue=0))
    await casops.run(Transfer(source="alice", target="bob", amount=1), operation_id="t")
    (cell,) = await maybe(casops.front._store.perform([_read("alice")]))
    assert cell.stage is None


# A file has one writer at a time: nobody can change a document in the middle of an attempt.
@pytest.mark.parametrize("bank", ["memory-sync", "memory-async"], indirect=True)
async def test_contended_is_said_in_the_end(bank: Bank) -> None:
    casops = await opened(bank, options=Options(attempts=2, poll=0.0, patience=0.0))

    class Unlucky(Echo, name="Unlucky"):
        """Somebody else changes the document in the middle of every attempt."""

        def apply(self, documents: Any) -> Any:
            account = documents[ALICE]
            disturb()
            account.balance += 1

    stranger = bank.stranger()

    def disturb() -> None:
        (found,) = stranger.perform([Read(ALICE.key)])
        assert isinstance(found, Version)
        stranger.perform([Replace(ALICE.key, found.cas, Body.KEEP, found.stage)])

    with pytest.raises(Contended) as caught:
        await casops.run(Unlucky(), operation_id="u")
    assert caught.value.retry
    assert await casops.pending() == []


class Weigh(Operation[bool]):
    limit: float

    def apply(self, documents: Documents) -> bool:
        return self.limit > 0


def test_arguments_that_json_has_no_number_for_are_stored_as_they_were_given() -> None:
    """Stored as null they could not be read again, and no sweep could have finished the operation."""
    stored = OperationWork(Weigh(limit=float("inf")), "i").arguments
    assert Weigh.model_validate_json(stored) == Weigh(limit=float("inf"))


class Noted(AsyncMemoryStore):
    """Keeps all replies, and takes its time for each."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.replies: list[Reply] = []
        self._seconds = seconds

    async def perform(self, batch: Sequence[StoreRequest], /) -> list[Reply]:
        await asyncio.sleep(self._seconds)
        replies = await super().perform(batch)
        self.replies += replies
        return replies


@pytest.mark.parametrize(("calls", "seconds", "patience"), [(16, 0.0, 30.0), (40, 0.01, 1.0), (40, 0.01, 0.005)])
async def test_operations_on_one_document_do_not_race_with_each_other(
    calls: int, seconds: float, patience: float
) -> None:
    """A turn ends when its documents are settled.  It once ended with the answer: the next one met the stage, decided
    it, and then lost its own staging to the settling.

    And patience is with whoever heads the line, not with the line: the last of forty waits for longer.
    """
    store = Noted(seconds)
    async with AsyncCasOps(store, options=Options(patience=patience)) as casops:
        await casops.run(Open(account="hot", balance=Decimal(100)), operation_id="open")
        await casops.run(Open(account="other"), operation_id="open-other")
        move = Transfer(source="hot", target="other", amount=1)
        await asyncio.gather(*(casops.run(move, operation_id=f"o{each}") for each in range(calls)))
        assert not any(isinstance(reply, Mismatch | Exists) for reply in store.replies)
        assert not any(isinstance(reply, Version) and reply.stage is not None for reply in store.replies)
