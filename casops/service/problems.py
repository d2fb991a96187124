"""Errors as HTTP tells them: problem documents (RFC 9457), each with the id, whether it happened, whether to ask again.

The status codes for keys are those of the IETF draft "Idempotency-Key".

Must not be in here: FastAPI.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict
from pydantic_core import to_json
from starlette.responses import Response

from casops import errors
from casops.errors import CasOpsError, Declined
from casops.wire import PROBLEM_URN, ProblemKind

MEDIA_TYPE: Final = "application/problem+json"

# Status and title of each kind.
KINDS: Final[Mapping[ProblemKind, tuple[int, str]]] = {
    "key-missing": (400, "The Idempotency-Key header is missing"),
    "key-invalid": (400, "The operation id is not valid"),
    "header-invalid": (400, "A header is not valid"),
    "body-invalid": (400, "The body does not fit the operation"),
    "path-unknown": (404, "There is nothing at this path"),
    "method-unknown": (405, "This path does not take this method"),
    "operation-unknown": (404, "There is no such operation"),
    "outcome-unheard": (404, "Nothing is known of this operation, or not yet"),
    "body-late": (408, "The body did not arrive in time"),
    "in-progress": (409, "The operation is still in progress"),
    "expired": (410, "The operation id has expired"),
    "body-too-large": (413, "The body is too large"),
    "operation-mismatch": (422, "The key belongs to another operation"),
    "declined": (422, "The operation was declined"),
    "cancelled": (422, "The operation was cancelled"),
    "usage": (422, "The operation cannot be carried out as it was asked for"),
    "headers-too-large": (431, "The headers are too large"),
    "business-error": (500, "The operation failed unexpectedly"),
    "invariant-violation": (500, "What is stored for this operation cannot be right"),
    "store-unavailable": (503, "The store is not available"),
    "outcome-unknown": (503, "The outcome is not known yet"),
    "contended": (503, "Too many others were at work on the same documents"),
    "too-busy": (503, "Too much is in flight"),
}

# The most special class first: each error is told by the first that fits.
_KIND_OF_ERROR: Final[tuple[tuple[type[CasOpsError], ProblemKind], ...]] = (
    (errors.OperationMismatch, "operation-mismatch"),
    (errors.Declined, "declined"),
    (errors.Cancelled, "cancelled"),
    (errors.Expired, "expired"),
    (errors.Contended, "contended"),
    (errors.OutcomeUnknown, "outcome-unknown"),
    (errors.StoreUnavailable, "store-unavailable"),
    (errors.Closed, "store-unavailable"),
    (errors.UsageError, "usage"),
    (errors.InvariantViolation, "invariant-violation"),
    (errors.CasOpsError, "usage"),  # a subclass of an application's own, raised by its `apply`
)

# What is answered so is told when to ask again, if asking again makes sense.
ASK_LATER: Final = frozenset({409, 503})


class ProblemDocument(BaseModel):
    """What went wrong, whether the operation happened, and whether to ask again with the same key."""

    model_config = ConfigDict(extra="forbid")

    type: str
    title: str
    status: int
    detail: str
    operation_id: str | None = None
    happened: Literal["no", "unknown"]
    """By this request; "unknown": it cannot be told (yet)."""
    retry: bool
    """Whether asking again with the same key makes sense; it is always safe."""
    error: str | None = None
    """The class of casops.errors, where there is one."""
    code: str | None = None
    """Why it was declined."""
    details: dict[str, Any] | None = None
    """What belongs to the code."""
    errors: list[dict[str, str]] | None = None
    """What is wrong with the body, place by place."""


class Problem(Exception):
    """An answer that is not a result; raised anywhere below a route and sent by it."""

    def __init__(
        self,
        kind: ProblemKind,
        detail: str,
        *,
        operation_id: str | None = None,
        happened: Literal["no", "unknown"] = "no",
        retry: bool = False,
        **members: Any,
    ) -> None:
        super().__init__(detail)
        status, title = KINDS[kind]
        if operation_id is not None:
            members["operation_id"] = operation_id
        self.document = ProblemDocument(
            type=PROBLEM_URN + kind,
            title=title,
            status=status,
            detail=detail,
            happened=happened,
            retry=retry,
            **members,
        )
        self.headers: dict[str, str] = {}

    def of_unknown(self, why: str) -> None:
        """This request did nothing, but an earlier one with its key may have."""
        self.document.detail += f"; {why}"
        self.document.happened, self.document.retry = "unknown", True

    def of_unseen(self) -> None:
        """Refused before anybody looked for the operation: it may be a retry, cut short, of one that was done."""
        self.of_unknown("what an earlier request with this key did was not looked at")

    def response(self, retry_after: int) -> Response:
        document = self.document
        # Unset, not None: a detail of a refusal may well be None.
        content = to_json(document.model_dump(exclude_unset=True), inf_nan_mode="null")
        response = Response(content, document.status, self.headers, MEDIA_TYPE)
        if document.status in ASK_LATER and document.retry:
            response.headers["Retry-After"] = str(retry_after)
        return response


def of_error(error: CasOpsError) -> Problem:
    """An error of casops as the problem that tells it."""
    kind: ProblemKind = next(kind for cls, kind in _KIND_OF_ERROR if isinstance(error, cls))
    members: dict[str, Any] = {"error": type(error).__name__}
    if isinstance(error, Declined):
        members.update(code=error.code, details=dict(error.details))
    return Problem(
        kind,
        f"declined: {error.code}" if isinstance(error, Declined) else _message(error),
        operation_id=error.operation_id,
        happened="unknown" if error.happened is None else "no",
        retry=error.retry,
        **members,
    )


def _message(error: CasOpsError) -> str:
    """An application's own error need not have called our constructor, nor hold text that can be sent."""
    text: object = error.message
    if not isinstance(text, str) or text == "":
        text = Exception.__str__(error)
    return text.encode(errors="replace").decode()


def of_business(operation_id: str) -> Problem:
    """What a caller is told of an exception nobody expected: nothing of what is inside."""
    return Problem(
        "business-error",
        "The operation's own code, or the server, failed in an unexpected way.  Nothing is recorded as done: the "
        "operation is pending, or was not begun.  Asking again with the same key is safe.",
        operation_id=operation_id,
        happened="unknown",  # it is pending: another call, or a sweep, may yet bring it to its end
        retry=True,
    )
