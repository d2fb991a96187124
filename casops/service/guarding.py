"""What holds for every route: bounds on headers and body, echoed headers, problems as documents.

The body is read here, within its bound, and given to FastAPI as if it had just arrived.

Must not be in here: what a route does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from contextlib import suppress
from math import ceil
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Receive

from casops import wire
from casops.errors import UsageError
from casops.service.bodies import check_headers, check_json, read_body
from casops.service.options import ServiceOptions
from casops.service.problems import Problem

# What is echoed goes back as it came, so it is kept short and plain.
ECHOED = re.compile(r"[!-~]{1,200}")
NUMBER = re.compile(r"[0-9]{1,9}")


def guarded_route(options: ServiceOptions, retention: float) -> type[APIRoute]:
    """The class of this router's routes.  `retention`: seconds, published with every answer."""

    class GuardedRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            inner = super().get_route_handler()
            takes_body = self.body_field is not None

            async def handle(request: Request) -> Response:
                echoes: dict[str, str] = {}
                seen = False  # by the route, which looks for the operation before it says "no"
                try:
                    check_headers(request, options.header_bytes)
                    echoes = echoes_of(request)
                    body = await read_body(request, options)
                    if takes_body:
                        check_json(body)
                    seen = True
                    response = await inner(Request(request.scope, _replay(body, request.receive)))
                except (Problem, RequestValidationError) as error:
                    problem = error if isinstance(error, Problem) else _invalid(error)
                    if not (seen and problem is error) and has_key(request):
                        problem.of_unseen()
                    response = problem.response(options.retry_after)
                except ClientDisconnect:
                    return Response(status_code=400)  # nobody is there to read it; nothing was begun
                response.headers.update({wire.RETENTION: f"{ceil(retention)}", **echoes})
                return response

            return handle

    return GuardedRoute


def echoes_of(request: Request) -> dict[str, str]:
    """What goes back as it came.  Raises Problem."""
    headers = request.headers
    echoes: dict[str, str] = {}
    for name, form in ((wire.RETRY, NUMBER), (wire.MESSAGE, ECHOED)):
        given = headers.getlist(name)
        if not given:
            continue
        if len(given) > 1 or not form.fullmatch(given[0]):
            raise Problem("header-invalid", f"{name} must be there once and match {form.pattern}")
        echoes[name] = given[0]
    with suppress(UsageError):  # whoever needs the id says what is wrong with it
        echoes[wire.IDEMPOTENCY_KEY] = wire.encode_id(wire.decode_id(headers.get(wire.IDEMPOTENCY_KEY, "")))
    return echoes


def has_key(request: Request) -> bool:
    """Whether it is about an operation at all."""
    try:
        wire.decode_id(request.headers.get(wire.IDEMPOTENCY_KEY, ""))
    except UsageError:
        return False
    return True


def _replay(body: bytes, receive: Receive) -> Receive:
    """The body once more, for FastAPI."""
    told = False

    async def again() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _invalid(error: RequestValidationError) -> Problem:
    """What FastAPI found before our own code saw the request."""
    first = error.errors()[0]
    place = [str(each) for each in first["loc"]]
    if place[0] == "body":
        return Problem("body-invalid", f"the body is not JSON that can be taken: {first['msg']}")
    if place[0] == "path":
        return Problem("key-invalid", f"{place[-1]}: {first['msg']}")
    if place[-1].lower() == wire.IDEMPOTENCY_KEY.lower():
        kind: wire.ProblemKind = "key-missing" if first["type"] == "missing" else "key-invalid"
        return Problem(kind, f"{wire.IDEMPOTENCY_KEY}: {first['msg']}")
    return Problem("header-invalid", f"{place[-1]}: {first['msg']}")
