"""What the OpenAPI document says beside what the models say: headers, problems, the retention.

Must not be in here: behaviour.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from casops import wire
from casops.service.problems import ASK_LATER, KINDS, MEDIA_TYPE, ProblemDocument
from casops.wire import ProblemKind

_PROBLEM_SCHEMA: Final = ProblemDocument.model_json_schema()

# Problems of any request, and those of one that asks for an operation.
ALWAYS: Final[tuple[ProblemKind, ...]] = (
    "header-invalid",
    "headers-too-large",
    "invariant-violation",
    "store-unavailable",
)
ASKING: Final[tuple[ProblemKind, ...]] = (
    "key-missing",
    "key-invalid",
    "body-invalid",
    "body-late",
    "in-progress",
    "expired",
    "body-too-large",
    "operation-mismatch",
    "declined",
    "cancelled",
    "usage",
    "business-error",
    "outcome-unknown",
    "contended",
    "too-busy",
)
TELLING: Final[tuple[ProblemKind, ...]] = ("key-invalid", "in-progress", "outcome-unheard", "too-busy")

_ECHOES: Final = {
    wire.RETRY: "As it was sent.",
    wire.MESSAGE: "As it was sent: which message this is the reply to.",
    wire.RETENTION: "Seconds a result is remembered after the operation has ended; 0: for ever.",
}
_ANSWERED: Final = {
    wire.IDEMPOTENCY_KEY: "The operation id, as it was understood.",
    wire.REPLAYED: '"true" if another request has made this answer.',
    wire.ATTEMPTS: "Attempts that were written down.",
    wire.TAKEN_OVER: '"true" if this request finished what another server had begun.',
}


def retention_text(retention: float) -> str:
    """For people."""
    if not retention:
        return "Results are remembered for ever."
    days = retention / 86_400
    period = f"{days:g} days" if days >= 1 else f"{retention:g} seconds"
    return (
        f"Results are remembered for {period} after the operation has ended.  Do not ask with an id that is older "
        "than half of that; never use an id again for something else."
    )


def description(text: str | None, retention: float) -> str:
    """What is said of an operation: its own words, then what holds for all."""
    return (
        f"{(text or '').strip()}\n\nHappens exactly once for each {wire.IDEMPOTENCY_KEY}, however often it is asked.  "
        f"Whoever asks again with the same key and body gets the same answer.  {retention_text(retention)}  "
        'After a time-out, a 409 or 503, or any problem with `"retry": true`: ask again with the same key.'
    ).strip()


def responses(
    kinds: Iterable[ProblemKind], success: dict[str, Any], *, answered: bool
) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route: success, and each status of these kinds of problems."""
    headers = _headers({**_ECHOES, **(_ANSWERED if answered else {})})
    told: dict[int | str, dict[str, Any]] = {200: {**success, "headers": headers}}
    by_status: dict[int, list[ProblemKind]] = {}
    for kind in kinds:
        by_status.setdefault(KINDS[kind][0], []).append(kind)
    for status, several in sorted(by_status.items()):
        more = headers
        if status in ASK_LATER:
            more = {**headers, **_headers({"Retry-After": "Seconds to wait before asking again."})}
        told[status] = {
            "description": ".  ".join(f"`{kind}`: {KINDS[kind][1]}" for kind in several),
            "content": {MEDIA_TYPE: {"schema": _PROBLEM_SCHEMA}},
            "headers": more,
        }
    return told


def _headers(described: dict[str, str]) -> dict[str, Any]:
    return {name: {"description": text, "schema": {"type": "string"}} for name, text in described.items()}
