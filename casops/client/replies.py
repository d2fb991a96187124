"""What a reply over HTTP means.

A reply counts only if it repeats the id of its message (`Casops-Message`) and names no operation but the one that was
asked about. Whatever else comes, from a gateway, from a proxy that mixed up two connections, or cut short, is no reply:
the message is lost, and what it did is unknown. "It did not happen" is believed only where it is said: a problem
without its `"happened": "no"` is unknown.

Must not be in here: sockets, decisions about what to do next.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from pydantic import ValidationError

from casops.client.errors import BusinessError
from casops.client.messages import Again, Answer, Fate, Found, Healthy, Lost, Seen, Told
from casops.errors import (
    CasOpsError,
    Contended,
    DocumentExists,
    DocumentMissing,
    Expired,
    InvalidDocument,
    InvariantViolation,
    OperationMismatch,
    OutcomeUnknown,
    StoreUnavailable,
    UsageError,
)
from casops.validating import misfit
from casops.wire import ATTEMPTS, IDEMPOTENCY_KEY, MESSAGE, PROBLEM_URN, REPLAYED, RETENTION, TAKEN_OVER, decode_id

USAGE: dict[str, type[UsageError]] = {
    each.__name__: each for each in (UsageError, DocumentMissing, DocumentExists, InvalidDocument)
}

# What a problem means for the caller, and where asking again makes sense.
MEANING: dict[str, tuple[type[CasOpsError], Again]] = {
    "operation-mismatch": (OperationMismatch, "never"),
    "expired": (Expired, "never"),
    "business-error": (BusinessError, "never"),
    "invariant-violation": (InvariantViolation, "never"),
    "in-progress": (OutcomeUnknown, "here"),
    "contended": (Contended, "here"),
    "outcome-unknown": (OutcomeUnknown, "elsewhere"),
    "store-unavailable": (StoreUnavailable, "elsewhere"),
    "too-busy": (StoreUnavailable, "elsewhere"),
    "body-late": (OutcomeUnknown, "elsewhere"),
    # Another version of the service, or another service: its neighbour may know.
    "operation-unknown": (UsageError, "others"),
    "path-unknown": (UsageError, "others"),
    "method-unknown": (UsageError, "others"),
    "body-invalid": (UsageError, "others"),
    "body-too-large": (UsageError, "others"),
    "headers-too-large": (UsageError, "others"),
    "header-invalid": (UsageError, "others"),
}


def is_reply_to(message_id: str, headers: Mapping[str, str]) -> bool:
    return _header(headers, MESSAGE) == message_id


def read_retention(headers: Mapping[str, str]) -> float | None:
    """Seconds for which the server remembers results, infinity: for ever; None: it does not tell."""
    text = _header(headers, RETENTION)
    if text is None or not (text.isascii() and text.isdigit()):
        return None
    return float(text) or float("inf")


def read_answer(operation_id: str, status: int, headers: Mapping[str, str], body: bytes) -> Fate:
    """What a reply to `POST /operations/{name}` says.  `headers`: names in lower case."""
    if (other := _other_id(operation_id, headers)) is not None:
        return other
    replayed = _header(headers, REPLAYED) == "true"
    taken_over = _header(headers, TAKEN_OVER) == "true"
    attempts = _whole(_header(headers, ATTEMPTS)) or 0
    if status == 200:
        try:
            result = body.decode()
            json.loads(result)
        except (ValueError, RecursionError):
            return Lost("its reply is not JSON", sent=True)
        return Answer("applied", result, None, None, replayed, taken_over, attempts)
    problem = _problem(body)
    kind = _kind(problem)
    if status == 422 and kind == "declined":
        details = problem.get("details")
        if not isinstance(problem.get("code"), str) or not isinstance(details, dict):
            return Lost("a refusal without its code or details", sent=True)
        told = cast("dict[str, Any]", details)
        return Answer("declined", "null", problem["code"], told, replayed, taken_over, attempts)
    if status == 422 and kind == "cancelled":
        return Answer("cancelled", "null", None, None, replayed, taken_over, attempts)
    return _read_problem(operation_id, status, headers, problem, kind)


def read_outcome(operation_id: str, status: int, headers: Mapping[str, str], body: bytes) -> Fate:
    """What a reply to `GET /operations/{id}` says."""
    problem = _problem(body)
    kind = _kind(problem)
    named = problem.get("operation_id")
    if named != operation_id and (named is not None or status == 200):
        return Lost(f"its reply is about another operation: {named!r:.80}", sent=True)
    if status == 404 and kind == "outcome-unheard":
        return Seen(None)
    if status == 200:
        return _read_found(problem)
    return _read_problem(operation_id, status, headers, problem, kind)


def read_health(status: int) -> Fate:
    return Healthy() if status in (200, 204) else Lost(f"it answers {status} when asked for its health", sent=True)


def canonical(answer: Answer) -> str:
    """The same text for the same answer, however a server wrote it down."""
    told = [answer.status, json.loads(answer.result), answer.code, answer.details]
    return json.dumps(told, sort_keys=True, separators=(",", ":"))


def _read_problem(
    operation_id: str, status: int, headers: Mapping[str, str], problem: Mapping[str, Any], kind: str | None
) -> Fate:
    if kind is None:
        return Lost(f"it answered {status} without a problem that is known", sent=True)
    text = str(problem.get("detail") or problem.get("title") or kind)
    said_no = problem.get("happened") == "no"
    if kind in MEANING:
        error, again = MEANING[kind]
    elif kind == "usage" or (said_no and 400 <= status < 500 and problem.get("retry") is not True):
        error, again = USAGE.get(str(problem.get("error")), UsageError), "never"
    else:  # a problem of a newer service
        error, again = OutcomeUnknown, "elsewhere"
    told = error(_without_id(text, operation_id), operation_id=operation_id)
    begun = not said_no and kind != "too-busy"  # that one did nothing: it only cannot tell what others did
    if told.happened is False and not said_no:  # another call may have declared it
        told.happened, told.retry = None, True
    return Told(told, again, _whole(_header(headers, "Retry-After")), begun)


def _read_found(members: Mapping[str, Any]) -> Fate:
    try:
        found = Found.model_validate(members)
    except ValidationError as error:
        return Lost(f"its reply tells no outcome ({misfit(error)})", sent=True)
    needed = {"applied": "result", "declined": "refusal"}.get(found.status)
    if needed is not None and (needed not in members or (needed == "refusal" and found.refusal is None)):
        return Lost(f"its reply says {found.status!r}, but has no {needed}", sent=True)
    return Seen(found)


def _other_id(operation_id: str, headers: Mapping[str, str]) -> Lost | None:
    """The service repeats the key as well.  A proxy may have dropped it, but not changed it."""
    named = _header(headers, IDEMPOTENCY_KEY)
    try:
        same = named is None or decode_id(named) == operation_id
    except UsageError:
        same = False
    return None if same else Lost(f"its reply is about another operation: {named:.80}", sent=True)


def _without_id(text: str, operation_id: str) -> str:
    """Our errors end with the id themselves."""
    return text.removesuffix(f" [operation {operation_id}]")


def _problem(body: bytes) -> Mapping[str, Any]:
    try:
        members: Any = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", members) if isinstance(members, dict) else {}


def _kind(problem: Mapping[str, Any]) -> str | None:
    name = problem.get("type")
    return name.removeprefix(PROBLEM_URN) if isinstance(name, str) and name.startswith(PROBLEM_URN) else None


def _header(headers: Mapping[str, str], name: str) -> str | None:
    return headers.get(name.lower())


def _whole(text: str | None) -> int | None:
    """Seconds of Retry-After and the like.  A date would need a clock that is right; it counts as not said."""
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 10 else None
