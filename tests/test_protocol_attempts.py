"""The way of one operation, stepped by hand: two steps, lost races, lost replies, giving up."""

from __future__ import annotations

import dataclasses
import json

import pytest

from casops.errors import (
    Contended,
    DocumentMissing,
    Expired,
    OperationMismatch,
    OutcomeUnknown,
    StoreUnavailable,
    UsageError,
)
from casops.ids import new_operation_id
from casops.messages import Body, Exists, Insert, Mismatch, Read, Refused, Remove, Replace, Reply, StoreRequest, Unknown
from casops.options import Options
from casops.protocol.execution import Execution
from casops.records import decode_intention, intention_key, result_key
from casops.testing.worker import SimulatedClock, Worker
from tests.steps import OPTIONS, Job, World, add, is_on, is_record, move, n, only, proposes, reply_lost, writes


@pytest.mark.parametrize("documents", [1, 2, 16])
def test_two_steps_to_the_answer_however_many_documents(documents: int) -> None:
    names = [f"d{each:02}" for each in range(documents)]
    world = World(OPTIONS, **dict.fromkeys(names, 1))

    def double(numbers: dict[str, int | None]) -> None:
        for name in names:
            numbers[name] = (numbers[name] or 0) * 2

    worker = world.worker("i", Job(double, names))
    first = worker.batch
    assert first is not None
    assert [type(each) for each in first] == [Insert] + [Read] * (documents + 1)
    assert first[0].key == intention_key("i")  # type: ignore[union-attr]
    worker.step(world.store)
    second = worker.batch
    assert second is not None
    assert len(second) == documents + 1
    assert second == tuple(writes(second))
    worker.step(world.store)
    assert worker.result is not None
    assert not worker.result.replayed
    assert world.body("d00") == 1  # ordinary readers still see the old value
    world.settle(worker.result)
    assert [world.body(name) for name in names] == [2] * documents


def test_the_stage_keeps_the_body_and_names_the_cas_it_was_read_at() -> None:
    world = World(a=1)
    read_at = world.version(n("a"))
    worker = world.worker("i", add("a", 1))
    worker.step(world.store)
    assert worker.batch is not None
    stage = worker.batch[1]
    assert isinstance(stage, Replace)
    assert read_at is not None
    assert (stage.body, stage.cas, stage.expires, stage.ttl) == (Body.KEEP, read_at.cas, None, None)
    assert stage.stage is not None
    assert stage.stage.body == "2"


def test_the_result_has_no_time_to_live_before_it_is_settled() -> None:
    world = World(a=1)
    for job in (add("a", 1), move("a", "a", 100)):
        worker = world.worker(job.fingerprint, job)
        worker.step(world.store)
        assert worker.batch is not None
        record = worker.batch[0]
        assert isinstance(record, Insert)
        assert record.ttl is None


def test_no_answer_before_every_write_is_acknowledged() -> None:
    world = World(a=5, b=5)
    for lost in (is_record, is_on("a"), is_on("b")):
        worker = world.worker("i", move("a", "b", 1))
        worker.step(world.store)
        only(world, worker, lambda request, lost=lost: not lost(request))  # type: ignore[misc]
        assert not worker.ended
        worker.crash()


def test_a_lost_reply_to_the_record_is_looked_up_not_guessed() -> None:
    world = World(a=5, b=5)
    worker = world.worker("i", move("a", "b", 1))
    worker.step(world.store)
    reply_lost(world, worker, is_record)
    ended = worker.finish(world.store)
    assert not ended.replayed
    assert ended.record.state == "committed"
    assert ended.record.attempts == 1
    world.settle(ended)
    assert (world.body("a"), world.body("b")) == (4, 6)


def test_a_lost_reply_to_a_stage_is_looked_up_not_guessed() -> None:
    world = World(a=5, b=5)
    worker = world.worker("i", move("a", "b", 1))
    worker.step(world.store)
    reply_lost(world, worker, is_on("b"))
    ended = worker.finish(world.store)
    assert ended.record.attempts == 1
    world.settle(ended)
    assert (world.body("a"), world.body("b")) == (4, 6)


