"""Where a store pays by the transaction: what a worker writes until it waits or ends, in one of them.

    batch by batch      declare ─ sync ─ propose ─ sync ─ committed ─ sync ─ moved ─ sync …
    in a conversation   declare   propose   committed   moved …   sync, and only now the answer

No rule of the protocol knows of this.  The generator yields the same batches in the same order; others see
all of them or, should the transaction fail, none.  It is then a worker that crashed before it had written anything
(or, if the store cannot tell, after it had written everything), and its operation is asked for again,
batch by batch, as a retry with the same id would.

A conversation begins with the first batch that writes.  Mostly that is an operation as a whole (`AtOnce`,
casops.protocol.at_once), and there is nothing more to say; if it could not be written, the worker looks again while
nobody else writes, so that what it comes to then can be written.

Must not be in here: rules of the protocol, transactions.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Generator
from typing import Any, Final, Generic, TypeAlias, TypeVar, cast

from casops.errors import OutcomeUnknown, StoreUnavailable
from casops.local import local_reply
from casops.messages import AtOnce, Batch, Pause, Read, Refused, Reply, Request, Scan, Steps, Stored, Unknown
from casops.stores import Perform
from casops.values import value

__all__ = ["Conversation", "Conversations", "Wish", "at_once"]

T = TypeVar("T")

# Batches in one conversation.  An operation that meets nobody has eight with its settling; a worker that has
# so much more to say lets other processes have the store in between.
MAX_BATCHES: Final = 64


class Conversation(Generic[T]):
    """A worker from a batch that writes to its next wait, its end, or a write `AtOnce`.  To be called once at most.

    It may be called by another thread than the one that made it, and so runs in the context
    (contextvars: the precision of decimals, for one) of the one that made it.
    """

    def __init__(self, steps: Steps[T], request: Batch) -> None:
        self._steps = steps
        self._context = contextvars.copy_context()
        self._maker = threading.get_ident()
        self.request: Request = request  # what the worker asks next
        self.begun = False
        self.ended = False
        self.replies: list[Reply] | None = None  # which it is told when they are durable: it has no more to write
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
            try:
                replies = perform(self.request)
            except AssertionError as bug:  # of this worker alone: as if it had crashed here
                self.ended, self._error = True, bug
                return
            if [type(each) for each in self.request] == [AtOnce] and isinstance(replies[0], Stored):
                self.replies = replies
                return
            self._tell(replies)
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
        except SystemExit as error:
            if threading.current_thread() is threading.main_thread() and threading.get_ident() != self._maker:
                raise  # a signal handler's, perhaps; it means the process in any case
            self.ended, self._error = True, error
        except BaseException as error:  # noqa: BLE001 - of business code, for its caller
            self.ended, self._error = True, error


@value()
class Conversations:
    """Of one or several workers, to go in one transaction, one after the other.  Told an outcome for each."""

    all: tuple[Conversation[Any], ...]


Wish: TypeAlias = Request | Conversations


def at_once(begin: Callable[[], Steps[T]], again: Callable[[], Steps[T]]) -> Generator[Wish, Any, T]:
    """A worker whose writes go in conversations; `again` makes the one that asks after a failure."""
    steps = begin()
    reply: Any = None
    durable = False  # something that this worker wrote stands
    while True:
        # Only this may raise StopIteration: what is asked of the store stays outside of the `try`.
        try:
            request = steps.send(reply)
        except StopIteration as stop:
            return cast(T, stop.value)
        while isinstance(request, tuple) and _writes(request):
            conversation = Conversation(steps, request)
            (failed,) = cast("list[Refused | Unknown | None]", (yield Conversations((conversation,))))
            if failed is not None and (conversation.begun or isinstance(failed, Unknown)):
                return (yield from _ask_again(again, failed, durable=durable))
            if failed is not None:
                reply = [failed] * len(request)
                break
            durable = True
            if conversation.ended:
                return conversation.result()
            if conversation.replies is not None:
                reply = conversation.replies
                break
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
