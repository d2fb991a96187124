"""The official SDK, sync and async, on the test double: logging in, nodes, collections, transactions."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import couchbase.subdocument as sd
import pytest
from couchbase import options as opt
from couchbase.durability import Durability, ServerDurability
from couchbase.exceptions import (
    AuthenticationException,
    BucketNotFoundException,
    CASMismatchException,
    CollectionAlreadyExistsException,
    CollectionNotFoundException,
    CouchbaseException,
    DocumentExistsException,
    DocumentNotFoundException,
    DurabilityImpossibleException,
    ScopeAlreadyExistsException,
    ScopeNotFoundException,
    TransactionFailed,
)
from couchbase.transcoder import RawBinaryTranscoder

from casops.testing import CouchbaseServer
from tests.couchbase_sdk import BRIEF, collection, connected, connected_async, seconds

MAJORITY: dict[str, Any] = {"durability": ServerDurability(Durability.MAJORITY)}


@pytest.fixture
def server() -> Iterator[CouchbaseServer]:
    with CouchbaseServer(scopes={"app": ["c0"]}) as server:
        yield server


def test_a_document_through_the_sync_sdk(server: CouchbaseServer) -> None:
    with connected(server) as cluster:
        col = collection(cluster, "app", "c0")
        first = col.insert("k", {"v": 1}).cas
        with pytest.raises(DocumentExistsException):
            col.insert("k", {"v": 2})
        second = col.replace("k", {"v": 2}, opt.ReplaceOptions(cas=first)).cas
        assert second > first
        with pytest.raises(CASMismatchException):
            col.replace("k", {"v": 3}, opt.ReplaceOptions(cas=first))
        col.mutate_in("k", [sd.upsert("stage", {"b": 1}, xattr=True)], opt.MutateInOptions(cas=second))
        found = col.lookup_in("k", [sd.get_full(), sd.get("stage.b", xattr=True)])
        assert (found.content_as[dict](0), found.content_as[int](1)) == ({"v": 2}, 1)
        col.remove("k")
        with pytest.raises(DocumentNotFoundException):
            col.get("k")
    assert server.live_keys == []


async def test_a_document_through_the_async_sdk(server: CouchbaseServer) -> None:
    async with connected_async(server) as cluster:
        col = collection(cluster, "app", "c0")
        first = (await col.insert("k", {"v": 1})).cas
        with pytest.raises(CASMismatchException):
            await col.replace("k", {"v": 3}, opt.ReplaceOptions(cas=first + 1))
        await asyncio.gather(*(col.insert(f"k{n}", {"n": n}) for n in range(100)))
        read = await asyncio.gather(*(col.get(f"k{n}") for n in range(100)))
        assert [each.content_as[dict]["n"] for each in read] == list(range(100))
        await col.mutate_in("k", [sd.insert("stage", 1, xattr=True)])
        assert (await col.lookup_in("k", [sd.get("stage", xattr=True)])).content_as[int](0) == 1
    assert len(server.live_keys) == 101


@pytest.mark.parametrize("nodes", [1, 2, 3])
def test_documents_live_on_different_nodes(nodes: int) -> None:
    with CouchbaseServer(nodes=nodes) as server, connected(server) as cluster:
        assert len(set(server.ports)) == nodes
        col = collection(cluster)
        col.insert_multi({f"k{n}": n for n in range(60)})
        found = col.get_multi([f"k{n}" for n in range(60)])
        assert {key: result.value for key, result in found.results.items()} == {f"k{n}": n for n in range(60)}
        by_node = [sum(seen.node == node for seen in server.log) for node in range(nodes)]
    assert sum(by_node) == 120
    assert min(by_node) > 120 // nodes // 2


@pytest.mark.parametrize("nodes", [1, 3])
async def test_nodes_through_the_async_sdk(nodes: int) -> None:
    with CouchbaseServer(nodes=nodes) as server:
        async with connected_async(server) as cluster:
            col = collection(cluster)
            await asyncio.gather(*(col.upsert(f"k{n}", n) for n in range(60)))
        assert {seen.node for seen in server.log} == set(range(nodes))


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA1", "SCRAM-SHA256", "SCRAM-SHA512"])
def test_logging_in(server: CouchbaseServer, mechanism: str) -> None:
    with connected(server, allowed_sasl_mechanisms=[mechanism]) as cluster:
        collection(cluster).upsert("k", 1)
    steps = server.counters["SASL_STEP"].requests if "SASL_STEP" in server.counters else 0
    assert (steps > 0) == (mechanism != "PLAIN")


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA1", "SCRAM-SHA256", "SCRAM-SHA512"])
@pytest.mark.parametrize("wrong", [{"user": "nobody"}, {"password": "wrong"}])
def test_who_is_refused(server: CouchbaseServer, mechanism: str, wrong: dict[str, str]) -> None:
    with pytest.raises(AuthenticationException), connected(server, allowed_sasl_mechanisms=[mechanism], **wrong) as bad:
        collection(bad).get("k", opt.GetOptions(**BRIEF))


def test_any_user_and_password() -> None:
    with CouchbaseServer(user="us=e,r: x@y", password="p@ss/wörd %") as server, connected(server) as cluster:
        collection(cluster).upsert("k", 1)
        assert server.url.startswith("couchbase://us%3De%2Cr%3A%20x%40y:p%40ss%2Fw%C3%B6rd%20%25@127.0.0.1:")


def test_an_unknown_bucket(server: CouchbaseServer) -> None:
    with connected(server) as cluster, pytest.raises(BucketNotFoundException):
        cluster.bucket("nosuch").default_collection().get("k", opt.GetOptions(**BRIEF))


async def test_refusals_through_the_async_sdk(server: CouchbaseServer) -> None:
    with pytest.raises(AuthenticationException):
        async with connected_async(server, password="wrong"):
            pass
    async with connected_async(server) as cluster:
        bucket = cluster.bucket("nosuch")
        with pytest.raises(BucketNotFoundException):
            await bucket.on_connect()


def test_an_unknown_collection_and_one_that_is_made_later(server: CouchbaseServer) -> None:
    with connected(server) as cluster:
        with pytest.raises(CouchbaseException):
            collection(cluster, "app", "later").get("k", opt.GetOptions(**BRIEF))
        with pytest.raises(ScopeNotFoundException):
            collection(cluster, "nosuch", "c").get("k", opt.GetOptions(**BRIEF))
        server.add_collection("app", "later")
        server.add_collection("new", "c")
        for scope, name in (("app", "later"), ("new", "c")):
            collection(cluster, scope, name).upsert("k", 1)
    assert server.live_keys == ["app.later/k", "new.c/k"]


def test_scopes_and_collections_by_the_sdks_manager(server: CouchbaseServer) -> None:
    with connected(server) as cluster:
        manager = cluster.bucket("default").collections()
        manager.create_scope("shop")
        manager.create_collection("shop", "orders")
        with pytest.raises(ScopeAlreadyExistsException):
            manager.create_scope("shop")
        with pytest.raises(CollectionAlreadyExistsException):
            manager.create_collection("shop", "orders")
        with pytest.raises(ScopeNotFoundException):
            manager.create_collection("nosuch", "orders")
        scopes = {each.name: [c.name for c in each.collections] for each in manager.get_all_scopes()}
        assert scopes == {"_default": ["_default"], "app": ["c0"], "shop": ["orders"]}
        collection(cluster, "shop", "orders").upsert("k", 1)
        manager.drop_collection("shop", "orders")
        with pytest.raises(CollectionNotFoundException):
            manager.drop_collection("shop", "orders")
        assert server.live_keys == []
        manager.drop_scope("shop")
        with pytest.raises(ScopeNotFoundException):
            manager.drop_scope("shop")


def test_ids_of_dropped_collections_are_not_used_again(server: CouchbaseServer) -> None:
    with connected(server) as cluster:
        manager = cluster.bucket("default").collections()
        collection(cluster, "app", "c0").upsert("k", 1)
        manager.drop_collection("app", "c0")
        manager.create_collection("app", "c0")
        with pytest.raises(DocumentNotFoundException):
            collection(cluster, "app", "c0").get("k")


def test_durable_writes_need_a_majority() -> None:
    for nodes, replicas, possible in ((1, 0, True), (1, 1, False), (2, 1, True), (2, 2, True), (1, 2, False)):
        with CouchbaseServer(nodes=nodes, replicas=replicas) as server, connected(server) as cluster:
            col = collection(cluster)
            if possible:
                col.upsert("k", 1, opt.UpsertOptions(**MAJORITY))
                assert [seen.durable for seen in server.log] == [True]
            else:
                with pytest.raises(DurabilityImpossibleException):
                    col.upsert("k", 1, opt.UpsertOptions(**MAJORITY))
            col.upsert("k", 2)


def test_a_clock_of_ones_own_decides_about_expiry() -> None:
    now = [2_000_000_000.0]
    with CouchbaseServer(clock=lambda: now[0], purge_after=50) as server, connected(server) as cluster:
        col = collection(cluster)
        first = col.insert("k", 1, opt.InsertOptions(expiry=seconds(10))).cas
        now[0] += 9.5
        assert col.get("k", opt.GetOptions(with_expiry=True)).expiryTime.timestamp() == 2_000_000_010
        now[0] += 1
        with pytest.raises(DocumentNotFoundException):
            col.get("k")
        deleted = sd.get("$document.deleted", xattr=True)
        seen = col.lookup_in("k", [deleted], opt.LookupInOptions(access_deleted=True))
        assert seen.content_as[bool](0)
        now[0] -= 1_000_000  # a clock that goes back never gives a CAS again
        assert first < seen.cas < col.insert("other", 1).cas
        now[0] += 1_000_100
        with pytest.raises(DocumentNotFoundException):
            col.lookup_in("k", [deleted], opt.LookupInOptions(access_deleted=True))


@pytest.mark.parametrize("nodes", [1, 3])
def test_transactions_of_the_sdk_move_money(nodes: int) -> None:
    with CouchbaseServer(nodes=nodes, scopes={"app": ["c0"]}) as server, connected(server) as cluster:
        col = collection(cluster, "app", "c0")
        for name in ("alice", "bob"):
            col.insert(name, {"balance": 100})

        def move(attempt: Any) -> None:
            alice, bob = attempt.get(col, "alice"), attempt.get(col, "bob")
            attempt.replace(alice, {"balance": alice.content_as[dict]["balance"] - 30})
            attempt.replace(bob, {"balance": bob.content_as[dict]["balance"] + 30})

        cluster.transactions.run(move)
        cluster.transactions.run(move)
        balances = {name: col.get(name).content_as[dict]["balance"] for name in ("alice", "bob")}
        assert balances == {"alice": 40, "bob": 160}

        def fail(attempt: Any) -> None:
            move(attempt)
            raise ValueError("no")

        with pytest.raises(CouchbaseException):
            cluster.transactions.run(fail)

        def insert_and_remove(attempt: Any) -> None:
            attempt.insert(col, "carol", {"balance": 1})
            attempt.remove(attempt.get(col, "alice"))

        cluster.transactions.run(insert_and_remove)
        left = [key for key in server.live_keys if key.startswith("app.")]
        assert left == ["app.c0/bob", "app.c0/carol"]
        assert col.get("bob").content_as[dict] == {"balance": 160}


async def test_transactions_of_the_async_sdk_move_money() -> None:
    with CouchbaseServer() as server:
        async with connected_async(server) as cluster:
            col = collection(cluster)
            await asyncio.gather(*(col.insert(name, {"balance": 100}) for name in ("alice", "bob")))

            async def move(attempt: Any) -> None:
                alice, bob = await attempt.get(col, "alice"), await attempt.get(col, "bob")
                await attempt.replace(alice, {"balance": alice.content_as[dict]["balance"] - 30})
                await attempt.replace(bob, {"balance": bob.content_as[dict]["balance"] + 30})

            await cluster.transactions.run(move)
            found = [(await col.get(name)).content_as[dict]["balance"] for name in ("alice", "bob")]
    assert found == [70, 130]


def test_transactions_at_once_lose_nothing() -> None:
    """This SDK does not begin a transaction again whose document was changed before it was staged: we do."""
    with CouchbaseServer() as server, connected(server) as cluster:
        col = collection(cluster)
        col.insert("n", {"n": 0})

        def add(attempt: Any) -> None:
            found = attempt.get(col, "n")
            attempt.replace(found, {"n": found.content_as[dict]["n"] + 1})

        def add_once(_: int) -> None:
            for _ in range(100):
                try:
                    cluster.transactions.run(add)
                    return
                except TransactionFailed:
                    continue
            raise AssertionError("100 conflicts one after the other")

        with ThreadPoolExecutor(3) as pool:
            list(pool.map(add_once, range(12)))
        assert col.get("n").content_as[dict] == {"n": 12}


def test_counters_and_appending(server: CouchbaseServer) -> None:
    with connected(server) as cluster:
        col = collection(cluster)
        binary = col.binary()
        up = opt.IncrementOptions(initial=opt.SignedInt64(5), delta=opt.DeltaValue(3))
        assert [binary.increment("n", up).content for _ in range(3)] == [5, 8, 11]
        assert binary.decrement("n", opt.DecrementOptions(delta=opt.DeltaValue(100))).content == 0
        col.upsert("b", b"b", opt.UpsertOptions(transcoder=RawBinaryTranscoder()))
        binary.append("b", b"c")
        binary.prepend("b", b"a")
        assert col.get("b", opt.GetOptions(transcoder=RawBinaryTranscoder())).value == b"abc"


def test_what_cannot_be_asked_for() -> None:
    wrongs: list[dict[str, Any]] = [{"nodes": 0}, {"nodes": 4}, {"replicas": -1}, {"scopes": {"bad name": []}}]
    for wrong in [*wrongs, {"scopes": {"a": ["!"]}}]:
        with pytest.raises(ValueError, match=r"node|replica|name"):
            CouchbaseServer(**wrong)
    with CouchbaseServer() as server, pytest.raises(OSError, match="address already in use"):
        CouchbaseServer(port=server.ports[0])
