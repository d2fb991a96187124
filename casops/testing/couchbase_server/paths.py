"""Paths of sub-documents: names and indexes, as in `a.b[0].c[-1]`.

A name with `.`, `[` or a backtick stands in backticks, doubled inside.  Names are written as in JSON: what needs an
escape there needs it here.

Must not be in here: the texts that paths lead into.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import NamedTuple

from casops.testing.couchbase_server.wire import Status

# The data service's limits (see the docs of its sub-document API): bytes of a path, and its steps.
LONGEST_PATH = 1024
DEEPEST = 31

# Most programs use a handful of paths; each ends its own entry in a shared document, with a path of its own.
REMEMBERED = 4_096


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


@lru_cache(REMEMBERED)
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
