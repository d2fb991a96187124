"""One message over HTTP, with httpx: what was sent, what came back, what is certain.

httpx neither retries nor follows redirects unless told so; both would send a message twice behind our back.

Must not be in here: decisions about replies.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

import httpx

from casops.client.messages import Message
from casops.client.options import ClientOptions

Connect: TypeAlias = Callable[[str], httpx.AsyncClient]


class Replied(NamedTuple):
    status: int
    headers: Mapping[str, str]  # names in lower case, as httpx gives them
    body: bytes


class NoReply(NamedTuple):
    why: str
    sent: bool


def connect_plainly(options: ClientOptions) -> Connect:
    """The usual way to reach a server."""
    limits = httpx.Limits(max_connections=options.connections, max_keepalive_connections=options.connections)
    timeout = httpx.Timeout(options.life, connect=options.most_timeout, pool=options.most_timeout)
    return lambda url: httpx.AsyncClient(base_url=url, limits=limits, timeout=timeout)


async def exchange(http: httpx.AsyncClient, message: Message, options: ClientOptions) -> Replied | NoReply:
    """Send it and wait for its reply, for as long as a message lives."""
    concern = message.concern
    # identity: a few compressed bytes could become any number of bytes in memory at once.
    headers = {"accept": "application/json, application/problem+json", "accept-encoding": "identity", **message.headers}
    try:
        async with (
            asyncio.timeout(options.life),
            http.stream(concern.method, concern.path, content=concern.body, headers=headers) as response,
        ):
            return await _read(response, options.reply_bytes)
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol) as error:
        return NoReply(_told(error), sent=False)
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError, TimeoutError) as error:
        return NoReply(_told(error), sent=True)


async def _read(response: httpx.Response, most: int) -> Replied | NoReply:
    if response.headers.get("content-encoding", "identity") != "identity":
        return NoReply("its reply is compressed, which was not asked for", sent=True)
    if not _tells_its_end(response):
        return NoReply("its reply has no length, so nobody can tell whether it was cut short", sent=True)
    parts: list[bytes] = []
    size = 0
    async for part in response.aiter_bytes():
        size += len(part)
        if size > most:
            return NoReply(f"its reply is longer than {most} bytes", sent=True)
        parts.append(part)
    return Replied(response.status_code, dict(response.headers), b"".join(parts))


def _tells_its_end(response: httpx.Response) -> bool:
    """Over HTTP/1 a body may end where the connection does, which a connection that breaks does too."""
    return (
        not response.http_version.startswith("HTTP/1")
        or "content-length" in response.headers
        or "chunked" in response.headers.get("transfer-encoding", "").lower()
        or response.status_code == 204
    )


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
