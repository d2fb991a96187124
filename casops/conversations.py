"""Where a store pays by the transaction: what a worker writes until it waits or ends, in one of them.

    batch by batch      declare ─ sync ─ propose ─ sync ─ committed ─ sync ─ moved ─ sync …
    in a conversation   declare   propose   committed   moved …   sync, and only now the answer

No rule of the protocol knows of this.  The generator yields the same batches in the same order; others see
all of them or, should the transaction fail, none.  It is then a worker that crashed before it had written anything
(or, if the store cannot tell, after it had written everything), and its operation is asked for again,
batch by batch, as a retry with the same id would.

The first conversation of a worker may be rehearsed: held before the store is locked, on what the store shows to
others.  What the worker writes stands only if all that it was told is still true under the lock.  If not, it too has
crashed before it had written anything, and the next one, which does not rehearse, begins anew.

Must not be in here: rules of the protocol, transactions.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Generator
from typing import Any, Final, Generic, TypeAlias, TypeVar, cast

from casops.errors import OutcomeUnknown, StoreUnavailable
from casops.local import local_reply
from casops.messages import Batch, Pause, Read, Refused, Request, Scan, Steps, Unknown
from casops.stores import Moved, Perform

__all__ = ["Conversation", "at_once"]

T = TypeVar("T")

# Batches in one conversation.  An operation that meets nobody has eight with its settling; a worker that has
# so much more to say lets other processes have the store in between.
MAX_BATCHES: Final = 64


class Conversation(Generic[T]):
    """A worker from a batch that writes to its next wait, or its end.  To be called once at most.

    It may be called by another thread than the one that made it, and so runs in the context
    (contextvars: the precision of decimals, for one) of the one that made it.
    """

    def __init__(self, steps: Steps[T], request: Batch, *, rehearse: bool = False) -> None:
        self._steps = steps
        self.rehearse = rehearse  # may it be rehearsed, should the store like to
        self._context = contextvars.copy_context()
        self.request: Request = request  # what the worker asks next
        self.begun = False
        self.ended = False
        self._value: T | None = None
        self._error: BaseException | None = None

    def __call__(self, perform: Perform, /) -> None:
        self.begun = True
        self._context.run(self._talk, perform)

    def result(self) -> T:
        """What the worker came to."""
        if self._error is not None:
            raise self._error
        return cast(T, self._value)

    def _talk(self, perform: Perform) -> None:
        for _ in range(MAX_BATCHES):
            if not isinstance(self.request, tuple):
                return
            reply: Any = perform(self.request)
            self._tell(reply)
            while not self.ended and not isinstance(self.request, tuple | Pause):
                self._tell(local_reply(self.request))
            if self.ended:
                return

    def _tell(self, reply: Any) -> None:
        try:
            self.request = self._steps.send(reply)
        except StopIteration as stop:
            self.ended, self._value = True, stop.value
        except KeyboardInterrupt:
            raise  # meant for the thread that runs this, whoever that is
        except BaseException as error:  # noqa: BLE001 - of business code, for its caller
            self.ended, self._error = True, error


Wish: TypeAlias = Request | Conversation[Any]


def at_once(begin: Callable[[], Steps[T]], again: Callable[[], Steps[T]]) -> Generator[Wish, Any, T]:
    """A worker whose writes go in conversations; `again` makes the one that asks after a failure."""
    steps = begin()
    reply: Any = None
    durable = False  # something that this worker wrote stands
    rehearse = True
    while True:
        # Only this may raise StopIteration: what is asked of the store stays outside of the `try`.
        try:
            request = steps.send(reply)
        except StopIteration as stop:
            return cast(T, stop.value)
        while isinstance(request, tuple) and _writes(request):
            conversation = Conversation(steps, request, rehearse=rehearse and not durable)
            failed = cast("Refused | Unknown | Moved | None", (yield conversation))
            if isinstance(failed, Moved):  # a worker that crashed before it had written anything
                steps.close()
                steps, reply, rehearse = begin(), None, False
                break
            if failed is not None and conversation.begun:
                return (yield from _ask_again(again, failed, durable=durable))
            if failed is not None:
                reply = [failed] * len(request)
                break
            durable = True
            if conversation.ended:
                return conversation.result()
            request = conversation.request
        else:
            reply = yield request


def _ask_again(again: Callable[[], Steps[T]], failed: Refused | Unknown, *, durable: bool) -> Steps[T]:
    try:
        return (yield from again())
    except StoreUnavailable as error:
        if isinstance(failed, Refused) and not durable:
            raise
        # The second worker has changed nothing, but what the first one wrote stands, or may still come to light.
        raise OutcomeUnknown(f"{failed.why}; ask again with the same id", operation_id=error.operation_id) from None


def _writes(batch: Batch) -> bool:
    return not all(isinstance(request, Read | Scan) for request in batch)
