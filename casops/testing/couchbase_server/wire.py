"""Frames of the Couchbase binary protocol: their numbers, a request read from bytes, a response written as bytes.

    byte   0       1       2..3         4        5         6..7            8..11  12..15  16..23
           magic   opcode  key length   extras   datatype  vbucket/status  body   opaque  CAS
    then   [framing extras] [extras] [key] [value]

With the alternative magic, byte 2 is the length of the framing extras and byte 3 that of the key.
Source: the binary protocol pages in the docs folder of couchbase/kv_engine.

Must not be in here: documents, sockets, what a request means.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final, NamedTuple

HEADER: Final = struct.Struct(">BBHBBHIIQ")
U16: Final = struct.Struct(">H")
U32: Final = struct.Struct(">I")
U64: Final = struct.Struct(">Q")

REQUEST, ALT_REQUEST, RESPONSE = 0x80, 0x08, 0x81

# The data service ends connections that announce more (its default max_packet_size).
LARGEST_BODY = 30 << 20


class Opcode(IntEnum):
    GET = 0x00
    SET = 0x01
    ADD = 0x02
    REPLACE = 0x03
    DELETE = 0x04
    INCREMENT = 0x05
    DECREMENT = 0x06
    QUIT = 0x07
    NOOP = 0x0A
    VERSION = 0x0B
    APPEND = 0x0E
    PREPEND = 0x0F
    TOUCH = 0x1C
    GET_AND_TOUCH = 0x1D
    HELO = 0x1F
    SASL_LIST_MECHANISMS = 0x20
    SASL_AUTH = 0x21
    SASL_STEP = 0x22
    GET_REPLICA = 0x83
    SELECT_BUCKET = 0x89
    OBSERVE = 0x92
    GET_AND_LOCK = 0x94
    UNLOCK = 0x95
    GET_META = 0xA0
    GET_CLUSTER_CONFIG = 0xB5
    GET_COLLECTIONS_MANIFEST = 0xBA
    GET_COLLECTION_ID = 0xBB
    SUBDOC_MULTI_LOOKUP = 0xD0
    SUBDOC_MULTI_MUTATION = 0xD1
    GET_ERROR_MAP = 0xFE


# Requests about one document; their key begins with the collection where collections were agreed on.
DOCUMENT_OPCODES: Final = frozenset(
    {
        Opcode.GET,
        Opcode.SET,
        Opcode.ADD,
        Opcode.REPLACE,
        Opcode.DELETE,
        Opcode.INCREMENT,
        Opcode.DECREMENT,
        Opcode.APPEND,
        Opcode.PREPEND,
        Opcode.TOUCH,
        Opcode.GET_AND_TOUCH,
        Opcode.GET_REPLICA,
        Opcode.OBSERVE,
        Opcode.GET_AND_LOCK,
        Opcode.UNLOCK,
        Opcode.GET_META,
        Opcode.SUBDOC_MULTI_LOOKUP,
        Opcode.SUBDOC_MULTI_MUTATION,
    }
)


class Status(IntEnum):
    OK = 0x00
    NOT_FOUND = 0x01
    EXISTS = 0x02
    TOO_BIG = 0x03
    INVALID = 0x04
    NOT_STORED = 0x05
    DELTA_BAD_VALUE = 0x06
    NOT_MY_VBUCKET = 0x07
    NO_BUCKET = 0x08
    LOCKED = 0x09
    NOT_LOCKED = 0x0E
    AUTH_ERROR = 0x20
    AUTH_CONTINUE = 0x21
    NO_ACCESS = 0x24
    UNKNOWN_COMMAND = 0x81
    TEMPORARY_FAILURE = 0x86
    UNKNOWN_COLLECTION = 0x88
    UNKNOWN_SCOPE = 0x8C
    DURABILITY_INVALID_LEVEL = 0xA0
    DURABILITY_IMPOSSIBLE = 0xA1
    SYNC_WRITE_IN_PROGRESS = 0xA2
    SYNC_WRITE_AMBIGUOUS = 0xA3
    PATH_NOT_FOUND = 0xC0
    PATH_MISMATCH = 0xC1
    PATH_INVALID = 0xC2
    PATH_TOO_BIG = 0xC3
    DOCUMENT_TOO_DEEP = 0xC4
    VALUE_CANNOT_INSERT = 0xC5
    DOCUMENT_NOT_JSON = 0xC6
    NUMBER_OUT_OF_RANGE = 0xC7
    DELTA_INVALID = 0xC8
    PATH_EXISTS = 0xC9
    VALUE_TOO_DEEP = 0xCA
    INVALID_COMBINATION = 0xCB
    MULTI_PATH_FAILURE = 0xCC
    SUCCESS_DELETED = 0xCD
    XATTR_INVALID_FLAGS = 0xCE
    XATTR_INVALID_KEYS = 0xCF
    XATTR_UNKNOWN_MACRO = 0xD0
    XATTR_UNKNOWN_VATTR = 0xD1
    XATTR_CANNOT_MODIFY_VATTR = 0xD2
    MULTI_PATH_FAILURE_DELETED = 0xD3
    INVALID_XATTR_ORDER = 0xD4
    XATTR_UNKNOWN_VATTR_MACRO = 0xD5
    CAN_ONLY_REVIVE_DELETED = 0xD6
    DELETED_CANNOT_HAVE_VALUE = 0xD7


class Feature(IntEnum):
    TCP_NODELAY = 0x03
    MUTATION_SEQNO = 0x04
    XATTR = 0x06
    XERROR = 0x07
    SELECT_BUCKET = 0x08
    JSON = 0x0B
    UNORDERED_EXECUTION = 0x0E
    ALT_REQUEST = 0x10
    SYNC_REPLICATION = 0x11
    COLLECTIONS = 0x12
    PRESERVE_TTL = 0x14
    VATTR = 0x15
    CREATE_AS_DELETED = 0x17
    DOCUMENT_MACROS = 0x18
    REPLACE_BODY_WITH_XATTR = 0x19


# Snappy is not among them, so clients send plain bodies; duplex is not, so they ask for the cluster map.
FEATURES: Final = frozenset(Feature)


class Malformed(Exception):
    """These bytes are no request: the connection cannot go on."""


class Durability(NamedTuple):
    level: int
    # Milliseconds; 0: the server's own default.
    timeout: int


class Request:
    """One request, taken apart."""

    __slots__ = ("cas", "collection", "durability", "extras", "key", "opaque", "opcode", "preserve_expiry", "size",
                 "value", "vbucket")  # fmt: skip

    opcode: int
    vbucket: int
    opaque: int
    cas: int
    extras: bytes
    key: bytes
    value: bytes
    # Id of the collection; set where the key begins with one.
    collection: int
    durability: Durability | None
    preserve_expiry: bool
    # Bytes on the wire.
    size: int


def read_request(buffer: bytes | bytearray, at: int) -> Request | None:
    """The request that begins there; None while it is not complete.  Raises Malformed."""
    available = len(buffer) - at
    if available < 1:
        return None
    if buffer[at] not in (REQUEST, ALT_REQUEST):
        raise Malformed(f"magic 0x{buffer[at]:02x}")
    if available < 24:
        return None
    magic, opcode, lengths, extras_length, _, vbucket, body, opaque, cas = HEADER.unpack_from(buffer, at)
    if body > LARGEST_BODY:
        raise Malformed(f"a body of {body} bytes; the limit is {LARGEST_BODY}")
    framing, key_length = (lengths >> 8, lengths & 0xFF) if magic == ALT_REQUEST else (0, lengths)
    if framing + extras_length + key_length > body:
        raise Malformed("parts longer than the body")
    if available < 24 + body:
        return None
    request = Request()
    request.opcode, request.vbucket, request.opaque, request.cas = opcode, vbucket, opaque, cas
    start = at + 24 + framing
    request.extras = bytes(buffer[start : start + extras_length])
    start += extras_length
    request.key = bytes(buffer[start : start + key_length])
    request.value = bytes(buffer[start + key_length : at + 24 + body])
    request.collection, request.durability, request.preserve_expiry = 0, None, False
    request.size = 24 + body
    if framing:
        _read_framing(request, bytes(buffer[at + 24 : at + 24 + framing]))
    return request


def _read_framing(request: Request, framing: bytes) -> None:
    """Frames are (id, length) in four bits each, then that many bytes; 15 continues in the next byte."""
    at = 0
    while at < len(framing):
        kind, length = framing[at] >> 4, framing[at] & 0x0F
        at += 1
        if length == 15 and at < len(framing):
            length += framing[at]
            at += 1
        content = framing[at : at + length]
        if len(content) < length:
            raise Malformed("a frame longer than the framing extras")
        at += length
        if kind == 1 and length in (1, 3):
            request.durability = Durability(content[0], U16.unpack_from(content, 1)[0] if length == 3 else 0)
        elif kind == 5:
            request.preserve_expiry = True
        # Others (barrier, tracing, impersonation, streams) change nothing here.


def split_collection(key: bytes) -> tuple[int, bytes]:
    """The collection id (unsigned LEB128, 32 bits) a key begins with, and the rest.  Raises Malformed."""
    number = 0
    for index, byte in enumerate(key[:5]):
        number |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return number, key[index + 1 :]
    raise Malformed("a key without a collection")


def response(
    opcode: int,
    opaque: int,
    status: int = Status.OK,
    *,
    cas: int = 0,
    extras: bytes = b"",
    key: bytes = b"",
    value: bytes = b"",
    datatype: int = 0,
) -> bytes:
    body = len(extras) + len(key) + len(value)
    header = HEADER.pack(RESPONSE, opcode, len(key), len(extras), datatype, status, body, opaque, cas)
    return b"".join((header, extras, key, value))
