"""What needs nobody else: the clock, ids, and how long a wait is.

Must not be in here: stores, rules of the protocol.
"""

from __future__ import annotations

import random
import secrets
import time

from casops.messages import Clock, FreshId, ReadClock, Request

__all__ = ["local_reply", "spread"]


def local_reply(request: Request) -> Clock | str:
    """The reply to a request that needs nobody else."""
    if isinstance(request, ReadClock):
        return Clock(time.monotonic(), time.time())
    if isinstance(request, FreshId):
        return secrets.token_hex(16)
    raise TypeError(f"not a request of the protocol: {request!r}")


def spread(seconds: float) -> float:
    """Between half and all of it, so that workers that lost the same race do not meet again."""
    return seconds * random.uniform(0.5, 1.0)
