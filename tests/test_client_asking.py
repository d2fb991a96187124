"""Calls of the client in a world without I/O: every story of lost, late and doubled messages, step by step."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest

from casops import Contended, DocumentMissing, Expired, OperationMismatch, OutcomeUnknown, StoreUnavailable, UsageError
from casops.client import BusinessError, ClientOptions
from casops.client.desk import Desk
from casops.client.looking import Question, looking
from casops.client.messages import Answer, Found, Message, Seen
from casops.wire import ACKNOWLEDGE, IDEMPOTENCY_KEY, MESSAGE, RETRY
from tests.client_world import Arrival, Behaviour, Call, NoReply, Reply, World, applied, away, problem, silent

QUICK = ClientOptions(
    deadline=10, first_timeout=1, least_timeout=0.5, most_timeout=4, life=30, pause=0.1, probe=0.5, probe_at_most=4
)


def always(*arrivals: Arrival) -> Behaviour:
    return lambda message, now: list(arrivals)


def scripted(*answers: list[Arrival]) -> Behaviour:
    """The first message gets the first of these, and so on; the last one stays."""
    left = list(answers)
    return lambda message, now: left.pop(0) if len(left) > 1 else left[0]


def only_operations(behaviour: Behaviour) -> Behaviour:
    """Probes get no reply, so that only answers bring a server back."""
    return lambda message, now: [] if message.concern.path == "/health" else behaviour(message, now)


def healthy(behaviour: Behaviour) -> Behaviour:
    return lambda message, now: [(0.01, Reply(204))] if message.concern.path == "/health" else behaviour(message, now)


def numbers(world: World, name: str) -> list[str]:
    return [each.headers[RETRY] for each in world.asked(name)]


# --- nothing goes wrong -----------------------------------------------------------------------


def test_one_message_one_answer() -> None:
    world = World(["a"], QUICK)
    world.servers["a"] = always((0.1, applied(5)))
    call = world.call("order 1 ü")
    assert call.answer == Answer("applied", "5")
    (message,) = world.asked("a")
    assert dict(message.headers) == {
        MESSAGE: "world-1",
        IDEMPOTENCY_KEY: '"order 1 %C3%BC"',
        RETRY: "0",
        "content-type": "application/json",
    }
    assert call.ended_at == 1000.1
    assert list(world.desk.table) == []


# --- lost and late ----------------------------------------------------------------------------


def test_the_first_time_out_asks_the_same_server_again() -> None:
    world = World(["a", "b"], QUICK)
    first = scripted([], [(0.1, applied(1))])
    world.servers.update(a=first, b=first)
    call = world.call()
    assert call.answer == Answer("applied", "1")
    asked = [message for _, message in world.sent]
    assert len({message.server for message in asked}) == 1
    assert [message.headers[RETRY] for message in asked] == ["0", "1"]
    assert len({message.id for message in asked}) == 2
    assert [at - 1000 for at, _ in world.sent] == [0, 1]
    assert world.notices == []


def test_the_second_time_out_makes_the_server_suspect_and_asks_the_next() -> None:
    world = World(["a", "b"], QUICK)
    world.server("b").in_flight = 1  # so that the other one is asked first
    world.servers["b"] = always((0.1, applied(1)))
    call = world.call()
    assert call.answer == Answer("applied", "1")
    assert numbers(world, "a") == ["0", "1"]
    assert numbers(world, "b") == ["2"]
    assert [at - 1000 for at, _ in world.sent] == [0, 1, 3]  # the retry waits twice as long
    assert [(each.kind, each.server, each.operation_id) for each in world.notices] == [("suspect", "http://a", "i")]
    assert world.server("a").state == "suspect"
    assert world.desk.counters.timeouts == 2


def test_an_answer_after_the_server_was_given_up_answers_the_call_and_the_server_is_slow() -> None:
    world = World(["a"], QUICK)
    world.servers["a"] = only_operations(scripted([(3.2, applied(1))], []))
    call = world.call()
    assert call.answer == Answer("applied", "1")
    assert call.ended_at == pytest.approx(1003.2)
    assert [each.kind for each in world.notices] == ["suspect", "slow"]
    assert world.desk.counters.late == 1


def test_an_answer_after_the_caller_gave_up_is_there_when_it_asks_again() -> None:
    world = World(["a"], QUICK)
    world.servers["a"] = only_operations(scripted([(15.0, applied(1))], []))
    call = world.call()
    assert isinstance(call.error, OutcomeUnknown)
    world.run_for(40)  # until the retry, which nobody answered, is given up too
    sent = len(world.sent)
    again = world.begin()
    assert again.ended
    assert again.answer == Answer("applied", "1")
    assert len(world.sent) == sent  # nothing more was asked
    assert list(world.desk.table) == []


def test_two_equal_answers_are_counted() -> None:
    world = World(["a"], QUICK)
    world.servers["a"] = scripted([(1.5, applied(1))], [(0.2, applied(1))])
    assert world.call().answer == Answer("applied", "1")
    world.run_for(5)
    assert (world.desk.counters.answers, world.desk.counters.doubled, world.desk.counters.contradictions) == (1, 1, 0)
    assert list(world.desk.table) == []


def test_two_different_answers_are_a_loud_error_and_the_first_stays() -> None:
    world = World(["a"], QUICK)
    world.servers["a"] = scripted([(1.5, applied(1))], [(0.2, applied(2))])
    assert world.call().answer == Answer("applied", "2")
    world.run_for(5)
    assert world.desk.counters.contradictions == 1
    (notice,) = world.notices
    assert notice.kind == "contradiction"
    assert notice.error is not None
    assert notice.error.operation_id == "i"


def test_a_reply_to_another_message_is_no_reply() -> None:
    world = World(["a"], QUICK)
    for echo in ({}, {MESSAGE.lower(): "world-0"}):
        strange: list[Arrival] = [(0.1, Reply(200, b"1", echo, echo=False))]
        world.servers["a"] = scripted(strange, [(0.1, applied(2))])
        assert world.call().answer == Answer("applied", "2")
    assert world.desk.counters.foreign == 2
    assert world.desk.counters.contradictions == 0


def test_what_was_wrong_with_the_last_reply_is_told() -> None:
    world = World(["a"], QUICK)
    page: list[Arrival] = [(0.1, Reply(200, b"<html>", {}, echo=False))]
    world.servers["a"] = scripted(*[page] * 20)
    error = world.call().error
    assert isinstance(error, OutcomeUnknown)
    assert "of the last: a reply (200) that does not name its message" in str(error)


def test_nobody_ever_answers() -> None:
    world = World(["a", "b", "c"], QUICK)
    call = world.call()
    assert isinstance(call.error, OutcomeUnknown)
    assert "ask again later with the same id" in str(call.error)
    assert call.ended_at == 1010
    assert len(world.sent) == len([1 for _, each in world.sent if each.concern.path == "/health"]) + 6
    assert [asked.operation_id for asked in world.desk.table.waiting()] == ["i"]


def test_a_wait_that_the_deadline_cuts_short_is_not_held_against_the_server() -> None:
    world = World(["a"], ClientOptions(deadline=0.5, first_timeout=1))
    call = world.call()
    assert isinstance(call.error, OutcomeUnknown)
    assert world.server("a").state == "up"
    assert world.desk.counters.timeouts == 0


# --- connections ------------------------------------------------------------------------------


def test_no_connection_is_certain_and_costs_nothing() -> None:
    world = World(["a", "b", "c"], ClientOptions(retry_burst=1, retry_rate=0, retry_share=0))
    world.servers.update(a=away, b=away, c=always((0.1, applied(1))))
    for each in range(5):
        assert world.call(f"i{each}").answer == Answer("applied", "1")
    assert world.desk.counters.held_back == 0
    assert world.desk.counters.timeouts == 0
    assert {world.server("a").state, world.server("b").state} == {"suspect"}


def test_no_server_can_be_reached_and_the_error_says_that_nothing_was_sent() -> None:
    world = World(["a", "b"], QUICK)
    world.servers.update(a=away, b=away)
    call = world.call()
    assert isinstance(call.error, OutcomeUnknown)
    assert "nothing was sent by this call" in str(call.error)
    assert call.ended_at < 1000.1
    world.servers.update(a=always((0.1, applied(1))))
    assert world.call().answer == Answer("applied", "1")  # suspect, but there is no other


def test_a_broken_connection_is_unknown_and_the_same_server_is_asked_again() -> None:
    world = World(["a"], QUICK)
    world.servers["a"] = scripted([(0.1, NoReply(sent=True))], [(0.1, applied(1))])
    assert world.call().answer == Answer("applied", "1")
    assert numbers(world, "a") == ["0", "1"]
    assert world.desk.counters.broken == 1
    assert not world.desk.table.all_replied("i")  # it may still arrive, so the id is never acknowledged


def test_connections_that_always_break_end_the_call_at_once() -> None:
    world = World(["a", "b"], QUICK)
    world.servers.update(a=always((0.1, NoReply(sent=True))), b=always((0.1, NoReply(sent=True))))
    call = world.call()
    assert isinstance(call.error, OutcomeUnknown)
    assert call.ended_at < 1003
    assert len(world.asked("a")) + len(world.asked("b")) == 4


# --- what servers say -------------------------------------------------------------------------


def test_in_progress_is_asked_again_at_the_same_server_when_it_says_so() -> None:
    world = World(["a", "b"], ClientOptions(retry_burst=1, retry_rate=0, retry_share=0))
    busy: list[Arrival] = [(0.1, problem(409, "in-progress", retry_after=2))]
    same = scripted(busy, busy, busy, [(0.1, applied(1))])
    world.servers.update(a=same, b=same)
    assert world.call().answer == Answer("applied", "1")
    times = [at - 1000 for at, _ in world.sent]
    assert all(2.1 <= after - before <= 2.2 for before, after in itertools.pairwise(times))
    assert len({message.server for _, message in world.sent}) == 1
    assert world.notices == []


def test_a_retry_after_beyond_the_deadline_is_not_waited_for() -> None:
    world = World(["a"], QUICK)
    world.servers["a"] = always((0.1, problem(409, "in-progress", retry_after=1000)))
    call = world.call()
    assert isinstance(call.error, OutcomeUnknown)
    assert call.ended_at == pytest.approx(1000.1)


@pytest.mark.parametrize("after", [0, None])
def test_a_server_that_says_in_progress_for_ever_is_not_asked_for_ever(after: int | None) -> None:
    world = World(["a"], QUICK)
    world.servers["a"] = always((0.001, problem(409, "in-progress", retry_after=after)))
    call = world.call()
    assert isinstance(call.error, OutcomeUnknown)
    assert len(world.sent) <= QUICK.messages
    times = [at for at, _ in world.sent]
    assert all(later - earlier >= QUICK.pause for earlier, later in itertools.pairwise(times))


def test_too_busy_asks_another_at_once_and_comes_back_when_told() -> None:
    world = World(["a", "b"], QUICK)
    busy: list[Arrival] = [(0.1, problem(503, "too-busy", retry_after=3))]
    same = scripted(busy, busy, [(0.1, applied(1))])
    world.servers.update(a=same, b=same)
    assert world.call().answer == Answer("applied", "1")
    first, second, third = [(at - 1000, message.server) for at, message in world.sent]
    assert first[1] is not second[1]
    assert second[0] == pytest.approx(0.1)
    assert third[1] is first[1]
    assert third[0] == pytest.approx(3.1, abs=0.2)


def test_a_store_that_stays_away_is_the_error_of_a_local_call() -> None:
    world = World(["a", "b"], QUICK)
    gone: Behaviour = always((0.1, problem(503, "store-unavailable", retry_after=1)))
    world.servers.update(a=gone, b=gone)
    call = world.call()
    assert isinstance(call.error, StoreUnavailable)
    assert call.ended_at <= 1010


def test_but_not_if_one_message_had_no_reply() -> None:
    world = World(["a"], QUICK)
    world.servers["a"] = scripted([], [(0.1, problem(503, "store-unavailable", retry_after=100))])
    assert isinstance(world.call().error, OutcomeUnknown)


def test_contended_does_not_undo_an_unknown_outcome_before_it() -> None:
    world = World(["a"], QUICK)
    unknown: list[Arrival] = [(0.1, problem(503, "outcome-unknown", retry_after=1))]
    world.servers["a"] = scripted(unknown, [(0.1, problem(503, "contended", retry_after=100))])
    assert isinstance(world.call().error, OutcomeUnknown)
    world.servers["a"] = always((0.1, problem(503, "contended", retry_after=100)))
    error = world.call("j").error
    assert isinstance(error, Contended)
    assert error.happened is False


def test_a_late_reply_to_a_call_that_was_answered_otherwise_is_late_all_the_same() -> None:
    world = World(["a"], QUICK)
    world.servers["a"] = scripted([(1.5, applied(1))], [(25.0, applied(1))])
    world.call()
    world.run_for(40)
    assert world.desk.counters.late == 2


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (problem(422, "usage", error="DocumentMissing"), DocumentMissing),
        (problem(422, "operation-mismatch"), OperationMismatch),
        (problem(500, "business-error"), BusinessError),
    ],
)
def test_what_asking_again_does_not_change_is_raised(reply: Reply, error: type) -> None:
    world = World(["a", "b"], QUICK)
    world.servers.update(a=always((0.1, reply)), b=always((0.1, reply)))
    call = world.call()
    assert type(call.error) is error
    assert len(world.sent) == 1
    assert bool(world.desk.table.waiting()) is (error is BusinessError)  # which may happen yet


def test_a_server_that_does_not_know_the_operation_is_asked_once_and_another_does_it() -> None:
    world = World(["a", "b"], QUICK)
    unknown = always((0.1, problem(404, "operation-unknown")))
    world.servers.update(a=unknown, b=always((0.1, applied(7))))
    assert world.call().answer == Answer("applied", "7")
    assert [world.server(each).state for each in "ab"] == ["up", "up"]
    world = World(["a", "b"], QUICK)
    world.servers.update(a=unknown, b=unknown)
    call = world.call()
    assert type(call.error) is UsageError
    assert (call.error.happened, len(world.sent), world.desk.table.waiting()) == (False, 2, [])


@pytest.mark.parametrize(("happened", "told"), [("no", False), ("unknown", None)])
def test_a_body_that_a_server_of_another_version_does_not_take_is_sent_to_the_others(
    happened: str, told: bool | None
) -> None:
    invalid = always((0.1, problem(400, "body-invalid", happened=happened)))
    world = World(["a", "b"], QUICK)
    world.servers.update(a=invalid, b=always((0.1, applied(7))))
    assert world.call().answer == Answer("applied", "7")
    world = World(["a", "b"], QUICK)
    world.servers.update(a=invalid, b=always((0.1, problem(400, "body-invalid"))))
    error = world.call().error
    assert isinstance(error, UsageError)
    assert (error.happened, len(world.sent)) == (told, 2)


def test_contended_with_an_unknown_outcome_stays_on_the_list() -> None:
    world = World(["a"], QUICK)
    world.servers["a"] = always((0.1, problem(503, "contended", retry_after=100, happened="unknown", retry=True)))
    call = world.call()
    assert type(call.error) is Contended
    assert (call.error.happened, call.error.retry, len(world.desk.table.waiting())) == (None, True, 1)
    # Nor is it denied afterwards by one who has only seen that.
    world.servers["a"] = always((0.1, problem(422, "usage", error="DocumentMissing")))
    call = world.call()
    assert type(call.error) is DocumentMissing
    assert (call.error.happened, len(world.desk.table.waiting())) == (None, 1)


def test_it_did_not_happen_is_not_said_while_a_message_may_still_arrive() -> None:
    missing: list[Arrival] = [(0.1, problem(422, "usage", error="DocumentMissing"))]
    firsts: list[list[Arrival]] = [[], [(0.1, NoReply(sent=True))]]
    for first in firsts:
        world = World(["a"], QUICK)
        world.servers["a"] = scripted(first, missing)
        error = world.call().error
        assert type(error) is DocumentMissing
        assert (error.happened, error.retry) == (None, True)
        assert any("may still reach a server" in note for note in error.__notes__)
        assert world.desk.table.waiting()


def test_it_did_not_happen_is_not_said_after_a_server_was_at_it() -> None:
    world = World(["a", "b"], QUICK)
    at_it: list[Arrival] = [(0.1, problem(409, "in-progress", retry_after=0, happened="unknown"))]
    world.servers["a"] = scripted(at_it, [(0.1, NoReply(sent=False))])
    world.servers["b"] = always((0.1, problem(422, "usage", error="DocumentMissing", happened="no")))
    error = world.call().error
    assert type(error) is DocumentMissing
    assert (error.happened, error.retry) == (None, True)
    assert world.desk.table.waiting()


def test_nor_in_a_later_call() -> None:
    world = World(["a"], QUICK)
    world.servers["a"] = always((0.1, problem(409, "in-progress", retry_after=100, happened="unknown")))
    assert isinstance(world.call().error, OutcomeUnknown)
    world.servers["a"] = always((0.1, problem(503, "contended", retry_after=100, happened="no", retry=True)))
    error = world.call().error
    assert type(error) is Contended
    assert error.happened is None


@pytest.mark.parametrize("first", [[], [(0.1, NoReply(sent=True))]])
def test_a_mismatch_is_not_final_while_a_message_may_still_arrive(first: list[Arrival]) -> None:
    """The other operation under this id may still fail and leave nothing behind; then the first message counts."""
    world = World(["a"], QUICK)
    world.servers["a"] = scripted(first, [(0.1, problem(422, "operation-mismatch", happened="no"))])
    error = world.call().error
    assert type(error) is OperationMismatch
    assert (error.happened, error.retry) == (None, True)
    assert world.desk.table.waiting()


def test_an_error_of_one_call_does_not_take_the_operation_from_another() -> None:
    world = World(["a"], QUICK)
    later: list[Arrival] = [(0.1, problem(503, "contended", retry_after=2, happened="no", retry=True))]
    missing: list[Arrival] = [(0.1, problem(422, "usage", error="DocumentMissing", happened="no"))]
    world.servers["a"] = scripted(later, missing, [(0.1, applied(1))])
    first = world.begin()
    world.run_for(0.5)
    second = world.begin()
    world.run_until(lambda: second.ended)
    assert type(second.error) is DocumentMissing
    assert not first.ended
    assert world.desk.table.waiting()
    world.run_until(lambda: first.ended)
    assert first.answer == Answer("applied", "1")
    assert not world.desk.table.waiting()


def test_a_late_refusal_counts_like_a_late_answer() -> None:
    world = World(["a"], QUICK)
    world.servers["a"] = only_operations(scripted([(5.0, problem(422, "operation-mismatch"))], []))
    call = world.call()
    assert isinstance(call.error, OperationMismatch)
    assert call.ended_at == 1005


# --- budgets ----------------------------------------------------------------------------------


def test_without_budget_nothing_is_repeated_but_answers_are_waited_for() -> None:
    world = World(["a", "b"], ClientOptions(retry_burst=1, retry_rate=0, retry_share=0, deadline=20, first_timeout=1))
    world.desk.budget.take(0.0)
    world.servers.update(a=always((9.0, applied(1))), b=always((9.0, applied(1))))
    call = world.call()
    assert call.answer == Answer("applied", "1")
    assert len(world.sent) == 1
    assert world.desk.counters.held_back > 0


def test_many_calls_to_dead_servers_send_no_storm() -> None:
    options = ClientOptions(retry_burst=10, retry_rate=1, retry_share=0.1, deadline=10, first_timeout=0.5)
    world = World(["a", "b"], options)
    calls = [world.begin(f"i{each}") for each in range(200)]
    world.run_until(lambda: all(call.ended for call in calls))
    messages = len(world.asked("a")) + len(world.asked("b"))
    assert messages <= 200 + 10 + 200 * 0.1 + 10 * 1 + 1


def test_clients_that_lost_the_same_server_do_not_come_back_together() -> None:
    moments: set[float] = set()
    for seed in range(5):
        world = World(["a"], QUICK, seed)
        world.servers["a"] = scripted([(0.1, NoReply(sent=True))], [(0.1, applied(1))])
        world.call()
        moments.add(world.sent[1][0])
    assert len(moments) == 5


# --- health -----------------------------------------------------------------------------------


def test_a_suspect_server_is_probed_at_growing_distances_and_comes_back() -> None:
    world = World(["a"], QUICK)
    world.servers["a"] = away
    assert isinstance(world.call().error, OutcomeUnknown)
    world.run_for(30)
    probes = [at for at, message in world.sent if message.concern.path == "/health"]
    distances = [after - before for before, after in itertools.pairwise(probes)]
    assert distances[0] < 2
    assert max(distances) <= QUICK.probe_at_most * 1.5 + 0.01
    assert len(probes) < 15
    world.servers["a"] = healthy(always((0.1, applied(1))))
    world.run_for(10)
    assert world.server("a").state == "slow"
    for each in range(3):
        world.call(f"j{each}")
    assert world.server("a").state == "up"
    assert [each.kind for each in world.notices] == ["suspect", "slow", "recovered"]
    sent = len(world.sent)
    world.run_for(60)
    assert len(world.sent) == sent  # nobody probes a server that is well


def test_a_server_that_comes_back_during_a_call_is_asked_again() -> None:
    world = World(["a"], QUICK)
    call = world.begin()
    world.at(4.0, lambda: world.servers.update(a=healthy(always((0.1, applied(1))))))
    world.run_until(lambda: call.ended)
    assert call.answer == Answer("applied", "1")
    assert call.ended_at < 1009


def test_time_outs_are_learnt_from_late_answers() -> None:
    world = World(["a"], ClientOptions(first_timeout=1, least_timeout=0.1, most_timeout=20, life=60))
    world.servers["a"] = always((2.5, applied(1)))
    for each in range(6):
        assert world.call(f"i{each}").answer is not None
        world.run_for(10)
    before = world.desk.counters.timeouts
    world.call("last")
    assert world.desk.counters.timeouts == before


# --- acknowledging ----------------------------------------------------------------------------


def test_an_acknowledged_id_is_named_in_the_next_message() -> None:
    world = World(["a"], QUICK)
    world.servers["a"] = always((0.1, applied(1)))
    world.call("one")
    world.desk.acknowledge("one")
    world.call("two")
    assert world.asked("a")[-1].headers[ACKNOWLEDGE] == '"one"'
    world.call("three")
    assert ACKNOWLEDGE not in world.asked("a")[-1].headers
    assert "one" in world.desk.acknowledgements


def test_nothing_is_acknowledged_that_the_application_did_not_say() -> None:
    world = World(["a"], QUICK)
    world.servers["a"] = always((0.1, applied(1)))
    for each in range(5):
        world.call(f"i{each}")
    assert all(ACKNOWLEDGE not in message.headers for message in world.asked("a"))


def test_an_id_is_not_acknowledged_while_a_message_of_it_is_out_or_lost() -> None:
    for first, becomes in ((5.0, True), (100.0, False)):
        world = World(["a"], QUICK)
        world.servers["a"] = scripted([(first, applied(1))], [(0.1, applied(1))])
        world.call("one")
        world.desk.acknowledge("one")
        world.call("two")
        assert ACKNOWLEDGE not in world.asked("a")[-1].headers
        world.run_for(60)
        world.call("three")
        assert (ACKNOWLEDGE in world.asked("a")[-1].headers) is (becomes and first < QUICK.life)


def test_an_id_of_which_a_message_was_lost_is_never_acknowledged() -> None:
    world = World(["a"], QUICK)
    world.servers["a"] = scripted([(0.1, NoReply(sent=True))], [(0.1, applied(1))])
    world.call("one")
    world.desk.acknowledge("one")
    world.desk.acknowledge("never heard of")
    world.call("two")
    assert all(ACKNOWLEDGE not in message.headers for message in world.asked("a"))
    assert "one" in world.desk.acknowledgements


def test_an_acknowledgement_that_was_lost_is_repeated() -> None:
    world = World(["a"], QUICK)
    world.servers["a"] = scripted([(0.1, applied(1))], [(0.1, NoReply(sent=True))], [(0.1, applied(1))])
    world.call("one")
    world.desk.acknowledge("one")
    world.call("two")
    assert [message.headers.get(ACKNOWLEDGE) for message in world.asked("a")] == [None, '"one"', '"one"']


def test_the_shortest_retention_that_was_told_counts() -> None:
    world = World(["a"], QUICK)
    assert world.desk.retention is None
    foreign = Reply(echo=False, headers={"idempotency-retention": "1"})
    for told, counts in ((applied(), None), (foreign, None), ("0", float("inf")), ("90", 90), ("100", 90), ("80", 80)):
        reply = applied(idempotency_retention=told) if isinstance(told, str) else told
        world.servers["a"] = scripted([(0.1, reply)], [(0.1, applied())])
        world.call(f"i{world.desk.counters.messages}")
        assert world.desk.retention == counts


def test_whoever_gives_an_id_up_for_good_is_heard_before_the_servers_are_told() -> None:
    world = World(["a"], QUICK)
    world.servers["a"] = always((0.1, applied(1)))
    world.call("one")
    world.desk.renounce("one")
    assert "one" in world.desk.acknowledgements
    world.call("two")
    assert ACKNOWLEDGE not in world.asked("a")[-1].headers
    world.desk.acknowledge("one")
    world.call("three")
    assert world.asked("a")[-1].headers[ACKNOWLEDGE] == '"one"'


# --- looking ----------------------------------------------------------------------------------


def test_looking_asks_one_server_after_another() -> None:
    world = World(["a", "b"], QUICK)
    behaviours: list[Behaviour] = [away, always((0.1, Reply(200, b'{"operation_id": "a/b", "status": "pending"}')))]
    left = iter(behaviours)
    world.servers.update(
        a=lambda message, now: next(left)(message, now), b=lambda message, now: next(left)(message, now)
    )
    assert look(world) == Seen(Found(operation_id="a/b", status="pending"))
    assert [message.concern.path for _, message in world.sent] == ["/operations/a%2Fb"] * 2


def test_looking_in_vain() -> None:
    world = World(["a", "b"], QUICK)
    world.servers.update(a=away)
    world.servers.update(b=always((0.1, Reply(200, b'{"operation_id": "b", "status": "pending"}'))))
    with pytest.raises(StoreUnavailable, match=r"no server told.*a: connection refused; .*b: .*another operation: 'b'"):
        look(world)


def test_looking_waits_for_what_may_still_come() -> None:
    world = World(["a", "b"], QUICK)
    world.servers.update(a=always((7.0, Reply(200, b'{"operation_id": "a/b", "status": "pending"}'))), b=away)
    assert look(world) == Seen(Found(operation_id="a/b", status="pending"))
    assert (len(world.sent), world.now) == (2, 1007)


def test_looking_tells_what_another_server_would_tell_too() -> None:
    world = World(["a", "b"], QUICK)
    world.servers.update(a=always((0.1, problem(410, "expired"))), b=away)
    with pytest.raises(Expired):
        look(world)
    assert len(world.sent) == 1


def test_that_one_server_never_heard_of_it_is_nothing_where_another_is_at_it() -> None:
    """On a file a server sees another's operation only when it has ended."""
    world = World(["a", "b"], QUICK)
    at_it = (0.1, problem(409, "in-progress", happened="unknown"))
    world.servers.update(a=always(at_it), b=always((0.2, problem(404, "outcome-unheard", operation_id="a/b"))))
    with pytest.raises(OutcomeUnknown, match="in-progress"):
        look(world)
    assert len(world.sent) == 2


