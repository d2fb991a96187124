"""What comes after the answer, readers, and what operators do; stepped by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest

from casops.errors import Contended, InvariantViolation, StoreUnavailable
from casops.messages import (
    Body,
    Entry,
    Forget,
    Insert,
    Key,
    Missing,
    Page,
    Read,
    Refused,
    Remove,
    Replace,
    Scan,
    Stage,
    Steps,
    Unknown,
    Version,
)
from casops.options import Options
from casops.protocol.ended import Ended
from casops.protocol.environment import Environment, StoreFailed, TimeUp
from casops.protocol.execution import Execution
from casops.protocol.limits import MAX_LISTED
from casops.protocol.reading import read_document, read_snapshot
from casops.protocol.sweeping import Declared, cancel, list_declared, look_up, too_old_to_start
from casops.protocol.together import together
from casops.records import Intention, encode, result_key, stage_of
from casops.testing.worker import Worker
from tests.steps import OPTIONS, REMEMBERED, Job, World, add, is_on, is_record, move, n, only, settle, writes


def settler(world: World, ended: Ended) -> Worker[None]:
    return Worker("settler", settle(world.environment(), ended), world.clock)


# --- settling ---------------------------------------------------------------------------------


def test_the_order_of_settling() -> None:
    world = World(a=5, b=5)
    worker = settler(world, world.run("i", move("a", "b", 1)))
    order: list[tuple[str, ...]] = []
    while worker.batch is not None:
        order.append(tuple(f"{type(each).__name__} {each.key.collection}" for each in writes(worker.batch)))
        worker.step(world.store)
    assert order == [
        ("Replace _casops.results",),
        ("Replace n", "Replace n"),
        ("Forget _casops.intentions",),
        ("Replace _casops.results",),
    ]


def test_committed_is_written_before_any_body_moves() -> None:
    world = World(a=5, b=5)
    worker = settler(world, world.run("i", move("a", "b", 1)))
    assert worker.batch is not None
    worker.answer([Unknown("lost")])  # nobody knows whether R(i) says committed
    assert worker.batch is not None
    assert not any(is_on("a")(each) for each in worker.batch)


def test_the_time_to_live_comes_after_documents_and_intention() -> None:
    world = World(a=5, b=5)
    worker = settler(world, world.run("i", move("a", "b", 1)))
    while worker.batch is not None and not any(isinstance(each, Forget) for each in worker.batch):
        worker.step(world.store)
    assert world.stage("a") is None
    record = world.version(result_key("i"))
    assert record is not None
    assert record.expires is None
    assert worker.batch is not None
    worker.answer([Unknown("lost")])  # the removal of the intention
    while worker.batch is not None and not writes(worker.batch):
        worker.step(world.store)
    assert isinstance(worker.batch[0] if worker.batch else None, Forget)  # again, before anything else
    worker.finish(world.store)
    record = world.version(result_key("i"))
    assert record is not None
    assert record.expires is not None


def test_an_intention_never_outlives_its_result() -> None:
    """The result's time to live is given last: else a sweeper would run the operation a second time."""
    world = World(a=5, b=5)
    for crash_after in range(8):
        operation_id = f"i{crash_after}"
        worker = settler(world, world.run(operation_id, move("a", "b", 1)))
        for _ in range(crash_after):
            if worker.batch is not None:
                worker.step(world.store)
        worker.crash()
        world.clock.advance(REMEMBERED * 2)
        assert world.record(operation_id) is not None or world.intention(operation_id) is None
        if world.record(operation_id) is not None:
            world.settle(Ended(operation_id, _standing(world, operation_id), True))


def _standing(world: World, operation_id: str) -> Any:
    from casops.protocol.fate import standing_of

    return standing_of(world.version(result_key(operation_id)) or Missing(), operation_id)


def test_a_document_somebody_built_on_is_skipped() -> None:
    world = World(a=5, b=5)
    ended = world.run("i", move("a", "b", 1))
    later = world.run("j", add("a", 10))
    world.settle(ended)
    stage = world.version(n("a"))
    assert stage is not None
    meta = stage_of(n("a"), stage)
    assert meta is not None
    assert meta.operation_id == "j"
    world.settle(later)
    assert (world.body("a"), world.body("b")) == (14, 6)