def test_a_record_whose_insert_is_in_flight_is_stopped_before_the_next_attempt() -> None:
    world = World(a=5, b=5)
    worker = world.worker("i", move("a", "b", 1))
    worker.step(world.store)
    (late,) = only(world, worker, lambda request: not is_record(request))
    ended = worker.finish(world.store)
    assert ended.record.attempts == 1  # the first was never written down
    assert world.store.perform([late]) == [Exists()]
    world.settle(ended)
    assert (world.body("a"), world.body("b")) == (4, 6)


def test_a_stage_in_flight_is_fenced_before_the_next_attempt() -> None:
    world = World(a=5, b=5)
    worker = world.worker("i", move("a", "b", 1))
    worker.step(world.store)
    (late,) = only(world, worker, lambda request: not is_on("b")(request))
    worker.step(world.store)  # looks at R(i) and both documents
    assert worker.batch is not None
    (fence,) = worker.batch
    assert isinstance(fence, Replace)
    assert (fence.key, fence.body, fence.stage) == (n("b"), Body.KEEP, None)
    worker.step(world.store)
    assert worker.batch is not None
    (opened,) = worker.batch
    assert isinstance(opened, Replace)
    assert opened.key == result_key("i")
    ended = worker.finish(world.store)
    assert world.store.perform([late]) == [Mismatch()]
    assert ended.record.attempts == 2
    world.settle(ended)
    assert (world.body("a"), world.body("b")) == (4, 6)


def test_a_lost_race_for_a_document_is_run_again_from_a_new_reading() -> None:
    world = World(a=5, b=5)
    loser = world.worker("z", move("a", "b", 1))
    loser.step(world.store)
    world.do("winner", add("b", 10))
    loser.step(world.store)  # loses b
    assert not loser.ended
    ended = loser.finish(world.store)
    assert ended.record.attempts == 2
    assert len({event.attempt for event in ended.record.history if event.what == "proposed"}) == 2
    world.settle(ended)
    assert (world.body("a"), world.body("b")) == (4, 16)


def test_no_proposal_follows_another_without_an_open_between() -> None:
    """Found by the explorer ("two operations on one document").

    The next proposal used to replace the lost one directly.  A stranger who met the new stage while R(i) still
    said the old attempt took it for void, and then the new proposal arrived: committed, and overwritten.
    """
    world = World(a=5)
    loser = world.worker("z", add("a", 1))
    loser.step(world.store)
    world.do("other", add("a", 10))
    loser.step(world.store)  # lost: R(z) is proposed with a dead attempt
    assert loser.batch is not None
    taken_back = loser.batch[0]
    assert isinstance(taken_back, Replace)
    assert '"state":"open"' in str(taken_back.body)
    assert isinstance(loser.batch[1], Read)  # beside the reading: it costs no step
    loser.step(world.store)
    assert proposes(loser)
    assert loser.batch is not None
    record, stage = loser.batch
    world.store.perform([stage])
    stranger = world.run("y", add("a", 100))
    assert world.store.perform([record]) == [Mismatch()]
    world.settle(stranger)
    loser.crash()
    world.settle(world.run("z", add("a", 1)))
    assert world.body("a") == 116


def test_a_taking_back_that_nobody_acknowledged_is_not_built_on() -> None:
    world = World(a=5)
    loser = world.worker("z", add("a", 1))
    loser.step(world.store)
    world.do("other", add("a", 10))
    loser.step(world.store)
    only(world, loser, lambda request: not is_record(request))
    while not proposes(loser):
        loser.step(world.store)
    record = world.record("z")
    assert record is not None
    assert record.state == "open"
    world.settle(loser.finish(world.store))
    assert world.body("a") == 16


