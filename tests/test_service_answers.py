"""What callers of the service are told: results, refusals, problems."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from decimal import Decimal
from typing import Any, ClassVar, Literal

import httpx
import pytest
from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel, field_validator

from casops import AsyncCasOps, CasOps, CasOpsError, Declined, Documents, Operation, Options, Ref, UsageError
from casops.messages import Refused, Unknown
from casops.service import ServiceOptions, create_app, operations_router
from casops.stores.memory import MemoryStore
from tests.bank import MENDED, Account, Echo, Open, Transfer
from tests.serving import QUICK, SERVICE, Troubled, bank, serving

ARGUMENTS = {"source": "alice", "target": "bob", "amount": "30"}


def problem(response: httpx.Response, status: int, kind: str) -> Any:
    """The problem document in a response, which must be of this kind."""
    assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json")
    told = response.json()
    assert (told["type"], told["status"]) == (f"urn:casops:problem:{kind}", status)
    return told


async def test_a_result_is_the_body_and_is_replayed() -> None:
    async with bank() as web:
        first, again = [await web.post("transfer", "t", ARGUMENTS) for _ in range(2)]
        assert first.status_code == again.status_code == 200
        assert first.json() == again.json() == {"left": "70"}
        assert "Idempotent-Replayed" not in first.headers
        assert again.headers["Idempotent-Replayed"] == "true"
        assert first.headers["Casops-Attempts"] == "1"
        assert first.headers["Idempotency-Key"] == '"t"'
        assert web.casops.read(Account.ref("alice")) == Account(balance=Decimal(70))


@pytest.mark.parametrize("value", [None, 0, "", [], False, {"a": None}])
async def test_results_that_look_like_nothing(value: Any) -> None:
    async with bank() as web:
        for _ in range(2):
            response = await web.post("echo", "e", {"value": value})
            assert (response.status_code, response.json()) == (200, value)
        assert (await web.get("e")).json()["result"] == value


async def test_the_same_key_with_other_content() -> None:
    async with bank() as web:
        await web.post("transfer", "t", ARGUMENTS)
        told = problem(await web.post("transfer", "t", {**ARGUMENTS, "amount": "31"}), 422, "operation-mismatch")
        assert (told["operation_id"], told["happened"], told["retry"]) == ("t", "no", False)
        problem(await web.post("echo", "t", {}), 422, "operation-mismatch")


async def test_a_refusal_is_replayed_like_a_result() -> None:
    async with bank() as web:
        poor = {**ARGUMENTS, "amount": "101"}
        first = await web.post("transfer", "t", poor)
        await web.post("open", "o", {"account": "carl", "balance": "900"})
        await web.post("transfer", "more", {"source": "carl", "target": "alice", "amount": "900"})
        again = await web.post("transfer", "t", poor)
        assert first.json() == again.json()
        told = problem(again, 422, "declined")
        assert (told["code"], told["details"]) == ("insufficient_funds", {"balance": "100"})
        assert "Idempotent-Replayed" not in first.headers
        assert again.headers["Idempotent-Replayed"] == "true"
        assert (await web.get("t")).json()["refusal"] == {"code": "insufficient_funds", "details": {"balance": "100"}}


class Refuse(Operation[None]):
    def apply(self, documents: Documents) -> None:
        raise Declined("no", limit=None, left=0, why="", parts=[])


async def test_details_that_look_like_nothing() -> None:
    async with bank(operations=[Refuse]) as web:
        details = {"limit": None, "left": 0, "why": "", "parts": list[int]()}
        for _ in range(2):
            assert problem(await web.post("refuse", "r", {}), 422, "declined")["details"] == details
        assert (await web.get("r")).json()["refusal"]["details"] == details


async def test_a_cancelled_operation() -> None:
    async with bank() as web:
        web.casops.cancel("t")
        response = await web.post("transfer", "t", ARGUMENTS)
        problem(response, 422, "cancelled")
        assert response.headers["Idempotent-Replayed"] == "true"
        assert (await web.get("t")).json()["status"] == "cancelled"


async def test_wrong_use_is_not_recorded() -> None:
    async with bank() as web:
        arguments = {**ARGUMENTS, "target": "carl"}
        told = problem(await web.post("transfer", "t", arguments), 422, "usage")
        assert (told["error"], told["happened"]) == ("DocumentMissing", "no")
        await web.post("open", "o", {"account": "carl"})
        assert (await web.post("transfer", "t", arguments)).status_code == 200
        assert problem(await web.post("overdraw", "d", {"account": "bob"}), 422, "usage")["error"] == "InvalidDocument"


@pytest.mark.parametrize(
    ("body", "where"),
    [
        (b"", None),
        (b"{", None),
        (b"\xff\xfe", None),
        (b'{"source": "alice", "target": "bob", "amount": NaN}', None),
        (b'{"source": "alice", "target": "bob", "amount": 12345678901234567.89}', None),
        (b'{"source": "alice", "target": "bob", "amount": 1e999999999999999999999}', None),
        (b'{"source": "alice", "target": "bob", "amount": 1' + b"0" * 5000 + b"}", None),
        (b"[" * 50_000, None),
        (b"[" * 190 + b"]" * 190, ""),
        *((b"[" * deep + b"]" * deep, None) for deep in (210, 900, 1_000)),
        (b'{"source": "alice", "target": "bob"}', "amount"),
        (b'{"source": "alice", "target": "bob", "amount": "-1"}', "amount"),
        (b'{"source": "", "target": "bob", "amount": "1"}', "source"),
        (b'{"source": "alice", "target": "bob", "amount": "1", "more": 1}', "more"),
        (b'{"source": "\\ud800", "target": "bob", "amount": "1"}', None),
        (b"null", ""),
    ],
)
async def test_a_body_that_does_not_fit_is_not_recorded(body: bytes, where: str | None) -> None:
    async with bank() as web:
        told = problem(await web.post("transfer", "t", body=body), 400, "body-invalid")
        # What is no JSON is refused before anybody looks for the operation: it may be a retry, cut short.
        assert (told["happened"], told["retry"]) == (("unknown", True) if where is None else ("no", False))
        assert where is None or where in [each["where"] for each in told["errors"]]
        problem(await web.get("t"), 404, "outcome-unheard")
        response = await web.post("transfer", "t", ARGUMENTS)
        assert response.status_code == 200, response.text


@pytest.mark.parametrize("headers", [{}, {"Casops_Acknowledge": "?"}, {"Casops_Retry": "x"}, {"more": "x" * 20_000}])
async def test_a_request_that_is_refused_unseen_says_nothing_of_an_operation_that_was_taken_before(
    headers: dict[str, str],
) -> None:
    """A retry that a proxy has cut short, for one: it had happened."""
    body = b"{" if not headers else json.dumps(ARGUMENTS).encode()
    async with bank() as web:
        assert (await web.post("transfer", "t", ARGUMENTS)).status_code == 200
        response = await web.post("transfer", "t", body=body, **headers)
        told = response.json()
        assert response.status_code in (400, 431)
        assert (told["happened"], told["retry"]) == ("unknown", True)
        assert "what an earlier request with this key did was not looked at" in told["detail"]


async def test_a_body_that_does_not_fit_says_nothing_of_an_operation_that_was_taken_before() -> None:
    """A newer version's argument with a default, asked again at an older server: it had happened."""
    newer = {**ARGUMENTS, "note": None}
    async with bank() as web:
        await web.post("transfer", "t", ARGUMENTS)
        told = problem(await web.post("transfer", "t", newer), 400, "body-invalid")
        assert (told["happened"], told["retry"]) == ("unknown", True)
        assert "an earlier request with this key was taken: look at what became of it" in told["detail"]
        assert [each["where"] for each in told["errors"]] == ["note"]
    async with bank(store := Troubled(Refused("the disk is full"))) as web:
        store.trouble = True
        told = problem(await web.post("transfer", "t", newer), 400, "body-invalid")
        assert (told["happened"], told["retry"]) == ("unknown", True)


