"""The command line: an application of casops.service under uvicorn.

Must not be in here: what is served.
"""

from __future__ import annotations

import argparse
import asyncio
import inspect
import sys
from collections.abc import Sequence
from typing import cast

import uvicorn
from uvicorn.importer import ImportFromStringError, import_from_string
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from casops.errors import CasOpsError

# Bytes of a request's head that uvicorn reads before it gives up on it.  Above the bound of ServiceOptions, whose
# answer is a problem document.
HEAD_BYTES = 65_536

# Connections at one time; more are answered with 503.  Twice the requests that the service takes by default, since a
# client keeps connections that it does not use.
CONNECTIONS = 2_048

# Seconds until the head of a request has come; a client that is at work takes none.
HEAD_SECONDS = 10.0

# Seconds that uvicorn waits for answers under way before it cancels what is left: longer than any request waits
# (ServiceOptions.answer_within), so that nobody is cut off.  The service then finishes what works in the background.
SHUTDOWN = 15


class Prompt(H11Protocol):
    """Lets go of whoever asks for nothing, or for half of something; some thousand would keep all others out."""

    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Wait for the rest of a head, or no more.  (For how long there may be nothing between two is uvicorn's.)"""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._stop()
        super().connection_lost(exc)

    def _watch(self) -> None:
        cycle = cast("RequestResponseCycle | None", self.cycle)  # None, until a request has come
        if cycle is not None and not cycle.response_complete:
            self._stop()
        elif self._patience is None:
            self._patience = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _stop(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
        self._patience = None


def serve(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or Ctrl-C, then finish what is in flight.

    Gives the exit status: 1 could not serve, 2 wrong use, 130 Ctrl-C.  SIGTERM ends the process, when all is done.
    """
    arguments = _parser().parse_args(argv)
    if arguments.app_dir:
        sys.path.insert(0, arguments.app_dir)
    if arguments.app.startswith("."):
        sys.stderr.write(f"error: {arguments.app} is no MODULE:APP; where MODULE lies is told with --app-dir\n")
        return 2
    try:
        application = import_from_string(arguments.app)
    except ImportFromStringError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except CasOpsError as error:  # it opens its store while it is imported
        sys.stderr.write(f"error: {arguments.app}: {error}\n")
        return 2
    if not _takes_requests(application):
        sys.stderr.write(f"error: {arguments.app} is no application, such as create_app(…) gives\n")
        return 2
    config = uvicorn.Config(
        application,
        host=arguments.host,
        port=arguments.port,
        http=Prompt,  # on h11, which bounds the head of a request
        h11_max_incomplete_event_size=HEAD_BYTES,
        ws="none",
        lifespan="on",
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=SHUTDOWN,
        log_level=arguments.log_level,
        server_header=False,
    )
    server = uvicorn.Server(config)
    try:
        server.run()
    except KeyboardInterrupt:
        return 130
    except SystemExit:  # uvicorn has said why; it numbers its failures now and then anew
        return 1
    return 0 if server.started else 1


def _takes_requests(application: object) -> bool:
    """Whether it can be called as ASGI 3 applications are."""
    if not callable(application):
        return False
    try:
        inspect.signature(application).bind("scope", "receive", "send")
    except (TypeError, ValueError):  # ValueError: it is written in C and has no signature
        return False
    return True


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="casops serve", description="Serve operations over HTTP.  SIGTERM and Ctrl-C finish what is in flight."
    )
    parser.add_argument("app", metavar="MODULE:APP", help="for example bank:app, with app = create_app(…) in bank.py")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (127.0.0.1)")
    parser.add_argument("--port", type=_port, default=8000, help="port to listen at; 0: any free one (8000)")
    parser.add_argument("--app-dir", default=".", metavar="FOLDER", help="where MODULE is looked for first (.)")
    parser.add_argument("--log-level", default="info", choices=["critical", "error", "warning", "info", "debug"])
    return parser


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"a number between 0 and 65535 is needed, not {text!r}")
    return int(text)
