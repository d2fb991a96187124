"""What a number that somebody gives as an option must be.

A number of the wrong kind must not become an error in the middle of an operation, or none at all: half a thread, or a
deadline in text.

Must not be in here: the options, and their bounds.
"""

from __future__ import annotations

from typing import Final

from casops.errors import UsageError, shown

__all__ = ["MOST", "check_number", "check_whole"]

# Fifty years of seconds: more is a mistake in the unit, and moments after 2106 are none that Couchbase can hold.
MOST: Final = 50 * 365 * 86_400.0


def check_number(name: str, value: object, *, zero: bool = True, most: float = MOST) -> None:
    """Raises UsageError unless it is a number from zero to `most`, and more than zero if `zero` is not allowed."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise UsageError(f"option {name} must be a number from zero to {most:.0f}, not {shown(value)}")
    if value == 0 and not zero:
        raise UsageError(f"option {name} must be more than zero")


def check_whole(name: str, value: object, least: int) -> None:
    """Raises UsageError unless it is a whole number and at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UsageError(f"option {name} must be a whole number and at least {least}, not {shown(value)}")
