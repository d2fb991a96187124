"""Two servers on one file, and one payment that lives through the death of the first.

    python -m examples.balance_transfer service

The first server kills itself in the middle of the payment: its proposal is written, of its two accounts neither is
staged.  Whoever asked hears nothing, asks the other server with the same key, and gets the one answer there is.

Must not be in here: the business, what a server consists of (serving.py).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from casops import CasOps, Outcome
from examples.balance_transfer.model import Account, open_bank, opening_id
from examples.balance_transfer.timeline import show_life

PAYMENT = "payment-1"
ARGUMENTS = {"source": "alice", "target": "bob", "amount": "30.00"}
OPENING = {"alice": "100.00", "bob": "0.00"}

# Seconds until a server that does not come up, or an answer that does not come, is given up.
PATIENCE = 60.0


class Failed(Exception):
    """The demonstration could not be given, or did not show what it claims."""


@dataclass(frozen=True, slots=True)
class Server:
    """One server process."""

    name: str
    process: subprocess.Popen[bytes]
    url: str


class Telling:
    """What happened outside of the store, with the time."""

    def __init__(self) -> None:
        self.lines: list[tuple[float, str, str]] = []

    def say(self, who: str, what: str) -> None:
        self.lines.append((time.time(), who, what))

    def table(self) -> Table:
        table = Table("time (UTC)", "who", "what happened", box=None, padding=(0, 1), pad_edge=False)
        for at, who, what in self.lines:
            table.add_row(f"{datetime.fromtimestamp(at, UTC):%H:%M:%S.%f}"[:-3], who, what)
        return table


def run_service(screen: Console, store: str, folder: Path) -> bool:
    """Gives whether the payment happened exactly once.  Raises Failed."""
    telling = Telling()
    with ExitStack() as stack:
        first = stack.enter_context(_server("server-1", store, folder, die=f"half:propose:{PAYMENT}"))
        second = stack.enter_context(_server("server-2", store, folder))
        for account, balance in OPENING.items():
            opened = {"account": account, "balance": balance}
            _ask(telling, [second], "open-account", opening_id(account), opened, say=False)
        answers = [_ask(telling, [first, second], "transfer", PAYMENT, ARGUMENTS)]
        killed = first.process.wait(PATIENCE)
        again = stack.enter_context(_server("server-1", store, folder))
        telling.say("server-1", "started again")
        answers.append(_ask(telling, [again], "transfer", PAYMENT, ARGUMENTS))
    screen.print(telling.table())
    screen.print()
    with open_bank(store) as casops:
        return _judge(screen, casops, answers, killed)


def _judge(screen: Console, casops: CasOps, answers: Sequence[Any], killed: int) -> bool:
    found = casops.outcome(PAYMENT)
    if not isinstance(found, Outcome):
        raise Failed(f"the store does not say that {PAYMENT} has ended: {found}")
    show_life(screen, PAYMENT, found)
    alice, bob = casops.read(Account.ref("alice")), casops.read(Account.ref("bob"))
    assert alice is not None
    assert bob is not None
    screen.print()
    screen.print(f"alice has {alice.balance}, bob has {bob.balance}; both answers were the same: {answers[0]}")
    moved = (alice.balance, bob.balance) == (Decimal("70.00"), Decimal("30.00"))
    return killed == -9 and moved and answers[0] == answers[1] and casops.pending() == []


@contextmanager
def _server(name: str, store: str, folder: Path, *, die: str | None = None) -> Generator[Server]:
    """A server in a process of its own, told to stop at the end."""
    environment = {**os.environ, "BALANCE_TRANSFER_STORE": store, "BALANCE_TRANSFER_SERVER": name}
    if die is not None:
        environment["BALANCE_TRANSFER_DIE"] = die
    command = [sys.executable, "-m", "casops", "serve", "examples.balance_transfer.serving:app", "--port", "0"]
    path = folder / f"{name}.log"
    with path.open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        yield Server(name, process, _address(process, path))
    finally:
        process.terminate()
        process.wait(PATIENCE)


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    """Where it listens, as it says itself."""
    ends = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < ends:
        for line in log.read_text().splitlines():
            if "running on " in line:
                return line.partition("running on ")[2].split()[0]
        time.sleep(0.02)
    raise Failed(f"a server did not start:\n{log.read_text()}")


def _ask(
    telling: Telling, servers: Sequence[Server], path: str, key: str, arguments: dict[str, str], *, say: bool = True
) -> Any:
    """Ask one server after the other, always with the same key, until one answers.  Raises Failed."""
    for server in servers:
        if say:
            telling.say("client", f"asks {server.name} for {key}")
        try:
            status, headers, answer = _post(f"{server.url}/operations/{path}", key, arguments)
        except OSError as error:
            telling.say("client", f"hears nothing from {server.name} ({type(error).__name__}): did it happen?")
            continue
        if status != 200:
            raise Failed(f"{server.name} answered {status}: {answer}")
        if say:
            how = (
                "replayed"
                if headers.get("Idempotent-Replayed")
                else "taken over"
                if headers.get("Casops-Taken-Over")
                else "new"
            )
            telling.say(server.name, f"answers ({how})")
        return answer
    raise Failed(f"no server answered: {key}")


def _post(url: str, key: str, arguments: dict[str, str]) -> tuple[int, Any, Any]:
    headers = {"Idempotency-Key": f'"{key}"', "Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(arguments).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            return response.status, response.headers, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read().decode()
