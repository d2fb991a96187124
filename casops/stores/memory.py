"""A store in this process's memory: for tests, for trying things out, and for the model checker.

What it holds is gone with the process; in all else it keeps the obligations of casops.stores, by the
rules of casops.stores.rows.  Several fronts and threads may share one.

CAS values are counted per document, so that writes of different documents commute and a checker
recognises states it has seen.  They never return although nothing is remembered about forgotten documents:
`_floor` is at least every CAS of a row that was dropped, and a document without a row starts above it.

Must not be in here: rules (casops.stores.rows), files, sleeping.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Hashable, Sequence

from casops.messages import INTENTIONS, AtOnce, Entry, Key, Mismatch, Read, Reply, Scan, Stored, StoreRequest, Version
from casops.running import interrupts
from casops.stores.rows import CAS_STEP, TOMBSTONES, Change, Row, Write, as_seen, check, decide, page, see, shown

__all__ = ["AsyncMemoryStore", "MemoryStore"]

# Rows.  Below this nobody minds dead ones, and a checker's small worlds are never swept.
SWEEP_FROM = 10_000


class MemoryStore:
    """A sync store in memory.

    tombstones: seconds (> 0) for which a removed or expired document still shows that it has moved.
    clock: gives seconds since 1970; may jump, the store's own time only goes forward.
    """

    def __init__(self, *, tombstones: float = TOMBSTONES, clock: Callable[[], float] = time.time) -> None:
        self._tombstones = tombstones
        self._clock = clock
        self._now = clock()
        self._floor = 0
        self._rows: dict[str, dict[str, Row]] = {}  # collection -> id -> row
        self._sweep_at = SWEEP_FROM
        self._lock = threading.RLock()  # a signal handler may ask in the middle of a request, and is refused
        self._at_work = False

    def perform(self, batch: Sequence[StoreRequest], /) -> list[Reply]:
        """One reply for each request.  AssertionError for a bug of the caller; the requests before it are done then."""
        return [self.perform_one(request) for request in batch]

    def perform_one(self, request: StoreRequest) -> Reply:
        """Carry out one request, all or nothing.  Raises UsageError to a signal handler that interrupts another."""
        refused = check(request)
        if refused is not None:
            return refused
        with self._lock:
            if self._at_work:
                raise interrupts()
            try:
                self._at_work = True
                return self._carry_out(request)
            finally:
                self._at_work = False

    def close(self) -> None:
        """Nothing to let go of; another front may go on using this store."""

    def copy(self) -> MemoryStore:
        """A store of its own with the same contents and the same clock."""
        other = MemoryStore(tombstones=self._tombstones, clock=self._clock)
        with self._lock:
            other._now, other._floor, other._sweep_at = self._now, self._floor, self._sweep_at
            other._rows = {collection: dict(rows) for collection, rows in self._rows.items()}
        return other

    def state(self) -> Hashable:
        """Equal for stores that answer everything alike from now on, as long as their clocks do.

        The time itself is not in it, only what it has done to the documents by now.
        """
        with self._lock:
            self._now = max(self._now, self._clock())
            rows = (
                (collection, id, see(row, self._now), row.cas)
                for collection, rows in self._rows.items()
                for id, row in rows.items()
            )
            return self._floor, tuple(sorted(rows, key=lambda row: row[:2]))

    def versions(self) -> dict[Key, Version]:
        """Everything that a Read of its key would show, for checkers."""
        with self._lock:
            self._now = max(self._now, self._clock())
            shows = {
                Key(collection, id): shown(row, self._now)
                for collection, rows in self._rows.items()
                for id, row in rows.items()
            }
        return {key: version for key, version in shows.items() if isinstance(version, Version)}

    def version(self, key: Key) -> Version | None:
        """What a Read of this key would show, for checkers."""
        with self._lock:
            self._now = max(self._now, self._clock())
            found = shown(self._row(key), self._now)
        return found if isinstance(found, Version) else None

    def _carry_out(self, request: StoreRequest) -> Reply:
        self._now = max(self._now, self._clock())
        if isinstance(request, Scan):
            return self._scan(request)
        if isinstance(request, AtOnce):
            return self._at_once(request)
        row = self._row(request.key)
        if isinstance(request, Read):
            return shown(row, self._now)
        return self._write(request, row)

    def _row(self, key: Key) -> Row | None:
        return self._rows.get(key.collection, {}).get(key.id)

    def _at_once(self, request: AtOnce) -> Reply:
        if not all(as_seen(self._row(key), cas, self._now) for key, cas in request.seen):
            return Mismatch()
        before = self._floor, {collection: dict(rows) for collection, rows in self._rows.items()}
        done = False
        try:
            replies = [self._write(write, self._row(write.key)) for write in request.writes]
            done = all(isinstance(reply, Stored) for reply in replies)
        finally:
            if not done:
                self._floor, self._rows = before
        return replies[0] if done else Mismatch()

    def _write(self, request: Write, row: Row | None) -> Reply:
        # A row that is dead but not yet swept still counts: its CAS must not return either.
        cas = (self._floor if row is None else row.cas) + CAS_STEP
        outcome = decide(request, row, now=self._now, cas=cas, tombstones=self._tombstones)
        if not isinstance(outcome, Change):
            return outcome
        if outcome.row is None:
            self._drop(request.key.collection, request.key.id, cas)
        else:
            self._rows.setdefault(request.key.collection, {})[request.key.id] = outcome.row
            self._sweep()
        return Stored(outcome.cas)

    def _drop(self, collection: str, id: str, cas: int) -> None:
        del self._rows[collection][id]
        self._floor = max(self._floor, cas)

    def _sweep(self) -> None:
        """Drop dead rows whenever there are twice as many rows as were left the last time."""
        if sum(map(len, self._rows.values())) < self._sweep_at:
            return
        for collection, rows in self._rows.items():
            for id in [id for id, row in rows.items() if see(row, self._now) is None]:
                self._drop(collection, id, rows[id].cas + CAS_STEP)
        self._sweep_at = max(SWEEP_FROM, 2 * sum(map(len, self._rows.values())))

    def _scan(self, request: Scan) -> Reply:
        rows = self._rows.get(INTENTIONS, {})
        seen = ((id, see(rows[id], self._now)) for id in sorted(id for id in rows if id > request.cursor))
        return page(Entry(id, row.cas, row.body) for id, row in seen if row is not None and row.body is not None)


class AsyncMemoryStore:
    """A MemoryStore (a new one, or one that others use too) for the async driver.

    Every perform lets the other tasks run once before it does anything, so that tasks interleave in
    tests as they do with a real store.
    """

    def __init__(self, store: MemoryStore | None = None) -> None:
        self.store = MemoryStore() if store is None else store

    async def perform(self, batch: Sequence[StoreRequest], /) -> list[Reply]:
        """As MemoryStore.perform.  A call cancelled here has done nothing."""
        await asyncio.sleep(0)
        return self.store.perform(batch)

    async def close(self) -> None:
        """As MemoryStore.close."""
        self.store.close()
