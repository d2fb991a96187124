"""Before a call says "it did not happen" it has looked whether another call has made it happen.  Stepped by hand."""

from __future__ import annotations

import pytest

from casops.errors import CasOpsError, DocumentMissing, OperationMismatch
from casops.messages import Insert, Mismatch, Missing, Read, Refused, Remove, Replace, Unknown
from casops.protocol.ended import Ended
from casops.records import result_key
from casops.testing.worker import Worker
from tests.steps import Job, World, add, is_record, n, proposes


def opening(error: Exception) -> Job:
    """Brings a document into being, and raises where there is one."""

    def function(numbers: dict[str, int | None]) -> str:
        if numbers["a"] is not None:
            raise error
        numbers["a"] = 1
        return "opened"

    return Job(function, ["a"])


def overtaken(world: World, job: Job, by: Job) -> Worker[Ended]:
    """A worker that has seen no R(i), is declared only after another call has made it happen, and then looks at a."""
    worker = world.worker("i", job)
    assert worker.batch is not None
    worker.answer([Unknown("lost"), Missing(), Unknown("lost")])  # the intention, R(i), the document
    world.do("i", by)
    assert world.intention("i") is None
    worker.step(world.store)
    assert world.intention("i") is not None  # its own, which it could not know to be in vain
    return worker


@pytest.mark.parametrize("error", [LookupError("there is one"), RuntimeError("once"), CasOpsError("a rule")])
def test_whoever_fails_because_it_has_happened_hears_that_it_has(error: Exception) -> None:
    world = World()
    worker = overtaken(world, opening(error), opening(error))
    ended = worker.finish(world.store)
    assert (ended.replayed, ended.record.result, ended.record.attempts) == (True, "opened", 1)
    world.settle(ended)
    assert world.intention("i") is None


def test_a_failure_that_nobody_has_prevented_is_told() -> None:
    world = World(a=1)
    with pytest.raises(LookupError):
        world.worker("i", opening(LookupError("there is one"))).finish(world.store)
    assert (world.record("i"), world.intention("i")) == (None, None)


def test_a_withdrawal_that_came_too_late_is_no_nothing_has_happened() -> None:
    """Another call took the intention over, brought it to its end and put it away, all while this one gave up."""
    world = World(a=1)
    worker = world.worker("i", opening(LookupError("there is one")))
    worker.step(world.store)
    assert worker.batch is not None
    assert isinstance(worker.batch[0], Remove)
    before = world.version(n("a"))
    assert before is not None
    world.store.perform([Remove(n("a"), before.cas)])  # so that the other call's function does not fail
    world.do("i", opening(LookupError("")))
    worker.answer([Mismatch()])
    ended = worker.finish(world.store)
    assert (ended.replayed, ended.record.result) == (True, "opened")


def test_who_cannot_look_does_not_say_that_nothing_happened() -> None:
    world = World(a=1)
    worker = world.worker("i", opening(LookupError("there is one")))
    worker.step(world.store)
    worker.step(world.store)  # withdrawn
    assert worker.batch is not None
    (look,) = worker.batch
    assert look == Read(result_key("i"))
    worker.answer([Refused("the store is away")])
    assert isinstance(worker.error, CasOpsError)
    assert worker.error.happened is None


def test_a_proposal_that_is_there_in_the_end_is_no_nothing_has_happened() -> None:
    world = World(a=1, b=1)
    worker = world.worker("i", opening(DocumentMissing("there is one")))
    worker.step(world.store)
    world.store.perform([Insert(result_key("i"), proposal(world, opening(LookupError(""))))])
    with pytest.raises(DocumentMissing) as told:
        worker.finish(world.store)
    assert (told.value.happened, told.value.retry) == (None, True)


def proposal(world: World, job: Job) -> str:
    """R(i) as a call for this job proposes it."""
    other = world.worker("other", add("b", 5))
    other.step(world.store)
    insert = next(each for each in other.batch or () if is_record(each))
    assert isinstance(insert, Insert)
    assert isinstance(insert.body, str)
    return insert.body.replace(add("b", 5).fingerprint, job.fingerprint)


def test_other_arguments_that_were_first_met_at_the_proposal_are_told_and_leave_nothing() -> None:
    world = World(a=1, b=1)
    worker = world.worker("i", add("a", 1))
    worker.step(world.store)  # declared: there is no R(i) yet
    world.store.perform([Insert(result_key("i"), proposal(world, add("b", 5)))])  # of one whose intention is gone
    with pytest.raises(OperationMismatch, match="did not happen"):
        worker.finish(world.store)
    assert world.intention("i") is None
    assert (world.stage("a"), world.body("a")) == (None, 1)


def loses_and_fails(world: World, fingerprint: str) -> Worker[Ended]:
    """A worker that has lost an attempt to another program, and will find that its function fails now."""

    def function(numbers: dict[str, int | None]) -> str:
        if numbers["a"] != 1:
            raise LookupError("a is not what it was")
        numbers["a"] = 2
        return "done"

    worker = world.worker("i", Job(function, ["a"], fingerprint=fingerprint))
    while not proposes(worker):
        worker.step(world.store)
    before = world.version(n("a"))
    assert before is not None
    world.store.perform([Replace(n("a"), before.cas, "7")])
    return worker


def test_an_id_is_free_for_a_mended_call_although_an_attempt_was_lost() -> None:
    """The lost attempt had left R(i), which said whose arguments it was, to nobody's use."""
    world = World(a=1)
    with pytest.raises(LookupError):
        loses_and_fails(world, "of the call as it was").finish(world.store)
    record = world.record("i")
    assert record is not None
    assert (record.state, record.operation, record.fingerprint) == ("open", None, None)
    assert world.intention("i") is None
    assert world.do("i", add("a", 1)).record.result == 8


def test_who_frees_an_id_too_late_hears_what_has_happened() -> None:
    """Found by the explorer: between the last look at R(i) and that write another worker had made it happen."""
    world = World(a=1)
    worker = loses_and_fails(world, add("a", 1).fingerprint)
    while "withdrawn" not in str(worker.batch):
        worker.step(world.store)
    world.do("i", add("a", 1))
    ended = worker.finish(world.store)
    assert (ended.replayed, ended.record.result) == (True, 8)


def test_an_id_that_another_call_has_is_not_freed() -> None:
    """It was declared again while this one gave up: what R(i) says is the other one's business."""
    world = World(a=1)
    job = Job(opening(LookupError("there is one")).function, ["a"])
    first = world.worker("i", add("a", 1))
    while not proposes(first):
        first.step(world.store)
    moved = world.version(n("a"))
    assert moved is not None
    world.store.perform([Replace(n("a"), moved.cas, "7")])
    first.step(world.store)  # proposed, and lost
    second = world.worker("i", job)
    with pytest.raises(OperationMismatch):
        second.finish(world.store)
    record = world.record("i")
    assert record is not None
    assert record.fingerprint == add("a", 1).fingerprint