def test_settling_twice_changes_nothing_more() -> None:
    world = World(a=5, b=5)
    ended = world.run("i", move("a", "b", 1))
    world.settle(ended)
    before = world.version(n("a"))
    world.settle(ended)
    assert world.version(n("a")) == before


def test_void_stages_of_lost_attempts_are_dropped() -> None:
    world = World(a=5, b=5, c=5)

    def wander(numbers: dict[str, int | None]) -> None:
        numbers["a"] = (numbers["a"] or 0) + 1

    worker = world.worker("z", Job(wander, ["a", "b"]))
    worker.step(world.store)
    world.do("other", add("b", 1))
    worker.step(world.store)  # staged on a, lost b
    assert world.stage("a") is not None
    job = Job(lambda numbers: None, ["c"])
    worker._steps.close()
    ended = world.run("z", Job(job.function, ["c"]))
    world.settle(Ended("z", ended.standing, False, False, {**ended.staged, n("a"): None}, ended.listed))
    assert world.stage("a") is None
    assert world.body("a") == 5


def test_a_removed_document_is_removed() -> None:
    world = World(a=5)

    def remove(numbers: dict[str, int | None]) -> None:
        numbers["a"] = None

    world.do("i", Job(remove, ["a"]))
    version = world.version(n("a"))
    assert version is not None
    assert version.body is None
    assert version.stage is None


def test_a_document_that_was_only_looked_at_and_is_not_there_stays_absent() -> None:
    world = World()
    world.do("i", Job(lambda numbers: numbers["a"], ["a"]))
    version = world.version(n("a"))
    assert version is not None
    assert (version.body, version.stage) == (None, None)


def test_an_expiry_is_taken_from_the_document_while_staged_and_given_back() -> None:
    world = World(a=5)
    version = world.version(n("a"))
    assert version is not None
    world.store.perform([Replace(n("a"), version.cas, "5", expires=1_900_000_000)])
    ended = world.run("i", add("a", 1))
    staged = world.version(n("a"))
    assert staged is not None
    assert staged.expires is None
    world.run("j", add("a", 1))  # built on, still remembered
    world.settle(ended)
    world.settle(Ended("j", _standing(world, "j"), True))
    settled = world.version(n("a"))
    assert settled is not None
    assert (settled.body, settled.expires) == ("7", 1_900_000_000)


def test_a_participant_does_not_vanish_while_it_is_staged() -> None:
    world = World(a=5)
    version = world.version(n("a"))
    assert version is not None
    world.store.perform([Replace(n("a"), version.cas, "5", expires=int(world.clock.wall()) + 100)])
    ended = world.run("i", add("a", 1))
    world.clock.advance(200)
    assert world.body("a") == 5
    assert world.stage("a") is not None
    world.settle(ended)
    assert world.body("a") is None  # now it may


def test_a_stage_that_vanished_under_an_answered_operation_is_said_loudly() -> None:
    world = World(a=5, b=5)
    ended = world.run("i", move("a", "b", 1))
    version = world.version(n("a"))
    assert version is not None
    world.store.perform([Replace(n("a"), version.cas, "999")])  # a program that does not go through casops
    worker = settler(world, ended)
    worker.answer([Unknown("lost")])
    with pytest.raises(InvariantViolation):
        worker.finish(world.store)


# --- readers ----------------------------------------------------------------------------------


def reader(world: World, name: str = "a") -> Worker[str | None]:
    return Worker("reader", read_document(world.environment(), n(name)), world.clock)


def half_way(world: World, *, on: str, record: bool = True) -> list[Any]:
    worker = world.worker("x", move("a", "b", 1))
    worker.step(world.store)
    late = only(
        world, worker, lambda request: (is_record(request) and record) or any(is_on(name)(request) for name in on)
    )
    worker.crash()
    return late


@pytest.mark.parametrize(("on", "record", "seen"), [("a", True, "5"), ("ab", False, "5"), ("ab", True, "4")])
def test_a_reader_sees_committed_values_only_and_neither_waits_nor_writes(on: str, record: bool, seen: str) -> None:
    world = World(a=5, b=5)
    half_way(world, on=on, record=record)
    worker = reader(world)
    while worker.batch is not None:
        assert all(isinstance(each, Read) for each in worker.batch)
        worker.step(world.store)
    assert worker.result == seen
    assert worker.paused == 0


