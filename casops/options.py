"""Every number casops goes by, in one frozen object: unit, default, what zero means, and why.

Must not be in here: options of a store (they are in its URL) or of one call.
"""

from __future__ import annotations

from dataclasses import dataclass

from casops.bounds import check_number, check_whole
from casops.errors import UsageError

DAY = 86_400.0
YEAR = 365 * DAY


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How patient, how long, how often.  No safety rule depends on any of these except `retention` (and `skew`)."""

    retention: float = 30 * DAY
    """Seconds a result is remembered after it is settled (and for twice the skew more).  Zero: for ever.  An id
    must not be asked again later than half of this (UUIDv7 ids older than all of it are refused with
    Expired; other ids do not carry their time and cannot be refused).  30 days outlasts any retry of a
    queue or a person."""

    patience: float = 1.0
    """Seconds, by this machine's monotonic clock, that a live-looking operation of somebody else is left alone
    before it is taken over or its stage is voided.  Zero: at once.  Only waste depends on it: a
    second is hundreds of steps of a live worker."""

    poll: float = 0.005
    """Seconds of the first wait while being patient; doubled each time up to a quarter of the
    patience.  Also the first wait after a lost race.  Zero: no waiting (tests).  About one step."""

    deadline: float = 30.0
    """Seconds a call may go on asking and waiting for others.  What is under way then is not broken off: a business
    function, a request to the store (whose own bound is said by the store: `busy_timeout` and ten seconds for other
    threads on a file, `timeout` on Couchbase).  Zero is refused: nothing would be tried.  A caller of HTTP gives up at
    about that time."""

    attempts: int = 64
    """Tries at one operation before Contended.  Zero is refused.  With 16 workers racing on one document
    a worker needs about 16 tries, and a lost try costs two steps."""

    grace: float = 10.0
    """Seconds by the wall clock an intention must be old before a sweep touches it.  Zero: at once.
    Well above the patience, so that a sweep does not race live workers."""

    park_after: int = 5
    """Times a business function may raise, or not come to its end in a sweep (it hung, or took the process with it),
    before sweeps leave it to an operator.  Zero: never parked."""

    skew: float = 300.0
    """Seconds by which clocks of two machines may differ: an id may come from the future by so much (UUIDv7
    carries the clock of its maker), and results are remembered for twice as much longer than the retention.
    Zero: not at all.  Five minutes is what Kerberos allows between clocks.  At most a year."""

    settle_queue: int = 1_000
    """Answered operations whose settling may wait in memory; when it is full, callers settle
    their own before they return.  Zero: every caller does.  A few MB at most."""

    settle_together: int = 32
    """Operations settled by the same batches.  Zero is refused.  Above some tens nothing is gained
    (the cost of a commit is shared already) and the last of them waits longer."""

    def __post_init__(self) -> None:
        for name in ("retention", "patience", "poll", "grace"):
            check_number(name, getattr(self, name))
        check_number("deadline", self.deadline, zero=False)
        check_number("skew", self.skew, most=YEAR)
        for name, least in (("attempts", 1), ("park_after", 0), ("settle_queue", 0), ("settle_together", 1)):
            check_whole(name, getattr(self, name), least)
        # A worker that has been at it for as long as the deadline gives up.  If that were near the
        # retention it could miss that others had finished the operation and forgotten it again.
        if self.retention and self.deadline * 10 > self.retention:
            raise UsageError("option deadline must be at most a tenth of the retention")
