"""Callers of a file who ask at the same time: one thread, or one task, carries out what all of them want.

Must not be in here: what a conversation is (tests/test_conversations.py), what a transaction does to rows.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from contextvars import ContextVar
from decimal import Decimal
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from casops import AsyncCasOps, CasOps, Documents, Expired, Operation, Ref, StoreUnavailable, UsageError, local
from casops.callers import AsyncCallers, Callers, _Call, _Lead
from casops.combining import MOST
from casops.conversations import Wish, at_once
from casops.messages import (
    RESULTS,
    Insert,
    Key,
    Missing,
    Pause,
    Read,
    Refused,
    Reply,
    Steps,
    Stored,
    StoreRequest,
    Version,
)
from casops.stores import TalkTo
from casops.stores.memory import MemoryStore
from casops.stores.sqlite import AsyncSqliteStore, SqliteStore
from tests.bank import Account, Open
from tests.conftest import QUICK

SECONDS = 20.0  # until something that must happen is taken to hang
OTHERS = 5


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with closing(SqliteStore(tmp_path / "bank.db")) as opened:
        yield opened


@pytest.fixture
def casops(store: SqliteStore) -> Iterator[CasOps]:
    with CasOps(store, options=QUICK) as opened:
        for number in range(OTHERS + 1):
            opened.run(Open(account=f"a{number}", balance=0), operation_id=f"open-{number}")
        yield opened


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever leads is left to it, and nobody looks by himself."""
    monkeypatch.setattr("casops.callers.PATIENCE", 3 * SECONDS)


