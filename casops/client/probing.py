"""Looking after a suspect server until it is back.

Must not be in here: I/O, clocks, randomness.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from casops.client.desk import Desk
from casops.client.messages import Fate, Healthy, Send, Steps, Wait
from casops.client.replies import read_health
from casops.client.servers import Server


@dataclass(eq=False)
class Health:
    """The concern of a probe."""

    listeners: list[Callable[[], None]] = field(default_factory=list[Callable[[], None]])
    kind: str = "(health)"
    method: str = "GET"
    path: str = "/health"
    body: str | None = None

    def read(self, status: int, headers: Mapping[str, str], body: bytes) -> Fate:
        return read_health(status)


def probing(desk: Desk, server: Server, health: Health, now: float) -> Steps[None]:
    """Ends when the server is not suspect any more, by a probe of ours or by an answer it gave."""
    pause = server.probe_pause()
    while True:
        now = yield Wait(now + pause, spread=pause / 2)
        if server.state != "suspect":
            return
        message = desk.message(health, server)
        now = yield Send(message)
        message.due = now + server.trips(health.kind).timeout()
        while message.fate is None and now < message.due:
            now = yield Wait(message.due)
        if message.fate is None:
            desk.counters.timeouts += 1
        elif isinstance(message.fate, Healthy):
            desk.probed(server)
        pause = min(pause * 2, desk.options.probe_at_most)
