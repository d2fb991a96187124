"""Whether two values of business code are the same, field by field: what was meant, and what comes back from JSON.

Not by `==`, since that may be the user's own: an account equal to every account of its number is no reason to take a
changed balance for unchanged.  Of models and dataclasses the fields count, and no private attribute, which is no data.

Must not be in here: JSON, what follows from a difference.
"""

# It looks into things of every type, so their members' types are not known.
# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from typing import Any, Final, TypeVar
from uuid import UUID

from pydantic import BaseModel

__all__ = ["KINDS", "PLAIN", "SEQUENCES", "SETS", "difference", "members_of"]

SEQUENCES: Final = (list, tuple, deque)
SETS: Final = (set, frozenset)

# What most fields are; no class of a user's has a say in how they compare.
PLAIN: Final = frozenset(
    {str, int, bool, bytes, type(None), float, Decimal, datetime, date, time, timedelta, UUID},
)

_BY_IDENTITY: Final[Any] = object.__eq__

# Classes of which something is kept that takes long to find out: those of a few hundred models, and no more of those
# that are made on the fly.
KINDS: Final = 1024


def difference(a: Any, b: Any) -> str | None:
    """None if they are the same, otherwise where they are not ("" at the top).

    A list and a tuple are the same if their elements are, for a field may take either; so are 1 and 1.0, and two NaN.
    """
    if a is b:
        return None  # as members of an Enum are, which lead to themselves again
    kind: Any = type(a)
    if kind is type(b) and kind in PLAIN and a == b:
        return None
    return _comparison(kind)(a, b)


@lru_cache(KINDS)
def _comparison(kind: type[Any]) -> Callable[[Any, Any], str | None]:
    """How what is of this class is compared with others: to find out takes longer than most comparisons."""
    if issubclass(kind, BaseModel) or is_dataclass(kind):
        return _of_models
    if issubclass(kind, Mapping):
        return _of_mappings
    if issubclass(kind, SEQUENCES):
        return _of_sequences
    if issubclass(kind, SETS):
        return _of_sets
    return _of_objects if kind.__eq__ is _BY_IDENTITY else _of_values


def members_of(thing: Any) -> Mapping[str, Any]:
    """The fields of a model (those that it does not know, too) or of a dataclass."""
    if not isinstance(thing, BaseModel):
        return {field.name: getattr(thing, field.name) for field in fields(thing)}
    own, known, extra = thing.__dict__, thing.__pydantic_fields__, thing.__pydantic_extra__
    if len(own) > len(known):  # a functools.cached_property is no field
        own = {name: value for name, value in own.items() if name in known}
    return {**extra, **own} if extra else own


def _of_models(a: Any, b: Any) -> str | None:
    if not _of_one_kind(a, b):
        return ""
    found = _of_members(members_of(a), members_of(b))
    if found is not None or not isinstance(a, BaseModel) or not (a.__pydantic_extra__ or b.__pydantic_extra__):
        return found
    return min(_hidden(a) ^ _hidden(b), default=None)


def _hidden(model: BaseModel) -> set[str]:
    """Values that the model does not know and that have the name of a field, which has another value."""
    extra, own = model.__pydantic_extra__ or {}, model.__dict__
    return {name for name, value in extra.items() if name in own and difference(value, own[name]) is not None}


def _of_mappings(a: Mapping[Any, Any], b: Any) -> str | None:
    return _of_members(a, b) if isinstance(b, Mapping) else _of_values(a, b)


def _of_sequences(a: Sequence[Any], b: Any) -> str | None:
    if not isinstance(b, SEQUENCES):
        return _of_values(a, b)
    if len(a) != len(b) or _of_two_classes(a, b):
        return ""
    kinds = list(map(type, a))
    if PLAIN.issuperset(kinds) and list(a) == list(b) and kinds == list(map(type, b)):
        return None
    return _of_members(dict(enumerate(a)), dict(enumerate(b)))


def _of_sets(a: Set[Any], b: Any) -> str | None:
    if not isinstance(b, SETS) or a != b:
        return _of_values(a, b)
    found = {each: each for each in b}
    return None if all(difference(each, found[each]) is None for each in a) else ""


def _of_objects(a: Any, b: Any) -> str | None:
    if type(a) is type(b) and hasattr(a, "__dict__"):
        return _of_members(vars(a), vars(b))
    return _of_values(a, b)


def _of_two_classes(a: Any, b: Any) -> bool:
    """Of two classes of a user's own (NamedTuples): euros and dollars, though the tuples are equal."""
    return type(a) is not type(b) and type(a) not in SEQUENCES and type(b) not in SEQUENCES


def _of_values(a: Any, b: Any) -> str | None:
    if isinstance(a, Enum) and isinstance(b, Enum) and type(a) is not type(b):
        return ""  # though a StrEnum says that they are equal
    # `!=` of a NaN with itself is the one way to tell it, whether float or Decimal.
    return None if bool(a == b) or bool(a != a and b != b) or _one_moment(a, b) else ""


def _of_members(a: Mapping[Any, Any], b: Mapping[Any, Any]) -> str | None:
    if a.keys() != b.keys():
        return ""
    for name, value in a.items():
        found = difference(value, b[name])
        if found is not None:
            return f"{name}.{found}" if found else str(name)
    return None


def _of_one_kind(a: Any, b: Any) -> bool:
    """Of one class; of a generic model, made for the same, or one of them for anything."""
    if type(a) is type(b):
        return True
    if not (isinstance(a, BaseModel) and isinstance(b, BaseModel)):
        return False
    (plain, made), (other, made_too) = _generic(a), _generic(b)
    return plain is other and all(
        one == two or one is Any or two is Any for one, two in zip(made, made_too, strict=False)
    )


def _generic(model: BaseModel) -> tuple[Any, tuple[Any, ...]]:
    """The class, and what it was made for: nothing, for anything."""
    metadata = model.__pydantic_generic_metadata__
    made = tuple(Any if isinstance(each, TypeVar) else each for each in metadata["args"])
    return metadata["origin"] or type(model), made


def _one_moment(a: Any, b: Any) -> bool:
    """Two datetimes, in the hour that comes twice or never, too, where no other zone's are ever equal (PEP 495)."""
    if not (isinstance(a, datetime) and isinstance(b, datetime)) or a.utcoffset() is None or b.utcoffset() is None:
        return False
    return a.astimezone(UTC) == b.astimezone(UTC)
