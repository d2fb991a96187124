"""The message tier's server: operations asked for over HTTP, each happening exactly once.

    app = create_app(CasOps.open("sqlite:///bank.db"), [OpenAccount, Transfer])     # casops serve module:app
    app.include_router(operations_router(casops, [OpenAccount, Transfer]))          # or in an application of one's own

    POST /operations/transfer     body: the operation's model, header Idempotency-Key: the operation id
    GET  /operations/{id}         how it ended, or that it is pending
    GET  /health                  204 while requests are taken

A caller who hears nothing, or a problem with `"retry": true`, asks again with the same key, here or at any other
server on the same store.

`router.py`      the paths                             `guarding.py`   what holds for every path
`asking.py`      one request, from headers to answer   `in_flight.py`  what is being worked on here
`bodies.py`      reading arguments, with bounds        `duties.py`     sweeps, and forgetting what was acknowledged
`replies.py`     outcomes as HTTP                      `problems.py`   errors as HTTP
`documenting.py` the OpenAPI text                      `options.py`    every bound
`serving.py`     the command line                      `app.py`        an application of its own

Must not be in this package: rules of the protocol.
"""

try:
    import fastapi as fastapi
except ModuleNotFoundError as error:
    if error.name not in ("fastapi", "starlette"):
        raise
    told = "serving needs more than casops itself: pip install 'casops[service]'"
    raise ModuleNotFoundError(told, name=error.name) from None

from casops.service.app import create_app
from casops.service.options import ServiceOptions
from casops.service.router import operations_router

__all__ = ["ServiceOptions", "create_app", "operations_router"]
