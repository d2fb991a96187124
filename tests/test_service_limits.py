"""Bounds on what is sent, and acknowledgements."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from casops import CasOps, Options, Outcome
from casops.errors import UsageError
from casops.messages import Refused
from casops.protocol.limits import MAX_FORGOTTEN
from casops.service import ServiceOptions, create_app
from casops.service.duties import Duties
from casops.service.in_flight import InFlight
from casops.stores.memory import MemoryStore
from casops.wire import MAX_ACKNOWLEDGED, decode_id, decode_ids, encode_id, encode_ids, path_of
from tests.bank import Echo, Open
from tests.serving import QUICK, SERVICE, Troubled, Web, bank, until
from tests.test_service_answers import problem

SMALL = replace(SERVICE, body_bytes=1_000, header_bytes=2_000)


async def test_a_body_that_says_it_is_too_large_is_not_read() -> None:
    async with bank(service=SMALL) as web:
        told = problem(await web.post("echo", "e", body=b" " * 1_001), 413, "body-too-large")
        assert (told["happened"], told["retry"]) == ("unknown", True)  # nobody looked for the operation
        assert (await web.post("echo", "e", body=b"{}" + b" " * 998)).status_code == 200


async def test_a_length_that_is_too_large_is_believed() -> None:
    status, told = await _raw([(b"content-length", b"1001"), (b"idempotency-key", b"e")], [])  # nothing ever comes
    assert (status, told["type"]) == (413, "urn:casops:problem:body-too-large")


async def test_a_body_that_turns_out_to_be_too_large() -> None:
    sent: list[int] = []

    async def endless() -> AsyncIterator[bytes]:
        for number in range(1_000):
            sent.append(number)
            yield b" " * 100

    async with bank(service=SMALL) as web:
        problem(await web.post("echo", "e", body=endless()), 413, "body-too-large")
        assert web.casops.outcome("e") is None


@pytest.mark.parametrize("length", ["x", "-1", "٣", "9" * 30, ""])
async def test_a_length_that_is_none_is_not_believed(length: str) -> None:
    scope_headers = [(b"content-length", length.encode()), (b"idempotency-key", b"e")]
    status, told = await _raw(scope_headers, [{"type": "http.request", "body": b" " * 2_000, "more_body": False}])
    assert (status, told["type"]) == (413, "urn:casops:problem:body-too-large")


async def test_a_body_that_does_not_arrive() -> None:
    parts = [{"type": "http.request", "body": b"{", "more_body": True}]
    status, told = await _raw([(b"idempotency-key", b"e")], parts, replace(SMALL, answer_within=0.0))
    assert (status, told["type"]) == (408, "urn:casops:problem:body-late")
    assert (told["happened"], told["retry"]) == ("unknown", True)


async def test_a_caller_who_goes_away_in_the_middle_of_the_body() -> None:
    parts: list[dict[str, Any]] = [
        {"type": "http.request", "body": b"{", "more_body": True},
        {"type": "http.disconnect"},
    ]
    status, _ = await _raw([(b"idempotency-key", b"e")], parts)
    assert status == 400


async def _raw(
    headers: Sequence[tuple[bytes, bytes]], parts: Sequence[dict[str, Any]], service: ServiceOptions = SMALL
) -> tuple[int, Any]:
    """A request as no well-behaved client would make it.  Gives status and body."""
    casops = CasOps(MemoryStore(), options=QUICK)
    application = create_app(casops, [Echo], options=service)
    coming: Iterator[dict[str, Any]] = iter(parts)
    sent: list[Any] = []

    async def receive() -> Any:
        for part in coming:
            return part
        return await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    path = "/operations/echo"
    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": list(headers),
    }
    async with asyncio.timeout(30):
        await application(scope, receive, send)
    assert casops.outcome("e") is None
    casops.close()
    body = sent[1]["body"]
    return sent[0]["status"], json.loads(body) if body else None


async def test_headers_that_are_too_large() -> None:
    async with bank(service=SMALL) as web:
        problem(await web.post("echo", "e", {}, X_Long="x" * 2_000), 431, "headers-too-large")
        response = await web.client.get("/operations/e", headers={"X-Long": "x" * 2_000})
        problem(response, 431, "headers-too-large")
        assert (await web.post("echo", "e", {}, X_Long="x" * 1_500)).status_code == 200


# --- acknowledging ------------------------------------------------------------------------------

# The shortest grace that is allowed, so that the tests need not wait long.
FORGETFUL = Options(patience=0.01, poll=0.001, grace=0.0, deadline=0.1)
SOON = ServiceOptions(answer_within=0.09, sweep_every=0, forget_after=1.0)


async def answered(web: Web, operation_id: str) -> None:
    """Ask until there is an answer: the deadlines here are very short."""
    async with asyncio.timeout(30):
        while (await web.post("echo", operation_id, {})).status_code != 200:
            pass


async def test_acknowledged_results_are_forgotten_and_others_are_not() -> None:
    async with bank(MemoryStore(), options=FORGETFUL, service=SOON) as web:
        for each in ("a", "b/ö", "c"):
            await answered(web, each)
        await web.client.get("/health", headers={"Casops-Acknowledge": '"a"'})  # only asking for an operation counts
        await web.post("echo", "d", {}, Casops_Acknowledge=encode_ids(["b/ö", "never heard of"]))
        await until(lambda: web.casops.outcome("b/ö") is None)
        assert isinstance(web.casops.outcome("a"), Outcome)
        assert isinstance(web.casops.outcome("c"), Outcome)
        problem(await web.get("b/ö"), 404, "outcome-unheard")
        await web.post("echo", "e", {}, Casops_Acknowledge='"a", "c"')  # it is not over after the first
        await until(lambda: web.casops.outcome("a") is None and web.casops.outcome("c") is None)


async def test_an_acknowledged_id_that_is_asked_for_all_the_same_is_not_forgotten() -> None:
    """A copy of a request that the network held, or a client that is wrong: another copy would run it again."""
    async with bank(MemoryStore(), options=FORGETFUL, service=SOON) as web:
        for each in ("a", "b", "c"):
            await answered(web, each)
        await web.post("echo", "d", {}, Casops_Acknowledge='"a", "b"')
        await web.post("echo", "a", {})
        await web.post("echo", "c", {}, Casops_Acknowledge='"c"')  # of itself
        await until(lambda: web.casops.outcome("b") is None)
        await asyncio.sleep(0.2)
        assert isinstance(web.casops.outcome("a"), Outcome)
        assert isinstance(web.casops.outcome("c"), Outcome)
        await web.post("echo", "e", {}, Casops_Acknowledge='"a"')
        await until(lambda: web.casops.outcome("a") is None)


async def test_acknowledging_can_be_turned_off_and_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "casops.service")
    async with bank(options=FORGETFUL, service=replace(SOON, acknowledged=1)) as web:
        for each in ("a", "b"):
            await answered(web, each)
        await web.post("echo", "c", {}, Casops_Acknowledge='"a", "b"')
        await until(lambda: web.casops.outcome("a") is None)
        assert isinstance(web.casops.outcome("b"), Outcome)
        assert "this one stays: b" in caplog.text


async def test_an_acknowledgement_that_cannot_be_read_is_refused() -> None:
    async with bank() as web:
        many = ", ".join(f'"{number}"' for number in range(MAX_ACKNOWLEDGED + 1))
        for text in ('"a" "b"', '"a",', "%zz", many):
            problem(await web.post("echo", "e", {}, Casops_Acknowledge=text), 400, "header-invalid")
        assert web.casops.outcome("e") is None


async def test_a_store_in_trouble_does_not_end_the_duties(caplog: pytest.LogCaptureFixture) -> None:
    store = Troubled(Refused("no room"))
    async with bank(store, options=FORGETFUL, service=replace(SOON, sweep_every=0.01)) as web:
        await answered(web, "a")
        await answered(web, "b")
        await web.post("echo", "c", {}, Casops_Acknowledge='"a"')
        store.trouble = True
        await until(lambda: "stay until their retention is over" in caplog.text)
        await until(lambda: "a sweep failed" in caplog.text)
        store.trouble = False
        await web.post("echo", "d", {}, Casops_Acknowledge='"b"')
        await until(lambda: web.casops.outcome("b") is None)
        assert isinstance(web.casops.outcome("a"), Outcome)


class Due(float):
    """A time that counts how often such a one was compared."""

    compared = 0

    def __le__(self, other: float) -> bool:
        Due.compared += 1
        return float(self) <= other


async def test_what_waits_to_be_forgotten_is_not_looked_through_for_every_few() -> None:
    with CasOps(MemoryStore(), options=FORGETFUL) as casops:
        duties = Duties(casops, InFlight(threads=1, operations=1, requests=1), SOON)
        duties._due = {str(number): Due() for number in range(20 * MAX_FORGOTTEN)}  # all are due
        duties.start()
        await until(lambda: not duties._due)
        await duties.stop()
    assert Due.compared == 20 * MAX_FORGOTTEN


# --- what both sides of the wire share ------------------------------------------------------------


@pytest.mark.parametrize("operation_id", ["a", "a b", "50%", 'say "a\\b"', "ä, ö; ü", "名" * 66, "x" * 200, "%2C"])
def test_ids_survive_their_way_through_a_header(operation_id: str) -> None:
    text = encode_id(operation_id)
    assert text.isascii()
    assert text.isprintable()
    assert decode_id(text) == operation_id
    assert decode_ids(encode_ids([operation_id, "b", operation_id])) == [operation_id, "b", operation_id]


def test_a_list_of_ids_may_be_empty_and_is_bounded() -> None:
    assert decode_ids("") == decode_ids("  ") == []
    assert len(decode_ids(",".join(['"a"'] * MAX_ACKNOWLEDGED))) == MAX_ACKNOWLEDGED
    too_many = ",".join(['"a"'] * (MAX_ACKNOWLEDGED + 1))
    for text in ('"a",', ',"a"', '"a",,"b"', '"a" "b"', '"a', "a", "null", too_many):
        with pytest.raises(UsageError):
            decode_ids(text)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("Transfer", "transfer"),
        ("OpenAccount", "open-account"),
        ("HTTPCall", "http-call"),
        ("transfer-2", "transfer-2"),
        ("Close2ndAccount", "close2nd-account"),
        ("close_account", "close-account"),
    ],
)
def test_paths_of_operations(name: str, path: str) -> None:
    named: Any = type("Named", (Open,), {}, name=name)
    assert path_of(named) == path
