"""One document, once for an id: casops beside Powertools' idempotency utility and a plain transaction.

Must not be in here: tables and pictures.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.alternating import alternate
from benchmarks.contenders.by_powertools import PowertoolsCounter
from benchmarks.contenders.counting import CasopsCounters, PlainCounters
from benchmarks.measuring import ratios, summary

__all__ = ["measure"]


def measure(folder: Path, *, rounds: int, calls: int) -> dict[str, Any]:
    """calls: in one slot."""
    folder.mkdir(parents=True)
    contenders: dict[str, CasopsCounters | PowertoolsCounter | PlainCounters] = {
        "casops": CasopsCounters(folder),
        "powertools": PowertoolsCounter(folder),
        "plain": PlainCounters(folder),
    }
    doers = {name: lambda id, each=each: each.add(id, "the-counter", 1) for name, each in contenders.items()}
    alternate(doers, rounds=1, calls=10, tag="warm")
    new = alternate(doers, rounds=rounds, calls=calls, tag="op")
    again = alternate(doers, rounds=rounds, calls=calls, tag="op")
    expected = 10 + rounds * calls + 1  # the duplicates added nothing
    for name, each in contenders.items():
        if (value := each.add("last", "the-counter", 1)) != expected:
            raise RuntimeError(f"{name}: the counter is {value}, not {expected}")
        each.close()
    return {
        kind: {"contenders": {name: summary(slots[name]) for name in contenders}, "casops_to": ratios(slots)}
        for kind, slots in (("new", new), ("again", again))
    }