@pytest.fixture
def some_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long enough for all to come, also on a machine that is busy otherwise."""
    monkeypatch.setattr("casops.callers.PATIENCE", 1.0)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(MOST + 20) as threads:
        yield threads


def eventually(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not happened():
        assert time.monotonic() < deadline, "this should have happened"
        time.sleep(0.001)


class Pay(Operation[str], name="Pay"):
    """Tells which thread it ran in, so that its answer is no example."""

    account: Ref[Account]

    def apply(self, documents: Documents) -> str:
        documents[self.account].balance += 1
        return threading.current_thread().name


GATES: dict[str, threading.Event] = {}  # by the names that operations carry
ENTERED: dict[str, threading.Event] = {}


@pytest.fixture(autouse=True)
def gates() -> Iterator[None]:
    for gate in ("first", "second"):
        GATES[gate], ENTERED[gate] = threading.Event(), threading.Event()
    yield
    for each in GATES.values():
        each.set()


class Held(Operation[str], name="Held"):
    """A business function that takes as long as a test wants."""

    account: Ref[Account]
    gate: str
    raises: bool = False

    def apply(self, documents: Documents) -> str:
        documents[self.account].balance += 1
        ENTERED[self.gate].set()
        assert GATES[self.gate].wait(SECONDS)
        if self.raises:
            raise KeyboardInterrupt
        return threading.current_thread().name


def pay(casops: CasOps, number: int) -> str:
    return casops.run(Pay(account=f"a{number}"), operation_id=f"pay-{number}")


def behind_one(
    casops: CasOps, pool: ThreadPoolExecutor, calls: Sequence[Callable[[], Any]], **held: Any
) -> tuple[Future[Any], list[Future[Any]]]:
    """One caller is at work, and these wait behind it in this order."""
    first = pool.submit(casops.run, Held(account="a0", gate="first", **held), operation_id="held")
    assert ENTERED["first"].wait(SECONDS)
    callers, waiting = casops._callers, list[Future[Any]]()
    assert callers is not None
    for number, call in enumerate(calls, 1):
        waiting.append(pool.submit(call))
        eventually(lambda number=number: len(callers._calls) == number)  # type: ignore[misc]
    return first, waiting


def nobody_leads(casops: CasOps) -> None:
    """The thread of ours has seen that nobody waits any more."""
    callers = casops._callers
    assert callers is not None
    eventually(lambda: callers._leader is None or callers._leader.over)


def balances(casops: CasOps) -> list[int]:
    return [int(account.balance) for number in range(OTHERS + 1) if (account := casops.read(Account.ref(f"a{number}")))]


# --- threads --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("patient")
def test_who_is_alone_does_it_in_the_own_thread(casops: CasOps) -> None:
    before = threading.active_count()
    assert pay(casops, 0) == threading.current_thread().name
    assert threading.active_count() == before


@pytest.mark.usefixtures("patient")
def test_those_who_wait_are_read_and_written_together(
    casops: CasOps, store: SqliteStore, pool: ThreadPoolExecutor
) -> None:
    first, waiting = behind_one(casops, pool, [partial(pay, casops, number) for number in range(1, OTHERS + 1)])
    written: list[str] = []
    assert store._connection is not None
    assert store._reader is not None
    store._connection.set_trace_callback(written.append)
    reading: list[str] = []
    store._reader.set_trace_callback(reading.append)
    GATES["first"].set()
    assert first.result(SECONDS).startswith("ThreadPool")
    assert [each.result(SECONDS) for each in waiting] == ["casops-callers"] * OTHERS
    assert written.count("BEGIN IMMEDIATE") == 2  # the first one's, and that of all others
    assert len([each for each in reading if each.startswith("SELECT")]) == 1
    assert balances(casops) == [1] * (OTHERS + 1)
    nobody_leads(casops)
    assert pay(casops, 0) == threading.current_thread().name


@pytest.mark.usefixtures("some_patience")
def test_a_function_that_hangs_keeps_nobody_but_its_own_caller(casops: CasOps, pool: ThreadPoolExecutor) -> None:
    _, waiting = behind_one(casops, pool, [partial(pay, casops, number) for number in range(1, OTHERS)])
    assert all(each.result(SECONDS).startswith("ThreadPool") for each in waiting)  # each alone
    # And others who come later, one of which hangs, too.
    hanging = pool.submit(casops.run, Held(account=f"a{OTHERS}", gate="second"), operation_id="hanging")
    behind = [
        pool.submit(casops.run, Pay(account=f"a{number}"), operation_id=f"again-{number}") for number in range(1, 4)
    ]
    for each in behind:
        each.result(SECONDS)
    assert ENTERED["second"].wait(SECONDS)
    casops.run(Pay(account="a4"), operation_id="later")
    assert not hanging.done()
    GATES["second"].set()
    hanging.result(SECONDS)
    GATES["first"].set()
    eventually(lambda: balances(casops) == [1, 2, 2, 2, 2, 1])


@pytest.mark.usefixtures("some_patience")
def test_one_that_hangs_within_a_group_is_carried_on_with_when_it_is_over(
    casops: CasOps, pool: ThreadPoolExecutor
) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: casops.run(Held(account="a1", gate="second"), operation_id="hanging"),
        *(partial(pay, casops, number) for number in range(2, OTHERS + 1)),
    ]
    first, (hanging, *others) = behind_one(casops, pool, calls)
    GATES["first"].set()
    first.result(SECONDS)
    for each in others:
        each.result(SECONDS)
    assert not hanging.done()
    GATES["second"].set()
    assert hanging.result(SECONDS) == "casops-callers"
    assert balances(casops) == [1] * (OTHERS + 1)


@pytest.mark.usefixtures("patient")
def test_who_is_interrupted_at_work_leaves_the_others_to_another_thread(
    casops: CasOps, pool: ThreadPoolExecutor
) -> None:
    calls = [partial(pay, casops, number) for number in range(1, OTHERS + 1)]
    first, waiting = behind_one(casops, pool, calls, raises=True)
    GATES["first"].set()
    with pytest.raises(KeyboardInterrupt):
        first.result(SECONDS)
    assert [each.result(SECONDS) for each in waiting] == ["casops-callers"] * OTHERS
    assert balances(casops) == [0] + [1] * OTHERS


@pytest.mark.usefixtures("patient")
def test_what_a_function_raises_in_our_thread_is_for_its_own_caller(casops: CasOps, pool: ThreadPoolExecutor) -> None:
    GATES["second"].set()
    calls: list[Callable[[], Any]] = [
        partial(pay, casops, 1),
        lambda: casops.run(Held(account="a2", gate="second", raises=True), operation_id="raising"),
        partial(pay, casops, 3),
    ]
    first, (before, raising, after) = behind_one(casops, pool, calls)
    GATES["first"].set()
    for each in (first, before, after):
        each.result(SECONDS)
    with pytest.raises(KeyboardInterrupt):
        raising.result(SECONDS)
    assert balances(casops)[:4] == [1, 1, 0, 1]


def test_who_is_interrupted_while_waiting_is_not_waited_for(
    casops: CasOps, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_self: Any, _seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("casops.callers.PATIENCE", 3 * SECONDS)
    first, _ = behind_one(casops, pool, [])
    with monkeypatch.context() as patched:
        patched.setattr("casops.callers.Bell.wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pay(casops, 1)
    assert casops._callers is not None
    assert not casops._callers._calls
    GATES["first"].set()
    first.result(SECONDS)
    assert balances(casops)[:2] == [1, 0]


@pytest.mark.usefixtures("patient")
def test_who_is_interrupted_while_its_group_is_at_work_stops_nobody(casops: CasOps, pool: ThreadPoolExecutor) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: casops.run(Held(account="a1", gate="second"), operation_id="slow"),
        *(partial(pay, casops, number) for number in range(2, OTHERS)),
    ]
    first, (slow, gone, *others) = behind_one(casops, pool, calls)
    GATES["first"].set()
    first.result(SECONDS)
    assert ENTERED["second"].wait(SECONDS)
    assert casops._callers is not None
    call = next(iter(casops._callers._calls))

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    bell, call.bell = call.bell, SimpleNamespace(wait=interrupted, ring=lambda: None)  # type: ignore[assignment]
    bell.ring()
    with pytest.raises(KeyboardInterrupt):
        gone.result(SECONDS)
    GATES["second"].set()
    for each in (slow, *others):
        each.result(SECONDS)
    pay(casops, 2)
    assert balances(casops)[:OTHERS] == [1] * OTHERS


trail: ContextVar[str] = ContextVar("trail", default="nobody's")


class Telling(Operation[str], name="Told"):
    """Whose context does it run in?  Its answer differs from run to run, so it is no example."""

    account: Ref[Account]

    def apply(self, documents: Documents) -> str:
        documents[self.account].balance += 1
        return trail.get()


@pytest.mark.usefixtures("patient")
def test_each_runs_in_the_context_of_its_caller(casops: CasOps, pool: ThreadPoolExecutor) -> None:
    def ask(number: int) -> str:
        trail.set(f"caller {number}")
        return casops.run(Telling(account=f"a{number}"), operation_id=f"t{number}")

    first, waiting = behind_one(casops, pool, [partial(ask, number) for number in range(1, 4)])
    GATES["first"].set()
    first.result(SECONDS)
    assert [each.result(SECONDS) for each in waiting] == ["caller 1", "caller 2", "caller 3"]


@pytest.mark.usefixtures("patient")
def test_more_than_a_group_is_several_groups(casops: CasOps, pool: ThreadPoolExecutor) -> None:
    calls: list[Callable[[], Any]] = [
        partial(casops.run, Open(account=f"b{number}", balance=1), operation_id=f"b{number}")
        for number in range(MOST + 10)
    ]
    callers = casops._callers
    assert callers is not None
    group, began = callers._group, list[float]()

    def noted(lead: Any) -> Any:
        taken = group(lead)
        began.append(lead.since)
        return taken

    callers._group = noted  # type: ignore[method-assign]
    first, waiting = behind_one(casops, pool, calls)
    GATES["first"].set()
    for each in (first, *waiting):
        each.result(SECONDS)
    assert len(set(began)) > 1  # the patience of the others begins anew with each
    assert all(casops.read(Account.ref(f"b{number}")) for number in range(MOST + 10))


@pytest.mark.usefixtures("patient")
def test_a_store_that_is_closed_says_so_to_all(casops: CasOps, store: SqliteStore, pool: ThreadPoolExecutor) -> None:
    first, waiting = behind_one(casops, pool, [partial(pay, casops, number) for number in range(1, 4)])
    store.close()
    GATES["first"].set()
    for each in (first, *waiting):
        # Those who had asked it for something already are not told that they should not have come.
        with pytest.raises((UsageError, StoreUnavailable), match="closed"):
            each.result(SECONDS)


@pytest.mark.usefixtures("patient")
def test_where_no_thread_can_be_had_everybody_goes_on_alone(
    casops: CasOps, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, waiting = behind_one(casops, pool, [partial(pay, casops, number) for number in range(1, 4)])

    with monkeypatch.context() as patched:
        patched.setattr("casops.callers.threading.Thread", _no_thread)
        assert casops._callers is not None
        GATES["first"].set()
        first.result(SECONDS)
        names = {each.result(SECONDS) for each in waiting}
    assert all(name.startswith("ThreadPool") for name in names)
    assert balances(casops)[:4] == [1] * 4


@pytest.mark.usefixtures("patient")
def test_a_transaction_that_fails_is_told_to_each(
    casops: CasOps, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(casops._store, SqliteStore)
    converse, kept, failed = casops._store.converse, casops._store.perform, Refused("no room")

    def full(conversations: Sequence[TalkTo], /) -> list[Any]:
        return [failed for _ in conversations] if len(conversations) > 1 else converse(conversations)

    def perform(batch: Sequence[StoreRequest], /) -> list[Reply]:
        return kept(batch) if isinstance(batch[0], Read) else [failed for _ in batch]

    first, waiting = behind_one(casops, pool, [partial(pay, casops, number) for number in range(1, 4)])
    with monkeypatch.context() as patched:
        patched.setattr(casops._store, "converse", full)
        patched.setattr(casops._store, "perform", perform)
        GATES["first"].set()
        first.result(SECONDS)
        for each in waiting:
            with pytest.raises(StoreUnavailable, match="no room"):
                each.result(SECONDS)
    assert balances(casops)[:4] == [1, 0, 0, 0]


def test_who_comes_does_not_go_before_those_who_wait(casops: CasOps) -> None:
    callers = casops._callers
    assert callers is not None
    waiting = _Call(casops._engine.execute_at_once(casops._engine.work(Pay(account="a2"), "waits"), "waits"))
    callers._calls[waiting] = None
    assert callers._alone() is None
    callers._calls.clear()
    assert callers._alone() is not None
    assert callers._alone() is None


def test_threads_of_ours_are_used_again_and_end(
    casops: CasOps, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("casops.callers.PATIENCE", 3 * SECONDS)
    monkeypatch.setattr("casops.callers.IDLE", 0.2)

    before = set(threading.enumerate())  # of other tests

    def ours() -> int:
        return len([each for each in threading.enumerate() if each.name == "casops-callers" and each not in before])

    most = 0
    for number in range(20):
        calls = [
            pool.submit(casops.run, Pay(account=f"a{each}"), operation_id=f"{number}-{each}") for each in range(OTHERS)
        ]
        for call in calls:
            call.result(SECONDS)
            most = max(most, ours())
    assert most <= 1
    eventually(lambda: not ours())
    assert pool.submit(pay, casops, 0).result(SECONDS)


def test_after_a_fork_nothing_of_it_is_touched(casops: CasOps, monkeypatch: pytest.MonkeyPatch) -> None:
    assert casops._callers is not None
    with casops._callers._lock:  # which another thread held when it was forked
        monkeypatch.setattr("casops.stores.sqlite_forks.forks", lambda: -1)
        with pytest.raises(UsageError, match="fork"):
            pay(casops, 0)
    monkeypatch.undo()


# --- who goes on alone ----------------------------------------------------------------------------------


class Conversing:
    """A store in memory; it tells what it was asked, and by which thread."""

    def __init__(self) -> None:
        self.memory = MemoryStore()
        self.batches: list[tuple[str, int]] = []
        self.begin = threading.Event()
        self.fails: BaseException | None = None

    def perform(self, batch: Sequence[StoreRequest], /) -> list[Reply]:
        assert self.begin.wait(SECONDS)
        self.batches.append((threading.current_thread().name, len(batch)))
        if self.fails is not None:
            raise self.fails
        return self.memory.perform(batch)

    def converse(self, conversations: Sequence[TalkTo], /) -> list[Any]:
        for each in conversations:
            each(self.memory.perform)
        return [None] * len(conversations)

    def check_usable(self) -> None:
        """It always is."""

    def close(self) -> None:
        """As MemoryStore.close."""


def worker(number: int, pauses: bool) -> Generator[Wish, Any, str]:
    key = Key(RESULTS, str(number))

    def steps() -> Steps[str]:
        (reply,) = yield (Read(key),)
        assert isinstance(reply, Missing)
        if pauses:
            yield Pause(0.2)
        (reply,) = yield (Insert(key, "1"),)
        assert isinstance(reply, Stored)
        (reply,) = yield (Read(key),)
        assert isinstance(reply, Version)
        return f"{threading.current_thread().name} {reply.body}"

    return at_once(steps, steps)


@pytest.mark.usefixtures("patient")
def test_who_waits_for_something_goes_on_alone(pool: ThreadPoolExecutor) -> None:
    store = Conversing()
    callers = Callers(store, 30.0)
    first = pool.submit(callers.run, worker(0, False), "i")
    eventually(lambda: callers._leader is not None)
    waiting: list[Future[str]] = []
    for number in range(1, 4):
        waiting.append(pool.submit(callers.run, worker(number, number == 2), "i"))
        eventually(lambda number=number: len(callers._calls) == number)  # type: ignore[misc]
    store.begin.set()
    assert first.result(SECONDS).startswith("ThreadPool")
    one, two, three = (each.result(SECONDS) for each in waiting)
    assert one == three == "casops-callers 1"
    assert two.startswith("ThreadPool")
    assert two.endswith(" 1")


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("fails", [MemoryError(), SystemExit()])
@pytest.mark.parametrize("method", ["perform", "converse"])
def test_where_the_work_for_several_fails_each_goes_on_alone(
    pool: ThreadPoolExecutor, fails: BaseException, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Conversing()
    callers = Callers(store, 30.0)
    meant = getattr(store, method)

    def failing(asked: Sequence[Any], /) -> Any:
        if len(asked) > 1:
            raise fails
        return meant(asked)

    monkeypatch.setattr(store, method, failing)
    first = pool.submit(callers.run, worker(0, False), "i")
    eventually(lambda: callers._leader is not None)
    waiting = [pool.submit(callers.run, worker(number, False), "i") for number in (1, 2)]
    eventually(lambda: len(callers._calls) == 2)
    store.begin.set()
    first.result(SECONDS)
    for call in waiting:
        assert call.result(SECONDS).startswith("ThreadPool")
    written = store.memory.perform([Read(Key(RESULTS, str(number))) for number in range(3)])
    assert all(isinstance(each, Version) for each in written)


def test_who_was_away_for_too_long_is_not_begun(
    casops: CasOps, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its clock begins when it is asked for, not when somebody has time for it."""
    monkeypatch.setattr("casops.callers.PATIENCE", 3 * SECONDS)
    first, (late,) = behind_one(casops, pool, [partial(pay, casops, 1)])
    slept = local._monotonic() + casops.options.retention
    monkeypatch.setattr("casops.local._monotonic", lambda: slept)
    GATES["first"].set()
    with pytest.raises(Expired):
        late.result(SECONDS)
    with pytest.raises(Expired):
        first.result(SECONDS)
    assert casops.outcome("pay-1") is None


