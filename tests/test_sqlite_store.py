"""What only a SqliteStore promises: one file for many threads and processes, and no error that lies.

Crashes, full disks and forks are real ones, in processes of their own.  Where a test waits it waits
for something that must happen, with a bound; nothing is measured.

Must not be in here: what every store owes (tests/test_store_contract.py), opening (tests/test_store_opening.py).
"""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from casops.errors import Closed, UsageError
from casops.messages import (
    INTENTIONS,
    RESULTS,
    Body,
    Exists,
    Insert,
    Key,
    Missing,
    Page,
    Read,
    Refused,
    Remove,
    Replace,
    Reply,
    Scan,
    Stage,
    Stored,
    StoreRequest,
    Unknown,
    Version,
)
from casops.stores import sqlite
from casops.stores.sqlite import AsyncSqliteStore, SqliteStore
from casops.stores.sqlite_file import connect

DOC = Key("accounts", "alice")
START = 1_000_000
FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bank.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    with closing(SqliteStore(path)) as opened:
        # The checkpoint of a first write out of the way: tests count transactions.
        assert isinstance(opened.perform([Insert(Key("setup", "1"), "x")])[0], Stored)
        yield opened


@pytest.fixture
def other(path: Path, store: SqliteStore) -> Iterator[sqlite3.Connection]:
    """Another program at the same file."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as connection:
        yield connection


def ask(store: SqliteStore, request: StoreRequest) -> Reply:
    (reply,) = store.perform([request])
    return reply


def stored(store: SqliteStore, request: StoreRequest) -> int:
    reply = ask(store, request)
    assert isinstance(reply, Stored), reply
    return reply.cas


def body(store: SqliteStore, key: Key = DOC) -> str | None:
    reply = ask(store, Read(key))
    assert isinstance(reply, Version), reply
    return reply.body


def connection_of(store: SqliteStore) -> sqlite3.Connection:
    assert store._connection is not None
    return store._connection


def trace(store: SqliteStore, *, reading: bool = False) -> list[str]:
    """The statements of one of its connections from now on."""
    connection = store._reader if reading else store._connection
    assert connection is not None
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    return statements


def eventually(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < deadline, "this should have happened"
        time.sleep(0.001)


# --- what one asks for ------------------------------------------------------------------------------


def test_a_bug_of_one_request_is_told_and_the_others_are_done(store: SqliteStore) -> None:
    cas = stored(store, Insert(DOC, "1"))
    with pytest.raises(AssertionError):
        store.perform([Insert(Key("a", "1"), "x"), Replace(DOC, cas, Body.STAGED), Insert(Key("a", "2"), "x")])
    assert body(store) == "1"
    assert [body(store, Key("a", "1")), body(store, Key("a", "2"))] == ["x", "x"]


def test_an_unfit_text_does_not_disturb_its_batch(store: SqliteStore) -> None:
    refused, beside = store.perform([Insert(DOC, "\ud800"), Insert(DOC, "1")])
    assert isinstance(refused, Refused)
    assert isinstance(beside, Stored)


def test_a_text_sqlite_itself_finds_too_large_is_refused_alone(store: SqliteStore) -> None:
    connection_of(store).setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 1000)
    small, large, after = store.perform(
        [Insert(DOC, "1"), Insert(Key("a", "1"), "x" * 2000), Insert(Key("a", "2"), "x")]
    )
    assert isinstance(small, Stored)
    assert isinstance(large, Refused)
    assert isinstance(after, Stored)
    assert ask(store, Read(Key("a", "1"))) == Missing()


def test_who_is_interrupted_leaves_nothing_behind(path: Path) -> None:
    broken = threading.Event()

    def clock() -> float:
        if broken.is_set():
            broken.clear()
            raise KeyboardInterrupt
        return START

    with closing(SqliteStore(path, clock=clock)) as store:
        stored(store, Insert(DOC, "1"))
        broken.set()
        with pytest.raises(KeyboardInterrupt):
            store.perform([Insert(Key("a", "1"), "x")])
        assert ask(store, Read(Key("a", "1"))) == Missing()
        stored(store, Insert(Key("a", "1"), "x"))


def test_who_is_waited_for_by_the_one_he_waits_for_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("casops.stores.sqlite.LONGEST_WAIT", 0.05)
    replies: list[Reply] = []
    with closing(SqliteStore(path, busy_timeout=0)) as store, ThreadPoolExecutor(1) as pool:

        def conversation(perform: Any) -> None:
            perform([Insert(Key("a", "1"), "x")])
            replies.extend(pool.submit(store.perform, [Insert(DOC, "1")]).result(30))

        assert store.converse([conversation]) == [None]
        (refused,) = replies
        assert isinstance(refused, Refused)
        assert "busy" in refused.why
        assert ask(store, Read(DOC)) == Missing()
        assert body(store, Key("a", "1")) == "x"


# --- reading ------------------------------------------------------------------------------------------


def test_reading_goes_on_while_another_program_writes(path: Path, store: SqliteStore) -> None:
    stored(store, Insert(DOC, "1"))
    with (
        closing(SqliteStore(path, busy_timeout=0)) as reader,
        closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as other,
    ):
        statements = trace(reader)
        other.execute("BEGIN IMMEDIATE")
        other.execute("UPDATE documents SET body = 'not committed'")
        assert body(reader) == "1"
        assert ask(reader, Scan()) == Page((), None)
        refused = ask(reader, Insert(Key("a", "1"), "x"))
        assert isinstance(refused, Refused)
        assert "busy" in refused.why
        assert body(reader) == "1"
        other.execute("ROLLBACK")
        stored(reader, Insert(Key("a", "1"), "x"))
        assert statements.count("BEGIN IMMEDIATE") == 1  # to write; no more of that connection, which saw an error


def test_a_group_that_only_reads_takes_no_lock_and_writes_nothing(path: Path, store: SqliteStore) -> None:
    stored(store, Insert(DOC, "1"))
    log = path.with_name("bank.db-wal")
    before = log.read_bytes()
    store.perform([Read(DOC)])
    statements, writer = trace(store, reading=True), trace(store)
    store.perform([Read(DOC), Scan(), Read(Key("a", "b"))])
    assert writer == []
    assert [word for word in statements if word.startswith(("BEGIN", "COMMIT"))] == ["BEGIN", "COMMIT"]
    assert not any(word.startswith(("INSERT", "UPDATE", "DELETE")) for word in statements)
    assert log.read_bytes() == before


def test_writes_that_change_nothing_write_nothing(path: Path, store: SqliteStore) -> None:
    stored(store, Insert(DOC, "1"))
    log = path.with_name("bank.db-wal")
    before = log.read_bytes()
    assert ask(store, Insert(DOC, "2")) == Exists()
    assert log.read_bytes() == before


def test_a_scan_sees_what_its_own_transaction_is_about_to_write(store: SqliteStore) -> None:
    inserted, page = store.perform([Insert(Key(INTENTIONS, "1"), "x"), Scan()])
    assert isinstance(inserted, Stored)
    assert isinstance(page, Page)
    assert [(entry.id, entry.cas) for entry in page.entries] == [("1", inserted.cas)]


# --- no blind write -----------------------------------------------------------------------------------


def test_every_update_and_delete_names_the_cas_or_the_time(path: Path) -> None:
    clock: list[float] = [START]
    with closing(SqliteStore(path, tombstones=10, clock=lambda: clock[0])) as store:
        statements = trace(store)
        cas = stored(store, Insert(DOC, "1"))
        cas = stored(store, Replace(DOC, cas, "2", Stage("m", "s")))
        stored(store, Remove(DOC, cas))
        record = stored(store, Insert(Key(RESULTS, "1"), "1"))
        stored(store, Remove(Key(RESULTS, "1"), record))
        clock[0] += 10
        stored(store, Insert(Key("a", "1"), "1"))
    writes = [statement for statement in statements if statement.startswith(("UPDATE", "DELETE"))]
    purges = [statement for statement in writes if "WHERE purge <= 10000" in statement]
    by_cas = [statement for statement in writes if "cas = " in statement.partition("WHERE")[2]]
    assert len(purges) >= 1
    assert len(by_cas) >= 7  # two changes, a removal, and the ledger of each group
    assert sorted(purges + by_cas) == sorted(writes)


# --- time and counters are in the file -----------------------------------------------------------------


def test_the_cas_goes_on_after_reopening(path: Path) -> None:
    seen: list[int] = []
    for _ in range(3):
        with closing(SqliteStore(path)) as store:
            seen.append(stored(store, Insert(Key(RESULTS, "1"), "x")))
            seen.append(stored(store, Remove(Key(RESULTS, "1"), seen[-1])))
    assert seen == sorted(set(seen))


def test_what_one_process_saw_expired_is_expired_for_all_whatever_their_clocks(path: Path) -> None:
    with (
        closing(SqliteStore(path, clock=lambda: START)) as slow,
        closing(SqliteStore(path, clock=lambda: START + 100)) as fast,
    ):
        live = stored(slow, Insert(DOC, "1", ttl=10))
        stored(slow, Insert(Key(INTENTIONS, "1"), "x", ttl=10))
        assert isinstance(ask(slow, Read(Key(INTENTIONS, "1"))), Version)
        assert body(slow) == "1"
        gone = ask(fast, Read(DOC))
        assert isinstance(gone, Version)
        assert (gone.body, gone.cas == live) == (None, False)
        assert ask(slow, Read(DOC)) == gone
        assert ask(slow, Scan()) == Page((), None)
        assert not isinstance(ask(slow, Replace(DOC, live, "late")), Stored)
    with closing(SqliteStore(path, clock=lambda: START)) as later:
        assert ask(later, Read(DOC)) == gone


def test_a_clock_that_is_wrong_by_years_does_not_forget_all_at_once(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who only looked, with a clock ahead, had every result forgotten: operations happened twice."""
    elapsed = [0.0]
    monkeypatch.setattr("casops.stores.sqlite.time.monotonic", lambda: elapsed[0])
    now, month, years = 1_800_000_000, 30 * 86_400, 73 * 365 * 86_400
    with closing(SqliteStore(path, clock=lambda: now)) as right:
        stored(right, Insert(Key(RESULTS, "1"), "x", ttl=month))
        with closing(SqliteStore(path, clock=lambda: now + years)) as wrong:
            for _ in range(3):
                assert isinstance(ask(wrong, Read(Key(RESULTS, "1"))), Version)
                stored(wrong, Insert(Key(RESULTS, f"{time.time_ns()}"), "x", ttl=month))
            elapsed[0] += month  # nor after a long rest of its own
            stored(wrong, Insert(Key("a", "rest"), "x"))
            assert isinstance(ask(wrong, Read(Key(RESULTS, "1"))), Version)
            for hour in range(27):
                elapsed[0] += 3600
                stored(wrong, Insert(Key("a", str(hour)), "x"))
                assert isinstance(ask(wrong, Read(Key(RESULTS, "1"))), Version)
            for hour in range(27, 30):  # but to the time it comes, in the end
                elapsed[0] += 3600
                stored(wrong, Insert(Key("a", str(hour)), "x"))
            assert ask(wrong, Read(Key(RESULTS, "1"))) == Missing()
        assert ask(right, Read(Key(RESULTS, "1"))) == Missing()


