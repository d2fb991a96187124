"""Rules of the protocol that the explorer and the simulator seldom or never meet; stepped by hand."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from casops import CasOps, Document, Documents, Operation, Options, Ref, new_operation_id
from casops.errors import Expired, StoreUnavailable
from casops.messages import Mismatch, Pause, Read, Refused, Replace, Steps, Unknown
from casops.protocol.ended import Ended
from casops.protocol.environment import Environment, StoreFailed, TimeUp
from casops.protocol.forgetting import forget
from casops.protocol.reading import read_document, read_snapshot
from casops.protocol.settling import settle_documents
from casops.protocol.sweeping import cancel, list_declared, look_up
from casops.protocol.together import together
from casops.records import result_key
from casops.stores.memory import MemoryStore
from casops.testing.worker import Worker
from tests.steps import OPTIONS, REMEMBERED, Job, World, add, move, n, settle, staged, writes

# --- what is remembered for ever ------------------------------------------------------------------


class Purse(Document, collection="purses"):
    balance: int = 0


class Pay(Operation[int]):
    purse: Ref[Purse]

    def apply(self, documents: Documents) -> int:
        purse = documents.get(self.purse) or documents.create(self.purse, Purse())
        purse.balance += 100
        return purse.balance


def test_where_results_are_kept_for_ever_no_id_is_too_old() -> None:
    then = int((time.time() - 10 * 365 * 86_400) * 1000)
    old = str(uuid.UUID(int=uuid.UUID(new_operation_id()).int & (1 << 80) - 1 | then << 80))
    with CasOps(MemoryStore(), options=Options(retention=0)) as casops:
        assert casops.run(Pay(purse="p"), operation_id=old) == 100
        assert casops.execute(Pay(purse="p"), operation_id=old).replayed
        assert casops.cancel(old).status == "applied"


def test_where_results_are_kept_for_ever_a_call_may_take_its_time() -> None:
    world = World(Options(retention=0, deadline=30.0), a=1)
    worker = world.worker("i", add("a", 1))
    world.clock.advance(20.0)
    assert worker.finish(world.store).record.result == 2


# --- a stage of another operation -----------------------------------------------------------------


def test_that_ones_own_result_was_seen_says_nothing_of_anothers() -> None:
    """R(i) is there, R(x) has not come yet: x has not been forgotten."""
    world = World(a=5, b=5)
    staged(world, "i", move("a", "b", 1), on="a")
    world.do("y", add("a", 10))  # voids it: R(i) is open
    staged(world, "x", move("a", "b", 1), on="a", record=False)
    world.settle(world.run("i", move("a", "b", 1)))
    assert (world.body("a"), world.body("b")) == (14, 6)


# --- void stages ----------------------------------------------------------------------------------


def test_settling_does_not_tell_the_body_of_a_stage_that_is_void() -> None:
    world = World(a=5, c=5)
    staged(world, "z", move("a", "c", 1), on="a")
    world.do("y", add("c", 1))  # z can never land there
    ended = world.run("z", Job(lambda numbers: None, ["c"], fingerprint=move("a", "c", 1).fingerprint))
    assert world.stage("a") is not None
    worker = Worker("settler", settle_documents(world.environment(), ended), world.clock)
    _, known = worker.finish(world.store)
    assert (world.stage("a"), world.body("a")) == (None, 5)
    assert n("a") not in known


@pytest.mark.parametrize("end", ["it happens", "it is cancelled"])
def test_where_void_stages_may_be_is_remembered_until_the_end(end: str) -> None:
    """The function looks at other documents by then, so that nobody else would drop them."""
    world = World(b=5, c=5, d=5)
    staged(world, "i", Job(lambda numbers: None, ["b", "c", "d"]), on="bc")
    world.do("y", add("b", 1))  # voids it: R(i) is open
    assert world.stage("c") is not None
    if end == "it happens":
        ended = world.run("i", Job(lambda numbers: None, ["b"]))
    else:
        ended = Worker("operator", cancel(world.environment(), "i"), world.clock).finish(world.store)
    assert ended.record.state in ("proposed", "cancelled")
    world.settle(ended)
    assert world.stage("c") is None


# --- what was forgotten ---------------------------------------------------------------------------


def test_settling_what_was_forgotten_meanwhile_leaves_nothing() -> None:
    world = World(a=5)
    ended = world.run("i", add("a", 1))
    world.settle(ended)
    world.clock.advance(REMEMBERED + 1)
    assert world.record("i") is None
    with pytest.raises(Expired):
        world.settle(ended)
    assert world.record("i") is None


def test_a_result_that_is_forgotten_while_it_is_put_away_is_put_away() -> None:
    world = World(a=5)
    ended = world.run("i", add("a", 1))
    worker = Worker("settler", settle(world.environment(), ended), world.clock)
    for _ in range(3):
        worker.step(world.store)  # committed, the document, the intention
    worker.answer([Unknown("lost")])  # its time to live
    world.settle(ended)
    assert Worker("client", forget(world.environment(), ["i"]), world.clock).finish(world.store) == 1
    worker.finish(world.store)
    assert (world.record("i"), world.intention("i")) == (None, None)


# --- what is told ---------------------------------------------------------------------------------


def test_what_came_of_an_attempt_that_is_dead_is_no_longer_in_doubt() -> None:
    world = World(a=5, b=5)
    worker = world.worker("i", move("a", "b", 1))
    worker.step(world.store)
    world.do("y", add("b", 1))
    worker.step(world.store)  # its stage on b is refused: it can never commit
    while worker.batch is not None:
        worker.answer([Refused("the store is away") for _ in worker.batch])
    assert isinstance(worker.error, StoreUnavailable)
    assert "declared and pending" in str(worker.error)


# --- every loop ends ------------------------------------------------------------------------------


def losing(world: World, seconds: float) -> Worker[Ended]:
    """Somebody who cancels and always comes too late."""
    worker = Worker("operator", cancel(world.environment(), "i"), world.clock)
    for _ in range(200):
        if worker.batch is None:
            break
        world.clock.advance(seconds)
        worker.answer([Mismatch() if writes([each]) else world.store.perform([each])[0] for each in worker.batch])
    return worker


def test_who_loses_every_race_gives_up_at_the_deadline() -> None:
    assert isinstance(losing(World(), 1.0).error, TimeUp)


def test_a_clock_that_stands_still_makes_no_loop_endless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("casops.protocol.environment.MAX_ROUNDS", 20)
    assert isinstance(losing(World(), 0.0).error, TimeUp)


def test_a_list_that_the_store_refuses_is_not_asked_for_again() -> None:
    world = World()
    worker = Worker("operator", list_declared(world.environment()), world.clock)
    worker.answer([Refused("not allowed")])
    assert isinstance(worker.error, StoreFailed)


Asked = Callable[[Environment], Steps[Any]]


@pytest.mark.parametrize(
    "asked",
    [
        lambda environment: read_document(environment, n("a")),
        lambda environment: read_snapshot(environment, [n("a"), n("b")]),
        lambda environment: look_up(environment, "i"),
        list_declared,
        lambda environment: cancel(environment, "i"),
        lambda environment: forget(environment, ["i"]),
    ],
)
def test_the_time_of_a_call_is_counted_from_its_beginning(asked: Asked) -> None:
    """Not from when the machine was started."""
    world = World(a=5, b=5)
    world.do("i", add("a", 1))
    world.clock.advance(OPTIONS.deadline * 2)
    worker = Worker("somebody", asked(world.environment()), world.clock)
    assert worker.batch is not None
    worker.answer([Unknown("lost") for _ in worker.batch])
    worker.finish(world.store)


# --- politeness -----------------------------------------------------------------------------------


def test_a_refusal_among_lost_races_ends_settling() -> None:
    world = World(a=5, b=5)
    ended = world.run("i", move("a", "b", 1))
    worker = Worker("settler", settle_documents(world.environment(), ended), world.clock)
    worker.step(world.store)  # committed
    assert len(writes(worker.batch)) == 2
    worker.answer([Mismatch(), Refused("full")])
    assert isinstance(worker.error, StoreFailed)


def test_together_waits_as_long_as_the_one_who_waits_longest() -> None:
    world = World(a=5)

    def waits(seconds: float) -> Steps[None]:
        yield Pause(seconds)
        yield (Read(n("a")),)

    worker = Worker("all", together([waits(0.5), waits(0.1)]), world.clock)
    assert worker.paused == 0.5
    worker.finish(world.store)


def test_patience_and_fence_are_needless_if_one_of_many_has_moved_on() -> None:
    world = World(a=5, b=5, c=5)
    job = Job(lambda numbers: None, ["a", "b", "c"])
    staged(world, "x", job, on="a")
    world.do("other", add("b", 1))
    worker = world.worker("y", add("a", 10))
    worker.step(world.store)
    worker.step(world.store)
    assert worker.paused == 0
    assert [each.key for each in writes(worker.batch)] == [result_key("x")]
    assert isinstance(worker.batch[0] if worker.batch else None, Replace)