def test_slow_functions_run_side_by_side(casops: CasOps, pool: ThreadPoolExecutor) -> None:
    meeting = threading.Barrier(10)

    class Slow(Operation[None], name="Slow"):
        account: Ref[Account]

        def apply(self, documents: Documents) -> None:
            documents.create(self.account, Account(balance=Decimal(1)))
            meeting.wait(SECONDS)  # until ten of them are at it

    calls = [pool.submit(casops.run, Slow(account=f"s{number}"), operation_id=f"s{number}") for number in range(10)]
    for call in calls:
        call.result(SECONDS)


@pytest.mark.parametrize("thread_is_had", [True, False])
def test_who_goes_on_alone_is_driven_by_nobody_else(
    pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, thread_is_had: bool
) -> None:
    """A leader that comes back from a slow one must not touch those whose patience was over."""
    store, slow, go_on = Conversing(), threading.Event(), threading.Event()
    third, go_on_too = threading.Event(), threading.Event()
    callers = Callers(store, 30.0)
    ran: list[int] = []

    def work(number: int) -> Generator[Wish, Any, int]:
        def steps() -> Steps[int]:
            yield (Read(Key(RESULTS, str(number))),)
            ran.append(number)
            if number in (1, 3):
                (slow if number == 1 else third).set()
                assert (go_on if number == 1 else go_on_too).wait(SECONDS)
            (reply,) = yield (Insert(Key(RESULTS, str(number)), "1"),)
            assert isinstance(reply, Stored)
            return number

        return at_once(steps, steps)

    first = pool.submit(callers.run, work(0), "i")
    eventually(lambda: callers._leader is not None)
    with monkeypatch.context() as patched:
        patched.setattr("casops.callers.PATIENCE", 3 * SECONDS)
        waiting = [pool.submit(callers.run, work(1), "i")]
        eventually(lambda: len(callers._calls) == 1)
        waiting += [pool.submit(callers.run, work(number), "i") for number in (2, 3)]
        eventually(lambda: len(callers._calls) == 3)
        store.begin.set()
        assert slow.wait(SECONDS)
    if not thread_is_had:
        monkeypatch.setattr("casops.callers.threading.Thread", _no_thread)
    for call in list(callers._calls):
        call.bell.ring()  # as if they had looked by themselves
    eventually(lambda: not callers._calls)
    assert waiting[1].result(SECONDS) == 2
    assert third.wait(SECONDS)
    assert pool.submit(callers.run, work(4), "i").result(SECONDS) == 4
    assert not waiting[0].done(), waiting[0].exception()
    go_on.set()
    assert waiting[0].result(SECONDS) == 1
    eventually(lambda: callers._idle or not thread_is_had)  # the leader has come to its end
    go_on_too.set()
    assert waiting[2].result(SECONDS) == 3
    assert first.result(SECONDS) == 0
    assert sorted(ran) == [0, 1, 2, 3, 4]
    assert not callers._calls


