"""What a suspended protocol generator will do next depends on: its frames, as a value that can be compared.

Two workers that heard different things may be in the same state all the same (whoever read something
twice and forgot the first reading).  The explorer need not look at both.  The value holds, for each frame
from the outermost in: where it is suspended, and all its local variables, followed through objects.

Left out, because no rule reads it: the number of looks at the clock, which only ends endless loops, and the
history in a record, which is for people.
What a frame holds only on its evaluation stack cannot be seen; in this code that is the position of `for` loops,
which their loop variables tell as well, and values that are in variables too.

Must not be in here: anything the explorer knows.
"""

# It looks into things of every type, so their members' types are not known.
# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Generator, Hashable, Mapping
from enum import Enum
from functools import lru_cache
from types import BuiltinFunctionType, FunctionType, GeneratorType, MethodType
from typing import Any, cast

from pydantic import BaseModel

from casops.messages import AtOnce, Insert, Replace, Version

IGNORED = frozenset({"rounds", "history"})
ATOMS = (str, int, float, bool, bytes, type(None), Enum, type, FunctionType, BuiltinFunctionType)


def frozen(generator: Any) -> Hashable:
    """The state of a suspended generator and of all it delegates to."""
    frames: list[Hashable] = []
    seen: dict[int, int] = {}
    while isinstance(generator, GeneratorType) and (frame := generator.gi_frame) is not None:
        frames.append((frame.f_code.co_qualname, frame.f_lasti, _value(frame.f_locals, seen)))
        generator = generator.gi_yieldfrom
    return tuple(frames)


def _value(thing: Any, seen: dict[int, int]) -> Hashable:
    if isinstance(thing, ATOMS):
        return thing
    if isinstance(thing, Generator):
        return "generator"  # a frame of its own, or used up
    if isinstance(thing, tuple | list):
        return type(thing).__name__, tuple([_value(each, seen) for each in thing])
    if isinstance(thing, set | frozenset):
        return "set", frozenset(_value(each, seen) for each in thing)
    if isinstance(thing, Mapping):
        return "dict", tuple([(_value(key, seen), _value(value, seen)) for key, value in thing.items()])
    if isinstance(thing, MethodType):
        return "method", thing.__func__.__qualname__, _value(thing.__self__, seen)
    known = seen.get(id(thing))
    if known is not None:
        return "seen", known
    seen[id(thing)] = len(seen)
    return type(thing).__name__, _members(thing, seen)


def _members(thing: Any, seen: dict[int, int]) -> Hashable:
    if isinstance(thing, BaseModel):
        return tuple([_value(value, seen) for name, value in thing if name not in IGNORED])
    slots = [name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ()) if hasattr(thing, name)]
    members = [(name, getattr(thing, name)) for name in slots]
    members += getattr(thing, "__dict__", {}).items()
    return tuple([(name, _value(value, seen)) for name, value in members if name not in IGNORED])


@lru_cache(maxsize=65_536)
def without_history(text: str) -> str:
    """A stored record without its history, which is its last field."""
    return text.partition(',"history":')[0]


def comparable(thing: Any) -> Hashable:
    """The same for things that differ in histories only."""
    if isinstance(thing, str):
        return without_history(thing)
    if isinstance(thing, Insert | Replace):
        body = without_history(thing.body) if isinstance(thing.body, str) else thing.body
        return type(thing).__name__, thing.key, getattr(thing, "cas", 0), body, thing.stage, thing.ttl
    if isinstance(thing, AtOnce):
        return "AtOnce", comparable(thing.writes), thing.seen
    if isinstance(thing, Version):
        return thing.cas, None if thing.body is None else without_history(thing.body), thing.stage, thing.expires
    if isinstance(thing, tuple) and type(thing) is tuple:
        return tuple([comparable(each) for each in thing])
    return cast(Hashable, thing)