@pytest.mark.parametrize(
    "media_type", ["", "text/plain", "application/x-www-form-urlencoded", "application/vnd.x+json"]
)
async def test_the_media_type_of_a_body_does_not_matter(media_type: str) -> None:
    async with bank() as web:
        body = json.dumps(ARGUMENTS).encode()
        assert (await web.post("transfer", "t", body=body, Content_Type=media_type)).json() == {"left": "70"}
        problem(await web.post("transfer", "u", body=b"\xff", Content_Type=media_type), 400, "body-invalid")


async def test_money_does_not_pass_through_a_float() -> None:
    async with bank() as web:
        exact = "12345678901234567.89"
        await web.post("open", "o", {"account": "rich", "balance": exact})
        response = await web.post("close", "c", {"account": "rich"})
        assert response.text == json.dumps(exact)
        # A number that a double holds exactly, in the sense of its shortest digits, is as good as its text.
        number = b'{"source": "alice", "target": "bob", "amount": 0.10}'
        assert (await web.post("transfer", "t", body=number)).json() == {"left": "99.9"}


class Measure(Operation[float]):
    value: float
    number: int = 0

    def apply(self, documents: Documents) -> float:
        return self.value


async def test_a_whole_number_that_would_be_rounded_is_not_taken() -> None:
    async with bank(operations=[Measure]) as web:
        refused = await web.post("measure", "r", body='{"value": 9007199254740993}')
        assert (refused.status_code, refused.json()["happened"]) == (400, "no")
        assert "would be rounded" in refused.json()["detail"]
        taken = await web.post("measure", "t", body='{"value": 9007199254740992, "number": 9007199254740993}')
        assert taken.status_code == 200


