"""The data service behind all connections: documents, collections, nodes, and what is wrong with it at the moment.

Must not be in here: frames on sockets, threads.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Final, NamedTuple

from casops.testing.couchbase_server import lookups, mutations, whole
from casops.testing.couchbase_server.answers import Answer, Write
from casops.testing.couchbase_server.documents import Clock, Documents, Key, Version
from casops.testing.couchbase_server.faults import Rules
from casops.testing.couchbase_server.topology import VBUCKETS, Collections, Topology
from casops.testing.couchbase_server.wire import U64, Opcode, Request, Status
from casops.testing.couchbase_server.wirelog import Steps, WireLog

HANDLERS: Final[Mapping[int, whole.Handler]] = {
    **whole.HANDLERS,
    Opcode.SUBDOC_MULTI_LOOKUP: lookups.lookup,
    Opcode.SUBDOC_MULTI_MUTATION: mutations.mutate,
}

# Writes of values: refused while the service takes none.
VALUE_WRITES: Final = frozenset(
    {
        Opcode.SET,
        Opcode.ADD,
        Opcode.REPLACE,
        Opcode.APPEND,
        Opcode.PREPEND,
        Opcode.INCREMENT,
        Opcode.DECREMENT,
        Opcode.SUBDOC_MULTI_MUTATION,
    }
)

# Milliseconds a durable write may wait for its replicas when the client names no time: the real default.
DURABLE_WAIT = 30_000

LONGEST_KEY, LONGEST_KEY_OF_DEFAULT = 246, 250

Respond = Callable[[Answer], None]


class Replicas(StrEnum):
    ANSWER = "answer"
    SILENT = "silent"
    MISSING = "missing"


class Hanging(NamedTuple):
    """A durable write that waits for a replica."""

    write: Write
    respond: Respond
    timer: asyncio.TimerHandle


class Service:
    """Shared by the nodes.  Not thread-safe: everything happens on one loop."""

    def __init__(
        self, *, host: str, user: str, password: str, bucket: str, nodes: int, replicas: int,
        scopes: Mapping[str, Sequence[str]], seed: int, clock: Clock = time.time,
        purge_after: float | None = None,
    ) -> None:  # fmt: skip
        self.user, self.password = user, password
        self.documents = Documents(VBUCKETS, clock, purge_after)
        self.collections = Collections(scopes)
        self.topology = Topology(host, bucket, nodes, replicas)
        self.rules = Rules(seed)
        self.log = WireLog()
        self.steps: Steps | None = None
        # The nodes listen; a connection that was accepted just before they stopped is none.
        self.running = False
        # Values are accepted.
        self.traffic = True
        # Replicas acknowledge durable writes; are silent, so these hang; are missing, so these are impossible.
        self.replicas = Replicas.ANSWER
        self._hanging: dict[Key, Hanging] = {}

    def live_keys(self) -> list[str]:
        """Of all live documents: `scope.collection/key`."""
        paths = self.collections.paths()
        return sorted(f"{paths[number]}/{key.decode(errors='replace')}" for number, key in self.documents.live_keys())

    def refusal(self, key: Key) -> Answer | None:
        """Why a request for this key cannot be right, whatever it asks for."""
        collection, name = key
        if collection not in self.collections.ids:
            manifest = b'{"manifest_uid":"%x"}' % self.collections.uid
            return Answer(Status.UNKNOWN_COLLECTION, value=manifest)
        if not 0 < len(name) <= (LONGEST_KEY if collection else LONGEST_KEY_OF_DEFAULT):
            return whole.INVALID
        return None

    def perform(self, key: Key, request: Request, respond: Respond) -> Answer | None:
        """The answer; None if `respond` gets it later."""
        if not self.traffic and request.opcode in VALUE_WRITES:
            return Answer(Status.TEMPORARY_FAILURE)
        durability = request.durability
        if durability is not None:
            if not 1 <= durability.level <= 3:
                return Answer(Status.DURABILITY_INVALID_LEVEL)
            if self.replicas is Replicas.MISSING or not self.topology.majority_possible:
                return Answer(Status.DURABILITY_IMPOSSIBLE)
        outcome = HANDLERS[request.opcode](self.documents, key, request)
        if isinstance(outcome, Answer):
            return outcome
        if durability is not None and self.replicas is Replicas.SILENT:
            self._hang(key, outcome, durability.timeout or DURABLE_WAIT, respond)
            return None
        return self._applied(key, outcome, durability is not None)

    def _applied(self, key: Key, write: Write, durable: bool) -> Answer:
        version = self.documents.store(key, write.version, durable)
        return Answer(write.status, version.cas, self.token(version), write.value)

    def token(self, version: Version) -> bytes:
        return U64.pack(self.documents.history) + U64.pack(version.seqno)

    # ---- durable writes without an acknowledgement

    def _hang(self, key: Key, write: Write, milliseconds: int, respond: Respond) -> None:
        def give_up() -> None:
            self._let_go(key)
            respond(Answer(Status.SYNC_WRITE_AMBIGUOUS))

        timer = asyncio.get_running_loop().call_later(milliseconds / 1000, give_up)
        self._hanging[key] = Hanging(write, respond, timer)
        self.documents.hanging.add(key)

    def _let_go(self, key: Key) -> Hanging:
        self.documents.hanging.discard(key)
        hanging = self._hanging.pop(key)
        hanging.timer.cancel()
        return hanging

    def set_replicas(self, replicas: Replicas) -> None:
        """From now on.  Writes that have waited for replicas which answer now are acknowledged."""
        self.replicas = replicas
        while replicas is Replicas.ANSWER and self._hanging:
            key = next(iter(self._hanging))
            write, respond, _ = self._let_go(key)
            respond(self._applied(key, write, durable=True))

    def forget_hanging(self) -> None:
        """The service stops: what was not acknowledged is gone."""
        while self._hanging:
            self._let_go(next(iter(self._hanging)))