def test_a_rivals_proposal_is_never_replaced_by_ones_own() -> None:
    """Found by the explorer ("two workers on one operation").

    Deciding a void stage of the own operation left R(i) = proposed by a rival, and the next proposal
    started from there: the rival's answer was undone.
    """
    world = World(a=5)
    dead = world.worker("i", add("a", 1))
    dead.step(world.store)
    dead.crash()
    rival = world.worker("i", add("a", 1))
    while not proposes(rival):
        rival.step(world.store)
    assert rival.batch is not None
    world.store.perform(rival.batch[1:])  # a stage of the first attempt, its R(i) is lost
    me = world.worker("i", add("a", 1))
    while not any(isinstance(each, Insert) and is_record(each) for each in me.batch or ()):
        me.step(world.store)
    rival.crash()
    second = world.worker("i", add("a", 1))
    while not proposes(second):
        second.step(world.store)
    second.step(world.store)  # answered
    assert second.result is not None
    ended = me.finish(world.store)
    assert ended.replayed
    assert ended.record.attempt == second.result.record.attempt
    world.settle(ended)
    assert world.body("a") == 6


def test_every_attempt_has_an_id_of_its_own() -> None:
    world = World(a=5)
    worker = world.worker("z", add("a", 1))
    seen: set[str] = set()
    for each in range(4):
        while not proposes(worker):
            worker.step(world.store)
        assert worker.batch is not None
        proposal = json.loads(worker.batch[0].body)  # type: ignore[union-attr, arg-type]
        seen.add(proposal["attempt"])
        world.do(f"other-{each}", add("a", 1))
        worker.step(world.store)
    assert len(seen) == 4


def test_whoever_finds_the_record_there_follows_it() -> None:
    world = World(a=5, b=5)
    slow = world.worker("i", move("a", "b", 1))
    slow.step(world.store)
    world.do("i", move("a", "b", 1))
    ended = slow.finish(world.store)
    assert ended.replayed
    assert (world.body("a"), world.body("b")) == (4, 6)


def test_a_retry_gets_the_recorded_answer() -> None:
    world = World(a=5, b=5)
    first = world.do("i", move("a", "b", 1))
    retry = world.worker("i", move("a", "b", 1))
    retry.step(world.store)
    assert retry.result is not None
    assert retry.result.replayed
    assert retry.result.record.result == first.record.result == 4
    world.settle(retry.result)
    assert world.intention("i") is None


def test_other_arguments_under_the_same_id_are_refused_and_leave_nothing() -> None:
    world = World(a=5, b=5)
    world.do("i", move("a", "b", 1))
    other = world.worker("i", move("a", "b", 2))
    with pytest.raises(OperationMismatch):
        other.finish(world.store)
    assert world.intention("i") is None
    assert world.body("a") == 4


def test_other_arguments_are_refused_while_the_first_is_only_declared() -> None:
    world = World(a=5, b=5)
    first = world.worker("i", move("a", "b", 1))
    first.step(world.store)
    with pytest.raises(OperationMismatch):
        world.run("i", move("a", "b", 2))
    world.settle(first.finish(world.store))
    assert world.body("a") == 4


def test_another_workers_operation_gets_its_time_before_it_is_taken_over() -> None:
    world = World(a=5, b=5)
    dead = world.worker("i", move("a", "b", 1))
    dead.step(world.store)
    dead.crash()
    retry = world.worker("i", move("a", "b", 1))
    ended = retry.finish(world.store)
    assert retry.paused >= OPTIONS.patience
    assert ended.taken_over
    assert [event.what for event in ended.record.history][:2] == ["declared", "taken over"]
    world.settle(ended)
    assert (world.body("a"), world.body("b")) == (4, 6)


def test_a_live_workers_operation_is_answered_not_taken_over() -> None:
    world = World(a=5, b=5)
    alive = world.worker("i", move("a", "b", 1))
    alive.step(world.store)
    retry = world.worker("i", move("a", "b", 1))
    retry.step(world.store)
    retry.step(world.store)
    ended = alive.finish(world.store)
    world.settle(ended)
    assert retry.finish(world.store).replayed
    assert world.body("a") == 4


