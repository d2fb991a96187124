"""What came over the wire: counters, the last requests, and how many steps one after the other a call needs.

Must not be in here: sockets.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from casops.testing.couchbase_server.wire import DOCUMENT_OPCODES, Opcode

# Requests that are remembered one by one; older ones are in the counters only.
REMEMBERED = 10_000


def opcode_name(opcode: int) -> str:
    try:
        return Opcode(opcode).name
    except ValueError:
        return f"0x{opcode:02x}"


class Seen(NamedTuple):
    """A request that arrived."""

    node: int
    connection: int
    opcode: str
    key: str
    # Bytes on the wire.
    size: int
    # A durability level was asked for.
    durable: bool


@dataclass
class Counter:
    requests: int = 0
    replies: int = 0
    # Bytes on the wire.
    bytes_in: int = 0
    bytes_out: int = 0


class WireLog:
    """Counters by opcode, and the last requests for documents."""

    def __init__(self) -> None:
        self._counters: dict[int, Counter] = {}
        self._last: deque[Seen] = deque(maxlen=REMEMBERED)

    def arrived(self, node: int, connection: int, opcode: int, key: bytes, size: int, durable: bool) -> None:
        counter = self._counters.get(opcode)
        if counter is None:
            counter = self._counters[opcode] = Counter()
        counter.requests += 1
        counter.bytes_in += size
        if opcode in DOCUMENT_OPCODES:
            name = opcode_name(opcode)
            self._last.append(Seen(node, connection, name, key.decode(errors="replace"), size, durable))

    def replied(self, opcode: int, size: int) -> None:
        counter = self._counters[opcode]
        counter.replies += 1
        counter.bytes_out += size

    def counters(self) -> dict[str, Counter]:
        return {opcode_name(opcode): Counter(**vars(counter)) for opcode, counter in self._counters.items()}

    def last(self) -> list[Seen]:
        return list(self._last)

    def clear(self) -> None:
        self._counters.clear()
        self._last.clear()


class Steps:
    """Replies to requests for documents are held until no request has come for `quiet` seconds, then all sent.

    So whatever a client sends without waiting for a reply is in one step, and the number of steps is that of round
    trips one after the other.  `quiet` must be longer than a client's pauses between requests that belong together.
    """

    def __init__(self, quiet: float) -> None:
        self._quiet = quiet
        # What came in each step; the last may be under way.
        self.requests: list[list[Seen]] = []
        # Steps that have ended: their replies were sent.
        self.ended = 0
        self._held: list[Callable[[], None]] = []
        self._timer: asyncio.TimerHandle | None = None

    def arrived(self, seen: Seen) -> None:
        if self._timer is None:
            self.requests.append([])
        else:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(self._quiet, self.release)
        self.requests[-1].append(seen)

    def hold(self, send: Callable[[], None]) -> None:
        if self._timer is None:
            send()  # the reply to a request of an earlier step, which took longer
        else:
            self._held.append(send)

    def release(self) -> None:
        """The end of a step."""
        if self._timer is None:
            return
        self._timer.cancel()
        self._timer = None
        self.ended += 1
        held, self._held = self._held, []
        for send in held:
            send()
