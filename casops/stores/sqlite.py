"""A store in one SQLite file, for several threads and several processes of one machine at once.

Group commit: callers put their batches into a queue; one of them leads and carries out what is
queued in one transaction, the others wait for it.  So one fsync serves many callers, and while it is
under way the next group gathers.  A group that only reads takes no write lock and syncs nothing.
Batches that only read do not wait for a group: a second connection answers them beside the one that writes.
A conversation (casops.stores) is a member of a group like a batch; the leader holds it.  It begins with what its worker
wants written at once, and goes on only if that could not be, so that the lock is held for little more than the writing.

What becomes of an error (all of a group share its fate; replies rest on what the transaction saw):

    when                                         reply                why
    text too large, half a surrogate, NUL        Refused, this one    SQLite does not take such a text
    Body.STAGED without a staged body            AssertionError       a bug of that caller; only this part is not done
    any other bug that rows.check finds          AssertionError       nothing of the batch is done
    the lock is not free within busy_timeout     Refused "... busy"   nothing was begun
    too long in the queue (LONGEST_WAIT)         Refused "... busy"   nothing was begun
    the file was moved, removed or replaced      Refused              a write would go where nobody finds it
    any error before COMMIT is sent              Refused              rolled back
    COMMIT: no room, or busy                     Refused              the frame that makes it a commit is not there
    COMMIT: I/O error (also fsync), any other    Unknown              it may be in the log and a crash revive it
    an exception while leading (Ctrl-C)          is raised            the others of the group get Unknown

After an error the connection is opened anew.  A crash leaves what was committed, nothing else.

Limits, told rather than hidden: processes on one machine only (SQLite's log is in shared memory).
A wall clock that goes back does not bring anything to life again; one that ran ahead made things
expire early, and nothing more expires until it is that time again.  A copy of the file put back is an older
world: its CAS values return, so no worker may have been running.

Must not be in here: rules (casops.stores.rows), SQL (casops.stores.sqlite_documents), the file and its errors
(casops.stores.sqlite_file), what a caller wants (casops.stores.sqlite_callers).
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
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from typing import Final

from casops.errors import StoreUnavailable, UsageError
from casops.messages import Refused, Reply, StoreRequest, Unknown
from casops.stores import TalkTo, sqlite_forks
from casops.stores.rows import TOMBSTONES
from casops.stores.sqlite_callers import INTERRUPTED, BatchCaller, Caller, ConversationCaller
from casops.stores.sqlite_documents import Transaction
from casops.stores.sqlite_file import (
    busy,
    certainly_not_committed,
    connect,
    explain,
    identity,
    open_file,
    until_free,
)

__all__ = ["BUSY_TIMEOUT", "AsyncSqliteStore", "SqliteStore"]

logger = logging.getLogger("casops")

# Seconds to wait for other processes.  A group takes milliseconds: whoever waits this long meets a stopped
# process or a disk in trouble, and the caller should hear of it.
BUSY_TIMEOUT: Final = 5.0

# Requests in one transaction (a larger batch goes alone).  About 10 ms of work, so other processes get the lock
# in between and nobody waits long for strangers; beyond it the fsync is already shared by a hundred callers.
GROUP_REQUESTS: Final = 300

# Rows written, each taken for a page of log, after which the log is copied into the database: SQLite's own default.
CHECKPOINT_EVERY: Final = 1000

# Seconds in the queue, beside the time for other processes.  It moves on every few milliseconds unless a business
# function keeps the store to itself, and that one may be waiting for this very caller.  With the default options both
# have half of their deadline left to tell what has happened.
LONGEST_WAIT: Final = 10.0

# Seconds after which those who wait see for themselves who leads: a leader whom Ctrl-C met in the wrong place could
# not tell them.
LOOK_AGAIN: Final = 1.0

# Batches of an AsyncSqliteStore that can be in one group: a waiting thread costs little, and one fsync for so many
# is little, too.
WORKERS: Final = 32


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
        self._connection: sqlite3.Connection | None = open_file(self._path, busy_timeout=busy_timeout, create=True)
        self._identity = identity(self._path)
        self._reader: sqlite3.Connection | None = None
        self._reading = threading.Lock()
        self._forks = sqlite_forks.forks()
        sqlite_forks.note_open(self, self._identity)
        self._lock = threading.Lock()
        self._over = threading.Condition(self._lock)  # a group: for close
        self._queue: deque[Caller] = deque()
        self._leader = 0  # the thread that leads; one word, so that no interruption leaves half of it
        self._closed = False
        self._to_checkpoint = CHECKPOINT_EVERY  # at once: the processes before may have been too short-lived for it

    def perform(self, batch: Sequence[StoreRequest], /) -> list[Reply]:
        """One reply for each request; blocks until they are durable.

        Raises UsageError if the store is closed or was opened before a fork, AssertionError for a bug of the
        caller.  Where anything else is raised (KeyboardInterrupt), the outcome is unknown.
        """
        self.check_usable()
        caller = BatchCaller(batch)
        if caller.size and not (caller.reads and self._read(caller)):
            self._queue_up(caller)
        return caller.replies()

    def converse(self, conversations: Sequence[TalkTo], /) -> list[Refused | Unknown | None]:
        """See ConversingStore.  Raises as perform does."""
        self.check_usable()
        callers = [ConversationCaller(each) for each in conversations]
        self._queue_up(*callers)
        return [caller.outcome() for caller in callers]

    def close(self) -> None:
        """Wait for those who have asked and close the file.  May be called twice."""
        if sqlite_forks.forks() != self._forks:
            return  # the locks and the connection are the parent's
        self._check_not_leading()
        until = self._wait_until()
        with self._lock:
            self._closed = True  # from here on nobody joins the queue; who stands in it is served
            while self._leading or (self._queue and time.monotonic() < until):
                self._over.wait(LOOK_AGAIN)
            self._queue.clear()  # of callers who are there no more
            self._disconnect()
        with self._reading:
            self._stop_reading()
        sqlite_forks.note_closed(self)

    def check_usable(self) -> None:
        """Raise UsageError if the store is closed or was opened before a fork."""
        if sqlite_forks.forks() != self._forks:
            raise UsageError(f"this store was opened before a fork; {sqlite_forks.HINT}")
        self._check_open()
        self._check_not_leading()

    @property
    def _leading(self) -> bool:
        return self._leader != 0

    def _check_not_leading(self) -> None:
        if self._leader == threading.get_ident():  # it would wait for itself
            raise UsageError("a business function must not ask the store it works on; it has its documents")

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError("this store is closed")

    def _read(self, caller: BatchCaller) -> bool:
        """Answer beside the one that writes.  False: this must be done, or its error told, in a group."""
        with self._reading:
            self._check_open()  # close may have come in between
            try:
                if self._reader is None:
                    self._reader = open_file(self._path, busy_timeout=0, create=False)
                if self._identity is None or identity(self._path) != self._identity:
                    self._stop_reading()  # it may have opened the other file, which may go away again
                    return False
                transaction = Transaction(
                    self._reader, writing=False, wall=self._clock(), tombstones=self._tombstones, keys=caller.keys
                )
                caller.carry_out(transaction)
                if self._reader.in_transaction:
                    self._reader.execute("COMMIT")
            except (sqlite3.Error, StoreUnavailable):
                self._stop_reading()
                return False
            except BaseException:
                self._stop_reading()
                raise
            if transaction.time_passed:
                return False  # the database's time must move on first, see _carry_out
            caller.committed()
            return True

    def _stop_reading(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            with suppress(sqlite3.Error):
                reader.close()

    def _queue_up(self, *callers: Caller) -> None:
        """Wait until these, who are one thread's, are done."""
        until = self._wait_until()
        try:
            with self._lock:
                self._check_open()  # close may have come in between
                self._queue.extend(callers)
            for caller in callers:
                while not caller.done:
                    if self._may_lead(caller, until):
                        self._lead()
        except BaseException:
            self._leave(callers)
            raise

    def _wait_until(self) -> float:
        return time.monotonic() + LONGEST_WAIT + self._busy_timeout

    def _may_lead(self, caller: Caller, until: float) -> bool:
        """Wait for an answer (False), or until nobody leads, and then lead."""
        while True:
            with self._lock:
                if caller.done:
                    return False
                waits = caller in self._queue
                if waits and not self._leading:
                    self._leader = threading.get_ident()
                    return True
                if waits and time.monotonic() >= until:
                    self._queue.remove(caller)
                    caller.failed(Refused("the store is busy: an operation of this process keeps it to itself"))
                    caller.done = True
                elif not waits and not self._leading:  # it was taken by one who could not answer any more
                    caller.failed(INTERRUPTED)
                    caller.done = True
            if not caller.done:
                caller.wait(LOOK_AGAIN)

    def _lead(self) -> None:
        group: list[Caller] = []
        try:
            with self._lock:
                group = self._take_group()
            self._carry_out(group)
            if self._to_checkpoint >= CHECKPOINT_EVERY:
                self._answer(group)
                self._checkpoint()
        finally:
            self._leader = 0  # before anything that waits and can be interrupted
            self._answer(group)

    def _leave(self, callers: Sequence[Caller]) -> None:
        """Go, interrupted, and leave nothing behind that others would wait for."""
        if self._leader == threading.get_ident():
            self._leader = 0
        with self._lock:
            for caller in callers:
                with suppress(ValueError):
                    self._queue.remove(caller)
            self._wake_next()

    def _take_group(self) -> list[Caller]:
        group = [self._queue.popleft()]
        size = group[0].size
        while self._queue and size + self._queue[0].size <= GROUP_REQUESTS:
            group.append(self._queue.popleft())
            size += group[-1].size
        return group

    def _answer(self, group: list[Caller]) -> None:
        with self._lock:
            for member in group:
                member.done = True
                member.wake()
            self._wake_next()

    def _wake_next(self) -> None:
        """Of those who wait, one is to lead; the lock is held."""
        if not self._leading and self._queue:
            self._queue[0].wake()
        if self._closed:
            self._over.notify_all()

    def _carry_out(self, group: list[Caller]) -> None:
        committing = False
        try:
            reading = all(member.reads for member in group)
            transaction = self._transact(group, writing=not reading)
            if reading and transaction.time_passed:
                # The database's time must move on first, or a version could expire, live again and expire again.
                self._connected().execute("ROLLBACK")
                transaction, reading = self._transact(group, writing=True), False
            transaction.finish()
            committing = not reading
            self._connected(look=committing).execute("COMMIT")
            self._to_checkpoint += transaction.written
            for member in group:
                member.committed()
        except (sqlite3.Error, StoreUnavailable) as error:
            try:
                reply: Refused | Unknown = Refused(str(error))
                if isinstance(error, sqlite3.Error):
                    certain = not committing or certainly_not_committed(error)
                    reply = (Refused if certain else Unknown)(explain(error, self._path))
                for member in group:
                    member.failed(reply)
            finally:
                self._recover(error)
        except BaseException as error:
            self._recover(error)
            raise

    def _transact(self, group: list[Caller], *, writing: bool) -> Transaction:
        """All of a group but its COMMIT."""
        connection = self._connected(look=not writing)  # one that writes is looked at before its COMMIT

        def begin() -> Transaction:
            return Transaction(connection, writing=writing, wall=self._clock(), tombstones=self._tombstones)

        transaction = until_free(begin, self._busy_timeout)
        for member in group:
            member.carry_out(transaction)
        return transaction

    def _connected(self, *, look: bool = True) -> sqlite3.Connection:
        if (look or self._connection is None) and (self._identity is None or identity(self._path) != self._identity):
            raise StoreUnavailable(f"the file was moved, removed or replaced while it was open: {self._path}")
        if self._connection is None:
            self._connection = open_file(self._path, busy_timeout=self._busy_timeout, create=False)
        return self._connection

    def _recover(self, error: BaseException) -> None:
        """Leave no transaction behind; a connection that saw an error is not trusted again."""
        connection = self._connection
        if connection is None or (isinstance(error, sqlite3.Error) and busy(error) and not connection.in_transaction):
            return  # nothing was begun
        try:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")  # closing alone would wait for statements that are still open
        finally:
            self._disconnect()

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    def _checkpoint(self) -> None:
        """Copy the log into the database, by a second connection while the first holds the write lock.

        SQLite before 3.51.3 (3.50.7, 3.44.6) can lose commits when another connection starts the log anew during a
        checkpoint (https://www.sqlite.org/wal.html#walresetbug).  Nobody can while we hold the write lock.
        The FULL mode would take it too, but goes on without it when it has to wait for too long.
        """
        self._to_checkpoint = 0
        try:
            main = self._connected()
            until_free(lambda: main.execute("BEGIN IMMEDIATE"), self._busy_timeout)
            try:
                with closing(connect(self._path)) as second:
                    second.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            finally:
                main.execute("ROLLBACK")
        except BaseException as error:
            self._recover(error)  # in any case: the write lock must not stay ours
            if not isinstance(error, sqlite3.Error | StoreUnavailable):
                raise
            # Nothing is lost: it is all in the log, which grows until a later checkpoint succeeds.
            logger.warning("the log of %s could not be copied into it: %s", self._path, error)


class AsyncSqliteStore:
    """A SqliteStore for the async driver: its calls run in a bounded pool of threads."""

    def __init__(self, store: SqliteStore) -> None:
        self.store = store
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="casops-sqlite")

    async def perform(self, batch: Sequence[StoreRequest], /) -> list[Reply]:
        """As SqliteStore.perform.  Cancelling does not stop the write: its outcome is then unknown."""
        self.store.check_usable()  # here too: after a fork the pool has no threads and would wait for ever
        return await asyncio.get_running_loop().run_in_executor(self._pool, self.store.perform, tuple(batch))

    async def converse(self, conversations: Sequence[TalkTo], /) -> list[Refused | Unknown | None]:
        """As SqliteStore.converse.  Cancelling does not stop it: its outcome is then unknown."""
        self.store.check_usable()
        return await asyncio.get_running_loop().run_in_executor(self._pool, self.store.converse, tuple(conversations))

    async def close(self) -> None:
        """Wait for writes under way, cancelled ones too, then close the store."""
        await asyncio.to_thread(self._shut)

    def _shut(self) -> None:
        self._pool.shutdown(wait=True)
        self.store.close()
