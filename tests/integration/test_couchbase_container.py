"""The same tests on a real Couchbase Server in a container: one node, community edition.

    CASOPS_TEST_COUCHBASE_IMAGE=couchbase/server:community-7.6.2 python -m pytest tests/integration

The container's ports are those of this machine (8091 and 11210), since the server tells its clients where it is.

Must not be in here: tests of their own; the container only makes CASOPS_TEST_COUCHBASE, which other tests look at.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

IMAGE = os.environ.get("CASOPS_TEST_COUCHBASE_IMAGE", "couchbase/server:community-7.6.2")
USER, PASSWORD, BUCKET = "Administrator", "password", "casops"
ROOT = Path(__file__).resolve().parents[2]

# Seconds a server may take from its start to taking calls: it takes about 15.
STARTING = 180.0


def container() -> Any:
    """A container that is not started.  Skips where no engine answers."""
    try:
        call_engine()
    except OSError as error:
        pytest.skip(f"no Docker engine answers here ({error})")
    from testcontainers.core.container import DockerContainer

    return DockerContainer(IMAGE).with_bind_ports(8091, 8091).with_bind_ports(11210, 11210)


def call_engine() -> None:
    """Raises OSError if no engine listens where DOCKER_HOST, or the usual socket, is."""
    kind, _, where = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").partition("://")
    if kind == "unix":
        with socket.socket(socket.AF_UNIX) as engine:
            engine.settimeout(5)
            engine.connect(where)
        return
    host, _, port = where.partition(":")
    socket.create_connection((host, int(port or 2375)), 5).close()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with container():
        until_done("/pools")
        # The data service alone, which is all that casops needs.
        until_done("/node/controller/setupServices", services="kv")
        until_done("/pools/default", memoryQuota="512")
        until_done("/settings/web", username=USER, password=PASSWORD, port="SAME")
        until_done("/pools/default/buckets", name=BUCKET, ramQuota="256", replicaNumber="0")
        until_done(f"/pools/default/buckets/{BUCKET}")
        yield f"couchbase://{USER}:{PASSWORD}@127.0.0.1/{BUCKET}"


def until_done(path: str, **form: str) -> None:
    """A call of the management's, as soon as it is taken."""
    login = b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    body = urlencode(form).encode() if form else None
    deadline = time.monotonic() + STARTING
    while True:
        request = urllib.request.Request(f"http://127.0.0.1:8091{path}", body, {"Authorization": f"Basic {login}"})
        try:
            with urllib.request.urlopen(request, timeout=10):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
            if time.monotonic() > deadline:
                raise AssertionError(f"the container does not take {path}: {error}") from error
        time.sleep(0.5)  # there is no event to wait for


@pytest.mark.parametrize("tests", ["tests/test_store_contract.py", "tests/test_fronts.py"])
def test_on_a_real_server(url: str, tests: str) -> None:
    from casops.stores.opening import open_store

    open_store(f"{url}?create=tests&timeout=30").close()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", tests, "-k", "couchbase"],
        cwd=ROOT,
        env={**os.environ, "CASOPS_TEST_COUCHBASE": url},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout[-5000:]
