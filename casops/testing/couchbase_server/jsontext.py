"""Paths into a JSON text, and changes of the text at a path that leave everything else byte for byte.

A path is names and indexes: `a.b[0].c[-1]`; a name with `.`, `[` or a backtick stands in backticks, doubled
inside.  Names are written as in JSON: what needs an escape there needs it here.
Values are never taken apart and put together again, so numbers keep their digits.

Must not be in here: the protocol's frames, attributes, documents.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple, TypeGuard, cast

from casops.testing.couchbase_server.wire import Status

# Operations of a sub-document request, as numbered in its protocol.
ADD, UPSERT, REMOVE, REPLACE, PUSH_LAST, PUSH_FIRST, ARRAY_INSERT, ADD_UNIQUE, COUNTER = range(0xC7, 0xD0)

# The data service's limits (see the docs of its sub-document API).
LONGEST_PATH = 1024
DEEPEST = 31

SPACE: Final = re.compile(r"[ \t\n\r]*")
_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]')


class PathFailure(Exception):
    """An operation at a path failed; nothing was changed."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.name)
        self.status = status


class Name(NamedTuple):
    """A step into an object: the name, and how it is written between quotes."""

    name: str
    text: str


# An int is an index into an array; -1 is its last element.
Step = Name | int


def _refuse(constant: str) -> Any:
    raise ValueError(constant)


_decode: Final = json.JSONDecoder(parse_constant=_refuse).raw_decode


def is_json(text: str) -> bool:
    try:
        _, end = _decode(text, SPACE.match(text).end())  # type: ignore[union-attr]
    except (ValueError, RecursionError):
        return False
    return SPACE.match(text, end).end() == len(text)  # type: ignore[union-attr]


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


# ---- paths


def parse_path(path: str) -> tuple[Step, ...]:
    """The steps of a path; none for the empty one.  Raises PathFailure."""
    steps: list[Step] = []
    at, end = 0, len(path)
    while at < end:
        if steps and path[at] == ".":
            at += 1
            if at == end:
                break  # a dot at the end is taken for nothing
        read = {"[": _index, "`": _quoted}.get(path[at], _plain)
        step, at = read(path, at)
        steps.append(step)
    if len(steps) > DEEPEST:
        raise PathFailure(Status.PATH_TOO_BIG)
    return tuple(steps)


def _index(path: str, at: int) -> tuple[Step, int]:
    close = path.find("]", at)
    digits = path[at + 1 : close] if close > 0 else ""
    if digits != "-1" and not (digits.isascii() and digits.isdigit() and len(digits) <= 9):
        raise PathFailure(Status.PATH_INVALID)
    if close + 1 < len(path) and path[close + 1] not in ".[":
        raise PathFailure(Status.PATH_INVALID)
    return int(digits), close + 1


def _quoted(path: str, at: int) -> tuple[Step, int]:
    text, at = "", at + 1
    while True:
        close = path.find("`", at)
        if close < 0:
            raise PathFailure(Status.PATH_INVALID)
        text += path[at:close]
        if path[close + 1 : close + 2] != "`":
            break
        text, at = text + "`", close + 2
    if close + 1 < len(path) and path[close + 1] not in ".[":
        raise PathFailure(Status.PATH_INVALID)
    return _name(text), close + 1


def _plain(path: str, at: int) -> tuple[Step, int]:
    end = at
    while end < len(path) and path[end] not in ".[":
        if path[end] in "`]":
            raise PathFailure(Status.PATH_INVALID)
        end += 1
    return _name(path[at:end]), end


def _name(text: str) -> Name:
    try:
        name = json.loads(f'"{text}"')
    except ValueError:
        raise PathFailure(Status.PATH_INVALID) from None
    if not isinstance(name, str) or name == "" or "\0" in name:
        raise PathFailure(Status.PATH_INVALID)
    return Name(name, text)


# ---- finding


def _value_end(text: str, at: int) -> tuple[Any, int]:
    try:
        return _decode(text, at)
    except (ValueError, RecursionError):
        raise PathFailure(Status.DOCUMENT_NOT_JSON) from None


