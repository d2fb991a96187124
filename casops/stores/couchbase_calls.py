"""The calls of the Couchbase SDK that a store makes: built here, sent here, and their results made typed here.

The SDK ships no types, so this is the border at which they are asserted again.  It is also the one place that sees
every write: each names a CAS above 0, or inserts a document, or inserts, moves or removes a field by its name
(`fields`: a shard of intentions, where the name of the field is the version).  There is no upsert of a document.

Bodies go through as they are, text to bytes: what is JSON already is not encoded again.

Must not be in here: requests of the protocol, collections and connections, what an error means.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final, NamedTuple

from casops.stores.couchbase_places import Place, Settings
from casops.stores.couchbase_sdk import constants, durability, subdocument
from casops.stores.couchbase_specs import changes_a_field
from casops.values import value

__all__ = ["FOREVER", "LOCKED", "SHORT", "Answer", "Call", "Calls", "Lifetime", "answer", "send", "usable_sdk"]

# Specs: one part of a sub-document call.
Specs = Sequence[Any]

# Statuses of a part of a lookup: it is there; there is no such part; no such virtual attribute in this server.
_THERE: Final = 0
_ABSENT: Final = (192, 208)

# What the server shows as the CAS of a document that somebody has locked.
LOCKED: Final = 2**64 - 1

# Seconds.  The SDK sends a lifetime below this as it is; one from here on it adds to the clock of this machine.
SHORT: Final = 30 * 24 * 3600

_server, _levels = durability.ServerDurability, durability.Durability
_DURABILITY: Final = {
    "none": None,
    "majority": _server(_levels.MAJORITY),
    "majority_and_persist": _server(_levels.MAJORITY_AND_PERSIST_TO_ACTIVE),
    "persist_to_majority": _server(_levels.PERSIST_TO_MAJORITY),
}


class AsIs:
    """A transcoder of the SDK: bytes in, bytes out, marked as JSON."""

    def encode_value(self, value: bytes) -> tuple[bytes, int]:
        return value, constants.FMT_JSON

    def decode_value(self, value: bytes, flags: int) -> bytes:
        return value


AS_IS: Final = AsIs()


class Answer(NamedTuple):
    """What a call that succeeded gave; parts of a lookup that are not there are None."""

    cas: int
    body: bytes
    fields: tuple[bytes | None, ...]


@value()
class Call:
    """One call of one method of an SDK collection."""

    method: str
    place: Place
    arguments: tuple[Any, ...]
    options: dict[str, Any]  # keywords: the SDK's classes for them cost as much as the rest of building a request
    expires: int | None = None  # seconds since 1970

    @property
    def reading(self) -> bool:
        return self.method in ("get", "lookup_in")


class Lifetime(NamedTuple):
    """At most one of the two: seconds from now (below SHORT), or seconds since 1970 by the server's clock."""

    short: int | None = None
    until: int | None = None


FOREVER: Final = Lifetime()


