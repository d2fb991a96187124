"""The wire without an SDK: order of answers, what an unknown client gets, and bytes that are no requests."""

from __future__ import annotations

import random
import socket
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest

from casops.testing import CouchbaseServer
from casops.testing.couchbase_server import sasl
from casops.testing.couchbase_server.wire import HEADER, LARGEST_BODY, Feature, Opcode, Status

# Seconds: whoever waits longer hangs.
PATIENCE = 10.0


class Reply(NamedTuple):
    opcode: int
    status: int
    opaque: int
    cas: int
    value: bytes


def frame(
    opcode: int, key: bytes = b"", value: bytes = b"", extras: bytes = b"", vbucket: int = 0, opaque: int = 0
) -> bytes:
    length = len(extras) + len(key) + len(value)
    return HEADER.pack(0x80, opcode, len(key), len(extras), 0, vbucket, length, opaque, 0) + extras + key + value


class Client:
    """A socket that sends frames and reads replies."""

    def __init__(self, server: CouchbaseServer, node: int = 0) -> None:
        self.socket = socket.create_connection(("127.0.0.1", server.ports[node]), PATIENCE)

    def send(self, *frames: bytes) -> None:
        self.socket.sendall(b"".join(frames))

    def read(self) -> Reply:
        header = self._exactly(24)
        _, opcode, key_length, extras_length, _, status, length, opaque, cas = HEADER.unpack(header)
        return Reply(opcode, status, opaque, cas, self._exactly(length)[extras_length + key_length :])

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self.socket.recv(count - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def ask(self, sent: bytes) -> Reply:
        self.send(sent)
        return self.read()

    def ended(self) -> bool:
        """The server has closed the connection, without another byte."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def log_in(self, *features: int) -> None:
        asked = b"".join(struct.pack(">H", feature) for feature in features)
        assert self.ask(frame(Opcode.HELO, b"{}", asked)).value == asked
        assert self.ask(frame(Opcode.SASL_AUTH, b"PLAIN", b"\0casops\0password")).status == Status.OK
        assert self.ask(frame(Opcode.SELECT_BUCKET, b"default")).status == Status.OK


@pytest.fixture
def server() -> Iterator[CouchbaseServer]:
    with CouchbaseServer() as server:
        yield server


@contextmanager
def client(server: CouchbaseServer, *features: int, logged_in: bool = True, node: int = 0) -> Iterator[Client]:
    it = Client(server, node)
    try:
        if logged_in:
            it.log_in(*features)
        yield it
    finally:
        it.socket.close()


def vbucket(key: bytes) -> int:
    """As every client computes it."""
    return (zlib.crc32(key) >> 16 & 0x7FFF) % 1024


def put(key: bytes, value: bytes, opaque: int = 0) -> bytes:
    return frame(Opcode.SET, key, value, bytes(8), vbucket(key), opaque)


def get(key: bytes, opaque: int = 0) -> bytes:
    return frame(Opcode.GET, key, vbucket=vbucket(key), opaque=opaque)


def test_pipelined_requests_are_answered_in_order(server: CouchbaseServer) -> None:
    with client(server) as it:
        count = 500
        it.send(*(put(b"k%d" % n, b"%d" % n, 2 * n) + get(b"k%d" % n, 2 * n + 1) for n in range(count)))
        replies = [it.read() for _ in range(2 * count)]
    assert [reply.opaque for reply in replies] == list(range(2 * count))
    assert [reply.value for reply in replies[1::2]] == [b"%d" % n for n in range(count)]


@pytest.mark.parametrize(("features", "order"), [((), [1, 2, 3]), ((Feature.UNORDERED_EXECUTION,), [2, 3, 1])])
def test_a_slow_answer_holds_up_others_only_where_order_was_agreed_on(
    server: CouchbaseServer, features: tuple[int, ...], order: list[int]
) -> None:
    server.faults.add("delay_reply", opcode="SET", delay=0.1)
    with client(server, *features) as it:
        it.send(put(b"k", b"1", 1), get(b"k", 2), get(b"k", 3))
        replies = [it.read() for _ in range(3)]
    assert [reply.opaque for reply in replies] == order
    assert all(reply.value == b"1" for reply in replies if reply.opcode == Opcode.GET)


def test_observing_waits_even_in_unordered_execution(server: CouchbaseServer) -> None:
    server.faults.add("delay_reply", opcode="SET", delay=0.1)
    observed = frame(Opcode.OBSERVE, value=struct.pack(">HH", vbucket(b"k"), 1) + b"k", opaque=2)
    with client(server, Feature.UNORDERED_EXECUTION) as it:
        it.send(put(b"k", b"1", 1), observed, get(b"k", 3))
        replies = [it.read() for _ in range(3)]
    assert [reply.opaque for reply in replies] == [1, 2, 3]
    assert replies[1].value[-9] == 1


def test_frames_in_pieces(server: CouchbaseServer) -> None:
    with client(server) as it:
        for byte in put(b"k", b"value") + get(b"k"):
            it.send(bytes([byte]))
        assert [it.read().status, it.read().value] == [Status.OK, b"value"]


def test_half_a_frame_and_then_nothing(server: CouchbaseServer) -> None:
    with client(server) as it:
        it.send(put(b"k", b"value")[:-1])
    with client(server) as it:
        assert it.ask(get(b"k")).status == Status.NOT_FOUND


def test_who_has_not_logged_in_gets_nothing(server: CouchbaseServer) -> None:
    with client(server, logged_in=False) as it:
        for sent in (
            put(b"k", b"1"),
            get(b"k"),
            frame(Opcode.SELECT_BUCKET, b"default"),
            frame(Opcode.GET_CLUSTER_CONFIG),
        ):
            assert it.ask(sent).status == Status.NO_ACCESS
        assert it.ask(frame(Opcode.NOOP)).status == Status.OK
        assert it.ask(frame(Opcode.SASL_AUTH, b"PLAIN", b"\0casops\0password")).status == Status.OK
        assert it.ask(get(b"k")).status == Status.NO_BUCKET
        assert it.ask(frame(Opcode.SELECT_BUCKET, b"other")).status == Status.NO_ACCESS
        assert it.ask(frame(Opcode.SELECT_BUCKET, b"default")).status == Status.OK
        assert it.ask(get(b"k")).status == Status.NOT_FOUND


LOGINS = [b"", b"\0", b"\0casops\0wrong", b"casops\0password", b"\0casops\0password\0", b"\xff\xfe", b"n,,n=casops",
          b"n,,n=casops,r=", b"r=x", b"c=biws,r=x,p=AAAA", b"c=biws,r=x,p=!!"]  # fmt: skip


@pytest.mark.parametrize("mechanism", [*sasl.NAMES, "SCRAM-SHA3", "", "\xff"])
def test_logins_that_make_no_sense(server: CouchbaseServer, mechanism: str) -> None:
    with client(server, logged_in=False) as it:
        for first in LOGINS:
            for opcode in (Opcode.SASL_AUTH, Opcode.SASL_STEP):
                status = it.ask(frame(opcode, mechanism.encode(), first)).status
                assert status in (Status.AUTH_ERROR, Status.AUTH_CONTINUE)
        assert it.ask(get(b"k")).status == Status.NO_ACCESS


def test_a_scram_proof_is_good_once(server: CouchbaseServer) -> None:
    """Also: a proof without an exchange, and one for another nonce."""
    step = frame(Opcode.SASL_STEP, b"SCRAM-SHA256", b"c=biws,r=abc,p=AAAA")
    with client(server, logged_in=False) as it:
        assert it.ask(step).status == Status.AUTH_ERROR
        reply = it.ask(frame(Opcode.SASL_AUTH, b"SCRAM-SHA256", b"n,,n=casops,r=abc"))
        assert reply.status == Status.AUTH_CONTINUE
        assert reply.value.startswith(b"r=abc")
        assert len(reply.value.split(b",")[0]) > len(b"r=abc") + 16
        assert it.ask(step).status == Status.AUTH_ERROR
        assert it.ask(step).status == Status.AUTH_ERROR


def test_the_wrong_node_says_who_is_responsible() -> None:
    with CouchbaseServer(nodes=2) as server, client(server, node=0) as zero, client(server, node=1) as one:
        keys = [b"k%d" % n for n in range(20)]
        for key in keys:
            right, wrong = (zero, one) if vbucket(key) % 2 == 0 else (one, zero)
            reply = wrong.ask(put(key, b"1"))
            assert reply.status == Status.NOT_MY_VBUCKET
            assert b"vBucketMap" in reply.value
            assert right.ask(put(key, b"1")).status == Status.OK
            forged = frame(Opcode.GET, key, vbucket=vbucket(key) ^ 1)
            assert wrong.ask(forged).status == Status.NOT_MY_VBUCKET


def test_opcodes_nobody_knows(server: CouchbaseServer) -> None:
    with client(server) as it:
        for opcode in range(256):
            if opcode not in [*Opcode]:
                assert it.ask(frame(opcode, b"k", b"v", b"extr")).status == Status.UNKNOWN_COMMAND


def test_every_opcode_with_nothing_in_it(server: CouchbaseServer) -> None:
    for features in ((), (Feature.COLLECTIONS, Feature.UNORDERED_EXECUTION)):
        for opcode in Opcode:
            with client(server, *features) as it:
                it.send(frame(opcode))
                it.socket.shutdown(socket.SHUT_WR)
                try:
                    it.read()
                except (EOFError, ConnectionResetError):
                    assert opcode == Opcode.QUIT or features


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\0" * 24,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        HEADER.pack(0x80, Opcode.GET, 65535, 255, 0, 0, 10, 0, 0),  # parts longer than the body
        HEADER.pack(0x08, Opcode.GET, 0xFFFF, 255, 0, 0, 10, 0, 0),
        HEADER.pack(0x80, Opcode.SET, 1, 8, 0, 0, LARGEST_BODY + 1, 0, 0),
        HEADER.pack(0x80, Opcode.SET, 1, 8, 0, 0, 0xFFFFFFFF, 0, 0),
        HEADER.pack(0x81, Opcode.GET, 1, 0, 0, 0, 1, 0, 0) + b"k",  # a response
        HEADER.pack(0x08, Opcode.GET, 0x0101, 0, 0, 0, 2, 0, 0) + b"\x1fk",  # a frame longer than its room
    ],
)
def test_bytes_that_are_no_request_end_the_connection(server: CouchbaseServer, garbage: bytes) -> None:
    with client(server) as it, client(server) as other:
        it.send(garbage)
        assert it.ended()
        assert other.ask(frame(Opcode.NOOP)).status == Status.OK


def test_random_bytes_and_random_frames(server: CouchbaseServer) -> None:
    """Whatever comes, the server answers others, and has not failed itself (its end would tell)."""
    chance = random.Random(7)
    for _ in range(150):
        with client(server, *chance.sample([*Feature], 5)) as it:
            it.socket.settimeout(PATIENCE)
            sent = [frame(chance.choice([*Opcode, chance.randrange(256)]), chance.randbytes(chance.randrange(5)),
                          chance.randbytes(chance.randrange(60)), chance.randbytes(chance.choice([0, 1, 4, 5, 8, 20])),
                          chance.randrange(1024)) for _ in range(20)]  # fmt: skip
            noise = bytearray(b"".join(sent))
            for _ in range(chance.choice([0, 0, 1, 5])):
                noise[chance.randrange(len(noise))] = chance.randrange(256)
            try:
                it.send(bytes(noise))
            except ConnectionError:
                continue
    with client(server) as it:
        assert it.ask(put(b"k", b"1")).status == Status.OK


def test_random_subdocument_requests(server: CouchbaseServer) -> None:
    """Requests that are almost right get an answer, each of them."""
    chance = random.Random(11)
    opcodes = [0, 1, 4, *range(0xC5, 0xD4)]
    paths = [b"a", b"a.b", b"a[0]", b"a[-1]", b"`x.y`", b"_s", b"$document", b"$document.CAS", b"$no", b"", b"[", b"a.",
             b"\xff", b"casops.b.c", b"a" * 1025, b".".join([b"a"] * 40)]  # fmt: skip
    values = [b"", b"1", b"null", b"{", b'{"b":[1,2]}', b"[" * 40, b'"${Mutation.CAS}"', b'"${$document}"',
              b'"${$document.no}"', b'"${no}"', b"\xff", b"1,2", b"-9223372036854775808", b"1e400", b"NaN"]  # fmt: skip

    def specs(lookup: bool) -> bytes:
        made = b""
        for _ in range(chance.randrange(1, 5)):
            path, value = chance.choice(paths), chance.choice(values)
            made += struct.pack(">BBH", chance.choice(opcodes), chance.choice([0, 1, 4, 5, 0x14, 0x10]), len(path))
            made += path if lookup else struct.pack(">I", len(value)) + path + value
        return made[: chance.choice([None, None, None, -1])]

    with client(server, Feature.MUTATION_SEQNO) as it:
        statuses: set[int] = set()
        for number in range(6_000):
            lookup = number % 4 == 0
            opcode = Opcode.SUBDOC_MULTI_LOOKUP if lookup else Opcode.SUBDOC_MULTI_MUTATION
            extras = bytes([chance.choice([0, 1, 2, 4, 5, 0x0A, 0x0C, 0x14, chance.randrange(64)])])
            key = b"k%d" % (number % 5)
            reply = it.ask(frame(opcode, key, specs(lookup), extras, vbucket(key), number))
            assert reply.opaque == number
            statuses.add(reply.status)
            if number % 50 == 0:
                it.ask(put(key, b'{"a":{"b":[1,2]}}'))
            elif number % 50 == 25:
                it.ask(frame(Opcode.DELETE, key, vbucket=vbucket(key)))
    assert {Status.OK, Status.MULTI_PATH_FAILURE, Status.SUCCESS_DELETED} <= statuses


def test_a_client_that_does_not_read_is_not_served_for_ever(server: CouchbaseServer) -> None:
    """Its requests wait in its own socket, not in the server's memory."""
    count = 300
    with client(server) as it, client(server) as other:
        assert it.ask(put(b"k", b"x" * 1_000_000)).status == Status.OK
        it.send(*[get(b"k")] * count)
        while "GET" not in server.counters:
            other.ask(frame(Opcode.NOOP))
        assert other.ask(get(b"none")).status == Status.NOT_FOUND
        assert server.counters["GET"].requests < count // 2
        assert {len(it.read().value) for _ in range(count)} == {1_000_000}
