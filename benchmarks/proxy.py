"""A proxy that holds every message of a Couchbase connection back for some milliseconds, each way.

Messages are delayed, not queued: those under way do not wait for each other, so that many callers still get their turn.
The cluster map that servers send names their ports; it is rewritten, so that clients come back here.

    python -m benchmarks.proxy --to 127.0.0.1:11210 --delay 1      prints the port it listens at; ends with its input

Must not be in here: anything that looks into documents.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import struct
import subprocess
import sys
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self

__all__ = ["Proxy"]

HEADER: Final = struct.Struct(">BBHBBHIIQ")
ALTERNATIVE: Final = (0x08, 0x18)  # magic of frames whose key length shares its two bytes with framing extras
HELO: Final = 0x1F
SNAPPY: Final = 0x0A  # a feature of HELO: a compressed cluster map could not be rewritten here
# Bytes of one message: what Couchbase takes, and something for what is around it.
MAX_MESSAGE: Final = 21 * 1024 * 1024


class Proxy:
    """The proxy in a process of its own; a context manager."""

    def __init__(self, to: str, delay: float) -> None:
        """to: host:port of one node; delay: milliseconds of each message."""
        command = [sys.executable, "-m", "benchmarks.proxy", "--to", to, "--delay", str(delay)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._process as process:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(10)


class Relay:
    """All listening ports of one proxy, one for each node."""

    def __init__(self, delay: float) -> None:
        self._delay = delay / 1000
        self._ports: dict[tuple[str, int], int] = {}
        self._servers: list[asyncio.Server] = []

    async def port_for(self, host: str, port: int) -> int:
        """Where this node is to be reached."""
        if (host, port) not in self._ports:
            server = await asyncio.start_server(
                lambda reader, writer: self._serve(host, port, reader, writer), "127.0.0.1"
            )
            self._servers.append(server)
            self._ports[host, port] = server.sockets[0].getsockname()[1]
        return self._ports[host, port]

    async def _serve(self, host: str, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection(host, port)
        except OSError:
            writer.close()
            return
        ways = [
            asyncio.create_task(self._relay(reader, back, host, answers=False)),
            asyncio.create_task(self._relay(there, writer, host, answers=True)),
        ]
        with suppress(asyncio.CancelledError):  # at the end of the proxy
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        for each in (writer, back):
            each.close()

    async def _relay(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, host: str, *, answers: bool
    ) -> None:
        loop = asyncio.get_running_loop()
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                header = await source.readexactly(HEADER.size)
                length = HEADER.unpack(header)[6]
                if length > MAX_MESSAGE:
                    return
                body = await source.readexactly(length)
                if answers and b'"nodesExt"' in body:
                    header, body = await self._redirected(header, body, host)
                elif not answers and header[1] == HELO:
                    body = _without_snappy(header, body)
                message = header + body
                if self._delay:
                    loop.call_later(self._delay, _write, target, message)
                else:
                    _write(target, message)

    async def _redirected(self, header: bytes, body: bytes, host: str) -> tuple[bytes, bytes]:
        """A cluster map that leads here."""
        fields = list(HEADER.unpack(header))
        key = fields[2] & 0xFF if fields[0] in ALTERNATIVE else fields[2]
        framing = fields[2] >> 8 if fields[0] in ALTERNATIVE else 0
        start = framing + fields[3] + key
        config: dict[str, Any] = json.loads(body[start:])
        for node in config.get("nodesExt", []):
            services = node.get("services", {})
            where = str(node.get("hostname") or host)
            node["services"] = {"kv": await self.port_for(where, services["kv"])} if "kv" in services else {}
            node["hostname"] = "127.0.0.1"
        for node in config.get("nodes", []):
            where = str(node.get("hostname", host)).rpartition(":")[0]
            where = host if where in ("", "$HOST") else where
            if "direct" in node.get("ports", {}):
                node["ports"] = {"direct": await self.port_for(where, node["ports"]["direct"])}
            node["hostname"] = "127.0.0.1:0"
        listed = config.get("vBucketServerMap", {})
        if "serverList" in listed:
            listed["serverList"] = [await self._redirected_place(each, host) for each in listed["serverList"]]
        body = body[:start] + json.dumps(config).encode()
        fields[6] = len(body)
        return HEADER.pack(*fields), body

    async def _redirected_place(self, place: str, host: str) -> str:
        where, _, port = place.rpartition(":")
        return f"127.0.0.1:{await self.port_for(host if where in ('', '$HOST') else where, int(port))}"


def _write(target: asyncio.StreamWriter, message: bytes) -> None:
    if not target.is_closing():
        target.write(message)


def _without_snappy(header: bytes, body: bytes) -> bytes:
    """The features asked for; one is asked for twice rather than this one, so that the length stays."""
    fields = HEADER.unpack(header)
    key = fields[2] & 0xFF if fields[0] in ALTERNATIVE else fields[2]
    start = fields[3] + key + (fields[2] >> 8 if fields[0] in ALTERNATIVE else 0)
    features = [feature for (feature,) in struct.iter_unpack(">H", body[start:])]
    others = [feature for feature in features if feature != SNAPPY]
    kept = [feature if feature != SNAPPY or not others else others[0] for feature in features]
    return body[:start] + struct.pack(f">{len(kept)}H", *kept)


async def _main(to: str, delay: float) -> None:
    host, _, port = to.rpartition(":")
    relay = Relay(delay)
    print(await relay.port_for(host, int(port)), flush=True)  # noqa: T201
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.proxy", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--to", required=True, help="host:port of one node")
    parser.add_argument("--delay", type=float, required=True, help="milliseconds")
    given = parser.parse_args()
    asyncio.run(_main(given.to, given.delay))
