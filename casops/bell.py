"""What a thread waits at until another rings.

A threading.Event is a condition, a lock and a list, in Python code, which Ctrl-C may leave half done.  A bell is one
lock that nobody can be interrupted in.

Must not be in here: what is waited for.
"""

from __future__ import annotations

import threading
from contextlib import suppress

__all__ = ["Bell"]


class Bell:
    """For one who waits."""

    __slots__ = ("_silent",)

    def __init__(self) -> None:
        self._silent = threading.Lock()  # held, until it rings
        self._silent.acquire()

    def wait(self, seconds: float) -> bool:
        """Until it rings.  False: it did not for so long (seconds >= 0)."""
        return self._silent.acquire(timeout=seconds)

    def ring(self) -> None:
        """Any number of times, by anybody."""
        with suppress(RuntimeError):  # it has rung already
            self._silent.release()
