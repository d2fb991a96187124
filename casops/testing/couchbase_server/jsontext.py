"""Values in a JSON text: where they are, and whether it is one.

Must not be in here: changes of the text, how paths are written, attributes, documents.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple, TypeGuard

from casops.testing.couchbase_server.paths import DEEPEST, Name, PathFailure, Step
from casops.testing.couchbase_server.wire import Status

_SPACE: Final = re.compile(r"[ \t\n\r]*")
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))


def _refuse(constant: str) -> Any:
    raise ValueError(constant)


_decode: Final = json.JSONDecoder(parse_constant=_refuse).raw_decode


def skip(text: str, at: int) -> int:
    """Over white space."""
    found = _SPACE.match(text, at)
    assert found is not None  # it matches nothing, too
    return found.end()


def is_json(text: str) -> bool:
    try:
        _, end = _decode(text, skip(text, 0))
    except (ValueError, RecursionError):
        return False
    return skip(text, end) == len(text)


def deeper_than(text: str, limit: int) -> bool:
    """Whether arrays and objects are nested more than `limit` deep."""
    if text.count("{") + text.count("[") <= limit:
        return False
    # A regular expression over the strings takes four times as long, and this is asked of every change of a large text.
    outside_strings = "".join(text.replace(r"\\", "").replace(r"\"", "").split('"')[::2])
    now = 0
    for mark in outside_strings.encode(errors="replace").translate(None, _NO_BRACKETS):
        if mark in b"{[":
            now += 1
            if now > limit:
                return True
        else:
            now -= 1
    return False


# ---- finding


class Place(NamedTuple):
    """Where steps lead: where the last value begins that exists, that value, and how many steps it took."""

    at: int
    value: Any
    steps: int


class Entry(NamedTuple):
    """A member of an object, or an element of an array: where it begins (with its name), and its value."""

    name: str | int
    start: int
    value: int


MISSING: Final = object()


def is_array(value: Any) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def is_object(value: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def _whole(text: str) -> Place:
    """The top value.  Raises PathFailure: no JSON, a string (which the real one does not take for JSON), too deep."""
    at = skip(text, 0)
    if text[at : at + 1] in ("", '"'):
        raise PathFailure(Status.DOCUMENT_NOT_JSON)
    if deeper_than(text, DEEPEST):
        raise PathFailure(Status.DOCUMENT_TOO_DEEP)
    try:
        value, end = _decode(text, at)
    except (ValueError, RecursionError):
        raise PathFailure(Status.DOCUMENT_NOT_JSON) from None
    if skip(text, end) != len(text):
        raise PathFailure(Status.DOCUMENT_NOT_JSON)
    return Place(at, value, 0)


def walk(text: str, steps: Sequence[Step]) -> Place:
    """As far as the steps lead.  Raises PathFailure."""
    at, value, _ = _whole(text)
    for taken, step in enumerate(steps):
        inner = inside(value, step)
        if inner is MISSING:
            return Place(at, value, taken)
        at, value = entry_at(text, at, value, step).value, inner
    return Place(at, value, len(steps))


def inside(value: Any, step: Step) -> Any:
    """What is there one step further, or MISSING.  Raises PathFailure."""
    if isinstance(step, int):
        if not is_array(value):
            raise PathFailure(Status.PATH_MISMATCH)
        return value[step] if -len(value) <= step < len(value) else MISSING
    if not is_object(value):
        raise PathFailure(Status.PATH_MISMATCH)
    return value.get(step.name, MISSING)


def entry_at(text: str, at: int, value: Any, step: Step) -> Entry:
    """Where in the object or array that begins there an entry is which it has."""
    wanted = step.name if isinstance(step, Name) else step % len(value)
    for entry in _entries(text, at):
        if entry.name == wanted:
            return entry
    raise PathFailure(Status.DOCUMENT_NOT_JSON)  # a name that is there twice, with values of two kinds


def _entries(text: str, at: int) -> Iterator[Entry]:
    if text[at] not in "{[":
        return
    is_object = text[at] == "{"
    at = skip(text, at + 1)
    index = 0
    while text[at] not in "}]":
        start, name = at, index
        if is_object:
            name, at = _decode(text, at)
            at = skip(text, skip(text, at) + 1)  # over the colon
        yield Entry(name, start, at)
        index += 1
        at = skip(text, end_of(text, at))
        if text[at] == ",":
            at = skip(text, at + 1)


def end_of(text: str, at: int) -> int:
    """Of the value that begins there, in a text that is known to be JSON."""
    return _decode(text, at)[1]


def get(text: str, steps: Sequence[Step]) -> str:
    """The text of the value there.  Raises PathFailure."""
    at, _, taken = walk(text, steps)
    if taken < len(steps):
        raise PathFailure(Status.PATH_NOT_FOUND)
    return text[at : end_of(text, at)]


def count(text: str, steps: Sequence[Step]) -> int:
    """How many elements or members.  Raises PathFailure."""
    _, value, taken = walk(text, steps)
    if taken < len(steps):
        raise PathFailure(Status.PATH_NOT_FOUND)
    if not is_array(value) and not is_object(value):
        raise PathFailure(Status.PATH_MISMATCH)
    return len(value)
