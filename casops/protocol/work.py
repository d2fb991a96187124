"""What the protocol knows of business code: given these documents, what is to be written?

Texts go in, texts come out; the other side of this border (models, types, validation) is
casops.business.

Must not be in here: models of users.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias

from casops.messages import Key
from casops.values import value


@value()
class Value:
    """A document as the business sees it: JSON text (None: absent) and its own expiry, if any."""

    body: str | None
    expires: int | None = None


@value()
class Success:
    """`changes` has every document that was looked at, with the body it shall have (None: absent)."""

    changes: Mapping[Key, str | None]
    result: Any  # as JSON holds it


@value()
class Refused:
    """The business said no; true at any instant at which all of `looked_at` are as they were read."""

    code: str
    details: dict[str, Any]
    looked_at: frozenset[Key]


@value()
class Failed:
    """The function raised.  `lasting`: asking again cannot help, so nothing may stay pending."""

    error: BaseException
    lasting: bool
    looked_at: frozenset[Key]


@value()
class Wants:
    """The function looked up documents that were not read yet."""

    keys: frozenset[Key]


Evaluation: TypeAlias = Success | Refused | Failed | Wants


class Work(Protocol):
    """One operation, ready to be executed."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def arguments(self) -> str:
        """JSON text."""
        ...

    @property
    def declared(self) -> tuple[Key, ...]:
        """Documents known to be needed before the function runs."""
        ...

    def evaluate(self, values: Mapping[Key, Value]) -> Evaluation:
        """Run the business function on these documents.  May be called any number of times."""
        ...
