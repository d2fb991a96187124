"""Intentions: many in few documents, so that they can be listed, and declared and forgotten together.

A shard is a document whose fields are intentions:   {"<id>": {"<version>": <the intention>}, …}

The version is part of the path, so that no write needs the CAS of the shard, which moves with every other intention.
Each is a compare-and-swap in itself, for it fails as a whole where a field is not as it names it:

    Insert        insert  <id> = {"<new version>": …}                      fails where the id is
    Replace       remove  <id>.<old version>, insert <id>.<new version>    fails where the version is another
    Remove        remove  <id>.<old version>, remove <id>                  likewise
    Forget        remove  <id>                                             fails where there is none

Edits that wait for the same shard go out in one call of at most 16 parts.  It succeeds or fails as a whole; if a field
was not as one of them names it, each is sent by itself.

Must not be in here: sending, locks, documents.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
from collections import deque
from collections.abc import Generator, Sequence
from typing import Any, Final, TypeAlias

from casops.messages import (
    Entry,
    Exists,
    Forget,
    Insert,
    Mismatch,
    Missing,
    Page,
    Read,
    Refused,
    Remove,
    Replace,
    Reply,
    Scan,
    Stored,
    Version,
)
from casops.stores.couchbase_calls import Answer, Call, Calls
from casops.stores.couchbase_documents import Steps, refusal
from casops.stores.couchbase_errors import Meaning, Trouble
from casops.stores.couchbase_places import SHARDS, Place, Settings, id_at, path_of, shard_of
from casops.stores.couchbase_specs import add_field, drop_field, field, whole

__all__ = ["Edit", "Intentions", "Lane"]

EditRequest: TypeAlias = Insert | Replace | Remove | Forget

log = logging.getLogger("casops")

# What Couchbase takes in one sub-document call.
MAX_PARTS: Final = 16

# What comes of a field that no intention of ours is in.
DAMAGED: Final = (ValueError, AttributeError, TypeError, RecursionError)

_CURSOR: Final = re.compile(r"|[0-9]{1,2}")

_FULL: Final = (
    "there are so many pending operations that no more can be declared (a shard of intentions has reached 20 MiB): "
    "run recover(), look at pending()"
)


class Edit:
    """A write of one intention, on its way."""

    __slots__ = ("parts", "reply", "request", "version")

    def __init__(self, request: EditRequest) -> None:
        self.request = request
        self.reply: Reply | None = None
        # Nobody has had this number before: it is drawn from 2^62.  (The CAS of the intention, see the head.)  All have
        # as many digits, so that what replaces a text of its own length has room in a shard that is full.
        self.version = secrets.randbits(62) + 10**18
        self.parts = self._parts()

    def succeeded(self, cas: int) -> None:
        versioned = isinstance(self.request, Insert | Replace)
        self.reply = Stored(self.version if versioned else cas)

    def failed(self, trouble: Trouble) -> None:
        """What it means that this edit, sent by itself, failed."""
        request = self.request
        if trouble.meaning is Meaning.FIELD_EXISTS and isinstance(request, Insert):
            self.reply = Exists()
        elif trouble.meaning in (Meaning.FIELD_MISSING, Meaning.MISSING):
            self.reply = Missing() if isinstance(request, Forget) else Mismatch()
        elif trouble.meaning is Meaning.TOO_LARGE:
            self.reply = Refused(_FULL)
        else:
            self.reply = refusal(trouble)

    def _parts(self) -> tuple[Any, ...]:
        request = self.request
        path = path_of(request.key.id)
        if isinstance(request, Forget):
            return (drop_field(path),)
        if isinstance(request, Remove):
            return drop_field(f"{path}.{_name(request.cas)}"), drop_field(path)
        if request.ttl is not None or not isinstance(request.body, str) or request.stage is not None:
            raise AssertionError(f"a bug in casops: an intention has a body and nothing else ({request.key})")
        if isinstance(request, Insert):
            return (add_field(path, f'{{"{_name(self.version)}":{request.body}}}'),)
        old, new = f"{path}.{_name(request.cas)}", f"{path}.{_name(self.version)}"
        return drop_field(old), add_field(new, request.body)


class Lane:
    """Edits that wait for one shard; whoever holds its lock takes some and carries them out."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.waiting: deque[Edit] = deque()

    def take(self) -> list[Edit]:
        """The next edits, as many as one call can have."""
        taken: list[Edit] = []
        parts = 0
        while self.waiting and parts + len(self.waiting[0].parts) <= MAX_PARTS:
            taken.append(self.waiting.popleft())
            parts += len(taken[-1].parts)
        return taken


