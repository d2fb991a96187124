"""A signal handler, or a `__del__`, that asks in the middle of what its own thread asks for: at every line of it.

Some of them waited for a lock that their own thread held, and with them whoever asked afterwards.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import casops
from casops import CasOps, Documents, Operation, Ref, UsageError
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


def interrupted(call: Callable[[], object], line: int, handler: Callable[[], object]) -> bool:
    """Do this, and that when it comes to its n-th line of those files.  False: it has less."""
    lines = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal lines
        if frame.f_code.co_filename not in WHERE:
            return None
        if event == "line":
            lines += 1
            if lines == line:
                handler()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return lines >= line


def at_every_line(front: CasOps) -> tuple[int, int]:
    """How often the handler was answered, and how often refused."""
    for id in (
        "a",
        "b",
    ):  # another document: for that of what it interrupts it would wait for as long as patience lasts
        front.run(Open(account=id), operation_id=f"open-{id}")
    answered: list[Decimal] = []
    refused: list[UsageError] = []

    def ask(id: str) -> None:
        try:
            answered.append(front.run(Add(account="b"), operation_id=id))
        except UsageError as error:
            refused.append(error)

    line, on = 0, True
    while on:
        line += 1
        outer = partial(front.run, Add(account="a"), operation_id=f"outer-{line}")
        on = interrupted(outer, line, partial(ask, f"inner-{line}"))
    assert all((error.happened, error.retry) == (None, True) for error in refused)
    assert front.read(Account.ref("a")) == Account(balance=Decimal(line))
    assert answered == [each + 1 for each in range(len(answered))]
    return len(answered), len(refused)


@pytest.fixture(scope="module")
def server() -> Iterator[CouchbaseServer]:
    with CouchbaseServer(scopes={"_default": ["casops", "accounts"]}) as server:
        yield server


@pytest.mark.parametrize("store", ["memory", "sqlite", "couchbase"])
def test_a_handler_that_asks_is_answered_or_refused(store: str, tmp_path: Path, server: CouchbaseServer) -> None:
    url = {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/bank.db", "couchbase": server.url}[store]
    front = CasOps.open(url, options=QUICK)
    came: list[tuple[int, int]] = []
    asking = threading.Thread(target=lambda: came.append(at_every_line(front)), daemon=True)
    asking.start()
    asking.join(SECONDS)
    assert not asking.is_alive()
    ((answered, refused),) = came
    assert answered > 0
    assert (refused > 0) == (store != "couchbase")
    front.close()