def test_a_reader_is_not_fooled_by_a_commit_while_it_looks() -> None:
    """R(x) is read, then x is committed and settled, then b is read: the old value of a was wrong."""
    world = World(a=5, b=5)
    half_way(world, on="ab")
    worker = reader(world)
    worker.step(world.store)
    assert worker.batch is not None
    (record,) = world.store.perform([Read(result_key("x"))])
    ended = world.run("x", move("a", "b", 1))
    world.settle(ended)
    replies = [record if each.key == result_key("x") else world.store.perform([each])[0] for each in worker.batch]  # type: ignore[union-attr]
    worker.answer(replies)
    assert worker.finish(world.store) == "4"


def test_a_snapshot_is_one_instant() -> None:
    """Between the two reads a transfer is committed: neither half of it may be seen alone."""
    world = World(a=5, b=5)
    keys = [n("a"), n("b")]
    for interrupt_after in range(1, 6):
        worker = Worker("reader", read_snapshot(world.environment(), keys), world.clock)
        for _ in range(interrupt_after):
            if worker.batch is None:
                break
            half, rest = worker.batch[:1], worker.batch[1:]
            first = world.store.perform(half)
            world.do(f"t{interrupt_after}-{world._workers}", move("a", "b", 0))
            ended = world.run(f"u{interrupt_after}-{world._workers}", move("a", "b", 1))
            worker.answer([*first, *world.store.perform(rest)])
            world.settle(ended)
            world.do(f"v{interrupt_after}-{world._workers}", move("b", "a", 1))
        bodies = worker.finish(world.store)
        assert sum(int(body or "0") for body in bodies.values()) == 10


def test_a_snapshot_in_the_middle_of_a_transfer_writes_nothing() -> None:
    world = World(a=5, b=5)
    for on, record, seen in (("a", True, ("5", "5")), ("ab", True, ("4", "6"))):
        fresh = World(a=5, b=5)
        half_way(fresh, on=on, record=record)
        worker = Worker("reader", read_snapshot(fresh.environment(), [n("a"), n("b")]), fresh.clock)
        while worker.batch is not None:
            assert not writes(worker.batch)
            worker.step(fresh.store)
        assert worker.result is not None
        assert tuple(worker.result.values()) == seen
    assert world.body("a") == 5


def test_a_snapshot_of_documents_that_never_rest_gives_up() -> None:
    world = World(a=5, b=5)
    worker = Worker("reader", read_snapshot(world.environment(), [n("a"), n("b")]), world.clock)
    while worker.batch is not None:
        worker.step(world.store)
        version = world.version(n("a"))
        assert version is not None
        world.store.perform([Replace(n("a"), version.cas, Body.KEEP)])
    assert isinstance(worker.error, Contended)


# --- operators --------------------------------------------------------------------------------


def ask(world: World, steps: Steps[Any]) -> Any:
    return Worker("operator", steps, world.clock).finish(world.store)


def test_looking_up_writes_nothing_and_knows_what_nobody_noticed() -> None:
    world = World(a=5, b=5)
    assert ask(world, look_up(world.environment(), "x")) is None
    half_way(world, on="a")
    declared = ask(world, look_up(world.environment(), "x"))
    assert isinstance(declared, Declared)
    other = World(a=5, b=5)
    half_way(other, on="ab")
    state = other.store.state()
    ended = ask(other, look_up(other.environment(), "x"))
    assert isinstance(ended, Ended)
    assert ended.record.result == 4
    assert other.store.state() == state


def test_cancel_makes_sure_that_it_never_happens() -> None:
    world = World(a=5, b=5)
    late = half_way(world, on="a")
    ended = ask(world, cancel(world.environment(), "x"))
    assert ended.record.state == "cancelled"
    world.store.perform(late)
    world.settle(ended)
    assert world.run("x", move("a", "b", 1)).record.state == "cancelled"
    world.do("y", move("a", "b", 2))
    assert (world.body("a"), world.body("b")) == (3, 7)


