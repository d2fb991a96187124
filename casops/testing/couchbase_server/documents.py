"""The documents of one bucket in memory: versions, CAS numbers, expiry, locks, tombstones, hanging durable writes.

A version is never changed, only replaced, so the last writes can be taken back.  A removed or expired document is a
tombstone: no body, only the attributes that begin with `_`, and a CAS.

Must not be in here: requests, JSON, sockets.
"""

from __future__ import annotations

import math
import time
import zlib
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

MIB = 1 << 20

# A document without attributes shares this one.
NO_ATTRIBUTES: Final[Mapping[str, str]] = {}

# Writes that can be taken back; beyond it the oldest are safe.  Enough for a test, small enough for a soak.
UNDOABLE = 10_000

# Bytes of what they replaced: documents of a megabyte would otherwise make it gigabytes.
UNDOABLE_BYTES = 64 * MIB

# Writes between two looks at all documents: seldom enough to cost nothing per write.
SWEEP_EVERY = 10_000

# Seconds since 1970.
Clock = Callable[[], float]

# (id of the collection, key)
Key = tuple[int, bytes]


class Version(NamedTuple):
    """What is stored under a key after one write."""

    cas: int
    body: bytes
    flags: int = 0
    # Seconds since 1970, 0: never.  Of a tombstone: when it was deleted.
    expiry: int = 0
    # Extended attributes: name -> JSON text.
    attributes: Mapping[str, str] = NO_ATTRIBUTES
    deleted: bool = False
    revision: int = 1
    # Of the last write in its vbucket; and when, in seconds since 1970.
    seqno: int = 0
    modified: int = 0


class Lock(NamedTuple):
    cas: int
    # Of time.monotonic().
    until: float


class Undo(NamedTuple):
    key: Key
    before: Version | None
    # A durable write: it, and all before it on its key, survive.
    durable: bool

    @property
    def size(self) -> int:
        """Bytes of what was replaced, about."""
        return 0 if self.before is None else len(self.before.body) + sum(map(len, self.before.attributes.values()))


