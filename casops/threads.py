"""Threads in which what blocks is run, so that the event loop never waits.

They are daemons: an `apply` that never returns cannot keep the process from ending (in the pools of concurrent.futures
and anyio it would).  They are kept, because starting a thread makes the event loop wait until it runs.

Must not be in here: what is run.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


class Threads:
    """At most `most` threads, started when they are needed; what comes when all are busy waits its turn."""

    def __init__(self, most: int, name: str) -> None:
        self._most = most
        self._name = name
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._idle = threading.Semaphore(0)  # threads that wait for a job
        self._started = 0

    def run(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """To be called on the event loop.  If the future is done with before, the work goes on all the same."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self.add(lambda: _carry_out(work, future, loop))
        return future

    def add(self, job: Callable[[], None]) -> None:
        """For what nobody waits for; it must not raise.  Needs no event loop."""
        if not self._idle.acquire(blocking=False) and self._started < self._most:
            try:
                threading.Thread(target=self._live, name=self._name, daemon=True).start()
                self._started += 1
            except RuntimeError:  # this process may have no more, or is about to end
                if self._started == 0:  # then here: the event loop stands still, but nobody else can do it
                    job()
                    return
        self._jobs.put(job)

    def close(self) -> None:
        """Have the threads end, each when it has nothing to do."""
        for _ in range(self._started):
            self._jobs.put(None)

    def _live(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except BaseException:  # MemoryError, for one: all that come later need this thread
                logging.getLogger("casops").exception("a job of %s was broken off", self._name)
            del job  # an idle thread holds on to nothing
            self._idle.release()


async def in_thread(work: Callable[[], T]) -> T:
    """In a thread of its own: for what is rare.  If this coroutine is cancelled, the work goes on."""
    threads = Threads(1, "casops-aside")
    try:
        return await threads.run(work)
    finally:
        threads.close()


def _carry_out(work: Callable[[], T], future: asyncio.Future[T], loop: asyncio.AbstractEventLoop) -> None:
    settle: Callable[[Any], None] = future.set_result
    what: Any
    try:
        what = work()
    except BaseException as error:  # noqa: BLE001 - it is passed on
        settle, what = future.set_exception, error
        if isinstance(error, StopIteration) or not isinstance(error, Exception):
            # A future does not take the one, and an event loop ends with the others (SystemExit).
            what = RuntimeError(f"{type(error).__name__} was raised where none is expected")
            what.__cause__ = error

    def tell() -> None:
        if not future.done():
            settle(what)

    with suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(tell)
