"""Numbers of a slot and of many: quantiles, medians, ratios side by side.

Must not be in here: who is measured, files.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Slot", "Spread", "quantile", "ratios", "summary"]


@dataclass(frozen=True, slots=True)
class Slot:
    """What one contender did in its slot of one round."""

    latencies: Sequence[float]  # seconds of each call
    seconds: float  # from the first call to the end of the last

    @property
    def p50(self) -> float:
        return quantile(self.latencies, 0.50)

    @property
    def p99(self) -> float:
        return quantile(self.latencies, 0.99)

    @property
    def throughput(self) -> float:
        """Operations in a second."""
        return len(self.latencies) / self.seconds


@dataclass(frozen=True, slots=True)
class Spread:
    """The median over the rounds, and between which values all rounds were."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))

    def data(self) -> dict[str, float]:
        return {"median": self.median, "least": self.least, "most": self.most}


def quantile(values: Sequence[float], share: float) -> float:
    """The value that `share` of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def summary(rounds: Sequence[Slot]) -> dict[str, Any]:
    """One contender over all rounds.  Latencies in milliseconds, of all rounds together."""
    every = [latency for each in rounds for latency in each.latencies]
    return {
        "calls": len(every),
        "p50_ms": 1000 * quantile(every, 0.50),
        "p99_ms": 1000 * quantile(every, 0.99),
        "per_second": Spread.of([each.throughput for each in rounds]).data(),
    }


def ratios(slots: Mapping[str, Sequence[Slot]], ours: str = "casops") -> dict[str, dict[str, Any]]:
    """Ours against each other, round by round: p50 (below 1: ours is faster), throughput (above 1: ours is)."""
    return {
        name: {
            "p50": Spread.of([a.p50 / b.p50 for a, b in zip(slots[ours], theirs, strict=True)]).data(),
            "throughput": Spread.of(
                [a.throughput / b.throughput for a, b in zip(slots[ours], theirs, strict=True)]
            ).data(),
        }
        for name, theirs in slots.items()
        if name != ours
    }
