"""Reading what was sent: headers and body within their bounds, and the body as an operation.

Money must not pass through a float.  pydantic reads a JSON number with a fraction as a double before it becomes a
Decimal.  For most amounts that gives the same Decimal; where it would not, the number is refused and the caller told
to send text, which is what pydantic itself writes.

Must not be in here: what is done with the operation.
"""

from __future__ import annotations

import asyncio
import json
import logging
from decimal import Decimal, InvalidOperation
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import from_json
from starlette.requests import Request

from casops.errors import UsageError
from casops.numbers import Rounded, check_numbers
from casops.operations import Operation
from casops.service.options import ServiceOptions
from casops.service.problems import Problem

log = logging.getLogger("casops.service")
O = TypeVar("O", bound=Operation[Any])  # noqa: E741

# Errors of one body that are told: enough to mend it.
MAX_TOLD = 20


def check_headers(request: Request, most: int) -> None:
    """Raises Problem if the headers take more than `most` bytes."""
    size = sum(len(name) + len(value) for name, value in request.headers.raw)
    if size > most:
        raise Problem("headers-too-large", f"the headers take {size} bytes; at most {most} are accepted")


async def read_body(request: Request, options: ServiceOptions) -> bytes:
    """The whole body.  Raises Problem if it is too large or does not arrive, ClientDisconnect."""
    most = options.body_bytes
    length = request.headers.get("content-length", "")
    if length.isascii() and length.isdecimal() and len(length) < 20 and int(length) > most:
        raise Problem("body-too-large", f"the body has {length} bytes; at most {most} are accepted")
    parts: list[bytes] = []
    size = 0
    try:
        # Whoever takes longer than an answer may take holds a place and brings nothing.
        async with asyncio.timeout(max(options.answer_within, 1.0)):
            async for part in request.stream():
                size += len(part)
                if size > most:
                    raise Problem("body-too-large", f"the body has more than the {most} bytes that are accepted")
                parts.append(part)
    except TimeoutError:
        why = f"only {size} bytes of the body arrived within {max(options.answer_within, 1.0):g} s"
        raise Problem("body-late", why, retry=True) from None
    return b"".join(parts)


def check_json(body: bytes) -> None:
    """Raises Problem unless it is JSON without NaN, not nested too deeply, whose numbers survive as they are.

    Before FastAPI has a look at it, which has words of its own for each of these.
    """
    try:
        from_json(body, allow_inf_nan=False)
        json.loads(body.decode(), parse_float=_check_number)
    except ValueError as error:
        raise Problem("body-invalid", f"the body is not JSON that can be taken: {error}") from None


def parse(model: type[O], body: bytes, operation_id: str) -> O:
    """The operation in a body that passed check_json.  Raises Problem."""
    try:
        operation = model.model_validate_json(body)
        check_numbers(body.decode(), operation)
        return operation
    except ValidationError as error:
        told = [
            {"where": ".".join(str(part) for part in each["loc"]), "what": each["msg"]}
            for each in error.errors(include_url=False, include_context=False, include_input=False)[:MAX_TOLD]
        ]
        what = f"{error.error_count()} errors" if error.error_count() > 1 else told[0]["what"]
        why = f"the body does not fit {model.__name__}: {what}"
        raise Problem("body-invalid", why, operation_id=operation_id, errors=told) from None
    except UsageError as error:
        raise Problem("body-invalid", error.message, operation_id=operation_id) from None
    except Rounded as error:
        why = f"the body does not fit {model.__name__}: {error}"
        raise Problem("body-invalid", why, operation_id=operation_id) from None
    except Exception:  # a validator of the operation's own may raise anything
        log.exception("the arguments of %s could not be checked", model.__name__)
        why = "the arguments could not be checked; nothing was begun"
        raise Problem("business-error", why, operation_id=operation_id) from None


def _check_number(text: str) -> float:
    number = float(text)
    if repr(number) == text:
        return number
    try:
        exact = Decimal(str(number)) == Decimal(text)
    except InvalidOperation:  # an exponent beyond all bounds
        exact = False
    if not exact:
        raise ValueError(f'the number {text[:40]} cannot be carried exactly; send it as text: "{text[:40]}"')
    return number
