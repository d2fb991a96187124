"""The arguments of an operation as text, which is declared, sent and restored, and what tells them from others.

The text must give back what it was made of, or a sweep, or a server, would carry out something else than was asked for.

The fingerprint is the same for equal arguments, wherever and whenever it is made: sets have no order, 5 and 5.00 are
one amount.  An argument at its default is left out, so that a new one with a default does not turn retries of old
operations into other ones; inside of an argument nothing is left out, for there a default may be what tells a
card from cash.

Must not be in here: what an operation does.
"""

# It looks into things of every type, so their members' types are not known.
# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import is_dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final, TypeVar

from pydantic import BaseModel, RootModel

from casops.errors import UsageError, text_of
from casops.interruptions import raise_interruption
from casops.operations import Operation
from casops.sameness import KINDS, PLAIN, SEQUENCES, SETS, difference, members_of

__all__ = ["ambiguous", "fingerprint_of", "restored", "text_of_arguments"]

R = TypeVar("R")

# One text for equal arguments, for ever: fingerprints are stored.
_to_text: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


def text_of_arguments(operation: Operation[Any]) -> str:
    """Its arguments as JSON.  Raises UsageError if there is none."""
    try:
        # round_trip leaves out computed fields, which are no arguments.
        return operation.model_dump_json(by_alias=True, round_trip=True, warnings=False)
    except Exception as error:  # noqa: BLE001 - of pydantic, of a codec underneath, of the model's own code
        raise _not_json(operation, error) from None


def restored(operation: Operation[R], text: str) -> Operation[R]:
    """Another operation, made of the text of this one's arguments.  Raises UsageError if it is not the same."""
    model = type(operation)
    try:
        again = model.model_validate_json(text)
        where = difference(operation, again)
    except Exception as error:  # noqa: BLE001 - see text_of_arguments
        raise _not_json(operation, error) from None
    if where is not None:
        raise UsageError(
            f"the arguments of {model.__name__} do not survive JSON: {where or 'they'} would come back as something "
            "else (a validator that changes what is valid already, a field that is left out, masked, of a subclass, or "
            "of a type that does not say what it holds); nothing happened"
        )
    return again


@lru_cache(KINDS)
def ambiguous(model: Any) -> bool:
    """Whether different arguments may have one text, by their types: a union, anything, a model that has subclasses.

    Then the values must be looked at (`restored`); in a retry, too, which needs them for nothing else.
    """
    schema = repr(model.__pydantic_core_schema__)
    several = any(f"'type': '{kind}'" in schema for kind in ("union", "any", "dataclass"))
    return several or schema.count("'type': 'model'") > 1  # one is the operation itself


def fingerprint_of(operation: Operation[Any]) -> str:
    """64 characters that equal arguments of the same operation have in common, and no others.  Raises UsageError."""
    try:
        told = _canonical(operation, operation.model_dump(mode="json", by_alias=False, round_trip=True, warnings=False))
        if isinstance(told, dict):
            model: Any = type(operation)
            for name in _with_defaults(model):
                if name in told and _at_its_default(operation, name):
                    del told[name]
        return hashlib.sha256(_to_text([operation.operation_name, told]).encode()).hexdigest()
    except Exception as error:  # noqa: BLE001 - see text_of_arguments
        raise _not_json(operation, error) from None


def _not_json(operation: Operation[Any], error: Exception) -> UsageError:
    raise_interruption(error)
    why = " ".join(text_of(error).split())
    return UsageError(f"the arguments of {type(operation).__name__} do not survive JSON: {why:.300}; nothing happened")


@lru_cache(KINDS)
def _with_defaults(model: Any) -> tuple[str, ...]:
    """The arguments that have a default by themselves."""
    fields = model.__pydantic_fields__.items()
    return tuple(name for name, f in fields if not (f.is_required() or f.default_factory_takes_validated_data))


def _at_its_default(operation: Operation[Any], name: str) -> bool:
    value = getattr(operation, name)
    default = type(operation).__pydantic_fields__[name].get_default(call_default_factory=True)
    # 5 is not validated where it is the default of a Decimal; but 1 is not True.
    return isinstance(value, bool) == isinstance(default, bool) and difference(value, default) is None


def _canonical(value: Any, told: Any) -> Any:
    """The JSON that a value became, such that equal values have the same.

    Only where it became what it does by itself: a serializer of the user's knows what it tells.
    """
    if type(value) in PLAIN and not isinstance(value, Decimal):
        return told
    while isinstance(value, RootModel):
        value = value.root
    if isinstance(told, str):
        return _number(value, told)
    if isinstance(told, dict) and (isinstance(value, BaseModel) or is_dataclass(value)):
        members = members_of(value)
        return {name: _canonical(members.get(name, each), each) for name, each in told.items()}
    if isinstance(told, dict) and isinstance(value, Mapping) and len(value) == len(told):
        pairs = zip(value.items(), told.items(), strict=True)
        return {_number(key, name): _canonical(each, text) for (key, each), (name, text) in pairs}
    if isinstance(told, list) and isinstance(value, (*SEQUENCES, *SETS)) and len(value) == len(told):
        elements = list(map(_canonical, value, told))
        return sorted(elements, key=_to_text) if isinstance(value, SETS) else elements
    return told


def _number(value: Any, told: str) -> str:
    """What was told, but one text for equal decimal numbers.

    Not by `normalize`, which rounds to the precision of its context.
    """
    if not isinstance(value, Decimal) or not value.is_finite() or told != str(value):
        return told
    sign, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int)  # it is finite
    text = "".join(map(str, digits)).lstrip("0")
    short = text.rstrip("0")
    return f"{'-' if sign else ''}{short}E{exponent + len(text) - len(short)}" if short else "0"
