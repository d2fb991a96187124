"""Asking what became of an operation, without asking for it: `GET /operations/{id}`.

Must not be in here: I/O, clocks, randomness.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

from casops.client.desk import Desk
from casops.client.messages import Fate, Lost, Message, Seen, Send, Steps, Told, Wait
from casops.client.replies import read_outcome
from casops.errors import OutcomeUnknown, StoreUnavailable


@dataclass(eq=False)
class Question:
    """The concern of such a message."""

    operation_id: str
    listeners: list[Callable[[], None]] = field(default_factory=list[Callable[[], None]])
    kind: str = "(outcome)"
    method: str = "GET"
    body: str | None = None

    @property
    def path(self) -> str:
        # The dots as well: an id of nothing but dots would be taken for a way up in the path.
        return f"/operations/{quote(self.operation_id, safe='').replace('.', '%2E')}"

    def read(self, status: int, headers: Mapping[str, str], body: bytes) -> Fate:
        return read_outcome(self.operation_id, status, headers, body)


def looking(desk: Desk, question: Question, now: float) -> Steps[Seen]:
    """Ask one server after another, each once, until one tells.  Raises what it tells, or StoreUnavailable.

    Reading twice harms nobody, so the next server is asked at the first time-out.  When all were asked, whatever can
    still come is waited for, until the deadline.
    """
    ends = now + desk.options.deadline
    left = set(desk.servers.all)
    sent: list[Message] = []
    while now < ends and (left or any(each.fate is None for each in sent)):
        server = desk.servers.best(left, slow_first=False)
        until = ends
        if server is not None:
            left.remove(server)
            message = desk.message(question, server)
            sent.append(message)
            now = yield Send(message)
            message.due = now + server.trips(question.kind).timeout()
            until = min(ends, message.due)
        known = sum(each.fate is not None for each in sent)
        while now < until and known == sum(each.fate is not None for each in sent):
            now = yield Wait(until)
        if (seen := _seen(sent)) is not None:
            return seen
    for each in reversed(sent):
        if isinstance(each.fate, Told):
            raise each.fate.error
    reasons = "; ".join(f"{each.server.url}: {_why(each)}" for each in sent)
    raise StoreUnavailable(
        f"no server told what became of it ({reasons}); nothing was changed", operation_id=question.operation_id
    )


def _why(message: Message) -> str:
    return message.fate.why if isinstance(message.fate, Lost) else "no answer in time"


def _seen(sent: list[Message]) -> Seen | None:
    """What a server told, or None.  Raises an error that asking another does not change.

    That a server never heard of it counts for nothing where another one is at it, or cannot tell.
    """
    for each in sent:
        if isinstance(each.fate, Told) and each.fate.again == "never":
            raise each.fate.error
    unsure = any(isinstance(each.fate, Told) and isinstance(each.fate.error, OutcomeUnknown) for each in sent)
    told = [each.fate for each in sent if isinstance(each.fate, Seen)]
    return next((each for each in told if each.found is not None or not unsure), None)