def _is_array(value: Any) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def _skip(text: str, at: int) -> int:
    return SPACE.match(text, at).end()  # type: ignore[union-attr]


class Entry(NamedTuple):
    """A member of an object or an element of an array: where it begins (its name), and its value."""

    name: str | int
    start: int
    value: int
    end: int


def _entries(text: str, at: int) -> Iterator[Entry]:
    """The members or elements of the object or array that begins there."""
    is_object = text[at] == "{"
    at = _skip(text, at + 1)
    index = 0
    while text[at] not in "}]":
        start, name = at, index
        if is_object:
            name, at = _value_end(text, at)
            at = _skip(text, _skip(text, at) + 1)  # over the colon
        _, end = _value_end(text, at)
        yield Entry(name, start, at, end)
        index += 1
        at = _skip(text, end)
        if text[at] == ",":
            at = _skip(text, at + 1)


def _step_in(text: str, at: int, step: Step) -> Entry | None:
    """Where one step leads from the value that begins there; None: nowhere.  Raises PathFailure."""
    found, _ = _value_end(text, at)
    if isinstance(step, int):
        if not _is_array(found):
            raise PathFailure(Status.PATH_MISMATCH)
        count = len(found)
        wanted: str | int = count - 1 if step == -1 else step
        if count == 0 or int(wanted) >= count:
            return None
    else:
        if not isinstance(found, dict):
            raise PathFailure(Status.PATH_MISMATCH)
        wanted = step.name
        if wanted not in found:
            return None
    return next(entry for entry in _entries(text, at) if entry.name == wanted)


def begin(text: str) -> int:
    """Where the top value of a text begins.  Raises PathFailure: no JSON, a string (refused there too), too deep."""
    at = _skip(text, 0)
    if text[at : at + 1] in ("", '"'):
        raise PathFailure(Status.DOCUMENT_NOT_JSON)
    if deeper_than(text, DEEPEST):
        raise PathFailure(Status.DOCUMENT_TOO_DEEP)
    if not is_json(text):
        raise PathFailure(Status.DOCUMENT_NOT_JSON)
    return at


def _walk(text: str, steps: Sequence[Step]) -> tuple[int, int]:
    """Where the value at these steps begins, and how many of them exist."""
    at = begin(text)
    for count, step in enumerate(steps):
        entry = _step_in(text, at, step)
        if entry is None:
            return at, count
        at = entry.value
    return at, len(steps)


def get(text: str, steps: Sequence[Step]) -> str:
    """The text of the value there.  Raises PathFailure."""
    at, count = _walk(text, steps)
    if count < len(steps):
        raise PathFailure(Status.PATH_NOT_FOUND)
    return text[at : _value_end(text, at)[1]]


def count(text: str, steps: Sequence[Step]) -> int:
    """How many elements or members.  Raises PathFailure."""
    found = json.loads(get(text, steps))
    if not isinstance(found, dict | list):
        raise PathFailure(Status.PATH_MISMATCH)
    return len(cast(dict[str, Any] | list[Any], found))


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
        _, entry = _last(text, steps)
        if entry is None:
            raise PathFailure(Status.PATH_NOT_FOUND)
        return text[: entry.value] + value + text[entry.end :]
    if opcode == ARRAY_INSERT:
        return _array_insert(text, steps, value)
    return _put(text, opcode, steps, value, create)


def _check_value(value: str, above: int) -> None:
    if deeper_than(value, DEEPEST - above):
        raise PathFailure(Status.VALUE_TOO_DEEP)
    if not is_json(value):
        raise PathFailure(Status.VALUE_CANNOT_INSERT)


def _last(text: str, steps: Sequence[Step]) -> tuple[int, Entry | None]:
    """Where the parent of the value at these steps begins, and the value.  Raises PathFailure."""
    parent, found = _walk(text, steps[:-1])
    if found < len(steps) - 1:
        raise PathFailure(Status.PATH_NOT_FOUND)
    return parent, _step_in(text, parent, steps[-1])


