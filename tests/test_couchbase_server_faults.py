"""Every kind of fault, as the SDK sees it, and what the documents are afterwards; stopping and starting."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import couchbase.subdocument as sd
import pytest
from couchbase import options as opt
from couchbase.durability import Durability, ServerDurability
from couchbase.exceptions import (
    AmbiguousTimeoutException,
    CASMismatchException,
    CouchbaseException,
    DocumentLockedException,
    DocumentNotFoundException,
    DurabilityImpossibleException,
    DurabilitySyncWriteAmbiguousException,
    TemporaryFailException,
    UnAmbiguousTimeoutException,
)

from casops.testing import CouchbaseServer
from casops.testing.couchbase_server.face import Kind
from tests.couchbase_sdk import BRIEF, collection, connected, connected_async, seconds

MAJORITY: dict[str, Any] = {"durability": ServerDurability(Durability.MAJORITY)}


@pytest.fixture
def server() -> Iterator[CouchbaseServer]:
    with CouchbaseServer() as server:
        yield server


@pytest.fixture
def col(server: CouchbaseServer) -> Iterator[Any]:
    with connected(server) as cluster:
        yield collection(cluster)


# Fault, how often, what the SDK makes of it, whether the write happened.
ENDINGS: list[tuple[Kind, int | None, type[Exception] | None, bool]] = [
    ("drop_request", 1, AmbiguousTimeoutException, False),
    ("drop_reply", 1, AmbiguousTimeoutException, True),
    ("delay_request", 1, None, True),
    ("delay_reply", 1, None, True),
    ("temporary_failure", 1, None, True),
    ("temporary_failure", None, TemporaryFailException, False),
    ("locked", 1, None, True),
    ("locked", None, DocumentLockedException, False),
    ("sync_write_in_progress", 1, None, True),
    ("sync_write_in_progress", None, AmbiguousTimeoutException, False),
    ("ambiguous", 1, DurabilitySyncWriteAmbiguousException, True),
    ("ambiguous_lost", 1, DurabilitySyncWriteAmbiguousException, False),
    ("reset_before", 1, CouchbaseException, False),
    ("reset_after", 1, CouchbaseException, True),
]


@pytest.mark.parametrize(("does", "count", "error", "applied"), ENDINGS)
def test_a_fault_of_a_write(
    server: CouchbaseServer, col: Any, does: Kind, count: int | None, error: type[Exception] | None, applied: bool
) -> None:
    cas = col.insert("k", 0).cas
    fault = server.faults.add(does, opcode="REPLACE", count=count, delay=0.02)

    def write() -> None:
        col.replace("k", 1, opt.ReplaceOptions(cas=cas, **BRIEF))

    if error is None:
        write()
    else:
        with pytest.raises(error):
            write()
    assert fault.hits >= 1
    assert count is None or fault.hits == count
    server.faults.clear()
    assert col.get("k").value == (1 if applied else 0)
    col.upsert("other", 1)  # the connection works, or another one does


@pytest.mark.parametrize(("does", "count", "error", "applied"), ENDINGS)
async def test_a_fault_of_a_write_through_the_async_sdk(
    server: CouchbaseServer, does: Kind, count: int | None, error: type[Exception] | None, applied: bool
) -> None:
    async with connected_async(server) as cluster:
        col = collection(cluster)
        await col.insert("k", {"v": 0})
        server.faults.add(does, opcode="SUBDOC_MULTI_MUTATION", key="k", count=count, delay=0.02)
        write = col.mutate_in("k", [sd.insert("stage", 1, xattr=True)], opt.MutateInOptions(**BRIEF))
        if error is None:
            await write
        else:
            with pytest.raises(error):
                await write
        server.faults.clear()
        found = await col.lookup_in("k", [sd.exists("stage", xattr=True)])
        assert found.exists(0) is applied


def test_a_fault_of_a_read(server: CouchbaseServer, col: Any) -> None:
    col.insert("k", 0)
    server.faults.add("drop_reply", opcode="GET")
    with pytest.raises(UnAmbiguousTimeoutException):
        col.get("k", opt.GetOptions(**BRIEF))
    assert col.get("k").value == 0


def test_a_delayed_request_lands_after_later_ones(server: CouchbaseServer, col: Any) -> None:
    """The caller has given up; its write is applied all the same."""
    cas = col.insert("k", 0).cas
    server.faults.add("delay_request", opcode="SET", delay=0.4)
    with pytest.raises(AmbiguousTimeoutException):
        col.upsert("k", "late", opt.UpsertOptions(timeout=seconds(0.1)))
    assert col.replace("k", 1, opt.ReplaceOptions(cas=cas)).cas > cas
    for _ in range(500):
        if col.get("k").value == "late":
            return
        threading.Event().wait(0.01)
    raise AssertionError("it never landed")


def test_a_delayed_reply_was_applied_at_once(server: CouchbaseServer, col: Any) -> None:
    server.faults.add("delay_reply", opcode="SET", delay=30)
    with pytest.raises(AmbiguousTimeoutException):
        col.upsert("k", 1, opt.UpsertOptions(**BRIEF))
    assert col.get("k").value == 1


def test_which_requests_are_met(server: CouchbaseServer, col: Any) -> None:
    """By opcode, by key, after some have passed, as often as asked."""
    fault = server.faults.add("ambiguous_lost", opcode="S?T", key="a*", skip=1, count=2)
    outcomes = ""
    for key in ("b", "a1", "a2", "b", "a3", "a4"):
        try:
            col.upsert(key, 1)
            outcomes += "."
        except DurabilitySyncWriteAmbiguousException:
            outcomes += "x"
    assert outcomes == "..x.x."
    assert fault.hits == 2


def test_one_fault_of_several_and_its_removal(server: CouchbaseServer, col: Any) -> None:
    first = server.faults.add("ambiguous_lost", count=None)
    second = server.faults.add("ambiguous", count=None)
    with pytest.raises(DurabilitySyncWriteAmbiguousException):
        col.upsert("k", 1)
    assert (first.hits, second.hits) == (1, 0)
    first.remove()
    with pytest.raises(DurabilitySyncWriteAmbiguousException):
        col.upsert("k", 1)
    assert (first.hits, second.hits) == (1, 1)
    assert server.live_keys == ["_default._default/k"]


def test_a_probability_comes_from_the_seed() -> None:
    def met(seed: int) -> str:
        with CouchbaseServer(seed=seed) as server, connected(server) as cluster:
            col = collection(cluster)
            server.faults.add("ambiguous", opcode="SET", count=None, probability=0.5)
            return "".join("x" if _ambiguous(lambda: col.upsert("k", 1)) else "." for _ in range(40))

    assert met(1) == met(1)
    assert met(1) != met(2)
    assert 8 < met(1).count("x") < 32


def _ambiguous(call: Callable[[], Any]) -> bool:
    try:
        call()
    except DurabilitySyncWriteAmbiguousException:
        return True
    return False


def test_faults_of_other_requests_must_be_named(server: CouchbaseServer) -> None:
    server.faults.add("temporary_failure", count=None)
    with connected(server):
        pass
    server.faults.clear()
    fault = server.faults.add("reset_before", opcode="SASL_AUTH", count=1)
    with connected(server) as cluster:
        collection(cluster).upsert("k", 1)
    assert fault.hits == 1


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"does": "explode"}, "explode"),
        ({"does": "drop_reply", "opcode": "GOT"}, "no opcode is called 'GOT'"),
        ({"does": "drop_reply", "count": 0}, "count"),
        ({"does": "drop_reply", "skip": -1}, "skip"),
        ({"does": "drop_reply", "probability": 0.0}, "probability"),
        ({"does": "drop_reply", "probability": 1.5}, "probability"),
        ({"does": "delay_reply", "delay": -1}, "delay"),
        ({"does": "delay_reply", "delay": 1e9}, "delay"),
    ],
)
def test_faults_that_cannot_be(server: CouchbaseServer, wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        server.faults.add(**wrong)


# ---- states of the whole service


def test_no_traffic(server: CouchbaseServer, col: Any) -> None:
    col.insert("k", 1)
    server.set_traffic(False)
    with pytest.raises(TemporaryFailException):
        col.upsert("k", 2, opt.UpsertOptions(**BRIEF))
    assert col.get("k").value == 1
    server.set_traffic(True)
    col.upsert("k", 2)


def test_missing_replicas(server: CouchbaseServer, col: Any) -> None:
    server.set_replicas("missing")
    with pytest.raises(DurabilityImpossibleException):
        col.insert("k", 1, opt.InsertOptions(**MAJORITY))
    assert server.live_keys == []


def test_silent_replicas_that_answer_in_time(server: CouchbaseServer, col: Any) -> None:
    server.set_replicas("silent")
    done: list[Any] = []
    writer = threading.Thread(target=lambda: done.append(col.insert("k", 1, opt.InsertOptions(**MAJORITY))))
    writer.start()
    while not server.counters.get("ADD"):
        threading.Event().wait(0.005)
    with pytest.raises(DocumentNotFoundException):
        col.get("k")
    with pytest.raises(AmbiguousTimeoutException):
        col.upsert("k", 2, opt.UpsertOptions(**BRIEF))
    server.set_replicas("answer")
    writer.join()
    assert col.get("k").cas == done[0].cas


def test_silent_replicas_and_a_server_that_stops(server: CouchbaseServer, col: Any) -> None:
    """What was never acknowledged is gone."""
    server.set_replicas("silent")
    with pytest.raises(CouchbaseException):
        col.insert("k", 1, opt.InsertOptions(**MAJORITY, timeout=seconds(1)))
    server.stop()
    server.set_replicas("answer")
    server.start()
    assert server.live_keys == []


# ---- stopping and starting


def test_stopping_and_starting_keeps_documents_and_ports(server: CouchbaseServer, col: Any) -> None:
    col.insert("k", 1)
    ports = server.ports
    server.stop()
    with pytest.raises(CouchbaseException):
        col.get("k", opt.GetOptions(**BRIEF))
    assert server.start() == 0
    assert server.ports == ports
    assert col.get("k", opt.GetOptions(timeout=seconds(10))).value == 1
    with pytest.raises(ValueError, match="running"):
        server.start()
    server.stop()
    server.stop()
    with pytest.raises(ValueError, match="lose"):
        server.start(lose=-1)


def test_a_server_that_goes_away_under_an_async_call(server: CouchbaseServer) -> None:
    async def story() -> None:
        async with connected_async(server) as cluster:
            col = collection(cluster)
            await col.upsert("k", 1)
            server.faults.add("delay_request", opcode="SET", delay=30)
            write = asyncio.ensure_future(col.upsert("k", 2, opt.UpsertOptions(timeout=seconds(1))))
            while server.counters["SET"].requests < 2:
                await asyncio.sleep(0.005)
            server.stop()
            with pytest.raises(CouchbaseException):
                await write
            server.start()
            assert (await col.get("k", opt.GetOptions(timeout=seconds(10)))).value == 1

    asyncio.run(story())


def test_losing_the_last_writes(server: CouchbaseServer, col: Any) -> None:
    kept = col.insert("k", 1).cas
    col.insert("other", 1)
    col.replace("k", 2)
    col.remove("other")
    lost = col.upsert("new", 1).cas
    server.stop()
    assert server.start(lose=3) == 3
    assert server.live_keys == ["_default._default/k", "_default._default/other"]
    found = col.get("k", opt.GetOptions(timeout=seconds(10)))
    assert (found.value, found.cas) == (1, kept)
    assert col.upsert("new", 1).cas > lost  # no CAS is given twice
    assert col.replace("k", 3, opt.ReplaceOptions(cas=kept)).cas > lost


def test_durable_writes_are_not_lost_nor_what_came_before_them(server: CouchbaseServer, col: Any) -> None:
    col.insert("k", 1)
    col.insert("unsafe", 1)
    durable = col.replace("k", 2, opt.ReplaceOptions(**MAJORITY)).cas
    later = col.replace("k", 3).cas
    server.stop()
    assert server.start(lose=100) == 2
    assert server.live_keys == ["_default._default/k"]
    assert col.get("k", opt.GetOptions(timeout=seconds(10))).cas == durable
    with pytest.raises(CASMismatchException):
        col.replace("k", 4, opt.ReplaceOptions(cas=later))


def test_what_survived_a_loss_is_safe(server: CouchbaseServer, col: Any) -> None:
    col.insert("k", 1)
    server.stop()
    server.start()
    server.stop()
    assert server.start(lose=1) == 0
    assert server.live_keys == ["_default._default/k"]


def test_stopping_ends_connections_that_came_at_the_last_moment(server: CouchbaseServer) -> None:
    for _ in range(50):
        with socket.create_connection(("127.0.0.1", server.ports[0]), 10) as it:
            server.stop()
            with contextlib.suppress(ConnectionResetError):
                assert it.recv(1) == b""
        server.start()


async def test_nothing_acknowledged_is_lost_and_nothing_happens_twice_under_all_faults_at_once() -> None:
    """Several clients count one document up by CAS; what they heard bounds what is there in the end."""
    kinds: list[Kind] = ["drop_request", "drop_reply", "delay_request", "delay_reply", "temporary_failure", "ambiguous",
                         "ambiguous_lost", "reset_before", "reset_after", "sync_write_in_progress"]  # fmt: skip
    acknowledged = unknown = 0
    with CouchbaseServer(nodes=2, seed=5) as server:
        async with connected_async(server) as cluster:
            col = collection(cluster)
            await col.insert("n", 0)
            for does in kinds:
                server.faults.add(does, opcode="REPLACE", count=None, probability=0.04, delay=0.02)

            async def count_up() -> None:
                nonlocal acknowledged, unknown
                for _ in range(25):
                    found = await col.get("n", opt.GetOptions(timeout=seconds(10)))
                    try:
                        await col.replace("n", found.value + 1, opt.ReplaceOptions(cas=found.cas, **BRIEF))
                        acknowledged += 1
                    except CASMismatchException:
                        pass
                    except CouchbaseException:
                        unknown += 1

            await asyncio.gather(*(count_up() for _ in range(4)))
            server.faults.clear()
            total = (await col.get("n", opt.GetOptions(timeout=seconds(10)))).value
    assert acknowledged > 10
    assert unknown > 5
    assert acknowledged <= total <= acknowledged + unknown
