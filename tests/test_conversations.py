"""Conversations: all that an operation writes on a file is one transaction, and a failure of it is no answer.

Must not be in here: what a transaction does to rows (tests/test_sqlite_store.py), rules of the protocol.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from contextvars import ContextVar
from decimal import Decimal, localcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from casops import (
    AsyncCasOps,
    CasOps,
    Documents,
    Operation,
    OutcomeUnknown,
    Ref,
    StoreUnavailable,
    UsageError,
)
from casops.conversations import MAX_BATCHES, Conversation, at_once
from casops.drivers import drive
from casops.messages import (
    INTENTIONS,
    RESULTS,
    AtOnce,
    Insert,
    Key,
    Mismatch,
    Pause,
    Read,
    Refused,
    Replace,
    Reply,
    Scan,
    Steps,
    Stored,
    StoreRequest,
    Unknown,
    Version,
)
from casops.stores import TalkTo
from casops.stores.memory import MemoryStore
from casops.stores.sqlite import AsyncSqliteStore, SqliteStore
from tests.bank import Account, Open, Receipt, Transfer
from tests.conftest import QUICK, something_is_in_the_way
from tests.sqlite_failing import Failing

ALICE, BOB = Account.ref("alice"), Account.ref("bob")
MOVE = Transfer(source="alice", target="bob", amount=30)
SECONDS = 20.0  # until something that must happen is taken to hang


AT_ONCE = pytest.mark.parametrize("store", ["at once"], indirect=True)


@pytest.fixture(params=["at once", "stream log"])
def store(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> SqliteStore:
    if request.param == "stream log":
        monkeypatch.setattr("casops.protocol.execution.at_once", something_is_in_the_way)
    return SqliteStore(tmp_path / "bank.db", busy_timeout=0.2)


@pytest.fixture
def casops(store: SqliteStore) -> Iterator[CasOps]:
    with CasOps(store, options=QUICK) as opened:
        opened.run(Open(account="alice", balance=100), operation_id="open-alice")
        opened.run(Open(account="bob"), operation_id="open-bob")
        yield opened


def traced(store: SqliteStore, *, reading: bool = False) -> list[str]:
    connection = store._reader if reading else store._connection
    assert connection is not None
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    return statements


def balances(casops: CasOps) -> tuple[int, int]:
    snapshot = casops.snapshot([ALICE, BOB])
    return int(snapshot[ALICE].balance), int(snapshot[BOB].balance)


def left_over(store: SqliteStore) -> list[str]:
    """What is still to be settled in the file."""
    with closing(sqlite3.connect(store._path)) as file:
        stages = [f"stage on {id}" for (id,) in file.execute("SELECT id FROM documents WHERE stage_meta IS NOT NULL")]
        rows = file.execute("SELECT id FROM documents WHERE collection = ?", (INTENTIONS,))
        return stages + [f"intention {id}" for (id,) in rows]


# --- one transaction ------------------------------------------------------------------------------------


def test_an_operation_is_one_transaction_and_leaves_nothing_to_settle(casops: CasOps, store: SqliteStore) -> None:
    statements = traced(store)
    casops.run(MOVE, operation_id="m")
    assert statements.count("BEGIN IMMEDIATE") == 1
    assert left_over(store) == []
    assert balances(casops) == (70, 30)


@AT_ONCE
@pytest.mark.parametrize("few", [0, 2])
def test_asking_again_writes_nothing_and_looks_at_few_documents(
    casops: CasOps, store: SqliteStore, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("casops.protocol.at_once.FEW", few)
    casops.run(MOVE, operation_id="m")
    statements, reading = traced(store), traced(store, reading=True)
    assert casops.execute(MOVE, operation_id="m").replayed
    (looked,) = reading
    assert looked.count("'accounts'") == few
    assert statements.count("BEGIN IMMEDIATE") == 0
    assert not any(each.startswith(("INSERT", "UPDATE", "DELETE")) for each in statements)


def test_an_intention_that_comes_and_goes_never_touches_the_file(casops: CasOps, store: SqliteStore) -> None:
    statements = traced(store)
    casops.run(MOVE, operation_id="m")
    assert [each for each in statements if INTENTIONS in each and not each.startswith("SELECT")] == []
    assert (
        len(
            [
                each
                for each in statements
                if each.startswith(("INSERT", "UPDATE documents", "DELETE FROM documents WHERE c"))
            ]
        )
        == 3
    )


@AT_ONCE
def test_the_function_runs_before_anything_is_locked(casops: CasOps, store: SqliteStore) -> None:
    seen: list[bool] = []

    class Watching(Operation[None], name="Watching"):
        account: Ref[Account]

        def apply(self, documents: Documents) -> None:
            documents[self.account].balance += 1
            with closing(sqlite3.connect(store._path, isolation_level=None, timeout=0)) as other:
                other.execute("BEGIN IMMEDIATE")
                other.execute("ROLLBACK")
            seen.append(store._writing.taken)

    casops.run(Watching(account="alice"), operation_id="w")
    assert seen == [False]


@AT_ONCE
def test_it_runs_again_if_its_documents_have_changed_since(casops: CasOps, store: SqliteStore) -> None:
    seen: list[tuple[int, bool]] = []

    class Late(Operation[None], name="Late"):
        """Another one is faster, after this one has looked."""

        account: Ref[Account]

        def apply(self, documents: Documents) -> None:
            account = documents[self.account]
            seen.append((int(account.balance), store._writing.taken))
            if len(seen) == 1:
                with CasOps(SqliteStore(store._path)) as other:
                    other.run(MOVE, operation_id="faster")
            account.balance += 1

    casops.run(Late(account="alice"), operation_id="late")
    assert seen == [(100, False), (70, True)]  # the second time nobody can be faster
    assert balances(casops) == (71, 30)


def test_who_has_written_at_once_hears_of_it_when_it_is_durable_and_nothing_is_locked(store: SqliteStore) -> None:
    def worker() -> Steps[tuple[Reply, int]]:
        (lost,) = yield (AtOnce((Replace(Key(RESULTS, "none"), 2, "1"),), ()),)
        assert lost == Mismatch()
        assert store._writing.taken  # so that nobody comes in between now
        (reply,) = yield (AtOnce((Insert(Key(RESULTS, "done"), "1"),), ()),)
        with closing(sqlite3.connect(store._path, isolation_level=None, timeout=0)) as other:
            other.execute("BEGIN IMMEDIATE")
            (seen,) = other.execute("SELECT count(*) FROM documents WHERE id = 'done'").fetchone()
            other.execute("ROLLBACK")
        return reply, seen

    with closing(store):
        reply, seen = drive(at_once(worker, worker), store)
        assert (type(reply), seen) == (Stored, 1)


def test_nobody_has_to_wait_for_a_worker_that_waits(casops: CasOps, store: SqliteStore) -> None:
    def waiting() -> Steps[str]:
        yield (Insert(Key(RESULTS, "before"), "1"),)
        yield Pause(0.0)
        with closing(sqlite3.connect(store._path, isolation_level=None, timeout=0)) as other:
            other.execute("BEGIN IMMEDIATE")
            (seen,) = other.execute("SELECT count(*) FROM documents WHERE id = 'before'").fetchone()
            other.execute("ROLLBACK")
        yield (Insert(Key(RESULTS, "after"), "1"),)
        return str(seen)

    assert drive(at_once(waiting, waiting), store) == "1"


def test_a_conversation_is_bounded(store: SqliteStore) -> None:
    def talkative() -> Steps[int]:
        for number in range(3 * MAX_BATCHES):
            yield (Insert(Key(RESULTS, f"{number}"), "1"),)
        return number

    with closing(store):
        store.perform([Insert(Key("setup", "1"), "x")])
        statements = traced(store)
        assert drive(at_once(talkative, talkative), store) == 3 * MAX_BATCHES - 1
        assert statements.count("BEGIN IMMEDIATE") == 3


# --- transactions that fail -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "done"),
    [
        (sqlite3.SQLITE_FULL, False),
        (sqlite3.SQLITE_BUSY, False),
        (sqlite3.SQLITE_IOERR_FSYNC, False),
        (sqlite3.SQLITE_IOERR_FSYNC, True),
    ],
)
def test_a_commit_that_fails_is_asked_for_again(casops: CasOps, store: SqliteStore, code: int, done: bool) -> None:
    seeded: Any = Failing(store._connection, code, done=done, times=1)
    store._connection = seeded
    outcome = casops.execute(MOVE, operation_id="m")
    assert (outcome.result, outcome.replayed) == (Receipt(left=Decimal(70)), done)
    assert balances(casops) == (70, 30)
    assert casops.execute(MOVE, operation_id="m").replayed
    assert casops.pending() == []


@pytest.mark.parametrize(
    ("code", "expected"), [(sqlite3.SQLITE_FULL, StoreUnavailable), (sqlite3.SQLITE_IOERR_FSYNC, OutcomeUnknown)]
)
def test_what_is_said_if_it_goes_on_failing(
    casops: CasOps, store: SqliteStore, code: int, expected: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(SqliteStore):
        def perform(self, batch: Sequence[StoreRequest], /) -> list[Reply]:
            return [Refused("full") if isinstance(each, Insert) else read for each, read in _read(self, batch)]

    seeded: Any = Failing(store._connection, code, done=False, times=1)
    store._connection = seeded
    monkeypatch.setattr(store, "__class__", Full)
    with pytest.raises(expected):
        casops.run(MOVE, operation_id="m")
    monkeypatch.undo()
    assert balances(casops) == (100, 0)
    assert casops.pending() == []


def _read(store: SqliteStore, batch: Sequence[StoreRequest]) -> Iterator[tuple[StoreRequest, Reply]]:
    for each in batch:
        yield each, SqliteStore.perform(store, [Read(each.key) if isinstance(each, Insert) else each])[0]


def test_a_database_that_is_busy_is_said_once_and_changes_nothing(casops: CasOps, store: SqliteStore) -> None:
    with closing(sqlite3.connect(store._path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="busy"):
            casops.run(MOVE, operation_id="m")
        other.execute("ROLLBACK")
    assert casops.pending() == []
    casops.run(MOVE, operation_id="m")
    assert balances(casops) == (70, 30)


class Unreliable:
    """A store in memory whose conversations fail at a chosen one: not begun, undone, or done and not told."""

    def __init__(self, memory: MemoryStore, which: int, how: str) -> None:
        self.memory, self._which, self._how = memory, which, how

    def perform(self, batch: Sequence[StoreRequest], /) -> list[Reply]:
        return self.memory.perform(batch)

    def converse(self, conversations: Sequence[TalkTo], /) -> list[Refused | Unknown | None]:
        return [self._converse(each) for each in conversations]

    def check_usable(self) -> None:
        """It always is."""

    def _converse(self, conversation: TalkTo) -> Refused | Unknown | None:
        self._which -= 1
        failing = self._which == 0
        if failing and self._how == "not begun":
            return Refused("not begun")
        before = self.memory.copy()
        conversation(self.memory.perform)
        if not failing:
            return None
        if self._how == "done":
            return Unknown("done")
        self.memory._rows, self.memory._floor = before._rows, self.memory._floor
        return Unknown("undone") if self._how == "undone" else Refused("refused")

    def close(self) -> None:
        """As MemoryStore.close."""


@pytest.mark.parametrize("how", ["not begun", "undone", "refused", "done"])
@pytest.mark.parametrize("which", range(1, 6))
def test_whichever_conversation_fails_everything_happens_once(which: int, how: str) -> None:
    store = Unreliable(MemoryStore(), which, how)
    with CasOps(store, options=QUICK) as casops:
        orders: list[tuple[str, Operation[Any]]] = [
            ("open-alice", Open(account="alice", balance=100)),
            ("open-bob", Open(account="bob")),
            *((f"m{number}", MOVE) for number in range(3)),
        ]
        for id, operation in orders:
            with suppress(StoreUnavailable):  # where it was not begun: nothing happened, and it may be asked again
                casops.run(operation, operation_id=id)
            casops.run(operation, operation_id=id)
        assert balances(casops) == (10, 90)
        assert casops.pending() == []


class FullFrom(Unreliable):
    """A store whose disk is full from a chosen conversation on."""

    full = False

    def _converse(self, conversation: TalkTo) -> Refused | Unknown | None:
        before = self.memory.copy()
        failed = super()._converse(conversation)
        if failed is not None:
            self.full, self.memory._rows = True, before._rows
        return failed

    def perform(self, batch: Sequence[StoreRequest], /) -> list[Reply]:
        if not self.full:
            return super().perform(batch)
        return [self.memory.perform([each])[0] if isinstance(each, Read | Scan) else Refused("full") for each in batch]


def test_what_an_earlier_conversation_wrote_is_not_called_nothing() -> None:
    def worker() -> Steps[None]:
        yield (Insert(Key(RESULTS, "declared"), "1"),)
        yield Pause(0.0)
        yield (Insert(Key(RESULTS, "proposed"), "1"),)

    def second() -> Steps[None]:
        (reply,) = yield (Insert(Key(RESULTS, "again"), "1"),)
        assert isinstance(reply, Refused)
        raise StoreUnavailable("full; this call changed nothing", operation_id="i")

    store = FullFrom(MemoryStore(), 2, "refused")
    with pytest.raises(OutcomeUnknown) as raised:
        drive(at_once(worker, second), store)
    assert isinstance(store.perform([Read(Key(RESULTS, "declared"))])[0], Version)
    assert "nothing" not in str(raised.value)
    store = FullFrom(MemoryStore(), 1, "refused")
    with pytest.raises(StoreUnavailable, match="this call changed nothing"):
        drive(at_once(worker, second), store)


# --- whose thread it is ---------------------------------------------------------------------------------

trail: ContextVar[str] = ContextVar("trail", default="nobody's")


class Telling(Operation[str], name="Telling"):
    """Tells in whose context it runs; its answer differs from run to run, so it is no example."""

    account: Ref[Account]

    def apply(self, documents: Documents) -> str:
        documents[self.account].balance += 1
        return f"{trail.get()} {Decimal(1) / Decimal(3)}"


def at_the_same_time(calls: Sequence[Callable[[], Any]], casops: CasOps, store: SqliteStore) -> list[Any]:
    """One of the calls goes alone, all others in one transaction: the file is locked until all of them are there."""
    outcomes: list[Any] = [None] * len(calls)

    def run(number: int) -> None:
        try:
            outcomes[number] = calls[number]()
        except BaseException as error:  # noqa: BLE001 - looked at below
            outcomes[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(calls))]
    with closing(sqlite3.connect(store._path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for thread in threads:
            thread.start()
        gathered = threading.Event()
        for _ in range(int(SECONDS / 0.001)):
            if casops._callers is not None and len(casops._callers._calls) == len(calls) - 1:
                break
            gathered.wait(0.001)
        other.execute("ROLLBACK")
    for thread in threads:
        thread.join(SECONDS)
        assert not thread.is_alive()
    return outcomes


@pytest.fixture
def patient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[CasOps, SqliteStore]]:
    monkeypatch.setattr("casops.callers.PATIENCE", 3 * SECONDS)
    store = SqliteStore(tmp_path / "patient.db", busy_timeout=SECONDS)
    with CasOps(store, options=QUICK) as opened:
        for number in range(6):
            opened.run(Open(account=f"a{number}", balance=0), operation_id=f"open-{number}")
        yield opened, store


def test_each_runs_in_the_context_of_its_caller(patient: tuple[CasOps, SqliteStore]) -> None:
    casops, store = patient

    def ask(number: int) -> str:
        trail.set(f"caller {number}")
        with localcontext() as context:
            context.prec = 3 + number
            # All want the same account, so that all but the first run again where the group is written.
            return casops.run(Telling(account="a0"), operation_id=f"t{number}")

    answers = at_the_same_time([partial(ask, number) for number in range(5)], casops, store)
    assert answers == [f"caller {number} 0.{'3' * (3 + number)}" for number in range(5)]
    account = casops.read(Account.ref("a0"))
    assert account is not None
    assert account.balance == 5


class Raising(Operation[None], name="Raising"):
    """Raises what it is told to, but not when it merely looks ahead."""

    account: Ref[Account]
    what: str

    def apply(self, documents: Documents) -> None:
        if documents[self.account].balance > 0:
            raise {"exit": SystemExit, "value": ValueError, "interrupt": KeyboardInterrupt}[self.what]("seeded")


class Pay(Operation[None], name="Pay"):
    account: Ref[Account]

    def apply(self, documents: Documents) -> None:
        documents[self.account].balance += 1


@pytest.mark.parametrize(("what", "raised"), [("exit", SystemExit), ("value", ValueError)])
def test_what_a_function_raises_is_for_its_own_caller(
    patient: tuple[CasOps, SqliteStore], what: str, raised: type[BaseException]
) -> None:
    casops, store = patient
    calls: list[Callable[[], Any]] = [
        partial(casops.run, Pay(account="a0"), operation_id=f"p{number}") for number in range(4)
    ]
    # It looked ahead at an account with nothing on it; some or all of the payments come before it in the group.
    calls.append(lambda: casops.run(Raising(account="a0", what=what), operation_id="r"))
    *paid, last = at_the_same_time(calls, casops, store)
    assert paid == [None] * 4
    assert last is None or isinstance(last, raised)
    account = casops.read(Account.ref("a0"))
    assert account is not None
    assert account.balance == 4


@AT_ONCE
def test_a_function_that_asks_its_store_is_told_off_and_nothing_hangs(casops: CasOps, store: SqliteStore) -> None:
    runs: list[int] = []

    class Nested(Operation[None], name="Nested"):
        account: Ref[Account]

        def apply(self, documents: Documents) -> None:
            runs.append(1)
            documents[self.account].balance += 1
            if len(runs) == 1:
                with CasOps(SqliteStore(casops._store._path)) as other:  # type: ignore[attr-defined]
                    other.run(Pay(account="alice"), operation_id="faster")  # so that it runs again, in a transaction
            else:
                casops._store.perform([Read(ALICE.key)])

    with pytest.raises(UsageError, match="must not ask the store"):
        casops.run(Nested(account="alice"), operation_id="outer")
    assert len(runs) == 2
    assert casops.pending() == []
    assert balances(casops) == (101, 0)


async def test_a_cancelled_call_has_happened_or_not_and_asking_again_tells(tmp_path: Path) -> None:
    store = AsyncSqliteStore(SqliteStore(tmp_path / "bank.db"))
    async with AsyncCasOps(store, options=QUICK) as casops:
        await casops.run(Open(account="a0"), operation_id="open")
        for number in range(20):
            call = asyncio.create_task(casops.run(Pay(account="a0"), operation_id=f"p{number}"))
            for _ in range(number):
                await asyncio.sleep(0)
            call.cancel()
            with suppress(asyncio.CancelledError):
                await call
            await casops.run(Pay(account="a0"), operation_id=f"p{number}")
        account = await casops.read(Account.ref("a0"))
        assert account is not None
        assert account.balance == 20
        assert await casops.pending() == []


def test_a_bug_of_a_worker_is_its_own(store: SqliteStore) -> None:
    def buggy() -> Steps[None]:
        yield (Insert(Key(RESULTS, "1"), "1"),)
        yield (Insert(Key(RESULTS, "2"), None),)

    with closing(store):
        with pytest.raises(AssertionError, match="record without a body"):
            drive(at_once(buggy, buggy), store)
        assert isinstance(store.perform([Read(Key(RESULTS, "1"))])[0], Version)  # as if it had crashed after it
        assert store.converse([Conversation(iter_nothing(), ())]) == [None]


def iter_nothing() -> Steps[None]:
    yield ()
