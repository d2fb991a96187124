"""Tasks of casops' own in somebody's event loop.

An application may have its loop make tasks in a way of its own (`loop.set_task_factory`): eager ones, which run before
whoever hired them has noted that they are there, or with a function that does not take what it is given.  That is for
its own tasks.  Nor do ours keep anything of the context of whoever happened to hire them, such as a whole request.

Must not be in here: what is carried out.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["own_task"]

T = TypeVar("T")


def own_task(work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
    """To be called in an event loop.  It begins when the loop comes to it, in an empty context."""
    return asyncio.Task(work, loop=asyncio.get_running_loop(), name=name, context=contextvars.Context())