def test_a_proposal_that_has_landed_is_taken_over_as_it_is() -> None:
    world = World(a=5, b=5)
    dead = world.worker("i", move("a", "b", 1))
    dead.step(world.store)
    world.store.perform(dead.batch or ())
    dead.crash()
    ended = world.run("i", move("a", "b", 1))
    assert ended.record.attempts == 1
    world.settle(ended)
    assert (world.body("a"), world.body("b")) == (4, 6)


def test_a_half_landed_proposal_is_voided_and_tried_again_from_exactly_there() -> None:
    world = World(a=5, b=5)
    dead = world.worker("i", move("a", "b", 1))
    dead.step(world.store)
    late = only(world, dead, lambda request: not is_on("b")(request))
    dead.crash()
    ended = world.run("i", move("a", "b", 1))
    assert ended.record.attempts == 2
    world.settle(ended)
    assert world.store.perform(late) == [Mismatch()]
    assert (world.body("a"), world.body("b")) == (4, 6)
    assert world.stage("a") is None


def test_a_refusal_about_one_document_needs_no_second_look() -> None:
    world = World(a=5)
    worker = world.worker("i", move("a", "a", 100))
    worker.step(world.store)
    assert worker.batch is not None
    (record,) = worker.batch
    assert isinstance(record, Insert)
    ended = worker.finish(world.store)
    assert ended.record.state == "declined"


def test_a_refusal_about_two_documents_is_looked_at_again() -> None:
    world = World(a=5, b=5)
    worker = world.worker("i", move("a", "b", 8))
    worker.step(world.store)
    assert worker.batch is not None
    assert all(isinstance(each, Read) for each in worker.batch)
    world.do("other", add("a", 100))  # now it would not be refused
    ended = worker.finish(world.store)
    assert ended.record.state == "proposed"
    world.settle(ended)
    assert (world.body("a"), world.body("b")) == (97, 13)


def test_a_refusal_whose_reply_is_lost_is_written_once() -> None:
    world = World(a=5)
    worker = world.worker("i", move("a", "a", 100))
    worker.step(world.store)
    reply_lost(world, worker, is_record)
    ended = worker.finish(world.store)
    assert ended.record.state == "declined"
    assert not ended.replayed
    assert ended.record.attempts == 1


def test_documents_discovered_by_the_function_are_fetched_and_it_runs_again() -> None:
    world = World(a=5, b=5)
    job = move("a", "b", 1)
    job.declares = ["a"]
    worker = world.worker("i", job)
    worker.step(world.store)
    assert worker.batch == (Read(n("b")),)
    world.settle(worker.finish(world.store))
    assert world.body("b") == 6


def test_absent_documents_are_staged_unseen() -> None:
    world = World(a=5)
    worker = world.worker("i", move("a", "new", 1))
    worker.step(world.store)
    ended = worker.finish(world.store)
    assert world.body("new") is None
    world.settle(ended)
    assert world.body("new") == 1


def test_bounded_tries_end_with_nothing_left_behind() -> None:
    world = World(Options(poll=0.0, patience=0.0, attempts=3), a=5, b=5)
    worker = world.worker("z", move("a", "b", 1))
    for each in range(3):
        while not proposes(worker):
            worker.step(world.store)
        world.do(f"other-{each}", add("b", 1))
        worker.step(world.store)
    with pytest.raises(Contended) as caught:
        worker.finish(world.store)
    assert caught.value.operation_id == "z"
    assert world.intention("z") is None
    record = world.record("z")
    assert record is not None
    assert record.state == "open"
    assert world.stage("a") is None
    # Asking again with the same id is safe, and works.
    world.settle(world.run("z", move("a", "b", 1)))
    assert (world.body("a"), world.body("b")) == (4, 9)