def test_cancel_comes_too_late_for_what_is_committed() -> None:
    world = World(a=5, b=5)
    half_way(world, on="ab")
    ended = ask(world, cancel(world.environment(), "x"))
    assert ended.record.state == "committed"
    world.settle(ended)
    assert world.body("b") == 6


def test_cancel_before_anybody_asked() -> None:
    world = World(a=5, b=5)
    ask(world, cancel(world.environment(), "x"))
    assert world.run("x", move("a", "b", 1)).record.state == "cancelled"


def test_a_cancel_whose_reply_is_lost_is_looked_up() -> None:
    world = World(a=5, b=5)
    worker = Worker("operator", cancel(world.environment(), "x"), world.clock)
    worker.step(world.store)
    assert worker.batch is not None
    world.store.perform(worker.batch)
    worker.answer([Unknown("lost")])
    assert worker.finish(world.store).record.state == "cancelled"


def test_pending_lists_what_was_declared() -> None:
    world = World(a=5, b=5)
    half_way(world, on="a")
    (declared,) = ask(world, list_declared(world.environment()))
    assert declared.operation_id == "x"
    assert declared.standing.record.state == "proposed"


def test_a_page_of_any_length_is_looked_at_a_part_at_a_time() -> None:
    world = World()
    intention = encode(Intention(operation="o", fingerprint="f", arguments="{}", call="c", worker="w", at=1.0))
    ids = [f"{number}" for number in range(2 * MAX_LISTED + 1)]
    worker = Worker("sweeper", list_declared(world.environment()), world.clock)
    assert worker.batch == (Scan(),)
    worker.answer([Page(tuple(Entry(id, 2, intention) for id in ids), None)])
    read: list[int] = []
    while worker.batch is not None:
        read.append(len(worker.batch))
        worker.step(world.store)
    assert read == [MAX_LISTED, MAX_LISTED, 1]
    assert [each.operation_id for each in worker.finish(world.store)] == ids


def test_an_intention_that_may_have_outlived_its_result_is_not_started() -> None:
    """A retry within the retention declares again and dies; the result is forgotten; a sweep comes by."""
    world = World(a=5, b=5)
    world.do("x", move("a", "b", 1))
    world.clock.advance(OPTIONS.retention * 0.4)
    retry = world.worker("x", move("a", "b", 1))
    retry.step(world.store)
    retry.crash()  # its answer was given, its intention stays
    world.clock.advance(REMEMBERED - OPTIONS.retention * 0.39)
    assert world.record("x") is None
    environment = world.environment()
    (declared,) = ask(world, list_declared(environment))
    assert too_old_to_start(environment, declared)
    # A proposal of the first attempt, later than anything should be, proves nothing either.
    late = World(a=5, b=5).worker("x", move("a", "b", 1), "late")
    late.step(World(a=5, b=5).store)
    assert late.batch is not None
    world.store.perform(late.batch[:1])
    (declared,) = ask(world, list_declared(environment))
    assert declared.standing.record is not None
    assert too_old_to_start(environment, declared)


def test_a_young_intention_is_started() -> None:
    world = World(a=5, b=5)
    worker = world.worker("x", move("a", "b", 1))
    worker.step(world.store)
    worker.crash()
    environment = world.environment()
    (declared,) = ask(world, list_declared(environment))
    assert not too_old_to_start(environment, declared)


def test_a_record_that_cannot_be_read_stops_everything() -> None:
    world = World(a=5)
    world.store.perform([Insert(result_key("i"), '{"v": 99}')])
    with pytest.raises(InvariantViolation, match="newer casops") as caught:
        world.run("i", add("a", 1))
    assert caught.value.operation_id == "i"
    assert world.body("a") == 5


def test_a_stage_that_cannot_be_read_stops_everything() -> None:
    world = World(a=5)
    version = world.version(n("a"))
    assert version is not None
    world.store.perform([Replace(n("a"), version.cas, Body.KEEP, Stage("?", "7"))])
    with pytest.raises(InvariantViolation, match="n/a"):
        world.run("i", add("a", 1))


# --- several at once --------------------------------------------------------------------------


