"""The client's parts, each alone: time-outs, budget, servers' health, acknowledgements, table, age, replies."""

from __future__ import annotations

import ast
import inspect
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, model_validator

import casops.client
from casops import (
    CasOpsError,
    Contended,
    DocumentMissing,
    Documents,
    Expired,
    InvariantViolation,
    Operation,
    OperationMismatch,
    OutcomeUnknown,
    StoreUnavailable,
    UsageError,
    new_operation_id,
)
from casops.client import BusinessError, ClientOptions
from casops.client.acknowledging import MOST_BYTES, Acknowledgements
from casops.client.aging import check_age, has_to_be_young
from casops.client.budget import Budget
from casops.client.messages import Answer, Found, Healthy, Lost, Seen, Told
from casops.client.notices import Notice
from casops.client.pending import Asked, Entry, Table
from casops.client.replies import canonical, read_answer, read_health, read_outcome, read_retention
from casops.client.servers import Server, Servers
from casops.client.telling import tell
from casops.client.timing import RoundTrips
from casops.client.translating import check_urls, looked_up, outcome_of
from casops.operations import result_adapter
from casops.wire import MAX_ACKNOWLEDGED, PROBLEM_URN, encode_ids
from tests.bank import Receipt, Transfer

PACKAGE = Path(casops.client.__file__).parent
PURE = (
    *("acknowledging", "aging", "asking", "budget", "desk", "errors", "looking", "messages", "notices", "options"),
    *("pending", "probing", "replies", "servers", "timing"),
)


# --- time-outs --------------------------------------------------------------------------------


def free(**changes: float) -> ClientOptions:
    """Without bounds that hide what is measured."""
    return ClientOptions(least_timeout=0, most_timeout=1000, **changes)  # type: ignore[arg-type]


def test_the_first_time_out_is_three_times_the_first_round_trip() -> None:
    trips = RoundTrips(free())
    trips.measured(0.2)
    assert trips.timeout() == pytest.approx(3 * 0.2)


def test_three_times_the_average_is_the_case_of_a_deviation_of_half_the_average() -> None:
    trips = RoundTrips(free())
    for _ in range(2000):  # a deviation of exactly half the average, about an average of 2
        trips.measured(3)
        trips.measured(1)
    assert trips.smoothed == pytest.approx(2, abs=0.15)
    assert trips.timeout() == pytest.approx(2 + 4 * 1, rel=0.05)


def test_round_trips_as_in_rfc_6298() -> None:
    trips = RoundTrips(free())
    trips.measured(1.0)
    trips.measured(2.0)
    assert trips.deviation == 0.75 * 0.5 + 0.25 * 1.0
    assert trips.smoothed == 0.875 * 1.0 + 0.125 * 2.0


def test_even_round_trips_bring_the_time_out_down_to_the_average() -> None:
    trips = RoundTrips(free())
    for _ in range(100):
        trips.measured(0.5)
    assert trips.timeout() == pytest.approx(0.5, rel=0.01)


def test_time_outs_have_bounds_and_double() -> None:
    trips = RoundTrips(ClientOptions(first_timeout=3, least_timeout=1, most_timeout=10))
    assert [trips.timeout(each) for each in range(4)] == [3, 6, 10, 10]
    assert trips.timeout(10_000) == 10
    trips.measured(0.001)
    assert [trips.timeout(each) for each in range(3)] == [1, 2, 4]
    trips.measured(1000.0)
    assert trips.timeout() == 10


# --- the retry budget -------------------------------------------------------------------------


def test_a_budget_is_used_up_and_comes_back_with_time() -> None:
    budget = Budget(ClientOptions(retry_burst=2, retry_rate=0.5, retry_share=0))
    assert [budget.take(0.0) for _ in range(3)] == [True, True, False]
    assert budget.ready_at(0.0) == pytest.approx(2.0, abs=0.01)
    assert not budget.take(1.9)
    assert budget.take(budget.ready_at(1.9))
    assert [budget.take(1000.0) for _ in range(3)] == [True, True, False]  # never more than the burst


def test_a_budget_comes_back_with_new_calls() -> None:
    budget = Budget(ClientOptions(retry_burst=1, retry_rate=0, retry_share=0.5))
    assert budget.take(0.0)
    assert budget.ready_at(0.0) == float("inf")
    budget.asked()
    assert not budget.take(0.0)
    budget.asked()
    assert budget.take(0.0)