def _no_thread(**_: Any) -> Any:
    raise RuntimeError("can't start new thread")


@pytest.mark.usefixtures("patient")
def test_a_function_that_asks_another_front_of_its_store_is_told_off_at_once(
    casops: CasOps, store: SqliteStore, pool: ThreadPoolExecutor
) -> None:
    """While the store is held; a thread of that front's would wait for the store, and the function for that thread."""
    other = CasOps(store, options=QUICK)
    assert other._callers is not None
    other._callers._leader = _Lead()  # another caller of that front is at work, so that this one would queue up

    def conversation(_: Any) -> None:
        pay(other, 1)

    with pytest.raises(UsageError, match="must not ask"):
        store.converse([conversation])
    assert balances(casops)[:2] == [0, 0]


def test_a_call_that_was_interrupted_twice_is_not_kept(casops: CasOps, pool: ThreadPoolExecutor) -> None:
    first, (waiting,) = behind_one(casops, pool, [partial(pay, casops, 1)])
    callers = casops._callers
    assert callers is not None
    dead = _Call(casops._engine.execute_at_once(casops._engine.work(Pay(account="a2"), "dead"), "dead"))
    dead.advance()
    with callers._lock:
        callers._calls[dead] = None  # whose thread met Ctrl-C while it was about to take it out again
    GATES["first"].set()
    for each in (first, waiting):
        each.result(SECONDS)
    eventually(lambda: not callers._calls)
    nobody_leads(casops)
    assert pay(casops, 3) == threading.current_thread().name


