"""A client without sockets: servers that are one function, and the pending list of an earlier life.

    noted(path, {"i": 1})                     an earlier life had asked for Echo(value=1) as "i"
    bank = Bank(i=1)                          what the servers answer, by operation id
    async with bank.client(pending=path) as client: ...
    bank.asked, bank.acknowledged             what they were asked for, and what they may forget

Must not be in here: tests.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from casops.business import OperationWork
from casops.client import AsyncClient, ClientOptions
from casops.client.pending import Asked
from casops.client.pending_file import PendingFile
from casops.wire import ACKNOWLEDGE, IDEMPOTENCY_KEY, MESSAGE, PROBLEM_URN, RETENTION, decode_id, decode_ids
from tests.bank import Echo

# Of the options of casops.
MONTH = 30 * 86_400.0

NEVER = object()


def noted(path: Path, values: Mapping[str, Any], *, age: float = 0.0) -> None:
    """The list of a client that asked for these, so many seconds ago, and died."""
    file = PendingFile(path)
    for operation_id, value in values.items():
        work = OperationWork(Echo(value=value), operation_id)
        file.asks(Asked(operation_id, work.name, work.fingerprint, work.arguments, time.time() - age))
    file.close()


def waiting(path: Path) -> list[str]:
    """What a client that opens the list now would ask for again."""
    file = PendingFile(path)
    try:
        return [each.operation_id for each in file.waiting()]
    finally:
        file.close()


class Bank:
    """What comes back, by operation id; and what the servers were told.

    An answer of None: the connection breaks; of NEVER: it is refused for good, and said that nothing happened.
    """

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.retention: float | None = MONTH
        self.held: set[str] = set()
        self.broken = 0  # looks whose connection breaks, before one is answered
        self.asked: list[str] = []
        self.looked: list[str] = []
        self.acknowledged: list[str] = []

    def client(self, *, deadline: float = 5, table: int = 100, **more: Any) -> AsyncClient:
        options = ClientOptions(deadline=deadline, table=table, pause=0, probe=100, probe_at_most=100)
        more.setdefault("operations", [Echo])
        return AsyncClient(["http://a"], options=options, connect=self._connect, **more)

    def _connect(self, url: str) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=url, transport=httpx.MockTransport(self._reply))

    async def _reply(self, request: httpx.Request) -> httpx.Response:
        headers = {MESSAGE: request.headers[MESSAGE]}
        if self.retention is not None:
            headers[RETENTION] = f"{self.retention:.0f}"
        if request.method == "GET":
            self.looked.append(request.url.path.rpartition("/")[2])
            if len(self.looked) <= self.broken:
                raise httpx.ReadError("the connection broke")
            return httpx.Response(404, json={"type": f"{PROBLEM_URN}outcome-unheard"}, headers=headers)
        operation_id = decode_id(request.headers[IDEMPOTENCY_KEY])
        self.asked.append(operation_id)
        self.acknowledged += decode_ids(request.headers.get(ACKNOWLEDGE, ""))
        while operation_id in self.held:
            await asyncio.sleep(0.001)
        if self.answers[operation_id] is None:
            raise httpx.ReadError("the connection broke")
        if self.answers[operation_id] is NEVER:
            return httpx.Response(422, json={"type": f"{PROBLEM_URN}usage", "happened": "no"}, headers=headers)
        return httpx.Response(200, json=self.answers[operation_id], headers=headers)