@pytest.mark.parametrize(
    ("header", "kind"),
    [
        (None, "key-missing"),
        ("", "key-invalid"),
        ('""', "key-invalid"),
        ('"a', "key-invalid"),
        ("a b", "key-invalid"),
        ('"a", "b"', "key-invalid"),
        ('"50%"', "key-invalid"),
        ('"%ff"', "key-invalid"),
        ('"%07"', "key-invalid"),
        ('"' + "x" * 201 + '"', "key-invalid"),
    ],
)
async def test_a_key_that_cannot_be(header: str | None, kind: str) -> None:
    async with bank() as web:
        headers = {} if header is None else {"Idempotency-Key": header}
        problem(await web.client.post("/operations/transfer", json=ARGUMENTS, headers=headers), 400, kind)


async def test_two_keys_are_none() -> None:
    async with bank() as web:
        headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
        response = await web.client.post("/operations/transfer", json=ARGUMENTS, headers=headers)
        problem(response, 400, "key-invalid")


@pytest.mark.parametrize(
    "operation_id", ["a/b", "/", "50%", "%2F", "päckchen Nr. 7", 'say "a\\b"', "x" * 200, "名" * 66]
)
async def test_any_id_can_be_asked_for(operation_id: str) -> None:
    async with bank() as web:
        assert (await web.post("echo", operation_id, {"value": 7})).json() == 7
        told = (await web.get(operation_id)).json()
        assert (told["operation_id"], told["operation"], told["result"]) == (operation_id, "Echo", 7)
        assert web.casops.outcome(operation_id) is not None


async def test_an_id_without_quotes() -> None:
    async with bank() as web:
        headers = {"Idempotency-Key": "0190-a:b/c"}
        assert (await web.client.post("/operations/echo", json={}, headers=headers)).status_code == 200
        assert web.casops.outcome("0190-a:b/c") is not None


async def test_every_answer_names_its_message_and_the_retention() -> None:
    headers = {"Casops-Message": "m-1", "Casops-Retry": "2"}
    async with bank() as web:
        more = {"Idempotency-Key": "e", **headers}
        for response in (
            await web.client.post("/operations/echo", json={}, headers=more),
            await web.client.post("/operations/echo", json={"value": 1}, headers=more),
            await web.client.post("/operations/echo", content=b"{", headers=more),
            await web.client.post("/operations/echo", json={}, headers=headers),
            await web.client.post("/operations/nothing", json={}, headers=more),
            await web.client.get("/operations/e", headers=headers),
            await web.client.get("/operations/unheard", headers=headers),
            await web.client.get("/health", headers=headers),
        ):
            assert (response.headers["Casops-Message"], response.headers["Casops-Retry"]) == ("m-1", "2")
            assert response.headers["Idempotency-Retention"] == "2592000"
        for response in (
            await web.client.get("/nowhere", headers=headers),
            await web.client.put("/operations/echo", headers=headers),
        ):
            assert response.headers["Casops-Message"] == "m-1"
            problem(response, *((404, "path-unknown") if response.status_code == 404 else (405, "method-unknown")))