def test_a_budget_does_not_mind_a_clock_that_stands_still() -> None:
    budget = Budget(ClientOptions(retry_burst=1))
    assert budget.take(5.0)
    assert not budget.take(5.0)
    assert not budget.take(4.0)


# --- servers ----------------------------------------------------------------------------------


def test_a_server_that_answers_late_is_slow_and_recovers_by_answers_in_time() -> None:
    server = Server("http://a", ClientOptions(recovered_after=2))
    assert server.suspect()
    assert not server.suspect()  # no news
    assert server.answered(late=True) == "slow"
    assert server.comebacks == 1
    assert server.answered(late=False) is None
    assert server.answered(late=True) is None  # late again: it begins anew
    assert server.answered(late=False) is None
    assert server.answered(late=False) == "up"


def test_a_late_answer_alone_does_not_make_a_good_server_slow() -> None:
    server = Server("http://a", ClientOptions())
    assert server.answered(late=True) is None
    assert server.state == "up"


def test_a_probed_server_has_to_show_that_it_answers() -> None:
    server = Server("http://a", ClientOptions(probe=1, probe_at_most=5))
    assert server.probed() is None  # it was not suspect
    pauses: list[float] = []
    for _ in range(5):
        server.suspect()
        pauses.append(server.probe_pause())
        assert server.probed() == "slow"
    assert pauses == [1, 2, 4, 5, 5]
    server.answered(late=False)
    server.suspect()
    assert server.probe_pause() == 1  # it had answered since


def test_slow_servers_get_every_nth_call_and_suspects_nothing() -> None:
    servers = Servers(["a", "b", "c"], ClientOptions(slow_share=4))
    up, slow, suspect = servers.all
    slow.suspect()
    slow.answered(late=True)
    suspect.suspect()
    first: list[str] = []
    for _ in range(8):
        slow_first = servers.try_slow()
        best = servers.best(servers.all, slow_first=slow_first)
        assert best is not None
        first.append(best.url)
    assert first == ["a", "a", "a", "b", "a", "a", "a", "b"]
    assert servers.best([slow, suspect], slow_first=False) is slow
    assert servers.best([suspect], slow_first=False) is suspect
    assert servers.best([], slow_first=False) is None
    assert up.state == "up"


def test_good_servers_take_turns_and_the_busy_one_waits() -> None:
    servers = Servers(["a", "b"], ClientOptions(slow_share=0))
    seen: set[str] = set()
    for _ in range(2):
        assert not servers.try_slow()
        best = servers.best(servers.all, slow_first=False)
        assert best is not None
        seen.add(best.url)
    assert seen == {"a", "b"}
    servers.all[0].in_flight = 1
    for _ in range(2):
        servers.try_slow()
        assert servers.best(servers.all, slow_first=False) is servers.all[1]


# --- acknowledgements -------------------------------------------------------------------------


def test_acknowledgements_fit_into_a_header() -> None:
    acknowledgements = Acknowledgements()
    for each in range(MAX_ACKNOWLEDGED + 1):
        acknowledgements.add(f"short-{each}")
    assert len(acknowledgements.take()) == MAX_ACKNOWLEDGED
    assert acknowledgements.take() == (f"short-{MAX_ACKNOWLEDGED}",)
    for each in range(20):
        acknowledgements.add("ü" * 90 + str(each))
    taken = acknowledgements.take()
    assert 0 < len(taken) < 20
    assert len(encode_ids(taken)) <= MOST_BYTES
    acknowledgements.give_back(taken)
    assert acknowledgements.take() == taken


# --- the table --------------------------------------------------------------------------------


def asked(operation_id: str, fingerprint: str = "f") -> Asked:
    return Asked(operation_id, "Act", fingerprint, "{}", 0.0)


def test_an_id_in_the_table_belongs_to_one_operation() -> None:
    table = Table(ClientOptions())
    entry = table.enter(asked("i"), "/p")
    assert table.enter(asked("i"), "/p") is entry
    with pytest.raises(OperationMismatch, match="nothing was sent"):
        table.enter(asked("i", "other"), "/p")


def test_the_table_has_a_bound() -> None:
    table = Table(ClientOptions(table=1))
    entry = table.enter(asked("i"), "/p")
    with pytest.raises(Contended, match="nothing was sent") as full:
        table.enter(asked("j"), "/p")
    assert (full.value.happened, full.value.retry) == (None, True)  # an earlier life may have been answered
    table.leave(entry, delivered=True)
    assert table.drop_if_done(entry)
    table.enter(asked("j"), "/p")


