"""`CouchbaseServer`: the test double on real sockets, in a thread of this process.

Must not be in here: the protocol.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

from casops.testing.couchbase_server.connection import Connection
from casops.testing.couchbase_server.service import Service

T = TypeVar("T")

# Seconds the loop's thread may take for one thing that is asked of it; they take microseconds.
PATIENCE = 30.0


class CouchbaseServer:
    """A test double of a Couchbase data service.  It keeps its documents in memory; do not use it for anything else."""

    def __init__(
        self,
        *,
        nodes: int = 1,
        replicas: int = 0,
        user: str = "casops",
        password: str = "password",
        bucket: str = "default",
        scopes: Mapping[str, Sequence[str]] | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        seed: int = 0,
    ) -> None:
        if not 1 <= nodes <= 3:
            raise ValueError(f"1 to 3 nodes; not {nodes}")
        if not 0 <= replicas <= 3:
            raise ValueError(f"0 to 3 replicas; not {replicas}")
        self._first_port = port
        self._service = Service(
            host=host, user=user, password=password, bucket=bucket, nodes=nodes, replicas=replicas,
            scopes=scopes or {}, seed=seed,
        )  # fmt: skip
        self._loop = asyncio.new_event_loop()
        self._connections: set[Connection] = set()
        self._listeners: list[asyncio.Server] = []
        self._thread = threading.Thread(target=self._loop.run_forever, name="couchbase test double", daemon=True)
        self._thread.start()
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- addresses

    @property
    def ports(self) -> list[int]:
        return list(self._service.topology.ports)

    @property
    def connection_string(self) -> str:
        """For the SDK."""
        host = self._service.topology.host
        return "couchbase://" + ",".join(f"{host}:{port}" for port in self.ports)

    @property
    def url(self) -> str:
        """For casops: with user, password and bucket."""
        user, password = quote(self._service.user, safe=""), quote(self._service.password, safe="")
        hosts = self.connection_string.removeprefix("couchbase://")
        return f"couchbase://{user}:{password}@{hosts}/{quote(self._service.topology.bucket, safe='')}"

    # ---- life

    def start(self, lose: int = 0) -> None:
        """Listen, again on the same ports.  `lose`: so many of the last writes are lost, as in a failover."""
        self._run(self._start(lose))

    def stop(self) -> None:
        """Reset all connections and listen no more; documents stay."""
        self._run(self._stop())

    def close(self) -> None:
        """For good."""
        if not self._loop.is_closed():
            self._run(self._stop())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(PATIENCE)
            self._loop.close()

    async def _start(self, lose: int) -> None:
        if self._listeners:
            return
        service = self._service
        service.documents.lose(lose)
        topology = service.topology
        wanted = topology.ports or [self._first_port and self._first_port + index for index in range(topology.nodes)]
        loop = asyncio.get_running_loop()
        for node, port in enumerate(wanted):
            listener = await loop.create_server(self._protocol(node), topology.host, port)
            self._listeners.append(listener)
        topology.ports = [listener.sockets[0].getsockname()[1] for listener in self._listeners]
        topology.changed()

    def _protocol(self, node: int) -> Callable[[], Connection]:
        return lambda: Connection(self._service, node, self._connections)

    async def _stop(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        self._service.forget_hanging()
        for connection in list(self._connections):
            connection.abort()
        while self._connections:
            await asyncio.sleep(0)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)
