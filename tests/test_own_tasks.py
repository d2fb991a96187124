"""Tasks of casops' own, in the event loop of an application that makes its tasks in a way of its own.

Must not be in here: what the tasks do.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from decimal import Decimal
from typing import Any

import pytest

from casops import AsyncCasOps, CasOps, Outcome
from casops.service.duties import Duties
from casops.service.in_flight import InFlight
from casops.service.options import ServiceOptions
from casops.stores.memory import MemoryStore
from casops.tasks import own_task
from tests.bank import Account, Echo, Open, Transfer
from tests.client_bank import Bank as Servers
from tests.conftest import Bank

APPLICATION = ("run",)  # coroutines that a test makes tasks of
LONG = 20.0  # seconds until something that must happen is taken to hang
WHOSE: ContextVar[str] = ContextVar("whose", default="nobody's")


def refusing(loop: asyncio.AbstractEventLoop, work: Any) -> Any:
    """A factory as the documentation of Python 3.10 had it: it takes no `context`, and makes no task of ours."""
    assert work.cr_code.co_name in APPLICATION, "this is for tasks of the application's own"
    return asyncio.Task(work, loop=loop)


@contextmanager
def tasks_made_by(factory: Any) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    loop.set_task_factory(factory)
    try:
        yield
    finally:
        loop.set_task_factory(None)


async def work(told: list[str]) -> None:
    told.append(WHOSE.get())


async def test_a_task_begins_later_and_in_no_context_of_those_who_hire_it() -> None:
    told: list[str] = []
    WHOSE.set("a request's")
    with tasks_made_by(refusing):
        task = own_task(work(told), "a name")
    assert (told, task.get_name()) == ([], "a name")
    await task
    assert told == ["nobody's"]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="tasks are not eager before Python 3.12")
async def test_a_task_is_not_eager() -> None:
    told: list[str] = []
    eager: Any = vars(asyncio)["eager_task_factory"]
    with tasks_made_by(eager):
        task = own_task(work(told), "a name")
        assert told == []
        await task
    assert told == ["nobody's"]


async def transfers(casops: AsyncCasOps) -> None:
    """Each waits until the one before is settled."""
    asked = [Transfer(source="alice", target="bob", amount=1) for _ in range(3)]
    await asyncio.gather(*(casops.run(each, operation_id=f"t{number}") for number, each in enumerate(asked)))
    assert await casops.read(Account.ref("bob")) == Account(balance=Decimal(3))


@pytest.fixture
async def casops(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> AsyncCasOps:
    """In it nobody loses patience: whoever is not told waits until the test fails."""
    if bank.face == "sync":
        pytest.skip("no tasks")
    monkeypatch.setattr("casops.async_front.patience", lambda _: 3 * LONG)
    front = bank.open().front
    assert isinstance(front, AsyncCasOps)
    await front.run(Open(account="alice", balance=3), operation_id="alice")
    await front.run(Open(account="bob"), operation_id="bob")
    return front


async def test_the_factory_of_an_application_is_for_its_own_tasks(casops: AsyncCasOps) -> None:
    """Who came next to a file waited for three quarters of a minute for a task that could not be made."""
    with tasks_made_by(refusing):
        async with asyncio.timeout(LONG):
            await transfers(casops)
            await casops.close()


@pytest.mark.skipif(sys.version_info < (3, 12), reason="tasks are not eager before Python 3.12")
async def test_where_tasks_are_eager_nobody_waits_for_one_that_has_settled(casops: AsyncCasOps) -> None:
    """It was taken for one that lingers: what came next stood in line until its patience was over."""
    eager: Any = vars(asyncio)["eager_task_factory"]
    with tasks_made_by(eager):
        async with asyncio.timeout(LONG):
            await transfers(casops)
            await casops.close()


async def test_a_client_makes_its_own() -> None:
    client = Servers(i=1).client()
    with tasks_made_by(refusing):
        assert await client.run(Echo(value=1), operation_id="i") == 1
        await client.aclose()


async def test_a_service_makes_its_own() -> None:
    outcome: Outcome[Any] = Outcome("i", "applied", 1, None, False, False, 1)
    table = InFlight(threads=1, operations=1, requests=1)
    with CasOps(MemoryStore()) as casops, tasks_made_by(refusing):
        duties = Duties(casops, table, ServiceOptions())
        duties.start()
        assert await table.ask("i", "f", lambda: outcome, LONG) == (outcome, False)
        await duties.stop()
        assert not await table.finish(LONG)
