"""Fixtures: every store and both fronts behind one awaitable face."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from casops import AsyncCasOps, CasOps, Options
from casops.messages import Steps
from casops.stores import Store
from casops.stores.memory import AsyncMemoryStore, MemoryStore
from casops.stores.opening import open_store
from tests.couchbase import Couchbase, couchbase_for_tests, shared_couchbase

# Short, so that a test which has to wait for a dead worker does not wait long; nothing else changes.
QUICK = Options(patience=0.05, poll=0.001, grace=0.0)


def something_is_in_the_way(*_: object) -> Steps[None]:
    """Instead of casops.protocol.at_once.at_once: an operation on a file takes the stream log."""
    yield from ()


class Bank:
    """One store, opened as often as a test likes; every method of a front is awaitable."""

    def __init__(self, kind: str, face: str, url: str) -> None:
        self.kind, self.face = kind, face
        self._memory = MemoryStore()
        self._url = url
        self._open: list[Any] = []

    def open(self, options: Options = QUICK, **more: Any) -> Any:
        """A CasOps or AsyncCasOps on the store, behind a face of coroutines."""
        front: Any
        if self.kind == "memory":
            if self.face == "sync":
                front = CasOps(self._memory, options=options, **more)
            else:
                front = AsyncCasOps(AsyncMemoryStore(self._memory), options=options, **more)
        else:
            opener: Callable[..., Any] = CasOps.open if self.face == "sync" else AsyncCasOps.open
            front = opener(self._url, options=options, **more)
        self._open.append(front)
        return Face(front)

    def stranger(self) -> Store:
        """The same documents past casops."""
        if self.kind == "memory":
            return self._memory
        self._open.append(store := open_store(self._url))
        return store

    async def close(self) -> None:
        for front in self._open:
            closing = front.close()
            if inspect.isawaitable(closing):
                await closing


class Face:
    """Calls of a front as coroutines, whichever front it is."""

    def __init__(self, front: Any) -> None:
        self.front = front

    def __getattr__(self, name: str) -> Any:
        async def call(*arguments: Any, **named: Any) -> Any:
            result = getattr(self.front, name)(*arguments, **named)
            return await result if inspect.isawaitable(result) else result

        return call


@pytest.fixture(scope="session")
def couchbase() -> Iterator[Couchbase]:
    """The double, or a real cluster; see tests/couchbase.py."""
    with couchbase_for_tests() as couchbase:
        yield couchbase


@pytest.fixture
def couchbase_url() -> Iterator[str]:
    """A store that several processes share: the double in a process of its own, or the real cluster."""
    with shared_couchbase() as couchbase:
        prefix = couchbase.new_prefix()
        yield couchbase.url(prefix)
        couchbase.forget(prefix)


@pytest.fixture(
    params=["memory-sync", "memory-async", "sqlite-sync", "sqlite-async", "couchbase-sync", "couchbase-async"]
)
async def bank(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bank]:
    kind, face = str(request.param).split("-")
    if kind != "couchbase":
        bank = Bank(kind, face, f"sqlite:///{tmp_path}/bank.db")
        yield bank
        await bank.close()
        return
    couchbase: Couchbase = request.getfixturevalue("couchbase")
    prefix = couchbase.new_prefix()
    bank = Bank(kind, face, couchbase.url(prefix))
    yield bank
    await bank.close()
    couchbase.forget(prefix)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, or one worker would be at it for minutes when the others have nothing left to do."""
    items.sort(key=lambda item: "test_real_orders_while_workers_are_killed" not in item.name)
