"""Conversations that are rehearsed: what was not true any more is not written, and no CAS is ever given twice.

That an operation comes out the same either way is for tests/test_conversations.py, which runs it both ways.

Must not be in here: groups and errors (tests/test_sqlite_groups.py, tests/test_sqlite_store.py).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from casops import CasOps, Documents, Operation, Ref
from casops.messages import (
    INTENTIONS,
    RESULTS,
    Exists,
    Forget,
    Insert,
    Key,
    Missing,
    Read,
    Replace,
    Reply,
    Scan,
    Stored,
    StoreRequest,
    Version,
)
from casops.stores import MOVED, Perform
from casops.stores.rows import CAS_STEP
from casops.stores.sqlite import SqliteStore
from casops.stores.sqlite_documents import Transaction
from casops.stores.sqlite_rehearsal import TAKEN
from tests.bank import Account, Open, Transfer
from tests.conftest import QUICK
from tests.sqlite_failing import Failing

DOC, OTHER, RECORD = Key("accounts", "alice"), Key("accounts", "bob"), Key(RESULTS, "1")
START = 1_000_000


class Clock:
    now: float = START

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[SqliteStore]:
    with closing(rehearsing(tmp_path / "bank.db", clock=clock)) as opened:
        yield opened


@pytest.fixture
def other(store: SqliteStore) -> Iterator[sqlite3.Connection]:
    """Another program at the same file."""
    with closing(sqlite3.connect(store._path, isolation_level=None, timeout=0)) as connection:
        yield connection


def rehearsing(path: Path, **options: Any) -> SqliteStore:
    """A store that has had to wait for others, and has CAS values of its own."""
    store = SqliteStore(path, busy_timeout=1, **options)
    store._crowded = 10**9
    assert not store._stock.ready()
    store.perform([Insert(Key("setup", "1"), "x"), Insert(Key(INTENTIONS, "setup"), "x")])
    store.perform([Forget(Key(INTENTIONS, "setup"))])
    assert store._stock.ready()
    return store


def held(
    store: SqliteStore, *batches: Sequence[StoreRequest], then: Callable[[], object] = lambda: None
) -> tuple[Any, list[Reply]]:
    """What a rehearsed conversation came to, and what it was told.  then: at its end."""
    told: list[Reply] = []

    def conversation(perform: Perform) -> None:
        for batch in batches:
            told.extend(perform(batch))
        then()

    return store.converse(conversation, rehearse=True), told


def state(store: SqliteStore) -> list[Any]:
    with closing(sqlite3.connect(store._path)) as file:
        return file.execute("SELECT * FROM documents ORDER BY collection, id").fetchall()


def cas_of(reply: Reply) -> int:
    assert isinstance(reply, Stored), reply
    return reply.cas


# --- as it was told, or not at all -----------------------------------------------------------------------


def test_what_was_told_is_true_afterwards(store: SqliteStore, other: sqlite3.Connection) -> None:
    def look() -> None:
        other.execute("BEGIN IMMEDIATE")  # nothing is locked
        (found,) = other.execute("SELECT count(*) FROM documents WHERE collection = 'accounts'").fetchone()
        other.execute("ROLLBACK")
        assert found == 0

    batch: list[StoreRequest] = [Insert(DOC, "1"), Read(OTHER), Insert(OTHER, "\ud800"), Insert(RECORD, "2", ttl=10)]
    outcome, told = held(store, batch, [Insert(DOC, "9"), Read(DOC)], then=look)
    assert outcome is None
    first, missing, refused, record, exists, seen = told
    assert (missing, exists, type(refused).__name__) == (Missing(), Exists(), "Refused")
    assert seen == Version(cas_of(first), "1")
    assert store.perform([Read(DOC), Read(RECORD)]) == [seen, Version(cas_of(record), "2", None, START + 10)]


@pytest.mark.parametrize("seen", [Read(DOC), Insert(DOC, "9")])
def test_nothing_is_written_if_anything_has_moved(
    store: SqliteStore, tmp_path: Path, seen: StoreRequest, clock: Clock
) -> None:
    with closing(SqliteStore(tmp_path / "bank.db", clock=clock)) as rival:

        def be_faster() -> None:
            assert rival.perform([Insert(DOC, "faster")])

        outcome, told = held(store, [Insert(OTHER, "1"), seen], then=be_faster)
    assert outcome is MOVED
    assert isinstance(told[0], Stored)
    found = store.perform([Read(OTHER), Read(DOC)])
    assert found[0] == Missing()
    assert isinstance(found[1], Version)
    assert found[1].body == "faster"


def test_what_has_expired_meanwhile_has_moved(store: SqliteStore, clock: Clock) -> None:
    store.perform([Insert(DOC, "1", ttl=10)])

    def wait() -> None:
        clock.now += 10

    outcome, _ = held(store, [Read(DOC), Insert(OTHER, "1")], then=wait)
    assert outcome is MOVED
    assert store.perform([Read(OTHER)]) == [Missing()]


def test_the_time_of_the_database_moves_on(store: SqliteStore, other: sqlite3.Connection, clock: Clock) -> None:
    clock.now += 100
    assert held(store, [Insert(DOC, "1")])[0] is None
    assert other.execute("SELECT clock FROM meta").fetchone() == (START + 100,)


def test_a_lifetime_begins_when_it_is_written(store: SqliteStore, clock: Clock) -> None:
    def wait() -> None:
        clock.now += 5

    outcome, _ = held(store, [Insert(RECORD, "1", ttl=10)], then=wait)
    assert outcome is None
    (found,) = store.perform([Read(RECORD)])
    assert isinstance(found, Version)
    assert found.expires == START + 15


def test_what_takes_too_long_is_not_written(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("casops.stores.sqlite_rehearsal.STALE", 0.0)
    assert held(store, [Insert(DOC, "1")])[0] is MOVED
    assert store.perform([Read(DOC)]) == [Missing()]


def test_what_cannot_be_rehearsed_is_held_otherwise(store: SqliteStore) -> None:
    assert held(store, [Scan()])[0] is MOVED
    assert held(store, [Insert(Key("many", str(number)), "1") for number in range(2 * TAKEN)])[0] is MOVED
    assert not [row for row in state(store) if row[0] == "many"]


def test_a_bug_is_raised_after_what_came_before_it(store: SqliteStore) -> None:
    with pytest.raises(AssertionError, match="a blind write"):
        held(store, [Insert(DOC, "1")], [Replace(DOC, 0, "2")])
    (found,) = store.perform([Read(DOC)])
    assert isinstance(found, Version)


def test_an_interruption_leaves_nothing(store: SqliteStore, other: sqlite3.Connection) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    before = state(store)
    with pytest.raises(KeyboardInterrupt):
        held(store, [Insert(DOC, "1")], then=interrupt)
    assert state(store) == before
    other.execute("BEGIN IMMEDIATE")
    other.execute("ROLLBACK")
    assert held(store, [Insert(DOC, "1")])[0] is None


def test_who_is_not_alone_is_held_with_the_others(store: SqliteStore) -> None:
    def inner() -> None:
        assert held(store, [Insert(DOC, "1")], then=lambda: seen.append(store._leading))[0] is None

    seen: list[bool] = []
    assert held(store, [Read(DOC)], then=inner)[0] is MOVED  # the inner one has written what this one has read
    assert seen == [True]


def test_nobody_rehearses_who_does_not_wait_for_others(store: SqliteStore) -> None:
    store._crowded = 0
    locked: list[bool] = []
    assert held(store, [Insert(DOC, "1")], then=lambda: locked.append(store._leading))[0] is None
    assert locked == [True]


def test_who_had_to_wait_for_another_process_rehearses(
    store: SqliteStore, other: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    store._crowded = 0
    other.execute("BEGIN IMMEDIATE")
    monkeypatch.setattr("casops.stores.sqlite_file.random.uniform", lambda *_: other.execute("ROLLBACK") and 0.0)
    store.perform([Insert(DOC, "1")])
    locked: list[bool] = []
    assert held(store, [Insert(OTHER, "1")], then=lambda: locked.append(store._leading))[0] is None
    assert locked == [False]


# --- in a group ---------------------------------------------------------------------------------------


def test_what_is_not_repeated_leaves_the_group_as_it_was(store: SqliteStore, other: sqlite3.Connection) -> None:
    (first,) = store.perform([Insert(DOC, "1")])
    transaction = Transaction(other, writing=True, wall=START, tombstones=10)
    ours = transaction.answer(Replace(DOC, cas_of(first), "2"))
    told: list[tuple[StoreRequest, Reply]] = [
        (Insert(OTHER, "1"), Stored(10_000)),
        (Read(Key("accounts", "nobody")), Missing()),
        (Replace(DOC, cas_of(ours), "3"), Stored(10_002)),
        (Read(DOC), Missing()),  # which is not true
    ]
    assert not transaction.repeat(told)
    assert transaction.answer(Read(DOC)) == Version(cas_of(ours), "2")
    assert transaction.answer(Read(OTHER)) == Missing()
    assert transaction.repeat(told[:-1])
    transaction.finish()
    other.execute("COMMIT")
    assert store.perform([Read(DOC), Read(OTHER)]) == [Version(10_002, "3"), Version(10_000, "1")]


def test_nothing_of_what_is_not_repeated_is_written(store: SqliteStore, other: sqlite3.Connection) -> None:
    (first,) = store.perform([Insert(DOC, "1")])
    transaction = Transaction(other, writing=True, wall=START, tombstones=10)
    assert not transaction.repeat([(Replace(DOC, cas_of(first), "3"), Stored(10_002)), (Read(DOC), Missing())])
    transaction.finish()
    other.execute("COMMIT")
    assert (transaction.changes, transaction.written) == (0, 0)


def test_a_row_that_might_be_written_at_once_is_not_repeated(store: SqliteStore, other: sqlite3.Connection) -> None:
    other.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 100_000)
    transaction = Transaction(other, writing=True, wall=START, tombstones=10)
    assert not transaction.repeat([(Insert(DOC, "1"), Stored(10_000))])
    transaction.finish()
    other.execute("COMMIT")
    assert store.perform([Read(DOC)]) == [Missing()]


# --- CAS values -----------------------------------------------------------------------------------------


def test_no_cas_is_given_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("casops.stores.sqlite_rehearsal.TAKEN", 12)
    monkeypatch.setattr("casops.stores.sqlite_rehearsal.FEW", 6)
    monkeypatch.setattr("casops.stores.sqlite_rehearsal.ENOUGH", 4)
    given: list[int] = []
    for opening in range(3):
        with (
            closing(rehearsing(tmp_path / "bank.db"))
            if not opening
            else closing(SqliteStore(tmp_path / "bank.db")) as one,
            closing(SqliteStore(tmp_path / "bank.db")) as two,
        ):
            for number in range(60):
                for name, store in (("one", one), ("two", two)):
                    store._crowded = 10**9
                    key = Key("many", f"{opening}-{number}-{name}")
                    outcome, told = held(store, [Insert(key, "1")])
                    assert outcome is None
                    given.append(cas_of(told[0]))
                    given.append(cas_of(store.perform([Insert(Key("more", key.id), "1")])[0]))
    assert len(set(given)) == len(given)
    with closing(sqlite3.connect(tmp_path / "bank.db")) as file:
        (highest,) = file.execute("SELECT cas FROM meta").fetchone()
    assert max(given) <= highest
    assert all(cas % CAS_STEP == 0 for cas in given)


def test_values_that_may_not_have_been_taken_are_not_given(tmp_path: Path) -> None:
    with closing(SqliteStore(tmp_path / "bank.db")) as store:
        store._crowded = 10**9
        assert not store._stock.ready()
        undone: Any = Failing(store._connection, sqlite3.SQLITE_IOERR_FSYNC)
        store._connection = undone
        store.perform([Insert(DOC, "1")])
        assert not store._stock.ready()
        store.perform([Insert(DOC, "1")])
        assert store._stock.ready()


def test_the_row_that_counts_them_is_seldom_written(store: SqliteStore) -> None:
    assert store._connection is not None
    statements: list[str] = []
    store._connection.set_trace_callback(statements.append)
    for number in range(50):
        assert held(store, [Insert(Key("many", str(number)), "1")])[0] is None
    assert statements.count("COMMIT") == 50
    assert not [each for each in statements if each.startswith("UPDATE meta")]


# --- operations -----------------------------------------------------------------------------------------


class Counting(Operation[None], name="Counting"):
    account: Ref[Account]

    def apply(self, documents: Documents) -> None:
        documents[self.account].balance += 1
        runs.append(1)


runs: list[int] = []


def test_the_function_does_not_run_again_if_only_the_rehearsal_was_for_nothing(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with CasOps(store, options=QUICK) as casops:
        casops.run(Open(account="alice", balance=100), operation_id="open")
        monkeypatch.setattr("casops.stores.sqlite_rehearsal.STALE", 0.0)
        runs.clear()
        casops.run(Counting(account="alice"), operation_id="c")
        assert len(runs) == 1
        account = casops.read(Account.ref("alice"))
        assert account is not None
        assert account.balance == 101


def test_an_operation_that_was_overtaken_is_held_under_the_lock(
    store: SqliteStore, tmp_path: Path, clock: Clock
) -> None:
    class Late(Operation[None], name="LateRehearsed"):
        account: Ref[Account]

        def apply(self, documents: Documents) -> None:
            seen.append(store._leading)
            documents[self.account].balance += 1
            if len(seen) <= 2:  # when it looks, and when it rehearses
                with CasOps(SqliteStore(tmp_path / "bank.db", clock=clock), options=QUICK) as faster:
                    faster.run(Transfer(source="alice", target="bob", amount=1), operation_id=f"faster-{len(seen)}")

    seen: list[bool] = []
    with CasOps(store, options=QUICK) as casops:
        for name in ("alice", "bob"):
            casops.run(Open(account=name, balance=100), operation_id=f"open-{name}")
        casops.run(Late(account="alice"), operation_id="late")
        assert seen == [False, False, False]  # and it need not run again under the lock
        account = casops.read(Account.ref("alice"))
        assert account is not None
        assert account.balance == 99
        assert casops.pending() == []
