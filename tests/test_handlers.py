"""A signal handler, or a `__del__`, that asks in the middle of what its own thread does: at every line of it.

Some of them waited for a lock that their own thread held, or for a thread that waited for it, and with them whoever
asked afterwards.  Now who interrupts is refused, and may close.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from decimal import Decimal
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import casops
from casops import CasOps, CasOpsError, Documents, Operation, Options, Ref, UsageError
from casops.callers import Callers
from casops.front import Settler
from casops.stores.couchbase_calls import Call, send
from casops.stores.couchbase_places import shard_of
from casops.stores.couchbase_threads import _Job
from casops.testing.couchbase_server import CouchbaseServer
from tests.bank import Account, Open
from tests.conftest import QUICK

SECONDS = 90.0

# Whose locks an operation passes by.  What it does between them is the same everywhere.
FILES = ("bell", "callers", "front", "turns", "stores/memory", "stores/couchbase", "stores/couchbase_threads")
MORE_FILES = ("stores/couchbase_intentions", "stores/one_at_a_time", "stores/sqlite")
WHERE = {str(Path(casops.__file__).parent / f"{name}.py") for name in (*FILES, *MORE_FILES)}


class Add(Operation[Decimal]):
    account: Ref[Account]

    def apply(self, documents: Documents) -> Decimal:
        account = documents[self.account]
        account.balance += 1
        return account.balance


class Front(CasOps):
    """As an application may have it: what calls `execute` is not in the middle of a call for that."""

    def execute(self, operation: Operation[Any], *, operation_id: str) -> Any:
        return super().execute(operation, operation_id=operation_id)


def interrupted(call: Callable[[], object], line: int, handler: Callable[[str], object]) -> bool:
    """Do this, and that when it comes to its n-th line of those files.  False: it has less.

    The handler gets the name of the function that it interrupts.
    """
    lines = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal lines
        if frame.f_code.co_filename not in WHERE:
            return None
        if event == "line":
            lines += 1
            if lines == line:
                handler(frame.f_code.co_name)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return lines >= line


def at_every_line(front: CasOps) -> None:
    for id in ("a", "b"):
        front.run(Open(account=id), operation_id=f"open-{id}")
    answered: list[str] = []
    refused: list[UsageError] = []

    def ask(id: str, where: str) -> None:
        try:
            front.run(Add(account="b"), operation_id=id)
        except UsageError as error:
            refused.append(error)
        else:
            answered.append(where)

    line, on = 0, True
    while on:
        line += 1
        outer = partial(front.run, Add(account="a"), operation_id=f"outer-{line}")
        on = interrupted(outer, line, partial(ask, f"inner-{line}"))
    assert set(answered) == {"run"}  # where nothing has begun
    assert len(refused) > 30
    assert all((error.happened, error.retry) == (None, True) for error in refused)
    assert front.read(Account.ref("a")) == Account(balance=Decimal(line))
    assert front.read(Account.ref("b")) == Account(balance=Decimal(len(answered)))


def in_a_thread(act: Callable[[], None]) -> None:
    """Fails, and does not hang, if it hangs; raises what it raises."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            act()
        except BaseException as error:  # noqa: BLE001 - it is raised below
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(SECONDS)
    assert not thread.is_alive()
    for error in raised:
        raise error


@pytest.fixture(scope="module")
def server() -> Iterator[CouchbaseServer]:
    with CouchbaseServer(scopes={"_default": ["casops", "accounts"]}) as server:
        yield server


