"""Between the client's callers and its table: operations to texts, answers to outcomes.

Must not be in here: messages, waiting.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pydantic import TypeAdapter, ValidationError

from casops.business import OperationWork, decode_result
from casops.client.messages import Answer, Found
from casops.client.pending import Asked
from casops.client.servers import without_secrets
from casops.errors import Declined, InvariantViolation, UsageError
from casops.ids import check_id
from casops.operations import Operation, result_adapter
from casops.outcome import Outcome, Pending
from casops.records import Event
from casops.validating import misfit

R = TypeVar("R")

# Servers of one client.  Every one is asked before a call gives up.
MOST_SERVERS = 64

_EVENTS = TypeAdapter(tuple[Event, ...])


def check_urls(servers: Iterable[str]) -> list[str]:
    """Base URLs without a slash at their end.  Raises UsageError."""
    if isinstance(servers, str):
        raise UsageError(f"servers must be a list of URLs, not one text: [{without_secrets(servers)!r:.200}]")
    urls = [str(each).rstrip("/") for each in servers]
    if not 1 <= len(urls) <= MOST_SERVERS:
        raise UsageError(f"a client needs 1 to {MOST_SERVERS} servers, not {len(urls)}")
    for url in urls:
        try:
            parts = urlsplit(url)
            right = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
            right = right and not set("?# ") & set(url) and url.isprintable()
        except ValueError:
            right = False
        if not right:
            raise UsageError(
                f"not the URL of a server: {without_secrets(url)!r:.200}; it should look like http://host:8000"
            )
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
        value = _fitting(operation_id, lambda: adapter.validate_json(answer.result))
    return Outcome(
        operation_id=operation_id,
        status=answer.status,
        value=value,
        refusal=refusal_of(operation_id, answer.code, answer.details) if answer.status == "declined" else None,
        replayed=answer.replayed,
        taken_over=answer.taken_over,
        attempts=answer.attempts,
        operation=asked.operation,
        recorded=json.loads(answer.result),
    )


def refusal_of(operation_id: str, code: object, details: Mapping[str, Any] | None) -> Declined:
    refusal = Declined(str(code), **(details or {}))
    refusal.operation_id = operation_id
    return refusal


def looked_up(found: Found, operations: Mapping[str, type[Operation[Any]]]) -> Outcome[Any] | Pending:
    """What a server knows about an id.  A result keeps its JSON form if the operation is not known here.

    Raises InvariantViolation if the result is not of its type.
    """
    operation_id = found.operation_id
    if found.status == "pending":
        return Pending(
            operation_id=operation_id,
            operation=found.operation,
            since=found.since,
            worker=None,  # who it is, and what its function raised, servers do not tell strangers
            last_error=None,
            state=found.state,
            failures=found.failures,
            parked=found.parked,
            history=_history(found),
        )
    value: Any = None
    if found.status == "applied":
        model = None if found.operation is None else operations.get(found.operation)
        value = found.result if model is None else _decoded(operation_id, model, found.result)
    refusal = found.refusal
    return Outcome(
        operation_id=operation_id,
        status=found.status,
        value=value,
        refusal=None if refusal is None else refusal_of(operation_id, refusal.code, refusal.details),
        replayed=True,
        taken_over=False,
        attempts=found.attempts,
        history=_history(found),
        operation=found.operation,
        recorded=found.result,
    )


def _decoded(operation_id: str, model: type[Operation[R]], value: Any) -> R:
    return _fitting(operation_id, lambda: decode_result(result_adapter(model), value))


def _fitting(operation_id: str, decode: Callable[[], R]) -> R:
    try:
        return decode()
    except Exception as error:  # a validator of the application's own may raise anything
        raise InvariantViolation(
            f"it happened, but the result that came does not fit its type here: {misfit(error)}",
            operation_id=operation_id,
        ) from error


def _history(found: Found) -> tuple[Event, ...]:
    try:
        return _EVENTS.validate_json(json.dumps(found.history or []))
    except ValidationError:
        return ()  # for people only; no reason to withhold the outcome
