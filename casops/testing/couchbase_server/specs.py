"""The specs of a sub-document request, read and checked: what to do at which path, with which flags.

Must not be in here: documents, what the specs do.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final, NamedTuple

from casops.testing.couchbase_server import changes
from casops.testing.couchbase_server.answers import Answer
from casops.testing.couchbase_server.paths import LONGEST_PATH, Name, PathFailure, Step, parse_path
from casops.testing.couchbase_server.wire import Request, Status

# Whole bodies, beside the paths.
GET_DOC, SET_DOC, REMOVE_DOC = 0x00, 0x01, 0x04
GET, EXISTS, COUNT, BODY_FROM = 0xC5, 0xC6, 0xD2, 0xD3
LOOKUPS: Final = frozenset({GET_DOC, GET, EXISTS, COUNT})
MUTATIONS: Final = frozenset({SET_DOC, REMOVE_DOC, BODY_FROM, *range(0xC7, 0xD0)})

# Flags of a path.
CREATE_PARENTS, XATTR, EXPAND_MACROS = 0x01, 0x04, 0x10
# Flags of the request.
UPSERT, INSERT, ACCESS_DELETED, CREATE_AS_DELETED, REVIVE = 0x01, 0x02, 0x04, 0x08, 0x10

MOST_SPECS = 16
LONGEST_ATTRIBUTE = 15


class Spec(NamedTuple):
    opcode: int
    flags: int
    path: str
    value: bytes

    @property
    def xattr(self) -> bool:
        return bool(self.flags & XATTR)


class Refused(Exception):
    """The request as a whole."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.name)
        self.answer = Answer(status)


LOOKUP_FORM: Final = struct.Struct(">BBH")
MUTATION_FORM: Final = struct.Struct(">BBHI")


def read_specs(request: Request, form: struct.Struct, known: frozenset[int]) -> list[Spec]:
    """Raises Refused."""
    specs: list[Spec] = []
    data, at = request.value, 0
    while at < len(data):
        if len(specs) == MOST_SPECS or len(data) - at < form.size:
            raise Refused(Status.INVALID_COMBINATION)
        opcode, flags, path_length, *more = form.unpack_from(data, at)
        at += form.size
        value_length = more[0] if more else 0
        value_at = at + path_length
        if value_at + value_length > len(data) or opcode not in known:
            raise Refused(Status.INVALID_COMBINATION)
        try:
            path = data[at:value_at].decode()
        except UnicodeDecodeError:
            raise Refused(Status.INVALID) from None
        at = value_at + value_length
        specs.append(_checked(Spec(opcode, flags, path, data[value_at:at]), specs))
    if not specs:
        raise Refused(Status.INVALID_COMBINATION)
    return specs


def _checked(spec: Spec, before: list[Spec]) -> Spec:
    if len(spec.path.encode()) > LONGEST_PATH:
        raise Refused(Status.INVALID)
    whole = spec.opcode in (GET_DOC, SET_DOC, REMOVE_DOC)
    if whole == bool(spec.path) and spec.opcode not in (changes.PUSH_LAST, changes.PUSH_FIRST, changes.ADD_UNIQUE):
        raise Refused(Status.INVALID)
    if not spec.xattr:
        if spec.flags & EXPAND_MACROS or spec.opcode == BODY_FROM:
            raise Refused(Status.XATTR_INVALID_FLAGS)
        return spec
    if before and not before[-1].xattr:
        raise Refused(Status.INVALID_XATTR_ORDER)
    name = spec.path.partition(".")[0].partition("[")[0]
    if whole or not name or name.startswith("`") or len(name.encode()) > LONGEST_ATTRIBUTE:
        raise Refused(Status.INVALID)
    return spec


def attribute_steps(path: str) -> tuple[str, tuple[Step, ...]]:
    """The name of an attribute and the steps of the whole path.  Raises PathFailure."""
    steps = parse_path(path)
    first = steps[0]
    if not isinstance(first, Name):
        raise PathFailure(Status.PATH_INVALID)
    return first.name, steps


def wrapped(attributes: Mapping[str, str], steps: tuple[Step, ...]) -> str:
    first = steps[0]
    assert isinstance(first, Name)
    text = attributes.get(first.name)
    return "{}" if text is None else f'{{"{first.text}":{text}}}'


def body_text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise PathFailure(Status.DOCUMENT_NOT_JSON) from None
