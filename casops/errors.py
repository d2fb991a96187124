"""What can go wrong, ordered by what a caller asks first: *did it happen, and may I call again with the same id?*

    CasOpsError
    ├── UsageError            did not happen   wrong use: fix the call
    │   ├── DocumentMissing   did not happen   the operation looked up a document that is not there
    │   ├── DocumentExists    did not happen   the operation created a document that is there
    │   ├── InvalidDocument   did not happen   the operation left something behind that its model refuses
    │   └── Closed            not by this call it was closed before; ask again with the same id at one that is open
    ├── OperationMismatch     did not happen   this id belongs to an operation with other arguments
    ├── Expired               cannot be told   the id is too old (or from the future); never ask with it again
    ├── Declined              did not happen   the business said no; recorded, every caller gets the same
    ├── Cancelled             did not happen   somebody called cancel(id); final
    ├── Contended             did not happen   bounded tries used up; ask again with the same id
    ├── OutcomeUnknown        unknown          ask again with the same id: it is safe
    ├── StoreUnavailable      not by this call the store is away, full or not allowed; ask again with the same id
    └── InvariantViolation    unknown          a stored record says what it must never say; stop and look

An exception of the business code itself passes through unchanged, with a note: it did not happen,
it stays pending, and asking again with the same id is safe.

Where another call has declared the operation, or took it over, a UsageError or Contended of this one cannot say
"did not happen": the operation stays pending and may succeed yet.  Such an error has `happened` None and a note.

Every error can be pickled and carries `operation_id` (None where there is none).

Must not be in here: anything but the errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, TypeVar

__all__ = [
    "Cancelled",
    "CasOpsError",
    "Closed",
    "Contended",
    "Declined",
    "DocumentExists",
    "DocumentMissing",
    "Expired",
    "InvalidDocument",
    "InvariantViolation",
    "OperationMismatch",
    "OutcomeUnknown",
    "StoreUnavailable",
    "UsageError",
]

E = TypeVar("E", bound="CasOpsError")


def text_of(error: BaseException) -> str:
    """Its class and what it says, as text that can be stored and sent, whatever its own code does."""
    try:
        said = str(error)
    except Exception:  # noqa: BLE001 - an exception of the application's own may have a fault of its own
        said = "(what it says cannot be told)"
    return f"{type(error).__name__}: {said}".encode(errors="replace").decode()


def shown(value: object) -> str:
    """What it looks like in the text of an error, 80 characters at most, whatever its own code does."""
    try:
        return f"{value!r:.80}"
    except Exception:  # noqa: BLE001 - its own __repr__
        return f"a {type(value).__name__}"


def not_asked(error: E) -> E:
    """An error of a call that asked nobody: an earlier one with the same id may have been answered."""
    error.happened = None
    return error


class CasOpsError(Exception):
    """Base of all errors of casops.

    `happened`: False (it did not), None (it cannot be told); it is never True, since an operation
    that happened returns its result.  `retry`: whether asking again with the same id makes sense.
    """

    happened: bool | None = False
    retry: bool = False
    message: str = ""  # an application's own error need not call this constructor
    operation_id: str | None = None

    def __init__(self, message: str, *, operation_id: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.operation_id = operation_id

    def __str__(self) -> str:
        text = self.message if self.message != "" else super().__str__()
        return text if self.operation_id is None else f"{text} [operation {self.operation_id}]"

    def __reduce__(self) -> tuple[Any, ...]:
        # Keyword arguments do not survive the default pickling of exceptions: rebuild, then restore.
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(cls: type[CasOpsError], args: tuple[Any, ...], state: dict[str, Any]) -> CasOpsError:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(state)
    return error


class UsageError(CasOpsError, ValueError):
    """The call cannot be right, whatever the store holds: mend it, then ask again, with the same id if there was one.

    It did not happen, and nothing is left pending, unless `happened` is None: then nobody has looked (after a fork, in
    another event loop), or another call has declared the operation, which may succeed yet.
    """


class DocumentMissing(UsageError, LookupError):
    """The operation looked up a document that does not exist (`documents.get` asks without raising).

    Nothing is recorded: once there is one, the same id may happen.  To refuse for good, raise Declined.
    """


class DocumentExists(UsageError):
    """The operation created a document that exists already.  Nothing is recorded, as with DocumentMissing."""


class InvalidDocument(UsageError):
    """A document or a result that its model refuses, or that would come back from JSON as something else.

    One that an operation left behind: nothing was written and it did not happen; mend the operation, or its model.
    One that is stored and does not fit the model that it is read as: mend the model, or the document, which another
    program may have written.
    """


class Closed(UsageError):
    """The CasOps, client or store was closed before: nothing was asked, and an earlier call may have been.

    Raised by a store before it does anything of what it is asked for.
    """

    happened = None
    retry = True


class OperationMismatch(CasOpsError):
    """The id was used before for another operation or for other arguments: look at it with outcome().

    A new id is for a new operation.  If this was a retry, it would do the operation once more.
    """


class Expired(CasOpsError):
    """The id is older than the retention (or from the future): whether it happened was forgotten."""

    happened = None


class Declined(CasOpsError):
    """Raised by business code to refuse; recorded like a result and replayed to everybody who asks.

    `code`: a short text for programs (of an Enum, its value).  `details`: anything JSON can hold, or that pydantic
    can turn into JSON (a Decimal becomes text); callers always see the JSON form.
    """

    def __init__(self, code: str, /, **details: Any) -> None:
        self.code = str(code.value if isinstance(code, Enum) else code)  # as it is stored
        super().__init__(f"declined: {self.code}")
        self.details: Mapping[str, Any] = details

    def __str__(self) -> str:
        details = ", ".join(f"{name}={shown(value)}" for name, value in self.details.items())
        text = f"declined: {self.code}" + (f" ({details})" if details else "")
        return text if self.operation_id is None else f"{text} [operation {self.operation_id}]"


class Cancelled(CasOpsError):
    """The operation was cancelled before it was committed; it will never happen."""


class Contended(CasOpsError):
    """Others won every try within the bounds; the operation was given up and left nothing behind."""

    retry = True


class OutcomeUnknown(CasOpsError):
    """Time ran out while a write could still be under way.  Asking again with the same id tells."""

    happened = None
    retry = True


class StoreUnavailable(CasOpsError):
    """The store did not take or give what was needed; the message says why.

    This call did not make the operation happen (an earlier call with the same id may have).  If it
    was declared already it is pending, and a sweep may finish it.
    """

    happened = None
    retry = True


class InvariantViolation(CasOpsError):
    """Something stored cannot have been written by this protocol: changed by hand, by another
    program, or by a newer casops."""

    happened = None
