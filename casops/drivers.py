"""Those who carry out what the protocol asks for: one sync driver, one async driver.

The two are the same but for `await`.
A driver that is interrupted (an exception of the store's programming, Ctrl-C, a cancelled task)
closes the generator, which then is a worker that crashed: whoever asks next takes over.

Must not be in here: rules of the protocol.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from typing import Any, TypeVar, cast

from casops.conversations import Conversation, Wish
from casops.local import local_reply, spread
from casops.messages import Pause
from casops.stores import AsyncConversingStore, AsyncStore, ConversingStore, Store

T = TypeVar("T")


def drive(steps: Generator[Wish, Any, T], store: Store) -> T:
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
            elif isinstance(request, Conversation):
                reply = cast(ConversingStore, store).converse(request)
            else:
                reply = local_reply(request)
    finally:
        steps.close()


async def adrive(steps: Generator[Wish, Any, T], store: AsyncStore) -> T:
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
            elif isinstance(request, Conversation):
                reply = await cast(AsyncConversingStore, store).converse(request)
            else:
                reply = local_reply(request)
    finally:
        steps.close()
