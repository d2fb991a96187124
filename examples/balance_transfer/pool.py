"""Worker processes of which each may die at any moment, and jobs that get their answers all the same.

Every worker has a pipe of its own.  A queue that all shared would be held for ever by a worker that is
killed while it takes something out; a pipe just ends.  What a dead worker was doing is asked again
by another one, under the same operation id: that is all there is to recovering.

Must not be in here: payments, printing, what an answer means.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import TracebackType
from typing import Any, Self

from examples.balance_transfer.worker import Answer, Failed, Job, Ready, work

# Deaths that nobody has asked for, before it is said that something is wrong with this machine.
MAX_DEATHS = 10
# Seconds a worker may take to put away what it has answered before it is killed; which loses nothing.
LAST_SECONDS = 30.0
LAST_SECONDS_INTERRUPTED = 2.0


class Stopped(Exception):
    """It is no use to go on; the message says why.  What has been answered stays answered."""


@dataclass(slots=True)
class _Worker:
    process: SpawnProcess
    pipe: Connection[Any, Any]
    ready: bool = False
    job: Job | None = None
    dies_at: float | None = None  # monotonic seconds
    killed: bool = False


class Pool:
    """`answers` gives every job's answer.  To be used with `with`; no worker outlives it.

    `kills` is for testing: so many seconds after the n-th job was handed out, its worker is killed.
    """

    def __init__(self, url: str, size: int, kills: Mapping[int, float] | None = None) -> None:
        self._url = url
        self._size = size
        self._kills = dict(kills or {})
        self._workers: list[_Worker] = []
        self._queue: deque[Job] = deque()
        self._handed_out = 0
        self._deaths = 0
        self.killed = 0
        self.asked_again = 0
        """Jobs that were asked again because their worker had died."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close(LAST_SECONDS if kind is None else LAST_SECONDS_INTERRUPTED)

    def answers(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Answer]]:
        """The answer of every job, in the order in which they come.

        Two jobs that stand beside each other with one operation id are handed out at the same moment to two
        workers.  Raises Stopped.
        """
        self._queue.extend(jobs)
        while self._queue or any(worker.job for worker in self._workers):
            self._hire()
            self._hand_out()
            self._kill()
            for worker in self._those_with_news():
                yield from self._listen(worker)
        while any(worker.dies_at is not None for worker in self._workers):
            self._kill()
            for worker in self._those_with_news():
                yield from self._listen(worker)

    # --- handing out ------------------------------------------------------------------------

    def _hire(self) -> None:
        wanted = min(self._size, len(self._queue) + sum(worker.job is not None for worker in self._workers))
        while len(self._workers) < wanted:
            context = multiprocessing.get_context("spawn")  # never fork a process that has a store open
            pipe, theirs = context.Pipe()
            process = context.Process(target=work, args=(theirs, self._url), daemon=True)
            resource_tracker.ensure_running()  # to start it lets interrupts through again; the first worker would
            with interrupts_held():
                process.start()
                self._workers.append(_Worker(process, pipe))
            theirs.close()  # or the pipe would not end with the worker

    def _hand_out(self) -> None:
        idle = deque(each for each in self._workers if each.ready and each.job is None and each.dies_at is None)
        while self._queue:
            together = len(self._queue) > 1 and self._queue[0].operation_id == self._queue[1].operation_id
            count = 2 if together and self._size > 1 else 1
            if len(idle) < count:
                return
            for _ in range(count):
                self._give(idle.popleft(), self._queue.popleft())

    def _give(self, worker: _Worker, job: Job) -> None:
        worker.job = job
        self._handed_out += 1
        if (delay := self._kills.pop(self._handed_out, None)) is not None:
            worker.dies_at = time.monotonic() + delay
        with suppress(OSError):  # it is dead: its pipe will say so, and the job is handed out again
            worker.pipe.send(job)

    # --- listening --------------------------------------------------------------------------

    def _those_with_news(self) -> list[_Worker]:
        deadlines = [each.dies_at for each in self._workers if each.dies_at is not None and not each.killed]
        seconds = max(0.0, min(deadlines) - time.monotonic()) if deadlines else None
        heard = wait([worker.pipe for worker in self._workers], seconds)
        return [worker for worker in self._workers if worker.pipe in heard]

    def _listen(self, worker: _Worker) -> Iterator[tuple[Job, Answer]]:
        try:
            message = worker.pipe.recv()
        except (EOFError, OSError):
            self._bury(worker)
            return
        if isinstance(message, Ready):
            worker.ready = True
        elif isinstance(message, Failed):
            raise Stopped(message.why)
        else:
            job, worker.job = worker.job, None
            number, answer = message
            assert job is not None
            assert job.number == number
            yield job, answer

    def _bury(self, worker: _Worker) -> None:
        worker.process.join()
        worker.pipe.close()
        self._workers.remove(worker)
        if not worker.killed:
            self._deaths += 1
        if self._deaths > MAX_DEATHS:
            raise Stopped(f"workers keep dying (the last one with exit code {worker.process.exitcode})")
        if worker.job is not None:
            self.asked_again += 1
            self._queue.appendleft(worker.job)

    # --- endings ----------------------------------------------------------------------------

    def _kill(self) -> None:
        for worker in self._workers:
            if worker.dies_at is not None and worker.dies_at <= time.monotonic() and not worker.killed:
                worker.process.kill()
                worker.killed = True
                self.killed += 1

    def _close(self, seconds: float) -> None:
        for worker in self._workers:
            worker.pipe.close()  # its sign to stop
        deadline = time.monotonic() + seconds
        try:
            for worker in self._workers:
                worker.process.join(max(0.0, deadline - time.monotonic()))
        finally:
            for worker in self._workers:
                if worker.process.is_alive():
                    worker.process.kill()
                    worker.process.join()


@contextmanager
def interrupts_held() -> Generator[None]:
    """Ctrl-C waits.  A process that is started meanwhile is never interrupted by it at all."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
