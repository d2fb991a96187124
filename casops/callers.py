"""The callers of one front at a store that converses, and who carries out what they want (casops.combining).

Threads: a caller whom nobody is in the way of does it alone, in its own thread.  Who comes meanwhile waits, and a
thread of ours leads: it carries out what all of them want, group after group, until nobody waits.
Tasks: a task of ours leads for as long as there are callers; the event loop runs their functions, as ever.

Nobody has to be waited for.  If whoever is at work takes longer than PATIENCE (a business function that is slow or
hangs, a disk or another process in trouble), all that are not in its hands go on alone, and what is in its hands does
when they are empty again, or leaves at its deadline, and cannot know whether it will be carried out.

Must not be in here: what is carried out, and how.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Generator, Sequence
from functools import partial
from itertools import islice
from queue import Empty, SimpleQueue
from typing import Any, Final, TypeVar, cast

from casops.bell import Bell
from casops.combining import MOST, Errand, combined
from casops.conversations import Wish
from casops.drivers import adrive, drive, nobody_looked
from casops.errors import CasOpsError, OutcomeUnknown
from casops.stores import AsyncConversingStore, ConversingStore
from casops.tasks import own_task

__all__ = ["AsyncCallers", "Callers"]

T = TypeVar("T")
log = logging.getLogger("casops")

FAILED: Final = "the work for several callers failed, each goes on alone"

HELD: Final = "a business function, or the store, hangs; it may be carried out yet: ask again with the same id"

# Seconds.  A group takes a few milliseconds, most of it for the disk; others do not stand still for longer than this.
PATIENCE: Final = 0.05

# Seconds after a group that has written.  Those who were answered come back with what they want next, and the next
# transaction is larger: 4 processes of 4 callers 1,440 -> 1,650 per second, 16 callers of one 1,860 -> 2,000.
BREATH: Final = 0.00005

# Seconds that a thread waits for more to do, since to start one takes as long as an operation.
IDLE: Final = 1.0

# Seconds beyond its deadline that a caller stays in somebody's hands: what a store takes to say that it is busy.
LONGER: Final = 15.0


class _Lead:
    """One time of leading."""

    __slots__ = ("hands", "over", "since")

    def __init__(self) -> None:
        self.hands: Sequence[Any] = ()  # the calls that are being worked on, which nobody else may touch
        self.since = time.monotonic()  # when it began with the group that it is at
        self.over = False


class _Call(Errand[T]):
    """An errand and the thread that waits for it."""

    def __init__(self, steps: Generator[Wish, Any, T]) -> None:
        super().__init__(steps)
        self.bell = Bell()


class Callers:
    """The threads that ask a CasOps."""

    def __init__(self, store: ConversingStore, deadline: float) -> None:
        self._store = store
        self._longest = deadline + LONGER
        self._lock = threading.Lock()
        self._calls: dict[_Call[Any], None] = {}  # that wait in nobody's hands, in the order in which they came
        self._leader: _Lead | None = None
        self._idle = 0  # threads that wait for a lead
        self._leads: SimpleQueue[_Lead] = SimpleQueue()  # for them

    def run(self, steps: Generator[Wish, Any, T], operation_id: str) -> T:
        """Drive a worker to its end, or have that done.  Raises what it raises, OutcomeUnknown."""
        _check_usable(self._store, operation_id)  # by this thread: another may ask where this one may not
        if (lead := self._alone()) is not None:
            try:
                return drive(steps, self._store, operation_id=operation_id)
            finally:
                self._go(lead)
        call = _Call(steps)
        call.advance()  # from now on it knows how long it has waited
        until = time.monotonic() + self._longest
        try:
            if not call.over:
                with self._lock:
                    self._calls[call] = None
            while not call.over:
                with self._lock:
                    if call in self._calls:
                        self._see_who_leads()
                    elif time.monotonic() >= until:
                        raise OutcomeUnknown(HELD, operation_id=operation_id)
                call.bell.wait(PATIENCE)
        finally:
            with self._lock:
                self._calls.pop(call, None)
        return drive(call.rest(), self._store, operation_id=operation_id, begun=call.begun)

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
            for call in islice(self._calls, 1):
                call.bell.ring()

    def _see_who_leads(self) -> None:
        """For those who wait; the lock is held."""
        leader = self._leader
        if leader is None or leader.over:
            self._leader = lead = _Lead()
            if self._idle:
                self._idle -= 1
                self._leads.put(lead)
                return
            try:
                threading.Thread(target=self._work, args=(lead,), name="casops-callers", daemon=True).start()
                return
            except RuntimeError:  # this process may have no more, or is about to end
                pass
        elif time.monotonic() < leader.since + PATIENCE:
            return
        self._leader = None
        for call in list(self._calls):
            call.over = True
            call.bell.ring()
        self._calls.clear()

    # --- in threads of ours -----------------------------------------------------------------

    def _work(self, lead: _Lead) -> None:
        while True:
            while group := self._group(lead):
                wrote = False
                try:
                    wrote = drive(combined(group, partial(self._may, lead)), self._store)
                except BaseException:  # of the store, for example that it is closed: each hears it alone
                    log.debug(FAILED, exc_info=True)
                    for call in lead.hands:
                        call.fails()
                self._may(lead, ())
                if wrote and len(group) > 1:
                    time.sleep(BREATH)
            try:
                lead = self._leads.get(timeout=IDLE)
            except Empty:
                with self._lock:
                    if self._idle:
                        self._idle -= 1
                        return
                lead = self._leads.get()  # it came just now

    def _group(self, lead: _Lead) -> list[_Call[Any]]:
        """Those who wait.  None of them: this thread has nothing to do any more."""
        with self._lock:
            group = list(islice(self._calls, MOST)) if self._leader is lead else []
            lead.since = time.monotonic()
            if not group:
                lead.over = True
                self._idle += 1
            return group

    def _may(self, lead: _Lead, calls: Sequence[Errand[Any]]) -> bool:
        """Take these in hand instead of others.  False: it has taken too long."""
        with self._lock:
            leads = self._leader is lead
            for call in lead.hands:
                if call.over or not leads:
                    call.over = True
                    call.bell.ring()
                else:
                    self._calls[call] = None
            lead.hands = cast("Sequence[_Call[Any]]", calls) if leads else ()
            for call in lead.hands:
                self._calls.pop(call, None)  # it is not there if its caller was interrupted
            return leads


class _AsyncCall(Errand[T]):
    """An errand and the task that waits for it."""

    def __init__(self, steps: Generator[Wish, Any, T]) -> None:
        super().__init__(steps)
        self.bell = asyncio.Event()


class AsyncCallers:
    """The tasks that ask an AsyncCasOps."""

    def __init__(self, store: AsyncConversingStore, deadline: float) -> None:
        self._store = store
        self._longest = deadline + LONGER
        self._calls: dict[_AsyncCall[Any], None] = {}  # that wait in nobody's hands
        self._leader: _Lead | None = None
        self._tasks: set[asyncio.Task[None]] = set()  # those that lead, or led and are not at their end

    async def run(self, steps: Generator[Wish, Any, T], operation_id: str) -> T:
        """As Callers.run.  Who is cancelled may be carried out nevertheless."""
        _check_usable(self._store, operation_id)
        call = _AsyncCall(steps)
        call.advance()
        try:
            if not call.over:
                self._calls[call] = None
                self._see_who_leads()
                async with asyncio.timeout(self._longest):
                    await call.bell.wait()
        except TimeoutError:
            raise OutcomeUnknown(HELD, operation_id=operation_id) from None
        finally:
            self._calls.pop(call, None)
        return await adrive(call.rest(), self._store, operation_id=operation_id, begun=call.begun)

    def _see_who_leads(self) -> None:
        if self._leader is None:
            self._leader = lead = _Lead()
            task = own_task(self._work(lead), "casops-callers")
            self._tasks.add(task)
            task.add_done_callback(partial(self._ended, lead))

    async def _work(self, lead: _Lead) -> None:
        while self._leader is lead and (group := list(islice(self._calls, MOST))):
            timer = asyncio.get_running_loop().call_later(PATIENCE, self._stop, lead)
            try:
                await adrive(combined(group, partial(self._may, lead)), self._store)
            except Exception:  # see Callers
                log.debug(FAILED, exc_info=True)
                for call in lead.hands:
                    call.fails()
            finally:
                timer.cancel()
            self._may(lead, ())
        self._stop(lead)

    def _ended(self, lead: _Lead, task: asyncio.Task[None]) -> None:
        """A leader has come to its end, which may be that it was cancelled, even before it began."""
        self._tasks.discard(task)
        for call in lead.hands:
            call.fails()
        self._stop(lead)
        self._may(lead, ())
        if not task.cancelled():
            task.exception()  # seen

    def _stop(self, lead: _Lead) -> None:
        """It leads no more: whoever is not in its hands goes on alone."""
        if self._leader is lead:
            self._leader = None
            for call in self._calls:
                call.over = True
                call.bell.set()
            self._calls.clear()

    def _may(self, lead: _Lead, calls: Sequence[Errand[Any]]) -> bool:
        """As Callers._may."""
        leads = self._leader is lead
        for call in lead.hands:
            if call.over or not leads:
                call.over = True
                call.bell.set()
            else:
                self._calls[call] = None
        lead.hands = cast("Sequence[_AsyncCall[Any]]", calls) if leads else ()
        for call in lead.hands:
            self._calls.pop(call, None)
        return leads


def _check_usable(store: ConversingStore | AsyncConversingStore, operation_id: str) -> None:
    try:
        store.check_usable()
    except CasOpsError as error:
        nobody_looked(error, operation_id)
        raise
