"""Callers of a SqliteStore who wait for each other, and batches that are too much for one statement.

Whoever waits must be woken, not find out by looking: here nobody looks for so long that a test would fail first.

Must not be in here: what a group writes and what an error of it means (tests/test_sqlite_store.py).
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from casops.messages import Insert, Key, Missing, Read, Refused, Replace, Reply, Stored, StoreRequest, Version
from casops.stores.sqlite import SqliteStore
from casops.stores.sqlite_callers import BatchCaller
from casops.stores.sqlite_documents import TOGETHER
from tests.sqlite_failing import Failing

SECONDS = 20.0  # until something that must happen is taken to hang
OTHERS = 3
MANY = [Key("many", str(number)) for number in range(2 * TOGETHER + 5)]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with closing(SqliteStore(tmp_path / "bank.db", busy_timeout=SECONDS)) as opened:
        opened.perform([Insert(Key("setup", "1"), "x")])
        yield opened


@pytest.fixture
def other(store: SqliteStore) -> Iterator[sqlite3.Connection]:
    """Another program at the same file."""
    with closing(sqlite3.connect(store._path, isolation_level=None, timeout=0, check_same_thread=False)) as connection:
        yield connection


@pytest.fixture
def nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("casops.stores.sqlite.LOOK_AGAIN", 3 * SECONDS)


def eventually(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not happened():
        assert time.monotonic() < deadline, "this should have happened"
        time.sleep(0.001)


class Asking:
    """A batch asked for in a thread of its own."""

    def __init__(self, store: SqliteStore, batch: Sequence[StoreRequest]) -> None:
        self._store, self._batch = store, batch
        self._outcome: Any = None
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    def outcome(self) -> Any:
        """The replies, or what was raised."""
        self._thread.join(SECONDS)
        assert not self._thread.is_alive(), "it was not woken"
        return self._outcome

    def _ask(self) -> None:
        try:
            self._outcome = self._store.perform(self._batch)
        except BaseException as error:  # noqa: BLE001 - looked at by the test
            self._outcome = error


def ask_behind_a_leader(store: SqliteStore, method: str, *, before: bool) -> tuple[Any, list[Any]]:
    """The outcomes of a leader interrupted in this method, and of those who stand behind it in the queue by then."""
    meant, leading, queued = getattr(store, method), threading.Event(), threading.Event()

    def interrupted(*arguments: Any, **named: Any) -> Any:
        setattr(store, method, meant)
        result = None if before else meant(*arguments, **named)
        leading.set()
        assert queued.wait(SECONDS)
        raise KeyboardInterrupt(result)

    setattr(store, method, interrupted)
    first = Asking(store, [Insert(Key("first", "1"), "x")])
    assert leading.wait(SECONDS)
    others = [Asking(store, [Insert(Key("others", str(number)), "x")]) for number in range(OTHERS)]
    eventually(lambda: len(store._queue) >= OTHERS)
    queued.set()
    return first.outcome(), [each.outcome() for each in others]


@pytest.mark.usefixtures("nobody_looks")
@pytest.mark.parametrize(
    ("method", "before"),
    [("_may_lead", False), ("_carry_out", True), ("_carry_out", False), ("_transact", False)],
)
def test_who_waits_is_woken_when_the_leader_is_interrupted(store: SqliteStore, method: str, before: bool) -> None:
    first, others = ask_behind_a_leader(store, method, before=before)
    assert isinstance(first, KeyboardInterrupt)
    for outcome in others:
        assert isinstance(outcome, list)
        assert isinstance(outcome[0], Stored)


@pytest.mark.usefixtures("nobody_looks")
def test_who_waits_is_woken_when_the_one_who_is_to_lead_goes_away(
    store: SqliteStore, other: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    meant, gone = BatchCaller.wait, threading.Event()

    def wait(caller: BatchCaller, seconds: float) -> None:
        meant(caller, seconds)
        if not gone.is_set():  # only one was told that nobody leads any more
            gone.set()
            raise KeyboardInterrupt

    monkeypatch.setattr(BatchCaller, "wait", wait)
    monkeypatch.setattr("casops.stores.sqlite.GROUP_REQUESTS", 1)
    other.execute("BEGIN IMMEDIATE")
    leader = Asking(store, [Insert(Key("first", "1"), "x")])
    eventually(lambda: store._leading)
    behind: list[Asking] = []
    for number in range(OTHERS):
        behind.append(Asking(store, [Insert(Key("others", str(number)), "x")]))
        eventually(lambda: len(store._queue) == len(behind))
    other.execute("ROLLBACK")
    assert isinstance(leader.outcome()[0], Stored)
    lost, *served = [each.outcome() for each in behind]
    assert isinstance(lost, KeyboardInterrupt)
    for outcome in served:
        assert isinstance(outcome[0], Stored)


@pytest.mark.usefixtures("nobody_looks")
def test_an_interruption_while_an_error_is_told_promises_nothing(
    store: SqliteStore, other: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explain(*_: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("casops.stores.sqlite.explain", explain)
    other.execute("BEGIN IMMEDIATE")
    asked = [Asking(store, [Insert(Key("first", "1"), "x")])]
    eventually(lambda: store._leading)
    asked += [Asking(store, [Insert(Key("others", str(number)), "x")]) for number in range(OTHERS)]
    eventually(lambda: len(store._queue) >= OTHERS)
    seeded: Any = Failing(store._connection, sqlite3.SQLITE_FULL, after=1)  # no room for the second
    store._connection = seeded
    other.execute("ROLLBACK")
    outcomes = [each.outcome() for each in asked]
    kinds = sorted(type(each if isinstance(each, KeyboardInterrupt) else each[0]).__name__ for each in outcomes)
    assert kinds == ["KeyboardInterrupt", "Stored", "Unknown", "Unknown"]
    other.execute("BEGIN IMMEDIATE")  # nor is the file locked
    (written,) = other.execute("SELECT count(*) FROM documents WHERE collection IN ('first', 'others')").fetchone()
    other.execute("ROLLBACK")
    assert written == kinds.count("Stored")


@pytest.mark.usefixtures("nobody_looks")
def test_closing_is_woken_when_everybody_was_served(tmp_path: Path) -> None:
    store, closed = SqliteStore(tmp_path / "bank.db"), threading.Event()
    with closing(sqlite3.connect(store._path, isolation_level=None, timeout=0)) as other:
        other.execute("BEGIN IMMEDIATE")
        asked = [Asking(store, [Insert(Key("first", "1"), "x")])]
        eventually(lambda: store._leading)
        asked += [Asking(store, [Insert(Key("others", str(number)), "x")]) for number in range(OTHERS)]
        eventually(lambda: len(store._queue) >= OTHERS)

        def close() -> None:
            store.close()
            closed.set()

        threading.Thread(target=close, daemon=True).start()
        eventually(lambda: store._closed)
        other.execute("ROLLBACK")
        assert closed.wait(SECONDS), "it was not woken"
        for each in asked:
            assert isinstance(each.outcome()[0], Stored)


# --- what a batch is ----------------------------------------------------------------------------------


def test_a_batch_with_a_bug_does_nothing_at_all(store: SqliteStore) -> None:
    with pytest.raises(AssertionError, match="a blind write"):
        store.perform([Insert(MANY[0], "1"), Replace(Key("setup", "1"), 0, "2"), Insert(MANY[1], "1")])
    assert store.perform([Read(MANY[0]), Read(MANY[1])]) == [Missing(), Missing()]


@pytest.mark.parametrize("also", [[], [Insert(Key("a", "1"), "x")]])
def test_a_key_that_is_no_text_is_refused_alone(store: SqliteStore, also: list[StoreRequest]) -> None:
    unfit, found, *_ = store.perform([Read(Key("a", "\ud800")), Read(Key("setup", "1")), *also])
    assert isinstance(unfit, Refused)
    assert isinstance(found, Version)


def test_a_large_batch_is_written_whole(store: SqliteStore) -> None:
    stored = store.perform([Insert(key, "1") for key in MANY])
    assert len({each.cas for each in stored if isinstance(each, Stored)}) == len(MANY)
    changed: list[StoreRequest] = [
        Replace(key, each.cas if isinstance(each, Stored) else 0, f"{number}")
        for number, (key, each) in enumerate(zip(MANY, stored, strict=True))
    ]
    replies: list[Reply] = []
    assert store.converse([lambda perform: replies.extend(perform(changed))]) == [None]
    assert all(isinstance(each, Stored) for each in replies)
    found = store.perform([Read(key) for key in (*MANY, MANY[0], Key("many", "nobody"))])
    assert [each.body for each in found if isinstance(each, Version)] == [*map(str, range(len(MANY))), "0"]
    assert found[-1] == Missing()


def test_a_large_batch_of_reads_sees_one_state(store: SqliteStore, other: sqlite3.Connection) -> None:
    store.perform([Insert(key, "old") for key in MANY])
    store.perform([Read(MANY[0])])
    reader = store._reader
    assert reader is not None
    statements: list[str] = []

    def trace(statement: str) -> None:
        statements.append(statement)
        if sum("'many'" in each for each in statements) == 2:  # between the first statement and the second
            other.execute("UPDATE documents SET body = 'new'")

    reader.set_trace_callback(trace)
    found = store.perform([Read(key) for key in MANY])
    assert {each.body for each in found if isinstance(each, Version)} == {"old"}
    reader.set_trace_callback(None)
    assert sum("'many'" in each for each in statements) == 3
    found = store.perform([Read(key) for key in MANY])
    assert {each.body for each in found if isinstance(each, Version)} == {"new"}


def test_a_file_that_is_moved_in_a_transaction_gets_nothing_of_it(store: SqliteStore, tmp_path: Path) -> None:
    path, away = tmp_path / "bank.db", tmp_path / "away.db"

    def conversation(perform: Callable[[Sequence[StoreRequest]], list[Reply]]) -> None:
        assert isinstance(perform([Insert(MANY[0], "1")])[0], Stored)
        path.rename(away)

    (refused,) = store.converse([conversation])
    assert isinstance(refused, Refused)
    assert "moved, removed or replaced" in refused.why
    away.rename(path)
    assert store.perform([Read(MANY[0])]) == [Missing()]
