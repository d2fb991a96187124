"""python -m benchmarks: measure, keep the results, write the tables and pictures of README.md.

    python -m benchmarks                          everything but `memory` (about 20 minutes)
    python -m benchmarks embedded growth          only these
    python -m benchmarks couchbase                on the test double, or --store couchbase://user:password@host/bucket
    python -m benchmarks memory                   10^6 operations in one process (about an hour)
    python -m benchmarks report                   tables and pictures from the results there are
    python -m benchmarks --short                  does every benchmark still work, and has a count risen? (1 minute)

Must not be in here: measuring.
"""

# ruff: noqa: T201

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from benchmarks import counts, embedded, growth, idempotency, memory, network
from benchmarks.reporting import draw, keep, kept, write_readme

PARTS: Final = ("counts", "embedded", "idempotency", "growth", "couchbase", "memory", "report")


def main() -> int:
    """Exit status: 0, or 1 where a count has risen.  A benchmark that does not work raises."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("parts", nargs="*", choices=(*PARTS, []), help="which; none: all but memory")
    parser.add_argument("--short", action="store_true", help="a quick look; nothing is kept")
    parser.add_argument("--accept-counts", action="store_true", help="write the counts of now to counts.json")
    parser.add_argument(
        "--folder", type=Path, help="where the databases are made (a disk, not a file system in memory)"
    )
    parser.add_argument("--store", help="for couchbase: URL of a bucket, of one node")
    given = parser.parse_args()
    parts: list[str] = given.parts or [part for part in PARTS if part != "memory" or given.short]
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        place = Path(folder)
        status = _count(place / "counts", given.accept_counts, given.short) if "counts" in parts else 0
        for part in parts:
            if part in _MEASURES:
                begun = time.monotonic()
                for results in _MEASURES[part](place, given):
                    for name, result in results.items():
                        if not given.short:
                            keep(name, result)
                print(f"{part}: {time.monotonic() - begun:.0f} s", flush=True)
    if given.short:
        return status
    write_readme(kept())
    draw(kept())
    return status


def _count(folder: Path, accept: bool, short: bool) -> int:
    now = counts.count(folder)
    if accept:
        counts.CHECKED_IN.write_text(json.dumps(now, indent=1) + "\n")
    if not short:
        keep("counts", {**now, "DBOS, on a file": counts.count_dbos(folder / "dbos")})
    told = counts.risen(now, counts.checked_in())
    for sentence in told:
        print(f"count: {sentence}", file=sys.stderr)
    if told:
        print("if that is meant: python -m benchmarks counts --accept-counts", file=sys.stderr)
    elif now != counts.checked_in():
        print("counts have fallen: python -m benchmarks counts --accept-counts keeps them there")
    return 1 if told else 0


def _embedded(place: Path, given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    rounds, seconds = (1, 0.2) if given.short else (7, 2.0)
    modes = ("1 process, 1 caller", "4 processes, 1 caller each") if given.short else tuple(embedded.MODES)
    yield {"embedded": embedded.measure(place / "embedded", rounds=rounds, seconds=seconds, modes=modes)}


def _idempotency(place: Path, given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    rounds, calls = (1, 10) if given.short else (9, 200)
    yield {"idempotency": idempotency.measure(place / "idempotency", rounds=rounds, calls=calls)}


def _growth(place: Path, given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    most = 2 if given.short else 7
    rounds, calls = (1, 2) if given.short else (7, 40)
    yield {
        "documents": growth.documents(
            place / "documents", counts=(1, 2, 4, 8, 16, 32, 64)[:most], rounds=rounds, calls=calls
        ),
        "sizes": growth.sizes(
            place / "sizes", characters=(1_000, 10_000, 100_000, 1_000_000)[:most], rounds=rounds, calls=calls
        ),
        "results": growth.results(
            place / "results", counts=(1_000, 10_000, 100_000, 1_000_000)[:most], rounds=rounds, calls=calls
        ),
        "callers": growth.callers(
            place / "callers",
            shapes=((1, 1), (1, 4), (1, 16), (1, 64), (2, 1), (4, 1), (4, 16))[:most],
            rounds=1 if given.short else 5,
            seconds=0.2 if given.short else 1.5,
        ),
    }


def _couchbase(_: Path, given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    if given.short:
        told = network.measure(given.store, rounds=1, seconds=0.2, cases=network.SHORT, accounts=20)
    else:
        told = network.measure(given.store, rounds=3, seconds=1.0)
    for points in told:
        yield {"couchbase": points}


def _memory(place: Path, given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    marks = (
        (200, 400) if given.short else (1_000, 10_000, 50_000, 100_000, 200_000, 400_000, 600_000, 800_000, 1_000_000)
    )
    for points in memory.measure(place / "memory", marks=marks):
        print("resident memory, KiB:", {mark: each["resident_kib"] for mark, each in points.items()}, flush=True)
        yield {"memory": points}


_MEASURES: Final[dict[str, Callable[[Path, argparse.Namespace], Iterator[dict[str, Any]]]]] = {
    "embedded": _embedded,
    "idempotency": _idempotency,
    "growth": _growth,
    "couchbase": _couchbase,
    "memory": _memory,
}

if __name__ == "__main__":
    sys.exit(main())