class Documents:
    """One bucket.  Not thread-safe: everything happens on the server's loop."""

    def __init__(self, vbuckets: int, clock: Clock = time.time, purge_after: float | None = None) -> None:
        self.vbuckets = vbuckets
        self._clock = clock
        self._purge_after = purge_after
        self._writes = 0
        self._versions: dict[Key, Version] = {}
        self._locks: dict[Key, Lock] = {}
        # Keys of durable writes that wait for a replica.
        self.hanging: set[Key] = set()
        self._seqnos = [0] * vbuckets
        self._last_cas = 0
        self._undo: deque[Undo] = deque()
        self._undo_bytes = 0
        # Changes whenever writes were lost: mutation tokens of before are worth nothing.
        self.history = 1

    def live_keys(self) -> list[Key]:
        return [key for key in list(self._versions) if self.live(key) is not None]

    def next_cas(self) -> int:
        """Greater than all before, whatever the clock does; nanoseconds since 1970 whose low 16 bits count."""
        self._last_cas = max(self._last_cas + 1, int(self._clock() * 1e9) & ~0xFFFF)
        return self._last_cas

    def now(self) -> int:
        return int(self._clock())

    def find(self, key: Key) -> Version | None:
        """Live or tombstone; one whose time has come becomes a tombstone now, an old bare tombstone goes."""
        version = self._versions.get(key)
        if version is None or not version.expiry:
            return version
        age = self._clock() - version.expiry
        if not version.deleted:
            return self._put(key, self.tombstone(self.next_cas(), version.attributes)) if age >= 0 else version
        if self._purge_after is not None and age >= self._purge_after and not version.attributes:
            del self._versions[key]
            return None
        return version

    def live(self, key: Key) -> Version | None:
        version = self.find(key)
        return None if version is None or version.deleted else version

    def store(self, key: Key, version: Version, durable: bool = False) -> Version:
        """Put a version into place; gives it with its revision, sequence number and time."""
        self._remember(Undo(key, self._versions.get(key), durable))
        stored = self._put(key, version)
        self._writes += 1
        if self._writes % SWEEP_EVERY == 0:
            self._sweep()
        return stored

    def _put(self, key: Key, version: Version) -> Version:
        before = self._versions.get(key)
        vbucket = vbucket_of(key[1], self.vbuckets)
        self._seqnos[vbucket] += 1
        revision = 1 if before is None else before.revision + 1
        stored = version._replace(revision=revision, seqno=self._seqnos[vbucket], modified=self.now())
        self._versions[key] = stored
        self._locks.pop(key, None)
        return stored

    def _sweep(self) -> None:
        """Notice what has expired and may go, also where nobody asks for it."""
        for key in list(self._versions):
            self.find(key)

    def tombstone(self, cas: int, attributes: Mapping[str, str]) -> Version:
        """What is left of a document: of its attributes only those that begin with `_`."""
        kept = {name: text for name, text in attributes.items() if name.startswith("_")}
        return Version(cas, b"", expiry=self.now(), attributes=kept, deleted=True)

    def absolute(self, expiry: int) -> int:
        """Seconds since 1970 of an expiry on the wire, which is relative up to 30 days and never ends too early."""
        return math.ceil(self._clock() + expiry) if 0 < expiry <= 30 * 86_400 else expiry

    def seqno(self, key: Key) -> int:
        """Of the last write in the key's vbucket."""
        return self._seqnos[vbucket_of(key[1], self.vbuckets)]

    # ---- locks

    def lock(self, key: Key, seconds: int) -> int:
        lock = Lock(self.next_cas(), time.monotonic() + seconds)
        self._locks[key] = lock
        return lock.cas

    def locked(self, key: Key) -> int:
        """The CAS of the lock; 0 without one."""
        lock = self._locks.get(key)
        if lock is None:
            return 0
        if lock.until <= time.monotonic():
            del self._locks[key]
            return 0
        return lock.cas

    def unlock(self, key: Key) -> None:
        self._locks.pop(key, None)

    # ---- losing writes

    def _remember(self, undo: Undo) -> None:
        self._undo.append(undo)
        self._undo_bytes += undo.size
        while len(self._undo) > UNDOABLE or self._undo_bytes > UNDOABLE_BYTES:
            self._undo_bytes -= self._undo.popleft().size

    def lose(self, count: int) -> int:
        """Take back the last writes, as a failover does; gives how many.

        What a durable write has made safe stays: that write, and everything before it on its key.
        """
        safe: set[Key] = set()
        lost = 0
        while lost < count and self._undo:
            key, before, durable = self._undo.pop()
            if durable:
                safe.add(key)
            if key in safe:
                continue
            lost += 1
            self._locks.pop(key, None)
            if before is None:
                self._versions.pop(key, None)
            else:
                self._versions[key] = before
        self._undo.clear()  # what is left was kept: it is on disk now
        self._undo_bytes = 0
        self.hanging.clear()
        self.history += lost > 0
        return lost

    def drop_collection(self, collection: int) -> None:
        for key in [key for key in self._versions if key[0] == collection]:
            del self._versions[key]
            self._locks.pop(key, None)
        self._undo = deque(undo for undo in self._undo if undo.key[0] != collection)
        self._undo_bytes = sum(undo.size for undo in self._undo)


def vbucket_of(key: bytes, vbuckets: int) -> int:
    return (zlib.crc32(key) >> 16 & 0x7FFF) % vbuckets


def too_big(body: bytes, attributes: Mapping[str, str]) -> bool:
    """20 MiB for the body and the user's attributes, 1 MiB for those whose names begin with `_`."""
    system = user = 0
    for name, text in attributes.items():
        if name.startswith("_"):
            system += len(name) + len(text.encode())
        else:
            user += len(name) + len(text.encode())
    return len(body) + user > 20 * MIB or system > MIB
