"""A world without I/O for the client's generators: a clock that jumps, servers that are functions.

    world = World(["a", "b"])
    world.servers["a"] = lambda message, now: [(0.1, applied())]     replies and when they come; [] is silence
    result = world.call("i1")                                       runs until the call has ended

A server gives a list of (seconds until it arrives, what arrives): a `Reply`, or a `NoReply`. Only the first arrives as
a reply to this message, as over HTTP.

Must not be in here: tests.
"""

from __future__ import annotations

import heapq
import json
import random
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from casops.client.asking import Asking
from casops.client.desk import Desk
from casops.client.messages import Answer, Concern, Message, Send, Wait
from casops.client.options import ClientOptions
from casops.client.pending import Asked, Entry
from casops.client.probing import Health, probing
from casops.client.servers import Server
from casops.errors import CasOpsError
from casops.wire import MESSAGE, PROBLEM_URN

# Events of one world; a call of a few servers needs some dozens.
MOST_EVENTS = 100_000


@dataclass(frozen=True)
class Reply:
    status: int = 200
    body: bytes = b"null"
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    echo: bool = True


@dataclass(frozen=True)
class NoReply:
    sent: bool
    why: str = "the connection broke"


Arrival: TypeAlias = tuple[float, Reply | NoReply]
Behaviour: TypeAlias = Callable[[Message, float], list[Arrival]]


def applied(result: Any = None, **headers: str) -> Reply:
    return Reply(200, json.dumps(result).encode(), {name.replace("_", "-"): text for name, text in headers.items()})


def problem(status: int, kind: str, *, retry_after: int | None = None, **members: Any) -> Reply:
    body = {"type": PROBLEM_URN + kind, "status": status, "detail": f"told {kind}", "happened": "no", **members}
    return Reply(status, json.dumps(body).encode(), {} if retry_after is None else {"retry-after": str(retry_after)})


def silent(message: Message, now: float) -> list[Arrival]:
    return []


def away(message: Message, now: float) -> list[Arrival]:
    return [(0.001, NoReply(sent=False, why="connection refused"))]


class Call:
    """A generator that is being run, and how it ended."""

    def __init__(self, concern: Concern, steps: Generator[Send | Wait, float, Any]) -> None:
        self.concern = concern
        self.steps = steps
        self.turn = 0  # a wait that was cut short must not be woken by its own end
        self.ended = False
        self.error: CasOpsError | None = None
        self.result: Any = None
        self.ended_at = 0.0
        self.entry: Entry | None = None

    @property
    def answer(self) -> Answer | None:
        return self.entry.answer if self.entry is not None and self.error is None and self.ended else None


class World:
    """`sent` has every message with the time it left."""

    def __init__(self, names: list[str], options: ClientOptions | None = None, seed: int = 0) -> None:
        self.now = 1000.0
        self.desk = Desk([f"http://{name}" for name in names], options or ClientOptions(), "world")
        self.servers: dict[str, Behaviour] = dict.fromkeys(names, silent)
        self.sent: list[tuple[float, Message]] = []
        self.notices: list[Any] = []
        self._chance = random.Random(seed)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._probed: set[Server] = set()

    def server(self, name: str) -> Server:
        return next(each for each in self.desk.servers.all if each.url == f"http://{name}")

    def asked(self, name: str) -> list[Message]:
        """The messages about operations that a server got."""
        return [each for _, each in self.sent if each.server is self.server(name) and isinstance(each.concern, Entry)]

    def begin(self, operation_id: str = "i", fingerprint: str = "f") -> Call:
        entry = self.desk.table.enter(Asked(operation_id, "Act", fingerprint, "{}", 0.0), "/operations/act")
        call = Call(entry, Asking(self.desk, entry, self.now).run())
        call.entry = entry
        self.step(call, None)
        return call

    def call(self, operation_id: str = "i") -> Call:
        """Begin a call and run the world until it has ended."""
        call = self.begin(operation_id)
        self.run_until(lambda: call.ended)
        return call

    def at(self, seconds: float, what: Callable[[], None]) -> None:
        """Let something happen so many seconds from now."""
        self._count += 1
        heapq.heappush(self._events, (self.now + seconds, self._count, what))

    def run_until(self, done: Callable[[], bool]) -> None:
        while not done():
            assert self._events, "nothing will happen any more"
            assert self._count < MOST_EVENTS, "it does not come to an end"
            self._next()

    def run_for(self, seconds: float) -> None:
        end = self.now + seconds
        while self._events and self._events[0][0] <= end:
            assert self._count < MOST_EVENTS, "it does not come to an end"
            self._next()
        self.now = end

    def _next(self) -> None:
        self.now, _, what = heapq.heappop(self._events)
        what()
        self._tell()

    def step(self, call: Call, now: float | None) -> None:
        try:
            request = call.steps.send(now)  # type: ignore[arg-type]  # None begins it
            while isinstance(request, Send):
                self._post(request.message)
                request = call.steps.send(self.now)
        except (StopIteration, CasOpsError) as end:
            call.result = end.value if isinstance(end, StopIteration) else None
            self._end(call, end if isinstance(end, CasOpsError) else None)
            return
        call.turn += 1
        turn = call.turn

        def go_on() -> None:
            if call.turn == turn and not call.ended:
                call.turn += 1
                call.concern.listeners[:] = [each for each in call.concern.listeners if each is not wake]
                self.step(call, self.now)

        def wake() -> None:
            self.at(0.0, go_on)

        call.concern.listeners.append(wake)
        self.at(max(0.0, request.until + self._chance.random() * request.spread - self.now), go_on)

    def _end(self, call: Call, error: CasOpsError | None) -> None:
        call.ended, call.error, call.ended_at = True, error, self.now
        if call.entry is not None:
            self.desk.leave(call.entry, delivered=error is None or not error.retry)
        self._tell()

    def _post(self, message: Message) -> None:
        self.desk.sending(message, self.now)
        self.sent.append((self.now, message))
        arrivals = self.servers[message.server.url.removeprefix("http://")](message, self.now)
        # A message that nobody answers is given up by its carrier in the end.
        delay, what = min(arrivals, key=lambda each: each[0], default=(self.desk.options.life, NoReply(sent=True)))

        def arrive() -> None:
            if isinstance(what, NoReply):
                self.desk.lost(message, what.why, sent=what.sent, now=self.now)
            else:
                headers = {MESSAGE.lower(): message.id} if what.echo else {}
                self.desk.replied(message, what.status, {**headers, **what.headers}, what.body, self.now)

        self.at(delay, arrive)

    def _tell(self) -> None:
        self.notices += self.desk.take_notices()
        for server in self.desk.servers.all:
            if server.state == "suspect" and server not in self._probed:
                self._probed.add(server)
                health = Health()
                call = Call(health, self._probe(server, health))
                self.step(call, None)

    def _probe(self, server: Server, health: Health) -> Generator[Send | Wait, float, None]:
        try:
            yield from probing(self.desk, server, health, self.now)
        finally:
            self._probed.discard(server)
