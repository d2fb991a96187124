"""Everything an ask ever yields, and what can become of a message.

An ask is a generator. It yields one of two requests and is told the time (seconds of a clock that only grows)
when it goes on:

    Send   put this message on its way; does not wait for the reply
    Wait   until something has happened that concerns this ask, or until that time

Nothing else is told: whoever carries messages reports what became of each to the desk (`Desk.replied`, `Desk.lost`),
and the ask looks at its messages. So an early, a late and a doubled reply take the same way.

Must not be in here: any behaviour.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict

from casops.errors import CasOpsError

if TYPE_CHECKING:
    from casops.client.servers import Server

T = TypeVar("T")

# Where asking again makes sense: nowhere, at this server, at any (another one first), at any but this one.
Again: TypeAlias = Literal["never", "here", "elsewhere", "others"]


# --- what can become of a message -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answer:
    """How the operation ended; recorded, and the same for everybody who asks."""

    status: Literal["applied", "declined", "cancelled"]
    result: str = "null"
    """JSON text."""
    code: str | None = None
    details: Mapping[str, Any] | None = None
    replayed: bool = field(default=False, compare=False)
    taken_over: bool = field(default=False, compare=False)
    attempts: int = field(default=0, compare=False)


class Refusal(BaseModel):
    """Of a Found."""

    model_config = ConfigDict(frozen=True)

    code: str
    details: dict[str, Any]


class Found(BaseModel):
    """What a server knows about an id (service/replies.py); members of a newer service are left out."""

    model_config = ConfigDict(frozen=True)

    operation_id: str
    status: Literal["applied", "declined", "cancelled", "pending"]
    operation: str | None = None
    result: Any = None
    refusal: Refusal | None = None
    attempts: int = 0
    state: Literal["declared", "open", "proposed", "ended"] = "declared"
    since: float | None = None
    failures: int = 0
    parked: bool = False
    history: Any = None


@dataclass(frozen=True, slots=True)
class Seen:
    """What a server knows about an id; None: it never heard of it."""

    found: Found | None


@dataclass(frozen=True, slots=True)
class Healthy:
    """A suspect server takes requests again."""


@dataclass(frozen=True, slots=True)
class Told:
    """The server says in its own words that there is no answer (yet)."""

    error: CasOpsError
    again: Again
    pause: float | None = None
    """Seconds it wants to be left alone; None: it did not say."""
    begun: bool = False
    """A server may be at it, or has left it pending: it may happen yet, whatever another one says."""


@dataclass(frozen=True, slots=True)
class Lost:
    """There was no reply, or none that can be this message's."""

    why: str
    sent: bool
    """False: it is certain that nothing of it was sent."""


Fate: TypeAlias = Answer | Seen | Healthy | Told | Lost


# --- messages ---------------------------------------------------------------------------------


class Concern(Protocol):
    """What messages are about: an operation, a question about one, a server's health."""

    @property
    def kind(self) -> str:
        """Round trips of one kind are comparable."""
        ...

    @property
    def method(self) -> str: ...

    @property
    def path(self) -> str: ...

    @property
    def body(self) -> str | None: ...

    @property
    def listeners(self) -> list[Callable[[], None]]:
        """Called when something has happened that concerns it."""
        ...

    def read(self, status: int, headers: Mapping[str, str], body: bytes) -> Fate: ...


@dataclass(eq=False, slots=True)
class Message:
    """One HTTP request.  No two have the same id; a retry is a new message."""

    id: str
    server: Server
    concern: Concern
    headers: Mapping[str, str]
    acknowledges: tuple[str, ...] = ()
    sent_at: float | None = None
    due: float = float("inf")
    """Until when its sender waits for it; it is left running after that all the same."""
    fate: Fate | None = None


@dataclass(frozen=True, slots=True)
class Send:
    message: Message


@dataclass(frozen=True, slots=True)
class Wait:
    until: float
    spread: float = 0.0
    """Up to so many seconds longer, by chance, so that clients that lost the same server do not meet again."""


Steps: TypeAlias = Generator[Send | Wait, float, T]
