"""The file of a SqliteStore: opening it with care, what is in it, and what its errors mean.

Opening never creates a folder and never changes a file that is not ours: ours is an empty file, or a
database that carries our application id.  A time-out of SQLite's own is not used once the file is open: its handler
sleeps up to 100 ms between tries, and of four processes that wrote without pause it let one have
15,714 turns while the others had 1 or 2; `until_free` tries every millisecond or so, by chance, and is fair (four
processes did 248, 243, 267 and 217 transfers).

Must not be in here: documents (casops.stores.sqlite_documents), grouping and replies (casops.stores.sqlite).
"""

from __future__ import annotations

import os
import random
import sqlite3
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from casops.errors import StoreUnavailable

__all__ = [
    "SCHEMA",
    "Identity",
    "certainly_not_committed",
    "connect",
    "explain",
    "identity",
    "log_identity",
    "open_file",
    "until_free",
]

T = TypeVar("T")

APPLICATION_ID: Final = 0x6361736F  # "caso"; https://www.sqlite.org/pragma.html#pragma_application_id
SCHEMA: Final = 1

# One row in meta.  `cas`: the highest CAS ever given or set aside, so that none returns.  `clock`: seconds since 1970,
# the time of this database, which only goes forward and only in a write transaction: whether a document
# has expired is thus a fact in the file, and all processes agree on it whatever their clocks do.
# documents is a rowid table: bodies may be large, and WITHOUT ROWID would put them into the inner pages of its tree
# (https://www.sqlite.org/withoutrowid.html, section 4).
TABLES: Final = (
    """CREATE TABLE meta (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        schema INTEGER NOT NULL,
        cas INTEGER NOT NULL,
        clock INTEGER NOT NULL
    )""",
    """CREATE TABLE documents (
        collection TEXT NOT NULL,
        id TEXT NOT NULL,
        cas INTEGER NOT NULL,
        body TEXT,
        stage_meta TEXT,
        stage_body TEXT,
        expires INTEGER,
        purge INTEGER,
        PRIMARY KEY (collection, id)
    )""",
    "CREATE INDEX documents_to_purge ON documents (purge) WHERE purge IS NOT NULL",
    f"INSERT INTO meta VALUES (1, {SCHEMA}, 0, 0)",
    f"PRAGMA application_id = {APPLICATION_ID}",
)

# Whose file it is.  One statement, thus one instant: between two, another process may make the tables.
WHOSE: Final = """
    SELECT (SELECT application_id FROM pragma_application_id),
           (SELECT user_version FROM pragma_user_version),
           (SELECT count(*) FROM sqlite_master)
"""

SETTINGS: Final = (
    "PRAGMA synchronous = FULL",  # Stored means durable: fsync of the log in every commit
    "PRAGMA fullfsync = ON",  # macOS: its plain fsync does not reach the disk; no effect elsewhere
    "PRAGMA checkpoint_fullfsync = ON",
    "PRAGMA wal_autocheckpoint = 0",  # SqliteStore does that itself, see its _checkpoint
    "PRAGMA journal_size_limit = 67108864",  # bytes; a log that grew in a burst shrinks again
    "PRAGMA cache_size = -16000",  # KiB
    "PRAGMA trusted_schema = OFF",
)

# Seconds between two looks at a lock that another process has, at most: a few times what a transaction takes on a fast
# disk (0.3 ms), so that who has just written mostly writes again before the next one looks.  With half of it the lock
# goes round sooner (of 4 processes the slowest hundredth waits 9 instead of 12 ms), but a call takes 1.7 instead of
# 1.0 ms mostly, and as many are done (benchmarks/README.md, What was tried).
LONGEST_NAP: Final = 0.002

# Statements a connection keeps compiled: all of casops.stores.sqlite_documents, for each number of keys.
STATEMENTS: Final = 128

Identity = tuple[int, ...]  # device and inode: tells whether a path still names the file that was opened

# Only a lock was in the way.
_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL})

# After these a COMMIT has certainly not happened: the lock was not there, or a write to the log came up short,
# and the log's last frame, which alone makes it a commit, is written last.
_NOT_COMMITTED = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL})

_WHY: Final = {
    sqlite3.SQLITE_BUSY: "the database is busy, another program keeps it locked",
    sqlite3.SQLITE_LOCKED: "the database is busy, another program keeps it locked",
    sqlite3.SQLITE_PROTOCOL: "the database is busy, another program keeps it locked",
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_IOERR: "the disk did not read or write as asked (a fault, a quota or a limit on file sizes)",
    sqlite3.SQLITE_READONLY: "the file or its folder may not be written by this user",
    sqlite3.SQLITE_PERM: "the file or its folder may not be written by this user",
    sqlite3.SQLITE_CANTOPEN: "the file, or the -wal or -shm file beside it, cannot be opened by this user",
    sqlite3.SQLITE_NOTADB: "this file is not a SQLite database; choose another path",
    sqlite3.SQLITE_CORRUPT: "the database is damaged; move it, its -wal and its -shm away, and put a backup there",
    sqlite3.SQLITE_NOMEM: "there is no memory left",
}


