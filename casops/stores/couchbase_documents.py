"""Documents and results: from a request of the protocol to calls of the SDK, and from what they give to a reply.

    request           live document                            tombstone (when the first call finds no live one)
    Read              one lookup: stage, expiry, body          no body: a second one tells whether it is deleted
    Insert, no body                                            attribute on a new one, only where nothing is at all
    Replace KEEP      attribute new or gone, by CAS            the same call
    Replace STAGED    body from "b", attribute new or gone     revived in the same way; never with a new stage
    Remove            removed by CAS                           attribute gone

Every generator here yields a Call, is sent an Answer or a Trouble, and returns a Reply.  A result has no
stage, so that it is read and written by the plain, cheaper calls.

What an ordinary program does to a staged document: a change of its body (or expiry) moves the CAS away from "c", which
a Read reports as a stage that is broken.  An insert over a staged tombstone takes the stage along and cannot be told.

Must not be in here: connections, sending, intentions.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import Any, Final, TypeAlias

from casops.messages import (
    RESERVED,
    Body,
    Exists,
    Insert,
    Mismatch,
    Missing,
    Read,
    Refused,
    Remove,
    Replace,
    Reply,
    Stored,
    Unknown,
    Version,
)
from casops.stores.couchbase_calls import FOREVER, LOCKED, SHORT, Answer, Call, Calls, Lifetime
from casops.stores.couchbase_clock import ServerClock
from casops.stores.couchbase_errors import Meaning, Trouble
from casops.stores.couchbase_places import Place, Settings
from casops.stores.couchbase_specs import body_as, body_from, field, put, whole
from casops.stores.couchbase_stages import (
    ATTRIBUTE,
    NO_STAGE,
    STAGED_BODY,
    UNSTAGED,
    WITHOUT,
    stage_in,
    stage_specs,
)

__all__ = ["USUAL_PARTS", "Documents", "Steps", "refusal"]

Steps: TypeAlias = Generator[Call, Answer | Trouble, Reply]
DocumentRequest: TypeAlias = Read | Insert | Replace | Remove

# The server keeps an expiry in 32 bits.
MAX_EXPIRY: Final = 2**32 - 1

USUAL_PARTS: Final = (ATTRIBUTE, field("$document.exptime", hidden=True), whole())
# That there is no body says too little: a live document may be empty.
_DELETED: Final = field("$document.deleted", hidden=True)


class Documents:
    """Serves requests for everything but intentions."""

    def __init__(self, settings: Settings, calls: Calls, clock: ServerClock) -> None:
        self._settings = settings
        self._calls = calls
        self._clock = clock

    def serve(self, request: DocumentRequest) -> Steps:
        """The calls for one request, which casops.stores.rows.check has passed."""
        place = self._settings.place(request.key)
        if isinstance(place, str):
            return Refused(place, lasting=True)
        plain = request.key.collection.startswith(RESERVED)
        if isinstance(request, Read):
            return (yield from self._read_result(place) if plain else self._read(place))
        if isinstance(request, Remove):
            return (yield from self._remove(request, place, plain=plain))
        lifetime: Lifetime | Reply = yield from self._lifetime(request)
        if not isinstance(lifetime, Lifetime):
            return lifetime
        if isinstance(request, Insert):
            return (yield from self._insert(request, place, lifetime))
        if plain:
            return (yield from self._replace_result(request, place, lifetime))
        return (yield from self._replace(request, place, lifetime))

    # --- reading ----------------------------------------------------------------------------

    def _read_result(self, place: Place) -> Steps:
        answer = yield self._calls.get(place)
        if isinstance(answer, Trouble):
            return _no_version(answer, place)
        if answer.cas == LOCKED:
            return Unknown(f"the document {place.key} is locked by another program")
        return Version(answer.cas, text_of(answer.body))

    def _read(self, place: Place) -> Steps:
        answer = yield self._calls.look(place, USUAL_PARTS)
        if isinstance(answer, Answer) and not answer.fields[-1]:
            answer = yield self._calls.look(place, (_DELETED, *USUAL_PARTS))
        if isinstance(answer, Trouble):
            return _no_version(answer, place)
        *deleted, attribute, expires, body = answer.fields
        try:
            stage = None if attribute is None else stage_in(text_of(attribute), answer.cas)
        except (ValueError, RecursionError) as error:
            return Refused(f"the attribute casops of the document {place.key} is of another program: {error}")
        if deleted == [b"true"]:
            return Version(answer.cas, None, stage)
        return Version(answer.cas, text_of(body or b""), stage, int(expires or b"0") or None)

    # --- writing ----------------------------------------------------------------------------

    def _insert(self, request: Insert, place: Place, lifetime: Lifetime) -> Steps:
        if request.body is None:
            specs = stage_specs(request.stage) if request.stage else (UNSTAGED,)
            answer = yield self._calls.insert_hidden(place, specs)
        elif request.stage is None:
            answer = yield self._calls.insert(place, request.body, lifetime)
        else:
            specs = (*stage_specs(request.stage), body_as(request.body))
            answer = yield self._calls.insert_parts(place, specs, lifetime)
        return _written(answer, {Meaning.EXISTS: Exists()})

    def _replace_result(self, request: Replace, place: Place, lifetime: Lifetime) -> Steps:
        body = request.body
        if not isinstance(body, str):
            read = yield self._calls.get(place)
            if isinstance(read, Trouble):
                return _written(read, _MOVED)
            body = text_of(read.body)
        return _written((yield self._calls.replace(place, request.cas, body, lifetime)), _MOVED)

    def _replace(self, request: Replace, place: Place, lifetime: Lifetime) -> Steps:
        after = stage_specs(request.stage) if request.stage else NO_STAGE
        if request.body is Body.KEEP:
            return _written((yield self._calls.mutate_any(place, request.cas, after, lifetime)), _MOVED)
        before: tuple[Any, ...] = (body_from(STAGED_BODY),)
        if isinstance(request.body, str):
            before = (put("casops", f'{{"b":{request.body}}}'), *before)
        specs = (*before, *(after if request.stage else (WITHOUT,)))
        answer = yield self._calls.mutate(place, request.cas, specs, lifetime)
        if isinstance(answer, Trouble) and answer.meaning is Meaning.MISSING and request.stage is None:
            answer = yield self._calls.revive(place, request.cas, specs, lifetime)
        if isinstance(answer, Trouble) and answer.meaning is Meaning.FIELD_MISSING:
            raise AssertionError(f"a bug in casops: there is no staged body to move into place ({request.key})")
        return _written(answer, _MOVED)

    def _remove(self, request: Remove, place: Place, *, plain: bool) -> Steps:
        answer = yield self._calls.remove(place, request.cas)
        if isinstance(answer, Trouble) and answer.meaning is Meaning.MISSING and not plain:
            answer = yield self._calls.mutate_any(place, request.cas, NO_STAGE)
        return _written(answer, _MOVED)

    def _lifetime(self, request: Insert | Replace) -> Generator[Call, Answer | Trouble, Lifetime | Reply]:
        """How long the written version lives, in a way that does not depend on this machine's clock."""
        until = request.expires if isinstance(request, Replace) else None
        if request.ttl is not None:
            if request.ttl < SHORT:
                return Lifetime(short=request.ttl)
            now = yield from self._clock.now()
            if isinstance(now, Unknown | Refused):
                return now
            if isinstance(request, Replace):
                now = max(now, request.cas / 1e9)  # a CAS is the server's clock in nanoseconds, when it was given
            until = math.ceil(now) + request.ttl
        if until is None:
            return FOREVER
        if until > MAX_EXPIRY:
            return Refused(
                f"the lifetime is too long for Couchbase: it would end at {until} seconds since 1970", lasting=True
            )
        # The server takes a small number for seconds from now; as a moment it was over in 1970.
        return Lifetime(until=max(until, SHORT + 1))


