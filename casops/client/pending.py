"""The table of operations that were asked for and not answered, by operation id.

An entry is made before the first message leaves and stays until a caller has had the answer, or until the application
says that it will not ask again.  An id in the table belongs to one operation with one set of arguments.

Must not be in here: files (pending_file.py), what is sent to whom.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from casops.client.messages import Answer, Fate
from casops.client.options import ClientOptions
from casops.client.replies import read_answer
from casops.errors import Contended, OperationMismatch, not_asked

# Ids of which it is remembered whether they may be acknowledged; what is not remembered may not.
MOST_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class Asked:
    """An operation that was asked for, in texts: what is needed to ask for it again."""

    operation_id: str
    operation: str
    """Its stored name."""
    fingerprint: str
    arguments: str
    """JSON text."""
    at: float
    """When it was first asked for: seconds since 1970 by this machine's clock, for people and for aging.py."""


@dataclass(eq=False)
class Entry:
    """One operation of the table: a concern that messages are about."""

    asked: Asked
    path: str = ""
    """Where it is asked for; known from the first call of this life on."""
    listeners: list[Callable[[], None]] = field(default_factory=list[Callable[[], None]])
    calls: int = 0
    """Calls that wait for it now."""
    sent: int = 0
    """Messages that were ever sent for it; the number of the next retry."""
    out: int = 0
    """Messages that are on their way."""
    uncertain: bool = False
    """A message was lost that may still reach a server."""
    begun: bool = False
    """A server was at it and did not say how it ended: it may yet."""
    earlier: bool = False
    """An earlier life of this client asked for it."""
    answer: Answer | None = None
    taken: bool = False
    """A call has made its outcome of the answer: for those that share it, it is a replay."""
    delivered: bool = False
    """A caller has had the answer."""
    acknowledged: bool = False
    """The application has said that it will not ask again."""
    method: str = "POST"

    @property
    def kind(self) -> str:
        return self.asked.operation

    @property
    def body(self) -> str | None:
        return self.asked.arguments

    def read(self, status: int, headers: Mapping[str, str], body: bytes) -> Fate:
        return read_answer(self.asked.operation_id, status, headers, body)


class Table:
    """Entries by operation id."""

    def __init__(self, options: ClientOptions) -> None:
        self._options = options
        self._entries: dict[str, Entry] = {}
        self._ended: OrderedDict[str, bool] = OrderedDict()  # ids that left, and whether all their messages had a reply

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(self._entries.values()))

    def get(self, operation_id: str) -> Entry | None:
        return self._entries.get(operation_id)

    def waiting(self) -> list[Asked]:
        """What was asked for and has not been handed over."""
        return [each.asked for each in self._entries.values() if not each.delivered]

    def restore(self, asked: Asked) -> None:
        """An entry of an earlier life of this client.  It was sent, for all we know."""
        self._entries[asked.operation_id] = Entry(asked, sent=1, uncertain=True, earlier=True)

    def enter(self, asked: Asked, path: str) -> Entry:
        """The entry of an operation that is called for.

        Raises OperationMismatch if the id belongs to another operation, Contended if the table is full.
        """
        operation_id = asked.operation_id
        entry = self._entries.get(operation_id)
        if entry is None:
            if len(self._entries) >= self._options.table:
                told = (
                    f"{len(self._entries)} operations wait for an answer already; nothing was sent. "
                    "Ask for those again (recover), or give them up (forget)"
                )
                raise not_asked(Contended(told, operation_id=operation_id))
            entry = self._entries[operation_id] = Entry(asked, uncertain=not self._ended.get(operation_id, True))
        elif entry.asked.fingerprint != asked.fingerprint:
            raise OperationMismatch(
                "this id was asked for with another operation or other arguments; nothing was sent",
                operation_id=operation_id,
            )
        entry.path = path
        entry.calls += 1
        entry.delivered = entry.delivered and entry.answer is not None  # an error was delivered; it is asked anew
        return entry

    def leave(self, entry: Entry, *, delivered: bool) -> bool:
        """A call for it has ended; `delivered`: with its answer, or with an error that settles it.

        Whether it is settled: an error settles nothing while another call goes on asking.
        """
        entry.calls -= 1
        settled = delivered and (entry.answer is not None or entry.calls == 0)
        entry.delivered = entry.delivered or settled
        return settled

    def drop_if_done(self, entry: Entry) -> bool:
        """Drop it if nobody needs it any more.  Whether it was dropped, now."""
        operation_id = entry.asked.operation_id
        if entry.calls or entry.out or not entry.delivered or self._entries.get(operation_id) is not entry:
            return False
        del self._entries[operation_id]
        # A server that was at it matters no more once there is an answer: it cannot give another one.
        self._ended[operation_id] = not entry.uncertain and (entry.answer is not None or not entry.begun)
        self._ended.move_to_end(operation_id)
        if len(self._ended) > MOST_REMEMBERED:
            self._ended.popitem(last=False)
        return True

    def all_replied(self, operation_id: str) -> bool:
        """It has left the table, and no message of it can still be on its way."""
        return self._ended.get(operation_id, False)
