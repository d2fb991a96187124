"""Connections to `casops serve` that ask for nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvicorn

from casops import CasOps
from casops.service import create_app, serving
from casops.service.serving import Prompt
from tests.bank import Open
from tests.serving import SERVICE


@asynccontextmanager
async def served(casops: CasOps) -> AsyncIterator[int]:
    """A server in this loop; gives its port."""
    app = create_app(casops, [Open], options=SERVICE)
    server = uvicorn.Server(uvicorn.Config(app, port=0, http=Prompt, ws="none", log_level="critical"))
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await task


@pytest.mark.parametrize("sent", [b"", b"GET /health HTTP/1.1\r\nHost: a\r\n"])
async def test_who_asks_for_nothing_is_let_go(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr(serving, "HEAD_SECONDS", 0.1)
    async with served(CasOps.open("memory://")) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()


async def test_who_has_asked_may_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "HEAD_SECONDS", 0.1)
    async with served(CasOps.open("memory://")) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):
            writer.write(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
            assert head.startswith(b"HTTP/1.1 204")
            await asyncio.sleep(0.3)
        writer.close()


async def test_who_has_asked_and_then_asks_for_half_of_something_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "HEAD_SECONDS", 0.1)
    async with served(CasOps.open("memory://")) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
        await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        writer.write(b"G")
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()
