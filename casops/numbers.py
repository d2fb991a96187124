"""Numbers that Python would round on its way through a document of another program.

JSON has no limit to a number's digits; pydantic, as most readers do, makes a double of one with a fraction or exponent.
Programs that hold doubles write up to 17 digits, or more that say what the double is: these come to no harm.  An amount
of 19 digits would, without a word, even in a field that the model does not know; a whole number where the model has a
float.

Must not be in here: documents, what follows from it.
"""

# It looks into things of every type, so their members' types are not known.
# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import is_dataclass
from decimal import Context, Decimal, InvalidOperation
from typing import Any, Final

from pydantic import BaseModel

from casops.sameness import SEQUENCES, SETS, members_of

__all__ = ["Rounded", "check_numbers"]

# The shape of a text: each digit and point is 0, each e is small.  Any number that is not safe has 16 digits or more,
# for a double holds every number of 15 (https://en.cppreference.com/w/cpp/types/numeric_limits/digits10); or it is so
# small (below 1e-307) that a double has fewer digits for it, or none.  Nearly all texts have neither, and this sees it
# at a ninth of what a regular expression costs, which was most of an operation on a document of a megabyte.
_SHAPE: Final = bytes.maketrans(b"123456789.E", b"0000000000e")
_LONG: Final = b"0" * 16
_SMALL: Final = b"0e-000"

# A double holds every whole number up to here.
_EXACT: Final = 2**53


class Rounded(ValueError):
    """A number would be rounded, or is beyond those that Python reads."""


def check_numbers(text: str, made: object = None) -> None:
    """Raises Rounded if the JSON text has a number that is rounded in what a model made of it.

    With a fraction or an exponent: if no double says it.  A whole number: if its place is taken by a double.
    """
    shape = text.encode().translate(_SHAPE)
    if _LONG not in shape and _SMALL not in shape:
        return
    whole: Counter[int] = Counter()

    def see(digits: str) -> int:
        number = int(digits)
        if abs(number) > _EXACT:
            whole[number] += 1
        return number

    json.loads(text, parse_float=_check, parse_int=see)
    if whole:
        _check_whole(whole, made)


def _check_whole(whole: Counter[int], made: object) -> None:
    doubles: set[float] = set()
    kept: Counter[int | Decimal] = Counter()
    _collect(made, doubles, kept)
    for number in sorted(each for each, times in whole.items() if times > kept[each]):
        with suppress(OverflowError):
            if int(double := float(number)) != number and double in doubles:
                raise Rounded(f"the number {number} would be rounded to {double!r}; store it as text")


def _collect(value: Any, doubles: set[float], kept: Counter[int | Decimal]) -> None:
    """The numbers in what a model made."""
    if isinstance(value, float):
        doubles.add(value)
    elif isinstance(value, int | Decimal):
        kept[value] += 1
    elif isinstance(value, BaseModel) or is_dataclass(value):
        _collect(members_of(value), doubles, kept)
    elif isinstance(value, Mapping):
        for pair in value.items():
            _collect(pair, doubles, kept)
    elif isinstance(value, (*SEQUENCES, *SETS)):
        for each in value:
            _collect(each, doubles, kept)


def _check(text: str) -> float:
    number = float(text)
    if repr(number) == text:
        return number  # as Python writes it, and most others
    try:
        exact = Decimal(text)
        digits = Context(prec=max(len(exact.as_tuple().digits), 1))
        if Decimal(repr(number)) != exact and digits.create_decimal(number) != exact:
            raise Rounded(f"the number {text:.60} would be rounded to {number!r}; store it as text")
    except InvalidOperation:  # an exponent beyond all bounds
        raise Rounded(f"the number {text:.60} is beyond those that Python reads; store it as text") from None
    return number
