"""How casops grows: with the documents of an operation, their size, the results kept, the callers.

Each point is measured beside the plain transaction, alternating: the ratio tells what is casops' own.

Must not be in here: tables and pictures.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from benchmarks.alternating import alternate
from benchmarks.contenders.counting import CasopsCounters, PlainCounters
from benchmarks.crew import Crew, Order
from benchmarks.measuring import Slot, ratios, summary

__all__ = ["callers", "documents", "results", "sizes"]

# Rows added in one transaction while filling: bounded memory, few syncs.
FILL_AT_ONCE: Final = 10_000


def documents(folder: Path, *, counts: Sequence[int], rounds: int, calls: int) -> dict[str, Any]:
    """Documents changed by one operation."""
    ours, plain = _open(folder)
    points: dict[str, Any] = {}
    for count in counts:
        names = [f"c{number}" for number in range(count)]
        doers = {
            "casops": lambda id, names=names: ours.add_all(id, names),
            "plain": lambda id, names=names: plain.add_all(id, names),
        }
        points[str(count)] = _point(doers, rounds, calls, f"documents-{count}")
    _close(ours, plain)
    return points


def sizes(folder: Path, *, characters: Sequence[int], rounds: int, calls: int) -> dict[str, Any]:
    """The size of the one document of an operation."""
    ours, plain = _open(folder)
    points: dict[str, Any] = {}
    for size in characters:
        name = f"size-{size}"
        ours.load(name, size)
        plain.load(name, size)
        doers = {
            "casops": lambda id, name=name: ours.add(id, name, 1),
            "plain": lambda id, name=name: plain.add(id, name, 1),
        }
        points[str(size)] = _point(doers, rounds, calls, name)
    _close(ours, plain)
    return points


def results(folder: Path, *, counts: Sequence[int], rounds: int, calls: int) -> dict[str, Any]:
    """Results kept in the file.  They are copies of a genuine one, added by SQL."""
    ours, plain = _open(folder)
    doers = {"casops": lambda id: ours.add(id, "one", 1), "plain": lambda id: plain.add(id, "one", 1)}
    alternate(doers, rounds=1, calls=2, tag="genuine")
    points: dict[str, Any] = {}
    kept = 0
    for count in counts:
        _fill(folder, kept, count)
        kept = count
        points[str(count)] = _point(doers, rounds, calls, f"results-{count}")
    _close(ours, plain)
    return points


def callers(folder: Path, *, shapes: Sequence[tuple[int, int]], rounds: int, seconds: float) -> dict[str, Any]:
    """Processes and threads at once, on a hundred accounts and on one hot one."""
    points: dict[str, Any] = {}
    for processes, threads in shapes:
        place = folder / f"{processes}x{threads}"
        place.mkdir(parents=True)
        slots: dict[str, dict[str, list[Slot]]] = {kind: {"casops": [], "plain": []} for kind in ("spread", "hot")}
        with Crew("casops", place, processes) as ours, Crew("plain", place, processes) as plain:
            for number in range(rounds):
                for crew in (ours, plain) if number % 2 else (plain, ours):
                    for kind in slots:
                        slots[kind][crew.name].append(crew.work(Order(seconds, threads, hot=kind == "hot")))
            ours.check()
            plain.check()
        points[f"{processes} x {threads}"] = {kind: _report(each) for kind, each in slots.items()}
    return points


def _open(folder: Path) -> tuple[CasopsCounters, PlainCounters]:
    folder.mkdir(parents=True)
    return CasopsCounters(folder), PlainCounters(folder)


def _close(ours: CasopsCounters, plain: PlainCounters) -> None:
    ours.close()
    plain.close()


def _point(doers: dict[str, Any], rounds: int, calls: int, tag: str) -> dict[str, Any]:
    alternate(doers, rounds=1, calls=2, tag=f"warm-{tag}")
    return {
        "new": _report(alternate(doers, rounds=rounds, calls=calls, tag=tag)),
        "again": _report(alternate(doers, rounds=rounds, calls=calls, tag=tag)),
    }


def _report(slots: dict[str, list[Slot]]) -> dict[str, Any]:
    return {"contenders": {name: summary(each) for name, each in slots.items()}, "casops_to": ratios(slots)}


def _fill(folder: Path, kept: int, count: int) -> None:
    with closing(sqlite3.connect(folder / "counters.db", isolation_level=None)) as connection:
        for first in range(kept, count, FILL_AT_ONCE):
            numbers = [(f"filled-{number:09}",) for number in range(first, min(count, first + FILL_AT_ONCE))]
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(
                """INSERT INTO documents (collection, id, cas, body, expires, purge)
                SELECT collection, ?, cas, body, expires, purge FROM documents
                WHERE collection = '_casops.results' AND id = 'genuine-0-1'""",
                numbers,
            )
            connection.execute("COMMIT")
    with closing(sqlite3.connect(folder / "plain.db", isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(
            "INSERT INTO done VALUES (?, 1)", [(f"filled-{number:09}",) for number in range(kept, count)]
        )
        connection.execute("COMMIT")
