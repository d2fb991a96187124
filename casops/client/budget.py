"""The retry budget: how much repeating all calls of a client may do together, as a bucket of tokens.

A repetition takes one token.  New calls and time bring some back, up to the size of the bucket.  While it is empty
nobody repeats anything, but goes on waiting for what was asked: servers in trouble are not asked for more and
more (a retry storm).

Must not be in here: clocks; what a repetition is.
"""

from __future__ import annotations

from casops.client.options import ClientOptions


class Budget:
    """Tokens for repetitions.  `now`: seconds of any clock that only grows."""

    def __init__(self, options: ClientOptions) -> None:
        self._options = options
        self._tokens = float(options.retry_burst)
        self._at: float | None = None

    def asked(self) -> None:
        """A new call came."""
        self._add(self._options.retry_share)

    def take(self, now: float) -> bool:
        """Take a token if there is one."""
        self._refill(now)
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def ready_at(self, now: float) -> float:
        """When there will be a token, if nobody else takes it (infinity: time alone brings none)."""
        self._refill(now)
        if self._tokens >= 1:
            return now
        if self._options.retry_rate == 0:
            return float("inf")
        # A little more than the exact time, which rounding could miss for ever.
        return now + (1 - self._tokens) / self._options.retry_rate + 0.001

    def _refill(self, now: float) -> None:
        if self._at is not None:
            self._add(max(0.0, now - self._at) * self._options.retry_rate)
        self._at = now

    def _add(self, tokens: float) -> None:
        self._tokens = min(float(self._options.retry_burst), self._tokens + tokens)