@pytest.mark.parametrize(("retention", "told"), [(0.4, "1"), (10, "10"), (10.2, "11"), (0, "0")])
async def test_a_short_retention_is_not_told_as_for_ever(retention: float, told: str) -> None:
    """Whole seconds, as results live in the store."""
    options = replace(QUICK, retention=retention, deadline=0.04)
    async with bank(options=options, service=replace(SERVICE, answer_within=0.01)) as web:
        assert (await web.client.get("/health")).headers["Idempotency-Retention"] == told


@pytest.mark.parametrize(
    "headers",
    [{"Casops-Message": "a b"}, {"Casops-Message": "x" * 201}, {"Casops-Retry": "often"}, {"Casops-Acknowledge": "a,"}],
)
async def test_headers_of_ours_that_cannot_be(headers: dict[str, str]) -> None:
    async with bank() as web:
        problem(await web.post("echo", "e", {}, **headers), 400, "header-invalid")
        assert web.casops.outcome("e") is None


async def test_the_operator_sees_that_an_operation_is_asked_for_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "casops.service")
    async with bank() as web:
        await web.post("echo", "e", {}, Casops_Retry="0")
        assert "again" not in caplog.text
        await web.post("echo", "e", {}, Casops_Retry="1")
        assert "operation e is asked for again: retry 1" in caplog.text


async def test_an_operation_that_is_not_there() -> None:
    async with bank() as web:
        told = problem(await web.post("transfre", "t", ARGUMENTS), 404, "operation-unknown")
        assert "transfer" in told["detail"]
        problem(await web.post("transfre", "t", body=b""), 404, "operation-unknown")
        assert told["happened"] == "no"


@pytest.mark.parametrize(
    ("method", "path", "kind"),
    [
        ("POST", "/operations/ehco", "operation-unknown"),
        ("POST", "/operation/echo", "path-unknown"),
        ("PUT", "/operations/echo", "method-unknown"),
    ],
)
async def test_what_is_asked_for_in_the_wrong_place_may_have_been_done(method: str, path: str, kind: str) -> None:
    async with bank() as web:
        assert (await web.post("echo", "e", {})).status_code == 200
        asked = await web.client.request(method, path, json={}, headers={"Idempotency-Key": '"e"'})
        told = problem(asked, 405 if kind == "method-unknown" else 404, kind)
        assert (told["happened"], told["retry"]) == ("unknown", True)
        asked = await web.client.request(method, path, json={})  # names no operation
        told = problem(asked, asked.status_code, kind)
        assert (told["happened"], told["retry"]) == ("no", False)


async def test_an_id_that_has_expired() -> None:
    async with bank() as web:
        told = problem(await web.post("echo", "01890a5d-ac96-774b-bcce-b302099a8057", {}), 410, "expired")
        assert (told["happened"], told["retry"]) == ("unknown", False)


async def test_a_store_that_is_away() -> None:
    store = Troubled(Refused("no room"))
    async with bank(store) as web:
        store.trouble = True
        response = await web.post("transfer", "t", ARGUMENTS)
        told = problem(response, 503, "store-unavailable")
        assert (response.headers["Retry-After"], told["retry"], told["happened"]) == ("1", True, "unknown")
        problem(await web.get("t"), 503, "store-unavailable")
        store.trouble = False
        response = await web.post("transfer", "t", ARGUMENTS)
        assert response.status_code == 200, response.text


async def test_an_outcome_that_is_not_known() -> None:
    store = Troubled(Unknown("no answer"))
    options = Options(patience=0.01, poll=0.001, deadline=0.2)
    async with bank(store, options=options, service=ServiceOptions(answer_within=0.19, forget_after=0)) as web:
        store.trouble = True
        # In which of the two orders the times are over is up to the machine; the work ends with the second.
        while (response := await web.post("transfer", "t", ARGUMENTS)).status_code == 409:
            problem(response, 409, "in-progress")
        told = problem(response, 503, "outcome-unknown")
        assert (response.headers["Retry-After"], told["retry"], told["happened"]) == ("1", True, "unknown")
        store.trouble = False
        response = await web.post("transfer", "t", ARGUMENTS)
        assert response.status_code == 200, response.text


