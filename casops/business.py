"""The border between business code and the protocol: models on one side, texts on the other.

Must not be in here: anything that asks a store.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any, Final, Generic, TypeVar, cast

from pydantic import BaseModel, TypeAdapter
from pydantic_core import from_json, to_json, to_jsonable_python

from casops.arguments import ambiguous, fingerprint_of, restored, text_of_arguments
from casops.documents import Documents, NotRead, Ref
from casops.errors import (
    Cancelled,
    CasOpsError,
    Declined,
    Expired,
    InvalidDocument,
    OperationMismatch,
    UsageError,
    shown,
    text_of,
)
from casops.interruptions import raise_interruption
from casops.messages import Key
from casops.operations import Operation, result_adapter
from casops.protocol.limits import MAX_DOCUMENTS, MAX_RESULT
from casops.protocol.work import Evaluation, Failed, Refused, Success, Value, Wants
from casops.running import running_for
from casops.sameness import PLAIN, difference
from casops.validating import misfit

R = TypeVar("R")

# Levels of JSON that records and answers put around a result, and some more.
AROUND: Final = 16


class OperationWork(Generic[R]):
    """One operation with its arguments, as the protocol takes it (casops.protocol.work.Work).

    owner: who runs it, and must not be asked by it (`check_not_running`).
    """

    def __init__(self, operation: Operation[R], operation_id: str, owner: object = None) -> None:
        if not isinstance(operation, Operation):
            raise UsageError(f"an Operation is needed, not {operation!r:.80}", operation_id=operation_id)
        self._operation = operation
        self._operation_id = operation_id
        self._owner = owner
        self.adapter: TypeAdapter[R] = result_adapter(type(operation))
        self.name = operation.operation_name
        self._same: Operation[R] | None = None
        try:
            # Both now, for whoever asked may change what it has put into its operation.
            self._text, self.fingerprint = text_of_arguments(operation), fingerprint_of(operation)
        except UsageError as error:
            error.operation_id = operation_id
            raise
        keys: dict[Key, None] = {}
        _note_refs(operation, keys)
        # More than it may look at cannot be read ahead: it is read as it is looked at.
        self.declared: tuple[Key, ...] = tuple(keys) if len(keys) <= MAX_DOCUMENTS else ()

    @property
    def arguments(self) -> str:
        """JSON text.  Raises as check_arguments does."""
        self.check_arguments()
        return self._text

    def check_arguments(self) -> None:
        """Raise UsageError if their text would not give them back."""
        self._restored()

    def check_replayed(self) -> None:
        """Raise OperationMismatch if the id's operation had other arguments that happen to have the same text."""
        model: Any = type(self._operation)
        if ambiguous(model):
            try:
                self._restored()
            except UsageError as error:
                why = f"this id belongs to an operation with other arguments; this one did not happen: {error.message}"
                raise OperationMismatch(why, operation_id=self._operation_id) from None

    def _restored(self) -> Operation[R]:
        """What a sweep or a server would run.  An operation that has ended is looked up without it."""
        if self._same is None:  # no cached_property: in Python 3.11 that has one lock for all
            try:
                self._same = restored(self._operation, self._text)
            except UsageError as error:
                error.operation_id = self._operation_id
                raise
        return self._same

    def evaluate(self, values: Mapping[Key, Value]) -> Evaluation:
        """Raises as check_arguments does."""
        same = self._restored()
        documents = Documents(values)
        evaluation: Evaluation
        try:
            with running_for(self._owner):
                evaluation = self._apply(same, documents)
        except NotRead:
            evaluation = Wants(frozenset(documents.wanted))
        if difference(self._operation, same) is not None:
            why = "apply must not change its arguments, for it may have to run again with them"
            return self._failed(UsageError(why), True, documents)
        # Business code that swallowed our interruption went on with what it had not read.
        return Wants(frozenset(documents.wanted)) if documents.wanted else evaluation

    def _apply(self, same: Operation[R], documents: Documents) -> Evaluation:
        try:
            # What a sweep or a server would run, so that a difference is seen at once, not on the day of a crash.
            result: Any = same.apply(documents)
            if inspect.isawaitable(result):
                if inspect.iscoroutine(result):
                    result.close()
                raise UsageError("apply must be an ordinary function, not async")
            return Success(documents.changes(), encode_result(self.adapter, result))
        except Declined as refusal:
            try:
                # As it is stored: what JSON has no number for (infinity) is null for everybody.
                details = to_jsonable_python(dict(refusal.details), inf_nan_mode="null", fallback=_name)
                from_json(_recorded([refusal.code, details]))  # half of a surrogate pair is found out only here
                return Refused(refusal.code, details, documents.looked_at)
            except Exception as error:  # noqa: BLE001 - of pydantic, of the application's own code
                raise_interruption(error)
                return self._failed(
                    UsageError(f"the details of {refusal} are not JSON: {text_of(error)}"), True, documents
                )
        except (Cancelled, Expired, OperationMismatch) as error:
            # They speak for the id, for ever, and nothing of it is recorded: asked again it might happen.
            why = f"apply raised {type(error).__name__}, which casops alone may say; to refuse, raise Declined"
            return self._failed(UsageError(f"{why} ({text_of(error)})"), True, documents)
        except CasOpsError as error:
            return self._failed(error, True, documents)
        except StopIteration as error:
            # It must not be passed on as it is: it would end the generators that it passes through.
            told = RuntimeError("apply raised StopIteration")
            told.__cause__ = error
            return Failed(told, False, documents.looked_at)
        except (NotRead, KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as error:  # noqa: BLE001 - business code may raise anything; it is counted, and passed on
            return Failed(error, False, documents.looked_at)

    def _failed(self, error: CasOpsError, lasting: bool, documents: Documents) -> Failed:
        error.operation_id = self._operation_id
        return Failed(error, lasting, documents.looked_at)


def _name(detail: object) -> str:
    """What pydantic does not know how to write in the details of a refusal: a reference is its document's id."""
    if isinstance(detail, Ref):
        return detail.id
    raise TypeError(f"{type(detail).__name__} cannot be written as JSON")


def encode_result(adapter: TypeAdapter[R], result: R) -> Any:
    """A result as JSON holds it.  Raises InvalidDocument if it would come back as something else."""
    try:
        text = _recorded(_told(adapter, result))
        back: Any = adapter.validate_json(text)
        meant: Any = adapter.validate_python(result)  # 1 where a float is the type means 1.0
        value = _told(adapter, back)  # as its type has it: a Decimal(5) where an int is the type is 5, not "5"
        again = back if (stored := _recorded(value)) == text else adapter.validate_json(stored)
    except Exception as error:  # noqa: BLE001 - of pydantic, of a codec underneath, of the model's own code
        raise InvalidDocument(
            f"the result {shown(result)} does not fit its type: {misfit(error)}; nothing was written"
        ) from None
    if type(back) is not type(meant) or difference(back, meant) is not None or difference(again, back) is not None:
        raise InvalidDocument(
            f"the result {shown(result)} would come back from JSON as {shown(back)}; nothing was written"
        )
    return value


def _told(adapter: TypeAdapter[R], result: R) -> Any:
    return adapter.dump_python(result, mode="json", by_alias=True, round_trip=True, warnings=False)


def _recorded(value: Any) -> bytes:
    """What becomes of a value in R(i), which must be able to be written and read.  Raises ValueError."""
    text = to_json(value, inf_nan_mode="null")
    if len(text) > MAX_RESULT:
        raise ValueError(f"it has {len(text):,} bytes of JSON, {MAX_RESULT:,} are allowed")
    if text.count(b"[") + text.count(b"{") > AROUND:
        from_json(b"[" * AROUND + text + b"]" * AROUND)  # there is a limit to what is read
    return text


def decode_result(adapter: TypeAdapter[R], value: Any) -> R:
    """A result from what JSON holds.  Raises whatever its type's validators raise."""
    return adapter.validate_json(to_json(value))


def _note_refs(value: object, keys: dict[Key, None]) -> None:
    """The documents that an operation's arguments name, however deep."""
    if type(value) in PLAIN:
        return
    if isinstance(value, Ref):
        keys[value.key] = None
    elif isinstance(value, BaseModel):
        for field in value.__dict__.values():
            _note_refs(field, keys)
        for field in (value.__pydantic_extra__ or {}).values():
            _note_refs(field, keys)
    elif isinstance(value, Mapping):
        for pair in cast("Mapping[object, object]", value).items():
            _note_refs(pair, keys)
    elif isinstance(value, list | tuple | set | frozenset):
        for each in cast("Iterable[object]", value):
            _note_refs(each, keys)