# --- tasks ----------------------------------------------------------------------------------------------


@pytest.fixture
async def opened(tmp_path: Path) -> Any:
    store = AsyncSqliteStore(SqliteStore(tmp_path / "bank.db"))
    async with AsyncCasOps(store, options=QUICK) as casops:
        for number in range(OTHERS + 1):
            await casops.run(Open(account=f"a{number}", balance=0), operation_id=f"open-{number}")
        yield casops, store.store


async def test_tasks_are_read_and_written_together(opened: tuple[AsyncCasOps, SqliteStore]) -> None:
    casops, store = opened
    assert store._connection is not None
    written: list[str] = []
    store._connection.set_trace_callback(written.append)
    calls = [casops.run(Pay(account=f"a{number}"), operation_id=f"p{number}") for number in range(OTHERS + 1)]
    names = await asyncio.gather(*calls)
    assert set(names) == {threading.current_thread().name}
    assert written.count("BEGIN IMMEDIATE") == 1
    snapshot = await casops.snapshot([Account.ref(f"a{number}") for number in range(OTHERS + 1)])
    assert [snapshot[Account.ref(f"a{number}")].balance for number in range(OTHERS + 1)] == [1] * (OTHERS + 1)


async def test_a_task_that_is_cancelled_keeps_nobody(opened: tuple[AsyncCasOps, SqliteStore]) -> None:
    casops, _ = opened
    for steps in range(15):
        calls = [
            asyncio.create_task(casops.run(Pay(account=f"a{number}"), operation_id=f"{steps}-{number}"))
            for number in range(4)
        ]
        for _ in range(steps):
            await asyncio.sleep(0)
        calls[1].cancel()
        done = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), SECONDS)
        assert [type(each) for each in done].count(str) >= 3
        await casops.run(Pay(account="a1"), operation_id=f"{steps}-1")
    snapshot = await casops.snapshot([Account.ref(f"a{number}") for number in range(4)])
    assert [snapshot[Account.ref(f"a{number}")].balance for number in range(4)] == [15] * 4


