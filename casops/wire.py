"""What a client and a server of casops agree on: header names, how ids travel in headers, kinds of problems.

An operation id may hold any printable character, a header only visible ASCII.  So an id travels as a quoted string
(RFC 9651, "String") with everything else percent-encoded as UTF-8, `%` itself included.  Whoever types a request by
hand may leave the quotes out of a key that has no space, comma, semicolon, quote or backslash.

Of structured fields only this one shape is needed, plus ids without quotes that the RFC would not take for tokens
(they may begin with a digit); hence the few lines here and no library.

Must not be in here: HTTP libraries, requests, responses.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import quote, unquote_to_bytes

from casops.errors import UsageError
from casops.ids import check_id
from casops.operations import Operation

# Of the IETF draft: the operation id.  In a reply: the same; how long it is remembered; whether the answer is old.
IDEMPOTENCY_KEY: Final = "Idempotency-Key"
REPLAYED: Final = "Idempotent-Replayed"
RETENTION: Final = "Idempotency-Retention"
# Our own.  The first two are echoed, so that no reply can be taken for the reply to another message.
RETRY: Final = "Casops-Retry"
MESSAGE: Final = "Casops-Message"
ACKNOWLEDGE: Final = "Casops-Acknowledge"
ATTEMPTS: Final = "Casops-Attempts"
TAKEN_OVER: Final = "Casops-Taken-Over"

# Ids in one Casops-Acknowledge header.  Of 36 characters each they take 2.5 KB, well within the 8 KB of headers that
# most servers and proxies take.
MAX_ACKNOWLEDGED: Final = 64

PROBLEM_URN: Final = "urn:casops:problem:"

ProblemKind: TypeAlias = Literal[
    "key-missing",
    "key-invalid",
    "header-invalid",
    "body-invalid",
    "path-unknown",
    "method-unknown",
    "operation-unknown",
    "outcome-unheard",
    "body-late",
    "in-progress",
    "expired",
    "body-too-large",
    "operation-mismatch",
    "declined",
    "cancelled",
    "usage",
    "headers-too-large",
    "business-error",
    "invariant-violation",
    "store-unavailable",
    "outcome-unknown",
    "contended",
    "too-busy",
]

# What such headers look like, for OpenAPI (ECMA's dialect, anchored).  Percent-encoded is what is printable and has one
# or two bytes in UTF-8; the rest cannot be told by a pattern, and is taken all the same.
_ENCODED = "%[2-6][0-9A-Fa-f]|%7[0-9A-Ea-e]|%[cC][3-9a-fA-F]%[bB][0-9A-Fa-f]"
_ID = rf'"(?:[ !#$&-\[\]-~]|\\["\\]|{_ENCODED})+"'
ID_PATTERN: Final = rf"^(?:{_ID}|(?:[!#$&-+\--:<-\[\]-~]|{_ENCODED})+)$"
IDS_PATTERN: Final = f"^(?:{_ID}(?:, {_ID}){{0,{MAX_ACKNOWLEDGED - 1}}})?$"

_QUOTED = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')
_BARE = re.compile(r"[!#-+\--:<-\[\]-~]+")  # visible ASCII without " , ; and backslash
_SEPARATOR = re.compile(r"[ \t]*,[ \t]*")
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
# What stays as it is inside the quotes: visible ASCII but for what ends a string, escapes, or encodes.
_SAFE = "".join(chr(each) for each in range(0x20, 0x7F) if chr(each) not in '"%\\')


def encode_id(operation_id: str) -> str:
    """An operation id as a header's value, quotes included."""
    return f'"{quote(operation_id, safe=_SAFE)}"'


def decode_id(text: str) -> str:
    """The operation id in a header's value.  Raises UsageError."""
    text = text.strip(" \t")
    match = _QUOTED.fullmatch(text)
    if match is not None:
        return _decoded(_unescaped(match))
    if _BARE.fullmatch(text) is None:
        raise UsageError(f'an operation id in a header is written "…" in visible ASCII, not {text[:80]!r}')
    return _decoded(text)


def encode_ids(operation_ids: Iterable[str]) -> str:
    return ", ".join(encode_id(each) for each in operation_ids)


def decode_ids(text: str) -> list[str]:
    """The operation ids in the value of a list header.  Raises UsageError."""
    ids: list[str] = []
    text = text.strip(" \t")
    position = 0
    while position < len(text):
        match = _QUOTED.match(text, position)
        if match is None:
            raise UsageError(f'operation ids in a header are written "…", "…", not {text[position : position + 80]!r}')
        ids.append(_decoded(_unescaped(match)))
        if len(ids) > MAX_ACKNOWLEDGED:
            raise UsageError(f"at most {MAX_ACKNOWLEDGED} operation ids may be named in one header")
        position = match.end()
        if position == len(text):
            break
        comma = _SEPARATOR.match(text, position)
        if comma is None or comma.end() == len(text):
            raise UsageError(f"operation ids in a header are separated by commas: {text[position : position + 80]!r}")
        position = comma.end()
    return ids


def _unescaped(quoted: re.Match[str]) -> str:
    return re.sub(r"\\(.)", r"\1", quoted[1])


def _decoded(text: str) -> str:
    if _BAD_PERCENT.search(text):
        raise UsageError(f"a percent sign in an operation id is written %25: {text[:80]!r}")
    try:
        return check_id(unquote_to_bytes(text).decode())
    except UnicodeDecodeError:
        raise UsageError(f"what is percent-encoded in an operation id must be UTF-8: {text[:80]!r}") from None


def path_of(operation: type[Operation[Any]]) -> str:
    """The last part of the path an operation is asked for at: `OpenAccount` at `open-account`.

    A class attribute `http_name` overrides it.  Raises UsageError if the name cannot stand in a path.
    """
    given: Any = getattr(operation, "http_name", None)
    name = given if given is not None else _kebab(operation.operation_name)
    if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9][a-z0-9._~-]*", name):
        raise UsageError(
            f"{operation.__name__} cannot be asked for at {name!r}: "
            'give it http_name: ClassVar[str] = "…", of small letters, digits and -'
        )
    return name


def _kebab(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|_", "-", name).lower()
