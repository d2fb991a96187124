"""`CasOps`: the front door of synchronous code.  Its twin `AsyncCasOps` is in async_front.py.

Must not be in here: anything that the twin would have to repeat, other than calls.
"""

from __future__ import annotations

import inspect
import logging
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Container, Iterable, Sequence
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, Final, Self, TypeAlias, TypeVar

from casops.bell import Bell
from casops.callers import Callers
from casops.documents import D, Ref
from casops.drivers import drive
from casops.engine import Engine, describe
from casops.errors import Closed, UsageError
from casops.operations import Operation
from casops.options import Options
from casops.outcome import Outcome, Pending, Recovery, Snapshot
from casops.protocol.ended import Ended
from casops.protocol.together import together
from casops.running import interrupted, interrupts
from casops.stores import ConversingStore, Store
from casops.stores.opening import open_store
from casops.turns import NOTHING, Known, Ticket, Turns, patience, rounds

R = TypeVar("R")
log = logging.getLogger("casops")

# An operation that has ended, and what is to be called when its documents are settled.
Unsettled: TypeAlias = tuple[Ended, Callable[[Known], None]]

# Batches that are settled at the same time: each waits four times for the store, and as long as an operation waits to
# be settled nobody in this process gets at its documents.  More of them only make batches smaller.
SETTLERS: Final = 3

# Seconds that an operation which nobody waits for may wait for others to be settled with: settling one by one, callers
# were disturbed all the time by what is not urgent (two documents, one caller, no delay: 4.3 ms became 3.2).
LINGER: Final = 0.02


def nobody_waits(_known: Known) -> None:
    """For an operation that took no turn."""


def worker_name() -> str:
    """Who this process is, for people who read histories."""
    return f"{socket.gethostname()[:40]}/{os.getpid()}"