def test_an_entry_stays_until_it_was_delivered_and_no_message_is_out() -> None:
    table = Table(ClientOptions())
    entry = table.enter(asked("i"), "/p")
    table.leave(entry, delivered=False)
    assert not table.drop_if_done(entry)
    assert table.waiting() == [asked("i")]
    assert table.enter(asked("i"), "/p") is entry
    entry.out = 1
    table.leave(entry, delivered=True)
    assert not table.drop_if_done(entry)
    assert table.waiting() == []
    entry.out = 0
    assert table.drop_if_done(entry)
    assert table.all_replied("i")


def test_what_ended_with_an_error_and_is_asked_for_again_is_pending_again() -> None:
    table = Table(ClientOptions())
    entry = table.enter(asked("i"), "/p")
    entry.out = 1
    table.leave(entry, delivered=True)
    assert table.waiting() == []
    assert table.enter(asked("i"), "/p") is entry
    table.leave(entry, delivered=False)
    assert table.waiting() == [asked("i")]


def test_an_error_settles_nothing_for_another_call() -> None:
    table = Table(ClientOptions())
    entry = table.enter(asked("i"), "/p")
    table.enter(asked("i"), "/p")
    assert not table.leave(entry, delivered=True)
    assert table.waiting() == [asked("i")]
    assert table.leave(entry, delivered=True)
    assert table.waiting() == []
    entry = table.enter(asked("j"), "/p")
    table.enter(asked("j"), "/p")
    entry.answer = Answer("applied", "1")
    assert table.leave(entry, delivered=True)


@pytest.mark.parametrize("answer", [None, Answer("applied", "1")])
def test_an_id_that_was_given_up_while_a_server_was_at_it_is_remembered_as_such(answer: Answer | None) -> None:
    table = Table(ClientOptions())
    entry = table.enter(asked("i"), "/p")
    entry.begun, entry.answer = True, answer
    table.leave(entry, delivered=True)
    assert table.drop_if_done(entry)
    assert table.all_replied("i") is (answer is not None)
    assert table.enter(asked("i"), "/p").uncertain is (answer is None)


def test_an_id_with_a_lost_message_is_remembered_as_such() -> None:
    table = Table(ClientOptions())
    for lost in (True, False):  # the second time nothing is lost, but the first message may still arrive
        entry = table.enter(asked("i"), "/p")
        entry.uncertain = entry.uncertain or lost
        table.leave(entry, delivered=True)
        assert table.drop_if_done(entry)
        assert not table.all_replied("i")
    assert not table.all_replied("never heard of")


# --- age --------------------------------------------------------------------------------------


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize(("age", "late"), [(0, False), (50, False), (51, True), (-50, False), (-51, True)])
def test_what_is_older_than_half_of_the_retention_is_not_asked_again(earlier: bool, age: float, late: bool) -> None:
    entry = Entry(asked("i"), sent=1, earlier=earlier)
    check_age(entry, age, float("inf"))
    if not late:
        check_age(entry, age, 100)
        return
    with pytest.raises(Expired, match="clock is wrong" if age < 0 else "51 seconds ago") as error:
        check_age(entry, age, 100)
    assert (error.value.happened, error.value.retry, error.value.operation_id) == (None, False, "i")


def test_without_a_retention_only_what_this_life_asked_for_is_asked_again() -> None:
    check_age(Entry(asked("i"), sent=1), 0, None)
    with pytest.raises(OutcomeUnknown, match="Idempotency-Retention") as error:
        check_age(Entry(asked("i"), sent=1, earlier=True), 0, None)
    assert error.value.operation_id == "i"


def test_what_has_no_result_yet_or_tells_its_own_time_may_be_old() -> None:
    assert has_to_be_young(Entry(asked("i"), sent=1))
    assert not has_to_be_young(Entry(asked("i")))
    assert not has_to_be_young(Entry(asked(new_operation_id()), sent=1))
    assert not has_to_be_young(Entry(asked("i"), sent=1, answer=Answer("applied")))


def test_an_entry_of_an_earlier_life_is_known_as_such() -> None:
    table = Table(ClientOptions())
    table.restore(asked("i"))
    assert table.enter(asked("i"), "/p").earlier
    assert not table.enter(asked("j"), "/p").earlier