def open_file(path: str, *, busy_timeout: float, create: bool) -> sqlite3.Connection:
    """Open the database, or (create) make it where there is none; busy_timeout: seconds.

    With `create` it also makes sure that it can be written.  Raises StoreUnavailable with a sentence for a person.
    """

    def attempt() -> sqlite3.Connection:
        connection = connect(path, create=create)
        try:
            _prepare(connection, path, create=create)
        except BaseException:
            connection.close()
            raise
        return connection

    _look(path, create=create)
    try:
        return until_free(attempt, busy_timeout)
    except sqlite3.Error as error:
        raise StoreUnavailable(explain(error, path)) from error


def connect(path: str, *, create: bool = False) -> sqlite3.Connection:
    """A bare connection with our settings: no waiting for locks, no transactions of Python's own."""
    # psow: a commit's frame is not repeated to fill a sector (see _NOT_COMMITTED); SQLite's default, said aloud.
    uri = f"{Path(path).absolute().as_uri()}?mode={'rwc' if create else 'rw'}&psow=1"
    connection = sqlite3.connect(
        uri, uri=True, timeout=0, isolation_level=None, check_same_thread=False, cached_statements=STATEMENTS
    )
    try:
        for setting in SETTINGS:
            connection.execute(setting).close()
    except BaseException:
        connection.close()
        raise
    return connection


def identity(path: str) -> Identity | None:
    """Which file the path names now; None: there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def log_identity(path: str) -> Identity | None:
    """Which log and which index of it stand beside the database.  path: without links, which SQLite follows, too.

    They stay the same for as long as anybody has it open (https://www.sqlite.org/walformat.html, 1.2).  Where somebody
    has removed them nevertheless, those who had them open and those who came later would not see each other's writes.
    """
    log, index = identity(f"{path}-wal"), identity(f"{path}-shm")
    return None if log is None or index is None else (*log, *index)


def until_free(action: Callable[[], T], seconds: float) -> T:
    """Do it as soon as no lock is in the way; after `seconds` raise what SQLite says."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return action()
        except sqlite3.Error as error:
            if _code(error) not in _BUSY or time.monotonic() >= deadline:
                raise
        # Chance, so that waiting processes do not march in step.
        time.sleep(random.uniform(0, LONGEST_NAP))


def certainly_not_committed(error: sqlite3.Error) -> bool:
    """Whether an error of COMMIT itself leaves no doubt.

    An I/O error does: after a failed fsync the whole commit may stand in the log, unseen, and a crash
    before somebody writes over it would bring it to life.
    """
    return _code(error) in _NOT_COMMITTED


def explain(error: sqlite3.Error, path: str) -> str:
    """A sentence for a person: what happened, and where."""
    why = _WHY.get(_code(error), f"SQLite failed with {error}")
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    return f"{why}: {path} ({name})"


def _code(error: sqlite3.Error) -> int:
    # The low byte is the primary code (https://www.sqlite.org/rescode.html#pve); errors of the Python module have none.
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF


def _look(path: str, *, create: bool) -> None:
    """What SQLite would only call "unable to open database file"."""
    folder = os.path.dirname(path) or "."
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):  # a directory; a pipe would even block
            raise StoreUnavailable(f"this is not a file, name a file for the database: {path}")
        if found.st_nlink > 1:  # the log is beside each: who opens the one does not see what is written by the other
            raise StoreUnavailable(f"this file has {found.st_nlink} names (hard links); remove all but one: {path}")
    except FileNotFoundError as error:
        if not os.path.isdir(folder):
            raise StoreUnavailable(f"the folder does not exist, create it first: {folder}") from error
        if not create:
            raise StoreUnavailable(f"the database was removed while it was open: {path}") from error
    except (OSError, ValueError) as error:
        raise StoreUnavailable(f"the path cannot be used: {path} ({error})") from error


def _prepare(connection: sqlite3.Connection, path: str, *, create: bool) -> None:
    """Make sure the file is ours and of this version; may be repeated."""
    if _empty(connection, path) and create:
        _create(connection, path)
    (schema,) = connection.execute("SELECT schema FROM meta").fetchone() or (None,)
    if schema is None:
        raise StoreUnavailable(f"{_WHY[sqlite3.SQLITE_CORRUPT]}: {path} (its meta table is empty)")
    if schema != SCHEMA:
        raise StoreUnavailable(f"a newer casops wrote this database (format {schema}), upgrade casops: {path}")
    _use_log(connection, path)
    if create:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")


def _empty(connection: sqlite3.Connection, path: str) -> bool:
    application, version, tables = connection.execute(WHOSE).fetchone()
    if application == APPLICATION_ID:
        return False
    if application or version or tables:
        raise StoreUnavailable(f"this database belongs to another program; choose another path: {path}")
    return True


def _create(connection: sqlite3.Connection, path: str) -> None:
    _use_log(connection, path)  # not possible within a transaction
    connection.execute("BEGIN IMMEDIATE")
    if _empty(connection, path):  # else another process was faster
        for statement in TABLES:
            connection.execute(statement)
    connection.execute("COMMIT")


def _use_log(connection: sqlite3.Connection, path: str) -> None:
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise StoreUnavailable(f"SQLite cannot keep its log (WAL) here, use a disk of this machine: {path}")