def test_an_exception_of_the_business_is_passed_on_and_counted() -> None:
    world = World(a=5)

    def broken(numbers: dict[str, int | None]) -> None:
        raise RuntimeError("broken")

    for tries in (1, 2):
        worker = world.worker("i", Job(broken, ["a"]))
        with pytest.raises(RuntimeError, match="broken") as caught:
            worker.finish(world.store)
        assert "did not happen and is pending" in caught.value.__notes__[0]
        left = world.intention("i")
        assert left is not None
        assert decode_intention(left.body, "id").failures == tries
    assert world.record("i") is None


def test_a_lasting_failure_leaves_nothing_pending() -> None:
    world = World(a=5)

    def broken(numbers: dict[str, int | None]) -> None:
        raise LookupError("no such thing")

    with pytest.raises(LookupError):
        world.run("i", Job(broken, ["a"]))
    assert world.intention("i") is None


def test_what_another_worker_has_taken_over_is_not_withdrawn() -> None:
    world = World(a=5)

    def broken(numbers: dict[str, int | None]) -> None:
        raise LookupError("no such thing")

    first = world.worker("i", Job(broken, ["a"]))
    assert first.batch is not None
    first_heard = world.store.perform(first.batch)  # it is declared; the first worker is slow to hear of it
    second = world.worker("i", dataclasses.replace(add("a", 1), fingerprint="f"))
    while not proposes(second):
        second.step(world.store)
    first.answer(first_heard)
    with pytest.raises(LookupError):
        first.finish(world.store)
    second.step(world.store)
    second.crash()  # it is committed, and nobody has heard of it
    assert world.stage("a") is not None
    assert world.intention("i") is not None, "committed, and listed nowhere"


class NoSuchThing(UsageError, LookupError):
    """Lasting, in the eyes of a Job."""


@pytest.mark.parametrize("taken_over", [True, False])
def test_a_lasting_error_says_whether_the_operation_stays_pending(taken_over: bool) -> None:
    world = World(a=5)

    def broken(numbers: dict[str, int | None]) -> None:
        raise NoSuchThing("no such thing")

    first = world.worker("i", Job(broken, ["a"]))
    assert first.batch is not None
    heard = world.store.perform(first.batch)
    if taken_over:
        second = world.worker("i", dataclasses.replace(add("a", 1), fingerprint="f"))
        while not proposes(second):
            second.step(world.store)
        second.crash()
    first.answer(heard)
    with pytest.raises(NoSuchThing) as caught:
        first.finish(world.store)
    assert (world.intention("i") is not None) == taken_over
    assert caught.value.happened == (None if taken_over else False)
    assert caught.value.retry == taken_over


@pytest.mark.parametrize("reply", [Unknown("lost"), Mismatch()])
def test_a_withdrawal_is_repeated_until_it_is_certain(reply: Reply) -> None:
    """Mismatch: in a store that keeps many intentions in one document its CAS moves without them."""
    world = World(a=5)

    def broken(numbers: dict[str, int | None]) -> None:
        raise LookupError("no such thing")

    worker = world.worker("i", Job(broken, ["a"]))
    while not any(isinstance(each, Remove) for each in worker.batch or ()):
        worker.step(world.store)
    worker.answer([reply])
    with pytest.raises(LookupError):
        worker.finish(world.store)
    assert world.intention("i") is None


def test_a_withdrawal_that_cannot_be_made_certain_is_not_told_as_nothing_pending() -> None:
    world = World(a=5)

    def broken(numbers: dict[str, int | None]) -> None:
        raise LookupError("no such thing")

    worker = world.worker("i", Job(broken, ["a"]))
    while not any(isinstance(each, Remove) for each in worker.batch or ()):
        worker.step(world.store)
    while worker.batch is not None:
        worker.answer([Unknown("silence") for _ in worker.batch])
    assert isinstance(worker.error, OutcomeUnknown)
    assert world.intention("i") is not None


