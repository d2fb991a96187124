"""One request for an operation, from its headers and body to its answer.

Must not be in here: paths, OpenAPI.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from casops import wire
from casops.business import OperationWork
from casops.errors import CasOpsError, OutcomeUnknown, UsageError
from casops.front import CasOps
from casops.ids import check_id
from casops.operations import Operation
from casops.outcome import Outcome, Pending
from casops.service import replies
from casops.service.bodies import parse
from casops.service.duties import Duties
from casops.service.in_flight import InFlight, InProgress, TooMany
from casops.service.options import ServiceOptions
from casops.service.problems import Problem, of_business, of_error

log = logging.getLogger("casops.service")


class Service:
    """What the routes of one router share."""

    def __init__(self, casops: CasOps, models: Iterable[type[Operation[Any]]], options: ServiceOptions) -> None:
        self.casops = casops
        self.options = options
        self.models = tuple(dict.fromkeys(models))
        self.in_flight = InFlight(threads=options.threads, operations=options.in_flight, requests=options.requests)
        self.duties = Duties(casops, self.in_flight, options)
        self.closing = False

    async def ask(self, model: type[Operation[Any]], request: Request) -> Response:
        """Make the operation happen, or hear how it went.  Raises Problem."""
        operation_id = _operation_id(request)
        self._acknowledge(request)
        self.duties.asked(operation_id)
        if request.headers.get(wire.RETRY, "0").strip("0"):
            log.info("operation %s is asked for again: retry %s", operation_id, request.headers[wire.RETRY])
        try:
            operation = parse(model, await request.body(), operation_id)
        except Problem as problem:
            raise await self._if_unheard_of(problem, operation_id) from None
        try:
            try:
                work = OperationWork(operation, operation_id)
                work.check_arguments()
            except UsageError as error:  # its arguments do not come back from JSON as what they are
                raise await self._if_unheard_of(of_error(error), operation_id) from None
            outcome, joined = await self._answer(operation, operation_id, work.fingerprint)
            return replies.answer(outcome, replayed=joined or outcome.replayed)
        except CasOpsError as error:
            error.operation_id = operation_id
            raise of_error(error) from None
        except Problem:
            raise
        except Exception:  # noqa: BLE001 - business code may raise anything; the operator has it in the log
            raise of_business(operation_id) from None

    async def refuse(self, problem: Problem, request: Request) -> Problem:
        """What is to be said of a request that is for no operation of this server, but may name an id all the same."""
        try:
            return await self._if_unheard_of(problem, _operation_id(request))
        except Problem:
            return problem

    async def _if_unheard_of(self, problem: Problem, operation_id: str) -> Problem:
        """What this server does not take may be an operation which it is at, or another version of it has taken."""
        at_it = operation_id in self.in_flight.ids()  # before it is looked at: it may end meanwhile
        try:
            heard = await self._look(operation_id)
        except (TooMany, InProgress, CasOpsError):
            problem.of_unknown("whether an earlier request did could not be looked up")
        else:
            if heard is not None or at_it:
                problem.of_unknown("an earlier request with this key was taken: look at what became of it")
        return problem

    async def _answer(self, operation: Operation[Any], operation_id: str, fingerprint: str) -> tuple[Any, bool]:
        if self.closing:
            raise _too_busy("this server is shutting down", operation_id)
        try:
            return await self.in_flight.ask(
                operation_id,
                fingerprint,
                partial(self._execute, operation, operation_id, time.monotonic()),
                self.options.answer_within,
            )
        except TooMany as error:
            raise _too_busy(error, operation_id) from None
        except InProgress:
            why = f"no answer within {self.options.answer_within:g} s; the work goes on: ask again with the same key"
            raise Problem("in-progress", why, operation_id=operation_id, happened="unknown", retry=True) from None

    async def _look(self, operation_id: str) -> Outcome[Any] | Pending | None:
        """Raises TooMany, InProgress, CasOpsError."""
        return await self.in_flight.look(lambda: self.casops.outcome(operation_id), self.options.answer_within)

    def _execute(self, operation: Operation[Any], operation_id: str, asked: float) -> Outcome[Any]:
        """In a thread.  What begins after its deadline might run again what was finished elsewhere and forgotten."""
        if time.monotonic() - asked >= self.casops.options.deadline:
            why = "it waited for a thread until its time was over, and was not begun; ask again with the same id"
            raise OutcomeUnknown(why, operation_id=operation_id)
        return self.casops.execute(operation, operation_id=operation_id)

    async def tell(self, operation_id: str) -> Response:
        """How an operation ended, or that it is pending.  Raises Problem."""
        try:
            check_id(operation_id)
        except UsageError as error:
            raise Problem("key-invalid", error.message) from None
        try:
            found = await self._look(operation_id)
        except TooMany as error:
            raise _too_busy(error, operation_id) from None
        except InProgress:
            why = f"no answer within {self.options.answer_within:g} s; nothing was changed: ask again"
            raise Problem("store-unavailable", why, operation_id=operation_id, happened="unknown", retry=True) from None
        except CasOpsError as error:
            error.operation_id = operation_id
            raise of_error(error) from None
        if found is None:
            if operation_id in self.in_flight.ids():  # on a file nothing is known of it before it has happened
                why = "it is being worked on here: look again, or ask again with the same key"
                raise Problem("in-progress", why, operation_id=operation_id, happened="unknown", retry=True)
            why = (
                "nothing is known of it: nobody has asked for it, it was forgotten, or a request is under way elsewhere"
            )
            raise Problem("outcome-unheard", why, operation_id=operation_id, happened="unknown")
        return replies.tell(found)

    def _acknowledge(self, request: Request) -> None:
        text = ", ".join(request.headers.getlist(wire.ACKNOWLEDGE))
        try:
            self.duties.acknowledged(wire.decode_ids(text))
        except UsageError as error:
            problem = Problem("header-invalid", f"{wire.ACKNOWLEDGE}: {error.message}")
            problem.of_unseen()
            raise problem from None


def _too_busy(why: object, operation_id: str) -> Problem:
    problem = Problem("too-busy", f"{why}; ask again", operation_id=operation_id, retry=True)
    problem.of_unseen()
    return problem


def _operation_id(request: Request) -> str:
    given = request.headers.getlist(wire.IDEMPOTENCY_KEY)
    if not given:
        why = f"send the operation id, a new one for each operation, as {wire.IDEMPOTENCY_KEY}"
        raise Problem("key-missing", why)
    if len(given) > 1:
        raise Problem("key-invalid", f"{wire.IDEMPOTENCY_KEY} is there {len(given)} times")
    try:
        return wire.decode_id(given[0])
    except UsageError as error:
        raise Problem("key-invalid", error.message) from None


def log_left(operation_ids: Iterable[str]) -> None:
    """At the end of a shutdown: what was still being worked on."""
    for operation_id in sorted(operation_ids):
        log.warning("operation %s is left unfinished by the shutdown; another server takes it over", operation_id)
