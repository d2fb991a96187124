"""Every number the client goes by: unit, default, what zero means, and why.

Must not be in here: options of the servers.
"""

from __future__ import annotations

from dataclasses import dataclass

from casops.bounds import check_number, check_whole
from casops.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientOptions:
    """How patient, how often, how much.  No safety rule depends on any of these: an id makes asking again safe."""

    deadline: float = 30.0
    """Seconds one call may take in all.  Zero is refused: nothing would be tried.  As long as that of the servers."""

    first_timeout: float = 3.0
    """Seconds to wait for a server's answer before any was measured.  Zero is refused.  RFC 6298 started with 3 s
    (RFC 2988) and went down to 1 s for single packets; the first operation of a server also opens its connections."""

    least_timeout: float = 1.0
    """Seconds a time-out is at least, however quick the server is.  Zero: whatever was measured.  The bound
    of RFC 6298 (2.4): a pause of a garbage collector or a durable write is no reason to ask twice."""

    most_timeout: float = 10.0
    """Seconds a time-out is at most, retries included.  Zero is refused.  A third of the deadline, so that another
    server can still be asked."""

    life: float = 60.0
    """Seconds a request is left running for its late answer, whoever was asked meanwhile.  Zero is refused.  Twice
    the deadline: an answer is worth having after its caller has given up, for the next time it asks."""

    retry_burst: int = 50
    """Repetitions (same server or another) that may be sent at once.  Zero is refused: nothing would be repeated.
    Enough for all that is in flight when one server of a few dies."""

    retry_share: float = 0.2
    """Repetitions that every new call adds to the budget.  Zero: only time refills it.  At most a fifth more
    work for servers that are in trouble already; Finagle's default."""

    retry_rate: float = 2.0
    """Repetitions that every second adds to the budget.  Zero: only new calls refill it.  For clients that ask
    seldom."""

    messages: int = 64
    """Requests of one call at most.  Zero is refused.  Two for each of some servers, and what "still in progress"
    costs; more of them mean that something tells us to ask again for ever."""

    pause: float = 0.1
    """Seconds of the first wait after a broken connection, or when a server says "later" without saying when; doubled
    each time up to a second.  Zero: no waiting.  About one operation."""

    probe: float = 0.5
    """Seconds until a suspect server is looked at; doubled each time it stays away.  Zero is refused.
    A restart takes about a second."""

    probe_at_most: float = 15.0
    """Seconds between two looks at a suspect server at most.  Zero is refused.  A server that comes back is used again
    within a quarter of a minute."""

    slow_share: int = 8
    """Every how many calls begin with a slow server, to see whether it has recovered.  Zero: only when there is no
    other.  An eighth of the calls may be late, no more."""

    recovered_after: int = 3
    """Answers in time, one after another, that make a slow server a good one.  Zero is refused.
    One may be luck."""

    table: int = 10_000
    """Operations that may wait for an answer or for somebody to fetch it.  Zero is refused.  Some MB."""

    reply_bytes: int = 20 * 1024 * 1024
    """Bytes of one reply at most.  Zero is refused.  The largest document of Couchbase: a result is part of one (16 MiB
    at most), and so is what an outcome tells beside it."""

    connections: int = 100
    """Connections to one server at most.  Zero is refused.  httpx's own default."""

    def __post_init__(self) -> None:
        for name in ("least_timeout", "pause", "retry_share", "retry_rate"):
            check_number(name, getattr(self, name))
        for name in ("deadline", "first_timeout", "most_timeout", "life", "probe", "probe_at_most"):
            check_number(name, getattr(self, name), zero=False)
        for name in ("retry_burst", "messages", "recovered_after", "table", "reply_bytes", "connections"):
            check_whole(name, getattr(self, name), 1)
        check_whole("slow_share", self.slow_share, 0)
        if self.least_timeout > self.most_timeout:
            raise UsageError("option least_timeout must not be above most_timeout")