class Calls:
    """Builds the calls, with what all of them have in common."""

    def __init__(self, settings: Settings) -> None:
        self._timeout = timedelta(seconds=settings.timeout)
        self._durability = _DURABILITY[settings.durability]
        self._get: dict[str, Any] = {"timeout": self._timeout, "transcoder": AS_IS}
        self._look: dict[str, Any] = {**self._get, "access_deleted": True}

    # --- reading ----------------------------------------------------------------------------

    def get(self, place: Place) -> Call:
        return Call("get", place, (), self._get)

    def look(self, place: Place, specs: Specs) -> Call:
        """Parts of a document, also of a tombstone."""
        return Call("lookup_in", place, (specs,), self._look)

    # --- writing ----------------------------------------------------------------------------

    def insert(self, place: Place, body: str, lifetime: Lifetime = FOREVER) -> Call:
        """A live document where none is."""
        return self._write("insert", place, (body.encode(),), lifetime, insert=True)

    def replace(self, place: Place, cas: int, body: str, lifetime: Lifetime = FOREVER) -> Call:
        """Another body for a live document without a stage."""
        return self._write("replace", place, (body.encode(),), lifetime, cas=cas)

    def remove(self, place: Place, cas: int) -> Call:
        """A live document becomes a tombstone."""
        return self._write("remove", place, (), FOREVER, cas=cas)

    def mutate(self, place: Place, cas: int, specs: Specs, lifetime: Lifetime = FOREVER) -> Call:
        """Change a live document."""
        return self._write("mutate_in", place, (specs,), lifetime, cas=cas)

    def mutate_any(self, place: Place, cas: int, specs: Specs, lifetime: Lifetime = FOREVER) -> Call:
        """Change the attributes of a document or of a tombstone."""
        more = {"access_deleted": True}
        return self._write("mutate_in", place, (specs,), lifetime, cas=cas, **more)

    def revive(self, place: Place, cas: int, specs: Specs, lifetime: Lifetime = FOREVER) -> Call:
        """A tombstone becomes a live document.

        The server checks this CAS, but not atomically: another write of the tombstone with the same CAS
        may be acknowledged and then overwritten.  So this is for what is decided only, and brings no stage.
        (preserve_expiry, which no call here uses, would take the time of the deletion for the expiry.)
        """
        more = {"access_deleted": True, "revive_document": True}
        return self._write("mutate_in", place, (specs,), lifetime, cas=cas, **more)

    def insert_parts(self, place: Place, specs: Specs, lifetime: Lifetime = FOREVER) -> Call:
        """A live document where no live one is, made of its parts."""
        more = {"store_semantics": subdocument.StoreSemantics.INSERT}
        return self._write("mutate_in", place, (specs,), lifetime, insert=True, **more)

    def insert_hidden(self, place: Place, specs: Specs) -> Call:
        """A tombstone with attributes where nothing is, not even a tombstone."""
        more = {"store_semantics": subdocument.StoreSemantics.INSERT, "create_as_deleted": True}
        return self._write("mutate_in", place, (specs,), FOREVER, insert=True, **more)

    def change_fields(self, place: Place, specs: Specs) -> Call:
        """Insert fields that are not there or remove some that are: all of it, or nothing."""
        safe = all(changes_a_field(spec) for spec in specs)
        return self._write("mutate_in", place, (specs,), FOREVER, fields=safe)

    def _write(
        self,
        method: str,
        place: Place,
        arguments: tuple[Any, ...],
        lifetime: Lifetime,
        *,
        cas: int | None = None,
        insert: bool = False,
        fields: bool = False,
        **more: Any,
    ) -> Call:
        named = cas is not None and 0 < cas < LOCKED
        # Not an assert statement: python -O must not turn this into silent damage.
        if [named, insert, fields].count(True) != 1 or (cas is not None and not named):
            raise AssertionError(f"a bug in casops: a blind write ({method} of {place} with CAS {cas})")
        if cas is not None:
            more["cas"] = cas
        if method in ("insert", "replace", "mutate_in"):
            more["transcoder"] = AS_IS
        if lifetime.short is not None:
            more["expiry"] = timedelta(seconds=lifetime.short)
        more |= {"timeout": self._timeout, "durability": self._durability}
        return Call(method, place, arguments, more, lifetime.until)


# --- sending ----------------------------------------------------------------------------------


def send(collection: Any, call: Call) -> Any:
    """Call the method of an SDK collection.  Gives what it gives: a result, or an awaitable for one."""
    if call.expires is None:
        return getattr(collection, call.method)(call.place.key, *call.arguments, **call.options)
    # The SDK takes a lifetime only as seconds from now, and from 30 days on adds the clock of this machine to it.
    # An expiry that is given back must be the same to the second, or a document in much use would never expire;
    # so the request is built as the SDK's own methods build it, and the moment put in.
    parts = collection._impl  # looked for at opening, see usable_sdk
    build = getattr(parts.request_builder, f"build_{call.method}_request")
    request = build(call.place.key, *call.arguments, None, **call.options)
    request.expiry = call.expires
    return getattr(parts, call.method)(request, None)


def usable_sdk(collection: Any) -> bool:
    """Whether this version of the SDK is built as `send` takes for granted."""
    parts = getattr(collection, "_impl", None)
    methods = ("insert", "replace", "mutate_in")
    builder = getattr(parts, "request_builder", None)
    return all(hasattr(parts, each) and hasattr(builder, f"build_{each}_request") for each in methods)


def answer(call: Call, result: Any) -> Answer:
    """What the SDK's result says."""
    cas = result.cas
    if not isinstance(cas, int) or cas <= 0:
        raise TypeError(f"Couchbase acknowledged {call.method} without a CAS")
    body = b""
    fields: tuple[bytes | None, ...] = ()
    if call.method == "get":
        body = result.value or b""
    elif call.method == "lookup_in":
        parts, (specs,) = result.value, call.arguments
        if [part.get("path") for part in parts] != [spec[1] for spec in specs]:
            # Seen from a lookup that named the body before attributes and was retried: each value in another's place.
            raise TypeError("the SDK gave the parts of a lookup in another order")
        fields = tuple(_field(part, hidden=spec[2]) for part, spec in zip(parts, specs, strict=True))
    return Answer(cas, body, fields)


def _field(part: dict[str, Any], *, hidden: bool) -> bytes | None:
    status = part.get("status")
    if status == _THERE:
        return part.get("value", b"")  # type: ignore[no-any-return]
    if hidden and status not in _ABSENT:
        # A stage, or that a document is deleted, must not be overlooked.
        raise TypeError(f"Couchbase did not show the attribute {part.get('path')} (status {status})")
    return None