_MOVED: Final[dict[Meaning, Reply]] = {
    Meaning.MOVED: Mismatch(),
    Meaning.MISSING: Mismatch(),
    Meaning.ALIVE: Mismatch(),
}


def _no_version(trouble: Trouble, place: Place) -> Reply:
    """What a read that got nothing means."""
    if trouble.meaning is Meaning.MISSING:
        return Missing()
    return refusal(trouble, place)


def _written(answer: Answer | Trouble, certain: dict[Meaning, Reply]) -> Reply:
    """What a write means; `certain`: what answers other than success mean for it."""
    if isinstance(answer, Answer):
        return Stored(answer.cas)
    return certain.get(answer.meaning) or refusal(answer)


def refusal(trouble: Trouble, place: Place | None = None) -> Unknown | Refused:
    """Trouble that says nothing of a version."""
    if trouble.meaning is Meaning.UNKNOWN:
        return Unknown(trouble.why)
    if trouble.meaning is Meaning.TOO_LARGE:
        why = f"too large for Couchbase, which takes 20 MiB of body and stage together: {trouble.why}"
        return Refused(why, lasting=True)
    if trouble.meaning is Meaning.UNFIT:
        why = (
            f"a document that Couchbase does not take (nested deeper than 29 levels, or not quite JSON): {trouble.why}"
        )
        return Refused(why, lasting=True)
    if trouble.meaning is Meaning.NO_COLLECTION:
        where = f"{place.scope}.{place.collection}" if place else "of this document"
        return Refused(
            f"there is no collection {where} in the bucket: create it, or open the store with create=… ({trouble.why})"
        )
    if trouble.meaning is Meaning.REFUSED:
        return Refused(trouble.why)
    return Unknown(f"an answer that does not fit the call: {trouble.why}")


def text_of(body: bytes) -> str:
    """A body as text.  One that is not UTF-8, and so not JSON, becomes a text that no model takes."""
    return body.decode("utf-8", "surrogateescape")
