"""One call's view of the world: typed ways to ask, to wait, and to run out of time.

Every loop of the protocol passes through `tick` or `pause`, so every loop ends at the deadline.

Must not be in here: rules of the protocol.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, cast

from casops.errors import InvariantViolation
from casops.messages import (
    Clock,
    FreshId,
    Key,
    Missing,
    Page,
    Pause,
    Read,
    ReadClock,
    Refused,
    Reply,
    Scan,
    Steps,
    StoreRequest,
    Turn,
    Unknown,
    Version,
)
from casops.options import Options
from casops.protocol.limits import MAX_ROUNDS
from casops.records import Event

Found = Version | Missing

SLOW: Final = "its business function took until then"


class TimeUp(Exception):
    """The deadline of this call is over; the caller of the generator decides what that means."""


class StoreFailed(Exception):
    """The store refused something that the call cannot do without."""

    def __init__(self, refusal: Refused) -> None:
        super().__init__(refusal.why)
        self.refusal = refusal


class Environment:
    """The constants of one call (options, worker's name) and its clock."""

    def __init__(self, options: Options, worker: str) -> None:
        self.options = options
        self.worker = worker
        self.started = 0.0  # monotonic seconds
        self.started_wall = 0.0
        self.now = Clock(0.0, 0.0)
        self.rounds = 0
        self._wait = 0.0  # seconds of the last wait for a silent store
        self.last_trouble: str | None = None  # what the store last said when it gave no answer

    def begin(self) -> Steps[None]:
        self.now = cast(Clock, (yield ReadClock()))
        self.started, self.started_wall = self.now.monotonic, self.now.wall

    def tick(self, *slow: str) -> Steps[float]:
        """Look at the clock.  Gives monotonic seconds.  Raises TimeUp past the deadline; slow: what took so long."""
        self.now = cast(Clock, (yield ReadClock()))
        self.rounds += 1
        # A clock that stands still (a test's, a broken one) must not make a loop endless.
        late = self.now.monotonic - self.started >= self.options.deadline or self.outlived()
        if late or self.rounds > MAX_ROUNDS:
            raise TimeUp(*slow)
        return self.now.monotonic

    def outlived(self) -> bool:
        """May what was there when this call began be forgotten by now?

        By either clock of this machine: a file forgets by the one for people, which may jump.
        """
        passed = max(self.now.monotonic - self.started, self.now.wall - self.started_wall)
        return 0 < self.options.retention / 2 < passed

    def pause(self, seconds: float) -> Steps[None]:
        """Wait, then look at the clock.  Never waits past the deadline."""
        left = self.started + self.options.deadline - self.now.monotonic
        yield Pause(max(0.0, min(seconds, left)))
        yield from self.tick()

    def perform(self, *requests: StoreRequest) -> Steps[list[Reply]]:
        """One batch.  This is the one place where a store's replies get their type."""
        if not requests:
            return []
        replies = cast("list[Reply]", (yield requests))
        for reply in replies:
            if isinstance(reply, Unknown | Refused):
                self.last_trouble = reply.why
        return replies

    def after_failed(self, reply: Reply) -> Steps[None]:
        """Before something is tried again whose write was not acknowledged.

        A refusal is not argued with (raises StoreFailed).  After silence comes a wait, twice as long each time:
        a store in trouble must not be asked without pause.  After a lost race, a look at the clock.
        """
        if isinstance(reply, Refused):
            raise StoreFailed(reply)
        if isinstance(reply, Unknown):
            self._wait = min(max(self._wait * 2, self.options.poll, 0.001), 1.0)
            yield from self.pause(self._wait)
        else:
            yield from self.tick()

    def read(self, keys: Iterable[Key]) -> Steps[dict[Key, Found]]:
        """Read all keys; ask again for those that got no answer.

        Raises StoreFailed if the store refuses, TimeUp if it stays silent.
        """
        found: dict[Key, Found] = {}
        open_keys = list(dict.fromkeys(keys))
        wait = self.options.poll
        while open_keys:
            replies = yield from self.perform(*(Read(key) for key in open_keys))
            for key, reply in zip(open_keys, replies, strict=True):
                if isinstance(reply, Version | Missing):
                    found[key] = reply
                elif isinstance(reply, Refused):
                    raise StoreFailed(reply)
                elif not isinstance(reply, Unknown):
                    raise InvariantViolation(f"the store answered a read of {key} with {reply!r}")
            open_keys = [key for key in open_keys if key not in found]
            if open_keys:
                yield from self.pause(wait)
                wait = min(max(wait * 2, 0.001), 1.0)
        return found

    def scan(self) -> Steps[list[Page]]:
        """All pages of intentions.  Raises StoreFailed or TimeUp."""
        pages: list[Page] = []
        cursor: str | None = ""
        while cursor is not None:
            (reply,) = yield from self.perform(Scan(cursor))
            if isinstance(reply, Page):
                pages.append(reply)
                cursor = reply.next
            elif isinstance(reply, Refused):
                raise StoreFailed(reply)
            else:
                yield from self.pause(self.options.poll)
        return pages

    def turn(self, behind: frozenset[Key]) -> Steps[Mapping[Key, Version]]:
        """Wait for the turn of this process's operations.  Gives what who went before knows of these documents."""
        known = cast("Mapping[Key, Version]", (yield Turn(behind)))
        yield from self.tick()
        return known

    def fresh_id(self) -> Steps[str]:
        return cast(str, (yield FreshId()))

    def event(self, what: str, attempt: str | None = None) -> Event:
        """A line of history, dated by the last look at the clock."""
        return Event(at=round(self.now.wall, 6), worker=self.worker, what=what, attempt=attempt)


class Watch:
    """Patience with one version of something: starts anew whenever it changes."""

    def __init__(self, environment: Environment, patience: float) -> None:
        self._environment = environment
        self._patience = patience
        self._seen: object = self
        self._since = 0.0
        self._wait = 0.0

    def over(self, version: object) -> Steps[bool]:
        """True once `version` was watched for the whole patience; otherwise waits a little."""
        now = yield from self._environment.tick()
        if version != self._seen:
            self._seen, self._since = version, now
            self._wait = self._environment.options.poll
        left = self._since + self._patience - now
        if left <= 0:
            return True
        yield from self._environment.pause(min(self._wait, left))
        self._wait = min(max(self._wait * 2, 0.001), max(self._patience / 4, 0.001))
        return False
