"""A store in one SQLite file, for several threads and several processes of one machine at once.

One thread of a process writes at a time, in one transaction all that wait for it: one sync.  Batches that only
read do not wait: a second connection answers them beside the one that writes.  (Callers who ask at once mostly come
here together already: casops.callers.)  A conversation (casops.stores) begins with what its worker wants written at
once, and goes on only if that could not be, so that the lock is held for little more than the writing.

What becomes of an error (all of a transaction share its fate; replies rest on what it saw):

    when                                         reply                why
    text too large, half a surrogate, NUL        Refused, this one    SQLite does not take such a text
    Body.STAGED without a staged body            AssertionError       a bug of that caller; only this part is not done
    any other bug that rows.check finds          AssertionError       nothing of the batch is done
    the lock is not free within busy_timeout     Refused "... busy"   nothing was begun
    another thread takes too long (LONGEST_WAIT) Refused "... busy"   nothing was begun
    the file was moved, removed or replaced      Refused              a write would go where nobody finds it
    any error before COMMIT is sent              Refused              rolled back
    COMMIT: no room, or busy                     Refused              the frame that makes it a commit is not there
    COMMIT: I/O error (also fsync), any other    Unknown              it may be in the log and a crash revive it
    any other exception (Ctrl-C)                 is raised            what waited with it gets Unknown

After an error the connection is opened anew.  A crash leaves what was committed, nothing else.

Limits, told rather than hidden: processes on one machine only (SQLite's log is in shared memory).
A wall clock that goes back does not bring anything to life again; one that ran ahead made things
expire early (by a day for each process, and a day for each hour that it runs: see LEAP), and nothing more
expires until it is that time again.  A copy of the file put back is an older
world: its CAS values return, so no worker may have been running.

Must not be in here: rules (casops.stores.rows), SQL (casops.stores.sqlite_documents), the file and its errors
(casops.stores.sqlite_file), what is asked for (casops.stores.sqlite_batches).
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar

from casops.errors import Closed, StoreUnavailable, UsageError
from casops.messages import Key, Read, Refused, Reply, Scan, StoreRequest, Unknown
from casops.running import interrupts
from casops.stores import TalkTo, sqlite_forks
from casops.stores.one_at_a_time import OneAtATime
from casops.stores.rows import TOMBSTONES
from casops.stores.sqlite_batches import Batch, talk
from casops.stores.sqlite_documents import Transaction
from casops.stores.sqlite_file import (
    Identity,
    certainly_not_committed,
    connect,
    explain,
    identity,
    log_identity,
    open_file,
    until_free,
)
from casops.threads import Threads, in_thread

__all__ = ["BUSY_TIMEOUT", "AsyncSqliteStore", "SqliteStore"]

T = TypeVar("T")
logger = logging.getLogger("casops")

# Seconds to wait for other processes.  A group takes milliseconds: whoever waits this long meets a stopped
# process or a disk in trouble, and the caller should hear of it.
BUSY_TIMEOUT: Final = 5.0

# Requests in one transaction (what is larger goes alone).  About 10 ms of work, so other processes get the lock
# in between and nobody waits long for strangers; beyond it the fsync is already shared by a hundred.
TOGETHER: Final = 300

# Requests that a conversation is reckoned to have, before it is known: documents that an operation on a few meets.
CONVERSATION: Final = 6

# Pages written to the log, about, after which it is copied into the database: SQLite's own default.  Rows would not do:
# one may fill hundreds of pages, and copying a gigabyte holds up a commit for half a second.
CHECKPOINT_EVERY: Final = 1000

# Seconds to wait for another thread, beside the time for other processes.  It takes a few milliseconds unless a
# business function keeps the store to itself, and that one may be waiting for this very caller.  With the default
# options both have half of their deadline left to tell what has happened.
LONGEST_WAIT: Final = 10.0

# A machine whose clock is wrong by years must not have all results forgotten at its first look.  Seconds by which a
# process moves the database's time on at once, and how much faster than its (monotonic) clock it does so afterwards:
# what is used once a day is in time, and after a year's rest nothing is kept for too long two weeks later.
LEAP: Final = 86_400.0
FASTER: Final = 24.0

# Seconds since 1970.  A file whose time is before (0: a new one) was made by a machine whose clock was not yet set.
RELEASED: Final = 1_767_225_600  # 2026

# Calls of an AsyncSqliteStore under way at once, of those that only read and of all others: a thread that waits costs
# little.
WORKERS: Final = 32


Work: TypeAlias = Callable[[Transaction], None]

_NOT_TOLD: Final = Unknown("another thread was writing this and has not told what became of it")
_WAITED: Final = Refused("the store is busy: too many calls of this process wait for it")


class _Job:
    """What a thread wants done in a transaction."""

    __slots__ = ("done", "outcome", "reading", "size", "work")

    def __init__(self, work: Work, size: int, reading: bool) -> None:
        self.work, self.size, self.reading = work, size, reading
        self.outcome: Refused | Unknown | None = _NOT_TOLD
        self.done = False


class SqliteStore:
    """A sync store in the SQLite file `path`, which is created if its folder exists.

    tombstones: seconds (> 0), how long a removed or expired document still shows that it has moved.
    busy_timeout: seconds (>= 0), how long a group waits for other processes; 0: not at all.
    clock: gives seconds since 1970.

    Raises UsageError for ":memory:" and for a file that was open when this process was forked,
    StoreUnavailable where the file cannot be opened or is not a store.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        tombstones: float = TOMBSTONES,
        busy_timeout: float = BUSY_TIMEOUT,
        clock: Callable[[], float] = time.time,
    ) -> None:
        name = os.fspath(path)
        if name in ("", ":memory:"):
            raise UsageError("a SQLite store is a file; for a store in memory use memory://")
        self._path = os.path.abspath(name)  # the process may change its folder
        sqlite_forks.check_not_inherited(self._path)
        self._tombstones = tombstones
        self._busy_timeout = busy_timeout
        self._clock = clock
        self._limit: tuple[float, float] | None = None  # when (monotonic) `_latest` was asked last, and what it gave
        self._connection: sqlite3.Connection | None = open_file(self._path, busy_timeout=busy_timeout, create=True)
        self._identity = identity(self._path)
        self._real = os.path.realpath(self._path)
        self._log = log_identity(self._real)  # that the connection which writes has open
        self._reader: sqlite3.Connection | None = None
        self._readers_log: Identity | None = None
        self._reading = threading.RLock()  # a signal handler may close the store, or read, in the middle of a read
        self._forks = sqlite_forks.forks()
        sqlite_forks.note_open(self, self._identity)
        self._writing = OneAtATime()
        self._jobs: deque[_Job] = deque()  # that nobody has taken
        self._sound = True  # the connection that writes: no transaction is open, no error was seen
        self._closed = False
        self._to_checkpoint = CHECKPOINT_EVERY  # at once: the processes before may have been too short-lived for it

    @property
    def longest_wait(self) -> float:
        """Seconds that a call waits for other threads and processes at most."""
        return LONGEST_WAIT + self._busy_timeout

    def perform(self, batch: Sequence[StoreRequest], /) -> list[Reply]:
        """One reply for each request; blocks until they are durable.

        Raises UsageError if the store is closed or was opened before a fork, AssertionError for a bug of the
        caller.  Where anything else is raised (KeyboardInterrupt), the outcome is unknown.
        """
        self.check_usable()
        asked = Batch(batch)
        failed = None
        if asked.size and not (asked.reads and self._read(asked)):
            failed = self._write(asked.carry_out, asked.size, reading=asked.reads)
        return asked.replies(failed)

    def converse(self, conversations: Sequence[TalkTo], /) -> list[Refused | Unknown | None]:
        """See ConversingStore.  Raises as perform does."""
        self.check_usable()
        failed = self._write(talk(conversations), CONVERSATION * len(conversations), reading=False)
        return [failed] * len(conversations)

    def close(self) -> None:
        """Wait for who is at work and close the file.  May be called twice."""
        if sqlite_forks.forks() != self._forks:
            return  # the locks and the connection are the parent's
        self._closed = True  # from here on nobody begins
        if not self._writing.mine:  # else a signal handler came in between; who writes disconnects when it is done
            try:
                if self._writing.take(self.longest_wait, unless=lambda: False):
                    self._disconnect()
            finally:
                self._writing.leave()
        with self._reading:
            reader, self._reader = self._reader, None
            _end(reader)
        sqlite_forks.note_closed(self)

    def check_usable(self) -> None:
        """Raise UsageError if the store is closed or was opened before a fork."""
        if sqlite_forks.forks() != self._forks:
            raise UsageError(f"this store was opened before a fork; {sqlite_forks.HINT}")
        self._check_open()
        self._check_not_writing()

    def _check_not_writing(self) -> None:
        if self._writing.mine:  # it would wait for itself
            raise interrupts()

    def _check_open(self) -> None:
        if self._closed:
            raise Closed("this store is closed; nothing was asked")

    def _read(self, asked: Batch) -> bool:
        """Answer beside the one that writes.  False: this must be done, or its error told, in the place of that one."""
        with self._reading:
            self._check_open()  # close may have come in between
            # Nobody else has it meanwhile: not a signal handler either, who would break off what it interrupts.
            reader, self._reader = self._reader, None
            sound = False
            try:
                if reader is None:
                    reader = open_file(self._path, busy_timeout=0, create=False)
                    self._readers_log = log_identity(self._real)
                if not self._there(self._readers_log):
                    return False  # it may have opened the other file, which may go away again
                transaction = self._begin(reader, writing=False, keys=asked.keys)
                asked.carry_out(transaction)
                if reader.in_transaction:
                    reader.execute("COMMIT")
                sound = True
            except (sqlite3.Error, StoreUnavailable):
                return False
            finally:
                if sound and not self._closed:
                    reader, self._reader = self._reader, reader
                _end(reader)
            return not transaction.time_passed  # or the database's time must move on first, see _carry_out

    def _write(self, work: Work, size: int, *, reading: bool) -> Refused | Unknown | None:
        """Do it when it is one's turn, or have it done with others.  None: it is committed.  Else what became of it."""
        job = _Job(work, size, reading)
        try:
            try:
                self._jobs.append(job)
                if self._writing.take(self.longest_wait, unless=lambda: job.done):
                    while job in self._jobs:
                        self._check_open()  # close may have come in between
                        self._work_off()
                elif self._withdrawn(job):
                    return Refused("the store is busy: an operation of this process keeps it to itself")
                return job.outcome
            finally:
                self._leave()
        except BaseException:
            self._withdrawn(job)
            self._leave()  # Ctrl-C may have met the other one
            raise

    def _withdrawn(self, job: _Job) -> bool:
        """Nobody shall do it.  False: somebody has taken it."""
        with suppress(ValueError):
            self._jobs.remove(job)
            return True
        return False

    def _work_off(self) -> None:
        """All that wait, in one transaction."""
        group: list[_Job] = []
        with suppress(IndexError):  # whoever is interrupted withdraws
            group.append(self._jobs.popleft())
            while sum(job.size for job in group) + self._jobs[0].size <= TOGETHER:
                group.append(self._jobs.popleft())
        failed = self._carry_out([job.work for job in group], reading=all(job.reading for job in group))
        for job in group:
            job.outcome, job.done = failed, True
        if self._to_checkpoint >= CHECKPOINT_EVERY and failed is None:  # else its transaction may still be open
            self._checkpoint()

    def _leave(self) -> None:
        """Let others write.  No transaction is left behind, and a connection that saw an error is not trusted again."""
        if self._writing.mine:
            if self._closed or not self._sound:
                self._disconnect()
                self._sound = True
            self._writing.leave()

    def _carry_out(self, works: Sequence[Work], *, reading: bool) -> Refused | Unknown | None:
        committing = self._sound = False
        try:
            transaction = self._transact(works, writing=not reading)
            if reading and transaction.time_passed:
                # The database's time must move on first, or a version could expire, live again and expire again.
                self._connected().execute("ROLLBACK")
                transaction, reading = self._transact(works, writing=True), False
            transaction.finish()
            committing = not reading
            self._connected(look=committing).execute("COMMIT")
            self._to_checkpoint += transaction.written
            self._sound = True
            return None
        except StoreUnavailable as error:
            return Refused(str(error))
        except sqlite3.Error as error:
            certain = not committing or certainly_not_committed(error)
            return (Refused if certain else Unknown)(explain(error, self._path))

    def _transact(self, works: Sequence[Work], *, writing: bool) -> Transaction:
        """All of a transaction but its COMMIT."""
        connection = self._connected(look=not writing)  # one that writes is looked at before its COMMIT

        def begin() -> Transaction:
            return self._begin(connection, writing=writing)

        transaction = until_free(begin, self._busy_timeout)
        for work in works:
            work(transaction)
        return transaction

    def _begin(
        self, connection: sqlite3.Connection, *, writing: bool, keys: Sequence[Key] | None = None
    ) -> Transaction:
        return Transaction(
            connection,
            writing=writing,
            wall=self._clock(),
            tombstones=self._tombstones,
            latest=self._latest,
            keys=keys,
        )

    def _latest(self, clock: int) -> float:
        """How far this process may move the database's time on, which is at `clock`: seconds since 1970."""
        if clock < RELEASED:
            return float("inf")
        now = time.monotonic()
        looked, limit = self._limit or (now, clock + LEAP)
        # Never more than a leap at once, however long this process has been at rest itself.
        limit = min(limit + FASTER * (now - looked), clock + LEAP)
        self._limit = now, limit
        return limit

    def _connected(self, *, look: bool = True) -> sqlite3.Connection:
        if self._connection is None:
            if not self._there(None):
                raise StoreUnavailable(f"the file was moved, removed or replaced while it was open: {self._path}")
            self._connection = open_file(self._path, busy_timeout=self._busy_timeout, create=False)
            self._log = log_identity(self._real)
        elif look and not self._there(self._log):
            raise StoreUnavailable(
                f"the file, or its -wal or -shm, was moved, removed or replaced while it was open: {self._path}"
            )
        return self._connection

    def _there(self, log: Identity | None) -> bool:
        """Whether the path names the file still, and this log is beside it (None: whatever log)."""
        if self._identity is None or identity(self._path) != self._identity:
            return False
        if log is not None and log_identity(self._real) != log:
            self._identity = None  # for good: what was written to the log that is gone, others do not have
        return self._identity is not None

    def _disconnect(self) -> None:
        connection = self._connection
        if connection is not None:
            for end in (partial(connection.execute, "ROLLBACK"), connection.close):
                with suppress(sqlite3.Error):  # closing alone would wait for statements that are still open
                    end()
        self._connection = None

    def _checkpoint(self) -> None:
        """Copy the log into the database, by a second connection while the first holds the write lock.

        SQLite before 3.51.3 (3.50.7, 3.44.6) can lose commits when another connection starts the log anew during a
        checkpoint (https://www.sqlite.org/wal.html#walresetbug).  Nobody can while we hold the write lock.
        The FULL mode would take it too, but goes on without it when it has to wait for too long.
        """
        self._to_checkpoint = 0
        self._sound = False
        try:
            main = self._connected()
            until_free(lambda: main.execute("BEGIN IMMEDIATE"), self._busy_timeout)
            try:
                with closing(connect(self._path)) as second:
                    second.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            finally:
                main.execute("ROLLBACK")
            self._sound = True
        except (sqlite3.Error, StoreUnavailable) as error:
            # Nothing is lost: it is all in the log, which grows until a later checkpoint succeeds.
            logger.warning("the log of %s could not be copied into it: %s", self._path, error)


