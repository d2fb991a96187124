"""What is asked for again after a restart, and what became of it.

Must not be in here: waiting.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from casops.business import OperationWork
from casops.client.pending import Asked
from casops.errors import CasOpsError, OutcomeUnknown, UsageError
from casops.operations import Operation
from casops.outcome import Outcome
from casops.validating import misfit

# Operations that are asked for at the same time: few enough not to be a storm after a restart.
TOGETHER = 8


@dataclass(frozen=True, slots=True)
class Left:
    """An operation that could not be brought to an answer, and why."""

    asked: Asked
    error: CasOpsError


@dataclass(frozen=True, slots=True)
class Recovered:
    """What `recover` did."""

    finished: tuple[Outcome[Any], ...]
    left: tuple[Left, ...]


def check_heard(asked: Asked, silence: float, deadline: float) -> None:
    """A list of thousands must not take a deadline for every few of them.  Both in seconds.

    Raises OutcomeUnknown if no server has answered for so long.
    """
    if silence >= deadline:
        raise OutcomeUnknown(
            f"no server has answered for {silence:.0f} seconds: it was not asked for again this time. "
            "Recover again later",
            operation_id=asked.operation_id,
        )


def operation_of(asked: Asked, operations: Mapping[str, type[Operation[Any]]]) -> Operation[Any]:
    """The operation as it was asked for.  Raises UsageError, which takes nothing off the list.

    It was asked for before, so whether it happened cannot be told here.
    """
    try:
        return _restored(asked, operations)
    except UsageError as error:
        error.happened, error.retry = None, True
        raise


def _restored(asked: Asked, operations: Mapping[str, type[Operation[Any]]]) -> Operation[Any]:
    model = operations.get(asked.operation)
    if model is None:
        raise UsageError(
            f"this client does not know the operation {asked.operation!r}: name its class in operations=…",
            operation_id=asked.operation_id,
        )
    try:
        operation = model.model_validate_json(asked.arguments)
    except Exception as error:  # a validator of the application's own may raise anything
        raise UsageError(
            f"the arguments in the pending list do not fit {model.__name__}: {misfit(error)}",
            operation_id=asked.operation_id,
        ) from error
    if OperationWork(operation, asked.operation_id).fingerprint != asked.fingerprint:
        raise UsageError(
            f"{model.__name__} has changed since it was asked for: asked for again it would be another operation. "
            "See what `outcome` tells, then `forget` it",
            operation_id=asked.operation_id,
        )
    return operation
