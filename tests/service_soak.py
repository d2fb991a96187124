"""The soak of the message tier: real servers and clients, a proxy before each server that misbehaves, everybody killed.

    python -m tests.service_soak --transfers 10000
    python -m tests.service_soak --transfers 10000 --store couchbase://user:password@host/bucket

Three servers on one store, eight clients (four of each kind) in two processes.  A soak is a chain of rounds.  In
each, the clients ask for some hundreds of transfers between a few hot accounts, a quarter of them by two clients;
messages are lost, doubled, cut, delayed and sent late; servers and clients are killed with SIGKILL and started again.
Then every transfer must have ended exactly once, as all who asked heard it, and the checkers of the proof must find a
serial order that gives these answers and balances.

The seed decides transfers, faults and moments of killing; the scheduling of processes it cannot decide.

Must not be in here: checks of serial orders (casops.testing.checkers).
"""

from __future__ import annotations

import argparse
import json
import random
import select
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from casops import CasOps, Options, Outcome
from casops.testing.checkers import Heard, Violation, check_serial
from tests.bank import Account, Open, Transfer
from tests.faulty_proxy import FaultyProxy, random_faults
from tests.service_process import OPTIONS, ROOT, Server
from tests.soak_bank import ACCOUNTS, CLIENTS, OPENED_WITH, model_of, transfers_of
from tests.soak_client import answer_of

# Transfers of a round: enough for every kind of meeting, few enough for a serial order to be found.
ROUND = 200

# Seconds a round may take before it counts as hanging: a transfer that meets everything takes half a minute.
HANGING = 300.0

PROCESSES = 2

# Times a server is started until it counts as broken; each waits for half a minute.
STARTS = 4

# Acknowledged results are forgotten while the soak goes on, and nothing may happen a second time for that.
SERVICE = {"answer_within": 2.0, "sweep_every": 1.0, "forget_after": 50.0}


