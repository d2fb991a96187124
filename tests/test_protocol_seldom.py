"""Rules whose breach takes a coincidence that neither the explorer nor the simulator is likely to make.

Each test is for one mutant of tests/mutants/listed.py that nothing else notices.  Stepped by hand.
"""

from __future__ import annotations

import dataclasses

import pytest

from casops.engine import Engine
from casops.errors import CasOpsError, Expired, OutcomeUnknown
from casops.messages import Insert, Mismatch, Read, Refused, Replace, Stored, Unknown
from casops.outcome import Recovery
from casops.protocol.ended import Ended
from casops.protocol.environment import TimeUp
from casops.protocol.forgetting import forget
from casops.protocol.limits import MAX_SETTLE_ROUNDS
from casops.protocol.settling import settle_documents
from casops.protocol.sweeping import cancel, look_up
from casops.records import Record, decode_intention, encode, intention_key, result_key
from casops.testing.worker import Worker
from tests.bank import Open
from tests.steps import OPTIONS, Job, Refusal, World, add, ask, move, n, proposes, staged, writes

# --- what was seen once ---------------------------------------------------------------------------


def test_who_has_lost_its_proposal_and_finds_no_result_does_not_run_again() -> None:
    world = World(a=5)
    worker = world.worker("i", add("a", 1))
    worker.step(world.store)
    world.do("i", add("a", 1))
    worker.step(world.store)  # there is a result: that is all it knows of it
    assert ask(world, forget(world.environment(), ["i"])) == 1
    with pytest.raises(Expired):
        worker.finish(world.store)
    assert world.body("a") == 6


# --- what is in doubt -----------------------------------------------------------------------------


def refuse(numbers: dict[str, int | None]) -> None:
    raise Refusal("no")


@pytest.mark.parametrize("lasting", [False, True])
@pytest.mark.parametrize("job", [add("a", 1), Job(refuse, ["a"])], ids=["proposed", "declined"])
def test_what_was_sent_and_has_no_reply_is_in_doubt_though_the_store_refuses_from_then_on(
    job: Job, lasting: bool
) -> None:
    world = World(a=5)
    worker = world.worker("i", job)
    worker.step(world.store)
    assert worker.batch is not None
    world.store.perform(worker.batch)
    worker.answer([Unknown("lost") for _ in worker.batch])
    while worker.batch is not None:
        worker.answer([Refused("the store is away", lasting=lasting) for _ in worker.batch])
    assert isinstance(worker.error, OutcomeUnknown)
    assert worker.error.happened is None
    assert world.intention("i") is not None


def test_a_result_on_its_way_is_in_doubt_though_the_store_will_never_take_another() -> None:
    """Its limits were changed, say."""
    world = World(a=5)
    worker = world.worker("i", Job(refuse, ["a"]))
    worker.step(world.store)
    assert worker.batch is not None
    late = worker.batch
    worker.answer([Unknown("lost")])
    worker.answer([Refused("too large", lasting=True)])
    with pytest.raises(OutcomeUnknown):
        worker.finish(world.store)
    assert all(isinstance(each, Stored) for each in world.store.perform(late))


# --- documents ------------------------------------------------------------------------------------


def test_what_is_made_anew_has_not_the_expiry_of_what_was_removed() -> None:
    def remove(numbers: dict[str, int | None]) -> None:
        numbers["a"] = None

    world = World(a=5)
    before = world.version(n("a"))
    assert before is not None
    world.store.perform([Replace(n("a"), before.cas, "5", expires=int(world.clock.wall()) + 1000)])
    world.run("x", Job(remove, ["a"]))  # not settled
    world.do("y", add("a", 1))
    made = world.version(n("a"))
    assert made is not None
    assert (made.body, made.stage, made.expires) == ("1", None, None)


def test_a_failure_of_what_never_was_at_one_instant_is_not_told() -> None:
    def balanced(numbers: dict[str, int | None]) -> str:
        if sum(each or 0 for each in numbers.values()) != 10:
            raise RuntimeError("the books do not balance")
        return "they do"

    world = World(a=5, b=5)
    worker = world.worker("i", Job(balanced, ["a", "b"]))
    assert worker.batch is not None
    assert worker.batch[-1] == Read(n("b"))
    before = world.store.perform(worker.batch[:-1])
    world.do("other", move("a", "b", 1))
    worker.answer([*before, *world.store.perform(worker.batch[-1:])])
    assert worker.finish(world.store).record.result == "they do"


def test_void_stages_of_what_was_never_proposed_are_dropped_in_the_end() -> None:
    world = World(a=5, b=5, c=5)
    staged(world, "i", Job(lambda numbers: None, ["b", "c"]), on="bc", record=False)
    world.do("y", add("b", 1))  # voids it
    assert world.stage("c") is not None
    world.do("i", Job(lambda numbers: None, ["a"]))
    assert world.stage("c") is None