async def test_business_code_that_breaks(caplog: pytest.LogCaptureFixture) -> None:
    async with bank() as web:
        response = await web.post("broken", "b", {"account": "alice"})
        told = problem(response, 500, "business-error")
        assert (told["operation_id"], told["retry"], told["happened"]) == ("b", True, "unknown")
        assert "a bug" not in response.text
        assert "ZeroDivisionError: a bug" in caplog.text
        assert [(each.operation_id, each.last_error) for each in web.casops.pending()] == [
            ("b", "ZeroDivisionError: a bug")
        ]
        pending = (await web.get("b")).json()
        assert (pending["status"], pending["failures"], pending["parked"]) == ("pending", 1, False)
        for _ in range(web.casops.options.park_after - 1):
            problem(await web.post("broken", "b", {"account": "alice"}), 500, "business-error")
        pending = (await web.get("b")).json()
        assert (pending["failures"], pending["parked"]) == (web.casops.options.park_after, True)
        assert "bug" not in str(pending)
        MENDED.append(True)
        try:
            response = await web.post("broken", "b", {"account": "alice"})
        finally:
            MENDED.clear()
        assert (response.status_code, response.json()) == (200, None)
        assert web.casops.read(Account.ref("alice")) == Account(balance=Decimal(101))


class Leaves(Operation[None]):
    http_name: ClassVar[str] = "leave"

    def apply(self, documents: Documents) -> None:
        raise SystemExit(3)


class Mine(CasOpsError):
    """An application's own."""


class Own(Operation[None]):
    def apply(self, documents: Documents) -> None:
        raise Mine("no such luck")


async def test_an_error_class_of_the_applications_own_is_wrong_use() -> None:
    async with bank(operations=[Own]) as web:
        told = problem(await web.post("own", "o", {}), 422, "usage")
        assert (told["error"], told["detail"], told["happened"]) == ("Mine", "no such luck", "no")
        problem(await web.get("o"), 404, "outcome-unheard")


class Silent(CasOpsError):
    """Does not call the constructor of its base, and holds what cannot be sent."""

    def __init__(self, *told: object) -> None:
        Exception.__init__(self, *told)


