"""Management over HTTP without an SDK: who may, what there is, and bytes that are no requests."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import socket
from collections.abc import Iterator

import pytest

from casops.testing import CouchbaseServer

RIGHT = "Basic " + base64.b64encode(b"casops:password").decode()
SCOPES = "/pools/default/buckets/default/scopes"


@pytest.fixture
def server() -> Iterator[CouchbaseServer]:
    with CouchbaseServer(scopes={"app": ["c0"]}) as server:
        yield server


def ask(server: CouchbaseServer, method: str, path: str, form: str = "", who: str = RIGHT) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.management_port, timeout=10)
    try:
        connection.request(method, path, form, {"Authorization": who})
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def test_scopes_and_collections(server: CouchbaseServer) -> None:
    assert ask(server, "POST", SCOPES, "name=shop")[0] == 200
    assert ask(server, "POST", SCOPES, "name=shop")[0] == 400
    assert ask(server, "POST", f"{SCOPES}/shop/collections", "name=orders")[0] == 200
    assert ask(server, "POST", f"{SCOPES}/shop/collections", "name=b%20d")[0] == 400
    assert ask(server, "POST", f"{SCOPES}/none/collections", "name=orders")[0] == 404
    assert ask(server, "DELETE", f"{SCOPES}/app")[0] == 200
    assert ask(server, "DELETE", f"{SCOPES}/_default")[0] == 400
    assert ask(server, "DELETE", f"{SCOPES}/shop/collections/none")[0] == 404
    status, text = ask(server, "GET", SCOPES)
    assert status == 200
    assert {each["name"] for each in json.loads(text)["scopes"]} == {"_default", "shop"}


def test_who_and_where(server: CouchbaseServer) -> None:
    assert ask(server, "GET", SCOPES, who="Basic xxx")[0] == 401
    assert ask(server, "GET", "/pools/default/buckets/other/scopes")[0] == 404
    for path in ("/", "/pools", "/pools/default/buckets", "/settings/../scopes", f"{SCOPES}/a/b/c/d/e"):
        assert ask(server, "GET", path)[0] == 404


@pytest.mark.parametrize(
    "garbage",
    [
        b"\0\1\2\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n\xff\xff",
        b"x" * 100_000,
    ],
)
def test_what_is_no_request(server: CouchbaseServer, garbage: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.management_port), 10) as it:
        it.sendall(garbage)
        try:
            assert it.makefile("rb").read().startswith(b"HTTP/1.1 400")
        except ConnectionResetError:
            assert len(garbage) > 10_000  # it was not read to its end
    assert ask(server, "GET", SCOPES)[0] == 200


def test_half_a_request_and_then_nothing(server: CouchbaseServer) -> None:
    with socket.create_connection(("127.0.0.1", server.management_port), 10) as it:
        it.sendall(b"POST / HTTP/1.1\r\nContent-Length: 20\r\n\r\nname")
    with socket.create_connection(("127.0.0.1", server.management_port), 10) as it:
        it.sendall(b"POST / HT")
        server.stop()
        with contextlib.suppress(ConnectionResetError):
            assert it.recv(1) == b""
