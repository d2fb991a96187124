"""The stories of lost, late and doubled messages over real sockets: real servers, a proxy before each, both clients.

Each ends with the same questions: did the caller hear the truth, and did the operation happen exactly once?
Faults and gates decide what happens when, not sleeps; time-outs are small, and a slow machine makes a story longer, not
wrong.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from casops import CasOps, Declined, DocumentMissing, OperationMismatch, OutcomeUnknown, StoreUnavailable, UsageError
from casops.client import AsyncClient, BusinessError, Client, ClientOptions, Notice
from tests.bank import Account, Broken, Echo, Open, Receipt, Transfer
from tests.faulty_proxy import FaultyProxy
from tests.service_app import Gated
from tests.service_process import PATIENCE, Server

# Small, so that a story is short; a server that does well answers within some 20 ms.
OPTIONS: dict[str, Any] = {
    "deadline": 20,
    "first_timeout": 0.4,
    "least_timeout": 0.4,
    "most_timeout": 1,
    "life": 30,
    "pause": 0.02,
    "probe": 0.1,
    "probe_at_most": 0.5,
}
# For stories in which nothing is late: a slow machine must not add a retry to them.
CALM: dict[str, Any] = {"first_timeout": 10, "least_timeout": 10, "most_timeout": 10}
# For stories in which nobody may come back before its time.
NO_PROBES: dict[str, Any] = {"probe": 60, "probe_at_most": 60}
names = (f"n{each}" for each in itertools.count())


class Bank:
    """Two servers on one SQLite file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = f"sqlite:///{folder}/bank.db"
        self.servers = [Server(self.store, folder), Server(self.store, folder)]

    def balance(self, account: str) -> Decimal:
        with CasOps.open(self.store) as casops:
            found = casops.read(Account.ref(account))
            assert found is not None
            return found.balance


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bank]:
    bank = Bank(tmp_path_factory.mktemp("bank"))
    with ExitStack() as stack:
        for server in bank.servers:
            stack.enter_context(server)
        yield bank


class Story:
    """Proxies before the servers, a client of either kind, two accounts of its own."""

    def __init__(self, bank: Bank, face: str, stack: ExitStack) -> None:
        self.bank = bank
        self.face = face
        self.stack = stack
        self.proxies = [stack.enter_context(FaultyProxy(server.port)) for server in bank.servers]
        self.clients: list[Any] = []
        self.notices: list[Notice] = []
        name = next(names)
        self.rich, self.poor = f"{name}-rich", f"{name}-poor"
        self.operation_id = f"{name}-transfer"
        with CasOps.open(bank.store) as casops:
            for account, balance in ((self.rich, 100), (self.poor, 0)):
                casops.run(Open(account=account, balance=balance), operation_id=f"open-{account}")

    def client(self, *, servers: int = 2, pending: Path | None = None, **changes: Any) -> Any:
        """A client whose methods are all awaitable, whichever kind it is."""
        cls: Any = Client if self.face == "sync" else AsyncClient
        client = cls(
            [proxy.url for proxy in self.proxies[:servers]],
            options=ClientOptions(**{**OPTIONS, **changes}),
            on_notice=self.notices.append,
            operations=[Transfer, Echo, Gated],
            pending=pending,
        )
        self.clients.append(client)
        return Face(client)

    @property
    def transfer(self) -> Transfer:
        return Transfer(source=self.rich, target=self.poor, amount=30)

    async def run(self, client: Any) -> Receipt:
        receipt = await client.run(self.transfer, operation_id=self.operation_id)
        assert isinstance(receipt, Receipt)
        return receipt

    def posts(self) -> list[tuple[int, str, str]]:
        """What came through the proxies about the transfer: which server, which repetition, which fault."""
        return [
            (number, post.headers["casops-retry"], post.fault)
            for number, proxy in enumerate(self.proxies)
            for post in proxy.posts
            if self.operation_id in post.headers["idempotency-key"]
        ]

    def check_once(self) -> None:
        assert self.bank.balance(self.rich) == 70
        assert self.bank.balance(self.poor) == 30

    async def close(self) -> None:
        for client in self.clients:
            await (client.aclose() if isinstance(client, AsyncClient) else asyncio.to_thread(client.close))