class Intentions:
    """Serves requests for intentions."""

    def __init__(self, settings: Settings, calls: Calls) -> None:
        self._calls = calls
        self.lanes = [Lane(settings.shard(number)) for number in range(SHARDS)]

    def lane_of(self, request: EditRequest) -> Lane:
        return self.lanes[shard_of(request.key.id)]

    def carry_out(self, lane: Lane, edits: Sequence[Edit]) -> Generator[Call, Answer | Trouble, None]:
        """Give each edit its reply."""
        parts = [part for edit in edits for part in edit.parts]
        answer = yield from self._change(lane.place, parts)
        if isinstance(answer, Answer):
            for edit in edits:
                edit.succeeded(answer.cas)
        elif len(edits) == 1:
            edits[0].failed(answer)
        elif answer.meaning in (Meaning.FIELD_EXISTS, Meaning.FIELD_MISSING, Meaning.TOO_LARGE):
            for edit in edits:  # certainly none of them was done
                yield from self.carry_out(lane, [edit])
        else:
            for edit in edits:
                edit.failed(answer)

    def serve(self, request: Read | Scan) -> Steps:
        """The calls for a request that writes nothing."""
        if isinstance(request, Scan):
            return (yield from self._scan(request))
        place = self.lanes[shard_of(request.key.id)].place
        answer = yield self._calls.look(place, (field(path_of(request.key.id)),))
        if isinstance(answer, Trouble):
            return Missing() if answer.meaning is Meaning.MISSING else refusal(answer, place)
        if answer.fields[0] is None:
            return Missing()
        try:
            entry = _entry(request.key.id, json.loads(answer.fields[0]))
        except DAMAGED as error:
            return _damaged(place, error)
        return Version(entry.cas, entry.body) if entry else Missing()

    def _change(self, place: Place, parts: Sequence[Any]) -> Generator[Call, Answer | Trouble, Answer | Trouble]:
        answer = yield self._calls.change_fields(place, parts)
        inserts = any(len(part) == 6 for part in parts)
        if isinstance(answer, Answer) or answer.meaning is not Meaning.MISSING or not inserts:
            return answer
        made = yield self._calls.insert(place, "{}")
        if isinstance(made, Trouble) and made.meaning is not Meaning.EXISTS:
            return made
        return (yield self._calls.change_fields(place, parts))

    def _scan(self, request: Scan) -> Steps:
        """A page: all of one shard, which can only be read as a whole.  The cursor is the number of the shard."""
        if not _CURSOR.fullmatch(request.cursor) or (shard := int(request.cursor or "0")) >= SHARDS:
            return Refused(f"no page of this store gave the cursor {request.cursor!r}")
        answer = yield self._calls.look(self.lanes[shard].place, (whole(),))
        if isinstance(answer, Trouble) and answer.meaning is not Meaning.MISSING:
            return refusal(answer, self.lanes[shard].place)
        text = None if isinstance(answer, Trouble) else answer.fields[0]
        try:
            entries = () if text is None else _entries(json.loads(text))
        except DAMAGED as error:
            return _damaged(self.lanes[shard].place, error)
        return Page(entries, None if shard + 1 == SHARDS else str(shard + 1))


def _entries(fields: dict[str, dict[str, Any]]) -> tuple[Entry, ...]:
    found: list[Entry] = []
    for name, versions in fields.items():
        id = id_at(name)
        try:
            entry = _entry(id, versions)
        except DAMAGED:
            log.error("another program changed the intention of operation %s, which is left out: %.99r", id, versions)
            continue
        if entry is not None:
            found.append(entry)
    return tuple(found)


def _damaged(place: Place, error: Exception) -> Refused:
    why = f"{type(error).__name__}: {error}"
    return Refused(
        f"the intentions in {place.scope}.{place.collection} {place.key} were changed by another program ({why})"
    )


def _name(version: int) -> str:
    return f"v{version}"  # not digits alone, which some paths take for an index


def _entry(id: str, versions: dict[str, Any]) -> Entry | None:
    """The intention in a field, or None where another program has emptied it."""
    for name, intention in versions.items():
        return Entry(id, int(name[1:]), json.dumps(intention, ensure_ascii=False, separators=(",", ":")))
    return None