def test_a_refused_stage_did_not_happen_and_leaves_nothing() -> None:
    world = World(a=5, b=5)
    worker = world.worker("i", move("a", "b", 1))
    worker.step(world.store)
    assert worker.batch is not None
    replies = [
        Refused("too large") if is_on("b")(request) else world.store.perform([request])[0] for request in worker.batch
    ]
    worker.answer(replies)
    with pytest.raises(StoreUnavailable, match="too large"):
        worker.finish(world.store)
    assert world.intention("i") is None
    assert world.stage("a") is None


@pytest.mark.parametrize("landed", [False, True])
def test_a_refused_record_did_not_happen_and_leaves_nothing(landed: bool) -> None:
    """A result that is too large would be refused for ever."""
    world = World(a=5)
    worker = world.worker("i", add("a", 1))
    worker.step(world.store)
    assert worker.batch is not None
    record, stage = worker.batch
    worker.answer([Refused("too large"), world.store.perform([stage])[0] if landed else Refused("too large")])
    with pytest.raises(StoreUnavailable, match="too large; this call changed nothing"):
        worker.finish(world.store)
    assert isinstance(record, Insert)
    assert world.record("i") is None
    assert world.intention("i") is None
    assert world.stage("a") is None


@pytest.mark.parametrize("refused", range(7))  # declare, read R(i), a and b; write R(i), stage a and b
def test_what_the_store_never_takes_is_an_error_of_the_call_wherever_it_is_refused(refused: int) -> None:
    """Asking again would be in vain, and a sweep would find it pending for ever."""
    world = World(a=5, b=5)
    worker = world.worker("i", move("a", "b", 1))
    asked: list[StoreRequest] = []
    while worker.batch is not None:
        replies: list[Reply] = []
        for request in worker.batch:
            asked.append(request)
            never = request in asked[refused : refused + 1]
            replies.append(Refused("too large", lasting=True) if never else world.store.perform([request])[0])
        worker.answer(replies)
    with pytest.raises(UsageError, match="too large; nothing happened") as told:
        worker.finish(world.store)
    assert (told.value.happened, told.value.retry, told.value.operation_id) == (False, False, "i")
    assert world.intention("i") is None
    assert world.stage("a") is None
    assert world.stage("b") is None


def test_what_the_store_never_takes_as_a_refusal_is_an_error_of_the_call() -> None:
    world = World(a=5, b=5)
    worker = world.worker("i", move("a", "b", 9))
    worker.step(world.store)
    worker.step(world.store)  # a refusal of two documents is looked at again
    worker.answer([Refused("the details are too large", lasting=True)])
    with pytest.raises(UsageError, match="the details are too large; nothing happened"):
        worker.finish(world.store)
    assert world.intention("i") is None


def test_what_another_call_has_taken_over_stays_pending_though_the_store_never_takes_it() -> None:
    world = World(a=5, b=5)
    worker = world.worker("i", move("a", "b", 1))
    worker.step(world.store)
    other = world.worker("i", move("a", "b", 1))
    while other.paused < OPTIONS.patience:
        other.step(world.store)
    while not any(isinstance(each, Replace) for each in other.batch or ()):
        other.step(world.store)
    other.step(world.store)  # it has taken the intention over
    worker.answer([Refused("too large", lasting=True) for _ in worker.batch or ()])
    with pytest.raises(UsageError, match="too large") as told:
        worker.finish(world.store)
    assert (told.value.happened, told.value.retry) == (None, True)
    assert world.intention("i") is not None


def test_silence_is_an_unknown_outcome_within_the_deadline() -> None:
    world = World(a=5)
    worker = world.worker("i", add("a", 1))
    worker.step(world.store)
    while worker.batch is not None:
        worker.answer([Unknown("no answer") for _ in worker.batch])
    assert isinstance(worker.error, OutcomeUnknown)
    assert "no answer" in str(worker.error)
    assert worker.paused <= OPTIONS.deadline + 1


