"""Values in a JSON text: where they are, and changes that leave everything else byte for byte.

Values are never taken apart and put together again, so numbers keep their digits.

Must not be in here: the protocol's frames, how paths are written, attributes, documents.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple, TypeGuard

from casops.testing.couchbase_server.paths import DEEPEST, Name, PathFailure, Step
from casops.testing.couchbase_server.wire import Status

# Operations of a sub-document request, as numbered in its protocol.
ADD, UPSERT, REMOVE, REPLACE, PUSH_LAST, PUSH_FIRST, ARRAY_INSERT, ADD_UNIQUE, COUNTER = range(0xC7, 0xD0)

_SPACE: Final = re.compile(r"[ \t\n\r]*")
_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]')


def _refuse(constant: str) -> Any:
    raise ValueError(constant)


_decode: Final = json.JSONDecoder(parse_constant=_refuse).raw_decode


def _skip(text: str, at: int) -> int:
    """Over white space."""
    found = _SPACE.match(text, at)
    assert found is not None  # it matches nothing, too
    return found.end()


def is_json(text: str) -> bool:
    try:
        _, end = _decode(text, _skip(text, 0))
    except (ValueError, RecursionError):
        return False
    return _skip(text, end) == len(text)


def deeper_than(text: str, limit: int) -> bool:
    """Whether arrays and objects are nested more than `limit` deep."""
    if text.count("{") + text.count("[") <= limit:
        return False
    now = 0
    for token in _TOKEN.finditer(text):
        mark = token[0]
        if mark in ("{", "["):
            now += 1
            if now > limit:
                return True
        elif mark in ("}", "]"):
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


_MISSING: Final = object()


def _is_array(value: Any) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def _is_object(value: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def _whole(text: str) -> Place:
    """The top value.  Raises PathFailure: no JSON, a string (which the real one does not take for JSON), too deep."""
    at = _skip(text, 0)
    if text[at : at + 1] in ("", '"'):
        raise PathFailure(Status.DOCUMENT_NOT_JSON)
    if deeper_than(text, DEEPEST):
        raise PathFailure(Status.DOCUMENT_TOO_DEEP)
    try:
        value, end = _decode(text, at)
    except (ValueError, RecursionError):
        raise PathFailure(Status.DOCUMENT_NOT_JSON) from None
    if _skip(text, end) != len(text):
        raise PathFailure(Status.DOCUMENT_NOT_JSON)
    return Place(at, value, 0)


def _walk(text: str, steps: Sequence[Step]) -> Place:
    """As far as the steps lead.  Raises PathFailure."""
    at, value, _ = _whole(text)
    for taken, step in enumerate(steps):
        inner = _inside(value, step)
        if inner is _MISSING:
            return Place(at, value, taken)
        at, value = _entry(text, at, value, step).value, inner
    return Place(at, value, len(steps))


def _inside(value: Any, step: Step) -> Any:
    """What is there one step further, or _MISSING.  Raises PathFailure."""
    if isinstance(step, int):
        if not _is_array(value):
            raise PathFailure(Status.PATH_MISMATCH)
        return value[step] if -len(value) <= step < len(value) else _MISSING
    if not _is_object(value):
        raise PathFailure(Status.PATH_MISMATCH)
    return value.get(step.name, _MISSING)


def _entry(text: str, at: int, value: Any, step: Step) -> Entry:
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
    at = _skip(text, at + 1)
    index = 0
    while text[at] not in "}]":
        start, name = at, index
        if is_object:
            name, at = _decode(text, at)
            at = _skip(text, _skip(text, at) + 1)  # over the colon
        yield Entry(name, start, at)
        index += 1
        at = _skip(text, _end(text, at))
        if text[at] == ",":
            at = _skip(text, at + 1)


def _end(text: str, at: int) -> int:
    """Of the value that begins there, in a text that is known to be JSON."""
    return _decode(text, at)[1]


def get(text: str, steps: Sequence[Step]) -> str:
    """The text of the value there.  Raises PathFailure."""
    at, _, taken = _walk(text, steps)
    if taken < len(steps):
        raise PathFailure(Status.PATH_NOT_FOUND)
    return text[at : _end(text, at)]


def count(text: str, steps: Sequence[Step]) -> int:
    """How many elements or members.  Raises PathFailure."""
    _, value, taken = _walk(text, steps)
    if taken < len(steps):
        raise PathFailure(Status.PATH_NOT_FOUND)
    if not _is_array(value) and not _is_object(value):
        raise PathFailure(Status.PATH_MISMATCH)
    return len(value)


# ---- changing


def change(text: str, opcode: int, steps: Sequence[Step], value: str, create: bool) -> str:
    """The text after one change.  `create`: missing objects on the way are made.  Raises PathFailure."""
    if opcode in (PUSH_LAST, PUSH_FIRST, ADD_UNIQUE):
        return _push(text, opcode, steps, value, create)
    if not steps:
        raise PathFailure(Status.INVALID)
    if opcode == REMOVE:
        return _remove(text, steps)
    _check_value(value, len(steps))
    if opcode == REPLACE:
        entry = _existing(text, steps)
        return text[: entry.value] + value + text[_end(text, entry.value) :]
    if opcode == ARRAY_INSERT:
        return _array_insert(text, steps, value)
    return _put(text, opcode, steps, value, create)


def _check_value(value: str, above: int) -> None:
    if deeper_than(value, DEEPEST - above):
        raise PathFailure(Status.VALUE_TOO_DEEP)
    if not is_json(value):
        raise PathFailure(Status.VALUE_CANNOT_INSERT)


def _existing(text: str, steps: Sequence[Step]) -> Entry:
    """Raises PathFailure."""
    parent = _parent(text, steps)
    if _inside(parent.value, steps[-1]) is _MISSING:
        raise PathFailure(Status.PATH_NOT_FOUND)
    return _entry(text, parent.at, parent.value, steps[-1])


def _parent(text: str, steps: Sequence[Step]) -> Place:
    """Raises PathFailure."""
    parent = _walk(text, steps[:-1])
    if parent.steps < len(steps) - 1:
        raise PathFailure(Status.PATH_NOT_FOUND)
    return parent


def _put(text: str, opcode: int, steps: Sequence[Step], value: str, create: bool) -> str:
    """Insert or upsert a member of an object."""
    last = steps[-1]
    if isinstance(last, int):
        raise PathFailure(Status.PATH_INVALID)
    parent = _walk(text, steps[:-1])
    missing = steps[parent.steps : -1]
    if missing:
        return _append(text, parent, *_nested(missing, last, value, create))
    if _inside(parent.value, last) is _MISSING:
        return _append(text, parent, value, last)
    if opcode == ADD:
        raise PathFailure(Status.PATH_EXISTS)
    at = _entry(text, parent.at, parent.value, last).value
    return text[:at] + value + text[_end(text, at) :]


def _nested(missing: Sequence[Step], last: Name, value: str, create: bool) -> tuple[str, Name]:
    """The outermost of the missing objects: its text and its name.  Raises PathFailure."""
    names = [step for step in missing if isinstance(step, Name)]
    if not create or len(names) < len(missing):
        raise PathFailure(Status.PATH_NOT_FOUND)
    for name in reversed([*names[1:], last]):
        value = f'{{"{name.text}":{value}}}'
    return value, names[0]


def _append(text: str, place: Place, value: str, name: Name | None = None) -> str:
    """With a new member (or an element, without a name) at the end of the object or array there."""
    close = _end(text, place.at) - 1
    comma = "," if place.value else ""
    before = "" if name is None else f'"{name.text}":'
    return f"{text[:close]}{comma}{before}{value}{text[close:]}"


def _remove(text: str, steps: Sequence[Step]) -> str:
    entry = _existing(text, steps)
    end = _end(text, entry.value)
    after = _skip(text, end)
    if text[after] == ",":
        return text[: entry.start] + text[_skip(text, after + 1) :]
    before = text[: entry.start].rstrip(" \t\n\r")
    return (before[:-1] if before.endswith(",") else before) + text[end:]


def _push(text: str, opcode: int, steps: Sequence[Step], values: str, create: bool) -> str:
    """Several values may be pushed, separated by commas; only one if it has to be unique."""
    _check_value(values if opcode == ADD_UNIQUE else f"[{values}]", len(steps))
    if not values.strip():
        raise PathFailure(Status.VALUE_CANNOT_INSERT)
    place = _walk(text, steps)
    if place.steps < len(steps):
        if not create:
            raise PathFailure(Status.PATH_NOT_FOUND)
        return _put(text, ADD, steps, f"[{values}]", create)
    if not _is_array(place.value):
        raise PathFailure(Status.PATH_MISMATCH)
    if opcode == ADD_UNIQUE:
        _check_unique(place.value, json.loads(values))
    if opcode != PUSH_FIRST:
        return _append(text, place, values)
    comma = "," if place.value else ""
    return f"{text[: place.at + 1]}{values}{comma}{text[place.at + 1 :]}"


def _check_unique(elements: list[Any], new: Any) -> None:
    if any(isinstance(each, dict | list) for each in [new, *elements]):
        raise PathFailure(Status.PATH_MISMATCH)
    if any(type(each) is type(new) and each == new for each in elements):
        raise PathFailure(Status.PATH_EXISTS)


def _array_insert(text: str, steps: Sequence[Step], value: str) -> str:
    index = steps[-1]
    if not isinstance(index, int) or index < 0:
        raise PathFailure(Status.PATH_INVALID)
    parent = _parent(text, steps)
    if _inside(parent.value, index) is not _MISSING:
        start = _entry(text, parent.at, parent.value, index).start
        return f"{text[:start]}{value},{text[start:]}"
    if index != len(parent.value):
        raise PathFailure(Status.PATH_NOT_FOUND)
    return _append(text, parent, value)


def count_up(text: str, steps: Sequence[Step], delta: str, create: bool) -> tuple[str, str]:
    """A number after adding to it: the text and the new number.  Raises PathFailure."""
    try:
        added = int(delta)
    except ValueError:
        raise PathFailure(Status.DELTA_INVALID) from None
    if added == 0 or not -(2**63) <= added < 2**63:
        raise PathFailure(Status.DELTA_INVALID)
    place = _walk(text, steps)
    if place.steps < len(steps):
        return change(text, ADD, steps, str(added), create), str(added)
    if type(place.value) is not int:
        raise PathFailure(Status.PATH_MISMATCH)
    number = place.value + added
    if not -(2**63) <= number < 2**63:
        raise PathFailure(Status.NUMBER_OUT_OF_RANGE)
    return change(text, REPLACE, steps, str(number), False), str(number)
