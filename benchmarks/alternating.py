"""Slots of one process: some functions in turn, each for so many calls.

Must not be in here: who is measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from benchmarks.measuring import Slot

__all__ = ["alternate"]


def alternate(
    doers: Mapping[str, Callable[[str], object]], *, rounds: int, calls: int, tag: str
) -> dict[str, list[Slot]]:
    """Each doer is called with `calls` new ids in every round; the order rotates."""
    names = list(doers)
    slots: dict[str, list[Slot]] = {name: [] for name in names}
    for number in range(rounds):
        for each in range(len(names)):
            name = names[(each + number) % len(names)]
            latencies: list[float] = []
            begun = time.perf_counter()
            for call in range(calls):
                before = time.perf_counter()
                doers[name](f"{tag}-{number}-{call}")
                latencies.append(time.perf_counter() - before)
            slots[name].append(Slot(latencies, time.perf_counter() - begun))
    return slots
