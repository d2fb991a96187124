"""Void stages, results that are forgotten while somebody is at work, and who may ask how long; stepped by hand."""

from __future__ import annotations

import time
import uuid
from typing import Any

import pytest

from casops import CasOps, Options, new_operation_id
from casops.errors import Expired, OperationMismatch, StoreUnavailable
from casops.messages import Exists, Forget, Refused, Replace, Unknown
from casops.protocol.environment import TimeUp
from casops.protocol.forgetting import forget
from casops.protocol.reading import read_document, read_snapshot
from casops.protocol.sweeping import cancel, list_declared, look_up, too_old_to_start
from casops.records import intention_key, result_key
from casops.stores.memory import MemoryStore
from casops.testing.worker import Worker
from tests.bank import Open
from tests.steps import OPTIONS, Job, Refusal, World, add, ask, is_on, move, n, staged, writes


def nothing(*names: str) -> Job:
    return Job(lambda numbers: None, names)


# --- void stages ----------------------------------------------------------------------------------


def test_readers_do_not_take_a_void_stage_of_a_committed_operation_for_its_value() -> None:
    world = World(a=5, c=5)
    staged(world, "z", Job(move("a", "c", 1).function, ["a", "c"]), on="a")
    world.do("y", add("c", 1))  # z can never land there
    world.run("z", nothing("c"))  # it does something else now, and is committed
    assert world.stage("a") is not None
    for noticed in (False, True):
        if noticed:
            ask(world, look_up(world.environment(), "z"))
            world.run("w", add("c", 1))  # met its stage: R(z) says committed
        assert ask(world, read_document(world.environment(), n("a"))) == "5"
        assert ask(world, read_snapshot(world.environment(), [n("a"), n("c")]))[n("a")] == "5"


def test_who_refuses_drops_the_void_stage_that_it_met() -> None:
    """R(i) was open when the stage landed, and does not name its document."""
    world = World(a=5, b=5, c=5)
    staged(world, "i", nothing("b", "c"), on="b")
    world.do("y", add("b", 1))  # voids it: R(i) is open
    staged(world, "i", nothing("a"), on="a", record=False)

    def refuse(numbers: dict[str, int | None]) -> None:
        raise Refusal("no")

    ended = world.run("i", Job(refuse, ["a"]))
    assert ended.record.state == "declined"
    world.settle(ended)
    assert world.stage("a") is None


# --- what was forgotten ---------------------------------------------------------------------------


def forgotten(world: World, operation_id: str) -> None:
    assert ask(world, forget(world.environment(), [operation_id])) == 1
    assert world.record(operation_id) is None


def test_who_refuses_too_late_does_not_do_what_was_forgotten() -> None:
    def function(numbers: dict[str, int | None]) -> None:
        if (numbers["a"] or 0) < 100:
            raise Refusal("insufficient")
        numbers["a"] = 0

    world = World(a=5)
    worker = world.worker("i", Job(function, ["a"]))
    worker.step(world.store)
    assert any('"state":"declined"' in str(each) for each in worker.batch or ())
    world.do("y", add("a", 1000))
    world.do("i", Job(function, ["a"]))
    world.do("y2", add("a", 1000))
    worker.answer([Exists()])
    assert worker.batch is not None
    forgotten(world, "i")
    with pytest.raises(Expired):
        worker.finish(world.store)
    assert world.body("a") == 1000


def test_what_was_forgotten_under_a_cancel_is_not_said_to_be_cancelled() -> None:
    world = World(a=5, b=5)
    ended = world.run("i", move("a", "b", 1))
    worker = Worker("operator", cancel(world.environment(), "i"), world.clock)
    worker.step(world.store)  # it is proposed
    world.settle(ended)
    forgotten(world, "i")
    with pytest.raises(Expired):
        worker.finish(world.store)
    assert world.record("i") is None


# --- what operators are told ----------------------------------------------------------------------


def test_what_is_declared_can_be_cancelled_however_old_it_is() -> None:
    """A sweep leaves it, and says so."""
    then = int((time.time() - OPTIONS.retention * 2) * 1000)
    old = str(uuid.UUID(int=uuid.UUID(new_operation_id()).int & (1 << 80) - 1 | then << 80))
    world = World(a=5)
    world.clock.start = time.time() - OPTIONS.retention * 2
    worker = world.worker(old, add("a", 1))
    worker.step(world.store)
    worker.crash()
    world.clock.start = time.time()
    assert ask(world, cancel(world.environment(), old)).record.state == "cancelled"


def test_what_has_ended_is_told_as_a_replay() -> None:
    with CasOps(MemoryStore(), options=Options(grace=0)) as casops:
        casops.run(Open(account="alice"), operation_id="open")
        found: Any = casops.outcome("open")
        assert found.replayed