class Odd(Operation[None]):
    told: Literal["nothing", "text", "half a pair", "number"]

    def apply(self, documents: Documents) -> None:
        if self.told == "number":
            raise CasOpsError(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        raise Silent(*{"nothing": (), "text": ("no such luck",), "half a pair": ("no \ud800",)}[self.told])


@pytest.mark.parametrize(
    ("told", "detail"), [("nothing", ""), ("text", "no such luck"), ("half a pair", "no ?"), ("number", "7")]
)
async def test_an_odd_error_of_the_applications_own_is_a_problem_like_any_other(told: str, detail: str) -> None:
    async with bank(operations=[Odd]) as web:
        heard = problem(await web.post("odd", "o", {"told": told}), 422, "usage")
        assert (heard["detail"], heard["happened"]) == (detail, "no")
        problem(await web.get("o"), 404, "outcome-unheard")


class Choosy(Operation[None]):
    number: int

    @field_validator("number")
    @classmethod
    def check(cls, number: int) -> int:
        return {1: 1}[number]

    def apply(self, documents: Documents) -> None: ...


async def test_a_validator_that_breaks(caplog: pytest.LogCaptureFixture) -> None:
    async with bank(operations=[Choosy]) as web:
        told = problem(await web.post("choosy", "c", {"number": 2}), 500, "business-error")
        assert (told["operation_id"], told["happened"]) == ("c", "no")
        assert "KeyError" not in str(told)
        assert "KeyError: 2" in caplog.text
        problem(await web.get("c"), 404, "outcome-unheard")
        assert (await web.post("choosy", "c", {"number": 1})).status_code == 200


class Paid(BaseModel):
    note: str


class PaidSince(BaseModel):
    note: Literal["y"] = "y"


class Pay(Operation[Paid]):
    def apply(self, documents: Documents) -> Paid:
        return Paid(note="x")


class PaySince(Operation[PaidSince], name="Pay"):
    def apply(self, documents: Documents) -> PaidSince:
        return PaidSince()


async def test_a_result_that_no_longer_fits_its_type_is_not_told_as_if_nothing_had_happened() -> None:
    store = MemoryStore()
    with CasOps(store) as before:
        before.execute(Pay(), operation_id="p")
    async with bank(store, operations=[PaySince]) as web:
        for response in (await web.post("pay", "p", {}), await web.get("p")):
            told = problem(response, 500, "invariant-violation")
            assert told["detail"].startswith("it happened, but")
            assert told["happened"] == "unknown"


async def test_business_code_that_wants_to_end_the_process(caplog: pytest.LogCaptureFixture) -> None:
    async with bank(operations=[Leaves, Echo]) as web:
        problem(await web.post("leave", "l", {}), 500, "business-error")
        assert "SystemExit" in caplog.text
        assert (await web.post("echo", "e", {})).status_code == 200


class Opens(Operation[None], name="Open"):
    account: Ref[Account]

    def apply(self, documents: Documents) -> None:
        raise AssertionError("not called")


class Öffne(Operation[None]):
    def apply(self, documents: Documents) -> None:
        raise AssertionError("not called")


class Same(Operation[None]):
    http_name: ClassVar[str] = "echo"

    def apply(self, documents: Documents) -> None:
        raise AssertionError("not called")


async def test_what_cannot_be_served() -> None:
    casops = CasOps(MemoryStore(), options=QUICK)
    with pytest.raises(UsageError, match="two operations are named"):
        operations_router(casops, [Open, Opens], options=SERVICE)
    with pytest.raises(UsageError, match="http_name"):
        operations_router(casops, [Öffne], options=SERVICE)
    with pytest.raises(UsageError, match="same path"):
        operations_router(casops, [Echo, Same], options=SERVICE)
    with pytest.raises(UsageError, match="answer_within"):
        operations_router(casops, [Echo], options=ServiceOptions(answer_within=5.0))
    with pytest.raises(UsageError, match="forget_after"):
        operations_router(casops, [Echo], options=ServiceOptions(answer_within=1.0, forget_after=49.0))
    with pytest.raises(UsageError, match="CasOps"):
        operations_router(AsyncCasOps.open("memory://"), [Echo])  # type: ignore[arg-type]
    for wrong in ({"threads": 0}, {"retry_after": -1}, {"sweep_every": -1.0}, {"answer_within": float("nan")}):
        with pytest.raises(UsageError):
            ServiceOptions(**wrong)
    casops.close()


async def test_an_applications_own_guard_comes_first() -> None:
    def guard() -> None:
        raise HTTPException(401, "who are you?")

    casops = CasOps(MemoryStore(), options=QUICK)
    application = FastAPI()
    router = operations_router(casops, [Echo], options=SERVICE)
    application.include_router(router, prefix="/v1", dependencies=[Depends(guard)])
    async with serving(application, casops) as web:
        response = await web.client.post("/v1/operations/echo", json={}, headers={"Idempotency-Key": "e"})
        assert (response.status_code, response.json()) == (401, {"detail": "who are you?"})
        assert casops.outcome("e") is None
    casops.close()


async def test_a_router_in_an_application_of_ones_own() -> None:
    casops = CasOps(MemoryStore(), options=QUICK)
    application = FastAPI()
    application.include_router(operations_router(casops, [Echo], options=SERVICE), prefix="/v1")
    async with serving(application, casops) as web:
        headers = {"Idempotency-Key": "e"}
        assert (await web.client.post("/v1/operations/echo", json={"value": 1}, headers=headers)).json() == 1
        assert (await web.client.get("/v1/operations/e")).json()["result"] == 1
        assert (await web.client.get("/v1/health")).status_code == 204
    assert casops.outcome("e") is not None  # it is the application's own, and still open
    casops.close()


async def test_what_an_operation_knows_is_in_the_openapi_document() -> None:
    casops = CasOps(MemoryStore(), options=Options(retention=7 * 86_400))
    document = create_app(casops, [Open, Transfer, Echo]).openapi()
    casops.close()
    assert sorted(document["paths"]) == [
        "/health",
        "/operations/echo",
        "/operations/open",
        "/operations/transfer",
        "/operations/{operation_id}",
    ]
    asked = document["paths"]["/operations/transfer"]["post"]
    assert "remembered for 7 days" in asked["description"]
    assert set(asked["responses"]) == {"200", "400", "408", "409", "410", "413", "422", "431", "500", "503"}
    assert set(asked["requestBody"]["content"]["application/json"]["schema"]["properties"]) == {
        "source",
        "target",
        "amount",
    }
    assert "Idempotent-Replayed" in asked["responses"]["200"]["headers"]
    assert "Retry-After" in asked["responses"]["503"]["headers"]
    assert list(asked["responses"]["422"]["content"]) == ["application/problem+json"]
