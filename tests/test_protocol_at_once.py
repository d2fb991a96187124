"""An operation in one step, where a store can write several documents at once, beside workers with the stream log."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from casops import Expired, OperationMismatch, OutcomeUnknown, StoreUnavailable, UsageError
from casops.messages import AtOnce, Insert, Key, Read, Refused, Remove, Replace, Stored, Unknown, Version
from casops.protocol.at_once import FEW, TRIES
from casops.protocol.ended import Ended
from casops.protocol.limits import MAX_DOCUMENTS
from casops.records import intention_key, result_key
from casops.testing.worker import Worker
from tests.steps import OPTIONS, REMEMBERED, Job, Refusal, World, add, move, n, proposes


def at_once(world: World, operation_id: str, job: Job) -> Worker[Ended]:
    return world.worker(operation_id, job, at_once=True)


def the_write(worker: Worker[Any]) -> AtOnce:
    assert worker.batch is not None
    (request,) = worker.batch
    assert isinstance(request, AtOnce), request
    return request


def keys(worker: Worker[Any]) -> list[Key]:
    assert worker.batch is not None
    assert all(isinstance(each, Read) for each in worker.batch)
    return [each.key for each in worker.batch if isinstance(each, Read)]


def about_to_write(world: World, operation_id: str, job: Job) -> Worker[Ended]:
    worker = at_once(world, operation_id, job)
    worker.step(world.store)
    the_write(worker)
    return worker


# --- nothing in the way ---------------------------------------------------------------------------------


def test_it_looks_and_writes_and_nothing_is_left_to_settle() -> None:
    world = World(a=5, b=0)
    worker = at_once(world, "i", move("a", "b", 2))
    assert keys(worker) == [result_key("i"), n("a"), n("b")]
    worker.step(world.store)
    assert [each.key for each in the_write(worker).writes] == [result_key("i"), n("a"), n("b")]
    worker.step(world.store)
    assert worker.result is not None
    assert (worker.result.put_away, worker.result.replayed) == (True, False)
    assert (world.body("a"), world.body("b")) == (3, 2)
    assert (world.stage("a"), world.stage("b"), world.intention("i")) == (None, None, None)
    record, version = world.record("i"), world.version(result_key("i"))
    assert record is not None
    assert version is not None
    assert (record.state, record.settled, record.result, record.attempts) == ("committed", True, 3, 1)
    assert [event.what for event in record.history] == ["declared", "proposed", "committed", "settled"]
    assert version.expires == world.clock.wall() + REMEMBERED


def test_asked_again_it_is_answered_by_one_look() -> None:
    world = World(a=5, b=0)
    at_once(world, "i", move("a", "b", 2)).finish(world.store)
    again = at_once(world, "i", move("a", "b", 2))
    again.step(world.store)
    assert again.result is not None
    assert (again.result.replayed, again.result.record.result) == (True, 3)
    assert world.do("i", move("a", "b", 2)).replayed  # and so is who takes the stream log
    with pytest.raises(OperationMismatch):
        at_once(world, "i", move("a", "b", 3)).finish(world.store)
    assert (world.body("a"), world.body("b"), world.intention("i")) == (3, 2, None)


def test_many_documents_are_looked_at_only_if_it_has_not_ended() -> None:
    names = [f"d{number}" for number in range(FEW + 1)]
    world = World(OPTIONS, **dict.fromkeys(names, 1))

    def function(numbers: dict[str, int | None]) -> int:
        return sum(value or 0 for value in numbers.values())

    worker = at_once(world, "i", Job(function, names))
    assert keys(worker) == [result_key("i")]
    worker.step(world.store)
    assert keys(worker) == [n(name) for name in names]
    assert worker.finish(world.store).record.result == len(names)


def test_documents_come_and_go_and_keep_their_expiry_and_what_stays_is_not_written() -> None:
    world = World(gone=1, kept=2, changed=3)
    (reply,) = world.store.perform([Read(n("changed"))])
    assert isinstance(reply, Version)
    until = int(world.clock.wall()) + 100
    world.store.perform([Replace(n("changed"), reply.cas, "3", expires=until)])

    def function(numbers: dict[str, int | None]) -> None:
        numbers.update({"gone": None, "changed": 4, "new": 5})

    worker = about_to_write(world, "i", Job(function, ["changed", "gone", "kept", "new"]))
    assert [type(each) for each in the_write(worker).writes] == [Insert, Replace, Remove, Insert]
    assert {key for key, _ in the_write(worker).seen} == {
        intention_key("i"),
        *map(n, ("changed", "gone", "kept", "new")),
    }
    worker.step(world.store)
    assert [world.body(name) for name in ("changed", "gone", "kept", "new")] == [4, None, 2, 5]
    changed = world.version(n("changed"))
    assert changed is not None
    assert changed.expires == until
    at_once(world, "j", Job(lambda numbers: numbers.update({"gone": 9}), ["gone"])).finish(world.store)
    assert world.body("gone") == 9


def test_what_the_function_finds_out_that_it_needs_is_fetched() -> None:
    world = World(a=5, b=7)
    job = move("a", "b", 2)
    job.declares = ["a"]
    worker = at_once(world, "i", job)
    worker.step(world.store)
    assert keys(worker) == [n("b")]
    worker.step(world.store)
    the_write(worker)
    worker.step(world.store)
    assert (world.body("a"), world.body("b")) == (3, 9)


# --- somebody else --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "b"])
def test_if_a_document_has_moved_nothing_is_written_and_it_looks_again(name: str) -> None:
    world = World(a=5, b=5)

    def tell(numbers: dict[str, int | None]) -> int:
        numbers["a"] = (numbers["a"] or 0) + 1
        return (numbers["a"] or 0) + (numbers["b"] or 0)  # b is only read

    worker = about_to_write(world, "i", Job(tell, ["a", "b"]))
    at_once(world, "j", add(name, 10)).finish(world.store)
    worker.step(world.store)
    assert world.record("i") is None
    assert keys(worker) == [result_key("i"), n("a"), n("b"), intention_key("i")]
    assert worker.finish(world.store).record.result == 21
    assert world.body("a") == (16 if name == "a" else 6)


def test_who_loses_again_and_again_takes_the_stream_log() -> None:
    world = World(a=0)
    worker = at_once(world, "i", add("a", 1))
    for number in range(TRIES):
        worker.step(world.store)
        the_write(worker)
        at_once(world, f"j{number}", add("a", 10)).finish(world.store)
        worker.step(world.store)
    ended = worker.finish(world.store)
    assert ended.record.state == "proposed"
    world.settle(ended)
    assert world.body("a") == 10 * TRIES + 1


def test_a_refusal_is_true_at_one_moment() -> None:
    world = World(a=1, b=9)

    def both(numbers: dict[str, int | None]) -> int:
        if (numbers["a"] or 0) + (numbers["b"] or 0) < 20:
            raise Refusal("too little")
        return 1

    worker = about_to_write(world, "i", Job(both, ["a", "b"]))
    at_once(world, "j", add("b", 10)).finish(world.store)
    assert worker.finish(world.store).record.state == "committed"  # it was to be refused
    refused = at_once(world, "k", move("a", "b", 100)).finish(world.store)
    assert (refused.record.state, refused.put_away) == ("declined", True)
    assert refused.record.refusal is not None
    assert refused.record.refusal.code == "insufficient"
    at_once(world, "l", add("a", 1000)).finish(world.store)
    assert at_once(world, "k", move("a", "b", 100)).finish(world.store).record.state == "declined"


def test_a_stage_takes_the_stream_log_which_decides_it() -> None:
    world = World(a=5, b=0)
    ended = world.run("j", move("a", "b", 2))  # committed, not settled
    worker = at_once(world, "i", move("a", "b", 1))
    worker.step(world.store)
    assert not any(isinstance(each, AtOnce) for each in worker.batch or ())
    world.settle(worker.finish(world.store))
    world.settle(ended)
    assert (world.body("a"), world.body("b")) == (2, 3)


def test_a_stage_that_comes_later_finds_another_document() -> None:
    world = World(a=5, b=0)
    slow = world.worker("j", move("a", "b", 2))
    slow.step(world.store)
    assert proposes(slow)
    at_once(world, "i", move("a", "b", 1)).finish(world.store)
    world.settle(slow.finish(world.store))
    assert (world.body("a"), world.body("b")) == (2, 3)
    assert (world.stage("a"), world.stage("b")) == (None, None)


def test_what_another_worker_has_begun_is_followed() -> None:
    world = World(a=5, b=0)
    first = world.worker("i", move("a", "b", 2))
    first.step(world.store)
    first.step(world.store)  # proposed, and all has landed
    second = at_once(world, "i", move("a", "b", 2))
    second.step(world.store)
    assert not any(isinstance(each, AtOnce) for each in second.batch or ())
    ended = second.finish(world.store)
    assert (ended.replayed, ended.record.result) == (True, 3)


def test_what_another_worker_has_declared_is_not_written_at_once() -> None:
    world = World(a=5, b=0)
    first = world.worker("i", move("a", "b", 2))
    first.step(world.store)  # declared
    second = about_to_write(world, "i", move("a", "b", 2))
    second.step(world.store)
    assert world.record("i") is None
    assert (world.body("a"), world.body("b")) == (5, 0)
    taken = second.finish(world.store)
    assert taken.taken_over
    assert first.finish(world.store).record.result == 3
    world.settle(taken)
    assert (world.body("a"), world.body("b")) == (3, 2)


def test_that_it_is_declared_is_found_out_by_the_first_write_that_fails() -> None:
    world = World(a=5, b=0)
    world.worker("i", move("a", "b", 2)).step(world.store)  # declared
    worker = at_once(world, "i", move("a", "b", 2))
    sent = 0
    while worker.batch is not None:
        sent += any(isinstance(each, AtOnce) for each in worker.batch)
        worker.step(world.store)
    assert (sent, worker.error) == (1, None)


def test_who_was_too_late_drops_the_stages_that_nobody_knows_of() -> None:
    world = World(a=5, b=0)
    late = world.worker("i", move("a", "b", 2))
    assert late.batch is not None
    read = world.store.perform([each for each in late.batch if isinstance(each, Read)])
    at_once(world, "i", move("a", "b", 2)).finish(world.store)
    late.answer([Unknown("no reply"), *read])  # of the intention: it is declared again
    late.step(world.store)
    moved = [None if isinstance(each, Insert) else "now" for each in late.batch or ()]
    assert proposes(late), moved
    assert late.batch is not None
    versions = {name: world.version(n(name)) for name in ("a", "b")}
    current = [
        Replace(each.key, version.cas, each.body, each.stage)
        if isinstance(each, Replace) and (version := versions.get(each.key.id)) is not None
        else each
        for each in late.batch
    ]
    late.answer(world.store.perform(current))  # as if it had read the documents after all was over
    assert (world.stage("a") is None, world.stage("b") is None) == (False, False)
    ended = late.finish(world.store)
    assert ended.replayed
    world.settle(ended)
    assert (world.stage("a"), world.stage("b"), world.intention("i")) == (None, None, None)
    assert (world.body("a"), world.body("b")) == (3, 2)


@pytest.mark.parametrize("how", ["it sleeps", "the clock for people jumps"])
def test_whoever_slept_until_the_result_was_forgotten_does_not_do_it_again(how: str) -> None:
    world = World(a=5, b=0)
    asleep = about_to_write(world, "i", move("a", "b", 2))
    at_once(world, "i", move("a", "b", 2)).finish(world.store)
    if how == "it sleeps":
        world.clock.advance(REMEMBERED + 1)
    else:
        world.clock.start += REMEMBERED + 1
    assert world.record("i") is None
    with pytest.raises(Expired):
        asleep.finish(world.store)
    assert (world.body("a"), world.body("b")) == (3, 2)


def test_two_calls_for_one_operation_write_it_once() -> None:
    world = World(a=5, b=0)
    workers = [about_to_write(world, "i", move("a", "b", 2)) for _ in range(2)]
    answers = [worker.finish(world.store) for worker in workers]
    assert [(each.record.result, each.replayed) for each in answers] == [(3, False), (3, True)]
    assert (world.body("a"), world.body("b")) == (3, 2)


# --- failures -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("done", [False, True])
def test_silence_is_neither_success_nor_failure(done: bool) -> None:
    world = World(a=5, b=0)
    worker = about_to_write(world, "i", move("a", "b", 2))
    late = the_write(worker)
    if done:
        world.store.perform([late])
    worker.answer([Unknown("no reply")])
    assert isinstance(worker.error, OutcomeUnknown)
    again = at_once(world, "i", move("a", "b", 2)).finish(world.store)
    assert (again.replayed, again.record.result) == (done, 3)
    assert not isinstance(world.store.perform([late])[0], Stored)  # should it come only now
    assert (world.body("a"), world.body("b")) == (3, 2)


def test_a_store_that_refuses_has_written_nothing() -> None:
    world = World(a=5, b=0)
    worker = about_to_write(world, "i", move("a", "b", 2))
    worker.answer([Refused("full")])
    assert isinstance(worker.error, StoreUnavailable)
    assert "changed nothing" in str(worker.error)
    assert (world.record("i"), world.intention("i")) == (None, None)


def test_what_can_never_be_written_is_no_nothing_has_happened_where_another_call_has_declared_it() -> None:
    world = World(a=5)
    first = world.worker("i", add("a", 1))
    first.step(world.store)
    first.crash()
    assert world.intention("i") is not None
    worker = about_to_write(world, "i", add("a", 1))
    worker.answer([Refused("too large", lasting=True)])
    with pytest.raises(UsageError) as told:
        worker.finish(world.store)
    assert (told.value.happened, told.value.retry) == (None, True)
    assert world.intention("i") is not None


def test_what_can_never_be_written_leaves_nothing_where_nobody_has_declared_it() -> None:
    world = World(a=5)
    worker = about_to_write(world, "i", add("a", 1))
    worker.answer([Refused("too large", lasting=True)])
    with pytest.raises(UsageError) as told:
        worker.finish(world.store)
    assert (told.value.happened, told.value.retry) == (False, False)
    assert (world.intention("i"), world.record("i")) == (None, None)


def test_what_the_store_can_never_take_nobody_has_declared() -> None:
    world = World(a=5)
    worker = about_to_write(world, "i", add("a", 1))
    worker.answer([Refused("too large", lasting=True)])
    worker.answer([Refused("no such key", lasting=True)])  # the intention
    worker.answer([Refused("no such key", lasting=True)])  # R(i)
    assert isinstance(worker.error, UsageError)
    assert (worker.error.happened, worker.error.retry) == (False, False)


def test_who_gives_up_and_does_not_hear_whether_another_call_has_declared_it_says_no_no() -> None:
    world = World(a=5)
    worker = about_to_write(world, "i", add("a", 1))
    worker.answer([Refused("too large", lasting=True)])
    worker.answer([Refused("the store is full")])
    assert isinstance(worker.error, StoreUnavailable)
    assert worker.error.retry is True


@pytest.mark.parametrize(("error", "pending"), [(LookupError("lasting"), False), (RuntimeError("once"), True)])
def test_what_the_function_raises_is_told_and_counted_as_ever(error: Exception, pending: bool) -> None:
    world = World(a=5)
    runs: list[int] = []

    def function(_: dict[str, int | None]) -> Any:
        runs.append(1)
        raise error

    with pytest.raises(type(error)):
        at_once(world, "i", Job(function, ["a"])).finish(world.store)
    assert (world.intention("i") is not None) == pending
    assert runs == [1]  # it is not run again about what it has just seen


def test_nothing_is_written_after_the_deadline() -> None:
    world = World(a=5, b=0)
    worker = at_once(world, "i", move("a", "b", 2))
    assert worker.batch is not None
    replies = world.store.perform(worker.batch)
    world.clock.advance(OPTIONS.deadline)
    worker.answer(replies)
    assert isinstance(worker.error, StoreUnavailable | OutcomeUnknown)
    assert (world.record("i"), world.body("a")) == (None, 5)


def test_too_many_documents_are_told() -> None:
    world = World()
    found: Sequence[str] = [f"d{number}" for number in range(MAX_DOCUMENTS + 1)]
    with pytest.raises(UsageError, match=f"{MAX_DOCUMENTS} documents"):
        at_once(world, "i", Job(lambda _: 1, found, declares=[])).finish(world.store)
    assert world.intention("i") is None


def test_whoever_dies_before_the_write_has_done_nothing() -> None:
    world = World(a=5, b=0)
    about_to_write(world, "i", move("a", "b", 2)).crash()
    assert (world.record("i"), world.intention("i"), world.body("a")) == (None, None, 5)
    assert json.dumps(at_once(world, "i", move("a", "b", 2)).finish(world.store).record.result) == "3"
