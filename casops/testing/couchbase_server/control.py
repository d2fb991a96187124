"""The control channel: commands as lines of JSON over a local socket, for a server in a process of its own.

    {"command": "add_fault", "arguments": {"does": "drop_reply"}}   ->   {"value": 0}   or   {"error": "..."}

Must not be in here: what the commands do.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from casops.testing.couchbase_server.host import Host

# Bytes of a command; the longest has some hundreds.
LONGEST_COMMAND = 64 << 10


class Control:
    """The server's side."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._writers: set[asyncio.StreamWriter] = set()

    async def listen(self, port: int) -> asyncio.Server:
        return await asyncio.start_server(self._serve, "127.0.0.1", port, limit=LONGEST_COMMAND)

    def abort(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while line := await reader.readline():
                writer.write(json.dumps(await self._answer(line)).encode() + b"\n")
                await writer.drain()
        except (ConnectionError, ValueError):
            pass  # it is gone, or the line is endless
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            asked = json.loads(line)
            return {"value": await self._host.command(asked["command"], asked.get("arguments", {}))}
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, OSError) as error:
            return {"error": f"{type(error).__name__}: {error}"}
