"""What a client tells its application unasked, and what it counts.

Must not be in here: decisions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from casops.errors import InvariantViolation


@dataclass(frozen=True, slots=True)
class Notice:
    """Something the application may want to know.  The log has it too."""

    kind: Literal["suspect", "slow", "recovered", "contradiction"]
    server: str
    text: str
    operation_id: str | None = None
    error: InvariantViolation | None = None
    """Of a contradiction: two different answers came for one id."""


@dataclass(slots=True)
class Counters:
    """What happened since the client was opened."""

    calls: int = 0
    messages: int = 0
    repeated: int = 0
    """Messages that repeated an earlier one, at the same server or another."""
    timeouts: int = 0
    answers: int = 0
    """First answers: operations that were answered."""
    late: int = 0
    """Replies that came after their message had timed out."""
    doubled: int = 0
    """Second answers that were equal to the first."""
    contradictions: int = 0
    """Second answers that were not."""
    foreign: int = 0
    """Replies that were not to the message they came for."""
    unreachable: int = 0
    """Messages of which nothing was sent: no connection."""
    broken: int = 0
    """Messages whose connection broke or whose reply could not be used."""
    suspected: int = 0
    recovered: int = 0
    held_back: int = 0
    """Repetitions that had to wait because the retry budget was used up."""