class Soak:
    """`share`: of the messages that meet a fault.  `size`: transfers of a round."""

    def __init__(
        self,
        store: str | None,
        seed: int,
        share: float,
        folder: Path,
        say: Callable[[str], None],
        size: int = ROUND,
    ) -> None:
        self.size = size
        self.seed = seed
        self.store = store or f"sqlite:///{folder}/soak.db"
        self.tally: Counter[str] = Counter()
        self.folder = folder
        self.run_id = f"s{seed}-{uuid.uuid4().hex[:8]}"
        self._chance = random.Random(seed)
        self._say = say
        self._stack = ExitStack()
        self._servers = [Server(self.store, folder, service=SERVICE) for _ in range(3)]
        self._proxies = [
            FaultyProxy(server.port, random_faults(f"{seed}/{number}", share), self._delay(f"{seed}/{number}/delay"))
            for number, server in enumerate(self._servers)
        ]
        self._clients: list[subprocess.Popen[str]] = []

    def _delay(self, seed: str) -> Callable[[], float]:
        chance = random.Random(seed)
        return lambda: chance.uniform(0.2, 1.0) if chance.random() < 0.05 else 0.0

    def run(self, transfers: int) -> Counter[str]:
        """Raises Violation."""
        began = time.monotonic()
        with self._stack, CasOps.open(self.store, options=Options(**OPTIONS), operations=[Transfer, Open]) as casops:
            self._prepare(casops)
            number = 0
            while self.tally["transfers"] < transfers:
                count = min(self.size, transfers - self.tally["transfers"])
                self._round(casops, number, count)
                number += 1
                self.tally["transfers"] += count
                if number % 5 == 0 or self.tally["transfers"] >= transfers:
                    self._say(told(self.tally, time.monotonic() - began))
        return self.tally

    def _prepare(self, casops: CasOps) -> None:
        self.open_accounts(casops)
        for server in self._servers:
            self._stack.enter_context(server)
        for proxy in self._proxies:
            self._stack.enter_context(proxy)
        self._stack.callback(self._end_clients)

    def open_accounts(self, casops: CasOps) -> None:
        for account in ACCOUNTS:
            if casops.read(Account.ref(account)) is None:
                casops.run(Open(account=account, balance=OPENED_WITH), operation_id=f"{self.run_id}-open-{account}")

    # --- one round --------------------------------------------------------------------------

    def _round(self, casops: CasOps, number: int, count: int) -> None:
        before = balances(casops)
        if not self._clients:
            self._clients = [self._start(process) for process in range(PROCESSES)]
        for client in self._clients:
            self._tell(client, number, count)
        self._disturb(number, count)
        for client in self._clients:
            self._hear(client, number)
        self.judge(casops, number, count, before)
        for each in self.folder.glob("history-*"):
            each.write_bytes(b"")

    def _start(self, process: int) -> subprocess.Popen[str]:
        told = {
            "seed": self.seed,
            "run": self.run_id,
            "folder": str(self.folder),
            "history": str(self.folder / f"history-{process}"),
            "clients": [each for each in range(CLIENTS) if each // 2 % PROCESSES == process],
            "servers": [proxy.url for proxy in self._proxies],
        }
        with (self.folder / f"client-{process}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "tests.soak_client", json.dumps(told)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def _tell(self, client: subprocess.Popen[str], number: int, count: int) -> None:
        assert client.stdin is not None
        with suppress(BrokenPipeError):  # it died; whoever waits for it sees that
            client.stdin.write(f"{number} {count}\n")
            client.stdin.flush()

    def _disturb(self, number: int, count: int) -> None:
        """Kill servers, all of them sometimes, and a process of clients, and start them again."""
        for _ in range(self._chance.randint(1, 3)):
            time.sleep(self._chance.uniform(0, 1.0))
            servers = self._servers if self._chance.random() < 0.2 else [self._chance.choice(self._servers)]
            for server in servers:
                server.kill()
                self.tally["servers killed"] += 1
            if self._chance.random() < 0.4:
                process = self._chance.randrange(PROCESSES)
                end(self._clients[process])
                self.tally["clients killed"] += CLIENTS // PROCESSES
                self._clients[process] = self._start(process)
                self._tell(self._clients[process], number, count)
            for server in servers:
                restart(server)

    def _hear(self, client: subprocess.Popen[str], number: int) -> None:
        assert client.stdout is not None
        ready, _, _ = select.select([client.stdout], [], [], HANGING)
        line = client.stdout.readline() if ready else "(nothing)"
        try:
            heard = json.loads(line)
        except json.JSONDecodeError:
            raise Violation(f"a process of clients ended round {number} with {line!r}, {client.poll()}") from None
        assert heard["round"] == number
        self.tally.update(heard["counted"])

    # --- is it right? -----------------------------------------------------------------------

    def judge(self, casops: CasOps, number: int, count: int, before: dict[str, int]) -> None:
        asked: dict[str, float] = {}
        heard: dict[str, tuple[float, Any]] = {}
        for line in self._lines():
            self._note(line, asked, heard)
        histories: list[Heard] = []
        for operation_id, transfer in transfers_of(self.seed, number, count, self.run_id).items():
            if operation_id not in heard:
                raise Violation(f"{operation_id} was never answered")
            at, answer = heard[operation_id]
            found = casops.outcome(operation_id)
            if not isinstance(found, Outcome) or answer_of(found) != answer:
                raise Violation(f"{operation_id} was answered {answer}, and its outcome is {found}")
            self.tally["declined"] += answer[0] == "declined"
            histories.append(Heard(operation_id, model_of(transfer), asked[operation_id], at, answer))
        after = balances(casops)
        if sum(after.values()) != OPENED_WITH * len(ACCOUNTS):
            raise Violation(f"money was made or lost: {before} -> {after}")
        check_serial(before, after, histories)
        if self.tally["contradictions"]:
            raise Violation("a client heard two different answers for one id")

    def _note(self, line: dict[str, Any], asked: dict[str, float], heard: dict[str, tuple[float, Any]]) -> None:
        at = float(line["at"])
        if "asks" in line:
            asked[line["asks"]] = min(at, asked.get(line["asks"], at))
        elif "hears" in line:
            operation_id, answer = line["hears"], line["answer"]
            known = heard.get(operation_id)
            if known is not None and known[1] != answer:
                raise Violation(f"{operation_id} was answered {known[1]} and {answer}")
            heard[operation_id] = (min(at, known[0]) if known else at, answer)
            self.tally["replayed"] += bool(line["replayed"])
        else:
            self.tally["unknown"] += 1
            if not line["retry"]:
                raise Violation(f"{line['fails']} failed with {line['error']}")

    def _lines(self) -> Iterator[dict[str, Any]]:
        for path in sorted(self.folder.glob("history-*")):
            for text in path.read_bytes().split(b"\n"):
                with suppress(json.JSONDecodeError):  # the last line of a killed process may be half a line
                    yield json.loads(text)

    def _end_clients(self) -> None:
        for client in self._clients:
            end(client)


def restart(server: Server) -> None:
    """A busy machine may need more than one go: a server that is not there in time is killed and started again."""
    for _ in range(STARTS - 1):
        try:
            server.restart()
            return
        except AssertionError:
            continue
    server.restart()


def end(client: subprocess.Popen[str]) -> None:
    client.kill()
    client.communicate()


def balances(casops: CasOps) -> dict[str, int]:
    snapshot = casops.snapshot([Account.ref(each) for each in ACCOUNTS])
    return {each: int(snapshot[Account.ref(each)].balance) for each in ACCOUNTS}


def told(tally: Counter[str], seconds: float) -> str:
    """A tally in one line."""
    names = (
        *("transfers", "declined", "messages", "repeated", "timeouts", "late", "doubled", "broken", "unreachable"),
        *("foreign", "suspected", "recovered", "unknown", "replayed", "servers killed", "clients killed"),
        *("recovered_after_kill", "contradictions"),
    )
    return f"{seconds:5.0f} s  " + "  ".join(f"{tally[name]} {name}" for name in names)


def soak(
    transfers: int, *, store: str | None, seed: int, share: float, say: Callable[[str], None], size: int = ROUND
) -> Counter[str]:
    """Raises Violation; what was found wrong is kept then."""
    folder = Path(tempfile.mkdtemp(prefix="casops-service-soak-"))
    try:
        tally = Soak(store, seed, share, folder, say, size).run(transfers)
    except BaseException:
        say(f"seed {seed}; everything is in {folder}")
        raise
    shutil.rmtree(folder)
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.service_soak", description="The soak of the message tier.")
    parser.add_argument("--transfers", type=int, default=10_000)
    parser.add_argument("--store", help="URL of a store (default: an SQLite file of its own)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--share", type=float, default=0.1, help="of the messages that meet a fault (default 0.1)")
    asked = parser.parse_args()

    def say(text: str) -> None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    try:
        soak(asked.transfers, store=asked.store, seed=asked.seed, share=asked.share, say=say)
    except Violation as violation:
        say(f"violation: {violation}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
