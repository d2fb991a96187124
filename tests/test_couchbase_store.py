"""What only a Couchbase store has: opening it, faults on its way to the server, and limits of the server.

The test double makes the faults, so these tests are about it also where a real cluster is tested.

Must not be in here: what every store owes (tests/test_store_contract.py).
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from importlib import import_module
from operator import attrgetter
from types import SimpleNamespace
from typing import Any

import pytest

from casops.errors import Closed, StoreUnavailable, UsageError
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
    Unknown,
    Version,
)
from casops.stores.couchbase import AsyncCouchbaseStore, CouchbaseStore
from casops.stores.couchbase_calls import usable_sdk
from casops.stores.couchbase_places import SHARDS, Settings, shard_of
from casops.stores.couchbase_sdk import async_cluster, auth, cluster, exceptions, options, subdocument
from casops.stores.opening import open_async_store, open_store
from casops.testing.couchbase_server import CouchbaseServer
from casops.testing.couchbase_server.documents import Documents as ServerDocuments
from tests.couchbase import impatient

DOC = Key("accounts", "alice")
BINARY = import_module("couchbase.transcoder").RawBinaryTranscoder()
STAGE = Stage('{"of":1}', '"staged"')
SCOPES = {"_default": ["casops", "accounts"], "app": ["accounts", "records"]}

# Seconds.  Of one call in these tests: long for a server that answers, short for a test of one that does not.
SHORT = "?timeout=0.5"


@pytest.fixture(scope="module")
def server() -> Iterator[CouchbaseServer]:
    with CouchbaseServer(scopes=SCOPES) as server:
        yield server


@pytest.fixture(autouse=True)
def no_faults(server: CouchbaseServer) -> Iterator[None]:
    yield
    server.faults.clear()
    server.set_replicas("answer")


class Perform:
    """A store behind one of its fronts."""

    def __init__(self, face: str, url: str) -> None:
        self._runner: asyncio.Runner | None = None
        self.store: Any
        if face == "async":
            self._runner = asyncio.Runner()
            self.store = open_async_store(url)
        else:
            self.store = open_store(url)

    def __call__(self, *batch: StoreRequest) -> list[Reply]:
        replies = self.store.perform(batch)
        return replies if self._runner is None else self._runner.run(replies)

    def shut(self) -> None:
        closing = self.store.close()
        if self._runner is not None:
            self._runner.run(closing)

    def close(self) -> None:
        self.shut()
        if self._runner is not None:
            self._runner.close()


@pytest.fixture(params=["sync", "async"])
def opened(request: pytest.FixtureRequest, server: CouchbaseServer) -> Iterator[Callable[..., Perform]]:
    """Opens stores with a prefix of their own and closes them."""
    stores: list[Perform] = []
    prefix = f"{time.monotonic_ns()}-"

    def open_one(**options: str) -> Perform:
        given = {"prefix": prefix, "timeout": "10", **options}
        query = "&".join(f"{name}={value}" for name, value in given.items())
        stores.append(Perform(request.param, f"{server.url}?{query}"))
        if "timeout" not in options:
            if request.param == "async":
                stores[-1](Read(DOC))  # connects
            impatient(stores[-1].store, 0.5)
        return stores[-1]

    yield open_one
    server.faults.clear()
    for store in stores:
        store.close()


# --- opening: each says what happened and what to do, in bounded time -----------------------------


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda url: url.replace(":password@", ":wrong@"), "does not accept this user and password"),
        (lambda url: url.replace("//casops:", "//nobody:"), "does not accept this user and password"),
        (lambda url: url.replace("/default?", "/nowhere?"), "there is no bucket 'nowhere'"),
        (lambda url: f"{url}&records=nowhere", "there is no collection _default.nowhere in couchbase://127.0.0.1"),
        (lambda url: f"{url}&records=nowhere.records", "there is no collection nowhere.records in"),
        (
            lambda url: f"couchbase://u:p@127.0.0.1:1/b{SHORT}",
            "no Couchbase server answered at couchbase://127.0.0.1:1",
        ),
        (lambda _: f"couchbase://u:p@no-such-host.invalid/b{SHORT}", "no Couchbase server answered at"),
        (lambda url: url.replace("couchbase://", "couchbases://"), "no Couchbase server answered at couchbases://"),
    ],
)
@pytest.mark.parametrize("opening", [open_store, open_async_store])
def test_a_store_that_cannot_be_opened(
    server: CouchbaseServer, opening: Callable[[str], Any], change: Callable[[str], str], sentence: str
) -> None:
    patient = server.url + "?timeout=5"
    with pytest.raises(StoreUnavailable) as error:
        opening(change(patient).replace("timeout=5", "timeout=0.5" if "answered" in sentence else "timeout=5"))
    assert sentence in str(error.value)
    assert "password@" not in str(error.value)


def test_a_bucket_with_more_replicas_than_nodes_is_refused_at_open_with_what_to_do() -> None:
    with CouchbaseServer(scopes=SCOPES, replicas=1) as lonely:
        with pytest.raises(StoreUnavailable, match="set the bucket's replicas to 0, or open with durability=none"):
            open_store(lonely.url)
        store = open_store(lonely.url + "?durability=none")
        assert isinstance(store.perform([Insert(DOC, "1")])[0], Stored)
        store.close()


def test_a_replica_that_does_not_answer_is_told_at_open(server: CouchbaseServer) -> None:
    server.set_replicas("silent")
    with pytest.raises(StoreUnavailable, match="did not confirm a durable write: too few replicas"):
        open_store(server.url + "?timeout=2")


def test_what_is_missing_is_created_on_request_by_several_at_once(server: CouchbaseServer) -> None:
    url = server.url + "?scope=fresh&records=kept.records&create=accounts,orders"
    failures: list[BaseException] = []

    def open_and_use(number: int) -> None:
        try:
            store = open_store(url)
            replies = store.perform([Insert(Key("accounts", str(number)), "1"), Insert(Key(RESULTS, str(number)), "1")])
            assert [type(reply) for reply in replies] == [Stored, Stored]
            store.close()
        except BaseException as error:  # noqa: BLE001 - it is raised below
            failures.append(error)

    threads = [threading.Thread(target=open_and_use, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert {"fresh.accounts/0", "kept.records/_casops.results/0"} <= set(server.live_keys)
    open_store(server.url + "?scope=fresh&records=kept.more&collection=all&create=true").close()


def test_records_of_a_newer_casops_are_left_alone(server: CouchbaseServer) -> None:
    url = server.url + "?prefix=newer-"
    open_store(url).close()
    with client(server) as bucket:
        shard = bucket.collection("casops")
        spec = subdocument.upsert("casops", {"v": 2}, xattr=True)
        shard.mutate_in("newer-_casops.intentions/00", (spec,))
    with pytest.raises(StoreUnavailable, match="a newer casops wrote casops of couchbase://"):
        open_store(url)


@contextmanager
def client(server: CouchbaseServer) -> Iterator[Any]:
    """The bucket, as an ordinary client of the SDK has it."""
    login = auth.PasswordAuthenticator(server.user, server.password)
    connection = cluster.Cluster(server.connection_string, options.ClusterOptions(login))
    try:
        yield connection.bucket(server.bucket)
    finally:
        connection.close()


# --- a bucket or scope of the user's own ------------------------------------------------------------


def test_a_ready_bucket_or_scope_is_used_and_stays_open(server: CouchbaseServer) -> None:
    with client(server) as bucket:
        store = CouchbaseStore(bucket.scope("app"), Settings(scope="app", records="records"))
        assert isinstance(store.perform([Insert(Key("accounts", "mine"), "1")])[0], Stored)
        store.close()
        assert bucket.scope("app").collection("accounts").get("mine").value == 1
        other = CouchbaseStore(bucket, Settings(scope="app", records="_default.casops"))
        assert isinstance(other.perform([Read(Key("accounts", "mine"))])[0], Version)
        other.close()
        CouchbaseStore(bucket.scope("_default")).close()
        for settings in (Settings(), Settings(scope="app", records="_default.casops")):
            with pytest.raises(UsageError, match="this is the scope 'app'"):
                CouchbaseStore(bucket.scope("app"), settings)


async def test_a_ready_bucket_of_the_async_api(server: CouchbaseServer) -> None:
    login = auth.PasswordAuthenticator(server.user, server.password)
    connection = async_cluster()(server.connection_string, options.ClusterOptions(login))
    await connection.on_connect()
    bucket = connection.bucket(server.bucket)
    await bucket.on_connect()
    store = AsyncCouchbaseStore(bucket.scope("app"), Settings(scope="app", records="records"))
    assert isinstance((await store.perform([Insert(Key("accounts", "async"), "1")]))[0], Stored)
    await store.close()
    assert (await bucket.scope("app").collection("accounts").get("async")).value == 1
    await connection.close()


# --- where things are ---------------------------------------------------------------------------


def test_documents_are_plain_json_under_their_own_names(
    server: CouchbaseServer, opened: Callable[..., Perform]
) -> None:
    perform = opened(scope="app", prefix="p-", records="_default.casops")
    perform(Insert(DOC, '{"balance": "5"}'), Insert(Key(RESULTS, "op"), "{}"), Insert(Key(INTENTIONS, "op"), "{}"))
    shard = f"p-_casops.intentions/{shard_of('op'):02}"
    written = {"app.accounts/p-alice", "_default.casops/p-_casops.results/op", f"_default.casops/{shard}"}
    assert written <= set(server.live_keys)
    with client(server) as bucket:
        assert bucket.scope("app").collection("accounts").get("p-alice").value == {"balance": "5"}
        assert "op" in bucket.collection("casops").get(shard).value


@pytest.mark.parametrize(
    ("settings", "key", "place"),
    [
        (Settings(), DOC, ("_default", "accounts", "alice")),
        (Settings(scope="app", prefix="p-"), DOC, ("app", "accounts", "p-alice")),
        (Settings(collection="all"), DOC, ("_default", "all", "accounts/alice")),
        (Settings(collection="all"), Key("a/b", "c"), ("_default", "all", "a%2Fb/c")),
        (Settings(collection="all"), Key("a", "b/c"), ("_default", "all", "a/b/c")),
        (Settings(collection="all"), Key("a%2Fb", "c"), ("_default", "all", "a%252Fb/c")),
        (Settings(scope="app"), Key(RESULTS, "op"), ("app", "casops", "_casops.results/op")),
        (Settings(scope="app", records="ops"), Key(RESULTS, "op"), ("app", "ops", "_casops.results/op")),
        (Settings(scope="app", records="o.r", prefix="p-"), Key(RESULTS, "op"), ("o", "r", "p-_casops.results/op")),
    ],
)
def test_the_place_of_a_document(settings: Settings, key: Key, place: tuple[str, str, str]) -> None:
    assert settings.place(key) == place


@pytest.mark.parametrize(
    ("settings", "key", "why"),
    [
        (Settings(), Key("my accounts", "a"), "cannot be the name of a Couchbase collection"),
        (Settings(), Key("_accounts", "a"), "cannot be the name of a Couchbase collection"),
        (Settings(), Key("casops", "a"), "holds results and intentions"),
        (Settings(), Key("accounts", "a" * 247), "247 bytes, 246 are allowed"),
        (Settings(), Key("accounts", "é" * 124), "248 bytes, 246 are allowed"),
        (Settings(collection="all"), Key("accounts", "a" * 238), "247 bytes, 246 are allowed"),
        (Settings(prefix="p-"), Key("accounts", "a" * 245), "247 bytes, 246 are allowed"),
    ],
)
def test_what_has_no_place_is_refused_before_anything_is_sent(
    opened: Callable[..., Perform], settings: Settings, key: Key, why: str
) -> None:
    said = settings.place(key)
    assert isinstance(said, str)
    assert why in said
    if settings == Settings():
        perform = opened(prefix="")
        refused, stored = perform(Insert(key, "1"), Insert(Key("accounts", f"other{time.monotonic_ns()}"), "1"))
        assert refused == Refused(said, lasting=True)
        assert isinstance(stored, Stored)


def test_the_longest_ids_fit_where_they_must() -> None:
    longest = Settings(prefix="p" * 24)
    for id in ("x" * 200, "é" * 100):
        assert not isinstance(longest.place(Key(RESULTS, id)), str)


# --- faults on the way -----------------------------------------------------------------------------

LASTING = ("temporary_failure", "locked", "sync_write_in_progress")
APPLIED = ("drop_reply", "ambiguous", "reset_after")
NOT_APPLIED = ("drop_request", "ambiguous_lost", "reset_before", *LASTING)


def writes(perform: Perform) -> dict[str, tuple[StoreRequest, Callable[[], bool]]]:
    """Each kind of write, and a look whether it was applied."""

    def cas(key: Key) -> int:
        reply = perform(Read(key))[0]
        assert isinstance(reply, Version), reply
        return reply.cas

    def is_there(key: Key) -> bool:
        return isinstance(perform(Read(key))[0], Version)

    def moved(key: Key, base: int) -> Callable[[], bool]:
        return lambda: cas(key) != base

    kept, staged, removed = Key("accounts", "kept"), Key("accounts", "staged"), Key("accounts", "removed")
    record = Key(RESULTS, "kept")
    same_shard = next(str(number) for number in range(1000) if shard_of(str(number)) == shard_of("new"))
    forgotten = Key(INTENTIONS, same_shard)  # else the first call of a declaration finds that the shard is missing
    perform(Insert(kept, "1"), Insert(staged, "1", STAGE), Insert(removed, "1"), Insert(record, "1"))
    perform(Insert(forgotten, "1"))
    bases = {key: cas(key) for key in (kept, staged, removed, record, forgotten)}
    return {
        "insert": (Insert(Key("accounts", "new"), "1"), lambda: is_there(Key("accounts", "new"))),
        "hidden": (Insert(Key("accounts", "hidden"), None, STAGE), lambda: is_there(Key("accounts", "hidden"))),
        "result": (Insert(Key(RESULTS, "new"), "1"), lambda: is_there(Key(RESULTS, "new"))),
        "declare": (Insert(Key(INTENTIONS, "new"), "1"), lambda: is_there(Key(INTENTIONS, "new"))),
        "stage": (Replace(kept, bases[kept], Body.KEEP, STAGE), moved(kept, bases[kept])),
        "settle": (Replace(staged, bases[staged], Body.STAGED), moved(staged, bases[staged])),
        "replace": (Replace(record, bases[record], "2", ttl=60), moved(record, bases[record])),
        "remove": (Remove(removed, bases[removed]), moved(removed, bases[removed])),
        "forget": (Forget(forgotten), lambda: not is_there(forgotten)),
    }


@pytest.mark.parametrize("fault", [*APPLIED, *NOT_APPLIED])
def test_a_fault_leaves_every_kind_of_write_unknown(
    server: CouchbaseServer, opened: Callable[..., Perform], fault: Any
) -> None:
    """Applied or not: the reply is the same, and a look afterwards tells."""
    perform = opened()
    kinds = writes(perform)
    # A reset takes along whatever else is on the connection: those one by one.
    groups = [[name] for name in kinds] if fault.startswith("reset") else [list(kinds)]
    for names in groups:
        server.faults.add(fault, count=None)
        replies = perform(*(kinds[name][0] for name in names))
        server.faults.clear()
        for name, reply in zip(names, replies, strict=True):
            assert isinstance(reply, Unknown), (name, reply)
            assert kinds[name][1]() is (fault in APPLIED), name


@pytest.mark.parametrize("fault", [*APPLIED, *NOT_APPLIED])
def test_a_fault_leaves_a_read_unknown(server: CouchbaseServer, opened: Callable[..., Perform], fault: Any) -> None:
    perform = opened()
    requests = (Read(DOC), Read(Key(RESULTS, "1")), Read(Key(INTENTIONS, "1")), Scan())
    server.faults.add(fault, count=None)
    replies = perform(*requests)
    server.faults.clear()
    for request, reply in zip(requests, replies, strict=True):
        assert isinstance(reply, Unknown), (request, reply)


@pytest.mark.parametrize("fault", LASTING)
def test_a_read_that_the_sdk_retries_is_right(
    server: CouchbaseServer, opened: Callable[..., Perform], fault: Any
) -> None:
    """The SDK (4.6.3) mixed up the parts of a lookup that it had to send twice."""
    perform = opened(timeout="5")
    stored = perform(Insert(DOC, '{"n":1}', STAGE, ttl=1000))[0]
    assert isinstance(stored, Stored)
    before = perform(Read(DOC))
    met = server.faults.add(fault, opcode="SUBDOC_MULTI_LOOKUP")
    assert perform(Read(DOC)) == before
    assert met.hits == 1
    met = server.faults.add(fault, opcode="SUBDOC_MULTI_MUTATION")
    assert isinstance(perform(Replace(DOC, stored.cas, Body.STAGED, Stage("2", "3")))[0], Stored)
    assert met.hits == 1
    (after,) = perform(Read(DOC))
    assert isinstance(after, Version)
    assert (after.body, after.stage) == ('"staged"', Stage("2", "3"))


def test_parts_of_a_lookup_in_another_order_are_not_taken(
    monkeypatch: pytest.MonkeyPatch, server: CouchbaseServer
) -> None:
    store = open_store(server.url)
    key = Key("accounts", f"{time.monotonic_ns()}")
    store.perform([Insert(key, "1")])
    mixed = SimpleNamespace(cas=5, value=[{"path": "", "status": 0, "value": b"1"}] * 6)
    monkeypatch.setattr("casops.stores.couchbase.send", lambda collection, call: mixed)
    (reply,) = store.perform([Read(key)])
    assert isinstance(reply, Unknown)
    assert "another order" in reply.why
    monkeypatch.undo()
    store.close()


def test_other_parts_of_a_batch_are_not_held_up_by_one(server: CouchbaseServer, opened: Callable[..., Perform]) -> None:
    perform = opened()
    server.faults.add("drop_request", key="*broken*")
    keys = [Key("accounts", name) for name in ("a", "broken", "b")]
    kinds = [type(reply) for reply in perform(*(Insert(key, "1") for key in keys))]
    assert kinds == [Stored, Unknown, Stored]


def test_a_server_that_goes_away_and_comes_back(server: CouchbaseServer, opened: Callable[..., Perform]) -> None:
    perform = opened()
    perform(Insert(DOC, "1"))
    server.stop()
    try:
        assert [type(reply) for reply in perform(Read(DOC), Insert(Key("accounts", "b"), "1"))] == [Unknown, Unknown]
    finally:
        server.start()
    assert until(lambda: isinstance(perform(Read(DOC))[0], Version))
    assert until(lambda: isinstance(perform(Insert(Key("accounts", "c"), "1"))[0], Stored | Exists))


def until(condition: Callable[[], bool], tries: int = 30) -> bool:
    """Each try waits for as long as a call takes."""
    return any(condition() for _ in range(tries))


def test_a_write_whose_durability_is_uncertain_is_unknown(
    server: CouchbaseServer, opened: Callable[..., Perform]
) -> None:
    perform = opened()
    server.set_replicas("silent")
    assert isinstance(perform(Insert(DOC, "1"))[0], Unknown)
    server.set_replicas("missing")
    (reply,) = perform(Insert(Key("accounts", "b"), "1"))
    assert isinstance(reply, Refused)
    assert "open with durability=none" in reply.why
    server.set_replicas("answer")
    assert perform(Read(Key("accounts", "b"))) == [Missing()]


def test_durability_is_asked_for_every_write(server: CouchbaseServer, opened: Callable[..., Perform]) -> None:
    for durability, durable in (("majority", True), ("none", False)):
        perform = opened(durability=durability, prefix=f"{time.monotonic_ns()}-")
        perform(*(request for request, _ in writes(perform).values()))
        server.clear_log()
        perform(*(request for request, _ in writes(opened(durability=durability)).values()))
        written = [seen.durable for seen in server.log if not seen.opcode.startswith(("GET", "SUBDOC_MULTI_LOOKUP"))]
        assert written
        assert set(written) == {durable}


def test_a_missing_collection_of_documents_is_told_at_the_first_read(opened: Callable[..., Perform]) -> None:
    perform = opened()
    (reply,) = perform(Read(Key("nowhere", "a")))
    assert isinstance(reply, Refused)
    assert "there is no collection _default.nowhere in the bucket: create it" in reply.why
    (reply,) = opened(records="_default.casops", scope="nowhere")(Insert(Key("a", "a"), "1"))
    assert isinstance(reply, Refused)
    assert "there is no collection" in reply.why


# --- limits of the server ----------------------------------------------------------------------------


def test_a_document_and_its_stage_that_are_too_large_together(opened: Callable[..., Perform]) -> None:
    perform = opened(timeout="5")
    large = f'"{"x" * (11 * 2**20)}"'
    cas = perform(Insert(DOC, large))[0]
    assert isinstance(cas, Stored)
    (reply,) = perform(Replace(DOC, cas.cas, Body.KEEP, Stage("1", large)))
    assert isinstance(reply, Refused)
    assert "20 MiB of body and stage together" in reply.why
    (found,) = perform(Read(DOC))
    assert isinstance(found, Version)
    assert (found.cas, found.stage) == (cas.cas, None)


def test_a_body_that_is_not_json_cannot_be_staged(opened: Callable[..., Perform]) -> None:
    perform = opened()
    stored = perform(Insert(DOC, "1"))[0]
    assert isinstance(stored, Stored)
    for stage in (Stage("not json", "1"), Stage("1", "not json")):
        assert isinstance(perform(Replace(DOC, stored.cas, Body.KEEP, stage))[0], Refused)
    assert isinstance(perform(Insert(Key(INTENTIONS, "a"), "not json"))[0], Refused)
    assert perform(Read(DOC)) == [Version(stored.cas, "1")]


def test_a_shard_of_intentions_that_is_full_says_so(opened: Callable[..., Perform]) -> None:
    perform = opened(timeout="5")
    large = f'"{"x" * (11 * 2**20)}"'
    ids = (f"op-{number}" for number in range(1000))
    first = next(ids)
    second = next(id for id in ids if shard_of(id) == shard_of(first))
    assert isinstance(perform(Insert(Key(INTENTIONS, first), large))[0], Stored)
    (reply,) = perform(Insert(Key(INTENTIONS, second), large))
    assert isinstance(reply, Refused)
    assert "so many pending operations that no more can be declared" in reply.why
    third = next(id for id in ids if shard_of(id) == shard_of(first))
    kinds = [
        type(each) for each in perform(Insert(Key(INTENTIONS, second), large), Insert(Key(INTENTIONS, third), "1"))
    ]
    assert kinds == [Refused, Stored]
    assert isinstance(perform(Forget(Key(INTENTIONS, first)))[0], Stored)


def test_in_a_full_shard_an_intention_can_be_replaced_by_one_of_its_length(
    opened: Callable[..., Perform], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sweeps do so, and they are what makes room."""
    perform = opened(timeout="5")
    key = Key(INTENTIONS, "op")
    monkeypatch.setattr("secrets.randbits", lambda bits: 0)  # the shortest version there is
    (stored,) = perform(Insert(key, '""'))
    assert isinstance(stored, Stored)
    room = 20 * 2**20 - len(f'{{"op":{{"v{stored.cas}":""}}}}')
    (stored,) = perform(Replace(key, stored.cas, f'"{"x" * room}"'))
    assert isinstance(stored, Stored)
    monkeypatch.setattr("secrets.randbits", lambda bits: 2**bits - 1)  # the longest
    assert isinstance(perform(Replace(key, stored.cas, f'"{"y" * (room + 1)}"'))[0], Refused)
    assert isinstance(perform(Replace(key, stored.cas, f'"{"y" * room}"'))[0], Stored)


