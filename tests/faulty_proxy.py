"""A proxy between client and server that loses, delays, doubles and breaks, as it is told.

    with FaultyProxy(server.port) as proxy:
        proxy.faults += ["drop-request", "pass"]      the first POST, the second; afterwards all pass
        ...
        proxy.release()                               lets go of everything that is held
        proxy.posts                                   what came through it, with the fault each met

It reads whole HTTP/1.1 messages with a Content-Length, which is all that the client and uvicorn send here.

    pass             as it came                       hold-request     until `release`, then on to the server
    drop-request     never reaches the server         hold-response    the server has done it; held until `release`
    drop-response    the server has done it           double           reaches the server twice, at the same time
    reset-request    RST, not sent on                 reset-response   RST, after the server has done it
    half-response    the first half, then silence     half-open        as it came; the next on this connection finds
    nobody garbled          a gateway's page, no reply
    late-request     RST at once, and sent on to the server a little later

Must not be in here: tests, knowledge of casops.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

GARBAGE = b"HTTP/1.1 502 Bad Gateway\r\ncontent-type: text/html\r\ncontent-length: 13\r\n\r\n<html></html>"

# Seconds until a test that waits for the proxy gives up.
PATIENCE = 30.0

# Bytes of one message; those of tests are small.
MOST_BYTES = 1_000_000


@dataclass(frozen=True)
class Post:
    """A POST that came to the proxy."""

    fault: str
    headers: dict[str, str]


class FaultyProxy:
    """`faults`: for the next POSTs, one after another; `choose`: for all POSTs after those."""

    def __init__(
        self, port: int, choose: Callable[[], str] = lambda: "pass", delay: Callable[[], float] | None = None
    ) -> None:
        self.faults: deque[str] = deque()
        self.posts: list[Post] = []
        self._upstream = port
        self._choose = choose
        self._delay = delay  # seconds that every POST is delayed by, there and back
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._gate = asyncio.Event()
        self._changed = threading.Condition()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    # --- for tests --------------------------------------------------------------------------

    def release(self) -> None:
        """Let go of everything that is held, now and from now on."""
        self._loop.call_soon_threadsafe(self._gate.set)

    def wait_for_posts(self, count: int) -> None:
        """Wait until so many have come."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.posts) >= count, PATIENCE), (
                f"{self.posts} did not become {count}"
            )

    def refuse(self) -> None:
        """No connections any more, and those that are there break."""
        self._run(self._close())

    def accept(self) -> None:
        """Connections again, at the same port."""
        self._run(self._listen())

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="faulty-proxy")
        self._thread.start()
        self.accept()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.refuse()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()

    # --- in its own thread ------------------------------------------------------------------

    def _run(self, work: object) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)  # type: ignore[arg-type]  # a coroutine

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while (message := await _read(reader)) is not None:
                if not await self._serve(message, reader, writer):
                    break
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            _reset(writer)
        finally:
            self._tasks.discard(task)
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _serve(self, message: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection goes on."""
        if not message.startswith(b"POST"):
            return await self._reply(writer, await self._ask(message))
        fault = self.faults.popleft() if self.faults else self._choose()
        self._note(fault, message)
        await self._pause()
        if fault == "drop-request":
            return await self._silence()
        if fault == "hold-request":
            await self._gate.wait()
        if fault == "reset-request":
            raise OSError
        if fault == "late-request":
            self._later(message)
            raise OSError
        reply = await self._ask_twice(message) if fault == "double" else await self._ask(message)
        await self._pause()
        if fault == "drop-response":
            return await self._silence()
        if fault == "reset-response":
            raise OSError
        if fault == "hold-response":
            await self._gate.wait()
        if fault == "half-response":
            await self._reply(writer, (reply or b"")[: len(reply or b"") // 2])
            return await self._silence()
        await self._reply(writer, GARBAGE if fault == "garbled" else reply)
        return fault != "half-open" or await self._half_open(reader)

    def _note(self, fault: str, message: bytes) -> None:
        with self._changed:
            self.posts.append(Post(fault, _headers(message)))
            self._changed.notify_all()

    async def _reply(self, writer: asyncio.StreamWriter, reply: bytes | None) -> bool:
        if reply is None:  # the server is away: so is this connection
            raise OSError
        writer.write(reply)
        await writer.drain()
        return True

    async def _ask(self, message: bytes) -> bytes | None:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._upstream)
        except OSError:
            return None
        try:
            writer.write(message)
            await writer.drain()
            return await _read(reader)
        except (OSError, asyncio.IncompleteReadError):
            return None
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _ask_twice(self, message: bytes) -> bytes | None:
        first, second = await asyncio.gather(self._ask(message), self._ask(message))
        return first or second

    def _later(self, message: bytes) -> None:
        async def send() -> None:
            await asyncio.sleep(0.2)
            await self._ask(message)

        task = self._loop.create_task(send())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _silence(self) -> bool:
        """Until the proxy is closed; the client's side of the connection stays open."""
        await asyncio.Event().wait()
        return False

    async def _half_open(self, reader: asyncio.StreamReader) -> bool:
        """Whatever comes next is taken and never answered."""
        message = await _read(reader)
        if message is None:
            return False
        if message.startswith(b"POST"):
            self._note("half-open", message)
        return await self._silence()

    async def _pause(self) -> None:
        if self._delay is not None:
            await asyncio.sleep(self._delay())


def random_faults(seed: str, share: float) -> Callable[[], str]:
    """A chooser for long runs: so often something goes wrong, and what is decided by the seed."""
    chance = random.Random(seed)
    kinds = (
        *("drop-request", "drop-response", "double", "reset-request", "reset-response", "half-response", "garbled"),
        *("late-request", "half-open"),
    )
    return lambda: chance.choice(kinds) if chance.random() < share else "pass"


def _reset(writer: asyncio.StreamWriter) -> None:
    """RST instead of FIN."""
    sock: socket.socket | None = writer.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _read(reader: asyncio.StreamReader) -> bytes | None:
    """One HTTP message, or None at the end of the connection."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if not error.partial:
            return None
        raise
    length = int(_headers(head).get("content-length", "0"))
    assert length <= MOST_BYTES
    return head + await reader.readexactly(length)


def _headers(message: bytes) -> dict[str, str]:
    lines = message.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")[1:]
    pairs = (line.partition(":") for line in lines)
    return {name.lower(): text.strip() for name, _, text in pairs}
