"""Changing parts of a document: fields of its body and its attributes, several at once.

A change happens as a whole or not at all.  In this order, as the data service does it: the flags must fit together,
the document must be there (or must not), then the CAS, then the paths one after the other, then what is left.

Must not be in here: the walk along a path (jsontext), changes of a text (changes), what `$document` holds (virtual).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping

from casops.testing.couchbase_server import changes, jsontext
from casops.testing.couchbase_server.answers import Answer, Write
from casops.testing.couchbase_server.documents import Documents, Key, Version, too_big
from casops.testing.couchbase_server.paths import Name, PathFailure, Step, parse_path
from casops.testing.couchbase_server.specs import (
    ACCESS_DELETED,
    BODY_FROM,
    CREATE_AS_DELETED,
    CREATE_PARENTS,
    EXPAND_MACROS,
    INSERT,
    MUTATION_FORM,
    MUTATIONS,
    REMOVE_DOC,
    REVIVE,
    SET_DOC,
    UPSERT,
    Refused,
    Spec,
    attribute_steps,
    body_text,
    read_specs,
    wrapped,
)
from casops.testing.couchbase_server.virtual import swapped, virtual
from casops.testing.couchbase_server.whole import IN_PROGRESS, NOT_FOUND, held
from casops.testing.couchbase_server.wire import U32, Request, Status


def mutate(documents: Documents, key: Key, request: Request) -> Answer | Write:
    try:
        flags, expiry, user_flags = _mutation_extras(request)
        specs = read_specs(request, MUTATION_FORM, MUTATIONS)
        _check_flags(flags, request.cas, specs)
        before = _document_to_change(documents, key, request, flags, user_flags, specs)
    except Refused as refused:
        return refused.answer
    change = Change(documents, key, before)
    for index, spec in enumerate(specs):
        try:
            change.make(index, spec)
        except PathFailure as failure:
            return Answer(Status.MULTI_PATH_FAILURE, value=struct.pack(">BH", index, failure.status))
    return _outcome(documents, key, request, change, flags, expiry)


def _mutation_extras(request: Request) -> tuple[int, int, int]:
    """Flags, expiry and user flags; each may be missing."""
    extras = request.extras
    if len(extras) not in (0, 1, 4, 5, 8, 9):
        raise Refused(Status.INVALID)
    flags = extras[-1] if len(extras) % 4 == 1 else 0
    expiry = U32.unpack_from(extras)[0] if len(extras) >= 4 else 0
    return flags, expiry, U32.unpack_from(extras, 4)[0] if len(extras) >= 8 else 0


def _check_flags(flags: int, cas: int, specs: list[Spec]) -> None:
    new = flags & (UPSERT | INSERT)
    if new == UPSERT | INSERT or (new and cas):
        raise Refused(Status.INVALID)
    if flags & REVIVE and (new or not flags & ACCESS_DELETED):
        raise Refused(Status.INVALID)
    if flags & (ACCESS_DELETED | CREATE_AS_DELETED) and any(spec.opcode == SET_DOC for spec in specs):
        raise Refused(Status.INVALID)


def _document_to_change(
    documents: Documents, key: Key, request: Request, flags: int, user_flags: int, specs: list[Spec]
) -> Version:
    """What is there, or a new document.  Raises Refused."""
    present = documents.find(key)
    buried = present is not None and present.deleted
    seen = present if present is not None and (not buried or flags & ACCESS_DELETED) else None
    if seen is not None and flags & INSERT:
        raise Refused(Status.EXISTS)
    if seen is None:
        return _new_document(flags, user_flags, buried, specs)
    if held(documents, key, request.cas):
        raise Refused(Status.LOCKED)
    if request.cas not in (0, seen.cas, documents.locked(key)):
        raise Refused(Status.EXISTS)
    if flags & REVIVE and not seen.deleted:
        raise Refused(Status.CAN_ONLY_REVIVE_DELETED)
    return seen


def _new_document(flags: int, user_flags: int, buried: bool, specs: list[Spec]) -> Version:
    if not flags & (UPSERT | INSERT):
        raise Refused(Status.NOT_FOUND)
    if not flags & CREATE_AS_DELETED:
        path = next((spec.path for spec in specs if not spec.xattr), "")
        return Version(0, b"[]" if path.startswith("[") else b"{}", user_flags)
    if buried:
        # A new tombstone is an add, and here it fails; with upsert the real one tries that again until it gives up.
        raise Refused(Status.EXISTS if flags & INSERT else Status.TEMPORARY_FAILURE)
    return Version(0, b"", user_flags, deleted=True)


class Change:
    """A document while the specs of one request change it."""

    def __init__(self, documents: Documents, key: Key, before: Version) -> None:
        self._documents = documents
        self.before = before
        self.cas = documents.next_cas()
        self.attributes = dict(before.attributes)
        self.body = before.body
        self.removed = False
        self.values: list[bytes] = []
        self._seqno = documents.seqno(key) + 1
        # Stands for the checksum of the body until the body is known; nobody can have this text.
        self._checksum = json.dumps(f"checksum {self.cas}")

    def make(self, index: int, spec: Spec) -> None:
        """Raises PathFailure."""
        if spec.opcode == SET_DOC:
            self.body = spec.value
        elif spec.opcode == REMOVE_DOC:
            self.removed = True
        elif spec.opcode == BODY_FROM:
            _, steps = attribute_steps(spec.path)
            self.body = jsontext.get(wrapped(self.attributes, steps), steps).encode()
        elif spec.xattr:
            name, steps = attribute_steps(spec.path)
            if name.startswith("$"):
                raise PathFailure(Status.XATTR_CANNOT_MODIFY_VATTR)
            text = self._changed(index, spec, wrapped(self.attributes, steps), steps)
            self._set_attribute(steps[0], text)
        else:
            steps = parse_path(spec.path)
            self.body = self._changed(index, spec, body_text(self.body), steps).encode()

    def _changed(self, index: int, spec: Spec, text: str, steps: tuple[Step, ...]) -> str:
        value = _text_of_value(spec.value)
        if spec.flags & EXPAND_MACROS:
            value = self._expanded(value)
        create = bool(spec.flags & CREATE_PARENTS)
        if spec.opcode != changes.COUNTER:
            return changes.change(text, spec.opcode, steps, value, create)
        text, number = changes.count_up(text, steps, value, create)
        self.values.append(struct.pack(">BHI", index, Status.OK, len(number)) + number.encode())
        return text

    def _set_attribute(self, first: Step, text: str) -> None:
        """Take the attribute out of `{"name":value}`, or remove it where that is `{}`."""
        assert isinstance(first, Name)
        if text == "{}":
            self.attributes.pop(first.name, None)
        else:
            self.attributes[first.name] = text[len(first.text) + 4 : -1]

    def _expanded(self, value: str) -> str:
        macro = value.strip('"')
        if macro == "${Mutation.CAS}":
            return json.dumps(swapped(self.cas))
        if macro == "${Mutation.seqno}":
            return json.dumps(f"0x{self._seqno:016x}")
        if macro == "${Mutation.value_crc32c}":
            return self._checksum
        path = macro[2:-1] if macro.startswith("${$document") and macro.endswith("}") else ""
        if path == "":
            raise PathFailure(Status.XATTR_UNKNOWN_MACRO)
        name, _, member = path.partition(".")
        text = virtual(name, self.before, self._documents, member or None)
        if text is None or (member and member not in json.loads(text)):
            raise PathFailure(Status.XATTR_UNKNOWN_VATTR_MACRO)
        return text if not member else json.dumps(json.loads(text)[member])

    def finished_attributes(self, body: bytes) -> Mapping[str, str]:
        if not any(self._checksum in text for text in self.attributes.values()):
            return self.attributes
        checksum = virtual("$document", self.before._replace(body=body), self._documents, "value_crc32c")
        assert checksum is not None
        found = json.dumps(json.loads(checksum)["value_crc32c"])
        return {name: text.replace(self._checksum, found) for name, text in self.attributes.items()}


def _text_of_value(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise PathFailure(Status.VALUE_CANNOT_INSERT) from None


def _outcome(
    documents: Documents, key: Key, request: Request, change: Change, flags: int, expiry: int
) -> Answer | Write:
    before = change.before
    if change.removed:
        if before.deleted:
            return NOT_FOUND
        return (
            Write(documents.tombstone(change.cas, change.finished_attributes(b"")))
            if key not in documents.hanging
            else IN_PROGRESS
        )
    deleted = before.deleted and not flags & REVIVE
    if deleted and change.body:
        return Answer(Status.DELETED_CANNOT_HAVE_VALUE)
    attributes = change.finished_attributes(change.body)
    if too_big(change.body, attributes):
        return Answer(Status.TOO_BIG)
    if key in documents.hanging:
        return IN_PROGRESS
    # A revive that preserves takes the time of the deletion for the expiry, as the real one does.
    lasting = before.expiry if request.preserve_expiry else documents.absolute(expiry)
    version = Version(
        change.cas, change.body, before.flags, documents.now() if deleted else lasting, attributes, deleted
    )
    status = Status.SUCCESS_DELETED if deleted else Status.OK
    return Write(version, status, b"".join(change.values))