# --- replies ----------------------------------------------------------------------------------


def told(status: int, kind: str, headers: dict[str, str] | None = None, **members: Any) -> object:
    body = json.dumps({"type": PROBLEM_URN + kind, "detail": "why", "happened": "no", **members}).encode()
    return read_answer("i", status, headers or {}, body)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2592000", 2_592_000.0), ("1576800000", 1_576_800_000.0), ("0", float("inf")), ("", None), ("-1", None)],
)
def test_the_retention_that_a_server_tells(text: str, seconds: float | None) -> None:
    assert read_retention({"idempotency-retention": text}) == seconds
    assert read_retention({}) is None


def test_answers() -> None:
    assert read_answer("i", 200, {}, b"null") == Answer("applied", "null")
    replay = read_answer("i", 200, {"idempotent-replayed": "true", "casops-attempts": "3"}, b'{"left": "0"}')
    assert isinstance(replay, Answer)
    assert (replay.replayed, replay.taken_over, replay.attempts) == (True, False, 3)
    declined = told(422, "declined", code="no", details={"left": None})
    assert declined == Answer("declined", "null", "no", {"left": None})
    assert told(422, "cancelled") == Answer("cancelled")


@pytest.mark.parametrize(
    ("status", "kind", "error", "again"),
    [
        (400, "body-invalid", UsageError, "others"),
        (404, "operation-unknown", UsageError, "others"),
        (404, "path-unknown", UsageError, "others"),
        (405, "method-unknown", UsageError, "others"),
        (422, "of-next-year", UsageError, "never"),
        (413, "body-too-large", UsageError, "others"),
        (431, "headers-too-large", UsageError, "others"),
        (400, "header-invalid", UsageError, "others"),
        (410, "expired", Expired, "never"),
        (422, "operation-mismatch", OperationMismatch, "never"),
        (500, "business-error", BusinessError, "never"),
        (500, "invariant-violation", InvariantViolation, "never"),
        (409, "in-progress", OutcomeUnknown, "here"),
        (503, "contended", Contended, "here"),
        (503, "store-unavailable", StoreUnavailable, "elsewhere"),
        (503, "outcome-unknown", OutcomeUnknown, "elsewhere"),
        (503, "too-busy", StoreUnavailable, "elsewhere"),
        (408, "body-late", OutcomeUnknown, "elsewhere"),
        (503, "of-next-year", OutcomeUnknown, "elsewhere"),
    ],
)
def test_problems_are_the_errors_of_a_local_call(status: int, kind: str, error: type, again: str) -> None:
    fate = told(status, kind, {"retry-after": "7"})
    assert isinstance(fate, Told)
    assert type(fate.error) is error
    assert str(fate.error) == "why [operation i]"
    assert (fate.again, fate.pause) == (again, 7)


def test_every_kind_of_problem_of_the_service_is_understood() -> None:
    from casops.service.problems import KINDS

    for kind, (status, _) in KINDS.items():
        members: dict[str, Any] = {"code": "no", "details": {}} if kind == "declined" else {}
        assert isinstance(told(status, kind, **members), Told | Answer), kind


def test_wrong_use_keeps_its_class() -> None:
    fate = told(422, "usage", error="DocumentMissing")
    assert isinstance(fate, Told)
    assert type(fate.error) is DocumentMissing
    other = told(422, "usage", error="SystemExit")
    assert isinstance(other, Told)
    assert type(other.error) is UsageError


def test_wrong_use_of_what_another_call_has_declared_may_happen_yet() -> None:
    fate = told(422, "usage", error="DocumentMissing", happened="unknown", retry=True)
    assert isinstance(fate, Told)
    assert type(fate.error) is DocumentMissing
    assert (fate.error.happened, fate.error.retry, fate.begun, fate.again) == (None, True, True, "never")


@pytest.mark.parametrize("happened", ["unknown", None, "maybe"])
@pytest.mark.parametrize(
    ("status", "kind", "error"),
    [
        (503, "contended", Contended),
        (422, "usage", UsageError),
        (422, "operation-mismatch", OperationMismatch),
        (422, "of-next-year", OutcomeUnknown),
        (400, "body-invalid", UsageError),
    ],
)
def test_that_it_did_not_happen_is_believed_only_where_it_is_said(
    status: int, kind: str, error: type, happened: str | None
) -> None:
    fate = told(status, kind, happened=happened)
    assert isinstance(fate, Told)
    assert type(fate.error) is error
    assert (fate.error.happened, fate.error.retry, fate.begun) == (None, True, True)


