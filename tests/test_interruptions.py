"""Ctrl-C, signal handlers, event loops that end, threads that cannot be had: met anywhere, they lose nothing.

Each of these was met: an operation that others had seen was undone, a call waited for ever, a CasOps was of no use any
more.
"""

from __future__ import annotations

import asyncio
import linecache
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from decimal import Decimal
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from casops import (
    AsyncCasOps,
    CasOps,
    Documents,
    Operation,
    Options,
    Outcome,
    OutcomeUnknown,
    Ref,
    StoreUnavailable,
    UsageError,
)
from casops.conversations import Conversation
from casops.messages import Replace
from casops.stores.memory import MemoryStore
from casops.stores.sqlite import AsyncSqliteStore, SqliteStore
from tests.bank import MENDED, Account, Broken, Close, Open
from tests.conftest import QUICK

SECONDS = 30.0


def eventually(happened: Callable[[], object]) -> None:
    until = time.monotonic() + SECONDS
    while not happened():
        assert time.monotonic() < until
        time.sleep(0.001)


class Add(Operation[Decimal]):
    account: Ref[Account]

    def apply(self, documents: Documents) -> Decimal:
        account = documents[self.account]
        account.balance += 1
        return account.balance


# --- a signal handler -------------------------------------------------------------------------


@pytest.mark.parametrize("closes", [True, False], ids=["close", "pending"])
def test_a_handler_that_comes_after_the_commit_undoes_nothing(tmp_path: Path, closes: bool) -> None:
    url = f"sqlite:///{tmp_path}/bank.db"
    store = SqliteStore(tmp_path / "bank.db")
    casops, other = CasOps(store, operations=[Broken], options=QUICK), CasOps.open(url, operations=[Broken])
    casops.run(Open(account="a"), operation_id="open")
    with pytest.raises(ZeroDivisionError):
        casops.run(Broken(account="a"), operation_id="i")
    seen: list[Any] = []
    written = 0
    real = store._carry_out

    def carry_out(works: Any, *, reading: bool) -> Any:
        nonlocal written
        outcome = real(works, reading=reading)
        written += not reading
        if written == 2 and not seen and not reading:  # the proposal has been committed
            seen.append(other.outcome("i"))
            if closes:
                casops.close()
            else:
                casops.pending()
        return outcome

    store._carry_out = carry_out  # type: ignore[method-assign]
    MENDED.append(True)
    try:
        if closes:
            casops.recover()
        else:
            with pytest.raises(UsageError, match="signal handler") as told:
                casops.recover()
            assert (told.value.happened, told.value.retry) == (None, True)
        assert isinstance(seen[0], Outcome)
        after = other.outcome("i")
        assert isinstance(after, Outcome)
        assert after.status == seen[0].status == "applied"
        assert other.read(Account.ref("a")) == Account(balance=Decimal(1))
    finally:
        MENDED.clear()
        casops.close()
        other.close()


class BreaksAfter:
    """A store that does the n-th batch that proposes and raises what its programming raises."""

    def __init__(self) -> None:
        self.behind = MemoryStore()
        self.broken = False

    def perform(self, batch: Any, /) -> list[Any]:
        replies = self.behind.perform(batch)
        if not self.broken and any(isinstance(each, Replace) for each in batch):
            self.broken = True
            raise UsageError("a fault of its own")
        return replies

    def close(self) -> None:
        self.behind.close()


def test_a_store_that_raises_anything_but_closed_has_perhaps_done_it() -> None:
    """It was taken for a store that is closed and has refused: what it had written was taken back."""
    store = BreaksAfter()
    with CasOps(store.behind, options=QUICK) as first:
        first.run(Open(account="a"), operation_id="open")
    casops = CasOps(store, operations=[Add], options=QUICK)
    with pytest.raises(UsageError, match="a fault of its own"):
        casops.run(Add(account="a"), operation_id="i")
    assert casops.run(Add(account="a"), operation_id="i") == 1
    assert casops.read(Account.ref("a")) == Account(balance=Decimal(1))
    casops.close()


class Exits(Operation[None]):
    def apply(self, documents: Documents) -> None:
        raise SystemExit("a handler's")


def test_a_handlers_end_of_the_process_is_no_other_callers(tmp_path: Path) -> None:
    """The main thread carries out what another asked for when its handler raises."""
    made: list[Conversation[None]] = []

    def steps() -> Any:
        yield (Replace(Account.ref("a").key, 1, "x"),)
        raise SystemExit("a handler's")

    def make() -> None:
        worker = steps()
        made.append(Conversation(worker, next(worker)))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    with pytest.raises(SystemExit):
        made[0](MemoryStore().perform)
    make()
    made[1](MemoryStore().perform)  # of the own function
    with pytest.raises(SystemExit):
        made[1].result()


