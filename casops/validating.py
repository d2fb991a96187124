"""What models make of the values they hold, which business code has assigned: pydantic validates what comes in only.
And what they say of those that do not fit.

Must not be in here: JSON, what follows from it.
"""

# It looks into things of every type, so their members' types are not known.
# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false

from __future__ import annotations

from dataclasses import fields, is_dataclass
from functools import lru_cache
from typing import Any

from pydantic import AliasChoices, AliasPath, BaseModel, RootModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from casops.errors import shown, text_of
from casops.interruptions import raise_interruption
from casops.sameness import KINDS, SEQUENCES, SETS, members_of

__all__ = ["misfit", "validated"]


def validated(value: Any) -> Any:
    """What its model makes of the values that it has now; pydantic takes models inside of it as they are."""
    if isinstance(value, BaseModel):
        members = {name: validated(each) for name, each in members_of(value).items()}
        if isinstance(value, RootModel):
            return type(value).model_validate(members["root"])
        known = type(value).__pydantic_fields__
        called = {name: field.serialization_alias or name for name, field in known.items()}  # as in the JSON text
        if not all(_reads(value, field, called[name], name) for name, field in known.items()):
            return value
        return type(value).model_validate({called.get(name, name): each for name, each in members.items()})
    if is_dataclass(value):
        given = {each.name: validated(getattr(value, each.name)) for each in fields(value) if each.init}
        kind: Any = type(value)
        return _adapter(kind).validate_python(given)
    if type(value) is dict:
        return {name: validated(each) for name, each in value.items()}
    if type(value) in (*SEQUENCES, *SETS):
        return type(value)(map(validated, value))
    return value


_adapter = lru_cache(KINDS)(TypeAdapter)  # it takes a millisecond to make one


def _reads(model: BaseModel, field: FieldInfo, called: str, name: str) -> bool:
    """Whether the field is read by the name that it is written by; else its value would be lost without a word."""
    alias, config = field.validation_alias, model.model_config
    if called == name and (alias is None or config.get("populate_by_name") or config.get("validate_by_name")):
        return True
    read = alias.choices if isinstance(alias, AliasChoices) else [alias]
    return any(each == called or (isinstance(each, AliasPath) and each.path == [called]) for each in read)


def misfit(error: Exception) -> str:
    """One line about what a model does not take; its own validators may have raised anything.

    Raises what says nothing of it, see raise_interruption.
    """
    raise_interruption(error)
    if not isinstance(error, ValidationError):
        return text_of(error)
    first = error.errors(include_url=False)[0]
    where = "".join(f"{part}." for part in first["loc"])[:-1]
    more = error.error_count() - 1
    told = f"{first['msg']} (got {shown(first['input'])})" + (f" and {more} more" if more else "")
    return f"{where}: {told}" if where else told