def _put(text: str, opcode: int, steps: Sequence[Step], value: str, create: bool) -> str:
    """Insert or upsert a member of an object."""
    if isinstance(steps[-1], int):
        raise PathFailure(Status.PATH_INVALID)
    at, found = _walk(text, steps[:-1])
    rest = steps[found:]
    if len(rest) > 1:
        if not create or any(isinstance(step, int) for step in rest):
            raise PathFailure(Status.PATH_NOT_FOUND)
        for step in reversed(rest[1:]):
            assert not isinstance(step, int)
            value = f'{{"{step.text}":{value}}}'
        return _append(text, at, rest[0], value)
    entry = _step_in(text, at, steps[-1])
    if entry is None:
        return _append(text, at, steps[-1], value)
    if opcode == ADD:
        raise PathFailure(Status.PATH_EXISTS)
    return text[: entry.value] + value + text[entry.end :]


def _append(text: str, at: int, step: Step | None, value: str) -> str:
    """With a new member (or an element, without a step) at the end of the object or array that begins there."""
    close = _value_end(text, at)[1] - 1
    comma = "" if _skip(text, at + 1) == close else ","
    name = "" if step is None or isinstance(step, int) else f'"{step.text}":'
    return f"{text[:close]}{comma}{name}{value}{text[close:]}"


def _remove(text: str, steps: Sequence[Step]) -> str:
    _, entry = _last(text, steps)
    if entry is None:
        raise PathFailure(Status.PATH_NOT_FOUND)
    after = _skip(text, entry.end)
    if text[after] == ",":
        return text[: entry.start] + text[_skip(text, after + 1) :]
    before = text[: entry.start].rstrip(" \t\n\r")
    return (before[:-1] if before.endswith(",") else before) + text[entry.end :]


def _push(text: str, opcode: int, steps: Sequence[Step], values: str, create: bool) -> str:
    """Several values may be pushed, separated by commas."""
    _check_value(f"[{values}]", len(steps))
    at, found = _walk(text, steps)
    if found < len(steps):
        if not create:
            raise PathFailure(Status.PATH_NOT_FOUND)
        return _put(text, ADD, steps, f"[{values}]", create)
    elements, _ = _value_end(text, at)
    if not _is_array(elements):
        raise PathFailure(Status.PATH_MISMATCH)
    if opcode == ADD_UNIQUE:
        new = json.loads(values)
        if any(isinstance(each, dict | list) for each in [new, *elements]):
            raise PathFailure(Status.PATH_MISMATCH)
        if any(type(each) is type(new) and each == new for each in elements):
            raise PathFailure(Status.PATH_EXISTS)
    if opcode != PUSH_FIRST:
        return _append(text, at, None, values)
    comma = "" if elements == [] else ","
    return f"{text[: at + 1]}{values}{comma}{text[at + 1 :]}"


def _array_insert(text: str, steps: Sequence[Step], value: str) -> str:
    index = steps[-1]
    if not isinstance(index, int) or index < 0:
        raise PathFailure(Status.PATH_INVALID)
    parent, entry = _last(text, steps)
    if entry is not None:
        return f"{text[: entry.start]}{value},{text[entry.start :]}"
    if index != len(_value_end(text, parent)[0]):
        raise PathFailure(Status.PATH_NOT_FOUND)
    return _append(text, parent, None, value)


def count_up(text: str, steps: Sequence[Step], delta: str, create: bool) -> tuple[str, str]:
    """A number after adding to it: the text and the new number.  Raises PathFailure."""
    try:
        added = int(delta)
    except ValueError:
        raise PathFailure(Status.DELTA_INVALID) from None
    if added == 0 or not -(2**63) <= added < 2**63:
        raise PathFailure(Status.DELTA_INVALID)
    try:
        before: Any = json.loads(get(text, steps))
    except PathFailure as failure:
        if failure.status is not Status.PATH_NOT_FOUND:
            raise
        return _put(text, ADD, steps, str(added), create), str(added)
    if not isinstance(before, int) or isinstance(before, bool):
        raise PathFailure(Status.PATH_MISMATCH)
    if not -(2**63) <= before + added < 2**63:
        raise PathFailure(Status.NUMBER_OUT_OF_RANGE)
    return change(text, REPLACE, steps, str(before + added), False), str(before + added)