# --- Ctrl-C at any line -----------------------------------------------------------------------


@contextmanager
def ctrl_c(which: int, *where: str) -> Iterator[list[str]]:
    """Ctrl-C before the line number `which` that is run in functions whose code is in files of these names."""
    met: list[str] = []
    left = which

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.endswith(where):
            return None
        if event == "line" and not met:
            left -= 1
            if left == 0:
                met.append(linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip())
                raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        yield met
    finally:
        sys.settrace(None)


def in_another_thread(ask: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(ask).result(SECONDS)


@pytest.mark.parametrize("url", ["memory://", "sqlite:///{}/bank.db"])
@pytest.mark.parametrize(
    "where",
    [("casops/running.py", "casops/business.py"), ("/threading.py",), ("casops/turns.py",)],
    ids=["running", "conditions", "turns"],
)
def test_ctrl_c_leaves_nothing_locked_and_nobody_running(tmp_path: Path, url: str, where: tuple[str, ...]) -> None:
    casops = CasOps.open(url.format(tmp_path), options=QUICK)
    casops.run(Open(account="a"), operation_id="open")
    for which in range(1, 500):
        try:
            with ctrl_c(which, *where) as met:
                casops.run(Add(account="a"), operation_id=f"i{which}")
        except (KeyboardInterrupt, RuntimeError):  # which a condition makes of it now and then
            assert met
        casops.read(Account.ref("a"))
        done = in_another_thread(lambda which=which: casops.run(Add(account="a"), operation_id=f"o{which}"))  # type: ignore[misc]
        assert done >= which
        assert not casops._turns._lines or casops._settler._waiting or casops._settler._idle, which
        if not met:
            break
    else:
        pytest.fail("it had too many lines")
    casops.close()


# --- event loops ------------------------------------------------------------------------------


@pytest.mark.parametrize("cancels", [True, False])
@pytest.mark.parametrize("url", ["memory://", "sqlite:///{}/bank.db"])
def test_an_event_loop_that_ends_in_the_middle_keeps_nobody_in_the_next(
    tmp_path: Path, url: str, cancels: bool
) -> None:
    casops = AsyncCasOps.open(url.format(tmp_path), options=QUICK)

    async def leave_in_the_middle() -> None:
        await casops.run(Open(account="a"), operation_id="open")
        calls = [asyncio.create_task(casops.run(Add(account="a"), operation_id=f"i{each}")) for each in range(5)]
        await asyncio.sleep(0)
        del calls

    loop = asyncio.new_event_loop()
    loop.run_until_complete(leave_in_the_middle())
    loop.set_exception_handler(lambda *_: None)  # of tasks that are never done
    if cancels:
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.close()

    async def go_on() -> None:
        async with asyncio.timeout(SECONDS):
            for each in range(5):
                await casops.run(Add(account="a"), operation_id=f"i{each}")
            assert await casops.read(Account.ref("a")) == Account(balance=Decimal(5))

    asyncio.run(go_on())
    asyncio.run(go_on())

    async def end() -> None:
        async with asyncio.timeout(SECONDS):
            await casops.close()

    asyncio.run(end())


async def test_a_settling_task_that_is_cancelled_before_it_begins_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("casops.async_front.LINGER", 0.01)
    casops = AsyncCasOps.open("memory://")
    await casops.run(Open(account="a"), operation_id="open")
    for task in casops._settler._tasks:
        task.cancel()
    await asyncio.sleep(0)
    async with asyncio.timeout(0.9):  # who waits for a turn in vain waits for a second
        await casops.run(Close(account="a"), operation_id="close")
    await casops.close()
    assert not casops._settler._waiting


def test_a_function_that_hangs_does_not_keep_an_async_front_from_closing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("casops.stores.sqlite.LONGEST_WAIT", 0.05)
    go_on, begun = threading.Event(), threading.Event()

    def hangs(perform: Any) -> None:
        begun.set()
        assert go_on.wait(SECONDS)

    async def main() -> None:
        store = AsyncSqliteStore(SqliteStore(tmp_path / "bank.db", busy_timeout=0))
        working = asyncio.create_task(store.converse([hangs]))
        await asyncio.to_thread(begun.wait, SECONDS)
        async with asyncio.timeout(SECONDS / 2):
            await store.close()
        go_on.set()
        assert await working == [None]

    asyncio.run(main())
    assert not [each for each in threading.enumerate() if each.name.startswith("casops-sqlite") and not each.daemon]


# --- what hangs, or cannot be had -------------------------------------------------------------


@pytest.mark.parametrize("face", ["sync", "async"])
def test_who_is_in_the_hands_of_one_that_hangs_leaves_at_its_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, face: str
) -> None:
    monkeypatch.setattr("casops.callers.LONGER", 0.05)
    monkeypatch.setattr("casops.callers.PATIENCE", 2.0)
    options = Options(deadline=0.2)
    store = SqliteStore(tmp_path / "bank.db")
    first_in, let_first, go_on = threading.Event(), threading.Event(), threading.Event()
    real = store.converse

    def converse(conversations: Any, /) -> Any:
        if len(conversations) > 1 or face == "async":
            assert go_on.wait(SECONDS)
        elif not first_in.is_set():
            first_in.set()
            assert let_first.wait(SECONDS)
        return real(conversations)

    with CasOps.open(f"sqlite:///{tmp_path}/bank.db", options=QUICK) as other:
        other.run(Open(account="a"), operation_id="open")
        store.converse = converse  # type: ignore[method-assign]
        if face == "sync":
            casops = CasOps(store, options=options)
            with ThreadPoolExecutor(4) as pool:
                calls = [pool.submit(casops.run, Add(account="a"), operation_id="i0")]
                assert first_in.wait(SECONDS)
                calls += [pool.submit(casops.run, Add(account="a"), operation_id=f"i{each}") for each in (1, 2)]
                eventually(lambda: casops._callers is not None and len(casops._callers._calls) == 2)
                let_first.set()
                calls[0].result(SECONDS)
                for number in (1, 2):
                    with pytest.raises(OutcomeUnknown, match="hangs") as told:
                        calls[number].result(SECONDS)
                    assert told.value.operation_id == f"i{number}"
                go_on.set()
                for each in range(3):
                    casops.run(Add(account="a"), operation_id=f"i{each}")
            casops.close()
        else:

            async def main() -> None:
                casops = AsyncCasOps(AsyncSqliteStore(store), options=options)
                calls = [casops.run(Add(account="a"), operation_id=f"i{each}") for each in range(3)]
                for heard in await asyncio.gather(*calls, return_exceptions=True):
                    assert isinstance(heard, OutcomeUnknown), heard
                go_on.set()
                for each in range(3):
                    await casops.run(Add(account="a"), operation_id=f"i{each}")
                await casops.close()

            asyncio.run(main())
        assert other.read(Account.ref("a")) == Account(balance=Decimal(3))


