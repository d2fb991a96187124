"""One connection to one node: frames in, frames out, in the order the client agreed to; faults.

Requests are answered at once, one after the other.  Those that take longer (a durable write without its replicas, a
fault that delays) hold up the rest of their connection, unless the client agreed to unordered execution.

Must not be in here: what happens to documents, logging in.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import struct
from collections.abc import Callable
from functools import partial
from typing import Final, cast

from casops.testing.couchbase_server.answers import Answer
from casops.testing.couchbase_server.documents import Key
from casops.testing.couchbase_server.faults import Does, Fault
from casops.testing.couchbase_server.service import Service
from casops.testing.couchbase_server.session import Session
from casops.testing.couchbase_server.whole import observed_key
from casops.testing.couchbase_server.wire import (
    DOCUMENT_OPCODES,
    Feature,
    Malformed,
    Opcode,
    Request,
    Status,
    read_request,
    response,
    split_collection,
)
from casops.testing.couchbase_server.wirelog import Seen, opcode_name

_numbers: Final = itertools.count(1)

# Bytes of answers that are sent together.  Once so many wait in the socket, too, nothing more is done for a client.
FLUSH_AT = 64 << 10

# For a socket: on, zero seconds; it is closed by a reset, and what it still holds is thrown away.
NO_LINGER: Final = struct.pack("ii", 1, 0)

# What clients call exists.
BARRIERS: Final = frozenset({Opcode.OBSERVE, Opcode.GET_META})

# Faults that answer without applying, and with what.
ANSWERS: Final = {
    Does.TEMPORARY_FAILURE: Answer(Status.TEMPORARY_FAILURE),
    Does.LOCKED: Answer(Status.LOCKED),
    Does.SYNC_WRITE_IN_PROGRESS: Answer(Status.SYNC_WRITE_IN_PROGRESS),
    Does.AMBIGUOUS_LOST: Answer(Status.SYNC_WRITE_AMBIGUOUS),
}


class Connection(asyncio.Protocol):
    def __init__(self, service: Service, node: int, open_connections: set[Connection]) -> None:
        self._service, self._node, self._open = service, node, open_connections
        self._number = next(_numbers)
        self._buffer = bytearray()
        self._out: list[bytes] = []
        self._out_size = 0
        self._working = False
        # Requests under way that others may have to wait for.
        self._pending = 0
        # The client does not read its answers; nothing is done for it before it does.
        self._congested = False
        self._waiting: Request | None = None
        self._session = Session(service, node)

    # ---- the socket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._open.add(self)
        if not self._service.running:
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._open.discard(self)

    def pause_writing(self) -> None:
        self._congested = True

    def resume_writing(self) -> None:
        self._congested = False
        self._go_on_soon()

    def abort(self) -> None:
        """Reset it: what was not sent is not sent."""
        self._out.clear()
        self._buffer.clear()
        with contextlib.suppress(OSError):  # it may be gone already
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._work()

    def _work(self) -> None:
        """Serve whatever is complete, until something has to be waited for."""
        self._working = True
        at = 0
        try:
            while not self._transport.is_closing():
                request = self._waiting
                self._waiting = None
                if request is None:
                    request = read_request(self._buffer, at)
                    if request is None:
                        break
                    at += request.size
                if self._must_wait(request):
                    self._waiting = request
                    break
                self._serve(request)
        except Malformed:
            self._transport.close()
        finally:
            self._working = False
            del self._buffer[:at]
            self._flush()
        if self._waiting is None:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def _must_wait(self, request: Request) -> bool:
        """Some wait for everything before them even in unordered execution, as in the real service."""
        ordered = Feature.UNORDERED_EXECUTION not in self._session.features or request.opcode in BARRIERS
        return (self._pending > 0 and ordered) or self._congested

    def _flush(self) -> None:
        if self._out and not self._transport.is_closing():
            self._transport.write(b"".join(self._out))
        self._out.clear()
        self._out_size = 0

    def _send(self, frame: bytes) -> None:
        self._out.append(frame)
        self._out_size += len(frame)
        if not self._working or self._out_size >= FLUSH_AT:
            self._flush()

    # ---- a request

    def _serve(self, request: Request) -> None:
        service, opcode = self._service, request.opcode
        name = request.key
        if opcode in DOCUMENT_OPCODES:
            observed = observed_key(request) if opcode == Opcode.OBSERVE else name
            if Feature.COLLECTIONS in self._session.features and observed:
                request.collection, name = split_collection(observed)
            else:
                name = observed or b""
        durable = request.durability is not None
        service.log.arrived(self._node, self._number, opcode, name, request.size, durable)
        if service.steps is not None and opcode in DOCUMENT_OPCODES:
            text = name.decode(errors="replace")
            service.steps.arrived(Seen(self._node, self._number, opcode_name(opcode), text, request.size, durable))
        fault = service.rules.meet(opcode, name) if service.rules else None
        if fault is not None:
            self._suffer(fault, request, (request.collection, name))
        else:
            self._perform(request, (request.collection, name), partial(self._respond, request))

    def _perform(self, request: Request, key: Key, respond: Callable[[Answer], None]) -> None:
        if request.opcode not in DOCUMENT_OPCODES:
            respond(self._session.talk(request))
            return
        refusal = self._session.refusal(request, key)
        if refusal is not None:
            respond(refusal)
            return
        later = False

        def respond_later(answer: Answer) -> None:
            if later:
                self._done()
            respond(answer)

        answer = self._service.perform(key, request, respond_later)
        if answer is not None:
            respond(answer)
        else:
            later = True
            self._pending += 1

    def _done(self) -> None:
        """Something that others may have waited for has ended."""
        self._pending -= 1
        self._go_on_soon()

    def _go_on_soon(self) -> None:
        if self._waiting is not None:
            asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        if not self._transport.is_closing() and not self._working:
            self._work()

    def _respond(self, request: Request, answer: Answer) -> None:
        status, cas, extras, value = answer
        if (
            len(extras) == 16
            and request.opcode in DOCUMENT_OPCODES
            and Feature.MUTATION_SEQNO not in self._session.features
        ):
            extras = b""  # a mutation token nobody asked for
        frame = response(request.opcode, request.opaque, status, cas=cas, extras=extras, value=value)
        service = self._service
        service.log.replied(request.opcode, len(frame))
        if service.steps is not None and request.opcode in DOCUMENT_OPCODES:
            service.steps.hold(partial(self._send, frame))
        else:
            self._send(frame)

    def _suffer(self, fault: Fault, request: Request, key: Key) -> None:
        respond = partial(self._respond, request)
        does = fault.does
        if does in ANSWERS:
            respond(ANSWERS[does])
        elif does is Does.RESET_BEFORE:
            self.abort()
        elif does is Does.RESET_AFTER:
            self._perform(request, key, _nothing)
            self.abort()
        elif does is Does.DROP_REPLY:
            self._perform(request, key, _nothing)
        elif does is Does.AMBIGUOUS:
            self._perform(request, key, lambda _: respond(Answer(Status.SYNC_WRITE_AMBIGUOUS)))
        elif does is Does.DELAY_REQUEST:
            self._later(fault.delay, lambda: self._perform(request, key, respond))
        elif does is Does.DELAY_REPLY:
            self._perform(request, key, lambda answer: self._later(fault.delay, lambda: respond(answer)))

    def _later(self, delay: float, call: Callable[[], None]) -> None:
        def now() -> None:
            self._done()
            call()

        self._pending += 1
        asyncio.get_running_loop().call_later(delay, now)


def _nothing(_: Answer) -> None:
    pass
