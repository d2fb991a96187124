"""What may come at any line: Ctrl-C, the end of the process, no memory.

It says nothing of the value whose code it came in, nor of what an earlier call did, so it is passed on as what it is.
pydantic hides it: an exception of any class in a serializer becomes an error of its own, which has the class in its
text only.

Must not be in here: errors that do say something of a value (casops.validating).
"""

from __future__ import annotations

import re
from typing import Final

from pydantic_core import PydanticSerializationError

__all__ = ["raise_interruption"]

# From its first letter on: behind the name of another error anything may stand, what a customer has typed, too.
_HIDDEN: Final = re.compile(
    r"(?:Error serializing to JSON: )?(?:(?:PydanticSerializationError: )?Error calling function `[^`]+`: )+"
    r"(KeyboardInterrupt|SystemExit|MemoryError)(?:: (.*))?",
    re.S,
)


def raise_interruption(error: Exception) -> None:
    """Raise what interrupted a model's code, if that is what this error is about."""
    if isinstance(error, MemoryError):
        raise error
    if not isinstance(error, PydanticSerializationError) or (hidden := _HIDDEN.fullmatch(str(error))) is None:
        return
    name, said = hidden.group(1), hidden.group(2) or ""
    if name == "SystemExit":
        code = int(said) if re.fullmatch("-?[0-9]{1,9}", said) else None if said in ("", "None") else said
        raise SystemExit(code) from error
    raise KeyboardInterrupt if name == "KeyboardInterrupt" else MemoryError(said) from error