# --- every loop ends ------------------------------------------------------------------------------


def test_a_reader_under_whom_the_result_never_rests_gives_up_at_the_deadline() -> None:
    world = World(a=5, b=5)
    staged(world, "x", move("a", "b", 1), on="a")
    worker = Worker("reader", read_document(world.environment(), n("a")), world.clock)
    for _ in range(100):
        if worker.batch is None:
            break
        worker.step(world.store)
        world.clock.advance(1.0)
        version = world.version(result_key("x"))
        assert version is not None
        assert version.body is not None
        world.store.perform([Replace(result_key("x"), version.cas, version.body)])
    assert isinstance(worker.error, TimeUp)


@pytest.mark.parametrize("trouble", [Unknown("silent"), Refused("full")])
def test_fencing_does_not_ask_a_store_in_trouble_without_pause(trouble: Unknown | Refused) -> None:
    world = World(a=5, b=5)
    staged(world, "x", move("a", "b", 1), on="a")
    worker = world.worker("y", add("a", 10))
    asked = 0
    while worker.batch is not None:
        asked += 1
        worker.answer([trouble if is_on("b")(each) else world.store.perform([each])[0] for each in worker.batch])
    assert asked < 300
    assert worker.error is not None


# --- times and races ------------------------------------------------------------------------------


@pytest.mark.parametrize(("age", "too_old"), [(0.45, False), (0.55, True)])
def test_an_intention_is_too_old_after_half_of_the_retention(age: float, too_old: bool) -> None:
    world = World(a=5)
    worker = world.worker("i", add("a", 1))
    worker.step(world.store)
    worker.crash()
    world.clock.advance(OPTIONS.retention * age)
    environment = world.environment()
    (declared,) = ask(world, list_declared(environment))
    assert too_old_to_start(environment, declared) == too_old


def test_a_reader_is_not_stopped_by_a_result_that_is_forgotten_while_it_looks() -> None:
    world = World(a=5, b=5)
    staged(world, "x", move("a", "b", 1), on="a")
    worker = Worker("reader", read_document(world.environment(), n("a")), world.clock)
    worker.step(world.store)  # the document
    worker.step(world.store)  # R(x): proposed, and b without its stage
    world.do("x", move("a", "b", 1))
    forgotten(world, "x")
    assert worker.finish(world.store) == "5"  # as it was when the document was read


def test_who_takes_over_looks_whose_intention_stands_by_then() -> None:
    world = World(a=5, b=5)
    first = world.worker("i", add("a", 1))
    first.step(world.store)
    first.crash()
    second = world.worker("i", add("a", 1))
    while not any(each.key == intention_key("i") for each in writes(second.batch)) or second.paused == 0:
        second.step(world.store)  # about to take it over
    world.store.perform([Forget(intention_key("i"))])
    other = world.worker("i", add("b", 1))
    other.step(world.store)  # the first has withdrawn it, and somebody else has declared another operation
    other.crash()
    with pytest.raises(OperationMismatch):
        second.finish(world.store)
    assert world.record("i") is None


def test_an_own_stage_whose_result_is_forgotten_is_not_done_once_more() -> None:
    world = World(a=5, b=5)
    staged(world, "i", move("a", "b", 1), on="a")
    world.do("y", add("a", 10))  # voids it: R(i) is open
    world.store.perform([Forget(intention_key("i"))])
    worker = world.worker("i", move("a", "b", 1))
    assert worker.batch is not None
    first = world.store.perform(worker.batch[:2])  # declared, and R(i) is open
    ended = world.run("i", move("a", "b", 1))  # a rival takes it over
    rest = world.store.perform(worker.batch[2:])
    world.settle(ended)
    forgotten(world, "i")
    worker.answer([*first, *rest])
    with pytest.raises(Expired):
        worker.finish(world.store)
    assert (world.body("a"), world.body("b")) == (14, 6)


def test_a_refusal_that_was_lost_against_a_rivals_proposal_is_no_longer_in_doubt() -> None:
    world = World(a=5)

    def function(numbers: dict[str, int | None]) -> None:
        if (numbers["a"] or 0) < 100:
            raise Refusal("insufficient")

    worker = world.worker("i", Job(function, ["a"]))
    worker.step(world.store)
    world.do("y", add("a", 1000))
    staged(world, "i", Job(function, ["a"]), on="")  # a rival proposes, and dies
    worker.answer([Unknown("lost")])
    worker.step(world.store)  # once more: there is a result already
    while worker.batch is not None:
        trouble = Refused("the store is away")
        worker.answer([trouble if is_on("a")(each) else world.store.perform([each])[0] for each in worker.batch])
    assert isinstance(worker.error, StoreUnavailable)
