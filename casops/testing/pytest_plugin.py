"""A pytest fixture for tests of programs that use Couchbase: a server of their own, without Couchbase.

    pytest_plugins = ["casops.testing.pytest_plugin"]  # in conftest.py

    @pytest.mark.couchbase_server(nodes=3, scopes={"app": ["accounts"]})
    def test_transfer(couchbase_server: CouchbaseServer) -> None:
        cluster = Cluster(couchbase_server.connection_string, ...)

It is no entry point: whoever has casops installed should not have it loaded into every run of pytest.

Must not be in here: anything that is needed without pytest.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from casops.testing.couchbase_server import CouchbaseServer


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "couchbase_server(**arguments): arguments of the CouchbaseServer of this test")


@pytest.fixture
def couchbase_server(request: pytest.FixtureRequest) -> Generator[CouchbaseServer]:
    """A `CouchbaseServer` for this test alone, with the arguments of the marker of the same name."""
    marker: pytest.Mark | None = request.node.get_closest_marker("couchbase_server")
    if marker is not None and marker.args:
        raise pytest.UsageError("couchbase_server takes its arguments by name: couchbase_server(nodes=3)")
    arguments: dict[str, Any] = {} if marker is None else dict(marker.kwargs)
    with CouchbaseServer(**arguments) as server:
        yield server