class CasOps:
    """Operations on one store.  May be used by any number of threads; open it after a fork.

    `store`: a sync one, which `close` closes.  `operations`: classes that `recover` shall be able to finish, beside
    those that were run here.  `worker`: who this is, in histories and lists (default: machine and process).

    Raises UsageError for an async store, and for options, operations or a name that cannot be right.  Whatever
    asks the store raises Closed after `close`, and UsageError in a business function that this CasOps runs, in a signal
    handler that interrupts it and, on a file or on Couchbase, after a fork.
    """

    def __init__(
        self,
        store: Store,
        *,
        options: Options | None = None,
        operations: Iterable[type[Operation[Any]]] = (),
        worker: str | None = None,
    ) -> None:
        if inspect.iscoroutinefunction(store.perform):
            raise UsageError(f"this is an async store, which AsyncCasOps takes: {store!r:.80}")
        self._engine = Engine(options or Options(), operations, worker or worker_name())
        self._store = store
        # One that converses has one writer at a time: no turns are needed.
        self._callers = Callers(store, self.options.deadline) if isinstance(store, ConversingStore) else None
        self._turns = Turns()
        self._turns_lock = threading.Lock()
        self._settler = Settler(self._engine, store)
        self._parts = (self, self._settler, self._callers, store)
        self._closed = False

    @classmethod
    def open(
        cls,
        url: str,
        *,
        options: Options | None = None,
        operations: Iterable[type[Operation[Any]]] = (),
        worker: str | None = None,
    ) -> Self:
        """Open a store by its URL: `sqlite:///bank.db`, `memory://`, `couchbase://user:password@host/bucket`.

        Raises UsageError for a URL or option that cannot be right, StoreUnavailable if it cannot be opened.
        """
        return cls(open_store(url), options=options, operations=operations, worker=worker)

    @property
    def options(self) -> Options:
        return self._engine.options

    def register(self, operation: type[Operation[Any]]) -> None:
        """Know an operation, so that `recover` can finish it.  Raises UsageError if another one has its name."""
        self._engine.register(operation)

    def run(self, operation: Operation[R], *, operation_id: str) -> R:
        """Make the operation happen exactly once under this id and return its result.

        Raises Declined or Cancelled if it ended so, and what `execute` raises.
        """
        return self.execute(operation, operation_id=operation_id).result

    def execute(self, operation: Operation[R], *, operation_id: str) -> Outcome[R]:
        """Like `run`, but tells more, and a refusal is an outcome like any other.

        Raises OperationMismatch, Expired, Contended, OutcomeUnknown, StoreUnavailable, UsageError,
        InvariantViolation, and whatever `apply` raises.
        """
        self._check_open(operation_id)
        work = self._engine.work(operation, operation_id)
        if self._callers is not None:
            outcome, unsettled = self._callers.run(self._engine.execute_at_once(work, operation_id), operation_id)
            if unsettled is not None:
                self._settler.add(unsettled)
            return outcome
        bell = Bell()
        ticket = Ticket(work.declared, bell.ring)
        try:
            with self._turns_lock:
                self._turns.join(ticket)
                behind = self._turns.behind(ticket)
            if behind:
                self._settler.hurry()
            steps = self._engine.execute(work, operation_id, behind=behind)
            outcome, ended = drive(steps, self._store, lambda: self._turn(ticket, bell), operation_id=operation_id)
            self._settler.add(ended, partial(self._leave, ticket), hurry=self._followed(ticket))
        except BaseException:
            self._leave(ticket)
            raise
        return outcome

    def outcome(self, operation_id: str) -> Outcome[Any] | Pending | None:
        """Did it happen?  Writes nothing.

        None: nothing is known of it: nobody asked, it was forgotten, or it is under way, for on a file an operation
        leaves nothing there until it has happened, unless something is in its way.  `cancel` makes sure of it.
        The result of an operation that this process does not know (`register`) keeps its JSON form.

        Raises UsageError for what cannot be an id, StoreUnavailable if the store does not tell within the deadline,
        InvariantViolation if what is stored cannot be right, or does not fit the type of the result any more.
        """
        self._check_open(operation_id)
        return drive(self._engine.outcome(operation_id), self._store, operation_id=operation_id)

    def read(self, ref: Ref[D]) -> D | None:
        """The committed value of a document, or None.  Waits for nobody and writes nothing.

        Raises InvalidDocument if it does not fit the model of the reference, UsageError for what is no reference or
        for an id that the store has no place for, StoreUnavailable, InvariantViolation.
        """
        self._check_open()
        return drive(self._engine.read(ref), self._store)

    def snapshot(self, refs: Sequence[Ref[Any]]) -> Snapshot:
        """Documents as they all were at one instant.  Writes nothing.

        Raises Contended if they kept changing, UsageError for a document that is asked for as two models, and what
        `read` raises.
        """
        self._check_open()
        return drive(self._engine.snapshot(refs), self._store)

    def pending(self) -> list[Pending]:
        """Operations that were declared and have not ended, of all workers.

        What cannot be read is among them, with a note.  Raises StoreUnavailable.
        """
        self._check_open()
        return drive(self._engine.pending(), self._store)

    def recover(self, *, busy: Container[str] = ()) -> Recovery:
        """One sweep: put away what has ended, finish what workers left behind.

        `busy`: ids to be left alone, because this process is working on them.

        What goes wrong with one operation, its business function included, is a note on it in `left`.  Raises
        StoreUnavailable if the list of operations cannot be read.
        """
        self._check_open()
        return drive(self._engine.recover(busy), self._store)

    def forget(self, operation_ids: Sequence[str]) -> int:
        """Forget results before their retention is over; gives how many were.  At most 64 at once.

        Only for ids whose callers have their answers and will not ask again: no request for one of them may
        still be on its way, or arrive later, for it would run again.  Wait long enough after the last
        answer for that, and at least ten times the deadline.  What has not ended, is not settled yet or
        is listed as declared is left alone.  Raises UsageError, StoreUnavailable.
        """
        self._check_open()
        return drive(self._engine.forget(operation_ids), self._store)

    def cancel(self, operation_id: str) -> Outcome[Any]:
        """Make sure that it never happens; if it has ended already, tells how.

        Raises Expired for an id that is older than the retention and of which nothing is known, since it may have
        happened; OutcomeUnknown, UsageError, InvariantViolation.
        """
        self._check_open(operation_id)
        outcome, ended = drive(self._engine.cancel(operation_id), self._store, operation_id=operation_id)
        self._settler.add(ended)
        return outcome

    def close(self) -> None:
        """Finish settling (for as long as the deadline at most) and let go of the store.

        A signal handler may close it in the middle of a call.  Then nobody is waited for: they may wait for that call.
        """
        if not self._closed:
            self._closed = True
            try:
                self._settler.close(wait=not interrupted(self._parts))
            finally:  # the wait for it may be interrupted
                self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_open(self, operation_id: str | None = None) -> None:
        if self._closed:
            raise Closed("this CasOps is closed; nothing was asked", operation_id=operation_id)
        self._engine.check_not_running()
        if interrupted(self._parts):
            raise interrupts(operation_id)

    def _turn(self, ticket: Ticket, bell: Bell) -> Known:
        """Wait for one's turn.  Gives what is known of the documents."""
        before = self._ahead(ticket)
        for _ in range(rounds(self.options)):
            if bell.wait(patience(self.options)) or (now := self._ahead(ticket)) == before:
                break
            before = now
        return ticket.known

    def _ahead(self, ticket: Ticket) -> int:
        with self._turns_lock:
            return self._turns.ahead(ticket)

    def _followed(self, ticket: Ticket) -> bool:
        with self._turns_lock:
            return self._turns.followed(ticket)

    def _leave(self, ticket: Ticket, known: Known = NOTHING) -> None:
        with self._turns_lock:
            self._turns.leave(ticket, known)


