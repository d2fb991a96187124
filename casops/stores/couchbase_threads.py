"""Threads that carry out the calls of a batch for whoever waits for them.

A ThreadPoolExecutor did this before.  Its futures, with a lock and a condition for each call, were a fifth of what held
the interpreter's lock when 64 callers worked at once; a batch needs to be waited for only as a whole.

Threads are started as they are needed and wait at one queue.  None of them keeps its owner alive: they end when it is
closed, when nobody has it any more, or with the interpreter.

Must not be in here: what is carried out.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any, TypeVar

__all__ = ["Threads"]

T = TypeVar("T")


class Threads:
    """At most `most` threads.  To be used by any number of others; not after a fork."""

    def __init__(self, most: int, name: str) -> None:
        self._work = _Work(most, name)
        self._stop = weakref.finalize(self, _stop, self._work)

    def together(self, tasks: Sequence[Callable[[], T]]) -> list[T]:
        """The results of all: the first is done here, the others meanwhile elsewhere, or here if nobody has begun them.

        Raises what one of them raises.  Where that, or an interruption, ends the waiting, the others go on.
        """
        if len(tasks) < 2:
            return [task() for task in tasks]
        self._work.take(job := _Job(tasks))
        first = tasks[0]()
        return [first, *job.results()]

    def close(self, *, wait: bool = True) -> None:
        """What is asked for later is done by those who ask.  wait: for what is under way.  May be called twice."""
        if wait:
            self._stop()
        else:
            _end(self._work)


class _Job:
    """Tasks of one batch, but the first.

    Whoever comes takes one: a thread of ours that is free, or who waits for them and has nothing else to do.  So
    nobody waits for a thread: one that could not be started, is busy, or has ended.
    """

    __slots__ = ("_bell", "_error", "_left", "_lock", "_results", "_tasks", "_untaken", "size")

    def __init__(self, tasks: Sequence[Callable[[], Any]]) -> None:
        self._tasks = tasks
        self.size = self._left = len(tasks) - 1
        self._untaken = deque(range(1, len(tasks)))
        self._results: list[Any] = [None] * len(tasks)
        self._error: BaseException | None = None
        self._lock = threading.Lock()  # held for two lines that nothing can come between but another thread
        self._bell = threading.Lock()  # held until all is done
        self._bell.acquire()

    def do_one(self) -> bool:
        """False: all are taken."""
        try:
            index = self._untaken.popleft()
        except IndexError:
            return False
        try:
            self._results[index] = self._tasks[index]()
        except BaseException as error:  # noqa: BLE001 - it is told to who waits
            if self._error is None or not isinstance(error, Exception):  # Ctrl-C before all others
                self._error = error
        with self._lock:
            self._left -= 1
            last = self._left == 0
        if last:
            self._bell.release()
        return True

    def results(self) -> list[Any]:
        while self.do_one():
            self._raise()  # at once: it may be Ctrl-C
        self._bell.acquire()
        self._raise()
        return self._results[1:]

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error


class _Work:
    """What the threads share.

    A signal handler may close it at any moment, in the thread that is starting others.  So that one may enter its lock
    again, and no thread of ours, which close waits for, ever takes it.
    """

    def __init__(self, most: int, name: str) -> None:
        self.queue: SimpleQueue[_Job | None] = SimpleQueue()  # a job for each of its tasks, perhaps done meanwhile
        self.idle: SimpleQueue[None] = SimpleQueue()  # something for each thread that waits
        self.lock = threading.RLock()
        self.threads: list[threading.Thread] = []
        self.closed = False
        self.pid = os.getpid()
        self._most = most
        self._name = name

    def take(self, job: _Job) -> None:
        """Let those who are free do it."""
        with self.lock:
            if self.closed:
                return
            wanted = self.queue.qsize() + job.size - self.idle.qsize()
            for _ in range(job.size):
                self.queue.put(job)
            for _ in range(min(wanted, self._most - len(self.threads))):
                name = f"{self._name}-{len(self.threads)}"
                thread = threading.Thread(target=_serve, args=(self,), name=name, daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # this process may have no more threads
                    break
                self.threads.append(thread)
                if self.closed:  # meanwhile, by a signal handler
                    break
            while not self.threads and not self.queue.empty():
                self.queue.get()  # nobody else would


def _serve(work: _Work) -> None:
    while True:
        work.idle.put(None)
        job = work.queue.get()
        work.idle.get()
        if job is None:  # the end, for all: also for one that close did not know of yet and that was first to take it
            work.queue.put(None)
            return
        job.do_one()
        del job  # or the last one would be kept for as long as there is nothing else to do


def _end(work: _Work) -> None:
    with work.lock:
        work.closed = True
        work.queue.put(None)


def _stop(work: _Work) -> None:
    if os.getpid() != work.pid:
        return  # after a fork the threads are the parent's, and so may the lock be
    _end(work)
    for thread in work.threads:
        if thread is not threading.current_thread():
            thread.join()
