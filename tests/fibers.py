"""Threads of which one at a time goes on, and whoever made them says when: a sync front in a world of tasks.

A fiber is a thread that runs while everybody else stands still, until it wants to wait; then the task that made it
waits for it.  So the code of `CasOps` and of its callers runs as it is, in an order that is chosen.

Must not be in here: what threads do; real waiting.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from queue import Empty
from types import SimpleNamespace
from typing import Any, Final, TypeAlias

from casops import callers

__all__ = ["Waits", "names_for_callers", "run", "take", "wait_for"]

Waits: TypeAlias = Callable[[], Awaitable[Any]]

HANGS: Final = 20.0  # seconds, real ones: a fiber does not wait for anything but by wait_for

_Thread = threading.Thread
_here = threading.local()


class _Fiber:
    def __init__(self, do: Callable[[], Any]) -> None:
        self._do = do
        self._context = contextvars.copy_context()
        self._go, self._back = threading.Semaphore(0), threading.Semaphore(0)
        self.waits: Waits | None = None  # None: it has ended
        self.came_to: Any = None  # what it was told, or has ended with
        self.error: BaseException | None = None
        self._thread = _Thread(target=self._run, daemon=True)
        self._thread.start()

    def resume(self, told: Any, error: BaseException | None) -> None:
        """Let it go on until it waits, or to its end."""
        self.came_to, self.error, self.waits = told, error, None
        self._go.release()
        assert self._back.acquire(timeout=HANGS), "a fiber hangs"
        if self.waits is None:
            self._thread.join()

    def wait_for(self, waits: Waits) -> Any:
        self.waits = waits
        self._back.release()
        self._go.acquire()
        if self.error is not None:
            raise self.error
        return self.came_to

    def _run(self) -> None:
        _here.fiber = self
        self._go.acquire()
        try:
            self.came_to, self.error = self._context.run(self._do), None
        except BaseException as error:  # noqa: BLE001 - for the task that waits for it
            self.came_to, self.error = None, error
        self._back.release()


def wait_for(waits: Waits) -> Any:
    """In a fiber: wait as a task does.  Raises KeyboardInterrupt if that is cancelled."""
    fiber: _Fiber = _here.fiber
    return fiber.wait_for(waits)


def take(seconds: float) -> None:
    """In a fiber: take so long.  Elsewhere nobody could go on meanwhile."""
    if getattr(_here, "fiber", None) is not None:
        wait_for(partial(asyncio.sleep, seconds))


async def run(do: Callable[[], Any], goes_on: Callable[[], bool]) -> Any:
    """Do this in a fiber.  Cancelled: it is interrupted, and goes on with that, if anything still does."""
    fiber = _Fiber(do)
    told: Any = None
    error: BaseException | None = None
    cancelled: asyncio.CancelledError | None = None
    while True:
        fiber.resume(told, error)
        if fiber.waits is None:
            break
        told, error = None, None
        if not goes_on():
            error = KeyboardInterrupt()
            continue
        try:
            told = await fiber.waits()
        except asyncio.CancelledError as stop:
            cancelled, error = stop, KeyboardInterrupt()
        except Exception as failed:  # noqa: BLE001 - of the store
            error = failed
    if isinstance(fiber.error, KeyboardInterrupt) and cancelled is not None:
        raise cancelled
    if fiber.error is not None:
        raise fiber.error
    return fiber.came_to


# --- what casops.callers has of threads ---------------------------------------------------------------------


class Bell:
    """As casops.bell.Bell."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()

    def wait(self, seconds: float) -> None:
        wait_for(partial(_either, self._rung, seconds))
        self._rung.clear()

    def ring(self) -> None:
        self._rung.set()


class Leads:
    """As a SimpleQueue."""

    def __init__(self) -> None:
        self._all: deque[Any] = deque()
        self._came = asyncio.Event()

    def put(self, lead: Any) -> None:
        self._all.append(lead)
        self._came.set()

    def get(self, timeout: float = 0.0) -> Any:
        if not self._all:
            self._came.clear()
            wait_for(partial(_either, self._came, timeout))
        if not self._all:
            raise Empty
        return self._all.popleft()


async def _either(event: asyncio.Event, timeout: float) -> None:
    try:
        async with asyncio.timeout(timeout):
            await event.wait()
    except TimeoutError:
        pass


def names_for_callers(
    loop: asyncio.AbstractEventLoop, start: Callable[[callers.Callers, Callable[[], None]], None]
) -> dict[str, Any]:
    """What is to stand in casops.callers instead, by its name.  start: makes a fiber of a thread of theirs."""

    class Thread:
        def __init__(self, *, target: Any, args: tuple[Any, ...], **_: Any) -> None:
            self._whose, self._do = target.__self__, partial(target, *args)

        def start(self) -> None:
            loop.call_soon_threadsafe(start, self._whose, self._do, context=contextvars.Context())

    return {
        "casops.callers.Bell": Bell,
        "casops.callers.SimpleQueue": Leads,
        "casops.callers.threading": SimpleNamespace(Lock=threading.Lock, Thread=Thread),
        "casops.callers.time": SimpleNamespace(monotonic=loop.time, sleep=lambda _seconds: None),
        "casops.drivers.time": SimpleNamespace(sleep=lambda seconds: wait_for(partial(asyncio.sleep, seconds))),
    }
