"""Documents as participants of an attempt: their value once their stage is decided, and the two writes
that concern a stage (putting it on, settling it).

Must not be in here: R(i) of the asking operation, other than handing on what was learnt of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from casops.messages import Body as BodyOf
from casops.messages import Insert, Key, Missing, Remove, Replace, Stage, Steps, Stored, StoreRequest, Version
from casops.protocol.environment import Environment, Found
from casops.protocol.fate import Standing, Suspect, cas_of, decide
from casops.protocol.work import Value
from casops.records import StageMeta, check_sound, encode_stage, stage_of
from casops.values import value


class Moved(Exception):
    """What was read has changed while it was being resolved: read again, in the next attempt."""


@value()
class Document:
    """A document as read, and the value it has now that its stage is decided."""

    found: Found
    value: Value
    built_on: bool = False  # the value is that of a committed stage which is still to be moved in
    carries_own: bool = False  # a void stage of the asking operation
    own: Standing | None = None  # R of the asking operation, if deciding the stage moved it

    @property
    def base(self) -> int | None:
        return cas_of(self.found)

    def staged(self, cas: int, stage: Stage) -> Version:
        """This document once `stage` has landed on it."""
        live = not isinstance(self.found, Missing) and self.found.body is not None
        return Version(cas, self.value.body if live else None, stage)


@dataclass(slots=True)
class Asker:
    """Who wants to build on documents."""

    operation_id: str
    known: bool = False  # has R of it been seen?
    dead: set[str] = field(default_factory=set[str])  # its own attempts that can never commit


def resolve(environment: Environment, asker: Asker, key: Key, found: Found) -> Steps[Document]:
    """Decide the fate of the stage a document carries, so that its value can be built on.

    Raises Moved, TimeUp, StoreFailed, Expired.
    """
    if isinstance(found, Missing):
        return Document(found, Value(None))
    check_sound(key, found)
    meta = stage_of(key, found)
    if meta is None or found.stage is None:
        return Document(found, Value(found.body, found.expires))
    own = meta.operation_id == asker.operation_id
    before = Document(found, Value(found.body, meta.expires), carries_own=own)
    if own and meta.attempt in asker.dead:
        return before
    suspect = Suspect(
        meta.operation_id,
        meta.attempt,
        meta.participants,
        meta.operation,
        meta.fingerprint,
        known=own and asker.known,
    )
    # Wound-wait: the older id does not wait for the younger, so that no circle of waiting lasts.
    options = environment.options
    elder = asker.operation_id <= meta.operation_id
    fate = yield from decide(environment, suspect, min(options.poll, options.patience) if elder else options.patience)
    # A stage of one's own operation is no exception; and one proposes from exactly what this left behind.
    standing = fate.standing if own else None
    if not fate.committed:
        return Document(found, before.value, carries_own=own, own=standing)
    value = Value(found.stage.body, meta.expires)
    if (found.body is None) == (value.body is None):
        return Document(found, value, built_on=value.body is not None, own=standing)
    # The stage brings the document into being, or ends it: that is settled before anything is built
    # on it (a store need not be able to do both in one write).
    (reply,) = yield from environment.perform(settling(key, found, committed=True))
    if not isinstance(reply, Stored):
        raise Moved
    expires = None if value.body is None else value.expires
    return Document(Version(reply.cas, value.body, None, expires), Value(value.body, expires), own=standing)


def drop_dead(environment: Environment, asker: Asker, keys: Iterable[Key]) -> Steps[None]:
    """Take the stages of the asker's dead attempts off these documents.  What stays all the same is void."""
    found = yield from environment.read(keys)
    drops: list[StoreRequest] = []
    for key, each in found.items():
        meta = None if isinstance(each, Missing) else stage_of(key, each)
        if meta is not None and meta.operation_id == asker.operation_id and meta.attempt in asker.dead:
            assert isinstance(each, Version)
            drops.append(settling(key, each, committed=False))
    yield from environment.perform(*drops)


def stages_of(meta: StageMeta, documents: Mapping[Key, Document], bodies: Mapping[Key, str | None]) -> dict[Key, Stage]:
    """The stages of one attempt.  Their text is the same for all, but for documents with an expiry of their own."""
    expiries = {key: documents[key].value.expires for key in meta.participants}
    texts = {expires: encode_stage(meta.expiring(expires)) for expires in set(expiries.values())}
    return {key: Stage(texts[expiries[key]], bodies[key]) for key in meta.participants}


def staging(key: Key, document: Document, stage: Stage) -> StoreRequest:
    """The write that puts a stage on a document, if it still is what was read."""
    if isinstance(document.found, Missing):
        return Insert(key, None, stage)
    moved = BodyOf.STAGED if document.built_on else BodyOf.KEEP
    # No expiry while it is staged: a participant must not vanish (its stage remembers it).
    return Replace(key, document.found.cas, moved, stage)


def settling(key: Key, version: Version, *, committed: bool) -> StoreRequest:
    """The write that settles the stage of a version: move it into place, or drop it.

    The document gets back the expiry of its own that the stage remembers.
    """
    check_sound(key, version)
    meta = stage_of(key, version)
    assert meta is not None
    assert version.stage is not None, "there is a stage to settle"
    if not committed:
        return Replace(key, version.cas, BodyOf.KEEP, expires=meta.expires if version.body is not None else None)
    if version.stage.body is not None:
        return Replace(key, version.cas, BodyOf.STAGED, expires=meta.expires)
    if version.body is not None:
        return Remove(key, version.cas)
    return Replace(key, version.cas, BodyOf.KEEP)
