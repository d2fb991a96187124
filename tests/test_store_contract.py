"""What every store owes (casops.stores), asked of each store and each of its fronts.

The numbers are those of the obligations there.  Time is an injected clock: nothing here sleeps.

Must not be in here: what only one store promises (tests/test_sqlite_store.py).
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from casops.messages import (
    INTENTIONS,
    RESULTS,
    Body,
    Entry,
    Exists,
    Forget,
    Insert,
    Key,
    Mismatch,
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
    Version,
)
from casops.stores import AsyncStore, Store
from casops.stores.memory import AsyncMemoryStore, MemoryStore
from casops.stores.opening import open_async_store, open_store
from casops.stores.rows import MAX_BYTES, MAX_SECONDS, PAGE_ENTRIES, decide
from casops.stores.sqlite import AsyncSqliteStore, SqliteStore
from tests.couchbase import Couchbase, couchbase_for_tests

DOC = Key("accounts", "alice")
OTHER = Key("accounts", "bob")
RECORD = Key(RESULTS, "op-1")
STAGE = Stage('{"of":1}', '"staged"')
STAGED_ABSENT = Stage('{"of":1}', None)
START = 1_800_000_000  # an expiry below 30 days would be taken for seconds from now
TOMBSTONES = 1000


class Bench:
    """A store under test, behind one of its fronts, and its clock."""

    def __init__(
        self, perform: Callable[[Sequence[StoreRequest]], list[Reply]], clock: list[float] | None, *, rows: bool
    ) -> None:
        self.batch = perform
        self._clock = clock
        self.rows = rows  # by the rules of casops.stores.rows, which promise more than a store must

    def ask(self, request: StoreRequest) -> Reply:
        (reply,) = self.batch((request,))
        return reply

    def stored(self, request: StoreRequest) -> int:
        """The CAS of a write that must succeed."""
        reply = self.ask(request)
        assert isinstance(reply, Stored), reply
        return reply.cas

    def version(self, key: Key = DOC) -> Version:
        reply = self.ask(Read(key))
        assert isinstance(reply, Version), reply
        return reply

    def advance(self, seconds: float) -> None:
        if self._clock is None:
            pytest.skip("the clock of a real server cannot be moved")
        self._clock[0] += seconds


ROWS = ["memory", "sqlite", "memory async", "sqlite async"]


@pytest.fixture(params=[*ROWS, "couchbase", "couchbase async"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    if request.param in ROWS:
        yield from bench_of_rows(request.param, tmp_path)
    else:
        couchbase = request.getfixturevalue("couchbase_by_hand")
        yield from bench_on_couchbase(request.param, couchbase, request.getfixturevalue("couchbase_clock"))


@pytest.fixture(params=ROWS)
def rows_bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """For what a store of rows promises beyond that: the order of a Scan, texts that are not JSON, its own clock."""
    yield from bench_of_rows(request.param, tmp_path)


@pytest.fixture(scope="module")
def couchbase_clock() -> list[float]:
    return [START]


@pytest.fixture(scope="module")
def couchbase_by_hand(couchbase_clock: list[float]) -> Iterator[Couchbase]:
    """The test double with a clock that a test moves; or a real cluster, whose clock nobody moves."""
    with couchbase_for_tests(clock=lambda: couchbase_clock[0], purge_after=TOMBSTONES) as couchbase:
        yield couchbase


def bench_on_couchbase(kind: str, couchbase: Couchbase, clock: list[float]) -> Iterator[Bench]:
    prefix = couchbase.new_prefix()
    moving = None if couchbase.server is None else clock
    clock[0] = START
    if kind.endswith("async"):
        front = open_async_store(couchbase.url(prefix))
        lock = threading.Lock()
        with asyncio.Runner() as runner:

            def perform(batch: Sequence[StoreRequest]) -> list[Reply]:
                with lock:
                    return runner.run(front.perform(batch))

            yield Bench(perform, moving, rows=False)
            runner.run(front.close())
    else:
        store = open_store(couchbase.url(prefix))
        yield Bench(store.perform, moving, rows=False)
        store.close()
    couchbase.forget(prefix)


def bench_of_rows(kind: str, folder: Path) -> Iterator[Bench]:
    clock: list[float] = [START]
    store: MemoryStore | SqliteStore
    if kind.startswith("memory"):
        store = MemoryStore(tombstones=TOMBSTONES, clock=lambda: clock[0])
    else:
        store = SqliteStore(folder / "store.db", tombstones=TOMBSTONES, clock=lambda: clock[0])
    if kind.endswith("async"):
        front: AsyncStore = AsyncMemoryStore(store) if isinstance(store, MemoryStore) else AsyncSqliteStore(store)
        lock = threading.Lock()  # one loop, asked by several threads in turn
        with asyncio.Runner() as runner:

            def perform(batch: Sequence[StoreRequest]) -> list[Reply]:
                with lock:
                    return runner.run(front.perform(batch))

            yield Bench(perform, clock, rows=True)
            runner.run(front.close())
    else:
        sync_front: Store = store
        yield Bench(sync_front.perform, clock, rows=True)
        sync_front.close()


# --- 1: a CAS is positive and never returns ---------------------------------------------------


def test_a_cas_never_returns_over_change_removal_expiry_purge_and_re_creation(bench: Bench) -> None:
    seen: list[int] = []
    for _ in range(3):
        seen.append(bench.stored(Insert(DOC, "1")))
        seen.append(bench.stored(Replace(DOC, seen[-1], "2", STAGE)))
        seen.append(bench.stored(Replace(DOC, seen[-1], Body.KEEP)))
        seen.append(bench.stored(Remove(DOC, seen[-1])))
        seen.append(bench.stored(Replace(DOC, seen[-1], Body.KEEP, STAGE)))
        seen.append(bench.stored(Replace(DOC, seen[-1], Body.STAGED, ttl=10)))
        bench.advance(10)
        seen.append(bench.version().cas)
        bench.advance(TOMBSTONES)
        assert bench.ask(Read(DOC)) == Missing()
        seen.append(bench.stored(Insert(DOC, None)))
        seen.append(bench.stored(Insert(DOC, "3")))
        seen.append(bench.stored(Remove(DOC, seen[-1])))
        bench.advance(TOMBSTONES)
        # Enough writes that a purge surely comes by.
        for number in range(5):
            bench.stored(Insert(Key("other", f"{len(seen)}-{number}"), "9"))
    assert min(seen) > 0
    assert len(set(seen)) == len(seen)


def test_a_record_that_was_forgotten_does_not_get_its_cas_back(bench: Bench) -> None:
    seen: list[int] = []
    for _ in range(3):
        seen.append(bench.stored(Insert(RECORD, "1")))
        seen.append(bench.stored(Remove(RECORD, seen[-1])))
        seen.append(bench.stored(Insert(RECORD, "1", ttl=10)))
        bench.advance(10)
        bench.stored(Insert(Key(RESULTS, f"other-{len(seen)}"), "9"))
    assert len(set(seen)) == len(seen)


def test_the_acknowledged_cas_is_the_one_that_is_read(bench: Bench) -> None:
    cas = bench.stored(Insert(DOC, "1"))
    assert bench.version() == Version(cas, "1")
    cas = bench.stored(Remove(DOC, cas))
    assert bench.version() == Version(cas, None)


def test_an_intention_is_forgotten_whatever_stands_there(bench: Bench) -> None:
    key = Key(INTENTIONS, "1")
    assert bench.ask(Forget(key)) == Missing()
    cas = bench.stored(Insert(key, "{}"))
    bench.stored(Replace(key, cas, "{}"))
    assert isinstance(bench.ask(Forget(key)), Stored)
    assert bench.ask(Read(key)) == Missing()
    assert bench.ask(Forget(key)) == Missing()


@pytest.mark.parametrize("write", [lambda cas: Replace(DOC, cas, "8"), lambda cas: Remove(DOC, cas)])
def test_a_write_that_names_another_cas_changes_nothing(bench: Bench, write: Callable[[int], StoreRequest]) -> None:
    old = bench.stored(Insert(DOC, "1"))
    new = bench.stored(Replace(DOC, old, "2", STAGE))
    before = bench.version()
    for wrong in (old, new + 1, new + 2, new - 1):
        if wrong > 0:
            assert bench.ask(write(wrong)) == Mismatch()
    assert bench.version() == before


def test_writing_what_is_not_there_is_a_mismatch(bench: Bench) -> None:
    assert bench.ask(Replace(DOC, 1, "9")) == Mismatch()
    assert bench.ask(Replace(DOC, 2, Body.STAGED)) == Mismatch()
    assert bench.ask(Remove(DOC, 1)) == Mismatch()
    assert bench.ask(Remove(RECORD, 1)) == Mismatch()
    assert bench.ask(Read(DOC)) == Missing()


def test_threads_that_add_one_by_cas_lose_no_update(bench: Bench) -> None:
    threads, each = 6, 15
    bench.stored(Insert(DOC, "0"))
    start = threading.Barrier(threads)
    failures: list[Reply] = []

    def add() -> None:
        start.wait()
        done = 0
        while done < each:
            version = bench.version()
            assert version.body is not None
            reply = bench.ask(Replace(DOC, version.cas, str(int(version.body) + 1)))
            if isinstance(reply, Stored):
                done += 1
            elif reply != Mismatch():
                failures.append(reply)
                return

    workers = [threading.Thread(target=add) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert failures == []
    assert bench.version().body == str(threads * each)


# --- 2: one document, one write, all or nothing; a batch is not -------------------------------


def test_body_stage_and_lifetime_are_replaced_wholly(bench: Bench) -> None:
    cas = bench.stored(Insert(DOC, "1", STAGE, ttl=50))
    assert bench.version() == Version(cas, "1", STAGE, START + 50)
    cas = bench.stored(Replace(DOC, cas, Body.KEEP))
    assert bench.version() == Version(cas, "1", None, None)
    cas = bench.stored(Replace(DOC, cas, "2", expires=START + 70))
    assert bench.version() == Version(cas, "2", None, START + 70)
    cas = bench.stored(Replace(DOC, cas, Body.KEEP, STAGED_ABSENT))
    assert bench.version() == Version(cas, "2", STAGED_ABSENT, None)
    cas = bench.stored(Replace(DOC, cas, "3", STAGE, ttl=5))
    assert bench.version() == Version(cas, "3", STAGE, START + 5)


def test_the_staged_body_moves_into_place_with_a_new_stage_beside_it(bench: Bench) -> None:
    cas = bench.stored(Insert(DOC, "1", STAGE))
    cas = bench.stored(Replace(DOC, cas, Body.STAGED, Stage('{"of":2}', '"later"')))
    assert bench.version() == Version(cas, '"staged"', Stage('{"of":2}', '"later"'))
    cas = bench.stored(Replace(DOC, cas, Body.STAGED, expires=START + 9))
    assert bench.version() == Version(cas, '"later"', None, START + 9)


@pytest.mark.parametrize("stage", [None, STAGED_ABSENT])
def test_moving_a_body_that_is_not_staged_is_a_bug_and_changes_nothing(bench: Bench, stage: Stage | None) -> None:
    cas = bench.stored(Insert(DOC, "1", stage))
    with pytest.raises(AssertionError, match="no staged body"):
        bench.ask(Replace(DOC, cas, Body.STAGED))
    assert bench.version() == Version(cas, "1", stage)
    assert bench.ask(Replace(DOC, cas + 2, Body.STAGED)) == Mismatch()


@pytest.mark.parametrize(
    "request_",
    [
        Replace(DOC, 0, "9"),
        Replace(DOC, -1, "9"),
        Remove(DOC, 0),
        Forget(DOC),
        Replace(DOC, 1, "9", expires=START + 1, ttl=1),
        Replace(DOC, 1, "9", ttl=0),
        Replace(DOC, 1, "9", expires=0),
        Insert(DOC, "9", ttl=0),
        Insert(RECORD, None),
    ],
)
def test_what_only_a_bug_asks_for_is_raised(bench: Bench, request_: StoreRequest) -> None:
    with pytest.raises(AssertionError, match="a bug in casops"):
        bench.ask(request_)
    assert bench.ask(Read(DOC)) == Missing()


def test_the_parts_of_a_batch_succeed_and_fail_by_themselves_and_answer_in_order(bench: Bench) -> None:
    cas = bench.stored(Insert(DOC, "1"))
    replies = bench.batch(
        (
            Insert(DOC, "9"),
            Insert(OTHER, "1"),
            Replace(DOC, cas + 2, "9"),
            Insert(Key("accounts", "\ud800"), "9"),
            Read(Key("accounts", "nobody")),
            Insert(RECORD, "1"),
        )
    )
    kinds = [type(reply) for reply in replies]
    assert kinds == [Exists, Stored, Mismatch, Refused, Missing, Stored]
    assert bench.version() == Version(cas, "1")
    assert bench.version(OTHER).body == "1"


def test_an_empty_batch_has_no_replies(bench: Bench) -> None:
    assert bench.batch(()) == []


# --- 4 and 5: reading, and the three states of a document -------------------------------------


def test_nothing_a_live_document_and_a_tombstone(bench: Bench) -> None:
    assert bench.ask(Read(DOC)) == Missing()
    cas = bench.stored(Insert(DOC, "1", STAGE))
    assert bench.version() == Version(cas, "1", STAGE)
    cas = bench.stored(Remove(DOC, cas))
    assert bench.version() == Version(cas, None)


def test_a_body_may_be_empty_and_stays_live(rows_bench: Bench) -> None:
    cas = rows_bench.stored(Insert(DOC, "", Stage("", "")))
    assert rows_bench.version() == Version(cas, "", Stage("", ""))
    cas = rows_bench.stored(Replace(DOC, cas, Body.STAGED))
    assert rows_bench.version() == Version(cas, "")


def test_insert_with_a_body_is_stopped_only_by_a_live_document(bench: Bench) -> None:
    cas = bench.stored(Insert(DOC, "1"))
    assert bench.ask(Insert(DOC, "2")) == Exists()
    cas = bench.stored(Remove(DOC, cas))
    cas = bench.stored(Insert(DOC, "3", STAGE))
    assert bench.version() == Version(cas, "3", STAGE)
    cas = bench.stored(Remove(DOC, cas))
    bench.stored(Replace(DOC, cas, Body.KEEP, STAGE))
    cas = bench.stored(Insert(DOC, "4"))  # an ordinary program does not see a staged tombstone
    assert bench.version() == Version(cas, "4")


def test_insert_without_a_body_is_stopped_by_every_version(bench: Bench) -> None:
    cas = bench.stored(Insert(DOC, None, STAGE))
    assert bench.version() == Version(cas, None, STAGE)
    assert bench.ask(Insert(DOC, None, STAGE)) == Exists()
    cas = bench.stored(Replace(DOC, cas, Body.KEEP))
    assert bench.version() == Version(cas, None)
    assert bench.ask(Insert(DOC, None)) == Exists()
    cas = bench.stored(Insert(DOC, "1"))
    assert bench.ask(Insert(DOC, None)) == Exists()
    bench.stored(Remove(DOC, cas))
    assert bench.ask(Insert(DOC, None, STAGE)) == Exists()


def test_an_absent_document_is_staged_and_created_by_moving_the_body_into_place(bench: Bench) -> None:
    cas = bench.stored(Insert(DOC, None, STAGE))
    cas = bench.stored(Replace(DOC, cas, Body.STAGED))
    assert bench.version() == Version(cas, '"staged"')


def test_a_document_that_is_brought_into_being_may_have_an_end(bench: Bench) -> None:
    cas = bench.stored(Insert(DOC, None, STAGE))
    cas = bench.stored(Replace(DOC, cas, Body.STAGED, expires=START + 50))
    assert bench.version() == Version(cas, '"staged"', None, START + 50)


def test_keep_leaves_an_absent_document_absent(bench: Bench) -> None:
    cas = bench.stored(Insert(DOC, None))
    cas = bench.stored(Replace(DOC, cas, Body.KEEP, STAGE))
    assert bench.version() == Version(cas, None, STAGE)


def test_removing_takes_the_stage_along_also_from_a_tombstone(bench: Bench) -> None:
    cas = bench.stored(Insert(DOC, None, STAGE))
    cas = bench.stored(Remove(DOC, cas))
    assert bench.version() == Version(cas, None)


def test_the_same_id_in_another_collection_is_another_document(bench: Bench) -> None:
    bench.stored(Insert(Key("a", "bc"), "1"))
    assert bench.ask(Read(Key("ab", "c"))) == Missing()
    assert bench.ask(Read(Key("b", "bc"))) == Missing()
    assert bench.ask(Read(Key("a", "BC"))) == Missing()


# --- 6 and 7: expiry, tombstones and forgetting ------------------------------------------------


@pytest.mark.parametrize("by_ttl", [True, False])
def test_an_expired_document_is_a_tombstone_that_has_moved(bench: Bench, by_ttl: bool) -> None:
    first = bench.stored(Insert(DOC, "1"))
    ending = Replace(DOC, first, "2", ttl=100) if by_ttl else Replace(DOC, first, "2", expires=START + 100)
    live = bench.stored(ending)
    bench.advance(99.5)
    assert bench.version() == Version(live, "2", None, START + 100)
    bench.advance(0.5)
    gone = bench.version()
    assert gone == Version(gone.cas, None)
    assert gone.cas not in (first, live)
    assert bench.ask(Replace(DOC, live, "8")) == Mismatch()
    assert bench.ask(Remove(DOC, live)) == Mismatch()
    assert bench.ask(Insert(DOC, None)) == Exists()
    assert bench.version() == gone


@pytest.mark.parametrize("late", ["replace", "remove", "insert", "keep"])
def test_the_tombstone_of_an_expired_document_can_be_written(bench: Bench, late: str) -> None:
    live = bench.stored(Insert(DOC, "1", ttl=10))
    bench.advance(10)
    gone = bench.version().cas
    writes: dict[str, StoreRequest] = {
        "replace": Replace(DOC, gone, "2"),
        "remove": Remove(DOC, gone),
        "insert": Insert(DOC, "2"),
        "keep": Replace(DOC, gone, Body.KEEP, STAGE),
    }
    cas = bench.stored(writes[late])
    assert cas not in (live, gone)
    expected = {"remove": (None, None), "keep": (None, STAGE)}.get(late, ("2", None))
    assert bench.version() == Version(cas, *expected)
    assert bench.ask(Replace(DOC, gone, "3")) == Mismatch()


def test_a_stage_does_not_survive_expiry(bench: Bench) -> None:
    bench.stored(Insert(DOC, "1", STAGE, ttl=10))
    bench.advance(10)
    gone = bench.version()
    assert gone.stage is None
    with pytest.raises(AssertionError, match="no staged body"):
        bench.ask(Replace(DOC, gone.cas, Body.STAGED))


def test_a_lifetime_that_is_over_already_ends_at_once(bench: Bench) -> None:
    cas = bench.stored(Insert(DOC, "1"))
    cas = bench.stored(Replace(DOC, cas, Body.KEEP, expires=START - 5))
    gone = bench.version()
    assert gone.body is None
    assert gone.cas != cas


def test_a_tombstone_stays_for_its_time_and_may_then_be_forgotten(rows_bench: Bench) -> None:
    cas = rows_bench.stored(Insert(DOC, "1"))
    cas = rows_bench.stored(Remove(DOC, cas))
    rows_bench.stored(Insert(OTHER, "1", ttl=10))
    rows_bench.advance(TOMBSTONES - 1)
    for number in range(5):
        rows_bench.stored(Insert(Key("other", str(number)), "9"))
    assert rows_bench.version() == Version(cas, None)
    assert rows_bench.version(OTHER).body is None
    rows_bench.advance(1)
    assert rows_bench.ask(Read(DOC)) == Missing()
    assert rows_bench.ask(Replace(DOC, cas, "8")) == Mismatch()
    assert rows_bench.version(OTHER).body is None
    rows_bench.advance(10)
    assert rows_bench.ask(Read(OTHER)) == Missing()
    assert rows_bench.ask(Remove(OTHER, 1)) == Mismatch()


def test_a_staged_tombstone_is_evidence_and_never_forgotten(bench: Bench) -> None:
    cas = bench.stored(Insert(DOC, None, STAGE))
    bench.advance(100 * TOMBSTONES)
    for number in range(5):
        bench.stored(Insert(Key("other", str(number)), "9"))
    assert bench.version() == Version(cas, None, STAGE)


def test_records_leave_no_tombstones(bench: Bench) -> None:
    cas = bench.stored(Insert(RECORD, "1"))
    removed = bench.stored(Remove(RECORD, cas))
    assert removed != cas
    assert bench.ask(Read(RECORD)) == Missing()
    cas = bench.stored(Insert(RECORD, "2", ttl=10))
    assert bench.ask(Insert(RECORD, "3")) == Exists()
    bench.advance(10)
    assert bench.ask(Read(RECORD)) == Missing()
    assert bench.ask(Replace(RECORD, cas, "8")) == Mismatch()
    assert bench.ask(Replace(RECORD, cas + 1, "8")) == Mismatch()
    bench.stored(Insert(RECORD, "4"))


def test_a_record_gets_its_time_to_live_later(bench: Bench) -> None:
    cas = bench.stored(Insert(RECORD, "1"))
    bench.advance(10 * TOMBSTONES)
    cas = bench.stored(Replace(RECORD, cas, Body.KEEP, ttl=60))
    bench.advance(59)
    assert bench.version(RECORD).body == "1"
    bench.advance(1)
    assert bench.ask(Read(RECORD)) == Missing()


def test_what_has_expired_stays_expired_when_the_clock_goes_back(rows_bench: Bench) -> None:
    rows_bench.stored(Insert(DOC, "1", ttl=10))
    rows_bench.stored(Insert(RECORD, "1", ttl=10))
    rows_bench.advance(10)
    gone = rows_bench.version()
    assert rows_bench.ask(Read(RECORD)) == Missing()
    rows_bench.advance(-500)
    assert rows_bench.version() == gone
    assert rows_bench.ask(Read(RECORD)) == Missing()
    # A lifetime is counted from a time that does not go back: never shorter than asked for.
    cas = rows_bench.stored(Replace(DOC, gone.cas, "2", ttl=20))
    assert rows_bench.version().expires == START + 30
    rows_bench.advance(510)
    assert rows_bench.version() == Version(cas, "2", None, START + 30)


# --- 8: scanning --------------------------------------------------------------------------------


def scan(bench: Bench) -> list[tuple[Entry, ...]]:
    pages: list[tuple[Entry, ...]] = []
    cursor: str | None = ""
    while cursor is not None:
        reply = bench.ask(Scan(cursor))
        assert isinstance(reply, Page)
        pages.append(reply.entries)
        cursor = reply.next
    return pages


def test_a_scan_of_nothing_is_one_empty_page(rows_bench: Bench) -> None:
    rows_bench.stored(Insert(DOC, "1"))
    rows_bench.stored(Insert(RECORD, "1"))
    assert scan(rows_bench) == [()]


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_a_scan_lists_each_intention_once_over_its_pages(rows_bench: Bench, extra: int) -> None:
    count = 2 * PAGE_ENTRIES + extra
    ids = [f"op-{number:05}" for number in range(count)]
    replies = rows_bench.batch([Insert(Key(INTENTIONS, id), f'"body of {id}"') for id in reversed(ids)])
    cas = {id: reply.cas for id, reply in zip(reversed(ids), replies, strict=True) if isinstance(reply, Stored)}
    pages = scan(rows_bench)
    assert [entry for entries in pages for entry in entries] == [Entry(id, cas[id], f'"body of {id}"') for id in ids]
    sizes = {-1: [PAGE_ENTRIES, PAGE_ENTRIES - 1], 0: [PAGE_ENTRIES] * 2, 1: [PAGE_ENTRIES, PAGE_ENTRIES, 1]}
    assert [len(entries) for entries in pages] == sizes[extra]


def test_a_page_of_large_intentions_is_short(rows_bench: Bench) -> None:
    large = f'"{"x" * 3_000_000}"'
    for number in range(4):
        rows_bench.stored(Insert(Key(INTENTIONS, str(number)), large))
    assert [len(entries) for entries in scan(rows_bench)] == [2, 2]


def test_a_scan_leaves_out_what_is_removed_or_expired(rows_bench: Bench) -> None:
    rows_bench.stored(Insert(Key(INTENTIONS, "a"), "1", ttl=10))
    removed = rows_bench.stored(Insert(Key(INTENTIONS, "b"), "1"))
    kept = rows_bench.stored(Insert(Key(INTENTIONS, "c"), "1"))
    rows_bench.stored(Remove(Key(INTENTIONS, "b"), removed))
    rows_bench.advance(10)
    assert scan(rows_bench) == [(Entry("c", kept, "1"),)]


def test_a_scan_goes_on_where_the_page_ended_though_its_last_entry_is_gone(rows_bench: Bench) -> None:
    replies = rows_bench.batch([Insert(Key(INTENTIONS, f"{number:04}"), "9") for number in range(PAGE_ENTRIES + 5)])
    first = rows_bench.ask(Scan())
    assert isinstance(first, Page)
    assert first.next is not None
    for entry, reply in zip(first.entries, replies, strict=False):
        assert isinstance(reply, Stored)
        rows_bench.stored(Remove(Key(INTENTIONS, entry.id), reply.cas))
    second = rows_bench.ask(Scan(first.next))
    assert isinstance(second, Page)
    assert [entry.id for entry in second.entries] == [
        f"{number:04}" for number in range(PAGE_ENTRIES, PAGE_ENTRIES + 5)
    ]


# --- 9: what a store cannot take -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (Insert(DOC, "\ud800"), "surrogate"),
        (Insert(DOC, "a\0b"), "NUL"),
        (Insert(DOC, "1", Stage("\udfff", None)), "surrogate"),
        (Insert(DOC, "1", Stage("m", "\0")), "NUL"),
        (Insert(Key("accounts", "\0"), "1"), "NUL"),
        (Read(Key("\ud800", "x")), "surrogate"),
        (Remove(Key("accounts", "\ud800"), 1), "surrogate"),
        (Insert(Key("accounts", ""), "1"), "needs"),
        (Insert(Key("", "x"), "1"), "needs"),
        (Scan("\ud800"), "surrogate"),
        (Insert(DOC, "9" * (MAX_BYTES + 1)), "too large"),
        (Insert(DOC, "é" * (MAX_BYTES // 2)), "too large"),  # bytes, not characters
        (Replace(DOC, 1, "9" * MAX_BYTES, Stage("m", "x")), "too large"),
        (Insert(DOC, "9", ttl=MAX_SECONDS + 1), "too long"),
        (Replace(DOC, 1, "9", expires=2**70), "too long"),
    ],
)
def test_what_does_not_fit_is_refused_alone(bench: Bench, request_: StoreRequest, why: str) -> None:
    refused, stored = bench.batch((request_, Insert(OTHER, "1")))
    assert isinstance(refused, Refused)
    assert why in refused.why
    assert isinstance(stored, Stored)
    assert bench.ask(Read(DOC)) == Missing()


@pytest.mark.parametrize("text", ["é", "𝄞", "a'b\"c", "%_", "\n\t\r", " ", "\ufeff", "\u2028", "x" * 300])
def test_texts_come_back_as_they_were(rows_bench: Bench, text: str) -> None:
    key = Key(text, text)
    cas = rows_bench.stored(Insert(key, text, Stage(text, text)))
    assert rows_bench.version(key) == Version(cas, text, Stage(text, text))
    rows_bench.stored(Replace(key, cas, Body.STAGED))
    assert rows_bench.version(key).body == text


def test_a_body_of_a_megabyte(bench: Bench) -> None:
    large = f'"{"é" * 500_000}"'
    cas = bench.stored(Insert(DOC, large, Stage("1", large)))
    assert bench.version() == Version(cas, large, Stage("1", large))


@pytest.mark.parametrize("text", ["é", "𝄞", "a'b\"c`d", "%_", "\n\t\r", " ", "[0].a", "\u2028", "x" * 100])
def test_json_comes_back_as_it_was_whatever_characters_names_and_values_have(bench: Bench, text: str) -> None:
    body = json.dumps(text, ensure_ascii=False)
    key = Key(text, text)
    cas = bench.stored(Insert(key, body, Stage(body, body)))
    assert bench.version(key) == Version(cas, body, Stage(body, body))
    bench.stored(Replace(key, cas, Body.STAGED))
    assert bench.version(key).body == body
    intention = Key(INTENTIONS, text)
    cas = bench.stored(Insert(intention, body))
    assert bench.version(intention) == Version(cas, body)
    assert [entry for entries in scan(bench) for entry in entries] == [Entry(text, cas, body)]
    assert isinstance(bench.ask(Forget(intention)), Stored)


def test_a_version_of_an_intention_is_written_once(bench: Bench) -> None:
    key, other = Key(INTENTIONS, "1"), Key(INTENTIONS, "2")
    first = bench.stored(Insert(key, "1"))
    bench.stored(Insert(other, "1"))
    assert bench.ask(Insert(key, "2")) == Exists()
    second = bench.stored(Replace(key, first, "2"))
    assert bench.ask(Replace(key, first, "3")) == Mismatch()
    assert bench.ask(Remove(key, first)) == Mismatch()
    assert bench.version(key) == Version(second, "2")
    bench.stored(Remove(key, second))
    assert bench.ask(Read(key)) == Missing()
    assert bench.ask(Remove(key, second)) == Mismatch()
    assert bench.ask(Replace(key, second, "3")) == Mismatch()
    assert bench.version(other).body == "1"


def test_a_scan_of_many_intentions_lists_each_once(bench: Bench) -> None:
    ids = [f"op-{number:04}" for number in range(300)]
    replies = bench.batch([Insert(Key(INTENTIONS, id), f'"{id}"') for id in ids])
    expected = {
        Entry(id, reply.cas, f'"{id}"') for id, reply in zip(ids, replies, strict=True) if isinstance(reply, Stored)
    }
    listed = [entry for entries in scan(bench) for entry in entries]
    assert len(listed) == len(ids)
    assert set(listed) == expected
    assert all(isinstance(reply, Stored) for reply in bench.batch([Forget(Key(INTENTIONS, id)) for id in ids]))
    assert [entry for entries in scan(bench) for entry in entries] == []


def test_edits_of_one_batch_that_contradict_each_other_are_told_apart(bench: Bench) -> None:
    ids = [f"op-{number}" for number in range(40)]
    bench.batch([Insert(Key(INTENTIONS, id), "1") for id in ids[::3]])
    replies = bench.batch(
        [*(Insert(Key(INTENTIONS, id), "2") for id in ids), *(Forget(Key(INTENTIONS, f"no-{id}")) for id in ids)]
    )
    kinds = [type(reply) for reply in replies]
    assert kinds == [Exists if index % 3 == 0 else Stored for index in range(40)] + [Missing] * 40


# --- what only a memory store has ----------------------------------------------------------------


def test_a_copy_of_a_memory_store_goes_its_own_way() -> None:
    store = MemoryStore(clock=lambda: START)
    store.perform([Insert(DOC, "1")])
    other = store.copy()
    assert other.state() == store.state()
    assert other.perform([Insert(OTHER, "1")]) == store.perform([Insert(OTHER, "1")])
    assert other.state() == store.state()
    other.perform([Remove(OTHER, 2)])
    assert other.state() != store.state()
    assert store.perform_one(Read(OTHER)) == Version(2, "1")


def test_states_of_memory_are_equal_whatever_the_order_of_writes_to_different_documents() -> None:
    one, two = MemoryStore(clock=lambda: START), MemoryStore(clock=lambda: START)
    one.perform([Insert(DOC, "1", STAGE), Insert(OTHER, "2"), Insert(RECORD, "3")])
    two.perform([Insert(RECORD, "3"), Insert(OTHER, "2"), Insert(DOC, "1", STAGE)])
    assert hash(one.state()) == hash(two.state())
    assert one.state() == two.state()


def test_the_state_of_memory_tells_what_differs() -> None:
    stores = [MemoryStore(clock=lambda: START) for _ in range(6)]
    stores[1].perform([Insert(DOC, "1")])
    stores[2].perform([Insert(DOC, "1", STAGE)])
    stores[3].perform([Insert(DOC, "1", ttl=5)])
    stores[4].perform([Insert(DOC, "1"), Replace(DOC, 2, "1")])
    stores[5].perform([Insert(RECORD, "1"), Remove(RECORD, 2)])  # where the next CAS begins matters
    assert len({store.state() for store in stores}) == 6


def test_no_thread_comes_between_the_looking_and_the_writing_of_a_memory_store(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    held: list[bool] = []

    def look(*arguments: Any, **named: Any) -> Any:
        held.append(not other_thread.submit(store._lock.acquire, blocking=False).result())
        return decide(*arguments, **named)

    monkeypatch.setattr("casops.stores.memory.decide", look)
    with ThreadPoolExecutor(1) as other_thread:
        assert store.perform([Insert(DOC, "1"), Replace(DOC, 2, "2")]) == [Stored(2), Stored(4)]
    assert held == [True, True]


def test_a_memory_store_sweeps_dead_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("casops.stores.memory.SWEEP_FROM", 100)
    clock: list[float] = [START]
    store = MemoryStore(clock=lambda: clock[0])
    for number in range(1000):
        store.perform([Insert(Key(RESULTS, str(number)), "1", ttl=5)])
        clock[0] += 1
    assert sum(map(len, store._rows.values())) <= 100
    assert store.perform([Insert(Key(RESULTS, "0"), "1")]) != [Stored(2)]
