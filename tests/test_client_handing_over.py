"""From the answer to the application: a Ctrl-C in between, several that ask at once, lists that cannot be asked for."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import field_validator

from casops import Closed, Operation, OutcomeUnknown, UsageError
from casops.client import AsyncClient, Client, ClientOptions
from casops.errors import CasOpsError
from casops.protocol.limits import MAX_RESULT
from tests.bank import Echo
from tests.client_bank import NEVER, Bank, noted, waiting
from tests.serving import until

OPTIONS = ClientOptions(deadline=5, pause=0, probe=100, probe_at_most=100)


def client_of(bank: Bank, path: Path | None = None) -> Client:
    return Client(["http://a"], options=OPTIONS, pending=path, operations=[Echo], connect=bank._connect)


# --- Ctrl-C ---------------------------------------------------------------------------------------


class Interrupted(Future[Any]):
    """Ctrl-C comes when the answer is there, and the thread that waits for it has not woken yet."""

    def __init__(self, real: Future[Any]) -> None:
        super().__init__()
        self.real = real

    def result(self, timeout: float | None = None) -> Any:
        self.real.result(timeout)
        raise KeyboardInterrupt

    def cancel(self) -> bool:
        return self.real.cancel()


@pytest.mark.parametrize("how", ["run", "recover"])
def test_an_answer_that_nobody_got_because_of_a_ctrl_c_stays_on_the_list(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "p"
    bank = Bank(i=1)
    if how == "recover":
        noted(path, {"i": 1})
    with client_of(bank, path) as client:
        ask = client.recover if how == "recover" else partial(client.run, Echo(value=1), operation_id="i")
        submit = client._submit
        with monkeypatch.context() as patch:
            patch.setattr(client, "_submit", lambda work: Interrupted(submit(work)))
            with pytest.raises(KeyboardInterrupt):
                ask()
        assert [each.operation_id for each in client.pending()] == ["i"]
    assert waiting(path) == ["i"]
    with client_of(bank, path) as client:
        (finished,) = client.recover().finished
        assert finished.value == 1
        assert client.pending() == []
    assert waiting(path) == []


def test_an_answer_that_arrived_is_off_the_list(tmp_path: Path) -> None:
    with client_of(Bank(i=1), tmp_path / "p") as client:
        assert client.run(Echo(value=1), operation_id="i") == 1
        assert client.pending() == []
    assert waiting(tmp_path / "p") == []


def test_what_never_happens_is_off_the_list_when_it_is_told(tmp_path: Path) -> None:
    with client_of(Bank(i=NEVER), tmp_path / "p") as client:
        with pytest.raises(UsageError) as error:
            client.run(Echo(value=1), operation_id="i")
        assert error.value.happened is False
        assert waiting_now(tmp_path / "p") == []


def waiting_now(path: Path) -> list[str]:
    """What the file says while a client has it."""
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    return waiting(copy)


# --- several at once ------------------------------------------------------------------------------


async def test_of_those_that_ask_at_once_one_has_it_new() -> None:
    bank = Bank(i=1)
    bank.held.add("i")
    async with bank.client() as client:
        calls = [asyncio.create_task(client.execute(Echo(value=1), operation_id="i")) for _ in range(3)]
        await until(lambda: bank.asked)
        bank.held.clear()
        assert sorted([(await each).replayed for each in calls]) == [False, True, True]


# --- what cannot be asked for again -----------------------------------------------------------------


class Doubled(Operation[int], name="Echo"):
    """Takes the arguments of Echo, and makes others of them."""

    value: int

    @field_validator("value")
    @classmethod
    def _double(cls, value: int) -> int:
        return 2 * value


async def test_an_operation_whose_class_has_changed_may_have_happened(tmp_path: Path) -> None:
    noted(tmp_path / "p", {"1": 1})
    async with Bank(**{"1": 1}).client(pending=tmp_path / "p", operations=[Doubled]) as client:
        (left,) = (await client.recover()).left
        assert isinstance(left.error, UsageError)
        assert "has changed" in str(left.error)
        assert (left.error.happened, left.error.retry) == (None, True)
    assert waiting(tmp_path / "p") == ["1"]


async def test_a_long_list_does_not_take_a_deadline_for_every_few_of_it(tmp_path: Path) -> None:
    ids = [f"{number}" for number in range(40)]
    noted(tmp_path / "p", dict.fromkeys(ids, 1))
    bank = Bank(**dict.fromkeys(ids, 1))
    bank.held.update(ids)
    async with bank.client(pending=tmp_path / "p", deadline=0.3) as client:
        recovered = await client.recover()
        assert {each.asked.operation_id for each in recovered.left} == set(ids)
        assert {type(each.error) for each in recovered.left} == {OutcomeUnknown}
        assert len(bank.asked) == 8
        bank.held.clear()
        assert len((await client.recover()).finished) == 40
    assert waiting(tmp_path / "p") == []


async def test_a_long_list_is_gone_through_as_long_as_a_server_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it answers.  Each takes two thirds of a deadline, and all of them many deadlines."""
    ids = [f"{number}" for number in range(4)]
    noted(tmp_path / "p", dict.fromkeys(ids, 1))
    bank = Bank(**{"0": 1, "1": NEVER, "2": NEVER, "3": 1})
    reply = bank._reply

    async def slowly(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            await asyncio.sleep(0.4)
        return await reply(request)

    monkeypatch.setattr(bank, "_reply", slowly)
    monkeypatch.setattr("casops.client.async_client.TOGETHER", 1)
    async with bank.client(pending=tmp_path / "p", deadline=0.6) as client:
        recovered = await client.recover()
    assert [each.operation_id for each in recovered.finished] == ["0", "3"]
    assert [type(each.error) for each in recovered.left] == [UsageError, UsageError]


# --- calls that ask nobody --------------------------------------------------------------------------


async def refused_by(call: Awaitable[Any]) -> CasOpsError:
    with pytest.raises(CasOpsError) as error:
        await call
    return error.value


async def test_whoever_asks_in_the_wrong_process_or_loop_is_not_told_that_it_did_not_happen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Bank(i=1).client() as client:
        await client.run(Echo(value=1), operation_id="i")
        for name, wrong in (("_process", os.getpid() + 1), ("_loop", object())):
            with monkeypatch.context() as patch:
                patch.setattr(client, name, wrong)
                error = await refused_by(client.run(Echo(value=1), operation_id="i"))
            assert (type(error), error.happened, error.operation_id) == (UsageError, None, "i")


def test_a_thread_that_is_not_there_says_nothing_of_what_happened(monkeypatch: pytest.MonkeyPatch) -> None:
    with client_of(Bank(i=1)) as client:
        client.run(Echo(value=1), operation_id="i")
        with monkeypatch.context() as patch:
            patch.setattr(client, "_process", os.getpid() + 1)
            with pytest.raises(UsageError) as error:
                client.run(Echo(value=1), operation_id="i")
        assert (error.value.happened, error.value.operation_id) == (None, "i")


async def test_a_closed_client_forgets_nothing_silently(tmp_path: Path) -> None:
    client = Bank(i=None).client(pending=tmp_path / "p")
    async with client:
        await refused_by(client.run(Echo(value=1), operation_id="i"))
    for call in (client.acknowledge, client.forget):
        with pytest.raises(Closed) as error:
            call("i")
        assert error.value.operation_id == "i"
    assert waiting(tmp_path / "p") == ["i"]


# --- closing ----------------------------------------------------------------------------------------


async def closing_slowly(client: AsyncClient) -> tuple[httpx.AsyncClient, Callable[[], None]]:
    """A connection of the client that does not close before it is told to."""
    await client.run(Echo(value=1), operation_id="i")
    (connection,) = client._connections.values()
    gate = asyncio.Event()
    really = connection.aclose

    async def aclose() -> None:
        await gate.wait()
        await really()

    connection.aclose = aclose  # type: ignore[method-assign]
    return connection, gate.set


async def test_who_goes_away_while_the_client_is_closed_leaves_nothing_open(tmp_path: Path) -> None:
    client = Bank(i=1).client(pending=tmp_path / "p")
    connection, go_on = await closing_slowly(client)
    closing = asyncio.create_task(client.aclose())
    await asyncio.sleep(0.01)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    go_on()
    await asyncio.wait_for(client.aclose(), 5)  # waits for the first
    assert connection.is_closed
    assert waiting(tmp_path / "p") == []


async def test_who_closes_it_too_waits_until_it_is_closed() -> None:
    client = Bank(i=1).client()
    connection, go_on = await closing_slowly(client)
    closings = [asyncio.create_task(client.aclose()) for _ in range(2)]
    await asyncio.sleep(0.01)
    assert not any(each.done() for each in closings)
    go_on()
    await asyncio.wait_for(asyncio.gather(*closings), 5)
    assert connection.is_closed


async def test_a_message_that_was_cancelled_before_it_began_is_not_waited_for() -> None:
    bank = Bank(i=1)
    async with bank.client(deadline=0.2) as client:
        call = asyncio.create_task(client.run(Echo(value=1), operation_id="i"))
        while not client._tasks:
            await asyncio.sleep(0)
        for each in client._tasks:
            each.cancel()
        # nothing was sent, so the server is asked again, or it is told that nothing was
        await asyncio.wait([call])
        assert client._desk.servers.all[0].in_flight == 0
        with pytest.raises(OutcomeUnknown, match="nothing was sent"):
            call.result()
    assert bank.asked == []


# --- sizes ------------------------------------------------------------------------------------------


def test_the_largest_result_and_what_is_told_beside_it_can_be_read() -> None:
    assert ClientOptions().reply_bytes > 1.2 * MAX_RESULT