def look(world: World) -> Seen:
    """Ask what became of an id; the world goes on by single events, as it does for calls."""
    question = Question("a/b")
    call = Call(question, looking(world.desk, question, world.now))
    world.step(call, None)
    world.run_until(lambda: call.ended)
    if call.error is not None:
        raise call.error
    assert isinstance(call.result, Seen)
    return call.result


# --- many worlds ------------------------------------------------------------------------------


class Business:
    """What servers of one store would do: an operation happens once, and everybody hears the same."""

    def __init__(self, chance: random.Random, trouble: float) -> None:
        self.happened: dict[str, int] = {}
        self._chance = chance
        self._trouble = trouble
        self.down: set[str] = set()

    def serve(self, name: str) -> Behaviour:
        def behave(message: Message, now: float) -> list[Arrival]:
            if name in self.down:
                return away(message, now) if self._chance.random() < 0.5 else []
            if message.concern.path == "/health":
                return [(0.01, Reply(204))]
            kind = self._chance.random() / self._trouble
            if kind < 0.2:
                return silent(message, now)  # the request is lost
            if kind < 0.3:
                return [(0.1, problem(503, "too-busy", retry_after=1))]
            answer = applied(self._happen(message.headers[IDEMPOTENCY_KEY]))
            if kind < 0.5:
                return [(self._chance.random(), NoReply(sent=True))]  # the reply is lost
            if kind < 0.7:
                return [(self._chance.uniform(0, 20), answer)]
            if kind < 0.8:
                return [(0.1, problem(409, "in-progress", retry_after=1))]
            return [(self._chance.uniform(0.01, 0.2), answer)]

        return behave

    def _happen(self, operation_id: str) -> int:
        return self.happened.setdefault(operation_id, len(self.happened))


