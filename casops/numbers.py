"""Numbers that Python would round on its way through a document of another program.

JSON has no limit to a number's digits; pydantic, as most readers do, makes a double of one with a fraction or exponent.
Programs that hold doubles write up to 17 digits, or more that say what the double is: these come to no harm.  An amount
of 19 digits would, without a word, even in a field that the model does not know.

Must not be in here: documents, what follows from it.
"""

from __future__ import annotations

import json
from decimal import Context, Decimal, InvalidOperation
from typing import Final

__all__ = ["check_numbers"]

# The shape of a text: each digit and point is 0, each e is small.  Any number that is not safe has 16 digits or more,
# for a double holds every number of 15 (https://en.cppreference.com/w/cpp/types/numeric_limits/digits10); or it is so
# small (below 1e-307) that a double has fewer digits for it, or none.  Nearly all texts have neither, and this sees it
# at a ninth of what a regular expression costs, which was most of an operation on a document of a megabyte.
_SHAPE: Final = bytes.maketrans(b"123456789.E", b"0000000000e")
_LONG: Final = b"0" * 16
_SMALL: Final = b"0e-000"


def check_numbers(text: str) -> None:
    """Raises ValueError if the JSON text has a number with a fraction or an exponent that no double says."""
    shape = text.encode().translate(_SHAPE)
    if _LONG in shape or _SMALL in shape:
        json.loads(text, parse_float=_check)


def _check(text: str) -> float:
    number = float(text)
    try:
        exact = Decimal(text)
        digits = Context(prec=max(len(exact.as_tuple().digits), 1))
        if Decimal(repr(number)) != exact and digits.create_decimal(number) != exact:
            raise ValueError(f"the number {text:.60} would be rounded to {number!r}; store it as text")
    except InvalidOperation:  # an exponent beyond all bounds
        raise ValueError(f"the number {text:.60} is beyond those that Python reads; store it as text") from None
    return number
