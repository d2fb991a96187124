"""Operations as business code writes them: a pydantic model of the arguments and a function `apply`.

Must not be in here: stores, records, the protocol.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, PydanticUserError, TypeAdapter
from pydantic.fields import FieldInfo

from casops.documents import Documents
from casops.errors import UsageError
from casops.ids import check_id

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

if TYPE_CHECKING:

    class _Arguments:
        """What a type checker sees of an operation's model.

        Arguments come as ids, numbers and text and are converted and checked by pydantic
        (`Transfer(source="alice", amount=100)`), which a synthesized `__init__` with the fields'
        own types would refuse.  Fields keep their types for whoever reads them.
        """

        model_config: ClassVar[ConfigDict]
        model_fields: ClassVar[dict[str, FieldInfo]]
        __pydantic_fields__: ClassVar[dict[str, FieldInfo]]

        def __init__(self, **arguments: Any) -> None: ...
        @property
        def model_fields_set(self) -> set[str]: ...
        @property
        def model_extra(self) -> dict[str, Any] | None: ...
        def model_post_init(self, context: Any, /) -> None: ...
        def model_copy(self, *, update: Mapping[str, Any] | None = ..., deep: bool = ...) -> Self: ...
        # `how`: as pydantic has it, which is too much to write down twice.
        def model_dump(self, *, mode: str = ..., **how: Any) -> dict[str, Any]: ...
        def model_dump_json(self, *, indent: int | None = ..., **how: Any) -> str: ...
        @classmethod
        def model_validate(cls, obj: Any, **how: Any) -> Self: ...
        @classmethod
        def model_validate_json(cls, json_data: str | bytes | bytearray, **how: Any) -> Self: ...
        @classmethod
        def model_construct(cls, _fields_set: set[str] | None = ..., **values: Any) -> Self: ...
        @classmethod
        def model_rebuild(cls, **how: Any) -> bool | None: ...
        @classmethod
        def model_json_schema(cls, by_alias: bool = ..., **how: Any) -> dict[str, Any]: ...

else:

    class _Arguments(BaseModel):
        # inf_nan: as the text that a float takes back; JSON has no number for them.
        model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Operation(_Arguments, Generic[R_co]):
    """Base of all operations: `class Transfer(Operation[Receipt])`.

    The fields are the arguments (frozen; unknown ones are refused).  The type parameter is the type
    of the result: anything that survives JSON, `None` included.  The stored name is the class's own, or
    `class Transfer(Operation[Receipt], name="transfer-2")`; changing it orphans what is pending.
    """

    operation_name: ClassVar[str] = "Operation"

    def __init_subclass__(cls, *, name: str | None = None, **config: Any) -> None:
        super().__init_subclass__(**config)
        cls.operation_name = check_id(name if name is not None else cls.__name__, "an operation name")

    @classmethod
    def __pydantic_init_subclass__(cls, **_config: Any) -> None:
        if "operation_name" in cls.__pydantic_fields__:
            raise UsageError(f"{cls.__name__} must not have an argument operation_name: casops keeps its name there")

    def apply(self, documents: Documents, /) -> R_co:
        """The business: change the documents and return the result, or raise Declined.

        Ordinary synchronous code.  It may run several times before it counts, and its documents may be of
        different moments in a run that does not count; so it must not act on anything but them.  It runs in the
        context (contextvars) of who asked, but not always in that thread.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define apply")


def know(operations: dict[str, type[Operation[Any]]], operation: type[Operation[Any]]) -> None:
    """Put it among the operations that are known by their names.

    Raises UsageError if it is no class of operations, if it cannot work, or if another one has its name.
    """
    if not (isinstance(operation, type) and issubclass(operation, Operation)):
        raise UsageError(f"a class of operations is needed, not {operation!r:.80}")
    result_adapter(operation)
    known = operations.setdefault(operation.operation_name, operation)
    if known is not operation:
        raise UsageError(
            f"two operations are named {operation.operation_name!r}: {known.__qualname__} of {known.__module__} "
            f"and {operation.__qualname__} of {operation.__module__}; give one of them name=…"
        )


_ADAPTERS: dict[type[Any], TypeAdapter[Any]] = {}


def result_adapter(operation: type[Operation[R]]) -> TypeAdapter[R]:
    """How results of this operation are turned into JSON and back.  Raises UsageError."""
    adapter = _ADAPTERS.get(operation)
    if adapter is None:
        try:
            adapter = _ADAPTERS[operation] = TypeAdapter(result_type(operation))
        except PydanticUserError as error:
            why = " ".join(str(error).split())
            raise UsageError(f"pydantic cannot take the result of {operation.__name__}: {why:.300}") from None
        if not adapter.pydantic_complete and not adapter.rebuild(raise_errors=False):  # else it was only put off
            del _ADAPTERS[operation]
            raise UsageError(
                f"the result of {operation.__name__} is given by a name that means nothing here: write the type "
                "itself, not its name in quotation marks"
            )
    return adapter


def result_type(operation: type[Operation[Any]]) -> Any:
    """The type of its result, as it is written in the class's base.  Raises UsageError."""
    known: dict[Any, Any] = {}  # what stands for a type variable of a base, told by whoever derives from it
    for base in operation.__mro__:
        metadata: dict[str, Any] = getattr(base, "__pydantic_generic_metadata__", {})
        origin, arguments = metadata.get("origin"), metadata.get("args") or ()
        if origin is None:
            continue
        told = [_with(known, argument) for argument in arguments]
        if origin is Operation:
            if not _open(told[0]):
                return told[0]
        else:
            known.update(zip(origin.__pydantic_generic_metadata__["parameters"], told, strict=False))
    raise UsageError(
        f"{operation.__name__} does not say what its result is: class {operation.__name__}(Operation[Receipt])"
    )


def _open(argument: Any) -> tuple[Any, ...]:
    """The type variables of a type; a generic class that is named without any has none here."""
    if isinstance(argument, TypeVar):
        return (argument,)
    metadata: dict[str, Any] = getattr(argument, "__pydantic_generic_metadata__", {})
    if metadata.get("args"):
        return metadata["parameters"]  # type: ignore[no-any-return]
    return getattr(argument, "__parameters__", ()) if get_args(argument) else ()


def _with(known: dict[Any, Any], argument: Any) -> Any:
    """A type in which what is known stands for its type variables."""
    if isinstance(argument, TypeVar):
        return known.get(argument, argument)
    variables = _open(argument)
    return argument[tuple(known.get(each, each) for each in variables)] if variables else argument
