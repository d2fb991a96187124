"""The official SDK on a test double: clusters with short limits, closed when a test ends.

The SDK has no types; they are asserted here and nowhere else.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Any

from acouchbase.cluster import Cluster as AsyncCluster
from couchbase.auth import PasswordAuthenticator
from couchbase.cluster import Cluster
from couchbase.options import ClusterOptions, ClusterTimeoutOptions

from casops.testing.couchbase_server.face import Face


def seconds(amount: float) -> timedelta:
    return timedelta(seconds=amount)


# A call that is retried in vain ends after this.
BRIEF: dict[str, Any] = {"timeout": seconds(0.3)}


def options(server: Face, user: str | None = None, password: str | None = None, **more: Any) -> Any:
    limits = ClusterTimeoutOptions(
        bootstrap_timeout=seconds(2), connect_timeout=seconds(2), resolve_timeout=seconds(2),
        kv_timeout=seconds(5), kv_durable_timeout=seconds(5))  # fmt: skip
    who = PasswordAuthenticator(user or server.user, password or server.password, **more)
    return ClusterOptions(who, timeout_options=limits)


@contextmanager
def connected(server: Face, **more: Any) -> Iterator[Any]:
    cluster: Any = Cluster(server.connection_string, options(server, **more))
    try:
        yield cluster
    finally:
        cluster.close()


@asynccontextmanager
async def connected_async(server: Face, **more: Any) -> AsyncIterator[Any]:
    cluster: Any = await AsyncCluster.connect(server.connection_string, options(server, **more))
    try:
        yield cluster
    finally:
        await cluster.close()


def collection(cluster: Any, scope: str = "_default", name: str = "_default") -> Any:
    return cluster.bucket("default").scope(scope).collection(name)
