"""One command to a test double's control channel, for scripts that can only run a command line.

    python tests/tell_couchbase_server.py PORT traffic off|on
    python tests/tell_couchbase_server.py PORT topology '[["n_0"]]'

A topology names the nodes of one vbucket: a missing one (null) makes durable writes impossible, a second one stands
for a replica that never acknowledges.

Must not be in here: imports of casops; it would take longer to start than everything else.
"""

from __future__ import annotations

import json
import socket
import sys
from typing import Any


def command_for(action: str, value: str) -> dict[str, Any]:
    if action == "traffic":
        return {"command": "set_traffic", "arguments": {"on": {"on": True, "off": False}[value]}}
    if action == "topology":
        (nodes,) = json.loads(value)
        state = "answer" if len(nodes) == 1 else "missing" if None in nodes else "silent"
        return {"command": "set_replicas", "arguments": {"state": state}}
    raise SystemExit(f"no action is called {action!r}")


def main() -> None:
    port, action, value = sys.argv[1:]
    with socket.create_connection(("127.0.0.1", int(port)), 10) as channel:
        channel.sendall(json.dumps(command_for(action, value)).encode() + b"\n")
        reply: dict[str, Any] = json.loads(channel.makefile().readline())
    if "error" in reply:
        raise SystemExit(reply["error"])


if __name__ == "__main__":
    main()
