"""Refusals, replies and askers that come late, and what is told of what they find; stepped by hand."""

from __future__ import annotations

import pytest

from casops import CasOps, Pending
from casops.errors import OperationMismatch, UsageError
from casops.messages import Body, Forget, Insert, Mismatch, Missing, Read, Refused, Replace
from casops.options import Options
from casops.protocol.environment import TimeUp
from casops.protocol.reading import read_snapshot
from casops.protocol.sweeping import Declared, cancel, list_declared, look_up, too_old_to_start
from casops.records import intention_key
from casops.stores.memory import MemoryStore
from casops.testing.worker import Worker
from tests.bank import Open
from tests.conftest import QUICK
from tests.steps import OPTIONS, Job, Refusal, World, add, ask, is_on, is_record, move, n, only, reply_lost, writes


def spend(name: str, amount: int) -> Job:
    def function(numbers: dict[str, int | None]) -> int:
        left = (numbers[name] or 0) - amount
        if left < 0:
            raise Refusal("insufficient")
        numbers[name] = left
        return left

    return Job(function, [name])


# --- a refusal that comes too late ----------------------------------------------------------------


def about_to_refuse(world: World) -> Worker[object]:
    worker = world.worker("i", spend("a", 100))
    worker.step(world.store)
    assert any('"state":"declined"' in str(each) for each in worker.batch or ())
    world.do("y", add("a", 1000))
    return worker  # type: ignore[return-value]


def test_who_refuses_too_late_tells_what_a_rival_has_made_of_it() -> None:
    world = World(a=5)
    worker = about_to_refuse(world)
    world.run("i", spend("a", 100))
    ended = worker.finish(world.store)
    assert (ended.replayed, ended.record.state, ended.record.result) == (True, "committed", 905)  # type: ignore[attr-defined]


def test_who_refuses_too_late_does_not_take_a_rivals_proposal_for_an_answer() -> None:
    world = World(a=5)
    worker = about_to_refuse(world)
    rival = world.worker("i", spend("a", 100))
    while not any(is_record(each) for each in writes(rival.batch)):
        rival.step(world.store)
    (late,) = only(world, rival, is_record)  # its stage is still on its way
    rival.crash()
    ended = worker.finish(world.store)
    assert world.store.perform([late]) == [Mismatch()]
    world.settle(ended)  # type: ignore[arg-type]
    assert world.body("a") == 905
    record = world.record("i")
    assert record is not None
    assert record.state == "committed"


# --- an intention whose reply was lost ------------------------------------------------------------


def test_an_intention_whose_reply_was_lost_is_withdrawn_all_the_same() -> None:
    """Or a sweep would make happen of what the caller was told that it never will."""

    def function(numbers: dict[str, int | None]) -> None:
        raise LookupError("there is none")

    world = World(a=1)
    worker = world.worker("i", Job(function, ["a"]))
    reply_lost(world, worker, lambda each: isinstance(each, Insert))
    with pytest.raises(LookupError):
        worker.finish(world.store)
    assert (world.intention("i"), world.record("i")) == (None, None)


def test_a_proposal_that_was_refused_leaves_nothing_where_there_was_no_document() -> None:
    world = World(b=5)
    worker = world.worker("i", move("b", "new", 1))
    worker.step(world.store)
    assert worker.batch is not None
    too_large = Refused("too large", lasting=True)
    worker.answer([world.store.perform([each])[0] if is_on("b")(each) else too_large for each in worker.batch])
    with pytest.raises(UsageError, match="too large; nothing happened"):
        worker.finish(world.store)
    assert (world.stage("b"), world.version(n("new")), world.intention("i")) == (None, None, None)


def test_asked_again_when_all_was_put_away_it_leaves_no_intention() -> None:
    store = MemoryStore()
    for _ in range(2):
        with CasOps(store, options=QUICK) as casops:
            casops.run(Open(account="alice"), operation_id="open")
    with CasOps(store, options=QUICK) as casops:
        assert casops.execute(Open(account="alice"), operation_id="open").replayed
    assert store.perform([Read(intention_key("open"))]) == [Missing()]


# --- what operators are told ----------------------------------------------------------------------


def proposed(world: World) -> None:
    """x is proposed, has landed on one of two documents, and its intention was withdrawn."""
    worker = world.worker("x", move("a", "b", 1))
    worker.step(world.store)
    only(world, worker, lambda each: is_record(each) or is_on("a")(each))
    worker.crash()
    world.store.perform([Forget(intention_key("x"))])


def test_a_proposal_is_told_though_its_intention_is_gone() -> None:
    world = World(a=5, b=5)
    proposed(world)
    found = ask(world, look_up(world.environment(), "x"))
    assert isinstance(found, Declared)
    assert (found.intention, found.ended) == (None, False)
    with CasOps(world.store) as casops:
        pending = casops.outcome("x")
    assert isinstance(pending, Pending)
    assert (pending.operation, pending.state, pending.since, pending.worker) == ("job", "proposed", None, None)


def test_an_open_record_alone_says_that_nothing_happened() -> None:
    world = World(a=5, b=5)
    proposed(world)
    world.do("y", add("a", 1))
    record = world.record("x")
    assert record is not None
    assert record.state == "open"
    assert ask(world, look_up(world.environment(), "x")) is None


def test_what_is_cancelled_still_belongs_to_its_operation() -> None:
    world = World(a=5, b=5)
    worker = world.worker("x", move("a", "b", 1))
    worker.step(world.store)
    worker.crash()
    ended = ask(world, cancel(world.environment(), "x"))
    assert (ended.record.operation, ended.record.fingerprint) == ("job", move("a", "b", 1).fingerprint)
    world.settle(ended)
    with pytest.raises(OperationMismatch):
        world.run("x", move("a", "b", 2))


def test_a_refusal_at_once_took_one_attempt() -> None:
    world = World(a=5, b=5)
    refused = world.worker("k", move("a", "b", 100), at_once=True).finish(world.store)
    assert (refused.record.state, refused.record.attempts) == ("declined", 1)


def test_where_results_are_kept_for_ever_no_intention_is_too_old() -> None:
    world = World(Options(retention=0), a=5, b=5)
    worker = world.worker("x", move("a", "b", 1))
    worker.step(world.store)
    worker.crash()
    world.clock.advance(10 * 365 * 86_400)
    environment = world.environment()
    (declared,) = ask(world, list_declared(environment))
    assert not too_old_to_start(environment, declared)


def test_a_snapshot_of_documents_that_never_rest_ends_at_the_deadline() -> None:
    world = World(a=5, b=5)
    worker = Worker("reader", read_snapshot(world.environment(), [n("a"), n("b")]), world.clock)
    while worker.batch is not None:
        worker.step(world.store)
        world.clock.advance(1.0)
        version = world.version(n("a"))
        assert version is not None
        world.store.perform([Replace(n("a"), version.cas, Body.KEEP)])
    assert isinstance(worker.error, TimeUp)
    assert world.clock.monotonic <= OPTIONS.deadline + 2
