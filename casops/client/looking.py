"""Asking what became of an operation, without asking for it: `GET /operations/{id}`.

Must not be in here: I/O, clocks, randomness.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

from casops.client.desk import Desk
from casops.client.messages import Fate, Message, Seen, Send, Steps, Told, Wait
from casops.client.replies import read_outcome
from casops.errors import StoreUnavailable


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

    Reading twice harms nobody, so nobody is asked a second time: who wants to know calls again.
    """
    ends = now + desk.options.deadline
    left = set(desk.servers.all)
    sent: list[Message] = []
    while (server := desk.servers.best(left, slow_first=False)) is not None and now < ends:
        left.remove(server)
        message = desk.message(question, server)
        sent.append(message)
        now = yield Send(message)
        message.due = now + server.trips(question.kind).timeout()
        until = min(ends, message.due)
        while message.fate is None and now < until:
            if (seen := _seen(sent)) is not None:
                return seen
            now = yield Wait(until)
        if message.fate is None:
            desk.counters.timeouts += 1
        elif isinstance(message.fate, Told) and message.fate.again == "never":
            raise message.fate.error
        elif (seen := _seen(sent)) is not None:
            return seen
    told = [each.fate.error for each in sent if isinstance(each.fate, Told)]
    raise (
        told[-1]
        if told
        else StoreUnavailable(
            "no server told what became of it; nothing was changed", operation_id=question.operation_id
        )
    )


def _seen(sent: list[Message]) -> Seen | None:
    return next((each.fate for each in sent if isinstance(each.fate, Seen)), None)
