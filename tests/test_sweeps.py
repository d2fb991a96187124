"""Sweeps: one operation that cannot be finished, or not even read, does not keep the others from being finished."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
import uuid
from collections.abc import Callable, Container, Iterator, Sequence
from typing import Annotated, Any

import pytest
from pydantic import AfterValidator

from casops import CasOps, Contended, Document, Documents, Operation, Options, Recovery, Ref, new_operation_id
from casops.engine import Engine
from casops.errors import StoreUnavailable
from casops.messages import (
    INTENTIONS,
    Forget,
    Insert,
    Read,
    Refused,
    Replace,
    Reply,
    Steps,
    Stored,
    StoreRequest,
    Unknown,
    Version,
)
from casops.protocol.ended import Ended
from casops.protocol.execution import Execution
from casops.protocol.sweeping import list_declared
from casops.records import decode_intention, intention_key, result_key
from casops.service.duties import Duties
from casops.service.in_flight import InFlight
from casops.service.options import ServiceOptions
from casops.stores.memory import MemoryStore
from casops.testing.worker import Worker
from tests.conftest import QUICK
from tests.steps import OPTIONS, Job, World, add, n, proposes, reply_lost, staged

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


class Sweeping:
    """A server that sweeps all the time; its functions hang in two operations of four."""

    def __init__(self) -> None:
        self.casops = CasOps(MemoryStore(), options=dataclasses.replace(NOW, deadline=0.05), operations=[Hangs, Fine])
        left_behind(self.casops, a=Hangs(log="a"), b=Fine(log="b"), c=Hangs(log="c"), d=Fine(log="d"))
        every = ServiceOptions(sweep_every=0.05, answer_within=0.1, forget_after=0)
        self.duties = Duties(self.casops, InFlight(threads=2, operations=2, requests=2), every)

    async def until(self, happened: Callable[[], bool]) -> None:
        self.duties.start()
        try:
            async with asyncio.timeout(LONG):
                while not happened():
                    await asyncio.sleep(0.01)
        finally:
            await self.duties.stop()
            GO_ON.set()

    def pending(self) -> list[tuple[str, int]]:
        return [(each.operation_id, each.failures) for each in self.casops.pending()]


@pytest.mark.usefixtures("crashing")
async def test_a_server_goes_on_sweeping_beside_functions_that_hang(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweeping, recover, sweeps = Sweeping(), CasOps.recover, list[Recovery]()

    def swept(casops: CasOps, *, busy: Container[str] = ()) -> Recovery:
        sweeps.append(recovery := recover(casops, busy=busy))
        return recovery

    monkeypatch.setattr(CasOps, "recover", swept)
    await sweeping.until(lambda: len(sweeps) > 3)  # sweeps that came to their end
    assert sweeping.pending() == [("a", 2), ("c", 2)]  # and did not try those two once more
    assert {each.note for each in sweeps[-1].left} == {"being worked on here"}
    assert "the next one does not wait for it" in caplog.text


@pytest.mark.usefixtures("crashing")
async def test_sweeps_that_hang_are_no_endless_number(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("casops.service.duties.MOST_SWEEPS", 2)
    sweeping = Sweeping()
    await sweeping.until(lambda: "sweeps no more" in caplog.text)
    assert sweeping.pending() == [("a", 2), ("c", 2), ("d", 1)]


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
    """A worker that takes over what a sweep has found, as casops.engine has it."""
    found = world.intention(operation_id)
    assert found is not None
    environment, entry = world.environment(), (decode_intention(found.body, operation_id), found.cas)

    def steps() -> Steps[Ended]:
        execution = Execution(environment, operation_id, job)
        try:
            return (yield from execution.run(entry))
        except Exception:
            if not execution.at_fault:
                yield from execution.declaration.spare()
            raise

    return Worker(environment.worker, steps(), world.clock)


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


def moved(world: World) -> None:
    """By another program."""
    before = world.version(n("a"))
    assert before is not None
    (reply,) = world.store.perform([Replace(n("a"), before.cas, "5")])
    assert isinstance(reply, Stored)


def test_who_only_lost_to_others_is_not_counted() -> None:
    world = declared(dataclasses.replace(OPTIONS, attempts=1))
    worker = sweep(world, "i", add("a", 1))
    while not proposes(worker):
        worker.step(world.store)
    assert failures(world, "i") == 1
    moved(world)
    with pytest.raises(Contended):
        worker.finish(world.store)
    assert failures(world, "i") == 0
    record = world.record("i")
    assert record is not None
    assert record.fingerprint == add("a", 1).fingerprint  # it is pending: its id is not free


def test_a_sweep_that_has_counted_nothing_takes_nothing_back() -> None:
    world = declared()
    worker = sweep(world, "i", add("a", 1))
    worker.answer([Refused("the store is away") for _ in worker.batch or ()])
    assert isinstance(worker.error, StoreUnavailable)
    assert failures(world, "i") == 0


def test_sweeps_that_overlap_take_back_what_each_has_counted() -> None:
    world = declared(dataclasses.replace(OPTIONS, attempts=1))
    workers = [sweep(world, "i", add("a", 1)) for _ in range(2)]
    for worker in workers:
        while not proposes(worker):
            worker.step(world.store)
    assert failures(world, "i") == 2
    moved(world)
    for worker in workers:
        with pytest.raises(Contended):
            worker.finish(world.store)
    assert failures(world, "i") == 0


class Ailing(MemoryStore):
    """Takes no document, as long as it is ill."""

    def __init__(self) -> None:
        super().__init__()
        self.trouble: Unknown | Refused | None = None

    def perform(self, batch: Sequence[StoreRequest], /) -> list[Reply]:
        if self.trouble is None:
            return super().perform(batch)
        return [
            self.trouble
            if isinstance(each, Insert | Replace) and each.key.collection == "logs"
            else super(Ailing, self).perform([each])[0]
            for each in batch
        ]


@pytest.mark.parametrize("trouble", [Unknown("no answer"), Refused("not now")])
@pytest.mark.usefixtures("crashing")
def test_a_store_in_trouble_parks_nothing(trouble: Unknown | Refused) -> None:
    store = Ailing()
    with CasOps(store, options=dataclasses.replace(NOW, deadline=0.1), operations=[Fine]) as casops:
        left_behind(casops, a=Fine(log="a"))
        store.trouble = trouble
        for _ in range(5):
            (left,) = casops.recover().left
            assert (left.parked, casops.pending()[0].failures) == (False, 1)
        store.trouble = None
        assert [each.operation_id for each in casops.recover().finished] == ["a"]


class Slow(Operation[None]):
    """Takes longer than the deadline, so that nothing of it is ever written."""

    log: Ref[Log]

    def apply(self, documents: Documents) -> None:
        documents.get(self.log)
        if CRASHING:
            raise Crash
        time.sleep(0.2)


@pytest.mark.usefixtures("crashing")
def test_a_function_that_takes_longer_than_the_deadline_is_at_fault() -> None:
    with CasOps(MemoryStore(), options=dataclasses.replace(NOW, deadline=0.1), operations=[Slow]) as casops:
        left_behind(casops, a=Slow(log="a"))
        notes = [casops.recover().left[0] for _ in range(3)]
        assert [(each.failures, each.parked) for each in casops.pending()] == [(3, True)]
        assert "its business function took until then" in notes[0].note
        assert "parked" in notes[2].note


class Doubling(Operation[int], name="Fine"):
    """A version of Fine with a mistake: what is valid already is changed."""

    log: Annotated[Ref[Log], AfterValidator(lambda log: Log.ref(log.id + "-"))]

    def apply(self, documents: Documents) -> int:
        return 0


@pytest.mark.usefixtures("crashing")
def test_arguments_that_would_not_come_back_are_no_failure_of_the_function() -> None:
    store = MemoryStore()
    with CasOps(store, options=NOW, operations=[Fine]) as casops:
        left_behind(casops, a=Fine(log="a"))
    with CasOps(store, options=NOW, operations=[Doubling]) as casops:
        for _ in range(5):
            (left,) = casops.recover().left
            assert (left.failures, left.parked) == (1, False)
            assert "do not survive JSON" in left.note
    with CasOps(store, options=NOW, operations=[Fine]) as casops:
        assert [each.operation_id for each in casops.recover().finished] == ["a"]


@pytest.mark.usefixtures("crashing")
def test_an_id_that_a_sweep_must_not_run_is_left_with_its_reason() -> None:
    """Nothing had begun of it, so there was nothing to take back."""
    store = MemoryStore()
    future = str(uuid.UUID(int=uuid.UUID(new_operation_id()).int + (10**9 << 80)))  # by eleven days
    with CasOps(store, options=NOW, operations=[Fine]) as casops:
        left_behind(casops, a=Fine(log="a"))
        store.perform([Insert(intention_key(future), intention_of(store, "a"))])
        (left,) = casops.recover().left
        assert left.operation_id == future
        assert "comes from the future" in left.note


class Brimful(MemoryStore):
    """Takes no intention that is longer than the one it replaces."""

    def perform_one(self, request: StoreRequest) -> Reply:
        if isinstance(request, Replace) and request.key.collection == INTENTIONS:
            before = super().perform_one(Read(request.key))
            if isinstance(before, Version) and len(str(request.body)) > len(before.body or ""):
                return Refused("full")
        return super().perform_one(request)


@pytest.mark.usefixtures("crashing")
def test_where_no_intention_can_become_longer_sweeps_count_and_finish_all_the_same() -> None:
    store = Brimful()
    with CasOps(store, options=NOW, operations=[Ends, Fine]) as casops:
        left_behind(casops, a=Ends(log="a"), b=Fine(log="b"))
        assert [each.failures for each in casops.pending()] == [0, 0]  # there was no room to say so
        for _ in range(NOW.park_after):
            with pytest.raises(SystemExit):
                casops.recover()
        (left,) = casops.recover().left
        assert (left.operation_id, left.failures, left.parked) == ("a", 3, True)
        assert casops.read(Log.ref("b")) == Log(lines=1)


# --- stepped by hand ------------------------------------------------------------------------------


class Told(Operation[int]):
    """The same id may be asked for with either sum."""

    log: Ref[Log]
    lines: int

    def apply(self, documents: Documents) -> int:
        log = documents.get(self.log) or documents.create(self.log, Log())
        log.lines += self.lines
        return log.lines


def by_hand(world: World, steps: Callable[[Engine], Steps[Any]]) -> Worker[Any]:
    return Worker("w", steps(Engine(NOW, [Told], "w")), world.clock)


def asking(world: World, lines: int) -> Worker[Any]:
    operation = Told(log="a", lines=lines)
    return by_hand(world, lambda engine: engine.execute(engine.work(operation, "i"), "i"))


def test_a_sweep_that_meets_other_arguments_removes_only_the_intention_it_has_listed() -> None:
    world = World()
    asking(world, 1).step(world.store)  # declared, and nothing more
    sweeper = by_hand(world, lambda engine: engine.recover())
    sweeper.step(world.store)
    sweeper.step(world.store)  # it is listed, and has no result
    world.store.perform([Forget(intention_key("i"))])
    asking(world, 2).finish(world.store)
    world.store.perform([Forget(intention_key("i"))])  # settled
    retry = asking(world, 2)
    retry.step(world.store)  # declared anew
    recovery = sweeper.finish(world.store)
    assert ["belongs to an operation with other arguments" in each.note for each in recovery.left] == [True]
    assert world.intention("i") is not None


def test_a_result_that_cannot_be_read_keeps_no_other_from_being_listed() -> None:
    """In Couchbase each document may have a trouble of its own: damaged, too large, of a scope that was removed."""
    world = World(a=1, b=1)
    staged(world, "i", add("a", 1), on="")
    world.worker("j", add("b", 1)).step(world.store)

    def answered(request: StoreRequest) -> Reply:
        return Refused("damaged") if request == Read(n("a")) else world.store.perform_one(request)

    worker = Worker("operator", list_declared(world.environment()), world.clock)
    while worker.batch is not None:
        worker.answer([answered(each) for each in worker.batch])
    assert worker.error is None
    assert worker.result is not None
    assert [(each.operation_id, each.unreadable) for each in worker.result] == [("i", "damaged"), ("j", None)]
