"""For whom business functions are running here: they must not ask the one that they work for.

What they asked for would be carried out however often they run, and whatever becomes of their operation; and where
there is one writer at a time it would wait for itself.

Must not be in here: what is run.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from casops.errors import UsageError

__all__ = ["as_before", "check_not_running", "interrupts", "now_running", "running_for"]

_NOBODY: Final[list[object]] = []

# Outermost first.  Emptied when they are over, for a thread or task that one of them started may keep the context.
_running: ContextVar[list[object]] = ContextVar("casops_running")


def check_not_running(asked: object) -> None:
    """Raise UsageError if a business function runs here for `asked`, and so asks the one that it works for."""
    if any(each is asked for each in now_running()):
        raise UsageError("a business function must not ask the store it works on; it has its documents")


def interrupts() -> UsageError:
    """For a signal handler, or a `__del__`, that asks a store in the middle of what it does in the same thread."""
    error = UsageError("a business function, or a signal handler, must not ask the store that it interrupts")
    error.happened, error.retry = None, True  # should a handler raise it, into whatever it has interrupted
    return error


@contextmanager
def running_for(owner: object) -> Generator[None]:
    """While a business function runs."""
    before = now_running()
    try:
        _running.set([*before, owner])
        yield
    finally:
        as_before(before)


def now_running() -> list[object]:
    """For `as_before`."""
    return _running.get(_NOBODY)


def as_before(before: list[object]) -> None:
    """Forget what has begun to run since.  To be said by whoever comes by later, too: Ctrl-C may have met the first."""
    if (since := now_running()) is not before:
        since.clear()
        _running.set(before)
