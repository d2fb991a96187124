"""An application of its own, for those who have no other.

    app = create_app(CasOps.open("sqlite:///bank.db"), [OpenAccount, Transfer])     # in bank.py
    casops serve bank:app

Must not be in here: routes.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from casops.front import CasOps
from casops.operations import Operation
from casops.service import documenting
from casops.service.guarding import echoes_of, has_key
from casops.service.options import ServiceOptions
from casops.service.problems import Problem
from casops.service.router import operations_router
from casops.threads import in_thread
from casops.wire import ProblemKind


def create_app(
    casops: CasOps,
    operations: Iterable[type[Operation[Any]]],
    *,
    options: ServiceOptions | None = None,
    title: str = "Operations",
    version: str = "1",
) -> FastAPI:
    """An ASGI application that serves these operations, and closes `casops` when it is shut down.

    Raises what operations_router raises.
    """

    @asynccontextmanager
    async def lifespan(application: FastAPI) -> AsyncGenerator[None, None]:
        yield
        await in_thread(casops.close)  # it may wait for what is being settled

    text = f"Operations that happen exactly once.  {documenting.retention_text(casops.options.retention)}"
    application = FastAPI(title=title, version=version, description=text, lifespan=lifespan)
    application.add_exception_handler(HTTPException, _other_problem)
    application.include_router(operations_router(casops, operations, options=options))
    return application


async def _other_problem(request: Request, error: Exception) -> Response:
    """What the framework says of paths and methods it does not have, as a problem document like all others."""
    assert isinstance(error, HTTPException)
    try:
        echoes = echoes_of(request)
    except Problem:
        echoes = {}  # the path is the first thing to be mended
    kind: ProblemKind = "method-unknown" if error.status_code == 405 else "path-unknown"
    problem = Problem(kind, f"{request.method} {request.url.path[:200]}: {error.detail}")
    problem.document.status = error.status_code
    if has_key(request):
        problem.of_unseen()
    problem.headers.update({**dict(error.headers or {}), **echoes})
    return problem.response(0)
