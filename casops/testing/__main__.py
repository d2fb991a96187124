"""The proof, as commands:  python -m casops.testing explore | simulate | soak

And the test double of a Couchbase data service, as a process:  python -m casops.testing couchbase

Must not be in here: anything but reading arguments and printing lines.
"""

from __future__ import annotations

import argparse
import gc
import math
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

from casops.testing.cases import cases, long_cases
from casops.testing.couchbase_server import standalone
from casops.testing.explorer import Explorer, Found
from casops.testing.simulator import Lived, live
from casops.testing.soaking import soak, told

# Worlds handed to a process at a time: long enough to be worth a message, short enough to share evenly.
CHUNK = 500

# A month; a soak that is to run for longer was not meant.
MOST_MINUTES = 43_200


def say(line: str = "") -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def collect_seldom() -> None:
    """Look for garbage in cycles less often.

    Python would do so every 700 objects, of millions that stay or are let go of soon: a fifth of the time.
    """
    gc.set_threshold(50_000, 20, 50)


def explore_one(number: int) -> Found:
    return Explorer([*cases(), *long_cases()][number]).explore()


def explore(jobs: int, only: str, *, short: bool) -> int:
    all_of_them = cases() if short else [*cases(), *long_cases()]
    chosen = [number for number, case in enumerate(all_of_them) if only in case.name]
    say(f"{'case':76} {'states':>9} {'finals':>7} {'seconds':>8}  violations")
    wrong = 0
    began = time.monotonic()
    with ProcessPoolExecutor(jobs, initializer=collect_seldom) as pool:
        for found in pool.map(explore_one, chosen):
            result = "0" if found.violation is None else f"1: {found.violation}"
            if found.violation is None and not found.complete:
                result = "unfinished"
            wrong += result != "0"
            say(f"{found.case:76} {found.states:9} {found.finals:7} {found.seconds:8.1f}  {result}")
            for line in found.trace:
                say(f"    {line}")
    say(f"{len(chosen)} cases in {time.monotonic() - began:.0f} s, {wrong} with a violation or unfinished")
    return 1 if wrong or not chosen else 0


def live_some(first: int, count: int) -> tuple[list[Lived], int, int, int, int]:
    lived = [live(seed) for seed in range(first, first + count)]
    bad = [each for each in lived if each.violation is not None]
    return (
        bad,
        sum(each.operations for each in lived),
        sum(each.events for each in lived),
        sum(each.crashes for each in lived),
        sum(each.unknown for each in lived),
    )


def simulate(jobs: int, first: int, seeds: int) -> int:
    began = time.monotonic()
    bad: list[Lived] = []
    sums = [0, 0, 0, 0]
    starts = range(first, first + seeds, CHUNK)
    counts = [min(CHUNK, first + seeds - start) for start in starts]
    with ProcessPoolExecutor(jobs, initializer=collect_seldom) as pool:
        for wrong, *more in pool.map(live_some, starts, counts):
            bad += wrong
            sums = [before + added for before, added in zip(sums, more, strict=True)]
    for lived in bad[:20]:
        say(f"seed {lived.seed}: {lived.violation}")
        say(f"    replay it with its trace:  python -m casops.testing simulate --seed {lived.seed}")
    operations, events, crashes, unknown = sums
    say(
        f"{seeds} worlds in {time.monotonic() - began:.0f} s: {operations} operations, {events} events, "
        f"{crashes} crashes, {unknown} requests without a reply, {len(bad)} violations"
    )
    return 1 if bad else 0


def replay(seed: int) -> int:
    lived = live(seed, traced=True)
    for line in lived.trace:
        say(line)
    say(f"seed {seed}: {lived.violation or 'no violation'}")
    return 1 if lived.violation else 0


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"a number of at least 1 is needed, not {text!r}")
    return int(text)


def minutes(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number <= MOST_MINUTES:
        raise argparse.ArgumentTypeError(f"minutes are needed, at most {MOST_MINUTES}, not {text!r}")
    return number


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m casops.testing", description="The proof of casops, as commands.")
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("explore", help="all schedules of the small cases")
    one.add_argument("--case", default="", help="only cases with this in their name")
    one.add_argument("--short", action="store_true", help="without those that take minutes each")
    one.add_argument("--jobs", type=positive, default=2, help="processes (default 2)")
    two = commands.add_parser("simulate", help="many seeded worlds")
    two.add_argument("--seeds", type=positive, default=1_000, help="how many worlds (default 1000)")
    two.add_argument("--first", type=int, default=0, help="the first seed (default 0)")
    two.add_argument("--seed", type=int, help="one world only, with its trace")
    two.add_argument("--jobs", type=positive, default=2, help="processes (default 2)")
    three = commands.add_parser("soak", help="real processes, killed with SIGKILL")
    three.add_argument("--minutes", type=minutes, default=1.0)
    three.add_argument("--seed", type=int, default=1)
    three.add_argument("--workers", type=positive, default=3)
    three.add_argument("--store", help="URL of a store (default: an SQLite file of its own)")
    four = commands.add_parser("couchbase", help="the test double of a Couchbase data service")
    standalone.add_arguments(four)
    asked = parser.parse_args(arguments)
    if asked.command == "couchbase":
        return standalone.run(asked, say)
    if asked.command == "explore":
        return explore(asked.jobs, asked.case, short=asked.short)
    if asked.command == "simulate":
        return replay(asked.seed) if asked.seed is not None else simulate(asked.jobs, asked.first, asked.seeds)
    tally = soak(minutes=asked.minutes, store=asked.store, seed=asked.seed, workers=asked.workers, say=say)
    say(told(tally))
    for violation in tally.violations:
        say(violation)
    return 1 if tally.violations else 0


if __name__ == "__main__":
    sys.exit(main())