@pytest.fixture(params=["memory", "sqlite", "couchbase"])
def url(request: pytest.FixtureRequest, tmp_path: Path, server: CouchbaseServer) -> str:
    return {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/bank.db", "couchbase": server.url}[request.param]


def test_a_handler_that_asks_is_refused_by_what_it_interrupts(url: str) -> None:
    front = Front.open(url, options=QUICK)
    in_a_thread(partial(at_every_line, front))
    front.close()


def test_a_handler_may_ask_another(url: str) -> None:
    with CasOps.open(url, options=QUICK) as front, CasOps.open("memory://") as other:
        front.run(Open(account="c"), operation_id="open-c")
        asked: list[str] = []

        def ask(where: str) -> None:
            other.run(Open(account=f"c-{len(asked)}"), operation_id=f"other-{len(asked)}")
            asked.append(where)

        for line in range(2, 100, 7):
            interrupted(partial(front.run, Add(account="c"), operation_id=f"c-{line}"), line, ask)
        assert len(asked) > 5


@pytest.mark.parametrize(
    ("store", "where"),
    [("memory", (Settler, "_settle")), ("sqlite", (Callers, "_group")), ("couchbase", (_Job, "do_one"))],
)
def test_a_finalizer_that_asks_in_a_thread_of_ours_is_refused(
    store: str,
    where: tuple[type[Any], str],
    tmp_path: Path,
    server: CouchbaseServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/bank.db", "couchbase": server.url}[store]
    front = CasOps.open(url, options=QUICK)
    told: list[UsageError] = []
    does = getattr(*where)

    def with_a_finalizer(self: Any, *arguments: Any) -> Any:
        if threading.current_thread().name.startswith("casops-"):
            try:
                front.run(Open(account="x"), operation_id=f"of-del-{len(told)}")
            except UsageError as error:
                told.append(error)
        return does(self, *arguments)

    monkeypatch.setattr(*where, with_a_finalizer)

    def ask(caller: int) -> None:
        for number in range(20):
            front.run(Open(account=f"{store}-{caller}-{number}"), operation_id=f"del-{caller}-{number}")

    threads = [threading.Thread(target=ask, args=(caller,), daemon=True) for caller in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
        assert not thread.is_alive()
    front.close()
    assert len(told) > 0
    assert all((error.happened, error.retry) == (None, True) for error in told)


def test_a_handler_may_close_at_every_line() -> None:
    """It waited for settlers, which waited for a lock of what it interrupts: for as long as the deadline."""
    patient = Options(deadline=SECONDS)

    def close(front: CasOps, _: str) -> None:
        front.close()

    def close_at_every_line() -> None:
        line, on = 0, True
        while on:
            line += 1
            front = CasOps.open("memory://", options=patient)
            front.run(Open(account="a"), operation_id="open")

            def outer(front: CasOps = front, line: int = line) -> None:
                with suppress(CasOpsError):  # it is closed
                    front.run(Add(account="a"), operation_id=f"outer-{line}")

            on = interrupted(outer, line, partial(close, front))

    in_a_thread(close_at_every_line)


def test_a_handler_may_close_while_others_wait_for_the_lane_that_it_interrupts(
    server: CouchbaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waited for threads of the store that waited for the lane of its own thread."""
    front = CasOps.open(server.url, options=Options(deadline=2))
    lane = shard_of("x")
    same = [f"lane-{n}" for n in range(40_000) if shard_of(f"lane-{n}") == lane]
    first = threading.Event()

    def slow(collection: Any, call: Call) -> Any:
        got = send(collection, call)
        if threading.current_thread() is asking and sys._getframe(2).f_code.co_name == "_edit" and not first.is_set():
            first.set()
            time.sleep(0.2)  # others come to wait
            front.close()
        return got

    def ask(ids: list[str]) -> None:
        for id in ids:
            try:
                front.run(Open(account=id), operation_id=id)
            except CasOpsError:  # it is closed
                return

    others = [threading.Thread(target=ask, args=(same[each::5],), daemon=True) for each in range(4)]
    asking = threading.Thread(target=ask, args=(same[4::5],), daemon=True)
    monkeypatch.setattr("casops.stores.couchbase.send", slow)
    for thread in (*others, asking):
        thread.start()
    for thread in (*others, asking):
        thread.join(SECONDS)
        assert not thread.is_alive()
    assert first.is_set()
