"""What a test can ask of a server, wherever that runs: faults, counters, steps, stopping and starting.

Must not be in here: how a command gets to the server.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Literal, Self
from urllib.parse import quote

from casops.testing.couchbase_server.wirelog import Counter, Seen

# Seconds: long enough for a client on a busy machine to send what belongs together; each step takes that long.
QUIET = 0.2

Kind = Literal[
    "drop_request",
    "drop_reply",
    "delay_request",
    "delay_reply",
    "temporary_failure",
    "locked",
    "sync_write_in_progress",
    "ambiguous",
    "ambiguous_lost",
    "reset_before",
    "reset_after",
]


class Face(ABC):
    """A test double of a Couchbase data service, which keeps its documents in memory."""

    def __init__(self, host: str, user: str, password: str, bucket: str) -> None:
        self._host, self.user, self.password, self.bucket = host, user, password, bucket
        self.faults = Faults(self)

    @abstractmethod
    def ask(self, command: str, /, **arguments: Any) -> Any:
        """Give it a command.  Raises ValueError: one it cannot follow."""

    @abstractmethod
    def close(self) -> None:
        """For good."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- addresses

    @property
    def ports(self) -> list[int]:
        """Of the data service, by node."""
        return list(self.ask("ports"))

    @property
    def management_port(self) -> int:
        """Over HTTP, for scopes and collections."""
        return int(self.ask("management_port"))

    @property
    def connection_string(self) -> str:
        """For the SDK."""
        return "couchbase://" + ",".join(f"{self._host}:{port}" for port in self.ports)

    @property
    def url(self) -> str:
        """For casops: with user, password and bucket."""
        hosts = self.connection_string.removeprefix("couchbase://")
        user, password, bucket = (quote(each, safe="") for each in (self.user, self.password, self.bucket))
        return f"couchbase://{user}:{password}@{hosts}/{bucket}"

    # ---- life

    def stop(self) -> None:
        """Reset all connections and listen no more.  Documents stay."""
        self.ask("stop")

    def start(self, *, lose: int = 0) -> int:
        """Listen again, on the same ports; gives how many writes are lost.

        `lose`: the last so many writes are taken back, as by a failover; but a durable write stays, with all that
        came before it on its document.
        """
        return int(self.ask("start", lose=lose))

    # ---- contents

    def add_collection(self, scope: str, name: str) -> None:
        """With its scope, if that is new."""
        self.ask("add_collection", scope=scope, name=name)

    @property
    def live_keys(self) -> list[str]:
        """Of all documents, `scope.collection/key`; tombstones are none."""
        return list(self.ask("live_keys"))

    # ---- states

    def set_traffic(self, on: bool) -> None:
        """Off: writes of values get a temporary failure; reads and removals go on."""
        self.ask("set_traffic", on=on)

    def set_replicas(self, state: Literal["answer", "silent", "missing"]) -> None:
        """Silent: durable writes hang until their time is up or replicas answer.  Missing: they are impossible."""
        self.ask("set_replicas", state=state)

    # ---- what came over the wire

    @property
    def counters(self) -> dict[str, Counter]:
        """By opcode, since the start or `clear_log`."""
        return {name: Counter(**counter) for name, counter in self.ask("counters").items()}

    @property
    def log(self) -> list[Seen]:
        """The last requests for documents, oldest first."""
        return [Seen(*seen) for seen in self.ask("log")]

    def clear_log(self) -> None:
        self.ask("clear_log")

    @contextmanager
    def steps(self, quiet: float = QUIET) -> Generator[StepCount]:
        """Count round trips that must come one after the other.

        Within, replies are held back until no request has come for `quiet` seconds.  What a client sends without
        waiting is therefore in one step, however many requests it is.
        """
        self.ask("begin_steps", quiet=quiet)
        try:
            yield (count := StepCount(self))
            count.settle()
        finally:
            self.ask("end_steps")


class StepCount:
    def __init__(self, face: Face) -> None:
        self._face = face
        self._final: tuple[int, list[list[Seen]]] | None = None

    def settle(self) -> None:
        self._final = self._read()

    def _read(self) -> tuple[int, list[list[Seen]]]:
        if self._final is not None:
            return self._final
        ended, steps = self._face.ask("steps")
        return int(ended), [[Seen(*seen) for seen in step] for step in steps]

    @property
    def count(self) -> int:
        """Steps whose replies were sent.  Ask right after the call: what runs on in the background counts, too."""
        return self._read()[0]

    @property
    def requests(self) -> list[list[Seen]]:
        """What came in each step; the last may not have been answered."""
        return self._read()[1]


class AddedFault:
    def __init__(self, face: Face, number: int) -> None:
        self._face, self._number = face, number

    @property
    def hits(self) -> int:
        """How many requests it has met."""
        return int(self._face.ask("fault_hits", number=self._number))

    def remove(self) -> None:
        self._face.ask("remove_fault", number=self._number)


class Faults:
    """Rules by which requests come to grief; see `casops.testing.couchbase_server.faults`."""

    def __init__(self, face: Face) -> None:
        self._face = face

    def add(
        self,
        does: Kind,
        *,
        opcode: str = "*",
        key: str = "*",
        count: int | None = 1,
        probability: float = 1.0,
        delay: float = 0.1,
        skip: int = 0,
    ) -> AddedFault:
        """One more rule, behind those there are; the first that fits a request is taken.

        `does`: what happens.  `opcode`: a name like "SUBDOC_MULTI_MUTATION", or a pattern; "*" is every request for a
        document.  `key`: a pattern like "account-*".  `skip`: so many requests that fit pass first.  `count`: so many
        are met then, None: all.  `probability`: with which each is met, decided by the server's seed.  `delay`:
        seconds, where it delays.  Raises ValueError.
        """
        number = self._face.ask(
            "add_fault", does=does, opcode=opcode, key=key, count=count, probability=probability, delay=delay, skip=skip
        )
        return AddedFault(self._face, number)

    def clear(self) -> None:
        self._face.ask("clear_faults")
