"""What callers are told: an outcome, a pending operation, what a sweep did.

Must not be in here: how it is found out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar, cast

from casops.documents import D, Document, Ref
from casops.errors import Cancelled, Declined, DocumentMissing, UsageError
from casops.messages import Key
from casops.records import Event

R_co = TypeVar("R_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Outcome(Generic[R_co]):
    """How an operation ended; the same for everybody who asks, but for `replayed` and `taken_over`."""

    operation_id: str
    status: Literal["applied", "declined", "cancelled"]
    value: R_co | None
    """The result if it was applied; `result` has its type."""
    refusal: Declined | None
    replayed: bool
    """This call found the answer; an earlier one (or another worker) had made it."""
    taken_over: bool
    """This call finished what another worker had begun."""
    attempts: int
    """Attempts of all workers that were written down."""
    history: tuple[Event, ...] = field(default=(), repr=False)
    operation: str | None = None
    """Its name; None where an id was cancelled that nobody had declared."""
    recorded: Any = field(default=None, repr=False, compare=False)
    """The result as JSON holds it, as it was recorded; None if there is none."""

    @property
    def result(self) -> R_co:
        """The result.  Raises Declined or Cancelled if there is none."""
        if self.refusal is not None:
            raise self.refusal.with_traceback(None)  # else it would grow with each who asks
        if self.status == "cancelled":
            raise Cancelled("this operation was cancelled; it did not happen", operation_id=self.operation_id)
        return cast(R_co, self.value)


@dataclass(frozen=True, slots=True)
class Pending:
    """An operation that was declared and has not ended."""

    operation_id: str
    operation: str | None
    since: float | None
    """Seconds since 1970 by the clock of the worker that declared it."""
    worker: str | None
    state: Literal["declared", "open", "proposed", "ended"]
    """ended: it has an outcome, and is not settled (after a sweep that could not)."""
    failures: int
    last_error: str | None
    parked: bool
    """Sweeps leave it alone: its business function raised, or did not come to its end in a sweep, too often."""
    note: str = ""
    """After a sweep: why it was left."""
    history: tuple[Event, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Recovery:
    """What one sweep did."""

    settled: int
    """Operations that had ended and were put away."""
    finished: tuple[Outcome[Any], ...]
    """Operations that were taken over and brought to their end."""
    left: tuple[Pending, ...]
    """What is still pending, each with a note why."""


class Snapshot:
    """Documents as they all were at one instant; a missing one is None."""

    def __init__(self, documents: Mapping[Key, tuple[type[Document], Document | None]]) -> None:
        self._documents = documents

    def get(self, ref: Ref[D]) -> D | None:
        """The document, or None if there was none.  Raises UsageError for one that was not asked for."""
        if ref.key not in self._documents:
            raise UsageError(f"{ref.key} is not part of this snapshot")
        document = self._documents[ref.key][1]
        if document is None:
            return None
        if not isinstance(document, ref.model):
            raise UsageError(f"{ref.key} was asked for as {type(document).__name__}, not {ref.model.__name__}")
        return document

    def __getitem__(self, ref: Ref[D]) -> D:
        document = self.get(ref)
        if document is None:
            raise DocumentMissing(f"there was no document {ref.key}")
        return document

    def __contains__(self, ref: Ref[Any]) -> bool:
        return self.get(ref) is not None

    def __repr__(self) -> str:
        told = ", ".join(f"{key}: {document!r}" for key, (_, document) in self._documents.items())
        return f"Snapshot({told})"

    def __len__(self) -> int:
        return len(self._documents)

    def __iter__(self) -> Iterator[Ref[Any]]:
        return (Ref(model, key.id) for key, (model, _) in self._documents.items())
