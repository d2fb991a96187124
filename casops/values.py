"""`value`: classes of plain values, of which casops makes some hundred for each operation.

Must not be in here: any such class.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

__all__ = ["value"]

C = TypeVar("C")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value(*, kw_only: bool = False) -> Callable[[type[C]], type[C]]:
    """A dataclass with slots, equal and hashed by its fields, that nobody may change.

    Type checkers see to that.  A frozen dataclass would at run time, too, but it takes three times as long to make.
    """
    return dataclass(slots=True, unsafe_hash=True, kw_only=kw_only)