def test_where_no_thread_can_be_had_the_caller_settles(monkeypatch: pytest.MonkeyPatch) -> None:
    """It heard a RuntimeError of what had happened."""

    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with CasOps.open("memory://") as casops:
        casops.run(Open(account="a"), operation_id="open")
        assert not casops._settler._waiting
        assert casops.run(Add(account="a"), operation_id="i") == 1


# --- the file ---------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["-wal", "-shm"])
def test_a_log_that_was_removed_while_it_was_open_is_noticed(tmp_path: Path, end: str) -> None:
    """Who had it open and who came later did not see each other's writes: an operation happened twice."""
    path = tmp_path / "bank.db"
    with closing(SqliteStore(path)) as store:
        casops = CasOps(store, options=QUICK)
        casops.run(Open(account="a"), operation_id="open")
        Path(f"{path}{end}").unlink()
        with CasOps.open(f"sqlite:///{path}", options=QUICK) as other:
            other.run(Open(account="b"), operation_id="other")
            for ask in (lambda: casops.outcome("other"), lambda: casops.run(Add(account="a"), operation_id="i")) * 2:
                with pytest.raises(StoreUnavailable, match="was moved, removed or replaced"):
                    ask()


def test_a_file_of_two_names_is_not_opened(tmp_path: Path) -> None:
    CasOps.open(f"sqlite:///{tmp_path}/bank.db").close()
    (tmp_path / "link.db").hardlink_to(tmp_path / "bank.db")
    for name in ("bank.db", "link.db"):
        with pytest.raises(StoreUnavailable, match=r"has 2 names \(hard links\)"):
            CasOps.open(f"sqlite:///{tmp_path}/{name}")
    (tmp_path / "link.db").unlink()
    (tmp_path / "link.db").symlink_to(tmp_path / "bank.db")
    with CasOps.open(f"sqlite:///{tmp_path}/link.db") as one, CasOps.open(f"sqlite:///{tmp_path}/bank.db") as other:
        one.run(Open(account="a"), operation_id="open")
        other.run(Add(account="a"), operation_id="i")
        assert one.run(Add(account="a"), operation_id="i") == 1


def test_a_withdrawn_job_is_missed_by_nobody(tmp_path: Path) -> None:
    with closing(SqliteStore(tmp_path / "bank.db")) as store:
        store._work_off()
        with closing(sqlite3.connect(tmp_path / "bank.db")) as other:
            assert other.execute("PRAGMA integrity_check").fetchone() == ("ok",)