def test_together_merges_batches_and_one_failure_stops_nobody_else() -> None:
    world = World(a=5, b=5)
    sizes: list[int] = []

    def asks(environment: Environment, key: Key) -> Steps[None]:
        yield from environment.begin()
        yield from environment.perform(Read(key))
        yield from environment.pause(0.5)
        yield from environment.perform(Read(key), Read(n("b")))

    def fails(environment: Environment) -> Steps[None]:
        yield from environment.perform(Read(n("a")))
        raise StoreFailed(Refused("no"))

    steps = together([asks(world.environment(), n("a")), fails(world.environment()), asks(world.environment(), n("b"))])
    worker = Worker("all", steps, world.clock)
    while worker.batch is not None:
        sizes.append(len(worker.batch))
        worker.step(world.store)
    assert worker.result is not None
    assert [type(each) for each in worker.result] == [type(None), StoreFailed, type(None)]
    assert sum(sizes) == 7
    assert len(sizes) < 7
    assert worker.paused <= 1.0


def test_the_deadline_bounds_every_wait() -> None:
    world = World(Options(deadline=2.0, patience=60.0, retention=10_000), a=5, b=5)
    half_way(world, on="a")
    worker = world.worker("y", add("a", 1))
    while worker.batch is not None:
        worker.step(world.store)
    assert worker.error is not None
    assert worker.paused <= 2.5


def test_stored_versions_are_plain_json() -> None:
    world = World(a=5, b=5)
    world.do("x", move("a", "b", 1))
    record = world.version(result_key("x"))
    assert isinstance(record, Version)
    told = json.loads(record.body or "")
    assert told["v"] == 1
    assert told["result"] == 4


@pytest.mark.parametrize("trouble", [Unknown("silent"), Refused("full")])
def test_settling_does_not_ask_a_store_in_trouble_without_pause(trouble: Unknown | Refused) -> None:
    """Found with a disk that filled up: settling wrote ten thousand times in a second, and starved the others."""
    world = World(a=5, b=5)
    ended = world.run("i", move("a", "b", 1))
    for healthy in range(4):
        worker = settler(world, ended)
        for _ in range(healthy):
            worker.step(world.store)
        asked = 0
        while worker.batch is not None:
            asked += 1
            worker.answer(
                [trouble if each in writes([each]) else world.store.perform([each])[0] for each in worker.batch]
            )
        assert asked < 200
        assert isinstance(worker.error, TimeUp | StoreFailed)


# --- a document that another program wrote while it was staged ------------------------------------


def test_a_broken_stage_still_counts_as_landed_but_nobody_builds_on_it_settles_it_or_shows_it() -> None:
    world = World(a=5, b=5)
    ended = world.run("i", move("a", "b", 1))
    before = world.version(n("a"))
    assert before is not None
    assert before.stage is not None
    broken = Stage(before.stage.meta, before.stage.body, "written by another program")
    world.store.perform([Replace(n("a"), before.cas, "17", broken)])

    with pytest.raises(InvariantViolation, match="n/a: written by another program"):
        reader(world, "a").finish(world.store)
    with pytest.raises(InvariantViolation, match="written by another program"):
        world.run("j", add("a", 1))
    with pytest.raises(InvariantViolation, match="written by another program"):
        world.settle(ended)
    # The other document is not held up, and the operation counts as what it was answered as.
    assert reader(world, "b").finish(world.store) == "6"
    record = world.record("i")
    assert record is not None
    assert record.state == "committed"
    assert world.body("a") == 17


# --- a sweep whose list is old --------------------------------------------------------------------


def test_a_sweep_does_not_declare_again_what_has_ended_since_it_looked() -> None:
    """Its result may be forgotten by then: it would happen a second time."""
    world = World(a=5, b=5)
    dead = world.worker("x", move("a", "b", 1))
    dead.step(world.store)
    dead.crash()
    (declared,) = ask(world, list_declared(world.environment()))
    world.do("x", move("a", "b", 1))
    result = world.version(result_key("x"))
    assert result is not None
    world.store.perform([Remove(result_key("x"), result.cas)])
    swept = Execution(world.environment(), "x", move("a", "b", 1)).run((declared.intention, declared.cas))
    with pytest.raises(StoreUnavailable, match="taken away during the sweep"):
        ask(world, swept)
    assert (world.body("a"), world.body("b")) == (4, 6)
    assert world.intention("x") is None
