"""One worker process: takes jobs from a pipe, asks casops, answers what came of it.

It may be killed at any moment.  What it had begun is finished by whoever asks for the same operation
id again; nothing has to be cleaned up.

Must not be in here: choosing what is asked for, counting, printing.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Literal, TypeVar

from pydantic_core import to_json

from casops import CasOps, CasOpsError, Operation, Outcome, OutcomeUnknown, StoreUnavailable
from examples.balance_transfer.model import open_bank

T = TypeVar("T")

# Asking again with the same id is always safe; this bounds how long a worker goes on with it.
TRIES = 2
PAUSE = 0.5


@dataclass(frozen=True, slots=True)
class Job:
    """One asking for one operation.  Several jobs may ask for the same one."""

    number: int
    operation_id: str
    operation: Operation[Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a job.

    `unfinished`: no end is known after several tries; ask again some day.  `impossible`: asking again
    will not help either.  `text`: the result or refusal as JSON, or why there is none.
    """

    status: Literal["applied", "declined", "cancelled", "unfinished", "impossible"]
    text: str
    replayed: bool = False
    taken_over: bool = False
    refusal: str | None = None
    """The code of the refusal."""
    stop: bool = False
    """It is no use to go on with other jobs now: the store is away."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The first message of a worker: the store is open."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The only message of a worker that could not open the store."""

    why: str


def work(connection: Connection[Any, Any], url: str) -> None:
    """The life of a worker; ends when the other end of the pipe is closed, or its owner is dead."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which tells us
    # "Settling is left to a sweep" is no news here: the import ends with one.
    logging.getLogger("casops").setLevel(logging.ERROR)
    try:
        casops = _patiently(lambda: open_bank(url))
    except CasOpsError as error:
        with suppress(OSError):  # another worker has told it, and nobody listens any more
            connection.send(Failed(str(error)))
        return
    with casops:
        try:
            connection.send(Ready())
            while True:
                job: Job = connection.recv()
                connection.send((job.number, ask(casops, job)))
        except (EOFError, OSError):
            return


def ask(casops: CasOps, job: Job) -> Answer:
    """Ask until there is an answer, a few times at most."""
    try:
        return answer(_patiently(lambda: casops.execute(job.operation, operation_id=job.operation_id)))
    except (StoreUnavailable, OutcomeUnknown) as error:
        return Answer("unfinished", error.message, stop=True)
    except CasOpsError as error:
        return Answer("unfinished" if error.retry else "impossible", error.message)
    except Exception as error:  # noqa: BLE001 - a fault in `apply`; the payment stays pending and the others go on
        return Answer("unfinished", f"{type(error).__name__}: {error}")


def _patiently(action: Callable[[], T]) -> T:
    """Try again what may succeed later, a few times; then raise what the last try raised."""
    tries = 1
    while True:
        try:
            return action()
        except CasOpsError as error:
            if not error.retry or tries == TRIES:
                raise
        tries += 1
        time.sleep(PAUSE)


def answer(outcome: Outcome[Any]) -> Answer:
    refusal = outcome.refusal
    content = [refusal.code, dict(refusal.details)] if refusal else outcome.value
    text = to_json(content).decode()
    return Answer(
        outcome.status,
        text,
        replayed=outcome.replayed,
        taken_over=outcome.taken_over,
        refusal=refusal.code if refusal else None,
    )
