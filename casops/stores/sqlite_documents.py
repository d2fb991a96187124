"""One transaction of a SqliteStore: requests in, replies out, by the rules of casops.stores.rows.

Rows are read once and written once, at the end: whoever has several batches in one transaction (a conversation)
meets the same documents again and again, and an intention that comes and goes within it never touches the file.

Every UPDATE and DELETE names the CAS it replaces, although the rules have looked at it in the same
transaction: a blind write must not be possible by mistake.  (The purge names the time instead.)

Must not be in here: when a transaction begins, commits or fails (casops.stores.sqlite).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Generator
from contextlib import closing
from typing import Any, Final

from casops.errors import InvariantViolation, StoreUnavailable
from casops.messages import INTENTIONS, Entry, Key, Read, Reply, Scan, Stage, Stored, StoreRequest
from casops.stores.rows import CAS_STEP, Change, Row, decide, page, passes, see, shown
from casops.stores.sqlite_file import SCHEMA

__all__ = ["Transaction"]

FIND: Final = """SELECT cas, body, stage_meta, stage_body, expires, purge
    FROM documents WHERE collection = ? AND id = ?"""
LIST: Final = """SELECT cas, body, stage_meta, stage_body, expires, purge, id
    FROM documents WHERE collection = ? AND id > ? ORDER BY id"""
ADD: Final = """INSERT INTO documents (cas, body, stage_meta, stage_body, expires, purge, collection, id)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?)"""
CHANGE: Final = """UPDATE documents SET cas = ?, body = ?, stage_meta = ?, stage_body = ?, expires = ?, purge = ?
    WHERE collection = ? AND id = ? AND cas = ?"""
DROP: Final = "DELETE FROM documents WHERE collection = ? AND id = ? AND cas = ?"
PURGE: Final = """DELETE FROM documents WHERE purge <= ?
    AND rowid IN (SELECT rowid FROM documents WHERE purge <= ? ORDER BY purge LIMIT ?)"""
LEDGER: Final = "UPDATE meta SET cas = ?, clock = ? WHERE cas = ? AND clock <= ?"

# Bytes of UTF-8 for one character, at most.
BYTES_OF_A_CHARACTER: Final = 4


class Transaction:
    """What goes on between BEGIN and COMMIT of a connection; begins it.

    writing: with the write lock; else requests may only read.  wall: this machine's time, seconds since 1970.
    tombstones: seconds.  Raises sqlite3.Error, without a transaction left open, or StoreUnavailable.
    """

    def __init__(self, connection: sqlite3.Connection, *, writing: bool, wall: float, tombstones: float) -> None:
        self._connection = connection
        self._tombstones = tombstones
        self._wall = wall
        try:
            connection.execute("BEGIN IMMEDIATE" if writing else "BEGIN")
            schema, self._first_cas, self._clock = connection.execute("SELECT schema, cas, clock FROM meta").fetchone()
            if schema != SCHEMA:
                raise StoreUnavailable("a newer casops has changed the database while it was open, upgrade casops")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        self._cas: int = self._first_cas
        # Only a write transaction may move the time on, so that time is the same for everybody.
        self._now: float = max(wall, self._clock) if writing else self._clock
        self._writing = writing
        self._rows: dict[Key, Row | None] = {}  # as they were read, or shall be
        self._waiting: dict[Key, Row | None] = {}  # of those still to be written: as they are in the file
        self._longest = connection.getlimit(sqlite3.SQLITE_LIMIT_LENGTH) // BYTES_OF_A_CHARACTER
        self.changes = 0
        self.time_passed = False  # a row was met that the clock of this machine sees otherwise than the database's

    def answer(self, request: StoreRequest) -> Reply:
        """Carry out one request, all or nothing.  AssertionError: a bug of the caller, nothing was done."""
        if isinstance(request, Scan):
            self._write_all()
            with closing(self._intentions(request.cursor)) as found:
                return page(found)
        row = self._find(request.key)
        if isinstance(request, Read):
            return shown(row, self._now)
        outcome = decide(request, row, now=self._now, cas=self._cas + CAS_STEP, tombstones=self._tombstones)
        if not isinstance(outcome, Change):
            return outcome
        self._keep(request.key, row, outcome.row)
        self._cas = outcome.cas
        self.changes += 1
        return Stored(outcome.cas)

    def finish(self) -> None:
        """What must be done before COMMIT: the rows, the time that replies rest upon, and the CAS values given."""
        self._write_all()
        if not self._writing or not (self.changes or self.time_passed):
            return
        now = int(self._now)
        if self.changes:
            # Twice what came in may go: the purge always catches up, and a commit never waits for all of a backlog.
            self._connection.execute(PURGE, (now, now, 2 * self.changes))
        _one(self._connection.execute(LEDGER, (self._cas, now, self._first_cas, now)))

    def _find(self, key: Key) -> Row | None:
        if key in self._rows:
            return self._rows[key]
        row = self._rows[key] = self._noted(_row(self._connection.execute(FIND, key).fetchone()))
        return row

    def _noted(self, row: Row | None) -> Row | None:
        self.time_passed = self.time_passed or passes(row, self._clock, self._wall)
        return row

    def _keep(self, key: Key, old: Row | None, new: Row | None) -> None:
        in_file = self._waiting.get(key, old)
        if _length(new) > self._longest:  # SQLite may refuse it: that must be known now, by this caller alone
            self._write(key, in_file, new)
            self._waiting.pop(key, None)
        else:
            self._waiting[key] = in_file
        self._rows[key] = new

    def _write_all(self) -> None:
        for key, in_file in self._waiting.items():
            self._write(key, in_file, self._rows[key])
        self._waiting.clear()

    def _write(self, key: Key, in_file: Row | None, new: Row | None) -> None:
        connection = self._connection
        if new is None:
            if in_file is not None:
                _one(connection.execute(DROP, (*key, in_file.cas)))
            return
        stage = (None, None) if new.stage is None else (new.stage.meta, new.stage.body)
        values = (new.cas, new.body, *stage, new.expires, new.purge, *key)
        _one(connection.execute(ADD, values) if in_file is None else connection.execute(CHANGE, (*values, in_file.cas)))

    def _intentions(self, cursor: str) -> Generator[Entry, None, None]:
        with_ids = self._connection.execute(LIST, (INTENTIONS, cursor))
        try:
            for *columns, id in with_ids:
                seen = see(self._noted(_row(columns)), self._now)
                if seen is not None and seen.body is not None:
                    yield Entry(id, seen.cas, seen.body)
        finally:
            with_ids.close()  # a page may end early; an open statement would hold up COMMIT


def _length(row: Row | None) -> int:
    if row is None:
        return 0
    staged = 0 if row.stage is None else len(row.stage.meta) + len(row.stage.body or "")
    return len(row.body or "") + staged


def _row(columns: Any) -> Row | None:
    if columns is None:
        return None
    cas, body, stage_meta, stage_body, expires, purge = columns
    return Row(cas, body, None if stage_meta is None else Stage(stage_meta, stage_body), expires, purge)


def _one(written: sqlite3.Cursor) -> None:
    if written.rowcount != 1:
        raise InvariantViolation(f"a statement changed {written.rowcount} rows of the database instead of one")
