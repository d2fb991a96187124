"""A lock that is waited for only so long, that knows whose it is, and that Ctrl-C does not leave locked.

`threading.Lock.acquire` with a timeout may be interrupted just after it has succeeded, before anybody knows.  Here to
have it is one word, written where whoever is interrupted comes by (`leave`, twice, see casops.stores.sqlite).

Must not be in here: what is done one at a time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

__all__ = ["OneAtATime"]

# Seconds after which those who wait see for themselves: whom Ctrl-C met between leaving and saying so told nobody.
LOOK_AGAIN: Final = 1.0


class OneAtATime:
    """Used by any number of threads; each takes it once at a time."""

    def __init__(self) -> None:
        # Entered by itself: of a condition that is Python code, and Ctrl-C may leave the lock within locked.
        self._lock = threading.RLock()
        self._free = threading.Condition(self._lock)
        self._holder = 0  # a thread's number

    @property
    def taken(self) -> bool:
        return self._holder != 0

    @property
    def mine(self) -> bool:
        return self._holder == threading.get_ident()

    def take(self, seconds: float, *, unless: Callable[[], bool]) -> bool:
        """Wait for it.  False: it was not free for so long, or there is no need any more."""
        until = time.monotonic() + seconds
        with self._lock:
            while self._holder and not unless():
                left = until - time.monotonic()
                if left <= 0:
                    return False
                self._free.wait(min(left, LOOK_AGAIN))
            if unless():
                return False
            self._holder = threading.get_ident()
        return True

    def leave(self) -> None:
        """Let others have it, if it is this thread's."""
        if self.mine:
            self._holder = 0  # before anything that waits and can be interrupted
            with self._lock:
                self._free.notify_all()  # some of them may have no need any more
