"""A worker one can step, interrupt and crash: a protocol generator without a driver.

    worker = Worker("w1", steps, clock)
    worker.batch                    the requests it waits for (None: it has ended)
    worker.answer(replies)          what it is told; it then asks for the next batch
    worker.crash()                  it is never heard of again

Clock, waiting and fresh ids are answered here: the clock moves only when a worker waits, and ids
are counted, so that the same answers always lead to the same requests.

Must not be in here: a store.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from casops.messages import Batch, Clock, FreshId, Key, Pause, ReadClock, Reply, Request, Steps, Turn, Version
from casops.stores import Store

T = TypeVar("T")


class SimulatedClock:
    """Time that passes when somebody waits.  `skew` is added to the wall clock of one worker."""

    def __init__(self, wall: float = 1_800_000_000.0) -> None:
        self.monotonic = 0.0
        self.start = wall

    def advance(self, seconds: float) -> None:
        self.monotonic += seconds

    def wall(self) -> float:
        return self.start + self.monotonic


class Worker(Generic[T]):
    """One run of a protocol generator."""

    def __init__(self, name: str, steps: Steps[T], clock: SimulatedClock | None = None, skew: float = 0.0) -> None:
        self.name = name
        self.batch: Batch | None = None
        self.result: T | None = None
        self.error: Exception | None = None
        self.crashed = False
        self.paused = 0.0  # seconds it has waited in all
        self.turn: Callable[[], Mapping[Key, Version]] = dict  # waits for its turn, and tells what it learns then
        self._steps = steps
        self._clock = clock or SimulatedClock()
        self._skew = skew
        self._ids = 0
        self._continue(None)

    @property
    def ended(self) -> bool:
        """It has a result or an error, or it was crashed."""
        return self.batch is None

    def answer(self, replies: Sequence[Reply]) -> None:
        """Tell it the replies to its batch."""
        assert self.batch is not None
        assert len(replies) == len(self.batch)
        self._continue(list(replies))

    def crash(self) -> None:
        self._steps.close()
        self.batch = None
        self.crashed = True

    def step(self, store: Store) -> None:
        """Have its batch carried out by a store, and tell it."""
        assert self.batch is not None
        self.answer(store.perform(self.batch))

    def finish(self, store: Store) -> T:
        """Step it to its end on a store; gives its result or raises its error."""
        while self.batch is not None:
            self.step(store)
        if self.error is not None:
            raise self.error
        assert not self.crashed
        return self.result  # type: ignore[return-value]  # it has ended, so this is a T

    def _continue(self, reply: Any) -> None:
        while True:
            try:
                request = self._steps.send(reply)
            except StopIteration as stop:
                self.batch, self.result = None, stop.value
                return
            except Exception as error:  # noqa: BLE001 - whatever it raises is what this worker ended with
                self.batch, self.error = None, error
                return
            if isinstance(request, tuple):
                self.batch = request
                return
            reply = self._local(request)

    def _local(self, request: Request) -> Clock | str | Mapping[Key, Version] | None:
        if isinstance(request, ReadClock):
            return Clock(self._clock.monotonic, self._clock.wall() + self._skew)
        if isinstance(request, FreshId):
            self._ids += 1
            return f"{self.name}-{self._ids}"
        if isinstance(request, Turn):
            return self.turn()
        assert isinstance(request, Pause)
        self.paused += request.seconds
        self._clock.advance(request.seconds)
        return None
