"""What a request does to one document: the rules that MemoryStore and SqliteStore share.

A store that keeps rows finds the row of a key, asks here, and keeps what it is told.  Pure: no
clock, no counter, no I/O, so both stores answer alike and the rules can be read in one place.

How a row ages without anybody writing it (`see`):

    live  --expires-->  tombstone, whose CAS is cas + 1  --purge-->  nothing      a user's collection
    live  --expires = purge-->  nothing                                           a RESERVED collection
    tombstone  --purge-->  nothing;  a tombstone that carries a stage stays: it is somebody's evidence

Therefore stores hand out even CAS values only: the odd one above is kept for the expired version.

Must not be in here: how or where rows are kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final, NamedTuple, NoReturn, TypeAlias

from casops.messages import (
    INTENTIONS,
    RESERVED,
    AtOnce,
    Body,
    Entry,
    Exists,
    Forget,
    Insert,
    Key,
    Mismatch,
    Missing,
    Page,
    Refused,
    Remove,
    Replace,
    Scan,
    Stage,
    StoreRequest,
    Version,
)

__all__ = [
    "CAS_STEP",
    "MAX_BYTES",
    "TOMBSTONES",
    "Change",
    "Row",
    "Write",
    "as_seen",
    "check",
    "decide",
    "page",
    "passes",
    "see",
    "shown",
]

CAS_STEP: Final = 2

# Seconds.  A worker must not sleep for longer in the middle of an attempt (casops.stores, 6), so this is
# beyond any suspended laptop or paused virtual machine one would still expect to wake up; tombstones are tiny.
TOMBSTONES: Final = 30 * 24 * 3600.0

# Bytes of text in one request.  What Couchbase takes (20 MiB), so that a program tried on a file also runs there.
MAX_BYTES: Final = 20 * 1024 * 1024

# Seconds.  Times beyond (about the year 36,000) are mistakes, and must not overflow a store's integers.
MAX_SECONDS: Final = 2**40

# A page of a Scan ends at either: few round trips for small intentions, bounded memory for large ones.
PAGE_ENTRIES: Final = 500
PAGE_BYTES: Final = 8 * 1024 * 1024

Write: TypeAlias = Insert | Replace | Remove | Forget


class Row(NamedTuple):
    """A document as it is kept.  Times are whole seconds since 1970, None: never."""

    cas: int
    body: str | None  # None: a tombstone
    stage: Stage | None
    expires: int | None  # the live version ceases to be
    purge: int | None  # nothing is left


class Change(NamedTuple):
    """The write succeeds: answer Stored(cas) and keep `row` (None: keep nothing)."""

    cas: int
    row: Row | None


def check(request: StoreRequest) -> Refused | None:
    """Look at a request before anything is touched: None if a store of rows can take it.

    Raises AssertionError for what only a bug of the caller can ask: CAS below 1 (a blind write), two lifetimes
    or one that is not positive, a record without a body.
    """
    if isinstance(request, Scan):
        return _unfit((request.cursor,))
    if isinstance(request, AtOnce):
        return next((why for each in request.writes if (why := check(each)) is not None), None)
    key = request.key
    if not key.collection or not key.id:
        return Refused("a document needs a collection and an id", lasting=True)
    if isinstance(request, Insert | Replace):
        return _unfit_content(request)
    if isinstance(request, Remove) and request.cas <= 0:
        _bug("a blind write", key)
    if isinstance(request, Forget) and key.collection != INTENTIONS:
        _bug("a blind removal", key)
    return _unfit(key)


def _unfit_content(request: Insert | Replace) -> Refused | None:
    key, body, stage, lifetime = request.key, request.body, request.stage, request.ttl
    if isinstance(request, Insert):
        if body is None and _reserved(key):
            _bug("a record without a body", key)
    else:
        if request.cas <= 0:
            _bug("a blind write", key)
        if request.expires is not None:
            if lifetime is not None:
                _bug("two lifetimes", key)
            lifetime = request.expires
    if lifetime is not None:
        if lifetime <= 0:
            _bug("a lifetime that is over before it begins", key)
        if lifetime > MAX_SECONDS:
            return Refused(f"the lifetime is too long: {lifetime} seconds", lasting=True)
    text = body if isinstance(body, str) else None
    return _unfit((*key, text) if stage is None else (*key, text, stage.meta, stage.body))


def see(row: Row | None, now: float) -> Row | None:
    """The version a row shows at `now` (seconds since 1970); None: nothing."""
    if row is None or (row.purge is not None and row.purge <= now):
        return None
    if row.expires is not None and row.expires <= now:
        return Row(row.cas + 1, None, None, None, row.purge)
    return row


def passes(row: Row, before: float, now: float) -> bool:
    """Whether the row shows something else at `now` than it did at `before`."""
    expires, purge = row.expires, row.purge
    return (expires is not None and before < expires <= now) or (purge is not None and before < purge <= now)


def shown(row: Row | None, now: float) -> Version | Missing:
    """The answer to a Read."""
    seen = see(row, now)
    return Missing() if seen is None else Version(seen.cas, seen.body, seen.stage, seen.expires)


def as_seen(row: Row | None, cas: int | None, now: float) -> bool:
    """Does the row show the version with this CAS at `now`?  None: nothing."""
    seen = see(row, now)
    return (None if seen is None else seen.cas) == cas


def decide(
    request: Write, row: Row | None, *, now: float, cas: int, tombstones: float, wall: float = 0.0
) -> Change | Exists | Mismatch | Missing:
    """What a write does to its row at `now`; `cas` is the one the new version gets.

    wall: what time it is for the machine.  Lifetimes begin then, where the store's own time lags behind: a month of
    that time may be over in a day.
    Raises AssertionError for Body.STAGED where no body is staged; nothing is to be kept then.
    """
    key = request.key
    if cas <= 0 or cas % CAS_STEP:
        _bug("an odd CAS, which belongs to an expired version", key)
    seen = see(row, now)
    now = max(now, wall)
    stage: Stage | None = None
    expires: int | None = None
    if isinstance(request, Insert):
        if seen is not None and (seen.body is not None or request.body is None):
            return Exists()
        body, stage = request.body, request.stage
    elif isinstance(request, Forget):
        if seen is None:
            return Missing()
        body = None
    else:
        if seen is None or seen.cas != request.cas:
            return Mismatch()
        if isinstance(request, Remove):
            body = None
        else:
            body, stage, expires = _body(request, seen), request.stage, request.expires
    if body is None and _reserved(key):
        return Change(cas, None)
    if isinstance(request, Insert | Replace) and request.ttl is not None:
        expires = math.ceil(now + request.ttl)  # rounded up: never gone too early
    return Change(cas, _row(key, cas, body, stage, expires, now, tombstones))


def page(found: Iterable[Entry]) -> Page:
    """One page of a Scan, from entries in the order of their ids."""
    entries: list[Entry] = []
    size = 0
    for entry in found:
        if len(entries) == PAGE_ENTRIES or (entries and size + len(entry.body) > PAGE_BYTES):
            return Page(tuple(entries), entries[-1].id)
        entries.append(entry)
        size += len(entry.body)
    return Page(tuple(entries), None)


def _body(request: Replace, seen: Row) -> str | None:
    if isinstance(request.body, str):
        return request.body
    if request.body is Body.KEEP:
        return seen.body
    if seen.stage is None or seen.stage.body is None:
        _bug("there is no staged body to move into place", request.key)
    return seen.stage.body


def _row(
    key: Key, cas: int, body: str | None, stage: Stage | None, expires: int | None, now: float, tombstones: float
) -> Row:
    if body is None:  # a tombstone has no lifetime but the store's; with a stage it must not vanish
        return Row(cas, None, stage, None, None if stage else math.ceil(now + tombstones))
    if expires is None:
        return Row(cas, body, stage, None, None)
    return Row(cas, body, stage, expires, expires if _reserved(key) else math.ceil(expires + tombstones))


def _bug(wrong: str, key: Key) -> NoReturn:
    # Not an assert statement: python -O must not turn these into silent damage.
    raise AssertionError(f"a bug in casops or in the caller of a store: {wrong} ({key})")


def _reserved(key: Key) -> bool:
    return key.collection.startswith(RESERVED)


def _unfit(texts: Iterable[str | None]) -> Refused | None:
    size = 0
    for text in texts:
        if text is None:
            continue
        if "\0" in text:  # JSON text never has one; C libraries end a text there
            return Refused("the text has a NUL character", lasting=True)
        try:
            size += len(text) if text.isascii() else len(text.encode())
        except UnicodeEncodeError:
            return Refused("the text has half a surrogate pair, which is no character", lasting=True)
    if size > MAX_BYTES:
        return Refused(f"too large: {size:,} bytes, {MAX_BYTES:,} are allowed", lasting=True)
    return None
