"""Meeting a stage: every row of the table at the top of casops/protocol/fate.py, stepped by hand."""

from __future__ import annotations

import json

from casops.messages import Body, Exists, Insert, Mismatch, Read, Remove, Replace, Stored, StoreRequest
from casops.protocol.ended import Ended
from casops.records import result_key
from casops.testing.worker import Worker
from tests.steps import OPTIONS, REMEMBERED, World, add, is_on, is_record, move, n, only, writes


def staged(world: World, operation_id: str = "x", *, on: str = "ab", record: bool = True) -> list[StoreRequest]:
    """Worker `x` moves 1 from a to b and dies with only these writes done.  Gives the ones that are late."""
    worker = world.worker(operation_id, move("a", "b", 1))
    worker.step(world.store)
    late = only(
        world, worker, lambda request: (is_record(request) and record) or any(is_on(name)(request) for name in on)
    )
    worker.crash()
    return late


def meet(world: World, operation_id: str = "y") -> Worker[Ended]:
    """A worker that wants to build on `a`, about to look at what it found there."""
    worker = world.worker(operation_id, add("a", 10))
    worker.step(world.store)
    return worker


def test_committed_the_staged_body_is_built_on_and_moved_in_with_the_next_stage() -> None:
    world = World(a=5, b=5)
    world.run("x", move("a", "b", 1))  # answered, not settled
    worker = meet(world)
    worker.step(world.store)  # reads R(x), a, b
    assert worker.batch is not None
    (noticed,) = worker.batch
    assert isinstance(noticed, Replace)
    assert json.loads(str(noticed.body))["state"] == "committed"
    worker.step(world.store)
    assert worker.batch is not None
    stage = worker.batch[1]
    assert isinstance(stage, Replace)
    assert stage.body is Body.STAGED
    assert stage.stage is not None
    assert stage.stage.body == "14"
    world.settle(worker.finish(world.store))
    assert world.body("a") == 14


def test_final_with_another_attempt_the_stage_is_void() -> None:
    world = World(a=5, b=5)
    late = staged(world, on="")  # only R(x) is there
    world.do("x", move("a", "b", 1))  # another worker brings it to its end
    assert world.store.perform(late) == [Mismatch(), Mismatch()]
    staged(world, "w", on="a", record=False)
    world.store.perform([Insert(result_key("w"), _declined())])
    worker = meet(world)
    worker.step(world.store)
    assert worker.batch is not None
    assert writes(worker.batch)[0].key == result_key("y")  # nothing was written about w
    world.settle(worker.finish(world.store))
    assert world.body("a") == 14


def _declined() -> str:
    return json.dumps({"v": 1, "operation": "job", "fingerprint": "a>b:1", "state": "declined"})


def test_proposed_with_another_attempt_the_stage_is_void_and_the_record_is_not_touched() -> None:
    world = World(a=5, b=5)
    late = staged(world, on="")  # R(x) = proposed(first), stages in flight
    second = world.worker("x", move("a", "b", 1))
    while not any(is_record(each) and "proposed" in str(each) for each in writes(second.batch)):
        second.step(world.store)
    world.store.perform(late)  # whatever of the first still lands now is void
    proposal = second.batch
    assert proposal is not None
    world.store.perform(proposal[:1])  # R(x) = proposed(second)
    second.crash()
    before = world.version(result_key("x"))
    worker = meet(world)
    if world.stage("a") is not None:
        worker.step(world.store)
        assert worker.batch is not None
        assert writes(worker.batch)[0].key == result_key("y")
    worker.finish(world.store)
    assert world.version(result_key("x")) == before


def test_open_the_record_is_moved_before_the_stage_counts_as_void() -> None:
    world = World(a=5, b=5)
    late = staged(world, on="a")
    world.do("y1", add("a", 10))  # voids x: R(x) = open
    assert world.store.perform([each for each in late if is_on("b")(each)]) == [Mismatch()]
    # A new attempt of x is about to propose from this version of R(x); its stage on `a` lands first.
    owner = world.worker("x", move("a", "b", 1))
    while not any(is_record(each) for each in writes(owner.batch)):
        owner.step(world.store)
    assert owner.batch is not None
    record, *stages = owner.batch
    world.store.perform(stages)
    worker = meet(world, "y2")
    worker.step(world.store)
    assert worker.batch is not None
    (bump,) = worker.batch
    assert isinstance(bump, Replace)
    assert bump.key == result_key("x")
    worker.step(world.store)
    assert world.store.perform([record]) == [Mismatch()]
    world.settle(worker.finish(world.store))
    assert world.body("a") == 25


