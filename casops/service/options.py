"""Every number the service goes by: unit, default, what zero means, and why.

Must not be in here: options of the protocol (casops.options), of uvicorn (serving.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from casops.bounds import check_number, check_whole
from casops.errors import UsageError
from casops.options import Options

# A worker may be at an operation for as long as the deadline.  What it might have missed must not be forgotten by
# then; ten times is the margin that Options keeps between the deadline and the retention, too.
FORGET_MARGIN = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceOptions:
    """How long, how much, how many.  No safety rule depends on any of these except `forget_after`."""

    answer_within: float = 10.0
    """Seconds a request waits for its answer before it is told "in progress" (the work goes on).  Zero: it never waits.
    Well below the deadline of casops, after which the work itself is given up, and below what clients and proxies
    wait."""

    threads: int = 32
    """Operations worked on at the same time, each in a thread.  Zero is refused.  SQLite and Couchbase write what a few
    dozen callers bring together; more threads only wait for each other."""

    in_flight: int = 256
    """Operations being worked on or waiting for a thread; one more is refused with 503.  Zero is refused.
    Eight for each thread: about what can be answered within a second or two."""

    requests: int = 1_024
    """Requests waiting for an answer, those for the same operation included; one more is refused with 503.  Zero is
    refused.  Four for each operation in flight: a caller, and three retries of it."""

    body_bytes: int = 65_536
    """Bytes of a request's body.  Zero is refused.  Arguments are ids and amounts; with `requests` it bounds memory
    to 64 MB."""

    header_bytes: int = 16_384
    """Bytes of all names and values of a request's headers.  Zero is refused.  Twice what most proxies let through."""

    forget_after: float = 300.0
    """Seconds from the acknowledgement of a result to forgetting it.  Zero: acknowledged results stay for the
    retention like all others.  After this time no copy of a request for that id may arrive any more: it would run
    again.  No proxy in common use holds a request for longer than a minute."""

    acknowledged: int = 10_000
    """Acknowledged results that wait in memory to be forgotten; further ones stay for the retention.  Zero: none is
    forgotten early.  About 1 MB."""

    sweep_every: float = 10.0
    """Seconds between two sweeps that finish what dead servers left behind.  Zero: this service never sweeps.  As often
    as the grace period of casops: an abandoned operation is finished 10 to 20 seconds later, and a sweep that finds
    nothing is one small read."""

    finish_within: float = 20.0
    """Seconds a shutdown waits for what is in flight.  Zero: it does not wait.  Below the 30 seconds that Kubernetes
    gives before it kills."""

    retry_after: int = 1
    """Seconds that callers are told to wait before they ask again.  Zero: at once.  HTTP has whole seconds only."""

    def __post_init__(self) -> None:
        for name in ("answer_within", "forget_after", "sweep_every", "finish_within"):
            check_number(name, getattr(self, name))
        counts = ("threads", "in_flight", "requests", "body_bytes", "header_bytes")
        for name, least in (*((each, 1) for each in counts), ("acknowledged", 0), ("retry_after", 0)):
            check_whole(name, getattr(self, name), least)

    def check_against(self, options: Options) -> None:
        """Raises UsageError where these and the options of casops do not go together."""
        if self.answer_within >= options.deadline:
            raise UsageError(
                f"option answer_within ({self.answer_within:g} s) must be less than the deadline of casops "
                f"({options.deadline:g} s): the work could not go on after the caller was told"
            )
        if 0 < self.forget_after < FORGET_MARGIN * options.deadline:
            raise UsageError(
                f"option forget_after ({self.forget_after:g} s) must be zero or at least {FORGET_MARGIN} times "
                f"the deadline of casops ({options.deadline:g} s)"
            )
