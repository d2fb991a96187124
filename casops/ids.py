"""Operation ids: making them, checking them, and telling how old they are.

An id names one execution for ever and is never reused.  The default is UUIDv7 (RFC 9562, 5.7):
48 bits of milliseconds, then random bits; it sorts by time and can be refused when it is too old.

Must not be in here: what the protocol does about an id.
"""

from __future__ import annotations

import secrets
import time
import uuid

from casops.errors import UsageError

# UTF-8 bytes.  A Couchbase key is at most 246 bytes; this leaves room for a prefix.
MAX_ID_BYTES = 200


def new_operation_id() -> str:
    """A new UUIDv7 in its usual form of 36 characters.  Do not use it for anything else.

    Ids made within one millisecond are not ordered among themselves: nothing here needs that.
    """
    milliseconds = time.time_ns() // 1_000_000
    bits = (milliseconds & (1 << 48) - 1) << 80 | 7 << 76 | secrets.randbits(12) << 64 | 0b10 << 62
    return str(uuid.UUID(int=bits | secrets.randbits(62)))


def check_id(text: object, what: str = "an operation id") -> str:
    """`text` itself if it can be an id.  Raises UsageError otherwise."""
    if not isinstance(text, str):
        raise UsageError(f"{what} must be text, not {type(text).__name__}")
    if not text:
        raise UsageError(f"{what} must not be empty")
    if not text.isprintable():  # control characters, lone surrogates, line separators
        raise UsageError(f"{what} must consist of printable characters: {text[:50]!r}")
    if len(text.encode()) > MAX_ID_BYTES:
        raise UsageError(f"{what} may have {MAX_ID_BYTES} bytes of UTF-8 at most: {text[:50]!r}…")
    return text


def time_of(operation_id: str) -> float | None:
    """Seconds since 1970 that a UUIDv7 in its form of 36 characters carries; None for any other text."""
    if len(operation_id) != 36:
        return None
    try:
        parsed = uuid.UUID(operation_id)
    except ValueError:
        return None
    if parsed.version != 7 or str(parsed) != operation_id.lower():
        return None
    return (parsed.int >> 80) / 1000
