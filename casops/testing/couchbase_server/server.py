"""`CouchbaseServer`: the test double in a thread of this process.

Must not be in here: the protocol, what can be asked of it (face).
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from casops.testing.couchbase_server.documents import Clock
from casops.testing.couchbase_server.face import Face
from casops.testing.couchbase_server.host import Host
from casops.testing.couchbase_server.service import Service

T = TypeVar("T")

# Seconds the loop's thread may take for one thing that is asked of it; they take milliseconds.
PATIENCE = 30.0


class CouchbaseServer(Face):
    """A test double of a Couchbase data service, in a thread of this process; it keeps its documents in memory.

    `nodes`: 1 to 3, each on a port of its own.  `replicas`: 0 to 3 per document; durable writes are impossible where
    the nodes do not suffice for a majority.  `scopes`: scope -> collections, beside the default ones.
    `port`: of the first node, the others follow; 0: any.  `seed`: decides about faults with a probability.
    `clock`: seconds since 1970, for expiry; called in the server's thread.  `purge_after`: seconds after which a
    tombstone without attributes is forgotten; None: never.
    Raises ValueError; OSError: the port is taken.
    """

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
        clock: Clock = time.time,
        purge_after: float | None = None,
    ) -> None:
        super().__init__(host, user, password, bucket)
        service = Service(
            host=host, user=user, password=password, bucket=bucket, nodes=nodes, replicas=replicas,
            scopes=scopes or {}, seed=seed, clock=clock, purge_after=purge_after,
        )  # fmt: skip
        self._server = Host(service, port)
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(self._server.failed)
        self._thread = threading.Thread(target=self._loop.run_forever, name="couchbase test double", daemon=True)
        self._thread.start()
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    def ask(self, command: str, /, **arguments: Any) -> Any:
        if self._loop.is_closed():
            raise ValueError("the server was closed")
        return self._run(self._server.command(command, arguments))

    def close(self) -> None:
        """For good.  Raises RuntimeError if the test double itself has failed: a test may have passed by that."""
        if self._loop.is_closed():
            return
        try:
            self._run(self._server.stop())
            self._run(_end_tasks())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(PATIENCE)
            self._loop.close()
        if failures := self._server.failures:
            raise RuntimeError(f"the test double itself failed {len(failures)} times") from failures[0]

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)


async def _end_tasks() -> None:
    """Connections of the management end by themselves once they are aborted."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    if tasks:
        await asyncio.wait(tasks, timeout=PATIENCE)