def test_a_problem_of_a_newer_service_that_asks_for_another_try_is_not_final() -> None:
    fate = told(422, "of-next-year", retry=True)
    assert isinstance(fate, Told)
    assert (type(fate.error), fate.again) == (OutcomeUnknown, "elsewhere")


@pytest.mark.parametrize("key", ['"j"', "j", '"%"', ""])
def test_an_answer_about_another_operation_is_no_reply(key: str) -> None:
    assert isinstance(read_answer("i", 200, {"idempotency-key": key}, b"1"), Lost)
    assert read_answer("i", 200, {"idempotency-key": '"i"'}, b"1") == Answer("applied", "1")


@pytest.mark.parametrize(
    ("status", "members"),
    [
        (200, {"status": "pending"}),
        (200, {"status": "applied", "result": 1, "operation_id": "j"}),
        (404, {"type": PROBLEM_URN + "outcome-unheard", "operation_id": "j"}),
        (410, {"type": PROBLEM_URN + "expired", "operation_id": "j"}),
        (200, {"status": "applied", "operation_id": "i"}),  # but with what result?
        (200, {"status": "declined", "operation_id": "i"}),
        (200, {"status": "declined", "operation_id": "i", "refusal": None}),
        (200, {"status": "declined", "operation_id": "i", "refusal": {"code": "no"}}),
        (200, {"status": "pending", "operation_id": "i", "failures": "many"}),
        (200, {"status": "pending", "operation_id": "i", "since": "long"}),
        (200, {"status": "of-next-year", "operation_id": "i"}),
    ],
)
def test_an_outcome_of_another_operation_or_without_its_parts_is_no_reply(status: int, members: Any) -> None:
    assert isinstance(read_outcome("i", status, {}, json.dumps(members).encode()), Lost)


@pytest.mark.parametrize(
    ("status", "kind", "happened", "begun"),
    [
        (409, "in-progress", "unknown", True),
        (503, "outcome-unknown", "unknown", True),
        (500, "business-error", "unknown", True),
        (500, "business-error", "no", False),
        (503, "too-busy", "no", False),
        (503, "too-busy", "unknown", False),  # what others did; this one did nothing
        (503, "contended", "no", False),
        (422, "usage", "no", False),
    ],
)
def test_what_a_server_may_be_at(status: int, kind: str, happened: str, begun: bool) -> None:
    fate = told(status, kind, happened=happened)
    assert isinstance(fate, Told)
    assert fate.begun is begun


@pytest.mark.parametrize("after", ["Wed, 21 Oct 2015 07:28:00 GMT", "-1", "1e9", "", "٣", "9" * 5000])
def test_a_retry_after_that_is_no_number_of_seconds_counts_as_not_said(after: str) -> None:
    fate = told(409, "in-progress", {"retry-after": after})
    assert isinstance(fate, Told)
    assert fate.pause is None


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b""),
        (200, b"<html>"),
        (200, b"\xff"),
        (200, b'"\xed\xa0\x80"'),  # half of a surrogate pair
        (200, b"[" * 200_000),
        (302, b""),
        (404, b"Not Found"),
        (502, b"<html>bad gateway</html>"),
        (503, b"[]"),
        (422, b'{"type": "about:blank"}'),
        (422, b'{"type": 1}'),
        (422, b'{"type": "urn:casops:problem:declined"}'),
        (500, b"[" * 200_000),
    ],
)
def test_whatever_else_comes_is_no_reply(status: int, body: bytes) -> None:
    fate = read_answer("i", status, {}, body)
    assert isinstance(fate, Lost)
    assert fate.sent
    if b"declined" not in body:  # which only answers to the operation itself can say
        assert isinstance(read_outcome("i", status, {}, body), Lost)


def test_equal_answers_are_equal_however_they_are_written() -> None:
    assert canonical(Answer("applied", '{"a": 1, "b": 2}')) == canonical(
        Answer("applied", '{"b":2,"a":1}', replayed=True)
    )
    different = ["1", "1.0", "true", '"1"', "null", "[1]"]
    assert len({canonical(Answer("applied", each)) for each in different}) == len(different)
    assert canonical(Answer("declined", code="a")) != canonical(Answer("declined", code="b"))
    assert canonical(Answer("applied")) != canonical(Answer("cancelled"))


