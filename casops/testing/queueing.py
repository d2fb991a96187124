"""Turns in a simulated world: some wait, and a memory of what documents once were.

Who waits for a turn is told how others have left the documents.  In one process that is nearly always what they
still are; here it is whatever they were at some time, so that a worker who believes it without its CAS is found out.

Must not be in here: workers, rules.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping

from casops.messages import RESERVED, Key, Reply, Turn, Version

# Versions remembered of each document: some of them old.
REMEMBERED = 8


class Queueing:
    """What one world's turns are like.  `seed`: with dice of its own, so that other worlds stay what they were."""

    def __init__(self, seed: int, latency: float) -> None:
        self._random = random.Random(f"turns of {seed}")
        self._latency = latency
        self._seen: defaultdict[Key, list[Version]] = defaultdict(list)

    def saw(self, key: Key, reply: Reply) -> None:
        """Somebody has read this."""
        if not isinstance(reply, Version) or key.collection.startswith(RESERVED):
            return
        if reply.stage is None and reply.body is not None and reply.expires is None:
            self._seen[key] = [*self._seen[key][1 - REMEMBERED :], reply]

    def wait(self) -> float:
        """Seconds."""
        return self._latency * self._random.choice((0.0, 1.0, 10.0, 100.0))

    def known(self, turn: Turn) -> Mapping[Key, Version]:
        """What is told."""
        told = [key for key in sorted(turn.keys) if self._seen[key] and self._random.random() < 0.8]
        return {key: self._random.choice(self._seen[key][-self._random.choice((1, 1, REMEMBERED)) :]) for key in told}