@pytest.mark.parametrize("processes", [1, 40])
def test_after_a_rest_a_lifetime_is_as_long_as_ever(
    path: Path, monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    """The time of the file then runs after that of the machine: a month of it was over in a day."""
    elapsed = [0.0]
    monkeypatch.setattr("casops.stores.sqlite.time.monotonic", lambda: elapsed[0])
    then, month, rest = 1_800_000_000, 30 * 86_400, 90 * 86_400

    def now() -> float:
        return then + elapsed[0]

    with closing(SqliteStore(path, clock=now)) as before:
        stored(before, Insert(Key(RESULTS, "0"), "x", ttl=month))
    elapsed[0] += rest
    with closing(SqliteStore(path, clock=now)) as after:
        stored(after, Insert(Key(RESULTS, "1"), "x", ttl=month))
        removed = stored(after, Insert(DOC, "1"))
        stored(after, Remove(DOC, removed))
    for number in range(processes):
        with closing(SqliteStore(path, clock=now)) as store:
            for _ in range(40 // processes):
                elapsed[0] += (month - 60) / 40
                stored(store, Insert(Key("a", f"{number} {elapsed[0]}"), "x"))
                assert isinstance(ask(store, Read(Key(RESULTS, "1"))), Version)
                assert isinstance(ask(store, Read(DOC)), Version)
    with closing(SqliteStore(path, clock=now)) as store:
        for number in range(3 * rest // 86_400):  # a day at once, until it has caught up
            elapsed[0] += 3600
            stored(store, Insert(Key("a", f"last {number}"), "x"))
        assert ask(store, Read(Key(RESULTS, "1"))) == Missing()


def test_a_file_made_before_the_clock_was_set_is_in_time_at_once(path: Path) -> None:
    with closing(SqliteStore(path, clock=lambda: 100.0)) as unset:
        stored(unset, Insert(Key(RESULTS, "1"), "x", ttl=10))
    with closing(SqliteStore(path, clock=lambda: 1_900_000_000.0)) as later:
        assert ask(later, Read(Key(RESULTS, "1"))) == Missing()


def test_a_scan_moves_the_time_on_as_a_read_does(path: Path) -> None:
    with (
        closing(SqliteStore(path, clock=lambda: START)) as slow,
        closing(SqliteStore(path, clock=lambda: START + 100)) as fast,
    ):
        stored(slow, Insert(Key(INTENTIONS, "1"), "x", ttl=10))
        assert ask(fast, Scan()) == Page((), None)
        assert ask(slow, Read(Key(INTENTIONS, "1"))) == Missing()


def test_what_is_forgotten_is_deleted_in_bites(path: Path) -> None:
    clock: list[float] = [START]
    with closing(SqliteStore(path, clock=lambda: clock[0])) as store:
        store.perform([Insert(Key(RESULTS, str(number)), "x", ttl=10) for number in range(50)])
        stored(store, Insert(DOC, "kept"))
        clock[0] += 10
        counts: list[int] = []
        for number in range(30):
            stored(store, Insert(Key("a", str(number)), "x"))
            sql = "SELECT count(*) FROM documents WHERE purge IS NOT NULL"
            counts.append(connection_of(store).execute(sql).fetchone()[0])
        assert counts[:3] == [48, 46, 44]
        assert counts[-1] == 0
        assert body(store) == "kept"


def test_a_commit_is_synced_into_the_log(store: SqliteStore) -> None:
    for opened in (connection_of(store), connect(store._path)):
        assert opened.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
        assert opened.execute("PRAGMA fullfsync").fetchone() == (1,)
        assert opened.execute("PRAGMA wal_autocheckpoint").fetchone() == (0,)
        assert opened.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    opened.close()


# --- the log ---------------------------------------------------------------------------------------------


def test_the_log_is_copied_into_the_database_now_and_then(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("casops.stores.sqlite.CHECKPOINT_EVERY", 20)
    with closing(SqliteStore(path)) as store, closing(SqliteStore(path)):
        for number in range(500):
            stored(store, Insert(Key("a", str(number)), "x" * 1000))
        # Every commit appends some 4 pages; without checkpoints there would be about 2,000.
        assert path.with_name("bank.db-wal").stat().st_size < 200 * 4096


def test_a_write_that_failed_copies_no_log(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its transaction was open yet: "could not be copied" was told besides, which was not at fault."""
    SqliteStore(path).close()
    store = SqliteStore(path)
    store.perform([Read(DOC)])

    def read_only(*_: object, **__: object) -> None:
        store._connected().execute("BEGIN IMMEDIATE")
        raise sqlite3.OperationalError("attempt to write a readonly database")

    with monkeypatch.context() as patched:
        patched.setattr(store, "_to_checkpoint", 10**9)
        patched.setattr(store, "_transact", read_only)
        (reply,) = store.perform([Insert(DOC, "{}")])
    assert isinstance(reply, Refused | Unknown)
    assert "could not be copied" not in caplog.text
    assert isinstance(store.perform([Insert(DOC, "{}")])[0], Stored)
    store.close()


def test_the_log_does_not_grow_with_the_size_of_documents(path: Path) -> None:
    with closing(SqliteStore(path)) as store:
        cas = stored(store, Insert(DOC, "x"))
        for number in range(40):  # each another text, for SQLite writes only the pages that differ
            cas = stored(store, Replace(DOC, cas, f"{number:02}" * 500_000))
        # A checkpoint comes after 4 MB, and a commit of 1 MB more; without it there would be 40.
        assert path.with_name("bank.db-wal").stat().st_size < 6_000_000


def test_nobody_can_write_during_a_checkpoint(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int | None] = []

    def look(name: str) -> sqlite3.Connection:
        with closing(connect(name)) as rival, pytest.raises(sqlite3.OperationalError) as error:
            rival.execute("BEGIN IMMEDIATE")
        seen.append(error.value.sqlite_errorcode)
        return connect(name)

    monkeypatch.setattr("casops.stores.sqlite.connect", look)
    with closing(SqliteStore(path)) as store:
        stored(store, Insert(DOC, "1"))
        assert seen == [sqlite3.SQLITE_BUSY]
        stored(store, Insert(Key("a", "1"), "1"))


def test_a_checkpoint_that_fails_costs_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: str) -> sqlite3.Connection:
        raise sqlite3.OperationalError("no")

    monkeypatch.setattr("casops.stores.sqlite.connect", fail)
    with closing(SqliteStore(path)) as store:
        stored(store, Insert(DOC, "1"))
        assert "could not be copied" in caplog.text
        assert body(store) == "1"
        stored(store, Insert(Key("a", "1"), "1"))


# --- errors -----------------------------------------------------------------------------------------------


class Failing:
    """A connection of which one statement fails, before or after SQLite has carried it out."""

    def __init__(self, connection: sqlite3.Connection, statement: str, code: int, *, done: bool) -> None:
        self._connection, self._statement, self._code, self._done = connection, statement, code, done

    def execute(self, sql: str, *arguments: Any) -> Any:
        return self._run(self._connection.execute, sql, *arguments)

    def executemany(self, sql: str, *arguments: Any) -> Any:
        return self._run(self._connection.executemany, sql, *arguments)

    def _run(self, meant: Callable[..., Any], sql: str, *arguments: Any) -> Any:
        if sql.startswith(self._statement):
            if self._done:
                meant(sql, *arguments)
            error = sqlite3.OperationalError("seeded")
            error.sqlite_errorcode, error.sqlite_errorname = self._code, "SEEDED"
            raise error
        return meant(sql, *arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


@pytest.mark.parametrize(
    ("statement", "code", "done", "expected", "why"),
    [
        ("BEGIN", sqlite3.SQLITE_CANTOPEN, False, Refused, "cannot be opened"),
        ("SELECT -1", sqlite3.SQLITE_IOERR_READ, False, Refused, "did not read or write"),
        ("INSERT", sqlite3.SQLITE_FULL, False, Refused, "the disk is full"),
        ("INSERT", sqlite3.SQLITE_IOERR_WRITE, False, Refused, "did not read or write"),
        ("INSERT", sqlite3.SQLITE_CORRUPT, False, Refused, "damaged"),
        ("UPDATE meta", sqlite3.SQLITE_NOMEM, False, Refused, "no memory"),
        ("UPDATE meta", sqlite3.SQLITE_ERROR, False, Refused, "SQLite failed with seeded"),
        ("COMMIT", sqlite3.SQLITE_FULL, False, Refused, "the disk is full"),
        ("COMMIT", sqlite3.SQLITE_BUSY, False, Refused, "busy"),
        ("COMMIT", sqlite3.SQLITE_IOERR_WRITE, False, Unknown, "did not read or write"),
        ("COMMIT", sqlite3.SQLITE_IOERR_FSYNC, False, Unknown, "did not read or write"),
        ("COMMIT", sqlite3.SQLITE_IOERR_FSYNC, True, Unknown, "did not read or write"),
        ("COMMIT", sqlite3.SQLITE_ERROR, True, Unknown, "SQLite failed with"),
    ],
)
def test_an_error_is_refused_or_unknown_and_the_store_goes_on(
    path: Path, store: SqliteStore, statement: str, code: int, done: bool, expected: type[Reply], why: str
) -> None:
    kept = stored(store, Insert(DOC, "1"))
    seeded: Any = Failing(connection_of(store), statement, code, done=done)
    store._connection = seeded
    replies = store.perform([Insert(Key("a", "1"), "x"), Replace(DOC, kept + 2, "x"), Read(DOC)])
    assert [type(reply) for reply in replies] == [expected] * 3  # all rest on what the transaction saw
    for reply in replies:
        assert isinstance(reply, Refused | Unknown)
        assert why in reply.why
        assert str(path) in reply.why
    assert isinstance(ask(store, Read(Key("a", "1"))), Version if done else Missing)
    assert body(store) == "1"
    stored(store, Replace(DOC, kept, "2"))
    with closing(SqliteStore(path)) as again:
        assert body(again) == "2"


def test_an_error_of_commit_after_mere_reading_is_no_doubt(store: SqliteStore) -> None:
    assert ask(store, Read(DOC)) == Missing()
    for each, statement in (("_connection", "COMMIT"), ("_reader", "SELECT")):
        setattr(store, each, Failing(getattr(store, each), statement, sqlite3.SQLITE_IOERR, done=False))
    assert isinstance(ask(store, Read(DOC)), Refused)
    assert ask(store, Read(DOC)) == Missing()


def test_a_reader_in_trouble_leaves_it_to_the_writer(store: SqliteStore) -> None:
    stored(store, Insert(DOC, "1"))
    assert body(store) == "1"
    reader: Any = Failing(getattr(store, "_reader"), "SELECT", sqlite3.SQLITE_IOERR, done=False)  # noqa: B009
    store._reader = reader
    assert body(store) == "1"
    assert body(store) == "1"
    assert store._reader is not reader


def test_reading_does_not_wait_for_those_who_write(path: Path, store: SqliteStore, other: sqlite3.Connection) -> None:
    stored(store, Insert(DOC, "1"))
    answered: list[Reply] = []

    def read() -> None:
        answered.append(ask(store, Read(DOC)))
        other.execute("ROLLBACK")

    other.execute("BEGIN IMMEDIATE")
    writer = threading.Thread(target=lambda: answered.append(ask(store, Insert(Key("a", "1"), "x"))))
    writer.start()
    eventually(lambda: store._writing.taken)
    read()
    writer.join()
    assert [type(each) for each in answered] == [Version, Stored]


def test_a_full_database_refuses_the_whole_group_and_keeps_what_it_has(path: Path, store: SqliteStore) -> None:
    stored(store, Insert(DOC, "1"))
    (pages,) = connection_of(store).execute("PRAGMA page_count").fetchone()
    connection_of(store).execute(f"PRAGMA max_page_count = {pages + 5}")
    refused = store.perform([Insert(Key("a", str(number)), "x" * 10_000) for number in range(10)])
    assert all(isinstance(reply, Refused) for reply in refused)
    assert isinstance(refused[0], Refused)
    assert f"the disk is full: {path}" in refused[0].why
    for number in range(10):
        assert ask(store, Read(Key("a", str(number)))) == Missing()
    assert body(store) == "1"
    stored(store, Insert(Key("a", "1"), "x"))  # the connection is a new one, without that limit
    assert connection_of(store).execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.parametrize("doing", ["moved", "removed", "replaced"])
def test_a_file_that_is_gone_takes_no_more_writes(path: Path, store: SqliteStore, doing: str) -> None:
    stored(store, Insert(DOC, "1"))
    away = path.with_name("away.db")
    if doing == "removed":
        path.unlink()
    else:
        path.rename(away)
    if doing == "replaced":
        path.touch()
    for request in (Insert(Key("a", "1"), "x"), Read(DOC)):
        refused = ask(store, request)
        assert isinstance(refused, Refused)
        assert "moved, removed or replaced" in refused.why
    if doing == "moved":
        away.rename(path)
        assert body(store) == "1"
        stored(store, Insert(Key("a", "1"), "x"))


def test_a_file_that_was_another_for_a_while_is_read_as_itself(path: Path, tmp_path: Path) -> None:
    for name in ("bank.db", "other.db"):
        with closing(SqliteStore(tmp_path / name)) as store:
            stored(store, Insert(DOC, f'"{name}"'))
    with closing(SqliteStore(path)) as store:
        away, strange = path.with_name("away.db"), tmp_path / "other.db"
        path.rename(away)
        strange.rename(path)
        assert isinstance(ask(store, Read(DOC)), Refused)
        path.rename(strange)
        away.rename(path)
        assert body(store) == '"bank.db"'


def test_a_format_that_became_newer_is_not_written(store: SqliteStore, other: sqlite3.Connection) -> None:
    stored(store, Insert(DOC, "1"))
    other.execute("UPDATE meta SET schema = 2")
    refused = ask(store, Insert(Key("a", "1"), "x"))
    assert isinstance(refused, Refused)
    assert "newer casops" in refused.why


def test_closing(path: Path) -> None:
    store = SqliteStore(path)
    stored(store, Insert(DOC, "1"))
    store.close()
    store.close()
    with pytest.raises(UsageError, match="closed"):
        store.perform([Read(DOC)])
    assert [file.name for file in path.parent.iterdir()] == ["bank.db"]


def test_closing_waits_for_the_one_at_work(path: Path) -> None:
    asked, going_on = threading.Event(), threading.Event()
    store = SqliteStore(path)

    def conversation(perform: Any) -> None:
        perform([Insert(DOC, "1")])
        asked.set()
        assert going_on.wait(30)

    with ThreadPoolExecutor(3) as pool:
        working = pool.submit(store.converse, [conversation])
        assert asked.wait(30)
        late = pool.submit(store.perform, [Insert(Key("a", "1"), "x")])
        eventually(lambda: store._writing._free._waiters)  # type: ignore[attr-defined]
        closed = pool.submit(store.close)
        eventually(lambda: store._closed)
        with pytest.raises(UsageError, match="closed"):
            store.perform([Read(DOC)])
        going_on.set()
        assert working.result(30) == [None]
        with pytest.raises(UsageError, match="closed"):
            late.result(30)
        closed.result(30)
    assert store._connection is None
    assert [file.name for file in path.parent.iterdir()] == ["bank.db"]
    with closing(SqliteStore(path)) as again:
        assert body(again) == "1"
        assert ask(again, Read(Key("a", "1"))) == Missing()


def test_closing_does_not_wait_for_ever(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("casops.stores.sqlite.LONGEST_WAIT", 0.05)
    asked, going_on = threading.Event(), threading.Event()
    store = SqliteStore(path, busy_timeout=0)

    def conversation(perform: Any) -> None:
        perform([Insert(DOC, "1")])
        asked.set()
        assert going_on.wait(30)

    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(store.converse, [conversation])
        assert asked.wait(30)
        store.close()
        assert not working.done()
        going_on.set()
        assert working.result(30) == [None]
    assert store._connection is None  # who was at work has closed it
    with closing(SqliteStore(path)) as again:
        assert body(again) == "1"


def test_a_signal_handler_may_close_the_store_that_its_thread_writes_to(path: Path) -> None:
    store = SqliteStore(path)
    ask(store, Read(DOC))

    def conversation(perform: Any) -> None:
        perform([Insert(DOC, "1")])
        store.close()

    assert store.converse([conversation]) == [None]
    assert (store._connection, store._reader) == (None, None)
    with pytest.raises(Closed):
        ask(store, Read(DOC))
    with closing(SqliteStore(path)) as again:
        assert body(again) == "1"


@pytest.mark.parametrize("closes", [True, False])
def test_a_signal_handler_may_close_or_read_the_store_that_its_thread_reads(path: Path, closes: bool) -> None:
    store = SqliteStore(path)
    stored(store, Insert(DOC, "1"))
    heard: list[Any] = []

    def clock() -> float:  # it is looked at in the middle of a read
        if not heard:
            heard.append("here")
            if closes:
                store.close()
            else:
                heard.append(ask(store, Read(DOC)))
        return time.time()

    store._clock = clock
    found = ask(store, Read(DOC))
    assert isinstance(found, Version)
    if closes:
        with pytest.raises(Closed):
            ask(store, Read(DOC))
        assert store._reader is None
    else:
        assert found == heard[1]
        assert ask(store, Read(DOC)) == found
        store.close()


async def test_closing_the_async_front(path: Path) -> None:
    front = AsyncSqliteStore(SqliteStore(path))
    await front.perform([Insert(DOC, "1")])
    await front.close()
    with pytest.raises(UsageError, match="closed"):
        await front.perform([Read(DOC)])


async def test_cancelling_does_not_stop_the_write(path: Path) -> None:
    front = AsyncSqliteStore(SqliteStore(path))
    with closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as other:
        other.execute("BEGIN IMMEDIATE")
        task = asyncio.create_task(front.perform([Insert(DOC, "1")]))
        while not front.store._writing.taken:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        other.execute("ROLLBACK")
    await front.close()
    with closing(SqliteStore(path)) as store:
        assert body(store) == "1"


async def test_reads_do_not_wait_for_calls_that_wait_for_the_lock(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "WORKERS", 1)
    front = AsyncSqliteStore(SqliteStore(path, busy_timeout=60))
    with closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as other:
        other.execute("BEGIN IMMEDIATE")
        writing = [asyncio.create_task(front.perform([Insert(Key("accounts", id), "1")])) for id in "ab"]
        while not front.store._writing.taken:
            await asyncio.sleep(0)
        assert await asyncio.wait_for(front.perform([Read(DOC), Scan()]), 30) == [Missing(), Page((), None)]
        assert not any(each.done() for each in writing)
        other.execute("ROLLBACK")
    assert [type(reply) for each in writing for reply in await each] == [Stored, Stored]
    await front.close()


async def test_what_no_thread_has_begun_is_not_begun_when_its_caller_has_gone_or_its_time_is_over(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "WORKERS", 1)
    front = AsyncSqliteStore(SqliteStore(path, busy_timeout=60))
    with closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as other:
        other.execute("BEGIN IMMEDIATE")
        first = asyncio.create_task(front.perform([Insert(Key("accounts", "first"), "1")]))
        while not front.store._writing.taken:
            await asyncio.sleep(0)
        gone = asyncio.create_task(front.perform([Insert(Key("accounts", "gone"), "1")]))
        await asyncio.sleep(0)
        gone.cancel()
        monkeypatch.setattr(SqliteStore, "longest_wait", 0.001)
        late = await asyncio.wait_for(front.perform([Insert(Key("accounts", "late"), "1"), Read(DOC)]), 30)
        assert [type(reply) for reply in late] == [Refused, Refused]
        said = await asyncio.wait_for(front.converse([_never]), 30)
        assert isinstance(said[0], Refused)
        assert not first.done()
        other.execute("ROLLBACK")
    assert isinstance((await first)[0], Stored)
    monkeypatch.undo()
    # One thread, so what stood before this has been passed by.
    assert isinstance((await front.perform([Insert(Key("accounts", "last"), "1")]))[0], Stored)
    for id in ("gone", "late"):
        assert await front.perform([Read(Key("accounts", id))]) == [Missing()]
    await front.close()


def _never(perform: Callable[[Sequence[StoreRequest]], list[Reply]]) -> None:
    raise AssertionError("nobody waits for it")


async def test_many_tasks_add_one_by_cas(path: Path) -> None:
    front = AsyncSqliteStore(SqliteStore(path))
    await front.perform([Insert(DOC, "0")])

    async def add() -> None:
        while True:
            (version,) = await front.perform([Read(DOC)])
            assert isinstance(version, Version)
            assert version.body is not None
            (reply,) = await front.perform([Replace(DOC, version.cas, str(int(version.body) + 1))])
            if isinstance(reply, Stored):
                return

    await asyncio.gather(*(add() for _ in range(40)))
    (version,) = await front.perform([Read(DOC)])
    assert isinstance(version, Version)
    assert version.body == "40"
    await front.close()


# --- other processes ---------------------------------------------------------------------------------------


def start(program: str, *arguments: object, output: int = subprocess.PIPE) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-u", "-c", textwrap.dedent(program), *map(str, arguments)],
        stdout=output,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )


def run(program: str, *arguments: object) -> list[str]:
    """The lines that a Python of its own prints."""
    process = start(program, *arguments)
    printed, complained = process.communicate(timeout=60)
    assert process.returncode == 0, complained
    return printed.splitlines()


ADD = """
    import sys
    from casops.messages import *
    from casops.stores.sqlite import SqliteStore
    store, doc = SqliteStore(sys.argv[1], busy_timeout=60), Key("accounts", "alice")
    done = 0
    while done < int(sys.argv[2]):
        (version,) = store.perform([Read(doc)])
        (reply,) = store.perform([Replace(doc, version.cas, str(int(version.body) + 1))])
        if isinstance(reply, Stored):
            done += 1
            print(done)
        else:
            assert isinstance(reply, Mismatch), reply
    store.close()
"""


def test_processes_add_one_by_cas_and_one_is_killed(path: Path, store: SqliteStore, tmp_path: Path) -> None:
    stored(store, Insert(DOC, "0"))
    notes = tmp_path / "notes"
    with notes.open("w") as file:
        victim = start(ADD, path, 1_000_000, output=file.fileno())
    workers = [start(ADD, path, 60) for _ in range(3)]
    eventually(lambda: notes.read_text().count("\n") >= 20)
    victim.send_signal(signal.SIGKILL)
    complaints = [worker.communicate(timeout=60)[1] for worker in (*workers, victim)]
    assert [worker.returncode for worker in (*workers, victim)] == [0, 0, 0, -signal.SIGKILL], complaints
    acknowledged = 3 * 60 + notes.read_text().count("\n")
    final = body(store)
    assert final is not None
    # What was acknowledged is there; the one killed may have had one more under way.
    assert int(final) - acknowledged in (0, 1)
    stored(store, Insert(Key("a", "1"), "x"))  # nor does its lock stay
    assert connection_of(store).execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_an_acknowledged_write_survives_a_kill(path: Path) -> None:
    process = start(
        """
        import os, signal, sys
        from casops.messages import *
        from casops.stores.sqlite import SqliteStore
        print(SqliteStore(sys.argv[1]).perform([Insert(Key("accounts", "alice"), "1")])[0].cas)
        os.kill(os.getpid(), signal.SIGKILL)
        """,
        path,
    )
    printed, _ = process.communicate(timeout=60)
    with closing(SqliteStore(path)) as store:
        assert ask(store, Read(DOC)) == Version(int(printed), "1")


def test_processes_that_open_a_new_file_at_once_agree_on_it(path: Path) -> None:
    program = """
        import sys
        from casops.messages import *
        from casops.stores.sqlite import SqliteStore
        sys.stdin.read()
        store = SqliteStore(sys.argv[1], busy_timeout=60)
        print(store.perform([Insert(Key("accounts", sys.argv[2]), "1")])[0].cas)
        store.close()
    """
    processes = [start(program, path, number) for number in range(4)]
    printed = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, printed
    assert sorted(int(out) for out, _ in printed) == [2, 4, 6, 8]


class Interrupted(sqlite3.Connection):
    """Before its next statement, outside of a transaction, that has the number of `turns`, `other` happens."""

    turns = 0
    ran = 0
    other: Callable[[], object]

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        if not self.in_transaction:
            Interrupted.ran += 1
            if Interrupted.ran == Interrupted.turns:
                Interrupted.other()
        return super().execute(sql, *parameters)


def test_a_file_is_ours_before_whatever_statement_another_process_makes_it_ours(tmp_path: Path) -> None:
    """Between "is it ours?" and "has it tables?" another one once made both, and it was "another program's"."""
    for number in range(1, 100):
        path = tmp_path / f"{number}.db"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sqlite3, "connect", functools.partial(sqlite3.connect, factory=Interrupted))
            patch.setattr(Interrupted, "turns", number)
            patch.setattr(Interrupted, "ran", 0)
            patch.setattr(Interrupted, "other", lambda: SqliteStore(path).close(), raising=False)  # noqa: B023
            store = SqliteStore(path)
            last = Interrupted.ran < number
        stored(store, Insert(DOC, "1"))
        store.close()
        if last:
            break
    else:
        raise AssertionError("opening a file has no end")
    assert number > 10


FILL = """
    import resource, sys
    from casops.messages import *
    from casops.stores.sqlite import SqliteStore
    store = SqliteStore(sys.argv[1])
    stored = [Key("before", str(n)) for n in range(20)]
    assert all(isinstance(r, Stored) for r in store.perform([Insert(key, "x" * 1000) for key in stored]))
    # Python ignores SIGXFSZ, so a write beyond the limit is an error (EFBIG), short of it comes up short.
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
    kinds = {}
    for n in range(400):
        key = Key("during", str(n))
        (reply,) = store.perform([Insert(key, "x" * 1000)])
        kinds[type(reply)] = getattr(reply, "why", "")
        if isinstance(reply, Stored):
            stored.append(key)
        elif isinstance(reply, Refused):
            assert store.perform([Read(key)]) == [Missing()], reply
    assert set(kinds) <= {Stored, Refused, Unknown}, kinds
    assert len(kinds) > 1, kinds
    assert all(sys.argv[1] in why for why in kinds.values() if why), kinds
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert isinstance(store.perform([Insert(Key("after", "1"), "x")])[0], Stored)
    assert all(isinstance(r, Version) for r in store.perform([Read(key) for key in stored]))
    store.close()
    store = SqliteStore(sys.argv[1])
    assert all(isinstance(r, Version) for r in store.perform([Read(key) for key in stored]))
    print(store._connection.execute("PRAGMA integrity_check").fetchone()[0])
    store.close()
"""


@pytest.mark.parametrize("limit", [150_000, 152_345])
def test_a_limit_on_the_size_of_files_loses_nothing(path: Path, limit: int) -> None:
    assert run(FILL, path, limit) == ["ok"]


@FORKS
def test_a_store_is_not_carried_across_a_fork(path: Path) -> None:
    printed = run(
        """
        import asyncio, os, sys
        from casops.errors import UsageError
        from casops.messages import *
        from casops.stores.sqlite import AsyncSqliteStore, SqliteStore
        store = SqliteStore(sys.argv[1])
        front = AsyncSqliteStore(store)
        doc = Key("accounts", "alice")
        store.perform([Insert(doc, "1")])
        if os.fork() == 0:
            for ask in (
                lambda: store.perform([Read(doc)]),
                lambda: asyncio.run(front.perform([Read(doc)])),
                lambda: SqliteStore(sys.argv[1]),  # SQLite would think it has the parent's locks
            ):
                try:
                    ask()
                except UsageError as error:
                    print(error)
            store.close()
            elsewhere = SqliteStore(sys.argv[1] + "2")
            print(elsewhere.perform([Insert(doc, "2")]))
            elsewhere.close()
            sys.stdout.flush()
            os._exit(0)
        os.wait()
        print(store.perform([Read(doc)])[0].body)
        asyncio.run(front.close())
        if os.fork() == 0:
            store = SqliteStore(sys.argv[1])
            print(store.perform([Read(doc)])[0].body)
            store.close()
            sys.stdout.flush()
            os._exit(0)
        os.wait()
        """,
        path,
    )
    assert len(printed) == 6
    assert all("opened before a fork; close it before forking" in line for line in printed[:2])
    assert "was open when the process was forked; close it before forking" in printed[2]
    assert printed[3:] == ["[Stored(cas=2)]", "1", "1"]


@pytest.mark.parametrize("request_", [Read(DOC), Insert(DOC, "1"), Scan()])
def test_a_file_without_its_clock_is_refused(store: SqliteStore, request_: StoreRequest) -> None:
    stored(store, Insert(Key("things", "other"), "1"))
    connection: Any = store._connection
    connection.execute("DELETE FROM meta")
    refused = ask(store, request_)
    assert isinstance(refused, Refused)
    assert "damaged" in refused.why
