"""What is stored: the result record R(i), the intention, and the stage's description, as JSON.

Every record carries the schema version `v`.  Reading checks all of it: a record that cannot be
read, or that a newer casops wrote, is an InvariantViolation and nothing is guessed.

Must not be in here: decisions.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Final, Literal, NamedTuple, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from casops.errors import InvariantViolation
from casops.messages import INTENTIONS, RESULTS, Key, Version
from casops.values import value

R = TypeVar("R")

# A field that is not known was written by a newer casops.
EXACTLY: Final = ConfigDict(extra="forbid")

# Events kept in a record: the first few tell who began, the last ones how it ended.
HISTORY_HEAD, HISTORY_TAIL = 4, 12

State = Literal["open", "proposed", "committed", "declined", "cancelled"]
FINAL: frozenset[State] = frozenset({"committed", "declined", "cancelled"})


class Participant(NamedTuple):
    """A document an attempt stands on, and the CAS it was read at (None: nothing was there)."""

    collection: str
    id: str
    base: int | None

    @property
    def key(self) -> Key:
        return Key(self.collection, self.id)


@value(kw_only=True)
class Event:
    """One line of an operation's life; for people only, no rule reads it."""

    __pydantic_config__: ClassVar[ConfigDict] = EXACTLY

    at: float  # seconds since 1970 by the worker's own clock, which may be wrong
    worker: str
    what: str
    attempt: str | None = None


@value(kw_only=True)
class Refusal:
    __pydantic_config__: ClassVar[ConfigDict] = EXACTLY

    code: str
    details: dict[str, Any]


@value(kw_only=True)
class Record:
    """R(i): how operation i ended, or how far it is.  `attempt` names the attempt that wrote the
    present state; `result` means something in proposed and committed only (it may be None there)."""

    __pydantic_config__: ClassVar[ConfigDict] = EXACTLY

    v: Literal[1] = 1

    operation: str | None  # the operation's name; None where an id was cancelled that nobody declared
    fingerprint: str | None
    state: State
    attempt: str | None = None
    participants: tuple[Participant, ...] = ()
    loose: tuple[Key, ...] = ()  # documents that may still carry void stages of earlier attempts
    result: Any = None
    refusal: Refusal | None = None
    attempts: int = 0
    settled: bool = False
    history: tuple[Event, ...] = ()

    @property
    def final(self) -> bool:
        return self.state in FINAL

    def becoming(self, event: Event, **changes: Any) -> Record:
        """A changed copy with one more line of history."""
        history = (*self.history, event)
        if len(history) > HISTORY_HEAD + HISTORY_TAIL:
            history = (*history[:HISTORY_HEAD], *history[-HISTORY_TAIL:])
        return replace(self, history=history, **changes)


@value(kw_only=True)
class Intention:
    """ "Operation i with these arguments is to happen." `call` names the one call that declared it."""

    __pydantic_config__: ClassVar[ConfigDict] = EXACTLY

    v: Literal[1] = 1

    operation: str
    fingerprint: str
    arguments: str  # JSON text, kept as it was given
    call: str
    worker: str
    at: float  # seconds since 1970 by the declaring worker's clock
    failures: int = 0
    last_error: str | None = None


@value(kw_only=True)
class StageMeta:
    """Whose stage this is and what has to be read to learn its fate."""

    __pydantic_config__: ClassVar[ConfigDict] = EXACTLY

    v: Literal[1] = 1

    operation_id: str
    operation: str | None
    fingerprint: str | None
    attempt: str
    participants: tuple[Key, ...]
    expires: int | None = None  # the document's own expiry, given back when the stage is settled

    def expiring(self, expires: int | None) -> StageMeta:
        """The same, on a document with this expiry."""
        return self if expires is None else replace(self, expires=expires)


def result_key(operation_id: str) -> Key:
    return Key(RESULTS, operation_id)


def intention_key(operation_id: str) -> Key:
    return Key(INTENTIONS, operation_id)


_RECORDS: Final = TypeAdapter(Record)
_INTENTIONS: Final = TypeAdapter(Intention)
_STAGES: Final = TypeAdapter(StageMeta)
_ADAPTERS: Final[dict[type[object], TypeAdapter[Any]]] = {
    Record: _RECORDS,
    Intention: _INTENTIONS,
    StageMeta: _STAGES,
}


def encode(record: Record | Intention | StageMeta) -> str:
    return _ADAPTERS[type(record)].dump_json(record).decode()


def _decode(adapter: TypeAdapter[R], text: str | None, what: str, operation_id: str | None) -> R:
    try:
        return adapter.validate_json(text or "")
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvariantViolation(
            f"the stored {what} cannot be read ({where}: {first['msg']}): changed by another program, "
            "or written by a newer casops; nothing was changed",
            operation_id=operation_id,
        ) from None


def decode_record(text: str | None, operation_id: str) -> Record:
    return _decode(_RECORDS, text, "result record", operation_id)


def decode_intention(text: str | None, operation_id: str) -> Intention:
    return _decode(_INTENTIONS, text, "intention", operation_id)


def check_sound(key: Key, version: Version) -> None:
    """Before a stage is built on, settled or shown: raises InvariantViolation where the store calls it broken.

    Who only wants to know whether an attempt has landed need not ask: that it has is as true as before.
    """
    if version.stage is not None and version.stage.broken is not None:
        raise InvariantViolation(f"{key}: {version.stage.broken}")


def stage_of(key: Key, version: Version) -> StageMeta | None:
    """The description of the stage a version carries, or None."""
    if version.stage is None:
        return None
    text = version.stage.meta
    meta = _known_stages.get(text)
    return _know_stage(text, _decode(_STAGES, text, f"stage on {key}", None)) if meta is None else meta


# The stages of one operation have one text, which names all its documents, and each is looked at several times.
_known_stages: dict[str, StageMeta] = {}

# Texts kept: those of some operations at once.  One has 13 KB at most (casops.protocol.limits).
MAX_KNOWN: Final = 128


def _know_stage(text: str, meta: StageMeta) -> StageMeta:
    if len(_known_stages) >= MAX_KNOWN:
        _known_stages.clear()
    _known_stages[text] = meta
    return meta


def encode_stage(meta: StageMeta) -> str:
    """As encode; it will be looked at again."""
    text = encode(meta)
    _know_stage(text, meta)
    return text
