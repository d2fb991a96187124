"""Faults to be had on request: which requests they meet, how often, and what happens to those.

    drop_request            never seen by the documents, never answered
    drop_reply              applied, never answered
    delay_request           applied and answered after `delay` seconds
    delay_reply             applied at once, answered after `delay` seconds
    temporary_failure       not applied; the answer says so, and clients try again until their time is up
    locked                  not applied; as temporary_failure
    sync_write_in_progress  not applied; as temporary_failure
    ambiguous               applied; the answer says that it may not have been
    ambiguous_lost          not applied; the answer says that it may have been
    reset_before            the connection is reset, nothing applied
    reset_after             applied, then the connection is reset

Must not be in here: sockets, documents.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase

from casops.testing.couchbase_server.wire import DOCUMENT_OPCODES, Opcode


class Does(StrEnum):
    DROP_REQUEST = "drop_request"
    DROP_REPLY = "drop_reply"
    DELAY_REQUEST = "delay_request"
    DELAY_REPLY = "delay_reply"
    TEMPORARY_FAILURE = "temporary_failure"
    LOCKED = "locked"
    SYNC_WRITE_IN_PROGRESS = "sync_write_in_progress"
    AMBIGUOUS = "ambiguous"
    AMBIGUOUS_LOST = "ambiguous_lost"
    RESET_BEFORE = "reset_before"
    RESET_AFTER = "reset_after"


# Seconds; a test that waits longer than this for a delayed request has made a mistake.
LONGEST_DELAY = 3600.0


@dataclass
class Fault:
    """One rule.

    `opcode`: a name of `Opcode`, or a pattern of them like "SUBDOC_*"; "*" is every request for a document (others,
    like "SELECT_BUCKET", must be named).  `key`: a pattern as in `fnmatch`, for the key without its collection.
    `skip`: so many matching requests pass first.  `count`: so many are met then, None: all.
    `probability`: with which each of them is met, from the server's seed.  `delay`: seconds.
    """

    does: Does
    opcode: str = "*"
    key: str = "*"
    count: int | None = 1
    probability: float = 1.0
    delay: float = 0.1
    skip: int = 0
    # How many requests it has met.
    hits: int = field(default=0, compare=False)

    def __post_init__(self) -> None:
        self.does = Does(self.does)
        if not any(fnmatchcase(opcode.name, self.opcode) for opcode in Opcode):
            raise ValueError(f"no opcode is called {self.opcode!r}; there are {', '.join(o.name for o in Opcode)}")
        if self.count is not None and self.count < 1:
            raise ValueError(f"count is a number from 1, or None for all; not {self.count}")
        if self.skip < 0:
            raise ValueError(f"skip cannot be negative: {self.skip}")
        if not 0.0 < self.probability <= 1.0:
            raise ValueError(f"probability is more than 0 and at most 1; not {self.probability}")
        if not 0.0 <= self.delay <= LONGEST_DELAY:
            raise ValueError(f"delay is 0 to {LONGEST_DELAY:.0f} seconds; not {self.delay}")

    def matches(self, opcode: int, name: str, key: str) -> bool:
        if self.opcode == "*":
            return opcode in DOCUMENT_OPCODES and fnmatchcase(key, self.key)
        return fnmatchcase(name, self.opcode) and fnmatchcase(key, self.key)


class Rules:
    """The faults in force.  Not thread-safe: asked and changed on the server's loop."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._faults: list[Fault] = []

    def __bool__(self) -> bool:
        return bool(self._faults)

    def add(self, fault: Fault) -> None:
        self._faults.append(fault)

    def remove(self, fault: Fault) -> None:
        self._faults = [each for each in self._faults if each is not fault]

    def clear(self) -> None:
        self._faults = []

    def meet(self, opcode: int, key: bytes) -> Fault | None:
        """The first fault that this request is to suffer."""
        text = key.decode(errors="replace")
        try:
            name = Opcode(opcode).name
        except ValueError:
            return None
        for fault in self._faults:
            if not fault.matches(opcode, name, text):
                continue
            if fault.skip:
                fault.skip -= 1
                continue
            if fault.probability < 1.0 and self._random.random() >= fault.probability:
                continue
            fault.hits += 1
            if fault.count is not None and fault.hits >= fault.count:
                self.remove(fault)
            return fault
        return None
