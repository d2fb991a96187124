"""One transaction of a SqliteStore: requests in, replies out, by the rules of casops.stores.rows.

Rows are read once, those of a batch together, and written once, at the end: whoever has several batches in one
transaction (a conversation) meets the same documents again and again, and an intention that comes and goes within it
never touches the file.

Every UPDATE and DELETE names the CAS it replaces, although the rules have looked at it in the same
transaction: a blind write must not be possible by mistake.  (The purge names the time instead.)

Must not be in here: when a transaction begins, commits or fails (casops.stores.sqlite).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, suppress
from enum import Enum
from functools import cache
from itertools import chain
from typing import Any, Final

from casops.errors import InvariantViolation, StoreUnavailable
from casops.messages import (
    INTENTIONS,
    AtOnce,
    Entry,
    Key,
    Mismatch,
    Read,
    Refused,
    Reply,
    Scan,
    Stage,
    Stored,
    StoreRequest,
)
from casops.stores.rows import CAS_STEP, MAX_BYTES, Change, Row, Write, as_seen, decide, page, passes, see, shown
from casops.stores.sqlite_file import SCHEMA

__all__ = ["Transaction"]

COLUMNS: Final = "cas, body, stage_meta, stage_body, expires, purge"
# What a transaction must know before anything else, and rows, in one statement: each has a number, meta's is -1.
META: Final = "SELECT -1, schema, cas, clock, NULL, NULL, NULL FROM meta"
# With the time from which on there is something to purge.
META_AND_DUE: Final = """SELECT -1, schema, cas, clock,
    (SELECT min(purge) FROM documents WHERE purge IS NOT NULL), NULL, NULL FROM meta"""
FIND: Final = f"SELECT %d, {COLUMNS} FROM documents WHERE collection = ? AND id = ?"
LIST: Final = f"SELECT {COLUMNS}, id FROM documents WHERE collection = ? AND id > ? ORDER BY id"
ADD: Final = """INSERT INTO documents (cas, body, stage_meta, stage_body, expires, purge, collection, id)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?)"""
CHANGE: Final = """UPDATE documents SET cas = ?, body = ?, stage_meta = ?, stage_body = ?, expires = ?, purge = ?
    WHERE collection = ? AND id = ? AND cas = ?"""
DROP: Final = "DELETE FROM documents WHERE collection = ? AND id = ? AND cas = ?"
PURGE: Final = """DELETE FROM documents WHERE purge <= ?
    AND rowid IN (SELECT rowid FROM documents WHERE purge <= ? ORDER BY purge LIMIT ?)"""
LEDGER: Final = "UPDATE meta SET cas = ?, clock = ? WHERE cas = ? AND clock <= ?"

# Rows found by one statement: nearly all operations have fewer documents, and a connection keeps each of the statements
# that it gets from this (casops.stores.sqlite_file, STATEMENTS).
TOGETHER: Final = 32

# What SQLite and its Python module raise for a text they do not take.
NOT_TAKEN: Final = (sqlite3.DataError, OverflowError, UnicodeError)

# Bytes of a page of the file: SQLite's own default.
PAGE: Final = 4096

# Bytes of UTF-8 for one character, at most.
BYTES_OF_A_CHARACTER: Final = 4


class _NotWaiting(Enum):
    """A row is in the file as it is to be (None says that there is none in the file)."""

    NOT_WAITING = 0


_NOT_WAITING: Final = _NotWaiting.NOT_WAITING


class Transaction:
    """What goes on between BEGIN and COMMIT of a connection; begins it.

    writing: with the write lock; else requests may only read.  wall: this machine's time, seconds since 1970.
    tombstones: seconds.  latest: how far the database's time may be moved on, from what it is.  keys: all that will be
    asked for, if reading them is all; they are found at once, and if one statement can do that there is no transaction
    to be ended: a statement sees one state of the file by itself.
    Raises sqlite3.Error, without a transaction left open, or StoreUnavailable.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        *,
        writing: bool,
        wall: float,
        tombstones: float,
        latest: Callable[[int], float],
        keys: Sequence[Key] | None = None,
    ) -> None:
        self._connection = connection
        self._latest = latest
        self._tombstones = tombstones
        self._told = wall
        self._wall = wall  # or as far as the database's time may go
        self._writing = writing
        self._begun = False  # is meta known?  Where the write lock is held it can wait for the first rows
        self._first_cas = self._cas = 0
        self._clock = 0
        self._now = 0.0
        self._due: int | None = None
        self._rows: dict[Key, Row | None] = {}  # as they were read, or shall be
        self._waiting: dict[Key, Row | None] = {}  # of those still to be written: as they are in the file
        # Characters of a row that SQLite takes for certain; None: all that come here, for a row has the texts of two
        # requests at most (a body that is kept, and a stage) and a character may count for four bytes in this limit.
        longest = connection.getlimit(sqlite3.SQLITE_LIMIT_LENGTH) // BYTES_OF_A_CHARACTER
        self._longest = None if longest > MAX_BYTES else longest
        self.changes = 0
        self.written = 0  # pages of log at most, about: one for each row, and those that its texts fill
        self.time_passed = False  # a row was met that the clock of this machine sees otherwise than the database's
        try:
            if writing:
                connection.execute("BEGIN IMMEDIATE")
            elif keys is None or len(keys) > TOGETHER:
                connection.execute("BEGIN")
                self._find([])
            else:
                self._find(keys)
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def meet(self, batch: Sequence[StoreRequest]) -> None:
        """Find the rows of a batch all together, before its requests are answered one by one."""
        # A key that SQLite does not take has to be met alone, so that only who asks for it is told.
        with suppress(*NOT_TAKEN):
            self._meet([key for each in batch for key in _keys(each)])

    def answer(self, request: StoreRequest) -> Reply:
        """Carry out one checked request, all or nothing.  AssertionError: a bug of the caller, nothing was done."""
        try:
            if isinstance(request, Scan):
                return self._list(request)
            return self._at_once(request) if isinstance(request, AtOnce) else self._answer(request)
        except NOT_TAKEN as error:
            return Refused(f"SQLite does not take this text: {error}", lasting=True)  # that statement did nothing

    def _answer(self, request: Read | Write) -> Reply:
        key = request.key
        if key not in self._rows:
            self._find([key])
        row = self._rows[key]
        if isinstance(request, Read):
            return shown(row, self._now)
        cas = self._cas + CAS_STEP
        outcome = decide(request, row, now=self._now, cas=cas, tombstones=self._tombstones, wall=self._told)
        if not isinstance(outcome, Change):
            return outcome
        self._keep(key, row, outcome.row)
        self._cas = cas
        self.changes += 1
        return Stored(outcome.cas)

    def _at_once(self, request: AtOnce) -> Reply:
        keys = _keys(request)
        self._meet(keys)
        if not all(as_seen(self._rows[key], cas, self._now) for key, cas in request.seen):
            return Mismatch()
        before = [(key, self._rows[key], self._waiting.get(key, _NOT_WAITING)) for key in keys], self.changes
        immediate = self._longest is not None  # a row may be written at once
        if immediate:
            self._connection.execute("SAVEPOINT at_once")
        done = False
        try:
            replies = [self._answer(write) for write in request.writes]
            done = all(isinstance(reply, Stored) for reply in replies)
        finally:
            if not done:
                self._undo(*before)
            if immediate and self._connection.in_transaction:
                if not done:
                    self._connection.execute("ROLLBACK TO at_once")
                self._connection.execute("RELEASE at_once")
        return replies[0] if done else Mismatch()

    def _undo(self, rows: Sequence[tuple[Key, Row | None, Row | _NotWaiting | None]], changes: int) -> None:
        self.changes = changes
        for key, row, in_file in rows:
            self._rows[key] = row
            if isinstance(in_file, _NotWaiting):
                self._waiting.pop(key, None)
            else:
                self._waiting[key] = in_file

    def _list(self, request: Scan) -> Reply:
        self._write_all()
        with closing(self._intentions(request.cursor)) as found:
            return page(found)

    def finish(self) -> None:
        """What must be done before COMMIT: the rows, the time that replies rest upon, and the CAS values given."""
        self._write_all()
        if not self._writing or not (self.changes or self.time_passed):
            return
        now = int(self._now)
        if self.changes and self._due is not None and self._due <= now:
            # Twice what came in may go: the purge always catches up, and a commit never waits for all of a backlog.
            self._connection.execute(PURGE, (now, now, 2 * self.changes))
        if self._cas > self._first_cas or now > self._clock:
            _wrote(1, self._connection.execute(LEDGER, (self._cas, now, self._first_cas, now)))

    def _meet(self, keys: Sequence[Key]) -> None:
        unknown = [key for key in keys if key not in self._rows]
        if unknown:
            self._find(list(dict.fromkeys(unknown)))

    def _find(self, keys: Sequence[Key]) -> None:
        """Look at the rows of these keys, and at meta if that was not done."""
        for first in range(0, len(keys) or 1, TOGETHER):
            some = keys[first : first + TOGETHER]
            statement = _finding(len(some), None if self._begun else META_AND_DUE if self._writing else META)
            rows: dict[Key, Row | None] = dict.fromkeys(some)
            for number, *columns in self._connection.execute(statement, [*chain.from_iterable(some)]).fetchall():
                if number < 0:
                    self._begin(*columns)
                else:
                    rows[some[number]] = _row(columns)
            if not self._begun:
                raise StoreUnavailable("the database is damaged, its meta table is empty: restore a backup")
            for row in rows.values():
                self._note(row)
            self._rows.update(rows)

    def _begin(self, schema: int, cas: int, clock: int, due: int | None, *_: None) -> None:
        if schema != SCHEMA:
            raise StoreUnavailable("a newer casops has changed the database while it was open, upgrade casops")
        self._begun = True
        self._first_cas = self._cas = cas
        self._clock, self._due = clock, due
        self._wall = min(self._wall, self._latest(clock))
        # Only a write transaction may move the time on, so that time is the same for everybody.
        self._now = max(self._wall, clock) if self._writing else clock

    def _note(self, row: Row | None) -> None:
        if row is not None and passes(row, self._clock, self._wall):
            self.time_passed = True

    def _keep(self, key: Key, old: Row | None, new: Row | None) -> None:
        in_file = self._waiting.get(key, old)
        if self._longest is not None and _length(new) > self._longest:
            # SQLite may refuse it: that must be known now, by this caller alone.
            self._write({key: (in_file, new)})
            self._waiting.pop(key, None)
        else:
            self._waiting[key] = in_file
        self._rows[key] = new

    def _write_all(self) -> None:
        if self._waiting:
            self._write({key: (in_file, self._rows[key]) for key, in_file in self._waiting.items()})
            self._waiting.clear()

    def _write(self, rows: Mapping[Key, tuple[Row | None, Row | None]]) -> None:
        """Rows: as they are in the file, and as they shall be."""
        added: list[tuple[Any, ...]] = []
        changed: list[tuple[Any, ...]] = []
        dropped: list[tuple[Any, ...]] = []
        for key, (in_file, new) in rows.items():
            if new is None:
                if in_file is not None:
                    dropped.append((*key, in_file.cas))
                continue
            self.written += _length(new) // PAGE
            stage = (None, None) if new.stage is None else (new.stage.meta, new.stage.body)
            values = (new.cas, new.body, *stage, new.expires, new.purge, *key)
            if in_file is None:
                added.append(values)
            else:
                changed.append((*values, in_file.cas))
        for statement, several in ((ADD, added), (CHANGE, changed), (DROP, dropped)):
            if several:
                _wrote(len(several), self._connection.executemany(statement, several))
                self.written += len(several)

    def _intentions(self, cursor: str) -> Generator[Entry, None, None]:
        if not self._begun:
            self._find([])
        with_ids = self._connection.execute(LIST, (INTENTIONS, cursor))
        try:
            for *columns, id in with_ids:
                row = _row(columns)
                self._note(row)
                seen = see(row, self._now)
                if seen is not None and seen.body is not None:
                    yield Entry(id, seen.cas, seen.body)
        finally:
            with_ids.close()  # a page may end early; an open statement would hold up COMMIT


def _keys(request: StoreRequest) -> Sequence[Key]:
    if isinstance(request, Scan):
        return ()
    if isinstance(request, AtOnce):
        return list(dict.fromkeys([each.key for each in request.writes] + [key for key, _ in request.seen]))
    return (request.key,)


@cache  # as many as there are numbers of keys
def _finding(number: int, meta: str | None) -> str:
    """The statement that finds so many rows, and meta."""
    return " UNION ALL ".join(([] if meta is None else [meta]) + [FIND % each for each in range(number)])


def _length(row: Row | None) -> int:
    if row is None:
        return 0
    staged = 0 if row.stage is None else len(row.stage.meta) + len(row.stage.body or "")
    return len(row.body or "") + staged


def _row(columns: Sequence[Any]) -> Row:
    cas, body, stage_meta, stage_body, expires, purge = columns
    return Row(cas, body, None if stage_meta is None else Stage(stage_meta, stage_body), expires, purge)


def _wrote(rows: int, written: sqlite3.Cursor) -> None:
    if written.rowcount != rows:
        raise InvariantViolation(f"a statement changed {written.rowcount} rows of the database instead of {rows}")