class Face:
    """Calls of a client as coroutines; those of the sync one in a thread, so that a story can go on beside them."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.client, name)

        async def call(*arguments: Any, **named: Any) -> Any:
            if isinstance(self.client, AsyncClient):
                result = method(*arguments, **named)
                return await result if inspect.isawaitable(result) else result
            return await asyncio.to_thread(method, *arguments, **named)

        return call


@pytest.fixture(params=["sync", "async"])
async def story(request: pytest.FixtureRequest, bank: Bank) -> AsyncIterator[Story]:
    with ExitStack() as stack:
        story = Story(bank, str(request.param), stack)
        yield story
        await story.close()


async def wait_for_posts(story: Story, proxy: int, count: int) -> None:
    await asyncio.to_thread(story.proxies[proxy].wait_for_posts, count)


# --- no error ---------------------------------------------------------------------------------


async def test_no_error(story: Story) -> None:
    client = story.client(**CALM)
    first = await client.execute(story.transfer, operation_id=story.operation_id)
    again = await client.execute(story.transfer, operation_id=story.operation_id)
    assert first.result == again.result == Receipt(left=Decimal(70))
    assert (first.replayed, again.replayed) == (False, True)
    assert (first.operation_id, first.status, first.operation, first.attempts) == (
        story.operation_id,
        "applied",
        "Transfer",
        1,
    )
    story.check_once()


async def test_errors_are_those_of_a_local_call(story: Story) -> None:
    client = story.client()
    await story.run(client)
    much = Transfer(source=story.rich, target=story.poor, amount=1000)
    for _ in range(2):
        with pytest.raises(Declined) as declined:
            await client.run(much, operation_id=f"{story.operation_id}-much")
        assert (declined.value.code, declined.value.details) == ("insufficient_funds", {"balance": "70"})
    with pytest.raises(OperationMismatch):
        await client.run(much, operation_id=story.operation_id)
    nobody = Transfer(source=story.rich, target="nobody", amount=1)
    with pytest.raises(DocumentMissing, match="nobody") as missing:
        await client.run(nobody, operation_id=f"{story.operation_id}-nobody")
    assert missing.value.happened is False
    with pytest.raises(BusinessError):
        await client.run(Broken(account=story.rich), operation_id=f"{story.operation_id}-broken")
    with pytest.raises(UsageError, match="200 bytes"):
        await client.run(much, operation_id="x" * 201)
    story.check_once()


@pytest.mark.parametrize("value", [None, 0, "", [], {}, False, "1.10", {"a": [None, 1.5, "ü"]}])
async def test_results_come_as_they_were(story: Story, value: Any) -> None:
    client = story.client()
    got = await client.run(Echo(value=value), operation_id=f'{story.operation_id} "%\\/ü')
    assert (type(got), got) == (type(value), value)


async def test_outcomes_can_be_looked_up(story: Story) -> None:
    client = story.client()
    assert await client.outcome(story.operation_id) is None
    ran = await client.execute(story.transfer, operation_id=story.operation_id)
    outcome = await client.outcome(story.operation_id)
    assert outcome.status == "applied"
    assert ran.recorded == outcome.recorded == ran.result.model_dump(mode="json")
    assert [event.what for event in outcome.history]
    assert await client.outcome("a/b ü") is None


@pytest.mark.parametrize("ending", [".", "..", "/..", "%2e%2e", "?a#b", "//", " ", '"\\', "日本"])
async def test_any_id_can_be_asked_for_and_looked_up(story: Story, ending: str) -> None:
    client = story.client()
    operation_id = f"{story.operation_id}{ending}" if ending.strip(".") else ending
    assert await client.run(Echo(value="first"), operation_id=operation_id) == "first"
    outcome = await client.outcome(operation_id)
    assert (outcome.operation_id, outcome.result) == (operation_id, "first")


# --- lost and late ----------------------------------------------------------------------------


async def test_the_request_is_lost(story: Story) -> None:
    client = story.client(servers=1)
    story.proxies[0].faults += ["drop-request"]
    assert (await story.run(client)).left == 70
    assert story.posts()[:2] == [(0, "0", "drop-request"), (0, "1", "pass")]
    story.check_once()


async def test_the_response_is_lost(story: Story) -> None:
    client = story.client(servers=1, first_timeout=1)
    story.proxies[0].faults += ["drop-response"]
    outcome = await client.execute(story.transfer, operation_id=story.operation_id)
    assert outcome.result.left == 70
    assert outcome.replayed  # the server had done it
    assert story.posts()[:2] == [(0, "0", "drop-response"), (0, "1", "pass")]
    story.check_once()


@pytest.mark.parametrize("fault", ["drop-request", "drop-response"])
async def test_each_is_lost_twice_then_the_second_server_is_asked(story: Story, fault: str) -> None:
    """Lost responses: the second server is asked for what the first had already done."""
    client = story.client(first_timeout=1, **NO_PROBES)
    story.proxies[0].faults += [fault, fault]
    outcome = await client.execute(story.transfer, operation_id=story.operation_id)
    assert outcome.result.left == 70
    assert outcome.replayed is (fault == "drop-response")
    assert story.posts()[:3] == [(0, "0", fault), (0, "1", fault), (1, "2", "pass")]
    assert (story.notices[0].kind, story.notices[0].server) == ("suspect", story.proxies[0].url)
    assert story.notices[0].operation_id == story.operation_id
    story.check_once()


async def test_the_response_comes_just_after_the_second_time_out(story: Story) -> None:
    client = story.client(**NO_PROBES)
    story.proxies[0].faults += ["hold-response", "hold-response"]
    story.proxies[1].faults += ["hold-request", "hold-request"]
    call = asyncio.create_task(story.run(client))
    await wait_for_posts(story, 1, 1)  # the first server was given up
    story.proxies[0].release()
    assert (await call).left == 70
    assert client.client.counters.late >= 1
    states = await client.servers()
    assert states[story.proxies[0].url] == "slow"
    kinds = [notice.kind for notice in story.notices if notice.server == story.proxies[0].url]
    assert kinds[:2] == ["suspect", "slow"]
    story.proxies[1].release()
    story.check_once()


async def test_a_retry_race_with_two_answers(story: Story) -> None:
    client = story.client(servers=1)
    story.proxies[0].faults += ["hold-response", "hold-response"]
    call = asyncio.create_task(story.run(client))
    await wait_for_posts(story, 0, 2)
    story.proxies[0].release()  # both at once
    assert (await call).left == 70
    async with asyncio.timeout(PATIENCE):
        while client.client.counters.doubled < 1:
            await asyncio.sleep(0.01)
    counters = client.client.counters
    assert (counters.answers, counters.contradictions) == (1, 0)
    story.check_once()


async def test_the_network_doubles_the_request(story: Story) -> None:
    client = story.client(servers=1)
    story.proxies[0].faults += ["double"] * 3
    assert (await story.run(client)).left == 70
    assert (await story.run(client)).left == 70
    story.check_once()


@pytest.mark.parametrize(
    "fault", ["reset-request", "reset-response", "half-response", "garbled", "late-request", "half-open"]
)
async def test_the_connection_breaks(story: Story, fault: str) -> None:
    client = story.client(servers=1)
    story.proxies[0].faults += [fault]
    for _ in range(2):
        assert (await story.run(client)).left == 70
    assert story.posts()[0] == (0, "0", fault)
    story.check_once()


async def test_the_business_never_answers(story: Story) -> None:
    client = story.client(deadline=1.5)
    gate = f"{story.operation_id}-gate"
    with pytest.raises(OutcomeUnknown, match="ask again later with the same id"):
        await client.run(Gated(gate=gate), operation_id=gate)
    assert [asked.operation_id for asked in await client.pending()] == [gate]
    (story.bank.folder / gate).touch()  # now it does; the work had gone on
    async with asyncio.timeout(PATIENCE):
        while (answer := await ask_patiently(client, Gated(gate=gate), gate)) is None:
            pass
    assert answer == gate
    assert await client.pending() == []


async def ask_patiently(client: Any, operation: Any, operation_id: str) -> Any:
    try:
        return await client.run(operation, operation_id=operation_id)
    except (OutcomeUnknown, StoreUnavailable):
        return None


async def test_slow_business_is_in_progress_until_it_is_done(story: Story) -> None:
    """Slower than the server waits: it says "in progress", and the client asks again when told."""
    gate = f"{story.operation_id}-gate"
    server = Server(story.bank.store, story.bank.folder, service={"answer_within": 0.1, "retry_after": 0})
    story.stack.enter_context(server)
    proxy = story.stack.enter_context(FaultyProxy(server.port))
    story.proxies[:] = [proxy]
    client = story.client(servers=1, **CALM)
    call = asyncio.create_task(client.run(Gated(gate=gate), operation_id=gate))
    await wait_for_posts(story, 0, 3)
    (story.bank.folder / gate).touch()
    assert await call == gate
    assert len((story.bank.folder / f"{gate}.entered").read_text().splitlines()) == 1
    assert client.client.counters.timeouts == 0


# --- servers away -----------------------------------------------------------------------------


async def test_all_servers_away_and_back(story: Story) -> None:
    client = story.client()
    for proxy in story.proxies:
        proxy.refuse()
    with pytest.raises(OutcomeUnknown, match="nothing was sent"):
        await story.run(client)
    assert [notice.kind for notice in story.notices] == ["suspect", "suspect"]
    for proxy in story.proxies:
        proxy.accept()
    assert (await story.run(client)).left == 70  # at once: suspects are asked if there is no other
    async with asyncio.timeout(PATIENCE):  # and by themselves they come back
        while "suspect" in (await client.servers()).values():
            await asyncio.sleep(0.01)
    story.check_once()


async def test_a_server_away_costs_nothing_but_a_notice(story: Story) -> None:
    client = story.client(**CALM)
    story.proxies[0].refuse()
    for each in range(6):
        assert await client.run(Echo(value=each), operation_id=f"{story.operation_id}-{each}") == each
    assert [notice.server for notice in story.notices if notice.kind == "suspect"] == [story.proxies[0].url]


PHASES = ["declare", "propose", "commit", "settle", "withdraw", "finish"]
MOMENTS = [*(f"after:{each}" for each in PHASES), "before:declare", "half:propose"]


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_server_is_killed_after_each_phase(story: Story, moment: str) -> None:
    """SIGKILL; the other server goes on with what it left."""
    name = "" if moment == "after:settle" else f":{story.operation_id}"
    dying = Server(story.bank.store, story.bank.folder, die=f"{moment}{name}")
    story.stack.enter_context(dying)
    story.proxies[0]._upstream = dying.port
    client = story.client()
    assert (await story.run(client)).left == 70
    assert await asyncio.to_thread(dying.wait) == -9
    asked = [server for server, _, _ in story.posts()]
    if moment.split(":")[1] in ("declare", "propose"):  # before the answer
        assert asked[:3] == [0, 0, 1]
    assert asked[0] == 0
    assert (await story.run(client)).left == 70  # now by the other one, in any case
    assert story.posts()[-1][0] == 1
    story.check_once()


async def test_a_killed_server_comes_back_and_knows_the_answer(story: Story) -> None:
    dying = Server(story.bank.store, story.bank.folder, die=f"after:propose:{story.operation_id}")
    story.stack.enter_context(dying)
    story.proxies[0]._upstream = dying.port
    client = story.client(servers=1)
    with pytest.raises(OutcomeUnknown):
        await story.run(client)
    assert await asyncio.to_thread(dying.wait) == -9
    await asyncio.to_thread(dying.restart)
    outcome = await client.execute(story.transfer, operation_id=story.operation_id)
    assert outcome.result.left == 70
    assert outcome.replayed or outcome.taken_over
    story.check_once()


# --- the client itself ------------------------------------------------------------------------

KILLED = """
import os, signal, sys, threading
from casops.client import Client, ClientOptions
from tests.bank import Transfer
url, pending, source, target, operation_id = sys.argv[1:]
client = Client([url], pending=pending, options=ClientOptions(deadline=60, first_timeout=10))
client.run(Transfer(source=source, target=target, amount=30), operation_id=operation_id)
sys.exit("it was not killed")
"""


@pytest.mark.parametrize("fault", ["hold-request", "hold-response"])
async def test_the_client_is_killed_and_restarted_with_its_pending_list(
    story: Story, fault: str, tmp_path: Path
) -> None:
    pending = tmp_path / "pending.jsonl"
    story.proxies[0].faults += [fault]
    arguments = [story.proxies[0].url, str(pending), story.rich, story.poor, story.operation_id]
    process = subprocess.Popen([sys.executable, "-c", KILLED, *arguments])
    try:
        await wait_for_posts(story, 0, 1)
    finally:
        process.kill()
        process.wait(PATIENCE)
    client = story.client(servers=1, pending=pending)
    assert [asked.operation_id for asked in await client.pending()] == [story.operation_id]
    story.proxies[0].release()  # what the dead one had asked may come now
    recovered = await client.recover()
    assert recovered.left == ()
    assert [outcome.result for outcome in recovered.finished] == [Receipt(left=Decimal(70))]
    assert story.posts()[1][1] == "1"  # marked as a retry, though this life had sent nothing
    assert await client.pending() == []
    story.check_once()
    await story.close()
    assert pending.read_text().splitlines()[-1] == f'{{"ends": "{story.operation_id}"}}'


async def test_one_pending_list_is_one_clients(story: Story, tmp_path: Path) -> None:
    pending = tmp_path / "pending.jsonl"
    story.client(pending=pending)
    with pytest.raises(UsageError, match="another client"):
        story.client(pending=pending)


async def test_recovering_what_is_not_known(story: Story, tmp_path: Path) -> None:
    pending = tmp_path / "pending.jsonl"
    pending.write_text('{"asks": "i", "operation": "Strange", "fingerprint": "f", "arguments": "{}", "at": 0}\n')
    client = story.client(pending=pending)
    recovered = await client.recover()
    (left,) = recovered.left
    assert left.asked.operation == "Strange"
    assert "operations=" in str(left.error)
    await client.forget("i")
    assert await client.pending() == []


# --- callers ----------------------------------------------------------------------------------


async def test_two_callers_of_one_id_get_one_answer(story: Story) -> None:
    client = story.client()
    first, second = await asyncio.gather(story.run(client), story.run(client))
    assert first == second
    other = Transfer(source=story.rich, target=story.poor, amount=31)
    with pytest.raises(OperationMismatch):
        await client.run(other, operation_id=story.operation_id)
    story.check_once()


async def test_a_cancelled_call_is_unknown_and_asking_again_tells(bank: Bank) -> None:
    with ExitStack() as stack:
        story = Story(bank, "async", stack)
        client = story.client(servers=1, first_timeout=20, most_timeout=20, least_timeout=20)
        story.proxies[0].faults += ["hold-response"]
        call = asyncio.create_task(story.run(client))
        await wait_for_posts(story, 0, 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        story.proxies[0].release()
        assert (await story.run(client)).left == 70
        story.check_once()
        await story.close()


async def test_closing_ends_calls_and_says_that_it_is_unknown(story: Story) -> None:
    client = story.client(servers=1, first_timeout=20, most_timeout=20)
    story.proxies[0].faults += ["hold-request"]
    call = asyncio.create_task(story.run(client))
    await wait_for_posts(story, 0, 1)
    await story.close()
    with pytest.raises(OutcomeUnknown, match="closed"):
        await call
    with pytest.raises(UsageError, match="closed"):
        await story.run(client)


async def test_acknowledged_ids_travel_and_are_not_used_again(story: Story) -> None:
    client = story.client(servers=1)
    await story.run(client)
    await client.acknowledge(story.operation_id)
    await client.run(Echo(value=1), operation_id=f"{story.operation_id}-next")
    assert story.proxies[0].posts[-1].headers["casops-acknowledge"] == f'"{story.operation_id}"'
    with pytest.raises(UsageError, match="acknowledged"):
        await story.run(client)


async def test_an_on_notice_that_raises_costs_no_answer(story: Story, caplog: pytest.LogCaptureFixture) -> None:
    client = story.client()

    def raising(notice: Notice) -> None:
        raise ZeroDivisionError

    inner = client.client._client if isinstance(client.client, Client) else client.client
    inner._on_notice = raising
    story.proxies[0].refuse()
    for each in range(2):
        await client.run(Echo(value=each), operation_id=f"{story.operation_id}-{each}")
    assert "on_notice raised" in caplog.text
    assert "suspect" in caplog.text
