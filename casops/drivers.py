"""Those who carry out what the protocol asks for: one sync driver, one async driver.

The two are the same but for `await`.
A driver that is interrupted (an exception of the store's programming, Ctrl-C, a cancelled task)
closes the generator, which then is a worker that crashed: whoever asks next takes over.

Must not be in here: rules of the protocol.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import Any, TypeVar, cast

from casops.conversations import Conversations, Wish
from casops.errors import CasOpsError, Closed, not_asked
from casops.local import local_reply, spread
from casops.messages import Batch, Pause, Refused, Turn
from casops.running import as_before, now_running
from casops.stores import AsyncConversingStore, AsyncStore, ConversingStore, Store
from casops.turns import NOTHING, Known

T = TypeVar("T")


def no_turn() -> Known:
    """For what stands in no line."""
    return NOTHING


async def no_async_turn() -> Known:
    """For what stands in no line."""
    return NOTHING


def drive(
    steps: Generator[Wish, Any, T],
    store: Store,
    turn: Callable[[], Known] = no_turn,
    *,
    operation_id: str | None = None,
    begun: bool = False,
) -> T:
    """Run a protocol generator to its end on a store.  Blocks.

    turn: waits for the turn of an operation that stands behind others.  begun: it has asked the store before.
    operation_id: what errors that the store raises are about.
    """
    reply: Any = None
    before = now_running()
    try:
        while True:
            # Only this may raise StopIteration: what the request does stays outside of the `try`.
            try:
                request = steps.send(reply)
            except StopIteration as stop:
                return cast(T, stop.value)
            if isinstance(request, tuple | Conversations):
                try:
                    reply = _ask(store, request)
                except CasOpsError as error:
                    reply = _raised(error, request, operation_id, begun=begun)
                begun = True
            elif isinstance(request, Pause):
                time.sleep(spread(request.seconds))
                reply = None
            elif isinstance(request, Turn):
                reply = turn()
            else:
                reply = local_reply(request)
    finally:
        as_before(before)  # should Ctrl-C have met the one that does it first
        steps.close()


async def adrive(
    steps: Generator[Wish, Any, T],
    store: AsyncStore,
    turn: Callable[[], Awaitable[Known]] = no_async_turn,
    *,
    operation_id: str | None = None,
    begun: bool = False,
) -> T:
    """Run a protocol generator to its end on a store.  The others: as in drive."""
    reply: Any = None
    try:
        while True:
            try:
                request = steps.send(reply)
            except StopIteration as stop:
                return cast(T, stop.value)
            if isinstance(request, tuple | Conversations):
                try:
                    reply = await _aask(store, request)
                except CasOpsError as error:
                    reply = _raised(error, request, operation_id, begun=begun)
                begun = True
            elif isinstance(request, Pause):
                await asyncio.sleep(spread(request.seconds))
                reply = None
            elif isinstance(request, Turn):
                reply = await turn()
            else:
                reply = local_reply(request)
    finally:
        steps.close()


def _ask(store: Store, request: Batch | Conversations) -> Sequence[Any]:
    if isinstance(request, Conversations):
        return cast(ConversingStore, store).converse(request.all)
    return store.perform(request)


async def _aask(store: AsyncStore, request: Batch | Conversations) -> Sequence[Any]:
    if isinstance(request, Conversations):
        return await cast(AsyncConversingStore, store).converse(request.all)
    return await store.perform(request)


def nobody_looked(error: CasOpsError, operation_id: str | None) -> None:
    """A store has raised this instead of looking what became of the operation."""
    not_asked(error)
    if error.operation_id is None:
        error.operation_id = operation_id


def _raised(
    error: CasOpsError, request: Batch | Conversations, operation_id: str | None, *, begun: bool
) -> list[Refused]:
    """A store that is closed says so to whoever comes to it; to one who is in the middle it refuses what is left.

    It has done nothing of the request (see Closed).  Whatever else a store raises, it may have done it: the worker
    has crashed.
    """
    if begun and isinstance(error, Closed):
        return [Refused(str(error)) for _ in (request.all if isinstance(request, Conversations) else request)]
    nobody_looked(error, operation_id)
    raise error
