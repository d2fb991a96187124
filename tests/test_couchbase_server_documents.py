"""The documents of the test double by themselves: CAS numbers, expiry nobody looks at, and taking writes back."""

from __future__ import annotations

import pytest

from casops.testing.couchbase_server import documents as module
from casops.testing.couchbase_server.documents import MIB, Documents, Version, too_big, vbucket_of

KEY = (0, b"k")


class Clock:
    def __init__(self) -> None:
        self.now = 1_900_000_000.0

    def __call__(self) -> float:
        return self.now


def put(documents: Documents, name: bytes, durable: bool = False, expiry: int = 0) -> int:
    return documents.store((0, name), Version(documents.next_cas(), b"1", expiry=expiry), durable).cas


def test_a_cas_is_new_whatever_the_clock_does() -> None:
    clock = Clock()
    documents = Documents(4, clock)
    given = [documents.next_cas() for _ in range(100)]
    clock.now -= 1_000
    given += [documents.next_cas() for _ in range(100)]
    clock.now += 2_000
    given += [documents.next_cas() for _ in range(100)]
    assert given == sorted(set(given))


def test_what_expires_is_noticed_also_where_nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a long run would keep every result that ever had a time to live."""
    monkeypatch.setattr(module, "SWEEP_EVERY", 10)
    clock = Clock()
    documents = Documents(4, clock, purge_after=5)
    put(documents, b"short", expiry=int(clock.now) + 1)
    put(documents, b"long", expiry=int(clock.now) + 100)
    clock.now += 2
    for number in range(10):
        put(documents, b"%d" % number)
    assert documents._versions[0, b"short"].deleted
    assert not documents._versions[0, b"long"].deleted
    clock.now += 6
    for number in range(10):
        put(documents, b"%d" % number)
    assert (0, b"short") not in documents._versions


def test_writes_that_can_be_taken_back_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "UNDOABLE", 3)
    documents = Documents(4)
    for number in range(5):
        put(documents, b"%d" % number)
    assert documents.lose(100) == 3
    assert [name for _, name in documents.live_keys()] == [b"0", b"1"]


def test_what_is_kept_of_them_is_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The writes of two collections, one of which is dropped in between; the first of each key replaced nothing."""
    monkeypatch.setattr(module, "UNDOABLE_BYTES", 100)
    documents = Documents(4)

    def write(key: module.Key, times: int) -> None:
        for _ in range(times):
            version = Version(documents.next_cas(), b"x" * 15, attributes={"a": "12345"})
            documents.store(key, version)

    write(KEY, 20)
    assert len(documents._undo) == 5
    write((1, b"k"), 3)
    assert len(documents._undo) == 6  # one of which costs nothing
    documents.drop_collection(0)
    write((1, b"k"), 2)
    assert len(documents._undo) == 5
    assert documents.lose(100) == 5
    write((1, b"k"), 20)
    assert documents.lose(100) == 5


def test_an_expiry_is_no_write_that_could_be_lost() -> None:
    clock = Clock()
    documents = Documents(4, clock)
    put(documents, b"a", expiry=int(clock.now) + 1)
    put(documents, b"b")
    clock.now += 2
    assert documents.live((0, b"a")) is None
    assert documents.lose(1) == 1
    assert documents.live_keys() == []
    assert documents.find((0, b"a")) is not None


def test_losing_writes_makes_a_new_history_only_if_there_were_any() -> None:
    documents = Documents(4)
    before = documents.history
    put(documents, b"a", durable=True)
    assert documents.lose(5) == 0
    assert documents.history == before
    put(documents, b"a")
    assert documents.lose(5) == 1
    assert documents.history == before + 1


def test_a_dropped_collection_does_not_come_back_with_lost_writes() -> None:
    documents = Documents(4)
    documents.store((8, b"k"), Version(documents.next_cas(), b"1"))
    documents.store((8, b"k"), Version(documents.next_cas(), b"2"))
    documents.drop_collection(8)
    assert documents.lose(5) == 0
    assert documents.live_keys() == []


def test_a_write_ends_the_lock() -> None:
    documents = Documents(4)
    put(documents, b"k")
    lock = documents.lock(KEY, 10)
    assert documents.locked(KEY) == lock
    put(documents, b"k")
    assert documents.locked(KEY) == 0


def test_sizes() -> None:
    assert not too_big(b"x" * (20 * MIB), {})
    assert too_big(b"x" * (20 * MIB), {"a": "1"})
    assert not too_big(b"x" * (20 * MIB), {"_a": "1"})
    assert too_big(b"", {"_a": "x" * MIB})


def test_vbuckets_are_those_clients_compute() -> None:
    """CRC-32 without its sign, upper half: as in every client's documentation."""
    assert [vbucket_of(key, 1024) for key in (b"", b"foo", b"hello")] == [0, 115, 528]


def test_a_relative_expiry_is_never_over_too_early() -> None:
    clock = Clock()
    clock.now += 0.99
    assert Documents(4, clock).absolute(1) >= clock.now + 1
