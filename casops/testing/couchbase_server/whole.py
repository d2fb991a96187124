"""Requests for whole documents: read, write, remove, touch, lock.

Each function looks at the documents and gives an `Answer`, or a `Write` that the caller makes durable or not.

Must not be in here: sockets, sub-documents.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from casops.testing.couchbase_server.answers import Answer, Write
from casops.testing.couchbase_server.documents import (
    NO_ATTRIBUTES,
    Documents,
    Key,
    Version,
    too_big,
)
from casops.testing.couchbase_server.wire import U16, U32, U64, Opcode, Request, Status

Handler = Callable[[Documents, Key, Request], Answer | Write]

ALL_ONES = 2**64 - 1
NOT_FOUND: Final = Answer(Status.NOT_FOUND)
INVALID: Final = Answer(Status.INVALID)
LOCKED: Final = Answer(Status.LOCKED)
IN_PROGRESS: Final = Answer(Status.SYNC_WRITE_IN_PROGRESS)

# Seconds a lock lasts: the default (0) and the longest, which is taken instead of anything longer.
LOCK_DEFAULT, LOCK_LONGEST = 15, 30


def held(documents: Documents, key: Key, cas: int) -> bool:
    """Locked, and not by whoever asks."""
    lock = documents.locked(key)
    return lock not in (0, cas)


def shown_cas(documents: Documents, key: Key, version: Version) -> int:
    """A lock hides the CAS: who does not hold it cannot write anyway."""
    return ALL_ONES if documents.locked(key) else version.cas


# ---- reading


def get(documents: Documents, key: Key, request: Request) -> Answer:
    version = documents.live(key)
    if version is None:
        return NOT_FOUND
    return Answer(Status.OK, shown_cas(documents, key, version), U32.pack(version.flags), version.body)


def observe(documents: Documents, key: Key, request: Request) -> Answer:
    """Whether a document exists: 1 (stored), 0x80 (nothing there), 0x81 (a tombstone)."""
    version = documents.find(key)
    state = 0x80 if version is None else 0x81 if version.deleted else 0x01
    cas = 0 if version is None else version.cas
    return Answer(Status.OK, value=request.value + struct.pack(">BQ", state, cas))


def get_meta(documents: Documents, key: Key, request: Request) -> Answer:
    version = documents.find(key)
    if version is None:
        return NOT_FOUND
    extras = struct.pack(">IIIQB", version.deleted, version.flags, version.expiry, version.revision, 0)
    return Answer(Status.OK, shown_cas(documents, key, version), extras)


# ---- writing


def _stored(documents: Documents, request: Request, present: Version | None) -> Answer | Write:
    """A new body over what is there, which keeps its attributes if it is live."""
    if len(request.extras) != 8:
        return INVALID
    flags, expiry = struct.unpack(">II", request.extras)
    live = present is not None and not present.deleted
    attributes = present.attributes if present is not None and live else NO_ATTRIBUTES
    if too_big(request.value, attributes):
        return Answer(Status.TOO_BIG)
    kept = present.expiry if present is not None and live and request.preserve_expiry else documents.absolute(expiry)
    return Write(Version(documents.next_cas(), request.value, flags, kept, attributes))


def set_(documents: Documents, key: Key, request: Request) -> Answer | Write:
    if key in documents.hanging:
        return IN_PROGRESS
    present = documents.live(key)
    if held(documents, key, request.cas):
        return LOCKED
    if request.cas and (failed := _wrong_cas(documents, key, request, present)):
        return failed
    return _stored(documents, request, present)


def _wrong_cas(documents: Documents, key: Key, request: Request, present: Version | None) -> Answer | None:
    """The answer to a request that names another CAS than the document has; None: it is that one."""
    if present is None:
        return NOT_FOUND
    if request.cas not in (present.cas, documents.locked(key)):
        return Answer(Status.EXISTS)
    return None


def add(documents: Documents, key: Key, request: Request) -> Answer | Write:
    if key in documents.hanging:
        return IN_PROGRESS
    if documents.live(key) is not None:
        return Answer(Status.EXISTS)
    return INVALID if request.cas else _stored(documents, request, None)


def replace(documents: Documents, key: Key, request: Request) -> Answer | Write:
    if key in documents.hanging:
        return IN_PROGRESS
    if documents.live(key) is None:
        return NOT_FOUND
    return set_(documents, key, request)


def delete(documents: Documents, key: Key, request: Request) -> Answer | Write:
    present = documents.live(key)
    if present is None:
        return NOT_FOUND
    if key in documents.hanging:
        return IN_PROGRESS
    if held(documents, key, request.cas):
        return LOCKED
    if request.cas and (failed := _wrong_cas(documents, key, request, present)):
        return failed
    return Write(documents.tombstone(documents.next_cas(), present.attributes))


def append(documents: Documents, key: Key, request: Request) -> Answer | Write:
    """Append or prepend; flags, expiry and attributes stay."""
    if key in documents.hanging:
        return IN_PROGRESS
    present = documents.live(key)
    if present is None:
        return Answer(Status.NOT_STORED)
    if held(documents, key, request.cas):
        return LOCKED
    if request.cas and (failed := _wrong_cas(documents, key, request, present)):
        return failed
    parts = (present.body, request.value) if request.opcode == Opcode.APPEND else (request.value, present.body)
    body = b"".join(parts)
    if too_big(body, present.attributes):
        return Answer(Status.TOO_BIG)
    return Write(present._replace(cas=documents.next_cas(), body=body))


def count_up(documents: Documents, key: Key, request: Request) -> Answer | Write:
    """Increment or decrement a number in decimal digits; all ones as expiry: do not create it."""
    if len(request.extras) != 20:
        return INVALID
    delta, initial, expiry = struct.unpack(">QQI", request.extras)
    if key in documents.hanging:
        return IN_PROGRESS
    present = documents.live(key)
    if present is None:
        if expiry == 0xFFFFFFFF:
            return NOT_FOUND
        created = Version(documents.next_cas(), str(initial).encode(), 0, documents.absolute(expiry))
        return Write(created, value=U64.pack(initial))
    if held(documents, key, request.cas):
        return LOCKED
    if not (present.body.isdigit() and len(present.body) <= 20):
        return Answer(Status.DELTA_BAD_VALUE)
    before = int(present.body)
    number = (before + delta) % 2**64 if request.opcode == Opcode.INCREMENT else max(0, before - delta)
    changed = present._replace(cas=documents.next_cas(), body=str(number).encode())
    return Write(changed, value=U64.pack(number))


# ---- touching and locking


def touch(documents: Documents, key: Key, request: Request) -> Answer | Write:
    """Touch, or get and touch.  The same expiry as before changes nothing, not even the CAS."""
    if len(request.extras) != 4:
        return INVALID
    present = documents.live(key)
    if present is None:
        return NOT_FOUND
    if key in documents.hanging:
        return IN_PROGRESS
    if held(documents, key, 0):
        return LOCKED
    expiry = documents.absolute(U32.unpack(request.extras)[0])
    if expiry != present.expiry:
        present = documents.store(key, present._replace(cas=documents.next_cas(), expiry=expiry))
    if request.opcode == Opcode.TOUCH:
        return Answer(Status.OK, present.cas)
    return Answer(Status.OK, present.cas, U32.pack(present.flags), present.body)


def get_and_lock(documents: Documents, key: Key, request: Request) -> Answer:
    present = documents.live(key)
    if present is None:
        return NOT_FOUND
    if key in documents.hanging:
        return IN_PROGRESS
    if documents.locked(key):
        return LOCKED
    asked = U32.unpack(request.extras)[0] if len(request.extras) == 4 else 0
    cas = documents.lock(key, min(asked or LOCK_DEFAULT, LOCK_LONGEST))
    return Answer(Status.OK, cas, U32.pack(present.flags), present.body)


def unlock(documents: Documents, key: Key, request: Request) -> Answer:
    if documents.live(key) is None:
        return NOT_FOUND
    lock = documents.locked(key)
    if not lock:
        return Answer(Status.NOT_LOCKED)
    if request.cas != lock:
        return LOCKED  # clients take it for a wrong CAS
    documents.unlock(key)
    return Answer(Status.OK)


HANDLERS: Final[dict[int, Handler]] = {
    Opcode.GET: get,
    Opcode.GET_REPLICA: get,
    Opcode.OBSERVE: observe,
    Opcode.GET_META: get_meta,
    Opcode.SET: set_,
    Opcode.ADD: add,
    Opcode.REPLACE: replace,
    Opcode.DELETE: delete,
    Opcode.APPEND: append,
    Opcode.PREPEND: append,
    Opcode.INCREMENT: count_up,
    Opcode.DECREMENT: count_up,
    Opcode.TOUCH: touch,
    Opcode.GET_AND_TOUCH: touch,
    Opcode.GET_AND_LOCK: get_and_lock,
    Opcode.UNLOCK: unlock,
}


def observed_key(request: Request) -> bytes | None:
    """OBSERVE carries its key in the value: vbucket, length, key; None if it does not."""
    value = request.value
    if len(value) < 4 or U16.unpack_from(value, 2)[0] != len(value) - 4:
        return None
    return value[4:]
