"""Who must not ask whom: business functions the one that they work for, and nobody the one that he interrupts.

What a business function asked for would be carried out however often it runs, and whatever becomes of its operation;
and where there is one writer at a time it would wait for itself.  A signal handler, or a `__del__`, that interrupts a
call would wait for what its own thread has in hand, or for others that wait for that.

Must not be in here: what is run.
"""

from __future__ import annotations

import inspect
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from casops.errors import UsageError

__all__ = ["as_before", "check_not_running", "interrupted", "interrupts", "now_running", "running_for"]

_NOBODY: Final[list[object]] = []

# Outermost first.  Emptied when they are over, for a thread or task that one of them started may keep the context.
_running: ContextVar[list[object]] = ContextVar("casops_running")


def check_not_running(asked: object) -> None:
    """Raise UsageError if a business function runs here for `asked`, and so asks the one that it works for."""
    if any(each is asked for each in now_running()):
        raise UsageError("a business function must not ask the store it works on; it has its documents")


# Where calls of a front, or of its store, are carried out: in methods of theirs, or in threads that work for them.
_FRONT: Final = "casops.front"
_OUR_THREADS: Final = "casops.stores.couchbase_threads"
_STORES: Final = ("casops.stores.couchbase", "casops.stores.memory", "casops.stores.sqlite")
_CARRIED_OUT: Final = frozenset((_FRONT, "casops.callers", _OUR_THREADS, *_STORES))
# Methods of a front that call another one, which an application may have made its own.
_CALL_OTHERS: Final = ("run", "__exit__")


def interrupted(by: tuple[object, ...]) -> bool:
    """Is this thread in the middle of what one of these (a front, what belongs to it, its store) does?

    The stack tells, so there is nothing that Ctrl-C could keep from being taken back.
    """
    frame = inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").startswith("casops."):
        frame = frame.f_back  # those who ask this, on behalf of whoever called
    while frame is not None:
        module = frame.f_globals.get("__name__")
        if module in _CARRIED_OUT:
            name = frame.f_code.co_name
            if module == _OUR_THREADS:
                if name == "_serve":
                    return True  # nobody's business is done here
            elif module != _FRONT or name not in _CALL_OTHERS:
                mine = frame.f_locals.get("self")
                if mine is not None and any(mine is each for each in by):  # a front may have no callers: None
                    return True
        frame = frame.f_back
    return False


def interrupts(operation_id: str | None = None) -> UsageError:
    """For a signal handler, or a `__del__`, that asks a store in the middle of what it does in the same thread."""
    told = "a business function, or a signal handler, must not ask the store that it interrupts"
    error = UsageError(told, operation_id=operation_id)
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
