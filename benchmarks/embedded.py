"""Transfers on a file: casops, DBOS, and a plain transaction, which is the limit.

In every round each contender has one slot for new operations and one for asking them again, in an order that
rotates; so whatever disturbs the machine disturbs all.

Must not be in here: tables and pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from benchmarks.contenders import NAMES
from benchmarks.crew import Crew, Order
from benchmarks.measuring import Slot, ratios, summary

__all__ = ["MODES", "measure"]

# name: processes, threads in each
MODES: Final[dict[str, tuple[int, int]]] = {
    "1 process, 1 caller": (1, 1),
    "1 process, 16 callers": (1, 16),
    "4 processes, 1 caller each": (4, 1),
    "4 processes, 4 callers each": (4, 4),
}


def measure(
    folder: Path, *, rounds: int, seconds: float, modes: Sequence[str] = tuple(MODES), names: Sequence[str] = NAMES
) -> dict[str, Any]:
    """All modes.  seconds: of one slot of one contender."""
    return {mode: _mode(folder / mode.replace(" ", "-"), mode, rounds, seconds, names) for mode in modes}


def _mode(folder: Path, mode: str, rounds: int, seconds: float, names: Sequence[str]) -> dict[str, Any]:
    processes, threads = MODES[mode]
    new: dict[str, list[Slot]] = {name: [] for name in names}
    again: dict[str, list[Slot]] = {name: [] for name in names}
    folder.mkdir(parents=True)
    with ExitStack() as stack:
        crews = [stack.enter_context(Crew(name, folder, processes)) for name in names]
        for crew in crews:
            crew.work(Order(seconds / 4, threads))  # warming up
        for number in range(rounds):
            for each in range(len(crews)):
                crew = crews[(each + number) % len(crews)]
                new[crew.name].append(crew.work(Order(seconds, threads)))
                again[crew.name].append(crew.work(Order(seconds / 2, threads, again=True)))
        for crew in crews:
            crew.check()
    return {
        kind: {"contenders": {name: summary(slots[name]) for name in names}, "casops_to": ratios(slots)}
        for kind, slots in (("new", new), ("again", again))
    }