@pytest.mark.parametrize("seconds", [30 * 86_400 - 1, 30 * 86_400, 400 * 86_400])
def test_a_lifetime_is_counted_by_the_clock_of_the_server(seconds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ahead = 5_000_000  # seconds: this machine's clock is wrong by two months
    with CouchbaseServer(scopes=SCOPES, clock=lambda: 1_800_000_000.0) as server:
        monkeypatch.setattr("time.time", lambda: 1_800_000_000.0 + ahead)
        store = open_store(server.url)
        key = Key(RESULTS, "op")
        stored = store.perform([Insert(key, "1", ttl=seconds)])[0]
        assert isinstance(stored, Stored)
        replaced = store.perform([Replace(key, stored.cas, "2", ttl=seconds)])[0]
        assert isinstance(replaced, Stored)
        with client(server) as bucket:
            found = bucket.collection("casops").get("_casops.results/op", options.GetOptions(with_expiry=True))
            assert 0 <= found.expiryTime.timestamp() - 1_800_000_000 - seconds <= 2
        store.close()


def test_an_expiry_is_given_back_to_the_second_as_often_as_one_likes(opened: Callable[..., Perform]) -> None:
    perform = opened()
    ends = int(time.time()) + 3000
    stored = perform(Insert(DOC, "1"))[0]
    for _ in range(20):
        assert isinstance(stored, Stored)
        stored = perform(Replace(DOC, stored.cas, Body.KEEP, expires=ends))[0]
    (found,) = perform(Read(DOC))
    assert isinstance(found, Version)
    assert found.expires == ends
    assert isinstance(perform(Replace(DOC, found.cas, Body.KEEP, expires=2**32))[0], Refused)
    assert isinstance(perform(Replace(DOC, found.cas, Body.KEEP, expires=5))[0], Stored)
    (gone,) = perform(Read(DOC))
    assert isinstance(gone, Version)
    assert gone.body is None


def test_a_body_that_is_nested_too_deep_cannot_be_staged(opened: Callable[..., Perform]) -> None:
    perform = opened()
    stored = perform(Insert(DOC, "1"))[0]
    assert isinstance(stored, Stored)
    refused, fits = ('{"a":' * depth + "1" + "}" * depth for depth in (40, 25))
    (reply,) = perform(Replace(DOC, stored.cas, Body.KEEP, Stage("1", refused)))
    assert isinstance(reply, Refused)
    assert reply.lasting
    assert "nested deeper than 29 levels" in reply.why
    assert isinstance(perform(Replace(DOC, stored.cas, Body.KEEP, Stage("1", fits)))[0], Stored)


# --- intentions --------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [{"foo": {}}, {"": {}}, 5, {"v1": {}, "x": 1}, None])
def test_intentions_that_another_program_has_damaged_are_told(
    server: CouchbaseServer, opened: Callable[..., Perform], damage: Any
) -> None:
    prefix = f"{time.monotonic_ns()}-"
    perform = opened(prefix=prefix)
    assert isinstance(perform(Insert(Key(INTENTIONS, "i"), "{}"))[0], Stored)
    shard = f"{prefix}_casops.intentions/{shard_of('i'):02}"
    with client(server) as bucket:
        bucket.collection("casops").mutate_in(shard, (subdocument.upsert("i", damage),))
    (reply,), (page,) = perform(Read(Key(INTENTIONS, "i"))), perform(Scan(f"{shard_of('i')}"))
    whole = damage == {"v1": {}, "x": 1}  # the first counts
    assert isinstance(page, Page)  # of others: theirs must go on
    assert len(page.entries) == whole
    if whole:
        assert isinstance(reply, Version)
    else:
        assert isinstance(reply, Refused)
        assert f"{shard} were changed by another program" in reply.why
    with client(server) as bucket:
        bucket.collection("casops").upsert(shard, [1])
    assert isinstance(perform(Scan(f"{shard_of('i')}"))[0], Refused)


def test_edits_of_a_batch_go_out_in_one_call_per_shard(server: CouchbaseServer, opened: Callable[..., Perform]) -> None:
    perform = opened()
    ids = [f"op-{number}" for number in range(64)]
    perform(*(Insert(Key(INTENTIONS, id), "1") for id in ids))
    server.clear_log()
    assert all(isinstance(reply, Stored) for reply in perform(*(Forget(Key(INTENTIONS, id)) for id in ids)))
    assert len(server.log) <= SHARDS


def test_concurrent_edits_wait_for_one_another_and_go_out_together(server: CouchbaseServer) -> None:
    store = open_store(f"{server.url}?prefix={time.monotonic_ns()}-")
    keys = [Key(INTENTIONS, f"op-{number}") for number in range(200)]
    store.perform([Insert(Key(INTENTIONS, f"first-{number}"), "1") for number in range(100)])  # the shards are there
    server.faults.add("delay_reply", opcode="SUBDOC_MULTI_MUTATION", count=None, delay=0.02)
    server.clear_log()
    replies: list[Reply] = []

    def declare(several: Sequence[Key]) -> None:
        for key in several:
            replies.extend(store.perform([Insert(key, "1")]))

    threads = [threading.Thread(target=declare, args=(keys[start::50],)) for start in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [type(reply) for reply in replies] == [Stored] * len(keys)
    assert len(server.log) < len(keys)
    store.close()


def test_a_scan_reads_each_shard_once_however_much_is_in_it(
    server: CouchbaseServer, opened: Callable[..., Perform]
) -> None:
    perform = opened()
    ids = [f"op-{number}" for number in range(90)]
    ids += [id for id in (f"more-{number}" for number in range(16_000)) if shard_of(id) == 3][:600]
    replies = perform(*(Insert(Key(INTENTIONS, id), "1") for id in ids))
    declared = [Entry(id, reply.cas, "1") for id, reply in zip(ids, replies, strict=True) if isinstance(reply, Stored)]
    server.clear_log()
    seen: list[Entry] = []
    at: str | None = ""
    while at is not None:
        (page,) = perform(Scan(at))
        assert isinstance(page, Page)
        seen += page.entries
        at = page.next
    assert len(server.log) == SHARDS
    assert sorted(seen, key=attrgetter("id")) == sorted(declared, key=attrgetter("id"))
    assert len(seen) == len(ids)


def test_what_a_scan_has_listed_may_go_before_it_goes_on(opened: Callable[..., Perform]) -> None:
    perform = opened()
    ids = {f"op-{number}" for number in range(90)}
    perform(*(Insert(Key(INTENTIONS, id), "1") for id in ids))
    seen: list[str] = []
    at: str | None = ""
    while at is not None:
        (page,) = perform(Scan(at))
        assert isinstance(page, Page)
        seen += [entry.id for entry in page.entries]
        perform(*(Forget(Key(INTENTIONS, entry.id)) for entry in page.entries))
        at = page.next
    assert sorted(seen) == sorted(ids)


@pytest.mark.parametrize("cursor", ["16", "-1", "x", "op-1", "3:op-9", "٣"])
def test_a_cursor_that_no_page_gave_is_refused(opened: Callable[..., Perform], cursor: str) -> None:
    assert isinstance(opened()(Scan(cursor))[0], Refused)


# --- interruption, closing, forking ------------------------------------------------------------------


async def test_a_cancelled_call_goes_on_and_close_waits_for_it(server: CouchbaseServer) -> None:
    prefix = f"{time.monotonic_ns()}-"
    store = open_async_store(f"{server.url}?prefix={prefix}")
    assert (await store.perform([Read(DOC)])) == [Missing()]
    met = server.faults.add("delay_request", key=f"{prefix}*", delay=0.2)
    call = asyncio.create_task(store.perform([Insert(DOC, "1")]))
    while not met.hits:
        await asyncio.sleep(0.001)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await store.close()
    again = open_store(f"{server.url}?prefix={prefix}")
    assert isinstance(again.perform([Read(DOC)])[0], Version)
    again.close()


async def test_a_closing_that_is_cancelled_goes_on_and_who_closes_again_waits_for_it(server: CouchbaseServer) -> None:
    """The connection stayed open, and nobody could close it any more."""
    store = open_async_store(f"{server.url}?prefix={time.monotonic_ns()}-")
    assert isinstance(store, AsyncCouchbaseStore)
    assert (await store.perform([Read(DOC)])) == [Missing()]
    close, ended = store._close, list[str]()
    closes, go_on = asyncio.Event(), asyncio.Event()
    assert close is not None

    async def slow() -> None:
        closes.set()
        await go_on.wait()
        await close()
        ended.append("closed")

    store._close = slow
    async with asyncio.timeout(30):
        closing = asyncio.create_task(store.close())
        await closes.wait()
        closing.cancel()
        await asyncio.wait([closing])
        again = [asyncio.create_task(store.close()) for _ in range(2)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not any(each.done() for each in again)
        go_on.set()
        await asyncio.gather(*again)
        assert ended == ["closed"]
        await store.close()


def test_a_closed_store_says_so(opened: Callable[..., Perform]) -> None:
    perform = opened()
    perform.shut()
    perform.shut()
    with pytest.raises(UsageError, match="closed"):
        perform(Read(DOC))


def test_a_store_that_was_open_at_a_fork_is_not_used(server: CouchbaseServer, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(server.url)
    pid = os.getpid()
    with monkeypatch.context() as child:
        child.setattr("os.getpid", lambda: pid + 1)
        with pytest.raises(UsageError, match="before a fork"):
            store.perform([Read(DOC)])
        store.close()  # does nothing there
    assert isinstance(store.perform([Read(DOC)])[0], Missing | Version)
    store.close()


# --- other programs ------------------------------------------------------------------------------------


def staged(perform: Perform, expires: int | None = None) -> int:
    stored = perform(Insert(DOC, '{"n":1}', STAGE))[0]
    assert isinstance(stored, Stored)
    return stored.cas


@pytest.mark.parametrize(
    "change",
    [
        lambda collection, key: collection.replace(key, {"n": 2}),
        lambda collection, key: collection.upsert(key, {"n": 1}),
        lambda collection, key: collection.touch(key, timedelta(seconds=300)),
    ],
    ids=["replace", "upsert", "touch"],
)
def test_a_staged_document_that_another_program_wrote_is_reported(
    server: CouchbaseServer, opened: Callable[..., Perform], change: Callable[[Any, str], Any]
) -> None:
    prefix = f"{time.monotonic_ns()}-"
    perform = opened(prefix=prefix)
    cas = staged(perform)
    (before,) = perform(Read(DOC))
    assert isinstance(before, Version)
    assert before.stage == STAGE
    with client(server) as bucket:
        change(bucket.collection("accounts"), f"{prefix}alice")
    (after,) = perform(Read(DOC))
    assert isinstance(after, Version)
    assert after.stage is not None
    assert after.stage.broken is not None
    assert "another program wrote this document" in after.stage.broken
    assert perform(Replace(DOC, cas, Body.STAGED)) == [Mismatch()]
    perform(Replace(DOC, after.cas, Body.KEEP, after.stage))  # as a fence does
    (moved,) = perform(Read(DOC))
    assert isinstance(moved, Version)
    assert moved.cas != after.cas
    assert moved.stage == after.stage


def test_what_other_programs_see_of_a_stage(server: CouchbaseServer, opened: Callable[..., Perform]) -> None:
    prefix = f"{time.monotonic_ns()}-"
    perform = opened(prefix=prefix)
    staged(perform)
    perform(Insert(Key("accounts", "hidden"), None, STAGE))
    with client(server) as bucket:
        collection = bucket.collection("accounts")
        assert collection.get(f"{prefix}alice").value == {"n": 1}
        assert not collection.exists(f"{prefix}hidden").exists
        with pytest.raises(exceptions.DocumentNotFoundException):
            collection.get(f"{prefix}hidden")


@pytest.mark.parametrize("body", [b"not json", b"\xff\xfe", b"", json.dumps("\udcff").encode()])
def test_a_foreign_document_that_is_not_json_is_read_kept_and_staged_as_it_is(
    server: CouchbaseServer, opened: Callable[..., Perform], body: bytes
) -> None:
    prefix = f"{time.monotonic_ns()}-"
    perform = opened(prefix=prefix)
    with client(server) as bucket:
        collection = bucket.collection("accounts")
        binary = options.UpsertOptions(transcoder=BINARY)
        collection.upsert(f"{prefix}alice", body, binary)
        (found,) = perform(Read(DOC))
        assert isinstance(found, Version)
        assert found.body == body.decode("utf-8", "surrogateescape")
        stored = perform(Replace(DOC, found.cas, Body.KEEP, STAGE))[0]
        assert isinstance(stored, Stored)
        assert isinstance(perform(Replace(DOC, stored.cas, Body.KEEP))[0], Stored)
        assert collection.get(f"{prefix}alice", options.GetOptions(transcoder=BINARY)).value == body


def test_a_record_that_somebody_has_locked_is_not_taken_for_a_version(
    server: CouchbaseServer, opened: Callable[..., Perform]
) -> None:
    prefix = f"{time.monotonic_ns()}-"
    perform = opened(prefix=prefix)
    key = Key(RESULTS, "op")
    perform(Insert(key, "1"))
    with client(server) as bucket:
        collection = bucket.collection("casops")
        locked = collection.get_and_lock(f"{prefix}_casops.results/op", timedelta(seconds=15))
        (reply,) = perform(Read(key))
        assert isinstance(reply, Unknown)
        assert "locked by another program" in reply.why
        collection.unlock(f"{prefix}_casops.results/op", locked.cas)
    assert isinstance(perform(Read(key))[0], Version)


async def test_a_connection_that_cannot_be_made_after_opening_is_tried_again_at_the_next_request(
    server: CouchbaseServer,
) -> None:
    store = open_async_store(f"{server.url}?timeout=2&prefix={time.monotonic_ns()}-")
    server.stop()
    try:
        refused, unfit = await store.perform([Read(DOC), Read(Key("", ""))])
        assert isinstance(refused, Refused)
        assert "no Couchbase server answered at" in refused.why
        assert unfit == Refused("a document needs a collection and an id", lasting=True)
    finally:
        server.start()
    assert await store.perform([Read(DOC)]) == [Missing()]
    await store.close()


async def test_all_who_wait_for_a_connection_share_one_attempt(server: CouchbaseServer) -> None:
    """Each made one of its own, one after the other: a hundred callers waited for minutes, and so did closing."""
    store = open_async_store(f"{server.url}?timeout=1&prefix={time.monotonic_ns()}-")
    assert isinstance(store, AsyncCouchbaseStore)
    assert store._connect is not None
    attempts, connect = 0, store._connect

    async def counted() -> Any:
        nonlocal attempts
        attempts += 1
        return await connect()

    store._connect = counted
    server.stop()
    try:
        calls = [asyncio.create_task(store.perform([Read(DOC)])) for _ in range(20)]
        await asyncio.sleep(0.01)
        calls[0].cancel()
        replies = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(replies[0], asyncio.CancelledError)
        assert all(isinstance(each, list) and isinstance(each[0], Refused) for each in replies[1:])
        assert attempts == 1
    finally:
        server.start()
    assert await asyncio.gather(*(store.perform([Read(DOC)]) for _ in range(5))) == [[Missing()]] * 5
    assert attempts == 2
    await store.close()


async def test_who_comes_when_the_connection_was_made_just_now_makes_no_other() -> None:
    opened: list[int] = []

    async def connect() -> Any:
        opened.append(len(opened))
        await asyncio.sleep(0)
        where = SimpleNamespace(default_scope=None)

        async def close() -> None:
            pass

        return where, close

    store = AsyncCouchbaseStore(None, connect=connect)
    calls: list[asyncio.Task[Any]] = []
    for _ in range(20):
        calls.append(asyncio.create_task(store._connected()))
        await asyncio.sleep(0)
    await asyncio.gather(*calls)
    assert opened == [0]


def test_a_connection_is_of_the_event_loop_that_it_was_made_in(server: CouchbaseServer) -> None:
    store = open_async_store(f"{server.url}?prefix={time.monotonic_ns()}-")

    async def ask() -> list[Reply]:
        async with asyncio.timeout(30):
            return await store.perform([Read(DOC)])

    async def both() -> None:
        await ask()
        with pytest.raises(UsageError, match="another event loop"):
            await asyncio.to_thread(asyncio.run, ask())

    for _ in range(2):
        assert asyncio.run(ask()) == [Missing()]
    asyncio.run(both())
    asyncio.run(store.close())
    with pytest.raises(Closed):
        asyncio.run(ask())


async def test_a_bucket_of_ones_own_is_of_one_event_loop(server: CouchbaseServer) -> None:
    store = AsyncCouchbaseStore(SimpleNamespace(default_scope=None))
    store._loop = asyncio.new_event_loop()
    store._loop.close()
    with pytest.raises(UsageError, match="another event loop"):
        await store.perform([Read(DOC)])


def test_a_maximum_time_to_live_of_the_records_is_told_at_open(
    server: CouchbaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server then lets every record expire: operations happened twice, and answered ones were undone."""
    put = ServerDocuments._put

    def with_maximum(self: Any, key: Any, version: Any) -> Any:
        if not version.deleted and b"ttl-" in key[1]:
            version = version._replace(expiry=int(time.time()) + 3600)
        return put(self, key, version)

    monkeypatch.setattr(ServerDocuments, "_put", with_maximum)
    with pytest.raises(StoreUnavailable, match="maximum time to live"):
        open_store(server.url + "?prefix=ttl-")
    open_store(server.url + "?prefix=other-").close()


def test_a_version_of_the_sdk_that_is_built_otherwise_is_told_at_open(
    server: CouchbaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("casops.stores.couchbase_opening.usable_sdk", lambda _: False)
    with pytest.raises(StoreUnavailable, match="this version of the Couchbase SDK is not known"):
        open_store(server.url)
    assert usable_sdk(object()) is False


def test_a_certificate_that_is_not_there_is_told(server: CouchbaseServer) -> None:
    with pytest.raises(StoreUnavailable, match=r"the certificate /nope.pem cannot be read: No such file"):
        open_store("couchbases://u:p@127.0.0.1/default?certificate=/nope.pem")


@pytest.mark.parametrize("face", ["sync", "async"])
def test_three_nodes_serve_a_batch_together(face: str) -> None:
    with CouchbaseServer(scopes=SCOPES, nodes=3, replicas=1) as three:
        perform = Perform(face, three.url)
        keys = [Key("accounts", f"a{number}") for number in range(30)]
        assert all(isinstance(reply, Stored) for reply in perform(*(Insert(key, "1") for key in keys)))
        three.clear_log()
        found = perform(*(Read(key) for key in keys))
        assert all(isinstance(reply, Version) for reply in found)
        assert {seen.node for seen in three.log} == {0, 1, 2}
        perform.close()
