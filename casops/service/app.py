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

from casops.front import CasOps
from casops.operations import Operation
from casops.service import documenting
from casops.service.in_flight import in_thread
from casops.service.options import ServiceOptions
from casops.service.router import operations_router


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
    application.include_router(operations_router(casops, operations, options=options))
    return application
