"""The life of one payment, as the store tells it: intention, main value, result.

Must not be in here: anything about many payments, or that writes.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from casops import Event, Outcome, Pending
from examples.balance_transfer.model import Receipt

INTENTION, MAIN_VALUE, RESULT, AFTERWARDS = "1 intention", "2 main value", "3 result", "afterwards"

# What casops writes into histories, in words that fit beside the rest into 80 columns.
WORDS = {
    "declared": (INTENTION, "declared: this is to happen"),
    "taken over": (INTENTION, "taken over by another worker"),
    "proposed": (MAIN_VALUE, "new balances staged, result proposed"),
    "lost": (MAIN_VALUE, "others were faster, so once more"),
    "voided": (MAIN_VALUE, "an unfinished attempt was made void"),
    "voided before it was proposed": (MAIN_VALUE, "an unproposed attempt was made void"),
    "committed": (RESULT, "committed: it happened"),
    "declined": (RESULT, "declined: it will never happen"),
    "cancelled": (RESULT, "cancelled: it will never happen"),
    "settled": (AFTERWARDS, "put away, intention removed"),
}


def show_life(screen: Console, operation_id: str, found: Outcome[Any] | Pending) -> None:
    """How it stands, then what happened to it and when."""
    if isinstance(found, Outcome):
        lines, events = _of_outcome(found), found.history
    else:
        lines, events = _of_pending(found), _history_of_pending(found)
    screen.print(f"{operation_id}: {lines[0]}", soft_wrap=True)
    for line in lines[1:]:
        screen.print(f"  {line}", soft_wrap=True)
    screen.print(_table(events, _missing_result(found), _left_out(found)))


def _of_outcome(outcome: Outcome[Any]) -> list[str]:
    lines: list[str] = [outcome.status]
    if isinstance(outcome.value, Receipt):
        receipt = outcome.value
        lines.append(f"{receipt.amount:,} from {receipt.source} to {receipt.target}")
        after = ((receipt.source, receipt.source_balance), (receipt.target, receipt.target_balance))
        lines.append("afterwards " + ", ".join(f"{account} had {balance:,}" for account, balance in after))
    elif outcome.status == "applied":
        lines.append(f"result {outcome.value}")
    elif outcome.refusal is not None:
        lines.append(", ".join([outcome.refusal.code, *(f"{k} {v}" for k, v in outcome.refusal.details.items())]))
    takeovers = sum(event.what == "taken over" for event in outcome.history)
    lines.append(f"{outcome.attempts} attempt{'' if outcome.attempts == 1 else 's'}, {takeovers} taken over")
    return lines


def _of_pending(pending: Pending) -> list[str]:
    lines = [f"pending ({pending.state}): neither done nor refused yet"]
    if pending.failures:
        lines.append(f"it failed {pending.failures} times, the last time with {pending.last_error}")
    if pending.parked:
        lines.append("sweeps leave it alone now; import its file again, or cancel it")
    else:
        lines.append("importing its file again finishes it")
    return lines


def _history_of_pending(pending: Pending) -> tuple[Event, ...]:
    if pending.since is None or any(event.what == "declared" for event in pending.history):
        return pending.history
    return (Event(at=pending.since, worker=pending.worker or "", what="declared"), *pending.history)


def _missing_result(found: Outcome[Any] | Pending) -> str | None:
    """What the third phase is, where nobody has written it down."""
    if isinstance(found, Pending):
        return "not yet"
    if found.status == "applied" and not any(event.what == "committed" for event in found.history):
        return "committed, since all of it has landed"
    return None


def _left_out(found: Outcome[Any] | Pending) -> bool:
    """casops keeps the first and the last lines of a long history."""
    told = sum(event.what in ("proposed", "declined") for event in found.history)
    return isinstance(found, Outcome) and found.attempts > told


def _table(events: Iterable[Event], missing_result: str | None, left_out: bool) -> Table:
    table = Table("phase", "time (UTC)", box=None, padding=(0, 1), pad_edge=False)
    table.add_column("worker", max_width=20, overflow="fold")  # the name of a host may be long
    table.add_column("what happened")
    day = ""
    for event in events:
        phase, words = WORDS.get(event.what, ("", event.what))
        at = datetime.fromtimestamp(event.at, UTC)
        if f"{at:%Y-%m-%d}" != day:
            day = f"{at:%Y-%m-%d}"
            table.add_row("", day, "", "")
        table.add_row(phase, f"{at:%H:%M:%S.%f}"[:-3], event.worker, words)
    if left_out:
        table.add_row("", "", "", "(some lines in between are not kept)")
    if missing_result is not None:
        table.add_row(RESULT, "", "", missing_result)
    return table
