"""Operations on Couchbase: round trips, faults at every request, other programs, errors as callers see them.

The test double counts and makes the faults.

Must not be in here: what the fronts do on every store (tests/test_fronts.py).
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from decimal import Decimal
from importlib import import_module
from typing import Any

import pytest

from casops import (
    AsyncCasOps,
    CasOps,
    CasOpsError,
    Document,
    Documents,
    InvalidDocument,
    InvariantViolation,
    Operation,
    Options,
    Ref,
    UsageError,
)
from casops.drivers import drive
from casops.protocol.execution import Execution
from casops.stores.couchbase_places import shard_of
from casops.stores.couchbase_sdk import auth, cluster, options, subdocument
from casops.stores.opening import open_store
from casops.testing.couchbase_server import CouchbaseServer
from tests.bank import Account, Close, Open, Receipt, Transfer
from tests.conftest import Face
from tests.couchbase import impatient

# A retention below 30 days, for which no clock has to be read.
QUICK = Options(patience=0.05, poll=0.001, grace=0.0, retention=29 * 86_400)
ALICE, BOB = Account.ref("alice"), Account.ref("bob")
BINARY: Any = import_module("couchbase.transcoder").RawBinaryTranscoder()
TRANSFER = Transfer(source="alice", target="bob", amount=30)


@pytest.fixture(scope="module")
def server() -> Iterator[CouchbaseServer]:
    with CouchbaseServer(scopes={"_default": ["casops", "accounts", "tests"]}) as server:
        yield server


@pytest.fixture(autouse=True)
def no_faults(server: CouchbaseServer) -> Iterator[None]:
    yield
    server.faults.clear()


@pytest.fixture(params=["sync", "async"])
def face(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def prefix() -> str:
    return f"{time.monotonic_ns()}-"


@asynccontextmanager
async def on(
    server: CouchbaseServer, face: str, prefix: str, *, timeout: float = 10.0, collection: str = "", **more: Any
) -> AsyncIterator[Any]:
    """A front behind a face of coroutines."""
    url = f"{server.url}?prefix={prefix}&timeout=10" + (f"&collection={collection}" if collection else "")
    front: Any = (CasOps if face == "sync" else AsyncCasOps).open(url, options=QUICK, **more)
    if face == "async":
        await front.outcome("connects")
    impatient(front._store, timeout)
    try:
        yield Face(front)
    finally:
        closing = front.close()
        if inspect.isawaitable(closing):
            await closing


async def two_accounts(casops: Any) -> None:
    await casops.run(Open(account="alice", balance=100), operation_id="open-alice")
    await casops.run(Open(account="bob"), operation_id="open-bob")


# --- round trips ----------------------------------------------------------------------------------


class AddOne(Operation[int]):
    accounts: list[Ref[Account]]

    def apply(self, documents: Documents) -> int:
        for account in self.accounts:
            documents[account].balance += 1
        return len(self.accounts)


def id_in_shard_of(other: str) -> str:
    return next(id for id in (f"op-{number}" for number in range(1000)) if shard_of(id) == shard_of(other))


@pytest.mark.parametrize("count", [1, 2, 16])
async def test_two_steps_to_the_answer_however_many_documents(
    server: CouchbaseServer, face: str, prefix: str, count: int
) -> None:
    ids = [f"a{number}" for number in range(count)]
    async with on(server, face, prefix) as casops:  # settles all of it
        for id in ids:
            await casops.run(Open(account=id, balance=1), operation_id=f"open-{id}")
    async with on(server, face, prefix) as casops:
        await casops.outcome("nothing")  # connects
        operation_id = id_in_shard_of("open-a0")  # a shard that is there: the first use of one takes two steps more
        with server.steps() as steps:
            assert await casops.run(AddOne(accounts=ids), operation_id=operation_id) == count
            steps.settle()
            asked = steps.requests[:2]
            assert steps.count == 2
        first, second = ([seen.opcode for seen in step] for step in asked)
        assert sorted(first) == sorted(["GET", "SUBDOC_MULTI_MUTATION", *["SUBDOC_MULTI_LOOKUP"] * count])
        assert sorted(second) == sorted(["ADD", *["SUBDOC_MULTI_MUTATION"] * count])


async def test_all_that_a_transfer_asks_of_the_server(server: CouchbaseServer, face: str, prefix: str) -> None:
    """A rise in these numbers is a loss of speed that no noise hides."""
    async with on(server, face, prefix) as casops:
        await two_accounts(casops)
    async with on(server, face, prefix) as casops:
        await casops.outcome("nothing")
        server.clear_log()
        await casops.run(TRANSFER, operation_id=id_in_shard_of("open-bob"))
    asked = [seen.opcode for seen in server.log]
    counted = {opcode: asked.count(opcode) for opcode in sorted(set(asked))}
    assert counted == {
        "ADD": 1,  # R proposed
        "GET": 1,  # R
        "REPLACE": 2,  # R committed, R settled
        "SUBDOC_MULTI_LOOKUP": 2,  # documents
        "SUBDOC_MULTI_MUTATION": 6,  # declared, 2 staged, 2 settled, forgotten
    }


async def test_a_replay_asks_twice_and_writes_nothing_that_stays(
    server: CouchbaseServer, face: str, prefix: str
) -> None:
    async with on(server, face, prefix) as casops:
        await two_accounts(casops)
        await casops.run(TRANSFER, operation_id="t")
    async with on(server, face, prefix) as casops:
        keys = set(server.live_keys)
        assert await casops.run(TRANSFER, operation_id="t") == Receipt(left=Decimal(70))
    assert set(server.live_keys) == keys


# --- faults at every request --------------------------------------------------------------------------

# A transfer with its settling makes 12 requests; a retry and a sweep some more.
REQUESTS = 16


async def asked_until_answered(casops: Any, operation: Any, operation_id: str) -> Any:
    """As a caller does who was told to ask again."""
    for _ in range(40):
        try:
            return await casops.run(operation, operation_id=operation_id)
        except CasOpsError as error:
            if not error.retry:
                raise
    raise AssertionError("no answer")


@pytest.mark.parametrize("fault", ["drop_request", "drop_reply", "ambiguous", "ambiguous_lost"])
async def test_a_transfer_happens_once_whichever_of_its_requests_meets_a_fault(
    server: CouchbaseServer, face: str, prefix: str, fault: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """All positions at once, each with a prefix of its own."""
    caplog.set_level(logging.ERROR, "casops")

    async def one(position: int) -> None:
        own = f"{prefix}{position}-"
        async with on(server, face, own, timeout=1, operations=[Transfer]) as casops:
            await two_accounts(casops)
        async with on(server, face, own, timeout=1, operations=[Transfer]) as casops:
            met = server.faults.add(fault, key=f"{own}*", skip=position)
            assert await asked_until_answered(casops, TRANSFER, "t") == Receipt(left=Decimal(70))
        met.remove()
        await check_books(server, own)

    await together([one] * REQUESTS)


async def together(works: list[Callable[[int], Any]]) -> None:
    """Each in a thread of its own with a loop of its own, since the sync front blocks."""
    await asyncio.gather(*(asyncio.to_thread(asyncio.run, work(number)) for number, work in enumerate(works)))


@pytest.mark.parametrize("fault", ["reset_before", "reset_after"])
async def test_a_transfer_happens_once_whichever_of_its_requests_meets_a_reset(
    server: CouchbaseServer, face: str, prefix: str, fault: Any
) -> None:
    for position in range(REQUESTS):
        own = f"{prefix}{position}-"
        async with on(server, face, own, operations=[Transfer]) as casops:
            await two_accounts(casops)
            met = server.faults.add(fault, key=f"{own}*", skip=position)
            assert await asked_until_answered(casops, TRANSFER, "t") == Receipt(left=Decimal(70))
        met.remove()
        await check_books(server, own)


async def check_books(server: CouchbaseServer, prefix: str) -> None:
    """One fresh worker finishes what is left; then the money is where it belongs and nothing is pending."""
    async with on(server, "sync", prefix, operations=[Open, Transfer]) as casops:
        await casops.recover()
        assert (await casops.read(ALICE)).balance == 70
        assert (await casops.read(BOB)).balance == 30
        assert await casops.pending() == []
        assert await casops.run(TRANSFER, operation_id="t") == Receipt(left=Decimal(70))
    with bucket_of(server) as bucket:
        for name in ("alice", "bob"):
            assert "casops" not in attributes(bucket, f"{prefix}{name}")


def attributes(bucket: Any, key: str) -> list[str]:
    found = bucket.collection("accounts").lookup_in(key, (subdocument.get("$XTOC", xattr=True),))
    return list(found.content_as[list](0))


class bucket_of:  # noqa: N801 - used like a function
    """The bucket, as an ordinary client of the SDK has it."""

    def __init__(self, server: CouchbaseServer) -> None:
        login = auth.PasswordAuthenticator(server.user, server.password)
        self._connection = cluster.Cluster(server.connection_string, options.ClusterOptions(login))
        self._bucket = self._connection.bucket(server.bucket)

    def __enter__(self) -> Any:
        return self._bucket

    def __exit__(self, *_: object) -> None:
        self._connection.close()


async def test_a_server_that_goes_away_in_the_middle_and_comes_back(
    server: CouchbaseServer, face: str, prefix: str
) -> None:
    async with on(server, face, prefix, timeout=0.5, operations=[Transfer]) as casops:
        await two_accounts(casops)
        away = threading.Timer(0.05, failover, [server])
        away.start()
        for number in range(60):
            transfer = Transfer(source="alice", target="bob", amount=1)
            await asked_until_answered(casops, transfer, f"t{number}")
        away.join()
    async with on(server, face, prefix, operations=[Open, Transfer]) as casops:
        await casops.recover()
        assert (await casops.read(ALICE)).balance == 40
        assert (await casops.read(BOB)).balance == 60
        assert await casops.pending() == []


def failover(server: CouchbaseServer) -> None:
    server.stop()
    time.sleep(0.2)
    server.start(lose=5)


async def test_a_store_that_is_away_is_an_error_of_ours_in_bounded_time(
    server: CouchbaseServer, face: str, prefix: str
) -> None:
    patient = Options(deadline=1.0)
    url = f"{server.url}?prefix={prefix}"
    front: Any = (CasOps if face == "sync" else AsyncCasOps).open(url, options=patient)
    casops = Face(front)
    await asked_until_answered(casops, Open(account="alice", balance=100), "open-alice")
    impatient(front._store, 0.3)
    server.stop()
    try:
        for call in (casops.run(TRANSFER, operation_id="t"), casops.read(ALICE), casops.pending()):
            with pytest.raises(CasOpsError) as error:
                await call
            assert error.value.retry
            assert "in time" in str(error.value) or "within" in str(error.value)
    finally:
        server.start()
    closing = front.close()
    if inspect.isawaitable(closing):
        await closing


# --- limits --------------------------------------------------------------------------------------------


async def test_a_document_over_20_mb_and_a_key_over_246_bytes(server: CouchbaseServer, face: str, prefix: str) -> None:
    async with on(server, face, prefix) as casops:
        await two_accounts(casops)
        with pytest.raises(UsageError, match=r"too large.*; nothing happened") as error:
            await casops.run(Note(account="alice", note="x" * (21 * 2**20)), operation_id="large")
        assert (error.value.happened, error.value.retry, error.value.operation_id) == (False, False, "large")
        assert await casops.pending() == []
        assert (await casops.read(ALICE)).note is None
        assert await casops.run(TRANSFER, operation_id="t") == Receipt(left=Decimal(70))
        # A document is staged beside itself, so that about half of what the server takes is the limit.
        await casops.run(Note(account="alice", note="x" * (11 * 2**20)), operation_id="large-2")
        with pytest.raises(UsageError, match="20 MiB of body and stage together"):
            await casops.run(TRANSFER, operation_id="u")
        assert (await casops.read(BOB)).balance == 30
    async with on(server, face, prefix, collection="tests") as casops:
        with pytest.raises(UsageError, match=r"the key is too long for Couchbase.*; nothing was changed"):
            await casops.read(Far.ref("x" * 200))
        with pytest.raises(UsageError, match=r"the key is too long for Couchbase.*; nothing happened"):
            await casops.run(GoFar(to="x" * 200), operation_id="far")
        assert await casops.pending() == []
    long = f"{prefix}{'p' * 20}"[:24]
    with pytest.raises(UsageError, match="200 bytes of UTF-8 at most"):
        Account.ref("x" * 201)
    async with on(server, face, long) as casops:
        for id in ("x" * 200, "é" * 100):
            await casops.run(Open(account=id), operation_id=id)
            assert (await casops.read(Account.ref(id))).balance == 0


class Far(Document, collection="accounts-with-a-name-that-is-rather-long"):
    pass


class GoFar(Operation[None]):
    to: Ref[Far]

    def apply(self, documents: Documents) -> None:
        documents.create(self.to, Far())


class Note(Operation[None]):
    account: Ref[Account]
    note: str

    def apply(self, documents: Documents) -> None:
        documents[self.account].note = self.note


# --- other programs ------------------------------------------------------------------------------------


async def test_other_programs_read_plain_json_before_during_and_after(
    server: CouchbaseServer, face: str, prefix: str
) -> None:
    async with on(server, face, prefix) as casops:
        await two_accounts(casops)
    with bucket_of(server) as bucket:
        collection = bucket.collection("accounts")
        committed_but_not_settled(server, prefix, "t")
        assert collection.get(f"{prefix}alice").value["balance"] == "100"  # until it is settled
        async with on(server, face, prefix) as casops:
            assert (await casops.read(ALICE)).balance == 70
            await casops.recover()
        assert collection.get(f"{prefix}alice").value["balance"] == "70"
        assert attributes(bucket, f"{prefix}alice") == []
        # Fields that the model does not know are theirs, and are kept.
        collection.upsert(f"{prefix}alice", {"balance": "70", "colour": "red"})
        async with on(server, face, prefix) as casops:
            await casops.run(Transfer(source="alice", target="bob", amount=1), operation_id="u")
        assert collection.get(f"{prefix}alice").value == {"balance": "69", "note": None, "colour": "red"}


def committed_but_not_settled(server: CouchbaseServer, prefix: str, operation_id: str) -> None:
    """A worker that died right after its answer."""
    front = CasOps.open(f"{server.url}?prefix={prefix}", options=QUICK)
    store = open_store(f"{server.url}?prefix={prefix}")
    work = front._engine.work(TRANSFER, operation_id)
    drive(Execution(front._engine.environment(), operation_id, work).run(), store)
    store.close()
    front.close()


async def test_a_client_that_overwrites_a_staged_document_is_told_loudly_and_nothing_is_lost(
    server: CouchbaseServer, face: str, prefix: str
) -> None:
    async with on(server, face, prefix) as casops:
        await two_accounts(casops)
    committed_but_not_settled(server, prefix, "t")
    with bucket_of(server) as bucket:
        collection = bucket.collection("accounts")
        collection.upsert(f"{prefix}alice", {"balance": "1000"})
        async with on(server, face, prefix, operations=[Open, Transfer]) as casops:
            with pytest.raises(InvariantViolation, match="another program wrote this document"):
                await casops.read(ALICE)
            with pytest.raises(InvariantViolation, match="another program wrote this document"):
                await casops.run(Close(account="alice"), operation_id="close")
            assert (await casops.cancel("close")).status == "cancelled"  # else it would happen later
            recovery = await casops.recover()
            assert any("another program wrote" in left.note for left in recovery.left)
            assert {(left.operation_id, left.state) for left in recovery.left} == {("t", "ended")}
            # What was answered stays answered, and the other document has its part of it.
            assert await casops.run(TRANSFER, operation_id="t") == Receipt(left=Decimal(70))
            assert (await casops.read(BOB)).balance == 30
            assert collection.get(f"{prefix}alice").value == {"balance": "1000"}

            # What docs/couchbase.md tells an operator to do: both wrote, so a person decides; here 1000 - 30.
            found = collection.get(f"{prefix}alice")
            specs = (subdocument.remove("casops", xattr=True), subdocument.replace("", {"balance": "970"}))
            collection.mutate_in(f"{prefix}alice", specs, options.MutateInOptions(cas=found.cas))
            assert (await casops.recover()).left == ()
            assert (await casops.read(ALICE)).balance == 970
            assert await casops.pending() == []
            await casops.run(Transfer(source="alice", target="bob", amount=70), operation_id="u")
            assert (await casops.read(ALICE)).balance == 900
            assert (await casops.read(BOB)).balance == 100


@pytest.mark.parametrize("body", [b"not json", b"\xff\xfe"])
async def test_a_foreign_document_that_is_not_json_is_an_error_of_ours_and_stays_as_it_is(
    server: CouchbaseServer, face: str, prefix: str, body: bytes
) -> None:
    async with on(server, face, prefix) as casops:
        await two_accounts(casops)
        with bucket_of(server) as bucket:
            collection = bucket.collection("accounts")
            collection.upsert(f"{prefix}alice", body, options.UpsertOptions(transcoder=BINARY))
            with pytest.raises(InvalidDocument, match="does not fit Account"):
                await casops.read(ALICE)
            with pytest.raises(InvalidDocument, match="does not fit Account"):
                await casops.run(TRANSFER, operation_id="t")
            assert collection.get(f"{prefix}alice", options.GetOptions(transcoder=BINARY)).value == body
        assert await casops.pending() == []


async def test_many_callers_on_few_accounts(server: CouchbaseServer, face: str, prefix: str) -> None:
    async with on(server, face, prefix) as casops:
        await two_accounts(casops)
        transfers = [Transfer(source="alice", target="bob", amount=1) for _ in range(30)]
        if face == "async":
            await asyncio.gather(*(casops.run(each, operation_id=f"t{n}") for n, each in enumerate(transfers)))
        else:
            calls = [
                (lambda n=n, each=each: casops.front.run(each, operation_id=f"t{n}"))
                for n, each in enumerate(transfers)
            ]
            await asyncio.gather(*(asyncio.to_thread(call) for call in calls))
        assert (await casops.read(ALICE)).balance == 70
        assert (await casops.read(BOB)).balance == 30
