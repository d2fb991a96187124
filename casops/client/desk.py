"""The desk: what all calls of a client share, and the place where replies come in.

Every message gets its id and headers here, and here it is noted what became of it: for the server (round trip,
health), for its operation (first answer, second answer), for the counters and for the application (notices). Calls
look at their messages and at their entry afterwards.

The calls into it must not overlap (one event loop).  `now`: seconds of a clock that only grows.

Must not be in here: I/O, clocks, randomness, what a call does next (asking.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from casops.client.acknowledging import Acknowledgements
from casops.client.budget import Budget
from casops.client.messages import Answer, Concern, Fate, Lost, Message, Told
from casops.client.notices import Counters, Notice
from casops.client.options import ClientOptions
from casops.client.pending import Entry, Table
from casops.client.replies import canonical, is_reply_to, read_retention
from casops.client.servers import Server, Servers, State
from casops.errors import InvariantViolation
from casops.wire import ACKNOWLEDGE, IDEMPOTENCY_KEY, MESSAGE, RETRY, encode_id, encode_ids


class Desk:
    """`name`: unique to this client and this life of it; it begins the ids of its messages."""

    def __init__(self, urls: Sequence[str], options: ClientOptions, name: str) -> None:
        self.options = options
        self.servers = Servers(urls, options)
        self.table = Table(options)
        self.budget = Budget(options)
        self.acknowledgements = Acknowledgements()
        self.counters = Counters()
        self.retention: float | None = None
        """Seconds for which the servers remember results: the least that any told (infinity: for ever)."""
        self.heard = float("-inf")
        """When a server last told how an operation ended, or that it never will."""
        self._name = name
        self._numbers = 0
        self._notices: list[Notice] = []

    def take_notices(self) -> list[Notice]:
        """What the application is to be told, once."""
        taken, self._notices = self._notices, []
        return taken

    # --- messages ---------------------------------------------------------------------------

    def message(self, concern: Concern, server: Server) -> Message:
        """A new message to a server."""
        self._numbers += 1
        number = f"{self._name}-{self._numbers}"
        headers = {MESSAGE: number}
        acknowledges: tuple[str, ...] = ()
        if isinstance(concern, Entry):
            acknowledges = self.acknowledgements.take()
            headers["content-type"] = "application/json"
            headers[IDEMPOTENCY_KEY] = encode_id(concern.asked.operation_id)
            headers[RETRY] = str(concern.sent)
            if acknowledges:
                headers[ACKNOWLEDGE] = encode_ids(acknowledges)
        return Message(number, server, concern, headers, acknowledges)

    def sending(self, message: Message, now: float) -> None:
        """It is put on its way."""
        message.sent_at = now
        message.server.in_flight += 1
        self.counters.messages += 1
        if isinstance(message.concern, Entry):
            self.counters.repeated += message.concern.sent > 0
            message.concern.sent += 1
            message.concern.out += 1

    def replied(self, message: Message, status: int, headers: Mapping[str, str], body: bytes, now: float) -> None:
        """An HTTP reply came.  `headers`: names in lower case."""
        if is_reply_to(message.id, headers):
            told = read_retention(headers)
            if told is not None and (self.retention is None or told < self.retention):
                self.retention = told
            self._arrived(message, message.concern.read(status, headers, body), now)
        else:
            self.counters.foreign += 1
            self._arrived(message, Lost(f"a reply ({status}) that does not name its message", sent=True), now)

    def lost(self, message: Message, why: str, *, sent: bool, now: float) -> None:
        """There will be no reply.  `sent`: something of it may have reached the server."""
        self._arrived(message, Lost(why, sent), now)

    def _arrived(self, message: Message, fate: Fate, now: float) -> None:
        assert message.fate is None
        assert message.sent_at is not None
        message.fate = fate
        message.server.in_flight -= 1
        concern = message.concern
        if isinstance(fate, Lost):
            self.acknowledgements.give_back(message.acknowledges)
            self.counters.unreachable += not fate.sent
            self.counters.broken += fate.sent
        else:
            self._measured(message, fate, now)
        if isinstance(concern, Entry):
            concern.out -= 1
            if isinstance(fate, Lost) and fate.sent:
                concern.uncertain = True
            if isinstance(fate, Told):
                concern.begun |= fate.begun
            if isinstance(fate, Answer) or (isinstance(fate, Told) and fate.again == "never"):
                self.heard = now
            if isinstance(fate, Answer):
                self._answered(concern, message, fate)
        self._wake(concern)
        if isinstance(concern, Entry):
            self._tidy(concern)

    def _measured(self, message: Message, fate: Fate, now: float) -> None:
        late = now > message.due
        self.counters.late += late
        if not isinstance(fate, Told):  # "later" says nothing about how long an operation takes
            message.server.trips(message.concern.kind).measured(now - (message.sent_at or now))
        if isinstance(message.concern, Entry):
            self._news(message.server, message.server.answered(late=late))

    def _answered(self, entry: Entry, message: Message, answer: Answer) -> None:
        if entry.answer is None:
            entry.answer = answer
            self.counters.answers += 1
        elif canonical(entry.answer) == canonical(answer):
            self.counters.doubled += 1
        else:
            self.counters.contradictions += 1
            text = f"two answers: first {canonical(entry.answer):.500}, then {canonical(answer):.500}"
            operation_id = entry.asked.operation_id
            error = InvariantViolation(f"{text} from {message.server.url}", operation_id=operation_id)
            self._notices.append(Notice("contradiction", message.server.url, text, operation_id, error))

    # --- operations -------------------------------------------------------------------------

    def leave(self, entry: Entry, *, delivered: bool) -> bool:
        """A call has ended; `delivered`: its caller has the answer, or an error that settles it.  See Table.leave."""
        settled = self.table.leave(entry, delivered=delivered)
        self._tidy(entry)
        return settled

    def hand_over(self, operation_id: str) -> bool:
        """The application has what a call found out and left on the list.  Whether that settles it: see Table.leave."""
        entry = self.table.get(operation_id)
        if entry is None or (entry.answer is None and entry.calls > 0):
            return entry is None
        entry.delivered = True
        self._tidy(entry)
        return True

    def renounce(self, operation_id: str) -> None:
        """The application will never ask for it again.  `acknowledge` follows when the servers may know it."""
        self.acknowledgements.remember(operation_id)
        self.forget(operation_id)

    def acknowledge(self, operation_id: str) -> None:
        """The application will never ask for it again, nor will the next life of this client: let servers forget it."""
        entry = self.table.get(operation_id)
        if entry is None:
            self._acknowledge(operation_id)
        else:
            entry.acknowledged = entry.delivered = True
            self.acknowledgements.remember(operation_id)
            self._tidy(entry)

    def forget(self, operation_id: str) -> None:
        """The application wants no answer any more; messages that are out are still listened to."""
        if (entry := self.table.get(operation_id)) is not None:
            entry.delivered = True
            self._tidy(entry)

    def _tidy(self, entry: Entry) -> None:
        if self.table.drop_if_done(entry) and entry.acknowledged:
            self._acknowledge(entry.asked.operation_id)

    def _acknowledge(self, operation_id: str) -> None:
        if self.table.all_replied(operation_id):
            self.acknowledgements.add(operation_id)
        else:
            self.acknowledgements.remember(operation_id)

    # --- servers ----------------------------------------------------------------------------

    def suspect(self, server: Server, why: str, operation_id: str | None) -> None:
        """A call has given it up."""
        if server.suspect():
            self.counters.suspected += 1
            self._notices.append(Notice("suspect", server.url, why, operation_id))

    def probed(self, server: Server) -> None:
        """It answered a probe."""
        self._news(server, server.probed())

    def _news(self, server: Server, state: State | None) -> None:
        if state == "slow":
            text = "it answers, after it was given up; it gets less work until it answers in time"
            self._notices.append(Notice("slow", server.url, text))
            for entry in self.table:  # a call that has no server left has one now
                self._wake(entry)
        elif state == "up":
            self.counters.recovered += 1
            self._notices.append(Notice("recovered", server.url, "it answers in time again"))

    def _wake(self, concern: Concern) -> None:
        for listener in list(concern.listeners):
            listener()
