"""Callers of one process who ask at the same time, at a store that converses: one carries out what all of them want.

    look     what all of them read, in one batch
    run      their business functions, one after the other, each in the context of its caller
    write    their conversations, in one transaction of the store

Each for itself would hand on Python's lock at every statement, some ten times an operation, and whoever gets it sits on
another core, which has everything to fetch anew: two threads together came to less than one.  (Flat combining:
D. Hendler, I. Incze, N. Shavit, M. Tzafrir, "Flat combining and the synchronization-parallelism tradeoff", SPAA 2010.)

No rule of the protocol knows of this: it is generators that are driven, and whose thread does it is all one to them.
Who has to wait, or to write without a conversation, goes on alone, for the others are not to wait with it.  So do all
where something does not go as it should: alone is what each could have done from the beginning.

Must not be in here: threads, asyncio (the fronts have them), what a generator does.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any, Final, Generic, TypeVar, cast

from casops.conversations import Conversations, Wish
from casops.local import local_reply
from casops.messages import FreshId, Read, ReadClock, Scan, StoreRequest, Unknown

__all__ = ["MOST", "Errand", "combined"]

T = TypeVar("T")

# Errands that go together.  Some 15 ms of work in one transaction, so that other processes get at the file in between;
# beyond it the sync is already shared by many.
MOST: Final = 50


_NOT_TOLD: Final = Unknown("something went wrong while this was written together with others")


class Errand(Generic[T]):
    """What one caller wants done, by whomever, until it is over: it has ended, or goes on alone.

    steps: a generator that was not begun.
    """

    def __init__(self, steps: Generator[Wish, Any, T]) -> None:
        self._steps = steps
        self._context = contextvars.copy_context()
        self.wish: Wish | None = None  # what it asks next; None: it was told, and is to go on
        self._reply: Any = None
        self._value: T | None = None
        self._error: BaseException | None = None
        self._ended = False
        self.begun = False  # it was told a reply
        self.over = False

    def advance(self) -> None:
        """Go on until it wants something of the store, or is over.  Whatever it raises is for its caller."""
        try:
            wish = self._context.run(self._steps.send, self._reply)
            while isinstance(wish, ReadClock | FreshId):
                wish = self._context.run(self._steps.send, local_reply(wish))
        except StopIteration as stop:
            self.ends(value=stop.value)
        except BaseException as error:  # noqa: BLE001 - of business code
            self.ends(error=error)
        else:
            self.wish, self._reply = wish, None
            self.over = not (isinstance(wish, Conversations) or reads(wish))

    def tell(self, reply: Any) -> None:
        """The reply to what it asked."""
        self.wish, self._reply, self.begun = None, reply, True

    def ends(self, *, value: T | None = None, error: BaseException | None = None) -> None:
        """That is all."""
        self._value, self._error = value, error
        self._ended = self.over = True

    def fails(self) -> None:
        """What it asked for together with others came to nothing that could be told to each: it asks again, alone."""
        if isinstance(self.wish, Conversations):
            self.tell([_NOT_TOLD for _ in self.wish.all])
        self.over = True

    def rest(self) -> Generator[Wish, Any, T]:
        """What is left of it, for its caller to drive alone.  Nobody else may have it in hand."""
        if self._error is not None:
            raise self._error
        while not self._ended:
            if self.wish is not None:
                self.tell((yield self.wish))
            try:
                self.wish = self._steps.send(self._reply)
            except StopIteration as stop:
                self.ends(value=stop.value)
        return cast(T, self._value)


def reads(wish: Wish) -> bool:
    return isinstance(wish, tuple) and all(isinstance(request, Read | Scan) for request in wish)


def combined(
    errands: Iterable[Errand[Any]], may: Callable[[Sequence[Errand[Any]]], bool]
) -> Generator[Wish, Any, bool]:
    """Carry out errands together until all are over.  Gives whether anything was written.

    may: is asked before anything is done with some of them, and lets go of those that it was asked about before;
    False ends it here, for each goes on alone.
    """
    going, wrote = list(errands), False
    while going:
        for errand in going:
            if errand.wish is None:
                if not may((errand,)):
                    return wrote
                errand.advance()
        going = [errand for errand in going if not errand.over]
        reading = [errand for errand in going if reads(cast(Wish, errand.wish))]
        asking = reading or going
        if not may(asking):
            return wrote
        if reading:
            batches = [cast("tuple[StoreRequest, ...]", errand.wish) for errand in reading]
            replies = iter((yield tuple(request for batch in batches for request in batch)))
            for errand, batch in zip(reading, batches, strict=True):
                errand.tell([next(replies) for _ in batch])
        elif going:
            wrote = True
            wishes = [cast(Conversations, errand.wish).all for errand in going]
            outcomes = iter((yield Conversations(tuple(each for wish in wishes for each in wish))))
            for errand, wish in zip(going, wishes, strict=True):
                errand.tell([next(outcomes) for _ in wish])
    return wrote