def test_no_proposal_after_the_deadline() -> None:
    world = World(a=5)
    worker = world.worker("i", add("a", 1))
    world.clock.advance(OPTIONS.deadline + 1)  # it slept; others may have finished and forgotten it
    worker.step(world.store)
    assert isinstance(worker.error, OutcomeUnknown)
    assert "business function took until then" in str(worker.error)
    assert world.record("i") is None


def test_a_result_that_was_seen_and_is_gone_is_never_run_again() -> None:
    world = World(a=5, b=5)
    dead = world.worker("i", move("a", "b", 1))
    dead.step(world.store)
    only(world, dead, lambda request: not is_on("b")(request))
    dead.crash()
    retry = world.worker("i", move("a", "b", 1))
    retry.step(world.store)  # has seen R(i)
    version = world.version(result_key("i"))
    assert version is not None
    world.store.perform([Remove(result_key("i"), version.cas)])
    with pytest.raises(Expired):
        retry.finish(world.store)
    assert world.record("i") is None


def test_ids_older_than_the_retention_or_from_the_future_are_refused() -> None:
    world = World(a=5)
    old = new_operation_id()
    for offset, words in ((OPTIONS.retention + 1, "older"), (-OPTIONS.skew - 1, "future")):
        import casops.ids

        made = casops.ids.time_of(old)
        assert made is not None
        clock = SimulatedClock(wall=made + offset)
        environment = world.environment()
        worker = Worker("w", Execution(environment, old, add("a", 1)).run(), clock)
        assert isinstance(worker.error, Expired)
        assert words in str(worker.error)
    for operation_id in ("order-1", "00000000-0000-4000-8000-000000000000"):
        world.run(operation_id, add("a", 1))  # ids that carry no time cannot be refused


def test_the_intentions_own_lost_reply_is_recognised() -> None:
    world = World(a=5)
    worker = world.worker("i", add("a", 1))
    reply_lost(world, worker, lambda request: isinstance(request, Insert))
    ended = worker.finish(world.store)
    assert worker.paused < OPTIONS.patience  # it did not wait for itself
    assert not ended.taken_over


def test_an_intention_that_nobody_acknowledges_is_declared_again() -> None:
    world = World(a=5)
    worker = world.worker("i", add("a", 1))
    only(world, worker, lambda request: not isinstance(request, Insert))
    ended = worker.finish(world.store)
    world.settle(ended)
    assert world.body("a") == 6
    assert world.intention("i") is None


def test_a_closed_generator_asks_for_nothing_more() -> None:
    world = World(a=5, b=5)
    steps = Execution(world.environment(), "i", move("a", "b", 1)).run()
    worker = Worker("w", steps, world.clock)
    worker.step(world.store)
    steps.close()  # would raise RuntimeError if it yielded once more
    assert world.record("i") is None


def test_replies_that_stored_nothing_are_not_taken_for_success() -> None:
    world = World(a=5)
    worker = world.worker("i", add("a", 1))
    worker.step(world.store)
    worker.answer([Unknown("?"), Unknown("?")])
    assert not worker.ended
    ended = worker.finish(world.store)
    world.settle(ended)
    assert world.body("a") == 6


def test_an_error_of_what_another_call_declared_does_not_say_that_it_will_not_happen() -> None:
    """It stays declared, so a sweep may yet bring it to its end."""

    def missing(numbers: dict[str, int | None]) -> None:
        raise DocumentMissing("no such thing")

    world = World(a=5)
    with pytest.raises(DocumentMissing) as ours:  # from the beginning: withdrawn, so it is certain
        world.run("j", Job(missing, ["a"]))
    assert (ours.value.happened, ours.value.retry, world.intention("j")) == (False, False, None)
    dead = world.worker("i", Job(missing, ["a"]))
    dead.step(world.store)
    dead.crash()
    with pytest.raises(DocumentMissing) as caught:
        world.run("i", Job(missing, ["a"]))
    assert (caught.value.happened, caught.value.retry) == (None, True)
    assert any("stays pending" in note for note in caught.value.__notes__)
    assert world.intention("i") is not None
