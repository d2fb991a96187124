"""Writing several documents at once (casops.stores, 10): all or nothing, if all is as it was seen.

Must not be in here: what one request does to one document (tests/test_store_contract.py).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from casops.messages import (
    RESULTS,
    AtOnce,
    Body,
    Exists,
    Insert,
    Key,
    Mismatch,
    Missing,
    Read,
    Refused,
    Remove,
    Replace,
    Stage,
    Stored,
    StoreRequest,
    Version,
)
from casops.stores.rows import MAX_BYTES
from casops.stores.sqlite import SqliteStore
from casops.stores.sqlite_documents import Transaction
from tests.couchbase import Couchbase
from tests.test_store_contract import DOC, OTHER, RECORD, ROWS, START, Bench, bench_of_rows, bench_on_couchbase

NOBODY = Key("accounts", "nobody")


@pytest.fixture(params=ROWS)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    yield from bench_of_rows(request.param, tmp_path)


@pytest.fixture(params=["couchbase", "couchbase async"])
def couchbase_bench(request: pytest.FixtureRequest, couchbase: Couchbase) -> Iterator[Bench]:
    yield from bench_on_couchbase(request.param, couchbase, [START])


def all_of(bench: Bench) -> list[object]:
    return bench.batch([Read(key) for key in (DOC, OTHER, RECORD, NOBODY)])  # type: ignore[return-value]


def test_all_are_written_and_the_cas_of_the_first_is_told(bench: Bench) -> None:
    doc, other = bench.stored(Insert(DOC, "1")), bench.stored(Insert(OTHER, "2"))
    writes = Insert(RECORD, "r", ttl=10), Replace(DOC, doc, "3", expires=START + 5), Remove(OTHER, other)
    cas = bench.stored(AtOnce(writes, ((DOC, doc), (OTHER, other), (NOBODY, None))))
    assert bench.ask(Read(RECORD)) == Version(cas, "r", None, START + 10)
    assert (bench.version().body, bench.version().expires) == ("3", START + 5)
    assert bench.version(OTHER).body is None
    assert bench.version(OTHER).cas > other
    assert bench.ask(Read(NOBODY)) == Missing()


@pytest.mark.parametrize(
    "last", [Insert(DOC, "9"), Replace(DOC, 10**6, "9"), Remove(DOC, 10**6), Replace(NOBODY, 2, "9")]
)
def test_if_one_write_cannot_be_nothing_is_written(bench: Bench, last: Insert | Replace | Remove) -> None:
    bench.stored(Insert(DOC, "1"))
    other = bench.stored(Insert(OTHER, "2"))
    before = all_of(bench)
    assert bench.ask(AtOnce((Insert(RECORD, "r"), Replace(OTHER, other, "3"), last), ())) == Mismatch()
    assert all_of(bench) == before
    assert bench.stored(AtOnce((Insert(RECORD, "r"), Replace(OTHER, other, "3")), ())) > 0


@pytest.mark.parametrize("seen", [(DOC, None), (DOC, 10**6), (NOBODY, 2)])
def test_if_one_is_not_as_it_was_seen_nothing_is_written(bench: Bench, seen: tuple[Key, int | None]) -> None:
    doc = bench.stored(Insert(DOC, "1"))
    before = all_of(bench)
    assert bench.ask(AtOnce((Insert(RECORD, "r"),), (seen,))) == Mismatch()
    assert bench.ask(AtOnce((Insert(RECORD, "r"),), ((DOC, doc), seen))) == Mismatch()
    assert all_of(bench) == before


def test_a_stage_moves_a_document_as_any_write_does(bench: Bench) -> None:
    doc = bench.stored(Insert(DOC, "1"))
    bench.stored(Replace(DOC, doc, "1", Stage("m", "2")))
    assert bench.ask(AtOnce((Insert(RECORD, "r"),), ((DOC, doc),))) == Mismatch()


def test_what_has_expired_has_moved(bench: Bench) -> None:
    doc = bench.stored(Insert(DOC, "1", ttl=10))
    bench.advance(10)
    assert bench.ask(AtOnce((Insert(RECORD, "r"),), ((DOC, doc),))) == Mismatch()
    assert bench.ask(Read(RECORD)) == Missing()
    gone = bench.version()
    assert gone.body is None
    bench.stored(AtOnce((Insert(RECORD, "r"), Insert(DOC, "2")), ((DOC, gone.cas),)))
    assert bench.version().body == "2"


@pytest.mark.parametrize("text", ["a\0b", "\ud800", "x" * (MAX_BYTES + 1)])
def test_if_one_cannot_be_taken_nothing_is_written(bench: Bench, text: str) -> None:
    doc = bench.stored(Insert(DOC, "1"))
    assert isinstance(bench.ask(AtOnce((Insert(RECORD, "r"), Replace(DOC, doc, text)), ())), Refused)
    assert bench.ask(Read(RECORD)) == Missing()
    assert bench.version().body == "1"


def test_a_bug_is_raised_and_nothing_is_written(bench: Bench) -> None:
    with pytest.raises(AssertionError, match="a blind write"):
        bench.ask(AtOnce((Insert(RECORD, "r"), Replace(DOC, 0, "1")), ()))
    assert bench.ask(Read(RECORD)) == Missing()


def test_a_bug_that_shows_only_when_it_is_carried_out_leaves_nothing(bench: Bench) -> None:
    doc = bench.stored(Insert(DOC, "1"))
    with pytest.raises(AssertionError, match="no staged body"):
        bench.ask(AtOnce((Insert(RECORD, "r"), Replace(DOC, doc, Body.STAGED)), ()))
    assert bench.ask(Read(RECORD)) == Missing()


def test_the_rest_of_a_batch_does_not_mind(bench: Bench) -> None:
    doc = bench.stored(Insert(DOC, "1"))
    lost = AtOnce((Insert(RECORD, "r"), Replace(DOC, doc + 1000, "2")), ())
    replies = bench.batch([Insert(OTHER, "1"), lost, Replace(DOC, doc, "3"), Insert(OTHER, "2")])
    assert [type(reply) for reply in replies] == [Stored, Mismatch, Stored, Exists]
    assert bench.ask(Read(RECORD)) == Missing()
    assert (bench.version().body, bench.version(OTHER).body) == ("3", "1")


def test_couchbase_is_not_asked(couchbase_bench: Bench) -> None:
    with pytest.raises(AssertionError, match="several documents at once"):
        couchbase_bench.ask(AtOnce((Insert(RECORD, "r"),), ()))


# --- in a transaction of a file -------------------------------------------------------------------------


def transaction(
    folder: Path, requests: Sequence[StoreRequest], *, limit: int | None = None, commit: bool = True
) -> tuple[list[object], int]:
    """Replies to these requests in one transaction, and how many pages it wrote, about."""
    with closing(sqlite3.connect(folder / "store.db", isolation_level=None)) as connection:
        if limit is not None:
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, limit)
        begun = Transaction(connection, writing=True, wall=START, tombstones=10, latest=lambda _: START)
        replies: list[object] = [begun.answer(request) for request in requests]
        begun.finish()
        connection.execute("COMMIT" if commit else "ROLLBACK")
        return replies, begun.written


@pytest.mark.parametrize("limit", [None, 100_000])
def test_what_is_not_written_leaves_the_transaction_as_it_was(tmp_path: Path, limit: int | None) -> None:
    """limit: of SQLite's texts, so low that rows are written as they come, to know whether it takes them."""
    with closing(SqliteStore(tmp_path / "store.db", clock=lambda: START)) as store:
        (first,) = store.perform([Insert(DOC, "1")])
        assert isinstance(first, Stored)
        long = "x" * 50_000
        requests: list[StoreRequest] = [
            Replace(DOC, first.cas, "2"),
            AtOnce((Insert(RECORD, long), Insert(OTHER, long), Replace(DOC, first.cas, "3")), ()),
            AtOnce((Insert(RECORD, "y"), Insert(OTHER, long)), ()),
            Read(DOC),
        ]
        replies, written = transaction(tmp_path, requests, limit=limit)
        assert [type(reply) for reply in replies] == [Stored, Mismatch, Stored, Version]
        if limit is None:
            assert written == 3 + len(long) // 4096  # three rows, and the pages that the long one fills
        found = store.perform([Read(DOC), Read(RECORD), Read(OTHER)])
        assert [each.body for each in found if isinstance(each, Version)] == ["2", "y", long]