class Settler:
    """Settles in the background, many operations together; a process that dies leaves it to others."""

    def __init__(self, engine: Engine, store: Store) -> None:
        self._engine = engine
        self._store = store
        self._waiting: deque[Unsettled] = deque()
        self._lock = threading.RLock()  # a signal handler may close it in the middle
        self._changed = threading.Condition(self._lock)
        self._threads: list[threading.Thread] = []
        self._idle = 0  # of them
        self._lingering = 0  # of the idle ones: something waits, but not enough
        self._hurried = False  # somebody waits for what is waiting here
        self._closing = False

    def add(self, ended: Ended, documents_done: Callable[[Known], None] = nobody_waits, *, hurry: bool = False) -> None:
        """Have it settled; by the caller itself if too many wait already.  hurry: somebody waits for it.

        `documents_done` is called when its documents are settled, with what is known of them, or left to a sweep;
        maybe twice.
        """
        if ended.put_away:
            documents_done(NOTHING)  # somebody has settled them
            return
        with self._lock:
            accepted = len(self._waiting) < self._engine.options.settle_queue and not self._closing
            if accepted:
                self._waiting.append((ended, documents_done))
                self._hurried = self._hurried or hurry
                if self._enough() or not self._lingering:
                    self._changed.notify()
                if not self._idle and len(self._threads) < SETTLERS and not self._hire() and not self._threads:
                    self._waiting.pop()
                    accepted = False
        if not accepted:
            self._settle([(ended, documents_done)])

    def _hire(self) -> bool:
        thread = threading.Thread(target=self._work, name="casops-settler", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # this process may have no more, or is about to end
            return False
        self._threads.append(thread)
        return True

    def hurry(self) -> None:
        """Somebody waits, perhaps for something that waits here."""
        with self._lock:
            if self._waiting:
                self._hurried = True
                self._changed.notify()

    def close(self, *, wait: bool) -> None:
        with self._lock:
            self._closing = True
            self._changed.notify_all()
            threads = list(self._threads) if wait else []
        until = time.monotonic() + self._engine.options.deadline
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _work(self) -> None:
        try:
            while batch := self._next():
                self._settle(batch)
        finally:  # whatever ended it, no memory for one: another may be hired
            with self._lock, suppress(ValueError):  # Ctrl-C met who had just started it
                self._threads.remove(threading.current_thread())

    def _next(self) -> list[Unsettled]:
        """What to settle together; nothing when closing."""
        with self._lock:
            self._idle += 1
            try:
                self._wait_for_work()
            finally:
                self._idle -= 1
            several = min(len(self._waiting), self._engine.options.settle_together)
            batch = [self._waiting.popleft() for _ in range(several)]
            self._hurried = self._hurried and bool(self._waiting)
            if self._waiting:
                self._changed.notify()  # another may have it
            return batch

    def _wait_for_work(self) -> None:
        """Until there is some, and a little longer, lest each operation be settled alone; or until closing."""
        until = None
        while not self._closing and not self._enough():
            if not self._waiting:
                until = None  # another settler took it
                self._changed.wait()
                continue
            now = time.monotonic()
            until = now + LINGER if until is None else until
            if now >= until:
                break
            self._lingering += 1
            try:
                self._changed.wait(until - now)
            finally:
                self._lingering -= 1

    def _enough(self) -> bool:
        return self._hurried or len(self._waiting) >= self._engine.options.settle_together

    def _settle(self, batch: list[Unsettled]) -> None:
        try:
            errors = drive(together([self._engine.settle(*each) for each in batch]), self._store)
        except Exception as error:  # noqa: BLE001 - settling is a courtesy; the answer was given
            errors = [error for _ in batch]
        except BaseException as stop:  # Ctrl-C; others may have the documents all the same
            report(batch, [stop for _ in batch])
            raise
        report(batch, errors)


def report(batch: Sequence[Unsettled], errors: Sequence[BaseException | None]) -> None:
    """Tell the operator what was left to a sweep, and let others have the documents."""
    for (ended, documents_done), error in zip(batch, errors, strict=True):
        documents_done(NOTHING)
        if error is not None:
            log.warning(
                "operation %s is answered, its settling is left to a sweep: %s", ended.operation_id, describe(error)
            )
