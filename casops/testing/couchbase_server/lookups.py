"""Reading parts of a document: fields of its body, its attributes, and those it has by itself.

Must not be in here: changes, the walk along a path (jsontext), what `$document` holds (virtual).
"""

from __future__ import annotations

import struct

from casops.testing.couchbase_server import jsontext
from casops.testing.couchbase_server.answers import Answer
from casops.testing.couchbase_server.documents import Documents, Key, Version
from casops.testing.couchbase_server.paths import Name, PathFailure, Step, parse_path
from casops.testing.couchbase_server.specs import (
    ACCESS_DELETED,
    COUNT,
    EXISTS,
    GET_DOC,
    LOOKUP_FORM,
    LOOKUPS,
    Refused,
    Spec,
    attribute_steps,
    body_text,
    read_specs,
    wrapped,
)
from casops.testing.couchbase_server.virtual import virtual
from casops.testing.couchbase_server.whole import LOCKED, NOT_FOUND, shown_cas
from casops.testing.couchbase_server.wire import Request, Status


def lookup(documents: Documents, key: Key, request: Request) -> Answer:
    try:
        specs = read_specs(request, LOOKUP_FORM, LOOKUPS)
    except Refused as refused:
        return refused.answer
    flags = request.extras[0] if request.extras else 0
    version = documents.find(key)
    if version is None or (version.deleted and not flags & ACCESS_DELETED):
        return NOT_FOUND
    if documents.locked(key):
        return LOCKED
    parts: list[bytes] = []
    failed = False
    for spec in specs:
        try:
            status, found = Status.OK, _found(documents, version, spec)
        except PathFailure as failure:
            status, found = failure.status, b""
            failed = True
        parts.append(struct.pack(">HI", status, len(found)))
        parts.append(found)
    ending = (Status.OK, Status.MULTI_PATH_FAILURE, Status.SUCCESS_DELETED, Status.MULTI_PATH_FAILURE_DELETED)
    return Answer(ending[failed + 2 * version.deleted], shown_cas(documents, key, version), value=b"".join(parts))


def _found(documents: Documents, version: Version, spec: Spec) -> bytes:
    if spec.xattr:
        text, steps = _read_attribute(documents, version, spec.path)
    elif spec.opcode == GET_DOC:
        if not version.body:
            raise PathFailure(Status.PATH_NOT_FOUND)
        return version.body
    else:
        text, steps = body_text(version.body), parse_path(spec.path)
    if spec.opcode == COUNT:
        return str(jsontext.count(text, steps)).encode()
    found = jsontext.get(text, steps)
    return b"" if spec.opcode == EXISTS else found.encode()


def _read_attribute(documents: Documents, version: Version, path: str) -> tuple[str, tuple[Step, ...]]:
    """A text with nothing but the attribute in it, and the steps to what is asked for."""
    name, steps = attribute_steps(path)
    if not name.startswith("$"):
        return wrapped(version.attributes, steps), steps
    second = steps[1].name if len(steps) > 1 and isinstance(steps[1], Name) else None
    text = virtual(name, version, documents, second)
    if text is None:
        raise PathFailure(Status.XATTR_UNKNOWN_VATTR)
    return f'{{"{name}":{text}}}', steps