def test_what_was_acknowledged_before_is_kept_though_its_row_was_written_for_nothing(tmp_path: Path) -> None:
    with closing(SqliteStore(tmp_path / "store.db", clock=lambda: START)) as store:
        (first,) = store.perform([Insert(DOC, "1")])
        assert isinstance(first, Stored)
        acknowledged = Replace(DOC, first.cas, "2")
        seen, _ = transaction(tmp_path, [acknowledged, Read(DOC)], limit=100_000, commit=False)
        assert isinstance(seen[1], Version)
        over = Replace(DOC, seen[1].cas, "x" * 50_000)  # so long that it is written as it comes
        lost = AtOnce((Insert(RECORD, "r"), over, Remove(NOBODY, 2)), ())
        replies, _ = transaction(tmp_path, [acknowledged, lost], limit=100_000)
        assert [type(reply) for reply in replies] == [Stored, Mismatch]
        assert store.perform([Read(DOC), Read(RECORD)]) == [Version(seen[1].cas, "2"), Missing()]


def test_a_transaction_in_which_all_came_to_nothing_writes_nothing(tmp_path: Path) -> None:
    with closing(SqliteStore(tmp_path / "store.db", clock=lambda: START)) as store:
        (first,) = store.perform([Insert(DOC, "1")])
        assert isinstance(first, Stored)
        lost = AtOnce((Insert(RECORD, "r"), Replace(DOC, first.cas, "2"), Remove(NOBODY, 2)), ())
        replies, written = transaction(tmp_path, [lost])
        assert ([type(reply) for reply in replies], written) == ([Mismatch], 0)
        with closing(sqlite3.connect(tmp_path / "store.db")) as file:
            assert file.execute("SELECT cas FROM meta").fetchone() == (first.cas,)


def test_what_sqlite_does_not_take_refuses_all_of_it(tmp_path: Path) -> None:
    with closing(SqliteStore(tmp_path / "store.db", clock=lambda: START)) as store:
        requests: list[StoreRequest] = [
            AtOnce((Insert(RECORD, "r"), Insert(DOC, "x" * 150_000)), ()),
            Insert(OTHER, "1"),
        ]
        replies, _ = transaction(tmp_path, requests, limit=100_000)
        assert [type(reply) for reply in replies] == [Refused, Stored]
        assert store.perform([Read(Key(RESULTS, RECORD.id)), Read(DOC)]) == [Missing(), Missing()]
