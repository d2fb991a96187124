"""Operations as business code writes them: a pydantic model of the arguments and a function `apply`.

Must not be in here: stores, records, the protocol.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter

from casops.documents import Documents
from casops.errors import UsageError
from casops.ids import check_id

R = TypeVar("R")

if TYPE_CHECKING:

    class _Arguments:
        """What a type checker sees of an operation's model.

        Arguments come as ids, numbers and text and are converted and checked by pydantic
        (`Transfer(source="alice", amount=100)`), which a synthesized `__init__` with the fields'
        own types would refuse.  Fields keep their types for whoever reads them.
        """

        def __init__(self, **arguments: Any) -> None: ...
        def model_dump(self, *, mode: str = ..., exclude_defaults: bool = ...) -> dict[str, Any]: ...
        def model_dump_json(self, *, indent: int | None = ...) -> str: ...
        @classmethod
        def model_validate(cls, obj: Any) -> Self: ...
        @classmethod
        def model_validate_json(cls, json_data: str | bytes) -> Self: ...

else:

    class _Arguments(BaseModel):
        # inf_nan: as the text that a float takes back; JSON has no number for them.
        model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Operation(_Arguments, Generic[R]):
    """Base of all operations: `class Transfer(Operation[Receipt])`.

    The fields are the arguments (frozen; unknown ones are refused).  The type parameter is the type
    of the result: anything that survives JSON, `None` included.  The stored name is the class's own, or
    `class Transfer(Operation[Receipt], name="transfer-2")`; changing it orphans what is pending.
    """

    operation_name: ClassVar[str] = "Operation"

    def __init_subclass__(cls, *, name: str | None = None, **config: Any) -> None:
        super().__init_subclass__(**config)
        cls.operation_name = check_id(name if name is not None else cls.__name__, "operation name")

    def apply(self, documents: Documents) -> R:
        """The business: change the documents and return the result, or raise Declined.

        Ordinary synchronous code.  It may run several times before it counts, and its documents may be of
        different moments in a run that does not count; so it must not act on anything but them.  It runs in the
        context (contextvars) of who asked, but not always in that thread.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define apply")


_ADAPTERS: dict[type[Any], TypeAdapter[Any]] = {}


def result_adapter(operation: type[Operation[R]]) -> TypeAdapter[R]:
    """How results of this operation are turned into JSON and back.  Raises UsageError."""
    adapter = _ADAPTERS.get(operation)
    if adapter is None:
        adapter = _ADAPTERS[operation] = TypeAdapter(result_type(operation))
    return adapter


def result_type(operation: type[Operation[Any]]) -> Any:
    """The type of its result, as it is written in the class's base.  Raises UsageError."""
    for base in operation.__mro__:
        metadata: dict[str, Any] = getattr(base, "__pydantic_generic_metadata__", {})
        arguments: tuple[Any, ...] = metadata.get("args") or ()
        if metadata.get("origin") is Operation and not isinstance(arguments[0], TypeVar):
            return arguments[0]
    raise UsageError(
        f"{operation.__name__} does not say what its result is: class {operation.__name__}(Operation[Receipt])"
    )
