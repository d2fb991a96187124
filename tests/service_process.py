"""A real server in a process of its own, for tests: started, asked, killed, started again at the same port.

Must not be in here: tests.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

ROOT = Path(__file__).parent.parent

# Seconds until something that hangs is given up; nothing is asserted about how long it takes.
PATIENCE = 120.0

# Short, so that tests of dead servers do not wait long.
OPTIONS: dict[str, Any] = {"patience": 0.05, "poll": 0.001, "grace": 0.2, "deadline": 5.0}
SERVICE: dict[str, Any] = {"answer_within": 3.0, "sweep_every": 0, "forget_after": 0}


def free_port() -> int:
    with socket.socket() as each:
        each.bind(("127.0.0.1", 0))
        port: int = each.getsockname()[1]
        return port


class Server:
    """`tests.service_app` under uvicorn.  `options`, `service`: what differs from the above."""

    def __init__(
        self,
        store: str,
        folder: Path,
        *,
        options: dict[str, Any] | None = None,
        service: dict[str, Any] | None = None,
        die: str | None = None,
        port: int | None = None,
        served: Sequence[str] | None = None,
    ) -> None:
        self.store = store
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / f"server-{self.port}.log"
        self.environment = {
            **os.environ,
            "CASOPS_TEST_STORE": store,
            "CASOPS_TEST_SERVED": json.dumps(served),
            "CASOPS_TEST_GATE": str(folder),
            "CASOPS_TEST_OPTIONS": json.dumps({**OPTIONS, **(options or {})}),
            "CASOPS_TEST_SERVICE": json.dumps({**SERVICE, **(service or {})}),
        }
        if die is not None:
            self.environment["CASOPS_TEST_DIE"] = die
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Start it, and wait until it takes requests."""
        command = [sys.executable, "-m", "casops.service", "tests.service_app:app", "--port", str(self.port)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, cwd=ROOT, env=self.environment, stdout=log, stderr=log)
        ends = time.monotonic() + PATIENCE
        while True:
            if self._process.poll() is not None or time.monotonic() > ends:
                self.kill()
                raise AssertionError(f"the server did not start:\n{self.log.read_text()}")
            try:
                if httpx.get(f"{self.url}/health").status_code == 204:
                    return self
            except httpx.TransportError:
                time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE)

    def terminate(self) -> None:
        """SIGTERM: it finishes what is in flight.  Does not wait."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """Wait for its end and give the exit status (negative: the signal)."""
        assert self._process is not None
        return self._process.wait(PATIENCE)

    def restart(self, *, die: str | None = None) -> Self:
        """Once more at the same port and store, this time without a moment to die at, or with another."""
        self.environment.pop("CASOPS_TEST_DIE", None)
        if die is not None:
            self.environment["CASOPS_TEST_DIE"] = die
        return self.start()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