def test_outcomes_and_health() -> None:
    assert read_outcome("i", 404, {}, json.dumps({"type": PROBLEM_URN + "outcome-unheard"}).encode()) == Seen(None)
    pending = Found(operation_id="i", status="pending", parked=True, failures=3)
    assert read_outcome("i", 200, {}, pending.model_dump_json().encode()) == Seen(pending)
    assert read_health(204) == Healthy()
    assert isinstance(read_health(503), Lost)


def test_a_result_that_does_not_fit_is_loud() -> None:
    adapter = result_adapter(Transfer)
    assert outcome_of(asked("i"), Answer("applied", '{"left": "1.10"}'), adapter).result == Receipt(left="1.10")  # type: ignore[arg-type]
    with pytest.raises(InvariantViolation, match="it happened"):
        outcome_of(asked("i"), Answer("applied", "[]"), adapter)
    with pytest.raises(InvariantViolation, match="it happened"):
        looked_up(Found(operation_id="i", status="applied", operation="Transfer", result=[]), {"Transfer": Transfer})


class Moody(BaseModel):
    left: int

    @model_validator(mode="after")
    def _check(self) -> Moody:
        return {1: self}[self.left]  # what an application's validator may raise


class Mood(Operation[Moody], name="mood"):
    def apply(self, documents: Documents) -> Moody:
        return Moody(left=1)


def test_whatever_a_validator_raises_is_told_as_what_it_is() -> None:
    with pytest.raises(InvariantViolation, match=r"it happened.*KeyError: 2"):
        outcome_of(asked("i"), Answer("applied", '{"left": 2}'), result_adapter(Mood))
    with pytest.raises(InvariantViolation, match=r"it happened.*KeyError: 2"):
        looked_up(Found(operation_id="i", status="applied", operation="mood", result={"left": 2}), {"mood": Mood})


def test_ctrl_c_while_the_application_is_told_is_not_swallowed() -> None:
    def interrupted(notice: Notice) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tell(Notice("slow", "http://a", "why"), interrupted)


# --- wrong use --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "servers",
    [
        *([], "http://a", ["a"], ["ftp://a"], ["http://"], ["http://a:x"], ["http://a", "http://a/"], ["http://a?b"]),
        *(["http://a#b"], ["http://a/\n"], ["http://a b"], ["http://a\0"]),
    ],
)
def test_servers_that_cannot_be(servers: list[str]) -> None:
    with pytest.raises(UsageError):
        check_urls(servers)


def test_options_refuse_what_cannot_be() -> None:
    for wrong in (
        {"deadline": 0},
        {"pause": -1},
        {"life": float("inf")},
        {"probe": float("nan")},
        {"retry_burst": 0},
        {"messages": 0},
        {"slow_share": -1},
        {"least_timeout": 2, "most_timeout": 1},
    ):
        with pytest.raises(UsageError):
            ClientOptions(**wrong)
    ClientOptions(least_timeout=0, pause=0, retry_share=0, retry_rate=0, slow_share=0)


def test_every_option_is_explained() -> None:
    tree = ast.parse(inspect.getsource(ClientOptions)).body[0]
    assert isinstance(tree, ast.ClassDef)
    for here, after in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(here, ast.AnnAssign):
            assert isinstance(after, ast.Expr)
            assert "ero" in ast.unparse(after)


def test_exports_are_these_and_errors_survive_pickling() -> None:
    assert casops.client.__all__ == sorted(casops.client.__all__)
    error = BusinessError("why", operation_id="i")
    back = pickle.loads(pickle.dumps(error))
    assert isinstance(back, CasOpsError)
    assert (str(back), back.happened, back.retry) == (str(error), None, True)


@pytest.mark.parametrize("name", PURE)
def test_the_pure_parts_do_no_io_and_read_no_clock(name: str) -> None:
    allowed = {
        "__future__",
        "collections",
        "collections.abc",
        "dataclasses",
        "json",
        "typing",
        "urllib.parse",
        "pydantic",
        "re",
    }
    outside: set[str] = set()
    for node in ast.walk(ast.parse((PACKAGE / f"{name}.py").read_text())):
        if isinstance(node, ast.Import):
            outside |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            outside.add(node.module or "")
    casops_own = {f"casops.{each}" for each in ("bounds", "errors", "ids", "validating", "wire")}
    assert outside <= allowed | casops_own | {f"casops.client.{each}" for each in PURE}
