"""The nodes of a service on their ports, and the commands one can give them from outside.

A command and what it gives are plain JSON, so that it can come from another thread or from another process.

Must not be in here: threads, the protocol.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from casops.testing.couchbase_server.connection import Connection
from casops.testing.couchbase_server.faults import Fault
from casops.testing.couchbase_server.management import Management
from casops.testing.couchbase_server.service import Replicas, Service
from casops.testing.couchbase_server.wirelog import Steps

# Seconds without a request that end a step: above 0.001 or nothing belongs together, below 10 or tests seem to hang.
SHORTEST_QUIET, LONGEST_QUIET = 0.001, 10.0


class Host:
    """Not thread-safe: everything happens on one loop."""

    def __init__(self, service: Service, first_port: int) -> None:
        self._service = service
        self._first_port = first_port
        self._listeners: list[asyncio.Server] = []
        self._connections: set[Connection] = set()
        self._management = Management(service)
        self._faults: list[Fault] = []
        # Errors of the test double itself.
        self.failures: list[BaseException] = []
        self._commands: dict[str, Callable[..., Any]] = {
            "ports": lambda: self._service.topology.ports,
            "management_port": lambda: self._service.topology.management_port,
            "live_keys": service.live_keys,
            "add_scope": service.collections.add_scope,
            "add_collection": self._add_collection,
            "add_fault": self._add_fault,
            "fault_hits": self._fault_hits,
            "remove_fault": self._remove_fault,
            "clear_faults": service.rules.clear,
            "set_traffic": self._set_traffic,
            "set_replicas": self._set_replicas,
            "counters": lambda: {name: vars(counter) for name, counter in service.log.counters().items()},
            "log": lambda: [list(seen) for seen in service.log.last()],
            "clear_log": service.log.clear,
            "begin_steps": self._begin_steps,
            "steps": self._read_steps,
            "end_steps": self._end_steps,
        }

    def failed(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A handler for what nobody else handles on the loop: whoever ends the server tells of it."""
        error = context.get("exception")
        self.failures.append(error if error is not None else RuntimeError(context.get("message")))

    async def command(self, name: str, arguments: dict[str, Any]) -> Any:
        """Raises ValueError, KeyError, TypeError, OSError: what is wrong with it."""
        if name == "start":
            return await self.start(**arguments)
        if name == "stop":
            return await self.stop(**arguments)
        if name not in self._commands:
            raise ValueError(f"no command is called {name!r}")
        return self._commands[name](**arguments)

    # ---- life

    async def start(self, lose: int = 0) -> int:
        """Listen, on the ports of before if there are any; gives how many writes were lost."""
        if lose < 0:
            raise ValueError(f"lose is the number of writes to lose; not {lose}")
        if self._listeners:
            raise ValueError("the server is running; stop it first")
        service = self._service
        service.running = True
        lost = service.documents.lose(lose)
        topology = service.topology
        wanted = topology.ports or [self._first_port and self._first_port + index for index in range(topology.nodes)]
        loop = asyncio.get_running_loop()
        try:
            for node, port in enumerate(wanted):
                self._listeners.append(await loop.create_server(self._protocol(node), topology.host, port))
            self._listeners.append(await self._management.listen(topology.management_port))
        except BaseException:
            await self.stop()
            raise
        *nodes, management = [int(listener.sockets[0].getsockname()[1]) for listener in self._listeners]
        topology.ports, topology.management_port = nodes, management
        topology.changed()
        return lost

    def _protocol(self, node: int) -> Callable[[], Connection]:
        return lambda: Connection(self._service, node, self._connections)

    async def stop(self) -> None:
        """Reset all connections and listen no more; documents stay."""
        self._service.running = False
        for listener in self._listeners:
            await _close(listener)
        self._service.forget_hanging()
        self._end_steps()
        for connection in list(self._connections):
            connection.abort()
        self._management.abort()
        self._listeners.clear()
        while self._connections:
            await asyncio.sleep(0)

    # ---- commands

    def _add_collection(self, scope: str, name: str) -> None:
        if scope not in self._service.collections.scopes():
            self._service.collections.add_scope(scope)
        self._service.collections.add_collection(scope, name)

    def _add_fault(self, **fault: Any) -> int:
        self._faults.append(Fault(**fault))
        self._service.rules.add(self._faults[-1])
        return len(self._faults) - 1

    def _fault_hits(self, number: int) -> int:
        return self._faults[number].hits

    def _remove_fault(self, number: int) -> None:
        self._service.rules.remove(self._faults[number])

    def _set_replicas(self, state: str) -> None:
        self._service.set_replicas(Replicas(state))

    def _set_traffic(self, on: bool) -> None:
        self._service.traffic = on

    def _begin_steps(self, quiet: float) -> None:
        if not SHORTEST_QUIET <= quiet <= LONGEST_QUIET:
            raise ValueError(f"quiet is {SHORTEST_QUIET} to {LONGEST_QUIET} seconds; not {quiet}")
        if self._service.steps is not None:
            raise ValueError("steps are being counted already")
        self._service.steps = Steps(quiet)

    def _read_steps(self) -> list[Any]:
        steps = self._service.steps
        if steps is None:
            raise ValueError("steps are not being counted")
        return [steps.ended, [[list(seen) for seen in step] for step in steps.requests]]

    def _end_steps(self) -> None:
        steps, self._service.steps = self._service.steps, None
        if steps is not None:
            steps.release()


async def _close(listener: asyncio.Server) -> None:
    """A connection that is being accepted while its server closes would stay open for ever: let it arrive first."""
    loop = asyncio.get_running_loop()
    for sock in listener.sockets:
        loop.remove_reader(sock.fileno())
    for _ in range(3):  # accepted -> task -> transport -> connection_made
        await asyncio.sleep(0)
    listener.close()
