"""`casops outcome URL ID` and `casops pending URL`: what people ask of a store, on the command line.

Only what writes nothing and does not depend on the options of an application (how long it remembers) or on its
operations: who cancels, or finishes what was left, does it in Python, with these.  Names are those of the documents
that servers tell (casops.service.replies), which may not tell what a function raised, nor who was at work.

Must not be in here: anything that changes a store.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from casops.errors import CasOpsError, UsageError
from casops.front import CasOps
from casops.outcome import Outcome, Pending
from casops.stores.opening import file_of

__all__ = ["COMMANDS", "look"]

COMMANDS = ("outcome", "pending")


def look(argv: Sequence[str]) -> int:
    """Print a line of JSON for each operation.  The exit status: 0 told, 1 could not be, 2 wrong use.

    Raises OSError where the output takes no more.
    """
    arguments = _parser().parse_args(argv)
    try:
        with _opened(arguments.url) as casops:
            told = [_outcome(casops, arguments.id)] if arguments.command == "outcome" else _pending(casops)
        for each in told:
            sys.stdout.write(json.dumps(each) + "\n")
    except CasOpsError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="casops", description="What became of operations.  Changes nothing; prints a line of JSON for each."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    outcome = commands.add_parser("outcome", help="did it happen, and with what result?")
    pending = commands.add_parser("pending", help="what was declared and has not ended, of all workers")
    for command in (outcome, pending):
        command.add_argument(
            "url", metavar="URL", help="such as sqlite:///bank.db, couchbase://user:password@host/bucket"
        )
    outcome.add_argument("id", metavar="ID", help="the id of the operation")
    return parser


def _opened(url: str) -> CasOps:
    """Raises UsageError where a store would be made that nobody has yet."""
    file = file_of(url)
    if url.startswith("memory:") or (file is not None and _missing(file)):
        raise UsageError(f"there is no store yet at {url}; nothing was made")
    return CasOps.open(url)


def _missing(file: str) -> bool:
    """Also where it is empty: opening it would make tables.  What may not be looked at may well be there."""
    try:
        return os.stat(file).st_size == 0
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):
        return False  # opening it says why


def _outcome(casops: CasOps, operation_id: str) -> dict[str, Any]:
    found = casops.outcome(operation_id)
    if found is None:
        # Not "it did not happen": somebody may ask for it yet, or have asked long ago.
        return {"operation_id": operation_id, "status": "unknown"}
    return _told_pending(found) if isinstance(found, Pending) else _told_outcome(found)


def _pending(casops: CasOps) -> list[dict[str, Any]]:
    return [_told_pending(each) for each in casops.pending()]


def _told_outcome(found: Outcome[Any]) -> dict[str, Any]:
    ended: dict[str, Any] = {"result": found.recorded} if found.status == "applied" else {}
    if found.refusal is not None:
        ended = {"refusal": {"code": found.refusal.code, "details": dict(found.refusal.details)}}
    return {
        "operation_id": found.operation_id,
        "status": found.status,
        **ended,
        "operation": found.operation,
        "attempts": found.attempts,
        "history": [asdict(event) for event in found.history],
    }


def _told_pending(found: Pending) -> dict[str, Any]:
    return {
        "operation_id": found.operation_id,
        "status": "pending",
        "state": found.state,
        "operation": found.operation,
        "since": found.since,
        "worker": found.worker,
        "failures": found.failures,
        "last_error": found.last_error,
        "parked": found.parked,
        "history": [asdict(event) for event in found.history],
    }
