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
from typing import Any, Final

from pydantic import BaseModel, RootModel

from casops.errors import UsageError
from casops.operations import Operation
from casops.sameness import difference

__all__ = ["fingerprint_of", "restorable"]

# One text for equal arguments, for ever: fingerprints are stored.
_to_text: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


def restorable(operation: Operation[Any]) -> tuple[str, Operation[Any]]:
    """Its arguments as JSON, and another operation made of that.

    Raises UsageError if the other one is not the same.
    """
    model = type(operation)
    try:
        # round_trip leaves out computed fields, which are no arguments.
        text = operation.model_dump_json(by_alias=True, round_trip=True, warnings=False)
        again = model.model_validate_json(text)
        where = difference(operation, again)
    except ValueError as error:  # of pydantic, or of a codec underneath
        why = " ".join(str(error).split())
        raise UsageError(
            f"the arguments of {model.__name__} do not survive JSON: {why:.300}; nothing happened"
        ) from None
    if where is not None:
        raise UsageError(
            f"the arguments of {model.__name__} do not survive JSON: {where or 'they'} would come back as something "
            "else (a validator that changes what is valid already, a field that is left out, masked or of a subclass); "
            "nothing happened"
        )
    return text, again


def fingerprint_of(operation: Operation[Any]) -> str:
    """64 characters that equal arguments of the same operation have in common, and no others."""
    told = operation.model_dump(mode="json", round_trip=True, warnings=False)
    if any(not field.is_required() for field in type(operation).__pydantic_fields__.values()):
        chosen = operation.model_dump(mode="json", round_trip=True, warnings=False, exclude_defaults=True)
        told = {name: value for name, value in told.items() if name in chosen}
    members = {name: _canonical(getattr(operation, name, value), value) for name, value in told.items()}
    return hashlib.sha256(_to_text([operation.operation_name, members]).encode()).hexdigest()


def _canonical(value: Any, told: Any) -> Any:
    """The JSON that a value became, such that equal values have the same."""
    if isinstance(value, RootModel):
        value = value.root
    if isinstance(told, str) and isinstance(value, Decimal) and value.is_finite():
        return _number(value)
    if isinstance(told, dict) and (isinstance(value, BaseModel) or is_dataclass(value)):
        return {name: _canonical(getattr(value, name, each), each) for name, each in told.items()}
    if isinstance(told, dict) and isinstance(value, Mapping) and len(value) == len(told):
        return dict(zip(told, map(_canonical, value.values(), told.values()), strict=True))
    if isinstance(told, list) and isinstance(value, list | tuple | set | frozenset) and len(value) == len(told):
        elements = list(map(_canonical, value, told))
        return sorted(elements, key=_to_text) if isinstance(value, set | frozenset) else elements
    return told


def _number(value: Decimal) -> str:
    """One text for equal numbers.  Not by `normalize`, which rounds to the precision of its context."""
    sign, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int)  # it is finite
    text = "".join(map(str, digits)).lstrip("0")
    short = text.rstrip("0")
    return f"{'-' if sign else ''}{short}E{exponent + len(text) - len(short)}" if short else "0"
