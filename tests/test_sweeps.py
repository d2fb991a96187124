"""Sweeps: one operation that cannot be finished, or not even read, does not keep the others from being finished."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Iterator

import pytest

from casops import CasOps, Contended, Document, Documents, Operation, Options, Ref
from casops.messages import Insert, Read, Replace, Stored, Version
from casops.protocol.ended import Ended
from casops.protocol.execution import Execution
from casops.records import decode_intention, intention_key, result_key
from casops.service.duties import Duties
from casops.service.in_flight import InFlight
from casops.service.options import ServiceOptions
from casops.stores.memory import MemoryStore
from casops.testing.worker import Worker
from tests.conftest import QUICK
from tests.steps import OPTIONS, Job, World, add, n, proposes, reply_lost

# Seconds until something that does not come is given up; it takes milliseconds.
LONG = 20.0

NOW = dataclasses.replace(QUICK, park_after=3)


class Log(Document, collection="logs"):
    lines: int = 0


class Crash(RuntimeError):
    """Leaves the operation declared, as the death of its process would."""


class Ends(Operation[None]):
    """Means the process, in every sweep."""

    log: Ref[Log]

    def apply(self, documents: Documents) -> None:
        documents.get(self.log)
        raise SystemExit(3)


class Hangs(Operation[None]):
    log: Ref[Log]

    def apply(self, documents: Documents) -> None:
        documents.get(self.log)
        if not CRASHING:
            GO_ON.wait(3 * LONG)
        raise Crash


class Fine(Operation[int]):
    log: Ref[Log]

    def apply(self, documents: Documents) -> int:
        if CRASHING:
            raise Crash
        log = documents.get(self.log) or documents.create(self.log, Log())
        log.lines += 1
        return log.lines


CRASHING: list[bool] = []
GO_ON = threading.Event()


@pytest.fixture
def crashing() -> Iterator[None]:
    CRASHING.append(True)
    GO_ON.clear()
    yield
    CRASHING.clear()
    GO_ON.set()


def left_behind(casops: CasOps, **operations: Operation[None] | Operation[int]) -> None:
    for operation_id, operation in operations.items():
        with pytest.raises((Crash, SystemExit)):
            casops.run(operation, operation_id=operation_id)
    CRASHING.clear()


@pytest.mark.usefixtures("crashing")
def test_what_takes_the_process_with_it_is_counted_comes_last_and_is_parked() -> None:
    with CasOps(MemoryStore(), options=NOW, operations=[Ends, Fine]) as casops:
        left_behind(casops, a=Ends(log="a"), b=Fine(log="b"))
        with pytest.raises(SystemExit):
            casops.recover()  # a process that ends here has finished nothing; the next one knows
        (ends, fine) = casops.pending()
        assert (ends.operation_id, ends.failures, fine.failures) == ("a", 1, 1)
        assert "has not told" in (ends.last_error or "")
        with pytest.raises(SystemExit):
            casops.recover()
        assert [each.operation_id for each in casops.pending()] == ["a", "b"]
        with pytest.raises(SystemExit):
            casops.recover()
        assert [each.operation_id for each in casops.pending()] == ["a"]
        (left,) = casops.recover().left
        assert (left.failures, left.parked) == (3, True)


@pytest.mark.usefixtures("crashing")
async def test_a_server_goes_on_sweeping_beside_a_function_that_hangs(caplog: pytest.LogCaptureFixture) -> None:
    options = dataclasses.replace(NOW, deadline=0.05)
    casops = CasOps(MemoryStore(), options=options, operations=[Hangs, Fine])
    left_behind(casops, a=Hangs(log="a"), b=Fine(log="b"))
    every = ServiceOptions(sweep_every=0.05, answer_within=0.1, forget_after=0)
    duties = Duties(casops, InFlight(threads=2, operations=2, requests=2), every)
    duties.start()
    try:
        async with asyncio.timeout(LONG):
            while [(each.operation_id, each.parked) for each in casops.pending()] != [("a", True)]:
                await asyncio.sleep(0.01)
    finally:
        await duties.stop()
    assert casops.outcome("b") is not None
    assert "the next one does not wait for it" in caplog.text
    GO_ON.set()


@pytest.mark.parametrize("which", ["intention", "record"])
@pytest.mark.usefixtures("crashing")
def test_what_a_newer_casops_wrote_does_not_keep_others_from_being_listed_and_finished(which: str) -> None:
    store = MemoryStore()
    with CasOps(store, options=NOW, operations=[Fine]) as casops:
        left_behind(casops, a=Fine(log="a"))
        key = intention_key("newer") if which == "intention" else result_key("newer")
        store.perform([Insert(key, '{"v":2}')])
        if which == "record":
            store.perform([Insert(intention_key("newer"), intention_of(store, "a"))])
        (one, newer) = casops.pending()
        assert (one.operation_id, newer.operation_id) == ("a", "newer")
        assert "written by a newer casops" in newer.note
        recovery = casops.recover()
        assert [each.operation_id for each in recovery.finished] == ["a"]
        assert [(each.operation_id, each.note) for each in recovery.left] == [("newer", newer.note)]


def intention_of(store: MemoryStore, operation_id: str) -> str:
    (found,) = store.perform([Read(intention_key(operation_id))])
    assert isinstance(found, Version)
    assert isinstance(found.body, str)
    return found.body


def sweep(world: World, operation_id: str, job: Job) -> Worker[Ended]:
    """A worker that takes over what a sweep has found."""
    found = world.intention(operation_id)
    assert found is not None
    environment = world.environment()
    entry = decode_intention(found.body, operation_id), found.cas
    return Worker(environment.worker, Execution(environment, operation_id, job).run(entry), world.clock)


def failures(world: World, operation_id: str) -> int:
    found = world.intention(operation_id)
    assert found is not None
    return decode_intention(found.body, operation_id).failures


def declared(options: Options = OPTIONS) -> World:
    world = World(options, a=1)
    world.worker("i", add("a", 1)).step(world.store)  # and dies
    return world


def test_a_sweep_counts_a_failure_before_it_runs_anything() -> None:
    world = declared()
    worker = sweep(world, "i", add("a", 1))
    while not proposes(worker):
        assert (failures(world, "i"), worker.batch is not None) in ((0, True), (1, True))
        worker.step(world.store)
    assert failures(world, "i") == 1
    worker.finish(world.store)


def test_a_count_whose_reply_is_lost_counts_once_and_so_does_the_failure_after_it() -> None:
    def fails(_: dict[str, int | None]) -> int:
        raise Crash

    world = declared()
    worker = sweep(world, "i", Job(fails, ["a"], fingerprint=add("a", 1).fingerprint))
    while failures(world, "i") == 0:
        reply_lost(world, worker, lambda each: isinstance(each, Replace))
    with pytest.raises(Crash):
        worker.finish(world.store)
    assert failures(world, "i") == 1


def test_who_only_lost_to_others_is_not_counted() -> None:
    world = declared(dataclasses.replace(OPTIONS, attempts=1))
    worker = sweep(world, "i", add("a", 1))
    while not proposes(worker):
        worker.step(world.store)
    assert failures(world, "i") == 1
    before = world.version(n("a"))
    assert before is not None
    (moved,) = world.store.perform([Replace(n("a"), before.cas, "5")])
    assert isinstance(moved, Stored)
    with pytest.raises(Contended):
        worker.finish(world.store)
    assert failures(world, "i") == 0
