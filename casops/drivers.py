"""Those who carry out what the protocol asks for: one sync driver, one async driver.

The two are the same but for `await`.  What does not wait (clock, ids) is answered by one function.
A driver that is interrupted (an exception of the store's programming, Ctrl-C, a cancelled task)
closes the generator, which then is a worker that crashed: whoever asks next takes over.

Must not be in here: rules of the protocol.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from typing import Any, TypeVar, cast

from casops.messages import Clock, FreshId, Pause, ReadClock, Request, Steps
from casops.stores import AsyncStore, Store

T = TypeVar("T")


def drive(steps: Steps[T], store: Store) -> T:
    """Run a protocol generator to its end on a store.  Blocks."""
    reply: Any = None
    try:
        while True:
            # Only this may raise StopIteration: what the request does stays outside of the `try`.
            try:
                request = steps.send(reply)
            except StopIteration as stop:
                return cast(T, stop.value)
            if isinstance(request, tuple):
                reply = store.perform(request)
            elif isinstance(request, Pause):
                time.sleep(spread(request.seconds))
                reply = None
            else:
                reply = local_reply(request)
    finally:
        steps.close()


async def adrive(steps: Steps[T], store: AsyncStore) -> T:
    """Run a protocol generator to its end on a store."""
    reply: Any = None
    try:
        while True:
            try:
                request = steps.send(reply)
            except StopIteration as stop:
                return cast(T, stop.value)
            if isinstance(request, tuple):
                reply = await store.perform(request)
            elif isinstance(request, Pause):
                await asyncio.sleep(spread(request.seconds))
                reply = None
            else:
                reply = local_reply(request)
    finally:
        steps.close()


def local_reply(request: Request) -> Clock | str:
    """The reply to a request that needs nobody else."""
    if isinstance(request, ReadClock):
        return Clock(time.monotonic(), time.time())
    if isinstance(request, FreshId):
        return uuid.uuid4().hex
    raise TypeError(f"not a request of the protocol: {request!r}")


def spread(seconds: float) -> float:
    """Between half and all of it, so that workers that lost the same race do not meet again."""
    return seconds * random.uniform(0.5, 1.0)
