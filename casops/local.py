"""What needs nobody else: the clock, ids, and how long a wait is.

Must not be in here: stores, rules of the protocol.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from casops.messages import Clock, FreshId, ReadClock, Request

__all__ = ["local_reply", "spread"]


def _clock(platform: str) -> Callable[[], float]:
    """Seconds that go on while this machine sleeps, for a call must notice that it slept through the retention.

    Python's own monotonic clock stands still then on Linux and on macOS (clock_gettime(2); macOS has such a clock
    under the name of the one that Linux stops).
    """
    name = {"linux": "CLOCK_BOOTTIME", "darwin": "CLOCK_MONOTONIC"}.get(platform, "")
    which = getattr(time, name, None)
    return time.monotonic if which is None else partial(time.clock_gettime, which)


_monotonic: Final = _clock(sys.platform)


def local_reply(request: Request) -> Clock | str:
    """The reply to a request that needs nobody else."""
    if isinstance(request, ReadClock):
        return Clock(_monotonic(), time.time())
    if isinstance(request, FreshId):
        return os.urandom(16).hex()
    raise TypeError(f"not a request of the protocol: {request!r}")


def spread(seconds: float) -> float:
    """Between half and all of it, so that workers that lost the same race do not meet again."""
    return seconds * random.uniform(0.5, 1.0)
