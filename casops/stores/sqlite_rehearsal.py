"""A conversation that is rehearsed: held with nothing locked, and repeated under the lock if all is as it was.

A worker needs most of its time for thinking (reading and writing JSON, models, its business function), and the lock of
the file is not to be held for that.  So it talks to a Rehearsal, which reads beside those who write and keeps to itself
what is written.  Then, under the lock, its requests are asked once more in their order.  If each of them is
answered as it was, the worker would have said the same there, and what it has come to holds; if not, nothing of it
is done and another worker begins anew (casops.conversations).

The rehearsal is no snapshot: others may write between its batches.  The protocol takes nothing else for granted, and
what does not hold any more is found when it is repeated.

A reply names the CAS of a new version, so it has to be known beforehand: from the Stock.

Must not be in here: the lock, connections, the queue.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from casops.messages import Key, Read, Reply, Scan, Stored, StoreRequest
from casops.stores.rows import CAS_STEP, Change, Row, Write, decide, shown
from casops.stores.sqlite_checked import Checked
from casops.stores.sqlite_documents import Transaction

__all__ = ["Look", "NotRehearsed", "Rehearsal", "Stock"]

# Seconds after which what was rehearsed is not repeated: a worker that has looked at the clock must not be
# answered for long after.
STALE: Final = 0.5

# CAS values taken at a time: for a hundred operations, so that the row that counts them is seldom written.  What is
# left of them when a store is closed is lost, and 2**63 are enough for that.
TAKEN: Final = 1000

# With fewer left, more are taken; with still fewer it is not tried.
FEW: Final = 500
ENOUGH: Final = 100


class NotRehearsed(Exception):
    """It has to be told under the lock."""


class Stock:
    """CAS values that nobody else gives: the file says that they are given."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next = self._end = 0
        self.wanted = 0  # how many are to be taken when somebody writes

    def ready(self) -> bool:
        """Are there enough for a conversation?  If not, there will be when somebody has written."""
        with self._lock:
            left = (self._end - self._next) // CAS_STEP
            self.wanted = TAKEN if left < FEW else 0
            return left >= ENOUGH

    def draw(self) -> int:
        """Raises NotRehearsed if there are none."""
        with self._lock:
            if self._next == self._end:
                raise NotRehearsed
            cas = self._next
            self._next += CAS_STEP
            return cas

    def fill(self, taken: range) -> None:
        """These are committed as given; what is left of others is dropped."""
        with self._lock:
            self._next, self._end, self.wanted = taken.start, taken.stop, 0


class Look:
    """What a rehearsal wants to see: as a caller that reads."""

    def __init__(self, keys: Sequence[Key]) -> None:
        self.keys = keys
        self.rows: dict[Key, Row | None] = {}
        self.now = 0.0

    def carry_out(self, transaction: Transaction) -> None:
        self.rows, self.now = transaction.seen(self.keys)

    def committed(self) -> None:
        """As a caller; here it does not matter."""


class Rehearsal:
    """Replies as they would be given now, and what was asked to get them.

    look: finds rows, False if it could not.
    """

    def __init__(self, look: Callable[[Look], bool], stock: Stock, tombstones: float) -> None:
        self._look = look
        self._stock = stock
        self._tombstones = tombstones
        self._rows: dict[Key, Row | None] = {}
        self._now = 0.0
        self._begun = time.monotonic()
        self.told: list[tuple[StoreRequest, Reply]] = []

    def perform(self, batch: Sequence[StoreRequest], /) -> list[Reply]:
        """Raises NotRehearsed, and AssertionError as a store does."""
        checked = Checked(batch)
        unknown = dict.fromkeys(each.key for each in checked.fit if not isinstance(each, Scan))
        self._meet([key for key in unknown if key not in self._rows])
        replies: list[Reply] = []
        for request in checked.fit:
            reply = self._answer(request)
            self.told.append((request, reply))
            replies.append(reply)
        return checked.replies(replies)

    def repeat(self, transaction: Transaction) -> bool:
        """False: not all of it is true any more, and nothing is done."""
        return time.monotonic() - self._begun < STALE and transaction.repeat(self.told)

    def _meet(self, keys: Sequence[Key]) -> None:
        if not keys:
            return
        look = Look(keys)
        if not self._look(look):
            raise NotRehearsed
        self._rows.update(look.rows)
        self._now = max(self._now, look.now)

    def _answer(self, request: StoreRequest) -> Reply:
        if isinstance(request, Scan):
            raise NotRehearsed  # of rows that come and go it is not known which were seen
        row = self._rows[request.key]
        if isinstance(request, Read):
            return shown(row, self._now)
        return self._write(request, row)

    def _write(self, request: Write, row: Row | None) -> Reply:
        outcome = decide(request, row, now=self._now, cas=self._stock.draw(), tombstones=self._tombstones)
        if not isinstance(outcome, Change):
            return outcome
        self._rows[request.key] = outcome.row
        return Stored(outcome.cas)
