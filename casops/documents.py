"""Documents as business code sees them: models, references, and the view an operation works on.

A `Document` is a pydantic model with a collection.  A `Ref[Account]` names one document and knows
its type.  `Documents` is what `Operation.apply` gets: it hands out models by reference and notes what was
looked at.

Must not be in here: stores, records, the protocol.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Generic, NoReturn, Self, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from casops.errors import DocumentExists, DocumentMissing, InvalidDocument, UsageError, shown
from casops.ids import MAX_ID_BYTES, check_id
from casops.messages import RESERVED, Key
from casops.numbers import check_numbers
from casops.protocol.work import Value
from casops.sameness import difference
from casops.validating import misfit, validated


class Document(BaseModel):
    """Base of the models of stored documents: `class Account(Document, collection="accounts")`.

    Fields that the model does not know are kept as they are (other programs may own them).
    """

    model_config = ConfigDict(extra="allow")

    document_collection: ClassVar[str] = ""

    def __init_subclass__(cls, *, collection: str | None = None, **config: Any) -> None:
        super().__init_subclass__(**config)
        if collection is not None:
            check_id(collection, "a collection")
            if collection.startswith(RESERVED):
                raise UsageError(f"collections that start with {RESERVED!r} are casops' own: {collection!r}")
            cls.document_collection = collection

    @classmethod
    def ref(cls, id: str) -> Ref[Self]:
        """The reference to the document of this type with this id.  Raises UsageError for a bad id."""
        return Ref(cls, id)


D = TypeVar("D", bound=Document)


class Ref(Generic[D]):
    """Names one document and its type.  As a field of an operation it is given as the document's id."""

    __slots__ = ("id", "model")

    model: type[D]
    id: str

    def __init__(self, model: type[D], id: str) -> None:
        if not model.document_collection:
            raise UsageError(f"{model.__name__} has no collection: class {model.__name__}(Document, collection=…)")
        object.__setattr__(self, "model", model)
        object.__setattr__(self, "id", check_id(id, "an id of a document"))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("a Ref does not change")

    @property
    def key(self) -> Key:
        return Key(self.model.document_collection, self.id)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Ref):
            return NotImplemented
        same: Ref[Any] = other  # pyright: ignore[reportUnknownVariableType]
        return (self.model, self.id) == (same.model, same.id)

    def __hash__(self) -> int:
        return hash((self.model, self.id))

    def __repr__(self) -> str:
        return f"Ref({self.model.__name__}, {self.id!r})"

    def __str__(self) -> str:
        return self.id

    def __reduce__(self) -> tuple[Any, ...]:
        return Ref, (self.model, self.id)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        arguments = get_args(source)
        if not arguments or not (isinstance(arguments[0], type) and issubclass(arguments[0], Document)):
            raise UsageError("a Ref field names its document's type: Ref[Account]")
        document_type = arguments[0]

        def accept(value: Any) -> Ref[Any]:
            if isinstance(value, Ref):
                ref: Ref[Any] = value  # pyright: ignore[reportUnknownVariableType]
                if ref.model is not document_type:
                    raise ValueError(f"a reference to {document_type.__name__} is needed, not {ref!r}")
                return ref
            return Ref(document_type, value)

        as_text = core_schema.no_info_after_validator_function(accept, core_schema.str_schema(strict=True))
        return core_schema.json_or_python_schema(
            json_schema=as_text,
            python_schema=core_schema.no_info_plain_validator_function(accept),
            serialization=core_schema.plain_serializer_function_ser_schema(str, return_schema=core_schema.str_schema()),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """What can be said of an id in JSON Schema; that it is printable and its length in bytes cannot."""
        return {**handler(schema), "minLength": 1, "maxLength": MAX_ID_BYTES}


class NotRead(BaseException):
    """Interrupts `apply` to fetch a document it discovered; not an Exception, so that an ordinary
    `except Exception` of business code lets it through."""


class Documents:
    """The documents of one run of `apply`.  Change what you look up; nothing else is written."""

    def __init__(self, values: Mapping[Key, Value]) -> None:
        self._values = values
        self._types: dict[Key, type[Document]] = {}  # of all that was looked at
        self._present: dict[Key, Document | None] = {}
        self.wanted: set[Key] = set()  # for casops: what has to be read before the next run

    def __getitem__(self, ref: Ref[D]) -> D:
        """The document; the same object each time.  Raises DocumentMissing if there is none, and what `get` raises."""
        document = self.get(ref)
        if document is None:
            raise DocumentMissing(f"there is no document {ref.key}")
        return document

    def get(self, ref: Ref[D]) -> D | None:
        """The document, or None if there is none; the same object each time.

        Raises InvalidDocument if what is stored does not fit the model of the reference, UsageError for what is no
        reference, or one to the same document as another model.
        """
        check_ref(ref)
        key = ref.key
        if key not in self._present:
            if key not in self._values:
                self.wanted.add(key)
                raise NotRead
            body = self._values[key].body
            self._types[key] = ref.model  # whether or not it fits: that it does not is something to go by, too
            self._present[key] = None if body is None else load(ref.model, key, body)
        elif self._types[key] is not ref.model:
            raise UsageError(f"{key} is used both as {self._types[key].__name__} and as {ref.model.__name__}")
        document = self._present[key]
        if document is None:
            return None
        assert isinstance(document, ref.model)
        return document

    def __contains__(self, ref: Ref[Any]) -> bool:
        """Is there such a document?"""
        return self.get(ref) is not None

    def __setitem__(self, ref: Ref[Any], document: object) -> NoReturn:
        raise UsageError("documents are not assigned: change the one that documents[ref] gives, or create() it")

    def __iter__(self) -> Iterator[Any]:
        raise UsageError("documents are looked up by reference; they cannot be listed")

    def create(self, ref: Ref[D], document: D) -> D:
        """Bring a document into being and give it back: it may be changed until `apply` returns.

        Raises DocumentExists if there is one, UsageError if `document` is not of the reference's model, and what `get`
        raises.
        """
        check_ref(ref)
        if self.get(ref) is not None:
            raise DocumentExists(f"there is a document {ref.key} already")
        if type(document) is not ref.model:
            given = repr(document) if isinstance(document, type) else f"a {type(document).__name__}"
            raise UsageError(f"{ref.key} must be created from a {ref.model.__name__}, not {given}")
        self._present[ref.key] = document
        return document

    def remove(self, ref: Ref[Any]) -> None:
        """Make the document cease to be.  Raises DocumentMissing if there is none, and what `get` raises."""
        if self.get(ref) is None:
            raise DocumentMissing(f"there is no document {ref.key} to remove")
        self._present[ref.key] = None

    def __delitem__(self, ref: Ref[Any]) -> None:
        self.remove(ref)

    @property
    def looked_at(self) -> frozenset[Key]:
        return frozenset(self._types)

    def changes(self) -> dict[Key, str | None]:
        """The bodies of all documents that were looked at, as they shall be.  Raises InvalidDocument."""
        return {key: self._dump(key) for key in self._types}

    def _dump(self, key: Key) -> str | None:
        before = self._values[key].body
        if key not in self._present:
            return before  # the function caught that it does not fit its model
        document = self._present[key]
        if document is None:
            return None
        text = _text(key, document)
        if before is not None:
            read = load(self._types[key], key, before, checked=True)
            # By the text, too, for 1 and True, and 5 and 5.00, are the same and are not stored alike.
            if _text(key, read) == text and difference(read, document) is None:
                return before  # looked at, not changed: to the byte
        return dump(key, document, text)


def check_ref(ref: Ref[Any]) -> None:
    """Raise UsageError if it is none: not every caller has a type checker."""
    if not isinstance(ref, Ref):
        raise UsageError(f"a reference is needed, as Account.ref(id) gives it, not {shown(ref)}")


def load(model: type[D], key: Key, body: str, *, checked: bool = False) -> D:
    """A stored body as its model.  checked: its numbers were looked at.  Raises InvalidDocument."""
    try:
        loaded = model.model_validate_json(body)
        if not checked:
            check_numbers(body, loaded)
        return loaded
    except Exception as error:  # noqa: BLE001 - see dump
        raise InvalidDocument(f"the stored document {key} does not fit {model.__name__}: {misfit(error)}") from None


def dump(key: Key, document: Document, text: str | None = None) -> str:
    """A model as its body, validated again.  `text`: as pydantic dumps it, if that is known.

    Raises InvalidDocument, also if it would come back as something else.
    """
    text, model = _text(key, document) if text is None else text, type(document)
    try:
        # What is assigned to a field is not validated by pydantic; the text is.
        again = model.model_validate_json(text)
        where = difference(document, again)
        if where is None or difference(again, validated(document)) is None:
            # As the model has it, if that stays so: a sum that it works out, a Decimal(5) in a field of whole numbers.
            stored = _text(key, again)
            if where is not None or stored != text:
                text, where = stored, difference(again, model.model_validate_json(stored))
    except Exception as error:  # noqa: BLE001 - of pydantic, of a codec underneath, of the model's own code
        raise _invalid(key, document, error) from None
    if where is not None:
        raise InvalidDocument(
            f"the operation left {key} such that {where or 'it'} would come back from JSON as something else; "
            "nothing was written"
        )
    return text


def _text(key: Key, document: Document) -> str:
    """Raises InvalidDocument."""
    try:
        # round_trip leaves out computed fields, which are no data.
        return document.model_dump_json(by_alias=True, round_trip=True, warnings=False)
    except Exception as error:  # noqa: BLE001 - see dump
        raise _invalid(key, document, error) from None


def _invalid(key: Key, document: Document, error: Exception) -> InvalidDocument:
    return InvalidDocument(
        f"the operation left {key} invalid as {type(document).__name__}: {misfit(error)}; nothing was written"
    )
