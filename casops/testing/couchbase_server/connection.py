"""One connection to one node: frames in, frames out, in the order the client agreed to; logging in; faults.

Requests are answered at once, one after the other.  Those that take longer (a durable write without its replicas, a
fault that delays) hold up the rest of their connection, unless the client agreed to unordered execution.

Must not be in here: what happens to documents.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable
from functools import partial
from typing import Final, cast

from casops.testing.couchbase_server import sasl
from casops.testing.couchbase_server.answers import Answer
from casops.testing.couchbase_server.documents import Key, vbucket_of
from casops.testing.couchbase_server.faults import Does, Fault
from casops.testing.couchbase_server.service import Service
from casops.testing.couchbase_server.topology import VBUCKETS
from casops.testing.couchbase_server.whole import observed_key
from casops.testing.couchbase_server.wire import (
    DOCUMENT_OPCODES,
    FEATURES,
    U16,
    U32,
    U64,
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

OK: Final = Answer(Status.OK)

# Bytes of answers that are sent together.  Once so many wait in the socket, too, nothing more is done for a client.
FLUSH_AT = 64 << 10

# What clients call exists.
BARRIERS: Final = frozenset({Opcode.OBSERVE, Opcode.GET_META})

# Faults that answer without applying, and with what.
ANSWERS: Final = {
    Does.TEMPORARY_FAILURE: Answer(Status.TEMPORARY_FAILURE),
    Does.LOCKED: Answer(Status.LOCKED),
    Does.SYNC_WRITE_IN_PROGRESS: Answer(Status.SYNC_WRITE_IN_PROGRESS),
    Does.AMBIGUOUS_LOST: Answer(Status.SYNC_WRITE_AMBIGUOUS),
}

ERROR_MAP: Final = json.dumps(
    {
        "version": 2,
        "revision": 1,
        "errors": {
            f"{status:x}": {
                "name": status.name,
                "desc": status.name.replace("_", " ").lower(),
                "attrs": ["item-only"] if status >= Status.PATH_NOT_FOUND else [],
            }
            for status in Status
        },
    }
).encode()


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
        self._features: frozenset[int] = frozenset()
        self._scram: sasl.Scram | None = None
        self._authenticated = False
        self._bucket = False

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
        ordered = Feature.UNORDERED_EXECUTION not in self._features or request.opcode in BARRIERS
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
            if Feature.COLLECTIONS in self._features and observed:
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
            respond(self._talk(request))
            return
        refusal = self._refusal(request, key)
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

    def _refusal(self, request: Request, key: Key) -> Answer | None:
        if not self._authenticated:
            return Answer(Status.NO_ACCESS)
        if not self._bucket:
            return Answer(Status.NO_BUCKET)
        topology = self._service.topology
        if refusal := self._service.refusal(key):
            return refusal
        responsible = request.opcode in (Opcode.GET_REPLICA, Opcode.OBSERVE) or (
            request.vbucket == vbucket_of(key[1], VBUCKETS) and topology.node_of(request.vbucket) == self._node
        )
        return None if responsible else Answer(Status.NOT_MY_VBUCKET, value=topology.text(self._node, True))

    def _respond(self, request: Request, answer: Answer) -> None:
        status, cas, extras, value = answer
        if len(extras) == 16 and request.opcode in DOCUMENT_OPCODES and Feature.MUTATION_SEQNO not in self._features:
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

    # ---- everything but documents

    def _talk(self, request: Request) -> Answer:
        opcode = request.opcode
        if opcode == Opcode.HELO:
            return self._hello(request)
        if opcode == Opcode.SASL_LIST_MECHANISMS:
            return Answer(Status.OK, value=" ".join(sasl.NAMES).encode())
        if opcode in (Opcode.SASL_AUTH, Opcode.SASL_STEP):
            return self._log_in(request)
        if opcode == Opcode.NOOP:
            return OK
        if opcode == Opcode.VERSION:
            return Answer(Status.OK, value=b"7.6.6-casops-test-double")
        if opcode == Opcode.GET_ERROR_MAP:
            return Answer(Status.OK, value=ERROR_MAP)
        if not self._authenticated:
            return Answer(Status.NO_ACCESS)
        if opcode == Opcode.SELECT_BUCKET:
            self._bucket = request.key == self._service.topology.bucket.encode()
            return OK if self._bucket else Answer(Status.NO_ACCESS)
        if opcode == Opcode.GET_CLUSTER_CONFIG:
            return Answer(Status.OK, value=self._service.topology.text(self._node, self._bucket))
        if opcode == Opcode.GET_COLLECTION_ID:
            return self._collection_id(request)
        if opcode == Opcode.GET_COLLECTIONS_MANIFEST:
            return Answer(Status.OK, value=json.dumps(self._service.collections.manifest()).encode())
        return Answer(Status.UNKNOWN_COMMAND)

    def _hello(self, request: Request) -> Answer:
        if len(request.value) % 2:
            return Answer(Status.INVALID)
        asked = [U16.unpack_from(request.value, at)[0] for at in range(0, len(request.value), 2)]
        agreed = [feature for feature in dict.fromkeys(asked) if feature in FEATURES]
        self._features = frozenset(agreed)
        return Answer(Status.OK, value=b"".join(map(U16.pack, agreed)))

    def _log_in(self, request: Request) -> Answer:
        service = self._service
        mechanism = request.key.decode(errors="replace")
        try:
            if request.opcode == Opcode.SASL_STEP:
                if self._scram is None:
                    raise sasl.LoginFailed
                scram, self._scram = self._scram, None
                verdict = scram.verdict(request.value)
            elif mechanism in sasl.MECHANISMS:
                self._scram = sasl.Scram(mechanism, service.user, service.password)
                return Answer(Status.AUTH_CONTINUE, value=self._scram.challenge(request.value))
            elif mechanism == "PLAIN":
                sasl.check_plain(request.value, service.user, service.password)
                verdict = b""
            else:
                raise sasl.LoginFailed
        except sasl.LoginFailed:
            return Answer(Status.AUTH_ERROR)
        self._authenticated = True
        return Answer(Status.OK, value=verdict)

    def _collection_id(self, request: Request) -> Answer:
        collections = self._service.collections
        path = (request.value or request.key).decode(errors="replace")
        try:
            number = collections.find(path)
        except ValueError:
            return Answer(Status.INVALID)
        except KeyError:
            return Answer(Status.UNKNOWN_SCOPE, value=b'{"manifest_uid":"%x"}' % collections.uid)
        if number is None:
            return Answer(Status.UNKNOWN_COLLECTION, value=b'{"manifest_uid":"%x"}' % collections.uid)
        return Answer(Status.OK, extras=U64.pack(collections.uid) + U32.pack(number))


def _nothing(_: Answer) -> None:
    pass
