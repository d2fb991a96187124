"""How an operation has ended, for who answers its caller and for who settles it.

Must not be in here: deciding, writing.
"""

from __future__ import annotations

from dataclasses import field

from casops.messages import Key, Version
from casops.protocol.fate import Standing
from casops.records import Record
from casops.values import value


@value()
class Ended:
    """A final answer, and what settling can save by knowing."""

    operation_id: str
    standing: Standing
    replayed: bool
    taken_over: bool = False
    staged: dict[Key, Version | None] = field(default_factory=dict[Key, "Version | None"])  # our stages; None: look
    listed: bool = False  # this call knows of an intention that stands

    @property
    def record(self) -> Record:
        assert self.standing.record is not None
        return self.standing.record

    @property
    def put_away(self) -> bool:
        """Is there nothing left to settle, as far as this call knows?"""
        return self.record.settled and not self.listed
