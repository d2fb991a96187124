"""The test double in a process of its own: `python -m casops.testing couchbase`.

It prints one line, its URL, followed by the port of its control channel if one was asked for:

    couchbase://casops:password@127.0.0.1:40123/default control=40124

and runs until it gets SIGINT or SIGTERM, or (`--until-eof`) until its standard input ends.

Must not be in here: the protocol.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from urllib.parse import quote

from casops.testing.couchbase_server.control import Control
from casops.testing.couchbase_server.host import Host
from casops.testing.couchbase_server.service import Service


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="of the first node, others follow (default: any)")
    parser.add_argument("--nodes", type=int, default=1, help="1 to 3 (default 1)")
    parser.add_argument("--replicas", type=int, default=0, help="0 to 3 (default 0)")
    parser.add_argument("--user", default="casops")
    parser.add_argument("--password", default="password")
    parser.add_argument("--bucket", default="default")
    parser.add_argument("--collection", action="append", default=[], metavar="SCOPE.COLLECTION", help="repeatable")
    parser.add_argument("--seed", type=int, default=0, help="of faults with a probability (default 0)")
    parser.add_argument("--control", type=int, metavar="PORT", help="a control channel there (0: any port)")
    parser.add_argument("--until-eof", action="store_true", help="end when standard input does")


def scopes_of(paths: Sequence[str]) -> dict[str, list[str]]:
    """Raises ValueError."""
    scopes: dict[str, list[str]] = {}
    for path in paths:
        scope, dot, name = path.partition(".")
        if not dot:
            raise ValueError(f"not scope.collection: {path!r}")
        scopes.setdefault(scope, []).append(name)
    return scopes


def run(asked: argparse.Namespace, say: Callable[[str], None]) -> int:
    """0: ended as asked; 1: the test double itself has failed; 2: could not start."""
    try:
        failures = asyncio.run(_run(asked, say))
    except (ValueError, OSError) as error:
        sys.stderr.write(f"cannot start: {error}\n")
        return 2
    if failures:
        sys.stderr.write(f"the test double itself failed {len(failures)} times, first:\n")
        traceback.print_exception(failures[0])
    return 1 if failures else 0


async def _run(asked: argparse.Namespace, say: Callable[[str], None]) -> list[BaseException]:
    service = Service(
        host=asked.host, user=asked.user, password=asked.password, bucket=asked.bucket, nodes=asked.nodes,
        replicas=asked.replicas, scopes=scopes_of(asked.collection), seed=asked.seed,
    )  # fmt: skip
    host = Host(service, asked.port)
    await host.start()
    end = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(host.failed)
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end.set)
    if asked.until_eof:
        loop.add_reader(0, lambda: end.set() if os.read(0, 4096) == b"" else None)
    line = _url(asked, service.topology.ports)
    control = Control(host)
    async with contextlib.AsyncExitStack() as stack:
        if asked.control is not None:
            listener = await stack.enter_async_context(await control.listen(asked.control))
            line += f" control={listener.sockets[0].getsockname()[1]}"
        say(line)
        await end.wait()
        control.abort()
    await host.stop()
    return host.failures


def _url(asked: argparse.Namespace, ports: Sequence[int]) -> str:
    user, password, bucket = (quote(each, safe="") for each in (asked.user, asked.password, asked.bucket))
    hosts = ",".join(f"{asked.host}:{port}" for port in ports)
    return f"couchbase://{user}:{password}@{hosts}/{bucket}"
