"""A process of a soak: some clients, each with a pending list of its own, that ask for their share of every round.

It is told numbers of rounds, and how many transfers each has, on its standard input and answers each with a line of
JSON (what its clients counted). What was asked and heard goes into a history, line by line, so that it survives
SIGKILL; a process that was killed is started again and told the same round: its clients first ask for what was
pending, then for their share once more.

Must not be in here: what is right (service_soak.py).
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from casops import CasOpsError, Outcome
from casops.client import AsyncClient, Client, ClientOptions
from casops.client.pending import Asked
from tests.bank import Receipt, Transfer
from tests.soak_bank import share_of

OPTIONS = ClientOptions(
    deadline=8,
    first_timeout=0.5,
    least_timeout=0.3,
    most_timeout=1.5,
    life=20,
    pause=0.02,
    probe=0.1,
    probe_at_most=1,
    retry_burst=200,
    retry_rate=50,
)

# Calls for one id until it is given up; each takes up to eight seconds.
MOST_CALLS = 30


class History:
    """Lines of JSON, each written at once."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)

    def note(self, **line: Any) -> None:
        os.write(self._file, json.dumps({"at": time.monotonic_ns(), **line}).encode() + b"\n")

    def close(self) -> None:
        os.close(self._file)


def answer_of(outcome: Outcome[Any]) -> Any:
    if outcome.refusal is not None:
        return [outcome.status, outcome.refusal.code, dict(outcome.refusal.details)]
    result: Receipt = outcome.result
    return [outcome.status, {"left": str(result.left)}]


class Runner:
    """One client and its share.  The two kinds differ by how they are waited for."""

    def __init__(self, number: int, told: dict[str, Any], history: History) -> None:
        self.number = number
        self.told = told
        self.history = history
        self.counted: Counter[str] = Counter()
        self._before: Counter[str] = Counter()
        self._acknowledge: list[str] = []

    def arguments(self) -> dict[str, Any]:
        pending = Path(self.told["folder"]) / f"pending-{self.number}.jsonl"
        return {"options": OPTIONS, "operations": [Transfer], "pending": pending}

    def share(self, round_number: int, count: int) -> list[tuple[str, Transfer]]:
        told = self.told
        return share_of(told["seed"], round_number, count, told["run"], self.number)

    def asks(self, operation_id: str) -> None:
        self.history.note(asks=operation_id, client=self.number)

    def hears(self, outcome: Outcome[Any]) -> None:
        self.history.note(hears=outcome.operation_id, answer=answer_of(outcome), replayed=outcome.replayed)

    def fails(self, operation_id: str, error: CasOpsError) -> None:
        self.history.note(fails=operation_id, error=f"{type(error).__name__}: {error}", retry=error.retry)
        if not error.retry:
            raise error

    def recovered(self, asked: list[Asked], outcomes: tuple[Outcome[Any], ...]) -> None:
        self.counted["recovered_after_kill"] += len(asked)
        for outcome in outcomes:
            self.hears(outcome)

    def to_acknowledge(self, share: list[tuple[str, Transfer]]) -> list[str]:
        """Ids of the round before: it was judged, and nobody asks for them again."""
        ready, self._acknowledge = self._acknowledge, [operation_id for operation_id, _ in share]
        return ready

    def count(self, client: Client | AsyncClient) -> None:
        now = Counter(dataclasses.asdict(client.counters))
        self.counted.update(now - self._before)
        self._before = now


def run_sync(runner: Runner, client: Client, number: int, count: int) -> None:
    pending = client.pending()
    if pending:
        for asked in pending:
            runner.asks(asked.operation_id)
        runner.recovered(pending, client.recover().finished)
    share = runner.share(number, count)
    for each in runner.to_acknowledge(share):
        client.acknowledge(each)
    for operation_id, transfer in share:
        runner.asks(operation_id)
        for _ in range(MOST_CALLS):
            try:
                runner.hears(client.execute(transfer, operation_id=operation_id))
                break
            except CasOpsError as error:
                runner.fails(operation_id, error)
    runner.count(client)


async def run_async(runner: Runner, client: AsyncClient, number: int, count: int) -> None:
    pending = client.pending()
    if pending:
        for asked in pending:
            runner.asks(asked.operation_id)
        runner.recovered(pending, (await client.recover()).finished)
    share = runner.share(number, count)
    for each in runner.to_acknowledge(share):
        client.acknowledge(each)

    async def ask(operation_id: str, transfer: Transfer) -> None:
        runner.asks(operation_id)
        for _ in range(MOST_CALLS):
            try:
                runner.hears(await client.execute(transfer, operation_id=operation_id))
                break
            except CasOpsError as error:
                runner.fails(operation_id, error)

    # Two at a time: an async client has several calls under way.
    for first in range(0, len(share), 2):
        await asyncio.gather(*(ask(*each) for each in share[first : first + 2]))
    runner.count(client)


async def work(told: dict[str, Any]) -> None:
    history = History(told["history"])
    runners = [Runner(number, told, history) for number in told["clients"]]
    odd = [runner for runner in runners if runner.number % 2]
    even = [runner for runner in runners if not runner.number % 2]
    sync_clients = [Client(told["servers"], **runner.arguments()) for runner in even]
    async_clients = [AsyncClient(told["servers"], **runner.arguments()) for runner in odd]
    while line := await asyncio.to_thread(sys.stdin.readline):
        number, count = map(int, line.split())
        async with asyncio.TaskGroup() as group:
            for runner, client in zip(even, sync_clients, strict=True):
                group.create_task(asyncio.to_thread(run_sync, runner, client, number, count))
            for other, async_client in zip(odd, async_clients, strict=True):
                group.create_task(run_async(other, async_client, number, count))
        counted: Counter[str] = sum((runner.counted for runner in runners), Counter())
        for runner in runners:
            runner.counted.clear()
        sys.stdout.write(json.dumps({"round": number, "counted": counted}) + "\n")
        sys.stdout.flush()
    for client in sync_clients:
        client.close()
    for async_client in async_clients:
        await async_client.aclose()
    history.close()


if __name__ == "__main__":
    threading.current_thread().name = "soak-client"
    asyncio.run(work(json.loads(sys.argv[1])))
