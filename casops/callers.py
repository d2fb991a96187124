"""The callers of one front at a store that converses, and who carries out what they want (casops.combining).

Threads: a caller whom nobody is in the way of does it alone, in its own thread.  Who comes meanwhile waits, and a
thread of ours leads: it carries out what all of them want, again and again, until nobody waits.  Whoever leads and is
at one thing for longer than the PATIENCE of the others (a business function that is slow or hangs, a disk in trouble)
keeps what it has in its hands and leads no more; another thread goes on without it.

Tasks: a task of ours leads for as long as there are callers; the event loop runs their functions, as ever.

Must not be in here: what is carried out, and how.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Generator, Sequence
from functools import partial
from itertools import islice
from queue import Empty, SimpleQueue
from typing import Any, Final, TypeVar, cast

from casops.combining import MOST, Errand, combined
from casops.conversations import Wish
from casops.drivers import adrive, drive
from casops.errors import OutcomeUnknown
from casops.stores import AsyncConversingStore, ConversingStore

__all__ = ["AsyncCallers", "Callers"]

T = TypeVar("T")

# Seconds.  A group takes a few milliseconds, most of it for the disk; longer than this others do not stand still for
# one of them.
PATIENCE: Final = 0.05

# Seconds that a thread waits for more to do, since to start one takes as long as an operation.
IDLE: Final = 1.0


class _Lead:
    """One time of leading."""

    __slots__ = ("hands", "over", "since")

    def __init__(self) -> None:
        self.hands: Sequence[_Call[Any]] = ()
        self.since = time.monotonic()  # when it began what it is at
        self.over = False


class _Call(Errand[T]):
    """An errand and the thread that waits for it."""

    def __init__(self, steps: Generator[Wish, Any, T]) -> None:
        super().__init__(steps)
        self.held: _Lead | None = None  # in whose hands it is
        self._bell = threading.Lock()  # held, until it rings
        self._bell.acquire()

    def wait(self) -> None:
        self._bell.acquire(timeout=PATIENCE)

    def ring(self) -> None:
        """To be called by one thread at a time."""
        if self._bell.locked():
            self._bell.release()


class Callers:
    """The threads that ask a CasOps."""

    def __init__(self, store: ConversingStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._calls: dict[_Call[Any], None] = {}  # in the order in which they came
        self._leader: _Lead | None = None
        self._idle = 0  # threads that wait for a lead
        self._leads: SimpleQueue[_Lead] = SimpleQueue()  # for them
        self._pid = os.getpid()

    def run(self, steps: Generator[Wish, Any, T]) -> T:
        """Drive a worker to its end, or have that done."""
        if os.getpid() != self._pid:
            return drive(steps, self._store)  # the lock may be the parent's; that the store is, it says itself
        if (lead := self._alone()) is not None:
            try:
                return drive(steps, self._store)
            finally:
                self._go(lead)
        call = _Call(steps)
        try:
            with self._lock:
                self._calls[call] = None
            while not call.over:
                with self._lock:
                    if call.held is None and not self._somebody_leads():
                        del self._calls[call]
                        break
                call.wait()
        finally:
            with self._lock:
                self._calls.pop(call, None)
        return drive(call.rest(), self._store)

    def _alone(self) -> _Lead | None:
        """Lead those who may come meanwhile, if nobody is there."""
        with self._lock:
            if self._calls or not (self._leader is None or self._leader.over):
                return None
            self._leader = _Lead()
            return self._leader

    def _go(self, lead: _Lead) -> None:
        """Lead no more."""
        lead.over = True  # before anything that can be interrupted: who waits looks again
        with self._lock:
            for call in self._calls:
                if call.held is None:
                    call.ring()  # to look who leads
                    break

    def _somebody_leads(self) -> bool:
        """See to it, for one who waits and is in nobody's hands; the lock is held.  False: there is no thread for it.

        Whoever leads and is at one thing for too long leads no more.
        """
        leader = self._leader
        if leader is not None and not leader.over and time.monotonic() < leader.since + PATIENCE:
            return True
        lead = _Lead()
        if self._idle:
            self._idle -= 1
            self._leads.put(lead)
        else:
            try:
                threading.Thread(target=self._work, args=(lead,), name="casops-callers", daemon=True).start()
            except RuntimeError:  # this process may have no more, or is about to end
                return False
        self._leader = lead
        return True

    # --- in threads of ours -----------------------------------------------------------------

    def _work(self, lead: _Lead) -> None:
        while True:
            self._carry_out(lead)
            try:
                lead = self._leads.get(timeout=IDLE)
            except Empty:
                with self._lock:
                    if self._idle:
                        self._idle -= 1
                        return
                lead = self._leads.get()  # it came just now

    def _carry_out(self, lead: _Lead) -> None:
        """Lead until nobody waits, or another does."""
        while group := self._group(lead):
            try:
                drive(combined(group, partial(self._may, lead)), self._store)
            except BaseException as error:  # noqa: BLE001 - of the store (it is closed; a bug), for those who asked it
                _fail(lead.hands, error)
            self._may(lead, ())

    def _group(self, lead: _Lead) -> list[_Call[Any]]:
        """Those who wait.  None of them: this thread has nothing to do any more."""
        with self._lock:
            group: list[_Call[Any]] = []
            if self._leader is lead:
                group = list(islice((call for call in self._calls if call.held is None and not call.over), MOST))
            if not group:
                lead.over = True
                self._idle += 1
            return group

    def _may(self, lead: _Lead, calls: Sequence[Errand[Any]]) -> bool:
        """Take these in hand instead of others.  False: another leads."""
        with self._lock:
            for call in lead.hands:
                call.held = None
                if call.over:
                    call.ring()
            lead.hands = ()
            if self._leader is not lead:
                return False
            lead.hands = cast("Sequence[_Call[Any]]", calls)
            for call in lead.hands:
                call.held = lead
            lead.since = time.monotonic()
            return True


class _AsyncCall(Errand[T]):
    """An errand and the task that waits for it."""

    def __init__(self, steps: Generator[Wish, Any, T]) -> None:
        super().__init__(steps)
        self.bell = asyncio.Event()


class AsyncCallers:
    """The tasks that ask an AsyncCasOps."""

    def __init__(self, store: AsyncConversingStore) -> None:
        self._store = store
        self._calls: dict[_AsyncCall[Any], None] = {}
        self._hands: Sequence[Errand[Any]] = ()
        self._leader: asyncio.Task[None] | None = None

    async def run(self, steps: Generator[Wish, Any, T]) -> T:
        """As Callers.run.  Who is cancelled may be carried out nevertheless."""
        call = _AsyncCall(steps)
        self._calls[call] = None
        try:
            while not call.over:
                if self._leader is None:
                    self._leader = asyncio.create_task(self._lead(), name="casops-callers")
                    self._leader.add_done_callback(self._led)
                call.bell.clear()
                await call.bell.wait()
        finally:
            self._calls.pop(call, None)
        return await adrive(call.rest(), self._store)

    async def _lead(self) -> None:
        while group := [call for call in self._calls if not call.over][:MOST]:
            try:
                await adrive(combined(group, self._may), self._store)
            except BaseException as error:
                _fail(self._hands, error)
                if not isinstance(error, Exception):
                    raise
            finally:
                self._may(())

    def _led(self, leader: asyncio.Task[None]) -> None:
        """Also of one that was cancelled before it began."""
        self._leader = None
        for call in self._calls:
            call.bell.set()
        if not leader.cancelled():
            leader.exception()  # seen: those whom it concerns were told

    def _may(self, calls: Sequence[Errand[Any]]) -> bool:
        for call in self._hands:
            if call.over:
                cast("_AsyncCall[Any]", call).bell.set()
        self._hands = calls
        return True


def _fail(errands: Sequence[Errand[Any]], error: BaseException) -> None:
    """What ended the work for several is told to each; an interruption was not meant for them."""
    for errand in errands:
        if isinstance(error, Exception):
            errand.ends(error=error)
        else:
            why = "the work for several callers was interrupted; ask again with the same id"
            errand.ends(error=OutcomeUnknown(why))
