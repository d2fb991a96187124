"""Threads at a SqliteStore that wait for each other, and batches that are too much for one statement.

Whoever waits must be woken, not find out by looking: here nobody looks for so long that a test would fail first.

Must not be in here: what a transaction writes and what an error of it means (tests/test_sqlite_store.py).
"""

from __future__ import annotations

import gc
import linecache
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from casops.messages import Body, Insert, Key, Missing, Read, Refused, Replace, Reply, Stored, StoreRequest, Version
from casops.stores.sqlite import SqliteStore
from casops.stores.sqlite_documents import TOGETHER
from casops.stores.sqlite_file import connect
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
    monkeypatch.setattr("casops.stores.one_at_a_time.LOOK_AGAIN", 3 * SECONDS)


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


# --- one at a time ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("nobody_looks")
@pytest.mark.parametrize(
    ("method", "before"),
    [("_carry_out", True), ("_carry_out", False), ("_transact", False), ("_disconnect", True)],
)
def test_who_waits_is_woken_when_the_one_at_work_is_interrupted(store: SqliteStore, method: str, before: bool) -> None:
    meant, working, waiting = getattr(store, method), threading.Event(), threading.Event()

    def interrupted(*arguments: Any, **named: Any) -> Any:
        setattr(store, method, meant)
        result = None if before else meant(*arguments, **named)
        working.set()
        assert waiting.wait(SECONDS)
        raise KeyboardInterrupt(result)

    if method == "_disconnect":  # after an error
        seeded: Any = Failing(store._connection, sqlite3.SQLITE_FULL, after=0)
        store._connection = seeded
    setattr(store, method, interrupted)
    first = Asking(store, [Insert(Key("first", "1"), "x")])
    assert working.wait(SECONDS)
    others = [Asking(store, [Insert(Key("others", str(number)), "x")]) for number in range(OTHERS)]
    eventually(lambda: len(store._writing._free._waiters) == OTHERS)  # type: ignore[attr-defined]
    waiting.set()
    assert isinstance(first.outcome(), KeyboardInterrupt)
    for each in others:
        assert isinstance(each.outcome()[0], Stored)


