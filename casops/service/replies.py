"""Outcomes as HTTP tells them.

A result is the body, alone, exactly as it is recorded: the first answer and every replay are the same JSON.

Must not be in here: errors (problems.py).
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from pydantic_core import to_json
from starlette.responses import Response

from casops import wire
from casops.errors import Cancelled
from casops.outcome import Outcome, Pending
from casops.records import Event
from casops.service.problems import Problem, of_error


class Refusal(BaseModel):
    model_config = ConfigDict(extra="forbid")

    code: str
    details: dict[str, Any]


class OutcomeDocument(BaseModel):
    """How an operation ended, or how far it is."""

    model_config = ConfigDict(extra="forbid")

    operation_id: str
    operation: str | None
    """Its stored name; null where an id was cancelled that nobody had asked for."""
    status: Literal["applied", "declined", "cancelled", "pending"]
    result: Any = None
    """If it was applied."""
    refusal: Refusal | None = None
    """If it was declined."""
    attempts: int | None = None
    """Attempts of all servers that were written down, if it has ended."""
    state: Literal["declared", "open", "proposed", "ended"] | None = None
    """If it is pending: how far."""
    since: float | None = None
    """If it is pending: seconds since 1970 by the clock of the server that declared it."""
    failures: int | None = None
    """If it is pending: how often its function raised.  What it raised is in the servers' logs only."""
    parked: bool | None = None
    """If it is pending: whether sweeps leave it alone, since it raised too often.  Then somebody has to look at it."""
    history: list[Event]


def answer(outcome: Outcome[Any], *, replayed: bool) -> Response:
    """The answer to whoever asked for the operation.  Raises Problem for a refusal."""
    headers = {wire.ATTEMPTS: str(outcome.attempts)}
    if replayed:
        headers[wire.REPLAYED] = "true"
    elif outcome.taken_over:
        headers[wire.TAKEN_OVER] = "true"
    if outcome.status == "applied":
        # Not through a model's own dump: the recorded form has no computed fields and comes back as it was.
        content = to_json(outcome.recorded)
        return Response(content, media_type="application/json", headers=headers)
    problem = refused(outcome)
    problem.headers.update(headers)
    raise problem


def refused(outcome: Outcome[Any]) -> Problem:
    """The problem that tells a recorded refusal."""
    if outcome.refusal is not None:
        return of_error(outcome.refusal)
    return of_error(Cancelled("this operation was cancelled; it did not happen", operation_id=outcome.operation_id))


def tell(found: Outcome[Any] | Pending) -> Response:
    """What is known of an operation, to whoever asks how it went."""
    told = OutcomeDocument(
        operation_id=found.operation_id, operation=found.operation, status="pending", history=list(found.history)
    )
    if isinstance(found, Pending):
        told.state, told.since, told.failures, told.parked = found.state, found.since, found.failures, found.parked
        return _json(told)
    told.status, told.attempts = found.status, found.attempts
    if found.refusal is not None:
        told.refusal = Refusal(code=found.refusal.code, details=dict(found.refusal.details))
    elif found.status == "applied":
        told.result = found.recorded
    return _json(told)


def _json(told: OutcomeDocument) -> Response:
    # Unset, not None: a result may well be None.
    return Response(to_json(told.model_dump(exclude_unset=True)), media_type="application/json")
