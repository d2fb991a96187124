"""Between the client's callers and its table: operations to texts, answers to outcomes.

Must not be in here: messages, waiting.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

from pydantic import TypeAdapter, ValidationError

from casops.business import OperationWork, decode_result
from casops.client.messages import Answer
from casops.client.pending import Asked
from casops.errors import Declined, InvariantViolation, UsageError
from casops.ids import check_id
from casops.operations import Operation, result_adapter
from casops.outcome import Outcome, Pending
from casops.records import Event

R = TypeVar("R")

# Servers of one client.  Every one is asked before a call gives up.
MOST_SERVERS = 64


def check_urls(servers: Iterable[str]) -> list[str]:
    """Base URLs without a slash at their end.  Raises UsageError."""
    if isinstance(servers, str):
        raise UsageError(f"servers must be a list of URLs, not one text: [{servers!r}]")
    urls = [str(each).rstrip("/") for each in servers]
    if not 1 <= len(urls) <= MOST_SERVERS:
        raise UsageError(f"a client needs 1 to {MOST_SERVERS} servers, not {len(urls)}")
    for url in urls:
        try:
            parts = urlsplit(url)
            right = parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.query and parts.port != 0
        except ValueError:
            right = False
        if not right:
            raise UsageError(f"not the URL of a server: {url!r:.200}; it should look like http://host:8000")
    if len(set(urls)) < len(urls):
        raise UsageError("a server is named twice")
    return urls


def asked_of(operation: Operation[R], operation_id: str, wall: float) -> tuple[OperationWork[R], Asked]:
    """An operation as the table holds it.  Raises UsageError."""
    work = OperationWork(operation, check_id(operation_id))
    return work, Asked(operation_id, work.name, work.fingerprint, work.arguments, wall)


def outcome_of(asked: Asked, answer: Answer, adapter: TypeAdapter[R]) -> Outcome[R]:
    """Raises InvariantViolation if the result is not of its type."""
    operation_id = asked.operation_id
    value: R | None = None
    if answer.status == "applied":
        try:
            value = adapter.validate_json(answer.result)
        except ValidationError as error:
            raise InvariantViolation(
                f"it happened, but the result that came does not fit its type here: {error}", operation_id=operation_id
            ) from None
    return Outcome(
        operation_id=operation_id,
        status=answer.status,
        value=value,
        refusal=refusal_of(operation_id, answer.code, answer.details) if answer.status == "declined" else None,
        replayed=answer.replayed,
        taken_over=answer.taken_over,
        attempts=answer.attempts,
        operation=asked.operation,
    )


def refusal_of(operation_id: str, code: object, details: Mapping[str, Any] | None) -> Declined:
    refusal = Declined(str(code), operation_id=operation_id)
    refusal.details = dict(details or {})
    return refusal


def looked_up(
    operation_id: str, found: Mapping[str, Any], operations: Mapping[str, type[Operation[Any]]]
) -> Outcome[Any] | Pending:
    """What a server knows about an id.  A result keeps its JSON form if the operation is not known here."""
    status = found["status"]
    name = found.get("operation")
    if status == "pending":
        return Pending(
            operation_id=operation_id,
            operation=name,
            since=found.get("since"),
            worker=found.get("worker"),
            state=found.get("state") or "declared",
            failures=int(found.get("failures") or 0),
            last_error=found.get("last_error"),
            parked=bool(found.get("parked")),
            note=str(found.get("note") or ""),
            history=_history(found),
        )
    value: Any = found.get("result")
    model = operations.get(name) if isinstance(name, str) else None
    if status == "applied" and model is not None:
        try:
            value = decode_result(result_adapter(model), value)
        except ValidationError as error:
            raise InvariantViolation(
                f"it happened, but the result that came does not fit its type here: {error}", operation_id=operation_id
            ) from None
    refusal = cast("dict[str, Any]", found.get("refusal") or {})
    return Outcome(
        operation_id=operation_id,
        status=status,
        value=value if status == "applied" else None,
        refusal=refusal_of(operation_id, refusal.get("code"), refusal.get("details")) if status == "declined" else None,
        replayed=True,
        taken_over=False,
        attempts=int(found.get("attempts") or 0),
        history=_history(found),
        operation=name if isinstance(name, str) else None,
    )


def _history(found: Mapping[str, Any]) -> tuple[Event, ...]:
    try:
        return TypeAdapter(tuple[Event, ...]).validate_json(json.dumps(found.get("history") or []))
    except ValidationError:
        return ()  # for people only; no reason to withhold the outcome
