"""The few pages of Couchbase's management over HTTP that clients need to create scopes and collections.

    GET     /pools/default/buckets/B/scopes                           the manifest
    POST    /pools/default/buckets/B/scopes                name=S     a scope
    POST    /pools/default/buckets/B/scopes/S/collections  name=C     a collection
    DELETE  /pools/default/buckets/B/scopes/S                         a scope with its collections
    DELETE  /pools/default/buckets/B/scopes/S/collections/C           a collection with its documents

Must not be in here: the binary protocol.
"""

from __future__ import annotations

import asyncio
import base64
import json
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import parse_qs, unquote

from casops.testing.couchbase_server.service import Service

# Bytes of a request's head, and of its form; the real ones have some hundreds.
LARGEST_HEAD, LARGEST_FORM = 16 << 10, 64 << 10

# Seconds a client may take for a request; a connection that is kept open without one ends then, too.
SLOWEST = 60.0


class Page(NamedTuple):
    method: str
    parts: list[str]
    form: dict[str, list[str]]
    authorization: str


class Malformed(Exception):
    """This is no request that has an answer here."""


class Management:
    def __init__(self, service: Service) -> None:
        self._service = service
        self._collections, self._documents = service.collections, service.documents
        self._authorization = "Basic " + base64.b64encode(f"{service.user}:{service.password}".encode()).decode()
        self._writers: set[asyncio.StreamWriter] = set()

    async def listen(self, port: int) -> asyncio.Server:
        return await asyncio.start_server(self._serve, self._service.topology.host, port, limit=LARGEST_HEAD)

    def abort(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while self._service.running:
                async with asyncio.timeout(SLOWEST):
                    page = await _read(reader)
                writer.write(_response(*self._answer(page)))
                await writer.drain()
        except Malformed:
            writer.write(_response(HTTPStatus.BAD_REQUEST, "not a request"))
        except (asyncio.IncompleteReadError, ConnectionError, TimeoutError):
            pass  # it is gone, or says nothing
        finally:
            self._writers.discard(writer)
            writer.close()

    def _answer(self, page: Page) -> tuple[HTTPStatus, object]:
        if page.authorization != self._authorization:
            return HTTPStatus.UNAUTHORIZED, "wrong user or password"
        if page.parts[:3] != ["pools", "default", "buckets"] or page.parts[4:5] != ["scopes"]:
            return HTTPStatus.NOT_FOUND, "the test double has no such page"
        if page.parts[3] != self._service.topology.bucket:
            return HTTPStatus.NOT_FOUND, "Requested resource not found."
        try:
            return self._scopes(page.method, page.parts[5:], page.form.get("name", [""])[0])
        except ValueError as error:
            return HTTPStatus.BAD_REQUEST, {"errors": {"_": str(error)}}
        except KeyError as error:
            kind = "Collection" if len(page.parts) > 7 and page.parts[5] in self._collections.scopes() else "Scope"
            return HTTPStatus.NOT_FOUND, {"errors": {"_": f"{kind} with name {error.args[0]!r} is not found"}}

    def _scopes(self, method: str, parts: list[str], name: str) -> tuple[HTTPStatus, object]:
        """Raises ValueError, KeyError."""
        collections = self._collections
        match method, parts:
            case "GET", []:
                return HTTPStatus.OK, collections.manifest()
            case "POST", []:
                collections.add_scope(name)
            case "POST", [scope, "collections"]:
                collections.add_collection(scope, name)
            case "DELETE", [scope]:
                for number in collections.drop_scope(scope):
                    self._documents.drop_collection(number)
            case "DELETE", [scope, "collections", collection]:
                self._documents.drop_collection(collections.drop_collection(scope, collection))
            case _:
                return HTTPStatus.NOT_FOUND, "the test double has no such page"
        return HTTPStatus.OK, {"uid": f"{collections.uid:x}"}


async def _read(reader: asyncio.StreamReader) -> Page:
    """Raises Malformed, asyncio.IncompleteReadError, ConnectionError."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *fields = head.split("\r\n")
        method, target, _ = line.split(" ")
        headers = {field.partition(":")[0].strip().lower(): field.partition(":")[2].strip() for field in fields}
        length = int(headers.get("content-length", "0"))
        if not 0 <= length <= LARGEST_FORM:
            raise Malformed
        form = parse_qs((await reader.readexactly(length)).decode(), keep_blank_values=True)
    except (ValueError, asyncio.LimitOverrunError):
        raise Malformed from None
    parts = [unquote(part) for part in target.partition("?")[0].split("/") if part]
    return Page(method, parts, form, headers.get("authorization", ""))


def _response(status: HTTPStatus, content: object) -> bytes:
    body = (content if isinstance(content, str) else json.dumps(content)).encode()
    kind = "text/plain" if isinstance(content, str) else "application/json"
    head = f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body
