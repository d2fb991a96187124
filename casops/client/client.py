"""`Client`: ask servers for operations, from ordinary code.  The twin of `AsyncClient` (async_client.py).

Requests must outlive the wait for them (a late answer counts), so something has to go on while the caller waits or
does something else. One thread with an event loop does that for all calls, however many requests are out; a pool of
threads would need one for each, most of them stuck.

Must not be in here: anything that is not the twin of something in async_client.py.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import Future
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, TypeVar

from casops.client.async_client import AsyncClient
from casops.client.http import Connect
from casops.client.notices import Counters, Notice
from casops.client.options import ClientOptions
from casops.client.pending import Asked
from casops.client.recovering import Recovered
from casops.errors import Closed, UsageError, not_asked
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
        self._closing = threading.RLock()  # a signal handler may close the client in the middle of a call
        self._loop = asyncio.new_event_loop()
        # A daemon: a program that forgot to close its client ends all the same.
        self._thread = threading.Thread(target=_live, args=(self._loop,), name="casops-client", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # this process may have no more
            self._loop.close()
            raise

    def run(self, operation: Operation[R], *, operation_id: str) -> R:
        """See AsyncClient.run."""
        return self.execute(operation, operation_id=operation_id).result

    def execute(self, operation: Operation[R], *, operation_id: str) -> Outcome[R]:
        """See AsyncClient.execute."""
        held: list[str] = []
        outcome = self._call(self._client.hold(operation, operation_id, held), operation_id)
        self._hand_over(held)
        return outcome

    def outcome(self, operation_id: str) -> Outcome[Any] | Pending | None:
        """See AsyncClient.outcome."""
        return self._call(self._client.outcome(operation_id), operation_id)

    def recover(self) -> Recovered:
        """See AsyncClient.recover."""
        held: list[str] = []
        recovered = self._call(self._client.recover_and_hold(held))
        self._hand_over(held)
        return recovered

    def pending(self) -> list[Asked]:
        """See AsyncClient.pending."""
        return self._call_plain(self._client.pending)

    def acknowledge(self, operation_id: str) -> None:
        """See AsyncClient.acknowledge."""
        self._call_plain(lambda: self._client.acknowledge(operation_id), operation_id)

    def forget(self, operation_id: str) -> None:
        """See AsyncClient.forget."""
        self._call_plain(lambda: self._client.forget(operation_id), operation_id)

    @property
    def counters(self) -> Counters:
        return self._client.counters

    def servers(self) -> dict[str, str]:
        """See AsyncClient.servers."""
        return self._call_plain(self._client.servers)

    def close(self) -> None:
        """See AsyncClient.aclose."""
        if self._process != os.getpid():
            return  # the thread stayed behind in the parent
        if threading.current_thread() is self._thread:
            raise UsageError("on_notice must not close the client: it would wait for itself")
        with self._closing:
            if self._closed:
                return
            self._closed = True  # from now on no call comes into the loop
            ending = asyncio.run_coroutine_threadsafe(self._end(), self._loop)
        ending.result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        await self._client.aclose()
        calls = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*calls, return_exceptions=True)  # they were woken, and tell their callers

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _hand_over(self, held: list[str]) -> None:
        """Only here does this thread have what was found out: a Ctrl-C before loses nothing."""
        with suppress(RuntimeError):  # closed just now: the next life asks once more, and hears the same
            self._loop.call_soon_threadsafe(self._client.hand_over, held)

    def _call_plain(self, function: Callable[[], T], operation_id: str | None = None) -> T:
        async def call() -> T:
            return function()

        return self._call(call(), operation_id)

    def _call(self, work: Coroutine[Any, Any, T], operation_id: str | None = None) -> T:
        """Have it done in the client's thread, and wait for it."""
        try:
            future = self._submit(work)
        except UsageError as error:
            work.close()
            error.operation_id = operation_id
            raise
        try:
            return future.result()
        except BaseException:
            future.cancel()  # Ctrl-C: the call ends; what it sent is left running
            raise

    def _submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        if self._process != os.getpid():  # before the lock, which may have been held when it was forked
            told = "this client was opened before a fork: its thread stayed behind. Open one in each process"
            raise not_asked(UsageError(told))
        if threading.current_thread() is self._thread:
            raise not_asked(UsageError("on_notice must not call the client: it would wait for itself"))
        with self._closing:
            if self._closed:
                raise Closed("this client is closed; nothing was asked")
            try:
                return asyncio.run_coroutine_threadsafe(work, self._loop)
            except RuntimeError:  # a signal handler has closed it just now
                raise Closed("this client is closed; nothing was asked") from None


def _live(loop: asyncio.AbstractEventLoop) -> None:
    """Until the loop is stopped.

    What is raised once and ends it before is heard by the one whose task raised it (an exit, in a validator of theirs),
    and must not end it for the others.
    """
    while True:
        try:
            loop.run_forever()
        except (SystemExit, KeyboardInterrupt, MemoryError):
            logging.getLogger("casops.client").exception("the client's event loop was broken off, and goes on")
        else:
            return
