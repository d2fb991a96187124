"""All that is printed while payments are imported: progress, problems, tables.

Tables and progress go to standard output, problems and errors to standard error.

Must not be in here: deciding anything, exit statuses, the time line of one payment (timeline.py).
"""

from __future__ import annotations

import errno
import os
import sys
from decimal import Decimal
from io import TextIOWrapper
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from examples.balance_transfer.chaos import Ordeal, Verdict
from examples.balance_transfer.importing import Tally
from examples.balance_transfer.orders import Orders, Problem

# Faults of one check that are shown; the first few tell what is wrong.
FAULTS_SHOWN = 5
# Without a terminal: a line whenever this part of a phase is done.
STEPS = 10


class _Screen(Console):
    def on_broken_pipe(self) -> None:
        """Nobody reads any more: not the silent exit that rich makes of it, or nobody would know what was done."""
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def console() -> Console:
    # What is printed comes from files and stores: no markup, no :emoji:, no guesses at colours, and names that the
    # terminal has no letters for.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    return _Screen(markup=False, emoji=False, highlight=False)


def complain(text: str) -> None:
    """One sentence on standard error."""
    sys.stderr.write(f"{text}\n")


class Bar:
    """How far it is: a bar in a terminal, now and then a line elsewhere.  A `Watcher`."""

    def __init__(self, screen: Console) -> None:
        self._screen = screen
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._name, self._total, self._done = "", 0, 0
        if screen.is_terminal:
            columns = (TextColumn("{task.description:16}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._progress = Progress(*columns, console=screen)

    def __enter__(self) -> Self:
        if self._progress:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress:
            self._progress.stop()

    def phase(self, name: str, total: int) -> None:
        self._name, self._total, self._done = name, total, 0
        if self._progress and total:
            self._task = self._progress.add_task(name, total=total)

    def advance(self) -> None:
        self._done += 1
        if self._progress and self._task is not None:
            self._progress.advance(self._task)
        elif self._done * STEPS // self._total > (self._done - 1) * STEPS // self._total:
            self._screen.print(f"{self._name}: {self._done:,} of {self._total:,}")


def show_problems(orders: Orders) -> None:
    for problem in orders.problems:
        complain(_problem(problem))


def show_tally(screen: Console, orders: Orders, tally: Tally) -> None:
    table = _table("import")
    _order_rows(table, orders)
    table.add_row("accounts opened", f"{tally.opened:,}")
    table.add_section()
    table.add_row("applied", f"{tally.counts['applied']:,}")
    table.add_row("declined", f"{tally.counts['declined']:,}")
    table.add_row("replayed (their outcome was known before)", f"{tally.counts['replayed']:,}")
    for name in ("cancelled", "unfinished", "impossible"):
        if tally.counts[name]:
            table.add_row(name, f"{tally.counts[name]:,}")
    table.add_row("taken over from a worker that had begun", f"{tally.taken_over:,}")
    if tally.asked_again:
        table.add_row("asked again because a worker died", f"{tally.asked_again:,}")
    if tally.finished:
        table.add_row("left by other imports and finished now", f"{len(tally.finished):,}")
    if tally.left:
        table.add_row("operations of others that are pending", f"{len(tally.left):,}")
    table.add_section()
    _sum_rows(table, tally.before, tally.after)
    table.add_row("payments per second", f"{tally.payments_per_second:,.0f}")
    screen.print(table)
    for text in tally.complaints:
        complain(text)


def show_verdict(screen: Console, orders: Orders, ordeal: Ordeal, verdict: Verdict) -> None:
    ended = list(verdict.evidence.outcomes.values())
    taken_over = sum(any(event.what == "taken over" for event in each.history) for each in ended)
    table = _table("chaos")
    _order_rows(table, orders)
    table.add_row("of them asked for by two workers at once", f"{ordeal.twice:,}")
    table.add_row("workers killed", f"{ordeal.killed:,}")
    table.add_row("asked again because a worker was killed", f"{ordeal.tally.asked_again:,}")
    table.add_section()
    table.add_row("applied", f"{sum(each.status == 'applied' for each in ended):,}")
    table.add_row("declined", f"{sum(each.status == 'declined' for each in ended):,}")
    table.add_row("taken over from a worker that had begun", f"{taken_over:,}")
    table.add_row("finished by the sweep at the end", f"{len(ordeal.tally.finished):,}")
    table.add_section()
    brought = sum(verdict.evidence.openings.values(), Decimal(0))
    _sum_rows(table, brought, sum((each or Decimal(0) for each in verdict.evidence.balances.values()), Decimal(0)))
    screen.print(table)
    checks = Table(show_header=False, box=None, padding=(0, 1))
    for check in verdict.checks:
        checks.add_row("FAILED" if check.faults else "ok", check.claim)
    screen.print(checks)
    for check in verdict.checks:
        if check.faults:
            complain(f"FAILED: {check.claim}: {len(check.faults)} times")
        for fault in check.faults[:FAULTS_SHOWN]:
            complain(f"    {fault}")


def _problem(problem: Problem) -> str:
    return f"line {problem.line}: {problem.why}; left out"


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    return table


def _order_rows(table: Table, orders: Orders) -> None:
    table.add_row("payments in the file", f"{len(orders.payments):,}")
    table.add_row("rows that repeat one of them", f"{orders.repeated:,}")
    table.add_row("rows left out because something is wrong", f"{len(orders.problems):,}")


def _sum_rows(table: Table, before: Decimal | None, after: Decimal | None) -> None:
    table.add_row("sum of all balances before", "" if before is None else f"{before:,}")
    table.add_row("sum of all balances after", "" if after is None else f"{after:,}")