def _end(connection: sqlite3.Connection | None) -> None:
    if connection is not None:
        with suppress(sqlite3.Error):
            connection.close()


class AsyncSqliteStore:
    """A SqliteStore for the async driver: its calls run in bounded pools of threads.

    Those that only read have one of their own, or they would wait for those that wait for another process.
    """

    def __init__(self, store: SqliteStore) -> None:
        self.store = store
        # Daemons: a function that hangs must not keep the process.
        self._reading = Threads(WORKERS, "casops-sqlite-reading")
        self._writing = Threads(WORKERS, "casops-sqlite")
        self._under_way: set[asyncio.Future[Any]] = set()
        self._closing = False

    async def perform(self, batch: Sequence[StoreRequest], /) -> list[Reply]:
        """As SqliteStore.perform.  Cancelling does not stop a write that has begun: its outcome is then unknown."""
        self.check_usable()  # here too: after a fork there are no threads and it would wait for ever
        asked = tuple(batch)
        reads = all(isinstance(request, Read | Scan) for request in asked)
        threads = self._reading if reads else self._writing
        return await self._run(threads, partial(self.store.perform, asked), [_WAITED for _ in asked])

    async def converse(self, conversations: Sequence[TalkTo], /) -> list[Refused | Unknown | None]:
        """As SqliteStore.converse.  Cancelling does not stop it once it has begun: its outcome is then unknown."""
        self.check_usable()
        asked = tuple(conversations)
        return await self._run(self._writing, partial(self.store.converse, asked), [_WAITED for _ in asked])

    def check_usable(self) -> None:
        """As SqliteStore.check_usable."""
        self.store.check_usable()
        if self._closing:  # its threads take nothing any more, while those under way come to their end
            raise Closed("this store is closed; nothing was asked")

    async def close(self) -> None:
        """Wait for what is under way, then close the store, as SqliteStore.close; not for ever.

        Of calls that were cancelled, those that have begun come to their end, the others are not begun.
        """
        self._closing = True
        loop = asyncio.get_running_loop()
        try:
            if under_way := [each for each in self._under_way if each.get_loop() is loop]:
                await asyncio.wait(under_way, timeout=self.store.longest_wait)
        finally:  # the wait may be cancelled; the closing goes on then, too
            self._reading.close()
            self._writing.close()
            await in_thread(self.store.close)

    async def _run(self, threads: Threads, work: Callable[[], T], waited: T) -> T:
        """In a thread; what no thread has begun when its caller has gone, or after the longest wait, never is.

        Threads may all be waiting for another process, and callers who give up come back with the same.
        """
        begun = threading.Lock()  # taken, once, by the thread that begins or by who sees to it that none does

        def begin() -> T:
            return work() if begun.acquire(blocking=False) else waited

        def withdraw() -> None:
            if begun.acquire(blocking=False):
                future.set_result(waited)

        future = threads.run(begin)
        self._under_way.add(future)
        future.add_done_callback(self._under_way.discard)
        patience = asyncio.get_running_loop().call_later(self.store.longest_wait, withdraw)
        try:
            return await future
        finally:
            patience.cancel()
            begun.acquire(blocking=False)