@pytest.mark.parametrize("seed", range(60))
def test_whatever_happens_every_call_ends_and_every_answer_is_true(seed: int) -> None:
    chance = random.Random(seed)
    names = ["a", "b", "c"][: chance.randint(1, 3)]
    world = World(names, QUICK, seed)
    business = Business(chance, chance.choice([0.1, 0.5, 1.0]))
    world.servers.update({name: business.serve(name) for name in names})

    def flip(name: str) -> Callable[[], None]:
        def do() -> None:
            business.down ^= {name}

        return do

    for _ in range(10):
        world.at(chance.uniform(0, 60), flip(chance.choice(names)))
    calls: list[Any] = []
    for each in range(30):
        calls.append(world.begin(f"i{each % 20}"))  # some ids are asked for twice, at the same time or later
        world.run_for(chance.uniform(0, 3))
    world.run_until(lambda: all(call.ended for call in calls))
    for call in calls:
        assert call.ended_at - 1000 <= 100 + QUICK.deadline
        if call.answer is not None:
            happened = business.happened[f'"{call.entry.asked.operation_id}"']
            assert call.answer == Answer("applied", str(happened))
        else:
            assert call.error.retry
    assert world.desk.counters.contradictions == 0
    # Then all is well, and everything that is pending is answered.
    world.run_for(60)
    business.down.clear()
    business._trouble = 1e-9
    world.run_for(QUICK.life + QUICK.probe_at_most * 2)
    for asked in world.desk.table.waiting():
        assert world.call(asked.operation_id).answer is not None
    world.run_for(QUICK.life)
    assert list(world.desk.table) == []
    assert all(server.in_flight == 0 for server in world.desk.servers.all)
    assert len({message.id for _, message in world.sent}) == len(world.sent)


def test_a_desk_of_another_life_makes_other_message_ids() -> None:
    first, second = (Desk(["http://a"], QUICK, name) for name in ("x", "y"))
    question = Question("i")
    assert first.message(question, first.servers.all[0]).id != second.message(question, second.servers.all[0]).id
