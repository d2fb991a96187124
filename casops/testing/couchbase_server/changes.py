"""Changes of a JSON text at a path, which leave everything else byte for byte.

Values are never taken apart and put together again, so numbers keep their digits.

Must not be in here: how paths are written, attributes, documents.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from casops.testing.couchbase_server.jsontext import (
    MISSING,
    Entry,
    Place,
    deeper_than,
    end_of,
    entry_at,
    inside,
    is_array,
    is_json,
    skip,
    walk,
)
from casops.testing.couchbase_server.paths import DEEPEST, Name, PathFailure, Step
from casops.testing.couchbase_server.wire import Status

# Operations of a sub-document request, as numbered in its protocol.
ADD, UPSERT, REMOVE, REPLACE, PUSH_LAST, PUSH_FIRST, ARRAY_INSERT, ADD_UNIQUE, COUNTER = range(0xC7, 0xD0)


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
        return text[: entry.value] + value + text[end_of(text, entry.value) :]
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
    if inside(parent.value, steps[-1]) is MISSING:
        raise PathFailure(Status.PATH_NOT_FOUND)
    return entry_at(text, parent.at, parent.value, steps[-1])


def _parent(text: str, steps: Sequence[Step]) -> Place:
    """Raises PathFailure."""
    parent = walk(text, steps[:-1])
    if parent.steps < len(steps) - 1:
        raise PathFailure(Status.PATH_NOT_FOUND)
    return parent


def _put(text: str, opcode: int, steps: Sequence[Step], value: str, create: bool) -> str:
    """Insert or upsert a member of an object."""
    last = steps[-1]
    if isinstance(last, int):
        raise PathFailure(Status.PATH_INVALID)
    parent = walk(text, steps[:-1])
    missing = steps[parent.steps : -1]
    if missing:
        return _append(text, parent, *_nested(missing, last, value, create))
    if inside(parent.value, last) is MISSING:
        return _append(text, parent, value, last)
    if opcode == ADD:
        raise PathFailure(Status.PATH_EXISTS)
    at = entry_at(text, parent.at, parent.value, last).value
    return text[:at] + value + text[end_of(text, at) :]


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
    close = end_of(text, place.at) - 1
    comma = "," if place.value else ""
    before = "" if name is None else f'"{name.text}":'
    return f"{text[:close]}{comma}{before}{value}{text[close:]}"


def _remove(text: str, steps: Sequence[Step]) -> str:
    entry = _existing(text, steps)
    end = end_of(text, entry.value)
    after = skip(text, end)
    if text[after] == ",":
        return text[: entry.start] + text[skip(text, after + 1) :]
    before = text[: entry.start].rstrip(" \t\n\r")
    return (before[:-1] if before.endswith(",") else before) + text[end:]


def _push(text: str, opcode: int, steps: Sequence[Step], values: str, create: bool) -> str:
    """Several values may be pushed, separated by commas; only one if it has to be unique."""
    _check_value(values if opcode == ADD_UNIQUE else f"[{values}]", len(steps))
    if not values.strip():
        raise PathFailure(Status.VALUE_CANNOT_INSERT)
    place = walk(text, steps)
    if place.steps < len(steps):
        if not create:
            raise PathFailure(Status.PATH_NOT_FOUND)
        return _put(text, ADD, steps, f"[{values}]", create)
    if not is_array(place.value):
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
    if inside(parent.value, index) is not MISSING:
        start = entry_at(text, parent.at, parent.value, index).start
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
    place = walk(text, steps)
    if place.steps < len(steps):
        return change(text, ADD, steps, str(added), create), str(added)
    if type(place.value) is not int:
        raise PathFailure(Status.PATH_MISMATCH)
    number = place.value + added
    if not -(2**63) <= number < 2**63:
        raise PathFailure(Status.NUMBER_OUT_OF_RANGE)
    return change(text, REPLACE, steps, str(number), False), str(number)
