"""How long to wait for a server: smoothed round trip and its deviation, as in RFC 6298.

    first answer after R seconds:   SRTT = R                  RTTVAR = R / 2
    each later one:                 RTTVAR = 3/4 RTTVAR + 1/4 |SRTT - R|     SRTT = 7/8 SRTT + 1/8 R
    time-out = SRTT + 4 RTTVAR, within bounds; doubled for a retry

"Three times the average" is the special case in which the deviation is half the average: SRTT + 4 SRTT / 2.  It is what
this gives after the first answer.  Where round trips scatter less the time-out comes down to the average, where
they scatter more it goes up: a constant factor is too long for the one and too short for the other.

TCP cannot tell whether an answer is that to the packet or to its retransmission and must not measure those
(Karn's rule, RFC 6298 3).  Here every message has an id of its own which its reply repeats, so every
reply counts, the late ones too: it is from them that a time-out which is too short grows.

Must not be in here: clocks.
"""

from __future__ import annotations

from casops.client.options import ClientOptions

# Powers of two a time-out is multiplied by at most; the bound `most_timeout` is reached long before.
MOST_DOUBLINGS = 10


class RoundTrips:
    """The round trips of one kind of operation at one server."""

    def __init__(self, options: ClientOptions) -> None:
        self._options = options
        self.smoothed: float | None = None  # seconds; None: nothing was measured yet
        self.deviation = 0.0  # seconds

    def measured(self, seconds: float) -> None:
        """A reply came after so many seconds."""
        if self.smoothed is None:
            self.smoothed, self.deviation = seconds, seconds / 2
            return
        self.deviation = 0.75 * self.deviation + 0.25 * abs(self.smoothed - seconds)
        self.smoothed = 0.875 * self.smoothed + 0.125 * seconds

    def timeout(self, doublings: int = 0) -> float:
        """Seconds to wait for a reply; `doublings`: how often a time-out has passed already."""
        options = self._options
        base = options.first_timeout if self.smoothed is None else self.smoothed + 4 * self.deviation
        base = max(base, options.least_timeout)
        return min(base * float(1 << min(doublings, MOST_DOUBLINGS)), options.most_timeout)
