"""A service inside the test's own event loop, asked through ASGI.  Must not be in here: tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
from fastapi import FastAPI

from casops import CasOps, Operation, Options, OutcomeUnknown
from casops.messages import Reply, StoreRequest
from casops.service import ServiceOptions, create_app
from casops.stores import Store
from casops.stores.memory import MemoryStore
from casops.wire import encode_id
from tests.bank import Broken, Close, Echo, Open, Overdraw, Transfer

QUICK = Options(patience=0.05, poll=0.001, grace=0.0, deadline=5.0)
SERVICE = ServiceOptions(answer_within=4.0, sweep_every=0, forget_after=0)
OPERATIONS: Sequence[type[Operation[Any]]] = (Open, Transfer, Close, Overdraw, Broken, Echo)


class Web:
    """A caller of one service."""

    def __init__(self, client: httpx.AsyncClient, casops: CasOps) -> None:
        self.client = client
        self.casops = casops

    async def post(
        self, path: str, operation_id: str, arguments: Any = None, *, body: Any = None, **headers: str
    ) -> httpx.Response:
        """`body`: sent as it is, in place of `arguments`.  `headers`: their names with _ for -."""
        more = {name.replace("_", "-"): value for name, value in headers.items()}
        given = {"json": arguments} if body is None else {"content": body}
        more.setdefault("Content-Type", "application/json")
        return await self.client.post(
            f"/operations/{path}", headers={"Idempotency-Key": encode_id(operation_id), **more}, **given
        )

    async def get(self, operation_id: str) -> httpx.Response:
        return await self.client.get(
            httpx.URL("/operations/").join("x").copy_with(raw_path=path_of_outcome(operation_id))
        )


def path_of_outcome(operation_id: str) -> bytes:
    quoted = "".join(f"%{byte:02X}" for byte in operation_id.encode())
    return f"/operations/{quoted}".encode()


@asynccontextmanager
async def serving(application: FastAPI, casops: CasOps) -> AsyncGenerator[Web]:
    """The application with its lifespan, and a caller."""
    async with application.router.lifespan_context(application):
        transport = httpx.ASGITransport(application, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://bank") as client:
            yield Web(client, casops)


@asynccontextmanager
async def bank(
    store: Store | None = None,
    *,
    operations: Iterable[type[Operation[Any]]] = OPERATIONS,
    options: Options = QUICK,
    service: ServiceOptions = SERVICE,
) -> AsyncGenerator[Web]:
    """A service with two accounts, alice with 100 and bob with nothing."""
    casops = CasOps(store or MemoryStore(), options=options)
    for account, balance in (("alice", 100), ("bob", 0)):
        _insist(casops, Open(account=account, balance=balance), f"open-{account}")
    async with serving(create_app(casops, operations, options=service), casops) as web:
        yield web


def _insist(casops: CasOps, operation: Operation[Any], operation_id: str) -> None:
    """Some tests have very short deadlines, and the machine may be busy."""
    while True:
        with suppress(OutcomeUnknown):
            casops.execute(operation, operation_id=operation_id)
            return


async def until(condition: Any) -> None:
    """Wait for something that is about to be true; for half a minute at most."""
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.002)


class Troubled:
    """A store that answers as it is told to, once trouble has begun."""

    def __init__(self, reply: Reply) -> None:
        self._store = MemoryStore()
        self._reply = reply
        self.trouble = False

    def perform(self, batch: Sequence[StoreRequest], /) -> list[Reply]:
        return [self._reply for _ in batch] if self.trouble else self._store.perform(batch)

    def close(self) -> None:
        self._store.close()
