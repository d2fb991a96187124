"""What an operation is asked with: it survives JSON or is refused, and equal arguments have one fingerprint."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum, StrEnum
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, Self, TypeVar
from zoneinfo import ZoneInfo

import pytest
from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PrivateAttr,
    RootModel,
    SecretStr,
    StringConstraints,
    computed_field,
    field_validator,
    model_serializer,
    model_validator,
)

from casops import CasOps, Declined, Document, Documents, InvalidDocument, Operation, OperationMismatch, Ref, UsageError
from casops.arguments import fingerprint_of, restored, text_of_arguments
from casops.business import OperationWork
from casops.operations import result_type
from casops.sameness import difference
from casops.stores.memory import MemoryStore
from casops.stores.sqlite import SqliteStore
from tests.conftest import QUICK

T = TypeVar("T")
U = TypeVar("U")


class Account(Document, collection="accounts"):
    balance: Decimal


class Item(BaseModel):
    name: str


class Book(Item):
    isbn: str


class Euros(NamedTuple):
    amount: int


class Dollars(NamedTuple):
    amount: int


class Bank(StrEnum):
    MAIN = "main"


class Till(StrEnum):
    MAIN = "main"


class EUR: ...


class USD: ...


C = TypeVar("C")


class Money(BaseModel, Generic[C]):
    amount: int


@dataclass
class Note:
    text: str


@dataclass
class LongNote(Note):
    more: str = ""


class Write(Operation[str]):
    note: Note

    def apply(self, documents: Documents) -> str:
        return self.note.text


def test_a_subclass_is_not_taken_for_its_base_in_a_retry() -> None:
    with CasOps.open("memory://", options=QUICK) as casops:
        assert casops.run(Write(note=Note("n")), operation_id="i") == "n"
        with pytest.raises(OperationMismatch):
            casops.run(Write(note=LongNote("n", "more")), operation_id="i")


class Take(Operation[str]):
    what: Money[EUR] | Money[USD] | Euros | Dollars | Bank | Till

    def apply(self, documents: Documents) -> str:
        return type(self.what).__name__


@pytest.mark.parametrize(
    ("meant", "other"),
    [
        (Money[EUR](amount=5), Money[USD](amount=5)),
        (Euros(5), Dollars(5)),
        (Bank.MAIN, Till.MAIN),
    ],
)
def test_what_has_the_same_text_is_not_taken_for_the_other(meant: Any, other: Any) -> None:
    """The first that fits is what comes back: euros for dollars, on the account of the other currency."""
    with CasOps.open("memory://", options=QUICK) as casops:
        assert casops.run(Take(what=meant), operation_id="i") == type(meant).__name__
        assert casops.run(Take(what=meant), operation_id="i") == type(meant).__name__
        with pytest.raises(UsageError, match="would come back as something else"):
            casops.run(Take(what=other), operation_id="j")
        with pytest.raises(OperationMismatch, match="would come back as something else"):
            casops.run(Take(what=other), operation_id="i")


class Card(BaseModel):
    kind: Literal["card"] = "card"
    amount: int


class Cash(BaseModel):
    kind: Literal["cash"] = "cash"
    amount: int


@dataclass
class Point:
    x: int
    seen: set[str] = field(default_factory=set[str], compare=False)


class Names(RootModel[set[str]]):
    pass


class Reward(Operation[int]):
    accounts: set[str] | frozenset[str]


class Pay(Operation[str]):
    source: Ref[Account] = Field(alias="from")
    amount: Decimal
    method: Card | Cash = Field(discriminator="kind")
    note: str = ""

    @computed_field
    def twice(self) -> Decimal:
        return 2 * self.amount

    @cached_property
    def thrice(self) -> Decimal:
        return 3 * self.amount

    def apply(self, documents: Documents, /) -> str:
        return f"{self.source.id} {self.amount} {self.method.kind} {self.thrice}"


def pay(amount: Decimal | int | str = 5, method: Card | Cash | None = None, **more: Any) -> Pay:
    return Pay(**{"from": "a", "amount": amount, "method": method or Card(amount=1), **more})


# --- what does not survive ------------------------------------------------------------------------

Cents = Annotated[int, BeforeValidator(lambda euros: round(Decimal(str(euros)) * 100))]
Rounded = Annotated[float, PlainSerializer(lambda number: round(number))]


class Deposit(Operation[int]):
    amount: Cents


class Login(Operation[None]):
    secret: SecretStr


class Quiet(Operation[None]):
    hidden: int = Field(0, exclude=True)


class Sell(Operation[None]):
    item: Item


class Many(Operation[None]):
    items: list[Item] = Field(default_factory=list)


class Anything(Operation[None]):
    it: Any


class Number(Operation[None]):
    number: float


class Loose(Operation[None]):
    amount: Rounded


@pytest.mark.parametrize(
    ("operation", "where"),
    [
        (Deposit(amount="5.00"), "amount"),
        (Login(secret="hunter2"), "secret"),
        (Quiet(hidden=7), "hidden"),
        (Sell(item=Book(name="n", isbn="i")), "item"),
        (Many(items=[Item(name="n"), Book(name="n", isbn="i")]), "items.1"),
        (Anything(it=Decimal("5.0")), "it"),
        (Anything(it={1: "one"}), "it"),
        (Anything(it=object()), "survive JSON"),
        (Anything(it={"a": [float("inf"), b"\xff"]}), "survive JSON"),
        (Loose(amount=1.5), "amount"),
    ],
    ids=lambda each: type(each).__name__ if isinstance(each, Operation) else "",
)
def test_arguments_that_would_come_back_as_others_are_refused(operation: Operation[Any], where: str) -> None:
    with CasOps.open("memory://") as casops:
        with pytest.raises(UsageError, match=where) as caught:
            casops.run(operation, operation_id="i")
        assert caught.value.happened is False
        assert caught.value.operation_id == "i"
        assert casops.outcome("i") is None


@pytest.mark.parametrize(
    "operation",
    [
        pay("5.10", Cash(amount=3), note="✓"),
        Anything(it=None),
        Anything(it=[1, {"a": "b"}, 1.5, True]),
        Number(number=float("nan")),
        Number(number=float("-inf")),
        Many(items=(Item(name="a"),)),
        Reward(accounts={"a", "b"}),
        Deposit(amount=0),
    ],
    ids=lambda each: type(each).__name__,
)
def test_other_arguments_come_back(operation: Operation[Any]) -> None:
    text = text_of_arguments(operation)
    again = restored(operation, text)
    assert type(operation).model_validate_json(text) == again or "NaN" in text
    assert fingerprint_of(again) == fingerprint_of(operation)


def test_an_alias_and_a_computed_field_do_no_harm() -> None:
    with CasOps.open("memory://") as casops:
        assert casops.run(pay(), operation_id="i") == "a 5 card 15"
        assert casops.run(pay(), operation_id="i") == "a 5 card 15"


class Moment(Operation[None]):
    at: datetime


@pytest.mark.parametrize("fold", [0, 1])
@pytest.mark.parametrize("at", [(2024, 10, 27, 2, 30), (2024, 3, 31, 2, 30), (2024, 7, 1, 12, 0)])
def test_an_hour_that_comes_twice_or_never(at: tuple[int, int, int, int, int], fold: int) -> None:
    """Nothing of another zone is ever equal to it (PEP 495), not even what it becomes in JSON."""
    moment = Moment(at=datetime(*at, tzinfo=ZoneInfo("Europe/Berlin"), fold=fold))
    again = restored(moment, text_of_arguments(moment))
    assert fingerprint_of(again) == fingerprint_of(moment)
    assert difference(moment.at, moment.at.astimezone(UTC) + timedelta(seconds=1)) == ""


class Typed(BaseModel):
    """Whose own code raises what pydantic passes on."""

    seconds: Annotated[
        timedelta, PlainSerializer(lambda each: each.total_seconds()), BeforeValidator(lambda each: each / 1)
    ]

    @field_validator("seconds", mode="before")
    @classmethod
    def _only(cls, value: Any) -> Any:
        return value.__truediv__(timedelta(seconds=1)) and value  # AttributeError or TypeError, of a number


class HasTyped(Operation[None]):
    typed: Typed


def test_whatever_a_model_raises_is_told_with_the_id() -> None:
    operation = HasTyped(typed=Typed(seconds=timedelta(seconds=3)))
    with CasOps.open("memory://") as casops, pytest.raises(UsageError, match="do not survive JSON") as caught:
        casops.run(operation, operation_id="i")
    assert caught.value.operation_id == "i"


class Taken(Operation[str], name="changing"):
    amount: Decimal

    def apply(self, documents: Documents) -> str:
        return "paid"


class Doubling(Operation[str], name="changing"):
    amount: Annotated[Decimal, AfterValidator(lambda amount: amount * 2)]

    def apply(self, documents: Documents) -> str:
        return "paid twice"


@pytest.mark.parametrize("stream_log", [False, True])
def test_what_has_ended_is_told_although_its_arguments_would_not_come_back_any_more(
    tmp_path: Path, stream_log: bool
) -> None:
    store = MemoryStore() if stream_log else SqliteStore(tmp_path / "a.db")
    before, after = CasOps(store), CasOps(store)  # of two versions of the application
    before.run(Taken(amount=Decimal(5)), operation_id="i")
    assert after.run(Doubling(amount=Decimal("2.5")), operation_id="i") == "paid"
    with pytest.raises(UsageError, match="do not survive JSON") as caught:
        after.run(Doubling(amount=Decimal("2.5")), operation_id="j")
    assert caught.value.happened is False
    assert after.outcome("j") is None
    with pytest.raises(OperationMismatch):
        after.run(Doubling(amount=Decimal(7)), operation_id="i")
    before.close()


@pytest.mark.parametrize("stream_log", [False, True])
def test_what_is_pending_is_not_said_not_to_have_happened(tmp_path: Path, stream_log: bool) -> None:
    store = MemoryStore() if stream_log else SqliteStore(tmp_path / "a.db")
    with CasOps(store) as casops:
        with pytest.raises(ZeroDivisionError):
            casops.run(Failing(amount=Decimal(5)), operation_id="i")
        with pytest.raises(UsageError, match="do not survive JSON") as caught:
            CasOps(store).run(Doubling(amount=Decimal("2.5")), operation_id="i")
        assert (caught.value.happened, caught.value.retry) == (None, True)


class Failing(Operation[str], name="changing"):
    amount: Decimal

    def apply(self, documents: Documents) -> str:
        raise ZeroDivisionError


class Filled(BaseModel):
    amount: int


class Purchase(Operation[int]):
    basket: Filled

    def apply(self, documents: Documents) -> int:
        return self.basket.amount


def test_what_is_changed_after_it_was_asked_for_is_not_carried_out() -> None:
    """Its fingerprint would be of one amount, and its effect of another one."""
    basket = Filled(amount=1)
    work = OperationWork(Purchase(basket=basket), "i")
    basket.amount = 2
    with pytest.raises(UsageError, match=r"basket\.amount would come back as something else"):
        work.evaluate({})
    with pytest.raises(UsageError, match=r"basket\.amount would come back as something else"):
        _ = work.arguments


# --- fingerprints ---------------------------------------------------------------------------------


def test_a_set_has_one_fingerprint_in_every_process() -> None:
    code = (
        "from tests.test_arguments import *\n"
        "print(fingerprint_of(Reward(accounts={'a', 'b', 'c', 'dd', 'ee'})),"
        " fingerprint_of(Anything(it=[1])), fingerprint_of(pay()))"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": str(seed), "PYTHONPATH": "."},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in range(4)
    }
    assert len(told) == 1


class Deep(Operation[None]):
    names: Names
    points: dict[str, Point]
    sets: list[frozenset[str]]
    amounts: tuple[Decimal, ...] = ()


def deep(names: list[str], amount: str = "1") -> Deep:
    return Deep(
        names=names,
        points={"p": Point(1, set(names))},
        sets=[frozenset(names)],
        amounts=[amount],
    )


def test_sets_and_amounts_deep_inside() -> None:
    many = [str(each) for each in range(100)]
    # The same elements, put in in another order, may stand in another order in the set.
    assert fingerprint_of(deep(many)) == fingerprint_of(deep(many[::-1]))
    assert fingerprint_of(deep(many, "1.0")) == fingerprint_of(deep(many))
    assert fingerprint_of(deep(many, "1.01")) != fingerprint_of(deep(many))
    assert fingerprint_of(deep(many[1:])) != fingerprint_of(deep(many))


@pytest.mark.parametrize(
    ("one", "other"),
    [("100", "100.00"), ("100", "1E+2"), ("0", "-0"), ("0.00", "0E+5"), ("-1.50", "-1.5"), ("1E+400", "10E+399")],
)
def test_equal_amounts_are_one_argument(one: str, other: str) -> None:
    assert Decimal(one) == Decimal(other)
    assert fingerprint_of(pay(one)) == fingerprint_of(pay(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("100", "10"),
        ("1.5", "-1.5"),
        ("100", "100.01"),
        ("1" * 40, "1" * 39 + "2"),  # more digits than the context has
        ("1E+400", "1E+401"),
    ],
)
def test_other_amounts_are_not(one: str, other: str) -> None:
    assert fingerprint_of(pay(one)) != fingerprint_of(pay(other))


def test_a_default_inside_of_an_argument_may_be_all_that_tells_it_from_another() -> None:
    with CasOps.open("memory://") as casops:
        assert casops.run(pay(method=Card(amount=5)), operation_id="i") == "a 5 card 15"
        with pytest.raises(OperationMismatch, match="outcome"):
            casops.run(pay(method=Cash(amount=5)), operation_id="i")


class Amount(BaseModel):
    """Tells its currency in one text with its number."""

    value: Decimal
    currency: str

    @model_serializer
    def _told(self) -> dict[str, str]:
        return {"value": f"{self.value} {self.currency}", "currency": ""}

    @model_validator(mode="before")
    @classmethod
    def _read(cls, given: Any) -> Any:
        if isinstance(given, dict) and " " in str(given["value"]):
            value, _, currency = str(given["value"]).partition(" ")
            return {"value": value, "currency": currency}
        return given


Sorted = Annotated[dict[str, Decimal], PlainSerializer(lambda each: {name: str(each[name]) for name in sorted(each)})]


class Wide(Operation[None]):
    model_config = ConfigDict(serialize_by_alias=True, populate_by_name=True)

    amount: Amount = Amount(value=Decimal(0), currency="EUR")
    by_name: Sorted = Field(default_factory=dict)
    line: deque[Decimal] = Field(default_factory=deque)
    prices: dict[Decimal, frozenset[str]] = Field(default_factory=dict, alias="pricesOfAll")
    root: Outer = Field(default_factory=lambda: Outer.model_validate([]))
    flag: Any = 1
    fee: Decimal = 1  # type: ignore[assignment]
    entity: Entity | None = None
    whose: Anybody = Field(default_factory=lambda: Anybody(iban="x"))


class Inner(RootModel[list[Decimal]]):
    pass


class Outer(RootModel[Inner]):
    pass


class Anybody(BaseModel):
    iban: str
    balance: int = 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Anybody) and self.iban == other.iban

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"amount": Amount(value=Decimal(5), currency="EUR")}, {"amount": Amount(value=Decimal(5), currency="USD")}),
        ({"by_name": {"b": 2, "a": 1}}, {"by_name": {"a": 2, "b": 1}}),
        ({"whose": Anybody(iban="x", balance=99)}, {}),
        ({"flag": True}, {"flag": 1}),
        ({"flag": [True]}, {"flag": [1]}),
        ({"line": ["1", "2"]}, {"line": ["2", "1"]}),
    ],
)
def test_other_arguments_have_another_fingerprint(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert fingerprint_of(Wide(**one)) != fingerprint_of(Wide(**other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"line": ["5"]}, {"line": ["5.00"]}),
        ({"prices": {"5": ["a", "b"]}}, {"prices": {"5.00": ["b", "a"]}}),
        ({"prices": {"5": list("abcdef")}}, {"pricesOfAll": {"5": list("fedcba")}}),
        ({"root": ["5"]}, {"root": ["5.0"]}),
        ({"fee": 1}, {}),
        ({"fee": "1.0"}, {}),
        ({"flag": 1}, {}),
    ],
)
def test_equal_arguments_have_one_fingerprint(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert fingerprint_of(Wide(**one)) == fingerprint_of(Wide(**other))


class OneText(Operation[str]):
    a: str
    b: str

    @model_serializer
    def _told(self) -> str:
        return f"{self.a}/{self.b}"

    @model_validator(mode="before")
    @classmethod
    def _read(cls, given: Any) -> Any:
        return dict(zip("ab", given.split("/"), strict=True)) if isinstance(given, str) else given

    def apply(self, documents: Documents, /) -> str:
        return self.a + self.b


def test_an_operation_may_be_one_text() -> None:
    with CasOps.open("memory://") as casops:
        for _ in range(2):
            assert casops.run(OneText(a="x", b="y"), operation_id="i") == "xy"
        with pytest.raises(OperationMismatch):
            casops.run(OneText(a="x", b="z"), operation_id="i")


def test_an_argument_at_its_default_does_not_count() -> None:
    class Older(Operation[None], name="Growing"):
        amount: int

    class Newer(Operation[None], name="Growing"):
        amount: int
        note: str = ""
        tags: list[str] = Field(default_factory=list)

    assert fingerprint_of(Older(amount=1)) == fingerprint_of(Newer(amount=1))
    assert fingerprint_of(Older(amount=1)) != fingerprint_of(Newer(amount=1, note="n"))


def test_apply_must_not_use_up_its_arguments() -> None:
    class PayAll(Operation[int]):
        accounts: list[str]

        def apply(self, documents: Documents, /) -> int:
            paid = 0
            while self.accounts:
                documents.create(Account.ref(self.accounts.pop()), Account(balance=Decimal(1)))
                paid += 1
            return paid

    class Refuse(PayAll):
        def apply(self, documents: Documents, /) -> int:
            if not self.accounts:
                raise Declined("nothing to pay")
            documents.get(Account.ref(self.accounts.pop()))  # here it is interrupted, and runs again
            return 1

    class Stumble(PayAll):
        def apply(self, documents: Documents, /) -> int:
            documents.get(Account.ref(self.accounts.pop()))
            return len(str(self.accounts.pop()))

    for model in (PayAll, Refuse, Stumble):
        with CasOps.open("memory://") as casops:
            with pytest.raises(UsageError, match="must not change its arguments"):
                casops.run(model(accounts=["a", "b"]), operation_id="i")
            assert casops.outcome("i") is None
            assert casops.read(Account.ref("a")) is None


# --- documents ------------------------------------------------------------------------------------


class Entity(Document, collection="entities"):
    """Equal by its number, as some like their entities."""

    iban: str
    balance: int
    points: list[Point] = Field(default_factory=list)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Entity) and self.iban == other.iban

    __hash__ = None  # type: ignore[assignment]


class OpenEntity(Operation[None]):
    entity: Ref[Entity]

    def apply(self, documents: Documents, /) -> None:
        documents.create(self.entity, Entity(iban="x", balance=100, points=[Point(1)]))


class Withdraw(Operation[int]):
    entity: Ref[Entity]
    amount: int

    def apply(self, documents: Documents, /) -> int:
        entity = documents[self.entity]
        entity.balance -= self.amount
        entity.points[0].seen.add(str(self.amount))  # which no comparison of points sees
        return entity.balance


@pytest.mark.parametrize("url", ["memory://", "sqlite"])
def test_a_change_counts_whatever_the_model_takes_for_equal(url: str, tmp_path: Any) -> None:
    with CasOps.open(url if "://" in url else f"sqlite:///{tmp_path}/x.db") as casops:
        casops.run(OpenEntity(entity="e"), operation_id="open")
        assert casops.run(Withdraw(entity="e", amount=60), operation_id="i") == 40
        assert casops.run(Withdraw(entity="e", amount=0), operation_id="j") == 40
        entity = casops.read(Entity.ref("e"))
        assert entity is not None
        assert (entity.balance, entity.points[0].seen) == (40, {"60", "0"})


def document(name: str, **fields: Any) -> type[Document]:
    return type(
        name,
        (Document,),
        {
            "__module__": __name__,
            "__annotations__": {each: told[0] for each, told in fields.items()},
            **{each: told[1] for each, told in fields.items() if len(told) > 1},
        },
        collection="things",
    )


@pytest.mark.parametrize(
    ("fields", "given"),
    [
        ({"x": (Decimal, Field(0, validation_alias="in", serialization_alias="out"))}, {"in": 5}),
        ({"x": (Item,)}, {"x": Book(name="n", isbn="i")}),
        ({"x": (list[Item],)}, {"x": [Book(name="n", isbn="i")]}),
        ({"x": (SecretStr,)}, {"x": "hunter2"}),
        ({"x": (Decimal, Field(0, exclude=True))}, {"x": 7}),
        ({"x": (Any,)}, {"x": Decimal("5.0")}),
        ({"x": (float | None,)}, {"x": float("inf")}),
        ({"x": (Rounded,)}, {"x": 1.5}),
        ({"x": (Cents,)}, {"x": 5.5}),
    ],
)
def test_a_document_that_would_come_back_as_another_is_not_written(
    fields: dict[str, Any], given: dict[str, Any]
) -> None:
    model = document("Thing", **fields)

    class Make(Operation[None]):
        def apply(self, documents: Documents, /) -> None:
            documents.create(model.ref("t"), model(**given))

    with CasOps.open("memory://") as casops:
        with pytest.raises(InvalidDocument, match=r"(x|x\.0|it) would come back|invalid as"):
            casops.run(Make(), operation_id="i")
        assert casops.read(model.ref("t")) is None


Bare = Annotated[str, StringConstraints(strip_whitespace=True)]


class Address(BaseModel):
    street: Bare
    number: int = 1


class Tags(RootModel[list[Bare]]):
    pass


@dataclass
class Place:
    x: int


class Order(Document, collection="orders"):
    customer: Bare
    address: Address = Address(street="s")
    places: list[Place] = Field(default_factory=lambda: [Place(1)])
    note: Bare = Field("", validation_alias=AliasChoices("comment", "remark"), serialization_alias="comment")
    tags: Tags = Field(default_factory=lambda: Tags(["t"]))
    others: dict[str, Address] = Field(default_factory=lambda: {"o": Address(street="o")})
    anything: Any = 1
    prices: list[Decimal]
    total: Decimal = Field(Decimal(0), alias="sum")
    first: Item | None = None

    @model_validator(mode="after")
    def _sum(self) -> Self:
        self.total = sum(self.prices, Decimal(0))
        return self


class Fill(Operation[None]):
    order: Ref[Order]

    def apply(self, documents: Documents, /) -> None:
        order = documents.get(self.order) or documents.create(
            self.order, Order.model_validate({"customer": "Ann", "prices": []})
        )
        order.customer = f" {order.customer} "
        order.prices.append(Decimal(5))
        order.first = {"name": "n"}  # type: ignore[assignment]
        order.address.street += " "
        order.address.number = "7"  # type: ignore[assignment]
        order.places[0].x = "8"  # type: ignore[assignment]
        order.note = " n"
        order.tags.root[0] += " "
        order.others["o"].street += " "
        setattr(order, "more", 1)  # noqa: B010 - which the model does not know


def test_what_its_model_makes_of_a_document_is_stored() -> None:
    with CasOps.open("memory://") as casops:
        for number in (1, 2):
            casops.run(Fill(order="o"), operation_id=f"i{number}")
            order = casops.read(Order.ref("o"))
            assert order is not None
            assert (order.customer, order.total, order.first) == ("Ann", Decimal(5 * number), Item(name="n"))
            assert (order.address, order.places, order.note) == (Address(street="s", number=7), [Place(8)], "n")
            assert (order.tags, order.others) == (Tags(["t"]), {"o": Address(street="o")})
            body = casops._store.versions()[Order.ref("o").key]  # type: ignore[attr-defined]
            told = json.loads((body.stage.body if body.stage else None) or body.body or "")
            assert (told["customer"], told["sum"], told["more"]) == ("Ann", str(5 * number), 1)


class Say(Operation[None]):
    order: Ref[Order]

    def apply(self, documents: Documents, /) -> None:
        documents[self.order].anything = True  # which is 1, as Python has it


def test_what_is_equal_and_stored_otherwise_is_a_change() -> None:
    with CasOps.open("memory://") as casops:
        casops.run(Fill(order="o"), operation_id="fill")
        casops.run(Say(order="o"), operation_id="say")
        order = casops.read(Order.ref("o"))
        assert order is not None
        assert order.anything is True


class Strange(Document, collection="strange"):
    typed: Typed | None = None


class MakeStrange(Operation[None]):
    def apply(self, documents: Documents, /) -> None:
        documents.create(Strange.ref("s"), Strange(typed=Typed(seconds=timedelta(seconds=3))))


def test_whatever_the_model_of_a_document_raises_is_told_as_that() -> None:
    with CasOps.open("memory://") as casops:
        with pytest.raises(InvalidDocument, match="strange/s invalid as Strange"):
            casops.run(MakeStrange(), operation_id="i")
        assert casops.outcome("i") is None


def test_what_was_only_looked_at_stays_as_it_is() -> None:
    """Also where it could not be written: another program may have done so."""
    model = document("Thing", x=(SecretStr,))

    class Look(Operation[str]):
        def apply(self, documents: Documents, /) -> str:
            return documents[model.ref("t")].x.get_secret_value()  # type: ignore[attr-defined, no-any-return]

    from casops.messages import Insert
    from casops.stores.memory import MemoryStore

    store = MemoryStore()
    store.perform([Insert(model.ref("t").key, '{"x":  "hunter2"}')])
    with CasOps(store) as casops:
        assert casops.run(Look(), operation_id="i") == "hunter2"
    assert store.versions()[model.ref("t").key].body == '{"x":  "hunter2"}'


@dataclass(frozen=True)
class Named:
    name: str
    number: int = field(default=0, compare=False)


class Plain:
    def __init__(self, x: int) -> None:
        self.x = x


class Box(BaseModel, Generic[T]):
    x: T


# --- what is the same -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "where"),
    [
        (1, 1.0, None),
        ([1, 2], (1, 2), None),
        (float("nan"), float("nan"), None),
        (Decimal("NaN"), Decimal("NaN"), None),
        ({"a": [1, {"b": 2}]}, {"a": [1, {"b": 2}]}, None),
        ({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]}, "a.1.b"),
        ({"a": 1}, {"a": 1, "b": 2}, ""),
        ([1], [1, 2], ""),
        ("1", 1, ""),
        (Point(1, {"a"}), Point(1, {"b"}), "seen"),
        (Point(1), Card(amount=1), ""),
        (Euros(1), Dollars(1), ""),
        (Euros(1), (1,), None),
        (Bank.MAIN, Till.MAIN, ""),
        (Bank.MAIN, "main", None),
        (Money[EUR](amount=1), Money[USD](amount=1), ""),
        (Item(name="n"), Book(name="n", isbn="i"), ""),
        (Account.model_validate({"balance": 1, "more": 2}), Account.model_validate({"balance": 1, "more": 3}), "more"),
        (Account.model_validate({"balance": 1, "more": 2}), Account.model_validate({"balance": 1}), ""),
        (deque([1]), [1], None),
        ({1, 2}, frozenset({2, 1}), None),
        ({1, 2}, {1, 3}, ""),
        ({Named("n")}, {Named("n")}, None),
        ({Named("n", 1)}, {Named("n", 2)}, ""),
        (Plain(1), Plain(1), None),
        (Plain(1), Plain(2), "x"),
        (Box[int](x=1), Box(x=1), None),
        (Box[int](x=1), Box(x=2), "x"),
    ],
)
def test_where_two_differ(a: Any, b: Any, where: str | None) -> None:
    assert difference(a, b) == where
    assert difference(b, a) == where


# --- other things an operation may be -------------------------------------------------------------


class Code(str, Enum):  # noqa: UP042 - whose str() is not its value
    NSF = "insufficient_funds"


def test_a_refusal_by_an_enum_is_recorded_by_its_value() -> None:
    class Refuse(Operation[None]):
        def apply(self, documents: Documents, /) -> None:
            raise Declined(Code.NSF)

    with CasOps.open("memory://") as casops:
        for _ in range(2):
            with pytest.raises(Declined) as caught:
                casops.run(Refuse(), operation_id="i")
            assert caught.value.code == Code.NSF.value
            assert str(caught.value) == "declined: insufficient_funds [operation i]"


class WithPrivate(BaseModel):
    n: int
    _lock: object = PrivateAttr(default_factory=object)


def test_what_is_private_in_a_result_is_no_data() -> None:
    class Give(Operation[WithPrivate]):
        def apply(self, documents: Documents, /) -> WithPrivate:
            return WithPrivate(n=1)

    with CasOps.open("memory://") as casops:
        assert casops.run(Give(), operation_id="i").n == 1


def test_stop_iteration_of_business_code_is_an_error_like_others() -> None:
    class Find(Operation[int]):
        def apply(self, documents: Documents, /) -> int:
            return next(each for each in (1, 2) if each > 2)

    with CasOps.open("memory://") as casops:
        with pytest.raises(RuntimeError, match="apply raised StopIteration") as caught:
            casops.run(Find(), operation_id="i")
        assert isinstance(caught.value.__cause__, StopIteration)
        assert "is pending" in str(caught.value.__notes__)


class Audited(Operation[T], Generic[T]):
    why: str


class ListOf(Audited[list[T]], Generic[T]):
    pass


class PageOf(Operation[Box[U]], Generic[U]):
    pass


class Pair(Operation[dict[str, T]], Generic[T]):
    pass


def test_the_result_of_generic_bases() -> None:
    class Move(Audited[Item]):
        pass

    class Numbers(ListOf[int]):
        pass

    class Named(Pair[Decimal]):
        pass

    class Generics(Operation[Item], Generic[T]):
        n: T

    class Pages(PageOf[Decimal]):
        pass

    assert result_type(Pages) is Box[Decimal]
    assert result_type(Move) is Item
    assert result_type(Numbers) == list[int]
    assert result_type(Named) == dict[str, Decimal]
    assert result_type(Generics[int]) is Item
    for base in (Audited, ListOf, Pair):
        with pytest.raises(UsageError, match="does not say what its result is"):
            result_type(base)


class Color(Enum):
    RED = "red"
    BLUE = 7


class Car(Document, collection="cars"):
    color: Color


class Paint(Operation[Color]):
    """A member of a plain Enum leads to its class, and so to itself again."""

    car: Ref[Car]
    color: Color

    def apply(self, documents: Documents) -> Color:
        car = documents.get(self.car) or documents.create(self.car, Car(color=Color.RED))
        before, car.color = car.color, self.color
        return before


def test_members_of_an_enum_are_arguments_documents_and_results() -> None:
    with CasOps.open("memory://") as casops:
        assert casops.run(Paint(car="k", color=Color.BLUE), operation_id="1") is Color.RED
        assert casops.run(Paint(car="k", color=Color.RED), operation_id="2") is Color.BLUE
        assert casops.run(Paint(car="k", color=Color.BLUE), operation_id="1") is Color.RED
        car = casops.read(Car.ref("k"))
        assert car is not None
        assert car.color is Color.RED
    assert difference(Color.RED, Color.BLUE) is not None
