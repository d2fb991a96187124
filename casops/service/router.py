"""The paths: one for each operation, one that tells how an operation went, and the health.

FastAPI sees the operation's model as the type of the body, for the OpenAPI document.  The body is read and validated by
our own code (guarding.py, bodies.py): FastAPI reads all of it, however long, and every number through a float.
Dependencies that an application puts on the router (authentication) run as always, before casops is asked anything.

Must not be in here: what happens with a request (asking.py).
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Body, Header, Path
from pydantic import SkipValidation
from pydantic.json_schema import SkipJsonSchema
from starlette.requests import Request
from starlette.responses import Response

from casops import wire
from casops.errors import UsageError
from casops.front import CasOps
from casops.ids import MAX_ID_BYTES
from casops.operations import Operation, result_type
from casops.service import documenting
from casops.service.asking import Service, log_left
from casops.service.guarding import ECHOED, NUMBER, guarded_route
from casops.service.options import ServiceOptions
from casops.service.problems import Problem
from casops.service.replies import OutcomeDocument


def operations_router(
    casops: CasOps, operations: Iterable[type[Operation[Any]]], *, options: ServiceOptions | None = None
) -> APIRouter:
    """A router through which these operations can be asked for.

    The application that includes it must run its lifespan (every server does), and closes `casops` itself, after
    the router has finished what was in flight.
    Raises UsageError if `casops` is not a CasOps, two operations have one path, or the options do not fit
    those of casops.
    """
    return _router(_service(casops, operations, options or ServiceOptions()))


def _service(casops: CasOps, operations: Iterable[type[Operation[Any]]], options: ServiceOptions) -> Service:
    if not isinstance(casops, CasOps):
        # Business code under an AsyncCasOps runs on the event loop, where a slow one holds up every request.
        raise UsageError(f"the service takes a CasOps, which it runs in threads, not {type(casops).__name__}")
    options.check_against(casops.options)
    models = list(operations)
    for model in models:
        casops.register(model)
    return Service(casops, models, options)


def _router(service: Service) -> APIRouter:
    @asynccontextmanager
    async def lifespan(application: Any) -> AsyncGenerator[None, None]:
        service.duties.start()
        yield
        service.closing = True
        await service.duties.stop()
        log_left(await service.in_flight.finish(service.options.finish_within))

    router = APIRouter(
        route_class=guarded_route(service.options, service.casops.options.retention),
        lifespan=lifespan,
        tags=["operations"],
    )
    paths: dict[str, type[Operation[Any]]] = {}
    for model in service.models:
        if (other := paths.setdefault(wire.path_of(model), model)) is not model:
            raise UsageError(f"{other.__name__} and {model.__name__} have the same path; give one of them an http_name")
    for name, model in paths.items():
        _add_operation(router, service, name, model)
    # In this order: of two routes for one path the first says which methods there are.
    _add_outcome(router, service)
    _add_unknown(router, service, paths)
    _add_health(router, service)
    return router


# What can be said of an id in a path; that it is printable and its length in bytes cannot.
ID: dict[str, Any] = {"minLength": 1, "maxLength": MAX_ID_BYTES}

# --- the routes ---------------------------------------------------------------------------------

Key = Annotated[
    str,
    Header(
        alias=wire.IDEMPOTENCY_KEY,
        description='The operation id, as "…" with anything but visible ASCII percent-encoded.  '
        "A new one for each operation; the same one to ask again.",
        json_schema_extra={"pattern": wire.ID_PATTERN},
    ),
]
Acknowledge = Annotated[
    str | SkipJsonSchema[None],
    Header(
        alias=wire.ACKNOWLEDGE,
        description=f'Ids whose answers this client has received and will not ask for again: "…", "…", '
        f"at most {wire.MAX_ACKNOWLEDGED}.  They may be forgotten soon.",
        json_schema_extra={"pattern": wire.IDS_PATTERN},
    ),
]
Retry = Annotated[
    str | SkipJsonSchema[None],
    Header(
        alias=wire.RETRY,
        description="How often this was sent before.  Echoed.",
        json_schema_extra={"pattern": f"^{NUMBER.pattern}$"},
    ),
]
MessageId = Annotated[
    str | SkipJsonSchema[None],
    Header(
        alias=wire.MESSAGE,
        description="Names this message.  Echoed.",
        json_schema_extra={"pattern": f"^{ECHOED.pattern}$"},
    ),
]


def _add_operation(router: APIRouter, service: Service, name: str, model: type[Operation[Any]]) -> None:
    async def ask(
        request: Request, body: Any, key: Key, ack: Acknowledge = None, retry: Retry = None, message: MessageId = None
    ) -> Response:
        return await service.ask(model, request)

    unvalidated: Any = SkipValidation
    ask.__annotations__["body"] = Annotated[unvalidated[model], Body()]
    result: dict[str, Any] = {"description": "The result of the operation.", "model": result_type(model)}
    router.add_api_route(
        f"/operations/{name}",
        ask,
        methods=["POST"],
        name=f"ask for {name}",
        operation_id=f"ask_{re.sub('[^a-z0-9]', '_', name)}",
        summary=model.operation_name,
        description=documenting.description(model.__doc__, service.casops.options.retention),
        response_model=None,
        responses=documenting.responses((*documenting.ALWAYS, *documenting.ASKING), result, answered=True),
    )


def _add_unknown(router: APIRouter, service: Service, paths: Iterable[str]) -> None:
    there_are = ", ".join(sorted(paths)) or "none"

    async def unknown(name: str, request: Request) -> Response:
        problem = Problem("operation-unknown", f"there is no operation {name[:80]!r} here; there are: {there_are}")
        raise await service.refuse(problem, request)

    router.add_api_route(
        "/operations/{name:path}", unknown, methods=["POST"], include_in_schema=False, response_model=None
    )


def _add_outcome(router: APIRouter, service: Service) -> None:
    async def tell(
        operation_id: Annotated[str, Path(description="The operation id, percent-encoded.", json_schema_extra=ID)],
        retry: Retry = None,
        message: MessageId = None,
    ) -> Response:
        return await service.tell(operation_id)

    success: dict[str, Any] = {"description": "How it ended, or that it is pending.", "model": OutcomeDocument}
    router.add_api_route(
        "/operations/{operation_id:path}",
        tell,
        methods=["GET"],
        name="tell outcome",
        operation_id="tell_outcome",
        summary="Did it happen?",
        description=documenting.retention_text(service.casops.options.retention),
        response_model=None,
        responses=documenting.responses((*documenting.ALWAYS, *documenting.TELLING), success, answered=False),
    )


def _add_health(router: APIRouter, service: Service) -> None:
    async def health() -> Response:
        return Response(status_code=503 if service.closing else 204)

    router.add_api_route(
        "/health",
        health,
        methods=["GET"],
        name="health",
        operation_id="health",
        summary="Are requests taken?",
        status_code=204,
        response_model=None,
        responses={
            204: {"description": "This server takes requests."},
            503: {"description": "It is shutting down."},
        },
    )
