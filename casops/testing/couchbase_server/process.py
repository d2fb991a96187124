"""`CouchbaseProcess`: the test double in a process of its own, for tests that must not share the interpreter.

Must not be in here: what can be asked of it (face), how it answers (control).
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from casops.testing.couchbase_server.face import Face

# Seconds the process may take to start on a busy machine, to end, and to answer a command.
PATIENCE = 30.0


class CouchbaseProcess(Face):
    """As `CouchbaseServer`, in a process of its own, which ends with this one.

    Raises ValueError, OSError: it could not start; the message says why.
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
    ) -> None:
        super().__init__(host, user, password, bucket)
        self._channel: socket.socket | None = None
        words = [f"--nodes={nodes}", f"--replicas={replicas}", f"--user={user}", f"--password={password}"]
        words += [f"--bucket={bucket}", f"--host={host}", f"--port={port}", f"--seed={seed}"]
        words += [f"--collection={scope}.{name}" for scope, names in (scopes or {}).items() for name in names]
        command = [sys.executable, "-m", "casops.testing", "couchbase", "--control=0", "--until-eof", *words]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            self._connect()
        except BaseException:
            self.close()
            raise

    def _connect(self) -> None:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().decode()
        _, found, control = line.strip().rpartition(" control=")
        if not found:
            assert self._process.stderr is not None
            said = self._process.stderr.readline().decode(errors="replace").strip()
            raise ValueError(said or "the process of the test double ended at once")
        self._control_port = int(control)
        self._channel = socket.create_connection(("127.0.0.1", self._control_port), PATIENCE)
        self._replies = self._channel.makefile("rb")

    @property
    def control_port(self) -> int:
        """Of the control channel; several may use it at a time."""
        return self._control_port

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, command: str, /, **arguments: Any) -> Any:
        if self._channel is None:
            raise ValueError("the server was closed")
        try:
            self._channel.sendall(json.dumps({"command": command, "arguments": arguments}).encode() + b"\n")
            line = self._replies.readline()
        except ConnectionError:
            line = b""
        if not line:
            raise ValueError("the process of the test double is gone")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise ValueError(reply["error"])
        return reply["value"]

    def close(self) -> None:
        """For good.  Raises RuntimeError if the process did not end as it should."""
        if self._channel is not None:
            self._replies.close()
            self._channel.close()
            self._channel = None
        process = self._process
        with process:
            try:
                _, said = process.communicate(timeout=PATIENCE)  # the end of its input is what it waits for
            except subprocess.TimeoutExpired:
                process.kill()
                raise RuntimeError("the process of the test double did not end and was killed") from None
            except ValueError:
                return  # closed before
        if process.returncode not in (0, 2):
            text = said.decode(errors="replace")
            raise RuntimeError(f"the process of the test double ended with {process.returncode}\n{text}".strip())
