"""The servers of a client and how they are doing.

    state     reached when                                          gets
    up        at first; from slow, after some answers in time       work, the one with the least in flight first
    suspect   second time-out of one call, or no connection         probes only, unless no other is left
    slow      suspect, but it answered then, be it late or a probe  every n-th call, and all if no other is up

A server that is suspect once more before it answered anything in time is probed at growing distances.

Must not be in here: messages, clocks.
"""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from typing import Literal

from casops.client.options import ClientOptions
from casops.client.timing import RoundTrips

State = Literal["up", "slow", "suspect"]
RANK: dict[State, int] = {"up": 0, "slow": 1, "suspect": 2}

# Doublings of the distance between probes; the bound `probe_at_most` is reached before.
MOST_DOUBLINGS = 10


def without_secrets(url: str) -> str:
    """A URL as it may be logged."""
    return re.sub(r"//[^/?#]*@", "//…@", url)


class Server:
    """One server as this client knows it."""

    def __init__(self, url: str, options: ClientOptions) -> None:
        self.address = url
        self.url = without_secrets(url)
        """As people see it."""
        self.state: State = "up"
        self.in_flight = 0
        self.comebacks = 0
        """How often it came back.  Whoever gave it up before may ask it again after that."""
        self.suspicions = 0
        """How often it became suspect since it last answered in time."""
        self._options = options
        self._in_time = 0
        self._trips: dict[str, RoundTrips] = {}

    def trips(self, kind: str) -> RoundTrips:
        """Its round trips with messages of this kind.  Kinds are names of operations, so there are few."""
        return self._trips.setdefault(kind, RoundTrips(self._options))

    def suspect(self) -> bool:
        """It did not answer.  Whether that is news."""
        self._in_time = 0
        news = self.state != "suspect"
        if news:
            self.suspicions += 1
        self.state = "suspect"
        return news

    def answered(self, *, late: bool) -> State | None:
        """It answered a message.  Gives its state if that is new."""
        before = self.state
        if self.state == "suspect":  # it is not away, after all
            self.comebacks += 1
            self.state, self._in_time = "slow", int(not late)
        elif late:
            self._in_time = 0
        else:
            self._in_time += 1
            self.suspicions = 0
            if self._in_time >= self._options.recovered_after:
                self.state = "up"
        return self.state if self.state != before else None

    def probed(self) -> State | None:
        """It says that it takes requests.  It has to show that it answers them, too."""
        if self.state != "suspect":
            return None
        self.comebacks += 1
        self.state, self._in_time = "slow", 0
        return self.state

    def probe_pause(self) -> float:
        """Seconds until the first probe after it became suspect."""
        doublings = min(max(self.suspicions - 1, 0), MOST_DOUBLINGS)
        return min(self._options.probe * float(1 << doublings), self._options.probe_at_most)


class Servers:
    """All of them, and whom to ask."""

    def __init__(self, urls: Sequence[str], options: ClientOptions) -> None:
        self.all = [Server(url, options) for url in urls]
        self._options = options
        self._calls = 0

    def try_slow(self) -> bool:
        """Whether the call that begins now shall begin with a slow server, if there is one."""
        self._calls += 1
        return self._options.slow_share > 0 and self._calls % self._options.slow_share == 0

    def best(self, among: Container[Server], *, slow_first: bool) -> Server | None:
        """The server to ask next.  Equals take turns; the first call goes to the first."""
        count = len(self.all)
        turned = [self.all[(max(self._calls, 1) - 1 + each) % count] for each in range(count)]
        able = [server for server in turned if server in among]

        def rank(server: Server) -> tuple[int, int]:
            first = slow_first and server.state == "slow"
            return -1 if first else RANK[server.state], server.in_flight

        return min(able, key=rank, default=None)
