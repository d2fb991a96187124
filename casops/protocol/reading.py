"""Readers: they see committed values only, write nothing and wait for nobody.

A single document.  The stage found on it belongs to attempt (X, a).  If R(X) and X's participants
say committed, the staged body was the value.  Otherwise the old body was the value *when the
document was read*, provided that X was not committed and settled while we looked; so R(X) is read
once more after the participants, and only if it has not moved the answer stands.

Several documents.  Everything the answer depends on (the documents, R(X) and the participants of every stage found on
them) is collected twice.  If nothing moved in between, all of it held at one instant, namely
between the two collects (the double collect of Afek et al., "Atomic snapshots of shared memory",
J. ACM 1993), and the answer is a plain function of it.

Must not be in here: writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from casops.errors import Contended
from casops.messages import Key, Missing, Steps, Version
from casops.protocol.environment import Environment, Found
from casops.protocol.fate import Standing, missing_participants, read_with_participants, standing_of
from casops.protocol.limits import MAX_COLLECTS
from casops.records import StageMeta, check_sound, result_key, stage_of


def read_document(environment: Environment, key: Key) -> Steps[str | None]:
    """The committed body of one document, or None.  Raises TimeUp or StoreFailed."""
    yield from environment.begin()
    found = (yield from environment.read([key]))[key]
    meta = _stage(key, found)
    if meta is None:
        return _body(found)
    record_key = result_key(meta.operation_id)
    while True:
        standing, documents = yield from read_with_participants(environment, meta.operation_id, meta.participants)
        if is_committed(standing, meta.operation_id, meta.attempt, documents):
            return _staged_body(found)
        record = standing.record
        if record is None or record.state != "proposed" or record.attempt != meta.attempt:
            return _body(found)
        again = (yield from environment.read([record_key]))[record_key]
        if isinstance(again, Version) and again.cas == standing.cas:
            return _body(found)
        yield from environment.tick()


def is_committed(standing: Standing, operation_id: str, attempt: str, documents: Mapping[Key, Found]) -> bool:
    """Is this attempt committed, as far as what was read can tell?"""
    record = standing.record
    if record is None or record.attempt != attempt:
        return False
    if record.state == "proposed":
        return not missing_participants(record, operation_id, documents)
    return record.state == "committed"


def read_snapshot(environment: Environment, keys: Sequence[Key]) -> Steps[dict[Key, str | None]]:
    """The committed bodies of all documents at one instant.

    Raises Contended if they kept changing, TimeUp or StoreFailed.
    """
    yield from environment.begin()
    closure: set[Key] = set(keys)
    before: dict[Key, Found] | None = None
    for _ in range(MAX_COLLECTS):
        now = yield from environment.read(sorted(closure))
        needed = closure.union(*(_depends_on(key, now[key]) for key in keys))
        if needed == closure:
            one_read = len(closure) == 1  # one read of one document is one instant
            if one_read or now == before:
                return {key: _value(key, now) for key in keys}
            before = now
        else:
            # Start over with what matters now, without what mattered before.
            closure = set(keys).union(*(_depends_on(key, now[key]) for key in keys))
            before = None
        yield from environment.tick()
    raise Contended(f"the documents kept changing during {MAX_COLLECTS} looks; nothing was changed: ask again")


def _depends_on(key: Key, found: Found) -> set[Key]:
    """What has to be read to judge the stage on a document."""
    meta = _stage(key, found)
    return set() if meta is None else {result_key(meta.operation_id), *meta.participants}


def _value(key: Key, found: Mapping[Key, Found]) -> str | None:
    meta = _stage(key, found[key])
    if meta is None:
        return _body(found[key])
    standing = standing_of(found[result_key(meta.operation_id)], meta.operation_id)
    committed = is_committed(standing, meta.operation_id, meta.attempt, found)
    return _staged_body(found[key]) if committed else _body(found[key])


def _stage(key: Key, found: Found) -> StageMeta | None:
    if isinstance(found, Missing):
        return None
    check_sound(key, found)
    return stage_of(key, found)


def _body(found: Found) -> str | None:
    return None if isinstance(found, Missing) else found.body


def _staged_body(found: Found) -> str | None:
    assert isinstance(found, Version)
    assert found.stage is not None
    return found.stage.body