async def test_where_the_leading_task_is_cancelled_each_goes_on_alone(
    opened: tuple[AsyncCasOps, SqliteStore],
) -> None:
    casops, _ = opened
    assert casops._callers is not None
    for steps in range(12):
        calls = [
            asyncio.create_task(casops.run(Pay(account=f"a{number}"), operation_id=f"{steps}-{number}"))
            for number in range(3)
        ]
        for _ in range(steps + 1):
            await asyncio.sleep(0)
        for task in casops._callers._tasks:
            task.cancel()
        await asyncio.wait_for(asyncio.gather(*calls), SECONDS)
    snapshot = await casops.snapshot([Account.ref(f"a{number}") for number in range(3)])
    assert [snapshot[Account.ref(f"a{number}")].balance for number in range(3)] == [12] * 3


async def test_an_answer_does_not_wait_for_those_who_wait_for_another_process(
    opened: tuple[AsyncCasOps, SqliteStore],
) -> None:
    casops, store = opened
    await casops.run(Pay(account="a1"), operation_id="ended")
    with closing(sqlite3.connect(store._path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        writing = asyncio.create_task(casops.run(Pay(account="a2"), operation_id="writing"))
        await asyncio.sleep(0.01)
        for _ in range(3):
            again = await asyncio.wait_for(casops.execute(Pay(account="a1"), operation_id="ended"), SECONDS)
            assert again.replayed
        assert not writing.done()
        other.execute("ROLLBACK")
    await writing


def test_an_answer_does_not_wait_for_a_thread_that_waits_for_another_process(
    casops: CasOps, store: SqliteStore, pool: ThreadPoolExecutor
) -> None:
    pay(casops, 1)
    with closing(sqlite3.connect(store._path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        writing = [pool.submit(pay, casops, number) for number in (2, 3)]
        eventually(lambda: store._writing.taken)
        for _ in range(3):
            again = pool.submit(casops.execute, Pay(account="a1"), operation_id="pay-1")
            assert again.result(SECONDS).replayed
        assert not any(each.done() for each in writing)
        other.execute("ROLLBACK")
    for each in writing:
        each.result(SECONDS)


async def test_tasks_after_a_fork_are_told(
    opened: tuple[AsyncCasOps, SqliteStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    casops, _ = opened
    assert casops._callers is not None
    monkeypatch.setattr(casops._callers, "_leader", object())  # a task of the parent's
    with monkeypatch.context() as patched:
        patched.setattr("casops.stores.sqlite_forks.forks", lambda: -1)
        with pytest.raises(UsageError, match="fork"):
            await asyncio.wait_for(casops.run(Pay(account="a1"), operation_id="forked"), SECONDS)
    monkeypatch.undo()


class AsyncConversing:
    """Conversing, for tasks."""

    def __init__(self) -> None:
        self.store = Conversing()
        self.store.begin.set()
        self.may_converse = asyncio.Event()
        self.may_converse.set()
        self.held: list[TalkTo] = []
        self.asked = 0

    async def perform(self, batch: Sequence[StoreRequest], /) -> list[Reply]:
        await asyncio.sleep(0)
        return self.store.perform(batch)

    async def converse(self, conversations: Sequence[TalkTo], /) -> list[Any]:
        self.held += [each for each in conversations if each not in self.held]
        self.asked += len(conversations)
        await self.may_converse.wait()
        return self.store.converse(conversations)

    def check_usable(self) -> None:
        """It always is."""

    async def close(self) -> None:
        """As MemoryStore.close."""


async def test_a_task_that_waits_for_something_goes_on_alone() -> None:
    callers = AsyncCallers(AsyncConversing(), 30.0)
    order: list[int] = []

    async def ask(number: int) -> None:
        await callers.run(worker(number, number == 0), "i")
        order.append(number)

    await asyncio.wait_for(asyncio.gather(*(ask(number) for number in range(3))), SECONDS)
    assert order == [1, 2, 0]


async def soon(happened: Callable[[], object]) -> None:
    async with asyncio.timeout(SECONDS):
        while not happened():
            await asyncio.sleep(0.001)


async def test_a_conversation_whose_leader_was_cancelled_is_not_held_again() -> None:
    """It may be under way in a thread; who wanted it asks anew."""
    store = AsyncConversing()
    callers = AsyncCallers(store, 30.0)
    store.may_converse.clear()
    calls = [asyncio.create_task(callers.run(worker(number, False), "i")) for number in range(2)]
    await soon(lambda: store.asked == 2)
    for task in callers._tasks:
        task.cancel()
    store.may_converse.set()
    await asyncio.wait_for(asyncio.gather(*calls), SECONDS)
    assert store.asked == len(store.held)


async def test_a_task_that_was_cancelled_while_it_waited_is_not_begun() -> None:
    store = AsyncConversing()
    callers = AsyncCallers(store, 30.0)
    store.may_converse.clear()
    first = asyncio.create_task(callers.run(worker(0, False), "i"))
    await soon(lambda: store.asked)
    waiting = [asyncio.create_task(callers.run(worker(number, False), "i")) for number in (1, 2)]
    await soon(lambda: len(callers._calls) == 2)
    waiting[0].cancel()
    await asyncio.sleep(0)
    store.may_converse.set()
    await asyncio.wait_for(asyncio.gather(first, waiting[1]), SECONDS)
    one, two = store.store.memory.perform([Read(Key(RESULTS, "1")), Read(Key(RESULTS, "2"))])
    assert isinstance(one, Missing)
    assert isinstance(two, Version)