def test_open_and_the_owner_is_faster_the_stage_is_looked_at_again() -> None:
    world = World(a=5, b=5)
    staged(world, on="a")
    world.do("y1", add("a", 10))
    owner = world.worker("x", move("a", "b", 1))
    while not any(is_record(each) for each in writes(owner.batch)):
        owner.step(world.store)
    assert owner.batch is not None
    record, *stages = owner.batch
    world.store.perform(stages)
    worker = meet(world, "y2")
    worker.step(world.store)  # has read R(x) = open
    world.store.perform([record])  # committed now
    owner.crash()
    world.settle(worker.finish(world.store))
    assert world.body("a") == 24
    world.settle(world.run("x", move("a", "b", 1)))
    assert world.body("b") == 6


def test_no_record_the_insert_may_be_in_flight_so_it_gets_a_little_time_and_is_stopped() -> None:
    world = World(a=5, b=5)
    late = staged(world, record=False)
    worker = meet(world)
    while not writes(worker.batch):
        worker.step(world.store)
    assert worker.paused >= OPTIONS.patience * 0.99
    assert worker.batch is not None
    (stop,) = worker.batch
    assert isinstance(stop, Insert)
    assert stop.key == result_key("x")
    assert stop.ttl == REMEMBERED
    world.settle(worker.finish(world.store))
    assert world.store.perform(late) == [Exists()]
    assert world.body("a") == 15


def test_no_record_and_the_insert_arrives_while_waiting() -> None:
    world = World(a=5, b=5)
    late = staged(world, record=False)
    worker = meet(world)
    worker.step(world.store)
    world.store.perform(late)
    world.settle(worker.finish(world.store))
    assert world.body("a") == 14


def test_proposed_and_landed_everywhere_is_committed_whether_or_not_anybody_noticed() -> None:
    world = World(a=5, b=5)
    staged(world)
    worker = meet(world)
    world.settle(worker.finish(world.store))
    assert worker.paused == 0
    record = world.record("x")
    assert record is not None
    assert record.state == "committed"
    assert world.body("a") == 14


def test_proposed_and_still_possible_patience_then_fence_then_open() -> None:
    world = World(a=5, b=5)
    (late,) = staged(world, on="a")
    worker = meet(world)
    order: list[str] = []
    while worker.batch is not None:
        order += [str(each.key) for each in writes(worker.batch)]
        worker.step(world.store)
    assert order[:2] == ["n/b", str(result_key("x"))]
    assert worker.paused >= OPTIONS.patience * 0.99
    assert world.store.perform([late]) == [Mismatch()]


def test_all_that_may_yet_land_are_fenced_together() -> None:
    """What landed on the second one after all was settled stayed there, and kept its expiry from it."""
    world = World(a=5, b=5)
    late = staged(world, on="")
    assert len(late) == 2
    worker = world.worker("x", move("a", "b", 1))
    while not any(each.key.collection == "n" for each in writes(worker.batch)):
        worker.step(world.store)
    fences = writes(worker.batch)
    kept = {(each.key, each.body, each.stage) for each in fences if isinstance(each, Replace)}
    assert kept == {(n(name), Body.KEEP, None) for name in "ab"}
    worker.step(world.store)
    assert world.store.perform(late) == [Mismatch(), Mismatch()]
    world.settle(worker.finish(world.store))
    assert (world.body("a"), world.body("b")) == (4, 6)


def test_one_fence_is_enough() -> None:
    world = World(a=5, b=5)
    late = staged(world, on="")
    worker = world.worker("x", move("a", "b", 1))
    while not any(each.key.collection == "n" for each in writes(worker.batch)):
        worker.step(world.store)
    assert isinstance(world.store.perform([late[0]])[0], Stored)  # it lands on one of them just before
    worker.step(world.store)
    assert [each.key for each in writes(worker.batch)] == [result_key("x")]
    assert world.store.perform([late[1]]) == [Mismatch()]
    world.settle(worker.finish(world.store))
    assert (world.body("a"), world.body("b")) == (4, 6)


def test_the_fence_keeps_body_stage_and_expiry() -> None:
    world = World(a=5)
    world.store.perform([Insert(n("b"), "5")])
    version = world.version(n("b"))
    assert version is not None
    world.store.perform([Replace(n("b"), version.cas, "5", expires=1_900_000_000)])
    staged(world, on="a")
    worker = meet(world)
    while not writes(worker.batch):
        worker.step(world.store)
    worker.step(world.store)
    after = world.version(n("b"))
    assert after is not None
    assert (after.body, after.stage, after.expires) == ("5", None, 1_900_000_000)