# --- what is told ---------------------------------------------------------------------------------


def declared(world: World) -> Worker[Ended]:
    worker = world.worker("i", add("a", 1))
    worker.step(world.store)
    return worker


def test_what_ends_while_one_asks_for_it_is_never_unheard_of() -> None:
    world = World(a=5)
    worker = declared(world)
    asking = Worker("operator", look_up(world.environment(), "i"), world.clock)
    asking.step(world.store)
    world.settle(worker.finish(world.store))
    assert isinstance(asking.finish(world.store), Ended)


def test_what_is_settled_while_one_asks_for_it_has_ended() -> None:
    world = World(a=5)
    ended = declared(world).finish(world.store)
    asking = Worker("operator", look_up(world.environment(), "i"), world.clock)
    asking.step(world.store)  # the intention
    asking.step(world.store)  # proposed
    world.settle(ended)
    assert isinstance(asking.finish(world.store), Ended)


@pytest.mark.parametrize(("slept", "told"), [(0.45, OutcomeUnknown), (0.55, Expired)])
def test_a_call_that_slept_for_half_of_the_retention_is_not_to_be_asked_again(
    slept: float, told: type[CasOpsError]
) -> None:
    """Its retry might wait for the other half."""
    world = World(a=5)
    worker = world.worker("i", add("a", 1))
    world.clock.advance(OPTIONS.retention * slept)
    worker.step(world.store)
    assert type(worker.error) is told


# --- records --------------------------------------------------------------------------------------


def test_a_cancelled_result_outlives_its_intention() -> None:
    """Else a sweep might run what was cancelled."""
    world = World(a=5)
    declared(world).crash()
    ended = ask(world, cancel(world.environment(), "i"))
    world.clock.advance(OPTIONS.retention * 10)
    record = world.record("i")
    assert record is not None
    assert record.state == "cancelled"
    world.settle(ended)
    assert world.intention("i") is None


def test_an_intention_does_not_become_younger_when_it_is_taken_over() -> None:
    """Or what may have been forgotten already could be begun, see too_old_to_start."""
    world = World(a=5)
    began = world.clock.wall()
    declared(world).crash()
    world.clock.advance(100.0)
    taking = world.worker("i", add("a", 1))
    while not proposes(taking):
        taking.step(world.store)
    found = world.intention("i")
    assert found is not None
    intention = decode_intention(found.body, "i")
    assert intention.call == "w2-1"
    assert intention.at == began


def test_a_sweep_goes_by_the_fingerprint_that_was_declared() -> None:
    """Another version of the application, with other defaults, makes another one of the same arguments."""
    world = World(OPTIONS)
    engine = Engine(dataclasses.replace(OPTIONS, grace=0.0), [Open], "w")
    Worker("w", engine.execute(engine.work(Open(account="alice"), "i"), "i"), world.clock).step(world.store)
    found = world.intention("i")
    assert found is not None
    intention = dataclasses.replace(decode_intention(found.body, "i"), fingerprint="of an older version")
    void = Record(operation=intention.operation, fingerprint=intention.fingerprint, state="open")
    world.store.perform(
        [Replace(intention_key("i"), found.cas, encode(intention)), Insert(result_key("i"), encode(void))]
    )
    recovery: Recovery = Worker("w", engine.recover(), world.clock).finish(world.store)
    assert [each.operation_id for each in recovery.finished] == ["i"]
    record = world.record("i")
    assert record is not None
    assert record.fingerprint == "of an older version"


# --- who comes too late ---------------------------------------------------------------------------


def test_a_document_that_moved_while_its_committed_stage_was_settled_is_read_again() -> None:
    world = World(a=5)
    ended = world.run("x", move("a", "b", 1))  # brings b into being; not settled
    worker = world.worker("y", add("b", 10))
    while not any(each.key == n("b") for each in writes(worker.batch)):
        worker.step(world.store)
    world.do("z", add("b", 100))
    worker.step(world.store)
    for each in (worker.finish(world.store), ended):
        world.settle(each)
    assert (world.body("a"), world.body("b")) == (4, 111)


def test_settling_ends_where_documents_never_rest() -> None:
    world = World(a=5)
    ended = world.run("i", add("a", 1))
    worker = Worker("settler", settle_documents(world.environment(), ended), world.clock)
    worker.step(world.store)  # committed
    for _ in range(MAX_SETTLE_ROUNDS * 2):
        if worker.batch is not None:
            worker.answer([Mismatch() if writes([each]) else world.store.perform_one(each) for each in worker.batch])
    assert isinstance(worker.error, TimeUp)
