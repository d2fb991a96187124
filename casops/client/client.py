"""`Client`: ask servers for operations, from ordinary code.  The twin of `AsyncClient` (async_client.py).

Requests must outlive the wait for them (a late answer counts), so something has to go on while the caller waits or
does something else. One thread with an event loop does that for all calls, however many requests are out; a pool of
threads would need one for each, most of them stuck. anyio's portal (a dependency of httpx) is the well-kept bridge
into such a loop.

Must not be in here: anything that is not the twin of something in async_client.py.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import Future
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self, TypeVar

from anyio.from_thread import start_blocking_portal

from casops.client.async_client import AsyncClient, Recovered
from casops.client.http import Connect
from casops.client.notices import Counters, Notice
from casops.client.options import ClientOptions
from casops.client.pending import Asked
from casops.errors import UsageError
from casops.operations import Operation
from casops.outcome import Outcome, Pending

R = TypeVar("R")
T = TypeVar("T")


class Client:
    """Operations of casops over the network.  May be used by any number of threads; open it after a fork.

    See AsyncClient.  `on_notice` is called in the client's own thread, so it must not block and must not call the
    client.
    """

    def __init__(
        self,
        servers: Iterable[str],
        *,
        options: ClientOptions | None = None,
        operations: Iterable[type[Operation[Any]]] = (),
        pending: str | os.PathLike[str] | None = None,
        on_notice: Callable[[Notice], None] | None = None,
        connect: Connect | None = None,
    ) -> None:
        self._client = AsyncClient(
            servers, options=options, operations=operations, pending=pending, on_notice=on_notice, connect=connect
        )
        self._process = os.getpid()
        self._closed = False
        self._stack = ExitStack()
        self._portal = self._stack.enter_context(start_blocking_portal("asyncio", name="casops-client"))

    def run(self, operation: Operation[R], *, operation_id: str) -> R:
        """See AsyncClient.run."""
        return self.execute(operation, operation_id=operation_id).result

    def execute(self, operation: Operation[R], *, operation_id: str) -> Outcome[R]:
        """See AsyncClient.execute."""

        async def execute() -> Outcome[R]:
            return await self._client.execute(operation, operation_id=operation_id)

        return self._call(execute)

    def outcome(self, operation_id: str) -> Outcome[Any] | Pending | None:
        """See AsyncClient.outcome."""

        async def outcome() -> Outcome[Any] | Pending | None:
            return await self._client.outcome(operation_id)

        return self._call(outcome)

    def recover(self) -> Recovered:
        """See AsyncClient.recover."""
        return self._call(self._client.recover)

    def pending(self) -> list[Asked]:
        """See AsyncClient.pending."""
        return self._call_plain(self._client.pending)

    def acknowledge(self, operation_id: str) -> None:
        """See AsyncClient.acknowledge."""
        self._call_plain(lambda: self._client.acknowledge(operation_id))

    def forget(self, operation_id: str) -> None:
        """See AsyncClient.forget."""
        self._call_plain(lambda: self._client.forget(operation_id))

    @property
    def counters(self) -> Counters:
        return self._client.counters

    def servers(self) -> dict[str, str]:
        """See AsyncClient.servers."""
        return self._call_plain(self._client.servers)

    def close(self) -> None:
        """See AsyncClient.aclose."""
        if self._closed or self._process != os.getpid():
            return
        self._closed = True
        try:
            self._portal.call(self._client.aclose)
        finally:
            self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call_plain(self, function: Callable[[], T]) -> T:
        async def call() -> T:
            return function()

        return self._call(call)

    def _call(self, function: Callable[[], Awaitable[T]]) -> T:
        if self._process != os.getpid():
            raise UsageError("this client was opened before a fork: its thread stayed behind. Open one in each process")
        if self._closed:
            raise UsageError("this client is closed")
        future: Future[T] = self._portal.start_task_soon(function)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # Ctrl-C: the call ends; what it sent is left running
            raise