def test_an_absent_participant_is_fenced_by_a_version_of_its_own() -> None:
    world = World(a=5)
    (late,) = staged(world, on="a")
    worker = meet(world)
    while not writes(worker.batch):
        worker.step(world.store)
    assert worker.batch == (Insert(n("b"), None),)
    worker.finish(world.store)
    assert world.store.perform([late]) == [Exists()]
    assert world.body("b") is None


def test_a_fence_that_fails_decides_nothing() -> None:
    world = World(a=5, b=5)
    (late,) = staged(world, on="a")
    worker = meet(world)
    while not writes(worker.batch):
        worker.step(world.store)
    world.store.perform([late])  # it lands just before the fence: committed
    worker.step(world.store)
    assert worker.batch is not None
    assert not writes(worker.batch)
    world.settle(worker.finish(world.store))
    assert world.body("a") == 14


def test_one_participant_that_has_moved_on_makes_waiting_and_fencing_needless() -> None:
    world = World(a=5, b=5)
    (late,) = staged(world, on="a")
    world.do("other", add("b", 1))
    worker = meet(world)
    worker.step(world.store)
    assert worker.paused == 0
    assert [each.key for each in writes(worker.batch)] == [result_key("x")]
    worker.finish(world.store)
    assert world.store.perform([late]) == [Mismatch()]


def test_the_elder_does_not_wait_for_the_younger() -> None:
    world = World(a=5, b=5)
    staged(world, "x", on="a")
    elder = meet(world, "m")
    elder.finish(world.store)
    assert elder.paused <= OPTIONS.poll * 2


def test_the_younger_waits_for_the_elder() -> None:
    world = World(a=5, b=5)
    staged(world, "x", on="a")
    younger = meet(world, "y")
    younger.finish(world.store)
    assert younger.paused >= OPTIONS.patience * 0.99


def test_a_stage_that_creates_is_settled_before_it_is_built_on() -> None:
    world = World(b=5)
    world.run("x", add("a", 5))  # a comes into being, not settled
    worker = meet(world)
    while not any(each.key == n("a") for each in writes(worker.batch)):
        worker.step(world.store)
    assert worker.batch is not None
    (alive,) = worker.batch
    assert isinstance(alive, Replace)
    assert (alive.body, alive.stage) == (Body.STAGED, None)
    world.settle(worker.finish(world.store))
    assert world.body("a") == 15


def test_a_stage_that_removes_is_settled_before_the_document_is_created_again() -> None:
    world = World(a=5, b=5)

    def remove(numbers: dict[str, int | None]) -> None:
        numbers["a"] = None

    job = add("a", 0)
    job.function = remove
    world.run("x", job)
    assert world.body("a") == 5  # not settled yet
    worker = meet(world)
    while not any(each.key == n("a") for each in writes(worker.batch)):
        worker.step(world.store)
    assert worker.batch is not None
    assert isinstance(worker.batch[0], Remove)
    world.settle(worker.finish(world.store))
    assert world.body("a") == 10


def test_own_void_stage_the_next_proposal_names_exactly_the_version_that_settling_left() -> None:
    world = World(a=5, b=5)
    staged(world, "x", on="a", record=False)  # stage without record, intention of a dead worker
    retry = world.worker("x", move("a", "b", 1))
    ended = retry.finish(world.store)
    world.settle(ended)
    assert (world.body("a"), world.body("b")) == (4, 6)


def test_own_stage_of_a_rival_worker_is_not_overwritten_while_it_can_commit() -> None:
    world = World(a=5, b=5)
    staged(world, on="a")
    world.do("y1", add("a", 10))  # R(x) = open
    rival = world.worker("x", move("a", "b", 1))
    while not any(is_record(each) for each in writes(rival.batch)):
        rival.step(world.store)
    assert rival.batch is not None
    record, *stages = rival.batch
    me = world.worker("x", move("a", "b", 1))
    me.step(world.store)
    world.store.perform(stages)  # the rival's stages land while I hold R(x) = open
    while not any(is_on("a")(each) for each in writes(me.batch)):
        me.step(world.store)
        assert me.batch is not None
    assert world.store.perform([record]) == [Mismatch()]  # R(x) was moved before I stage
    world.settle(me.finish(world.store))
    assert (world.body("a"), world.body("b")) == (14, 6)


def test_reads_come_before_decisions() -> None:
    world = World(a=5, b=5)
    staged(world)
    worker = meet(world)
    assert worker.batch is not None
    assert {each.key for each in worker.batch if isinstance(each, Read)} == {result_key("x"), n("a"), n("b")}