def test_an_interruption_while_it_is_left_is_made_good(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    leave, left = store._writing.leave, threading.Event()

    def interrupted() -> None:
        if not left.is_set():
            left.set()
            raise KeyboardInterrupt
        leave()

    monkeypatch.setattr(store._writing, "leave", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.perform([Insert(Key("first", "1"), "x")])
    assert not store._writing.taken
    assert isinstance(Asking(store, [Insert(Key("others", "1"), "x")]).outcome()[0], Stored)


def test_what_was_interrupted_while_it_waited_is_not_done(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(store._writing, "take", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.perform([Insert(Key("first", "1"), "x")])
    assert isinstance(store.perform([Insert(Key("others", "1"), "x")])[0], Stored)
    assert store.perform([Read(Key("first", "1"))]) == [Missing()]


def test_whom_nobody_woke_looks_for_himself(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("casops.stores.one_at_a_time.LOOK_AGAIN", 0.01)
    assert store._writing.take(0, unless=lambda: False)
    other = Asking(store, [Insert(Key("others", "1"), "x")])
    eventually(lambda: store._writing._free._waiters)  # type: ignore[attr-defined]
    store._writing._holder = 0  # and then it was interrupted
    assert isinstance(other.outcome()[0], Stored)


def test_an_interruption_while_an_error_is_told_leaves_the_file_free(
    store: SqliteStore, other: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explain(*_: object) -> str:
        raise KeyboardInterrupt

    seeded: Any = Failing(store._connection, sqlite3.SQLITE_FULL, after=0)
    store._connection = seeded
    with monkeypatch.context() as patched:
        patched.setattr("casops.stores.sqlite.explain", explain)
        with pytest.raises(KeyboardInterrupt):
            store.perform([Insert(Key("first", "1"), "x")])
    other.execute("BEGIN IMMEDIATE")
    other.execute("ROLLBACK")
    assert isinstance(store.perform([Insert(Key("first", "1"), "x")])[0], Stored)


class AtLine:
    """Ctrl-C in this thread, before a chosen one of the lines that it runs in some files.

    Not where a `with` is left: a tracer comes between the body and `__exit__` there, where Python lets no signal in.
    """

    def __init__(self, which: int, *files: str) -> None:
        self._left, self._files = which, files

    def __call__(self, frame: FrameType, event: str, _argument: object) -> Any:
        if not frame.f_code.co_filename.endswith(self._files):
            return None
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
        if event == "line" and not line.startswith("with "):
            self._left -= 1
            if self._left == 0:
                raise KeyboardInterrupt
        return self

    @property
    def met(self) -> bool:
        return self._left <= 0


# A connection that was just made when Ctrl-C came is nobody's; Python 3.13 warns when it closes it.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <sqlite3.Connection")
@pytest.mark.parametrize("fails", [False, True])
def test_ctrl_c_at_any_line_lets_others_write(
    store: SqliteStore, other: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    monkeypatch.setattr("casops.stores.one_at_a_time.LOOK_AGAIN", 0.001)
    for which in range(1, 1000):
        at_line, outcomes = AtLine(which, "stores/sqlite.py", "stores/one_at_a_time.py"), list[Any]()
        store._to_checkpoint = 10**6 if which % 2 else 0

        def ask(which: int = which, at_line: AtLine = at_line, outcomes: list[Any] = outcomes) -> None:
            sys.settrace(at_line)
            try:
                outcomes.extend(store.perform([Insert(Key("first", str(which)), "x")]))
            except KeyboardInterrupt:
                outcomes.append(None)
            finally:
                sys.settrace(None)

        if fails:
            if store._connection is not None:
                store._connection.close()
            seeded: Any = Failing(connect(store._path), sqlite3.SQLITE_FULL, after=0)
            store._connection = seeded
        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        thread.join(SECONDS)
        assert not thread.is_alive()
        if isinstance(store._connection, Failing):
            assert not store._connection.in_transaction
            store._connection.close()
            store._connection = None  # it was not come to
        assert isinstance(Asking(store, [Insert(Key("others", str(which)), "x")]).outcome()[0], Stored), which
        other.execute("BEGIN IMMEDIATE")  # nor is the file locked
        other.execute("ROLLBACK")
        if not at_line.met:
            assert isinstance(outcomes[0], Refused if fails else Stored)
            break
    else:
        pytest.fail("it had too many lines")
    assert which > 30
    gc.collect()  # or another test would be blamed


def together(store: SqliteStore, other: sqlite3.Connection, batches: Sequence[Sequence[StoreRequest]]) -> list[Any]:
    """Ask for the first batch, and for the others while it waits for the file; what came of them."""
    other.execute("BEGIN IMMEDIATE")
    asked = [Asking(store, batches[0])]
    eventually(lambda: store._writing.taken and not store._jobs)
    for number, batch in enumerate(batches[1:], 1):
        asked.append(Asking(store, batch))
        eventually(lambda number=number: len(store._jobs) == number)  # type: ignore[misc]
    other.execute("ROLLBACK")
    return [each.outcome() for each in asked]


def inserts(count: int, *, first: int = 0) -> list[list[StoreRequest]]:
    return [[Insert(MANY[first + number], "x")] for number in range(count)]


@pytest.mark.usefixtures("nobody_looks")
def test_those_who_wait_are_committed_together(store: SqliteStore, other: sqlite3.Connection) -> None:
    statements: list[str] = []
    assert store._connection is not None
    store._connection.set_trace_callback(statements.append)
    outcomes = together(store, other, inserts(9))
    assert all(isinstance(replies[0], Stored) for replies in outcomes)
    assert statements.count("COMMIT") == 2
    assert len({replies[0].cas for replies in outcomes}) == 9


@pytest.mark.usefixtures("nobody_looks")
def test_who_is_done_does_not_wait_for_who_comes_next(store: SqliteStore, other: sqlite3.Connection) -> None:
    """On a slow disk one after the other would hear of it once a sync."""
    meant, go_on = store._carry_out, threading.Event()
    groups: list[int] = []

    def slow(works: Any, **named: Any) -> Any:
        groups.append(len(works))
        if len(groups) > 2:
            assert go_on.wait(SECONDS)
        return meant(works, **named)

    store._carry_out = slow  # type: ignore[method-assign]
    leave = store._writing.leave
    late: list[Asking] = []

    def leaves() -> None:
        leave()
        if len(groups) == 2 and not late:
            late.append(Asking(store, inserts(1, first=20)[0]))
            eventually(lambda: len(groups) == 3)

    store._writing.leave = leaves  # type: ignore[method-assign]
    outcomes = together(store, other, inserts(6))
    assert all(isinstance(replies[0], Stored) for replies in outcomes)
    assert groups == [1, 5, 1]
    go_on.set()
    assert isinstance(late[0].outcome()[0], Stored)


def test_a_group_is_bounded_but_takes_every_batch_whole(
    store: SqliteStore, other: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("casops.stores.sqlite.TOGETHER", 3)
    statements: list[str] = []
    assert store._connection is not None
    store._connection.set_trace_callback(statements.append)
    large = [request for batch in inserts(5, first=50) for request in batch]
    outcomes = together(store, other, [*inserts(4), large, *inserts(1, first=60)])
    assert [len(replies) for replies in outcomes] == [1, 1, 1, 1, 5, 1]
    assert all(isinstance(reply, Stored) for replies in outcomes for reply in replies)
    assert statements.count("COMMIT") == 4  # 1, then 3, then 5 alone, then 1


def test_the_bug_of_one_is_not_that_of_the_others(store: SqliteStore, other: sqlite3.Connection) -> None:
    (found,) = store.perform([Read(Key("setup", "1"))])
    assert isinstance(found, Version)
    bug: list[StoreRequest] = [
        *inserts(1)[0],
        Replace(Key("setup", "1"), found.cas, Body.STAGED),
        *inserts(1, first=1)[0],
    ]
    first, raised, last = together(store, other, [inserts(1, first=2)[0], bug, inserts(1, first=3)[0]])
    assert isinstance(raised, AssertionError)
    assert isinstance(first[0], Stored)
    assert isinstance(last[0], Stored)
    assert all(isinstance(each, Version) for each in store.perform([Read(key) for key in MANY[:4]]))


@pytest.mark.usefixtures("nobody_looks")
@pytest.mark.parametrize("before", [True, False])
def test_who_waited_with_one_that_was_interrupted_is_not_told_that_nothing_happened(
    store: SqliteStore, other: sqlite3.Connection, before: bool
) -> None:
    meant = store._carry_out

    def interrupted(works: Any, **named: Any) -> Any:
        if len(works) == 1:
            return meant(works, **named)
        store._carry_out = meant  # type: ignore[method-assign]
        raise KeyboardInterrupt(None if before else meant(works, **named))

    store._carry_out = interrupted  # type: ignore[method-assign]
    first, *others = together(store, other, inserts(4))
    assert isinstance(first[0], Stored)
    kinds = sorted(type(each if isinstance(each, KeyboardInterrupt) else each[0]).__name__ for each in others)
    assert kinds == ["KeyboardInterrupt", "Unknown", "Unknown"]
    written = store.perform([Read(key) for key in MANY[1:4]])
    assert {type(each) for each in written} == {Missing if before else Version}


def test_who_waits_in_vain_is_told_what_is_true(
    store: SqliteStore, other: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One whose batch nobody has taken: nothing happened; one whose batch somebody is at: that is not known."""
    monkeypatch.setattr("casops.stores.sqlite.LONGEST_WAIT", 0.2)
    store._busy_timeout = 0
    meant, working, go_on = store._carry_out, threading.Event(), threading.Event()

    def slow(works: Any, **named: Any) -> Any:
        working.set()
        assert go_on.wait(SECONDS)
        return meant(works, **named)

    assert store._writing.take(0, unless=lambda: False)
    taken = [Asking(store, each) for each in inserts(2)]
    eventually(lambda: len(store._jobs) == 2)
    store._carry_out = slow  # type: ignore[method-assign]
    store._writing.leave()
    assert working.wait(SECONDS)
    late = Asking(store, [Insert(MANY[2], "x")])
    (refused,) = late.outcome()
    assert isinstance(refused, Refused)
    assert "busy" in refused.why
    eventually(lambda: sum(each._thread.is_alive() for each in taken) == 1)
    go_on.set()
    kinds = sorted(type(each.outcome()[0]).__name__ for each in taken)
    assert kinds == ["Stored", "Unknown"]
    found = store.perform([Read(key) for key in MANY[:3]])
    assert [type(each) for each in found] == [Version, Version, Missing]


def test_conversations_of_one_call_are_one_transaction(store: SqliteStore) -> None:
    replies: list[Reply] = []
    statements: list[str] = []
    assert store._connection is not None
    store._connection.set_trace_callback(statements.append)
    first, second = Insert(Key("a", "1"), "x"), Read(Key("a", "1"))
    assert store.converse([lambda perform: None, lambda perform: replies.extend(perform([first]))]) == [None, None]
    assert statements.count("COMMIT") == 1
    told = store.converse([lambda perform: replies.extend(perform([second])), lambda _: None, lambda _: None])
    assert told == [None, None, None]
    assert [type(each) for each in replies] == [Stored, Version]


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
