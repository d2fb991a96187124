"""At the border of business code: what comes in is what would come in elsewhere, and what is kept is what was meant."""

from __future__ import annotations

import dataclasses
import json
import random
from decimal import Context, Decimal
from typing import Annotated, Any

import pytest
from pydantic import AliasPath, BaseModel, BeforeValidator, Field, PlainSerializer

from casops import (
    Cancelled,
    CasOps,
    Declined,
    Document,
    Documents,
    Expired,
    InvalidDocument,
    Operation,
    OperationMismatch,
    Ref,
    UsageError,
    new_operation_id,
)
from casops.messages import Insert, Key, Read, Replace, Stored, Version
from casops.numbers import check_numbers
from casops.stores.memory import MemoryStore
from tests.bank import Account, Echo, Open
from tests.conftest import QUICK, Bank


class Patch(BaseModel):
    note: str | None = None
    balance: Decimal | None = None


class Update(Operation[list[str]]):
    account: Ref[Account]
    patch: Patch

    def apply(self, documents: Documents) -> list[str]:
        documents.get(self.account)
        return sorted(self.patch.model_fields_set)


async def test_apply_gets_the_arguments_that_a_sweep_or_a_server_would_get(bank: Bank) -> None:
    """Which fields were set does not survive JSON: it was one thing at home and another one everywhere else."""
    casops = bank.open()
    assert await casops.run(Update(account="a", patch=Patch(note="x")), operation_id="u") == ["balance", "note"]


class Early(Document, collection="early"):
    points: int = Field(default=0, validation_alias="pts")


class Deep(Document, collection="deep"):
    points: int = Field(default=0, validation_alias=AliasPath("in", "there"))


class Inner(BaseModel, extra="allow"):
    points: int = Field(default=0, validation_alias="pts")


class Ignoring(BaseModel):
    points: int = Field(default=0, validation_alias="pts")


class Outer(Document, collection="outer"):
    inner: Inner


class Third(Document, collection="third"):
    inner: Ignoring


class Create(Operation[None]):
    which: int

    def apply(self, documents: Documents) -> None:
        if self.which == 0:
            documents.create(Early.ref("a"), Early.model_validate({"pts": 500}))
        elif self.which == 1:
            documents.create(Deep.ref("a"), Deep.model_validate({"in": {"there": 500}}))
        elif self.which == 2:
            documents.create(Outer.ref("a"), Outer(inner=Inner.model_validate({"pts": 500})))
        elif self.which == 3:
            documents.create(Third.ref("a"), Third(inner=Ignoring.model_validate({"pts": 500})))
        else:
            documents.create(Early.ref("a"), Early())


async def test_nothing_that_is_lost_is_no_error(bank: Bank) -> None:
    casops = bank.open()
    await casops.run(Create(which=4), operation_id="c")
    assert (await casops.read(Early.ref("a"))).points == 0


@pytest.mark.parametrize("which", range(4))
async def test_a_value_that_comes_back_under_a_name_nobody_reads_is_not_stored(bank: Bank, which: int) -> None:
    """500 points came back as none, and as a field that the model does not know, of the same name."""
    with pytest.raises(InvalidDocument, match="points would come back from JSON as something else"):
        await bank.open().run(Create(which=which), operation_id="c")


class Count(Document, collection="counts"):
    n: int


class Add(Operation[int]):
    count: Ref[Count]

    def apply(self, documents: Documents) -> int:
        documents[self.count].n += 1
        return documents[self.count].n


@pytest.mark.parametrize(
    "number",
    [
        "90071992547409931.37",
        "9007199254740993.1",
        "-0.12345678901234567890",
        "1234567890123456.78e1",
        "1.00000000000000e999",
    ],
)
async def test_a_number_that_would_be_rounded_is_not_touched(bank: Bank, number: str) -> None:
    casops = bank.open()
    body = f'{{"n":0,"another_programs":{{"amount":[{number}]}}}}'
    (reply,) = bank.stranger().perform([Insert(Key("counts", "a"), body)])
    assert isinstance(reply, Stored)
    with pytest.raises(InvalidDocument, match="store it as text"):
        await casops.run(Add(count="a"), operation_id="i")
    assert await casops.pending() == []


@pytest.mark.parametrize("number", ["1e-400", "1.234567e-320", "1E-0400"])
def test_a_small_number_that_no_double_says_is_one_that_would_be_rounded(number: str) -> None:
    with pytest.raises(ValueError, match="would be rounded"):
        check_numbers(f'{{"x":{number}}}')


@pytest.mark.parametrize(
    "number",
    [
        "0.1",
        "52.520006600000002",
        "0.1000000000000000055511151231257827",
        "123456789012345678901234567890",
        "1E5",
        "-0.0",
    ],
)
def test_what_a_double_says_is_no_harm(number: str) -> None:
    check_numbers(json.dumps({"iban": "DE89370400440532013000"}))
    check_numbers(f'{{"a":[{number}]}}')


def test_the_quick_look_at_numbers_lets_none_through_that_would_be_rounded() -> None:
    chance = random.Random(7)
    refused = 0
    for _ in range(3_000):
        digits = "".join(chance.choice("0123456789") for _ in range(chance.randint(1, 20)))
        point = chance.randint(0, len(digits))
        text = f"{int(digits[:point] or 0)}.{digits[point:] or 0}"
        exponent = chance.randint(-340, 280)  # beyond it is infinity, which nothing that is written may hold
        text += chance.choice(["", "", f"{chance.choice('eE')}{exponent}"])
        exact, double = Decimal(text), float(text)
        said = [Decimal(repr(double)), Context(prec=max(len(exact.as_tuple().digits), 1)).create_decimal(double)]
        try:
            check_numbers(f'[{{"x":{text}}}]')
            assert exact in said, text
        except ValueError:
            assert exact not in said, text
            refused += 1
    assert 300 < refused < 2_700  # of either kind there are many


class Faulty(Exception):
    def __str__(self) -> str:
        return str(self.args[1])


class Raises(Operation[None]):
    account: Ref[Account]

    def apply(self, documents: Documents) -> None:
        documents.get(self.account)
        raise ERRORS[0]


ERRORS: list[Exception] = []


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (Faulty("a"), "Faulty: (what it says cannot be told)"),
        (RuntimeError("\ud800"), "RuntimeError: ?"),
    ],
    ids=["its own fault", "half a pair"],
)
async def test_an_exception_that_cannot_be_told_is_counted_and_passed_on(
    bank: Bank, error: Exception, told: str
) -> None:
    casops = bank.open(dataclasses.replace(QUICK, park_after=2), operations=[Raises])
    ERRORS[:] = [error]
    with pytest.raises(type(error)) as raised:
        await casops.run(Raises(account="a"), operation_id="r")
    assert raised.value is error
    for _ in range(3):
        await casops.recover()
    (left,) = await casops.pending()
    assert (left.failures, left.last_error, left.parked) == (2, told, True)


class Many(Operation[int]):
    accounts: list[Ref[Account]]
    few: bool = False

    def apply(self, documents: Documents) -> int:
        return sum(documents.get(each) is None for each in self.accounts[-3 if self.few else 0 :])


async def test_an_operation_that_names_more_documents_than_it_may_look_at(bank: Bank) -> None:
    casops = bank.open()
    with pytest.raises(UsageError, match="256 documents at most; nothing happened"):
        await casops.run(Many(accounts=[str(each) for each in range(257)]), operation_id="m")
    assert await casops.pending() == []
    assert await casops.run(Many(accounts=["a"] * 300), operation_id="m") == 300
    names = [str(each) for each in range(300)]
    assert await casops.run(Many(accounts=names, few=True), operation_id="few") == 3


async def test_an_old_id_is_old_in_capitals(bank: Bank) -> None:
    old = "019000d5-3c00-7abc-8def-0123456789ab"  # of June 2024
    casops = bank.open()
    for each in (old, old.upper()):
        with pytest.raises(Expired):
            await casops.run(Echo(), operation_id=each)
    assert await casops.run(Echo(value=1), operation_id=new_operation_id().upper()) == 1


async def test_who_comes_when_it_is_closed_is_not_told_that_it_did_not_happen(bank: Bank) -> None:
    casops = bank.open()
    await casops.run(Open(account="a"), operation_id="o")
    await casops.close()
    with pytest.raises(UsageError, match="is closed; nothing was asked") as told:
        await casops.run(Open(account="a"), operation_id="o")
    assert (told.value.happened, told.value.retry) == (None, True)


class Refunds(Operation[None]):
    def apply(self, documents: Documents) -> None:
        raise Declined("already_refunded", operation_id="order-1", code="x", self="y")


async def test_any_name_is_a_detail(bank: Bank) -> None:
    casops = bank.open()
    for _ in range(2):
        with pytest.raises(Declined) as told:
            await casops.run(Refunds(), operation_id="refund-1")
        assert told.value.details == {"operation_id": "order-1", "code": "x", "self": "y"}
        assert (told.value.operation_id, told.value.code) == ("refund-1", "already_refunded")


class Exceptional(Operation[Exception]):
    def apply(self, documents: Documents) -> Exception:
        return ValueError()


class Anything(Operation[BaseModel]):
    def apply(self, documents: Documents) -> BaseModel:
        return Patch()


def test_a_result_whose_type_pydantic_does_not_know() -> None:
    with CasOps.open("memory://") as casops:
        with pytest.raises(UsageError, match="pydantic cannot take the result of Exceptional"):
            casops.run(Exceptional(), operation_id="e")
        with pytest.raises(InvalidDocument, match="result"):
            casops.run(Anything(), operation_id="a")
        assert casops.pending() == []


class Says(Operation[None]):
    what: str

    def apply(self, documents: Documents) -> None:
        raise {"Cancelled": Cancelled, "Expired": Expired, "OperationMismatch": OperationMismatch}[self.what]("no")


@pytest.mark.parametrize("what", ["Cancelled", "Expired", "OperationMismatch"])
async def test_apply_does_not_speak_for_the_id(bank: Bank, what: str) -> None:
    """Told as it is it would mean: never.  But nothing of it is recorded, and asked again it might happen."""
    casops = bank.open(QUICK)
    with pytest.raises(UsageError, match=f"apply raised {what}, .* raise Declined"):
        await casops.run(Says(what=what), operation_id="s")


class Other(Document, collection="accounts"):
    balance: Decimal


async def test_a_snapshot_of_one_document_as_two_models(bank: Bank) -> None:
    casops = bank.open(QUICK)
    with pytest.raises(UsageError, match="both as Account and as Other"):
        await casops.snapshot([Account.ref("a"), Other.ref("a")])


class Sensor(Document, collection="sensors"):
    value: float
    count: int = 0


class Look(Operation[int]):
    sensor: Ref[Sensor]

    def apply(self, documents: Documents) -> int:
        documents[self.sensor].count += 1
        return documents[self.sensor].count


@pytest.mark.parametrize(
    "body", ['{"value":9007199254740993,"id":9007199254740993}', '{"value":-18014398509481987,"count":0}']
)
async def test_a_whole_number_that_would_be_rounded_in_a_float_is_not_touched(bank: Bank, body: str) -> None:
    casops = bank.open()
    (reply,) = bank.stranger().perform([Insert(Key("sensors", "a"), body)])
    assert isinstance(reply, Stored)
    with pytest.raises(InvalidDocument, match="would be rounded"):
        await casops.run(Look(sensor="a"), operation_id="i")


@pytest.mark.parametrize(
    "more",
    ['"value":9007199254740992', '"value":1,"id":9007199254740993', '"value":9007199254740992,"id":[9007199254740993]'],
)
async def test_a_whole_number_that_is_kept_is_no_harm(bank: Bank, more: str) -> None:
    """In a field that the model does not know it stays a whole number, whatever its size."""
    casops, store = bank.open(), bank.stranger()
    store.perform([Insert(Key("sensors", "a"), f"{{{more}}}")])
    assert await casops.run(Look(sensor="a"), operation_id="i") == 1
    assert await casops.read(Sensor.ref("a")) is not None


class Mixed(Document, collection="mixed"):
    whole: int = 0
    yes: bool = False
    exact: Decimal = Decimal(0)


class Fill(Operation[int]):
    mixed: Ref[Mixed]

    def apply(self, documents: Documents) -> int:
        mixed: Any = documents.create(self.mixed, Mixed())
        mixed.whole, mixed.yes, mixed.exact = Decimal(5), 1, 7
        given: Any = Decimal(3)
        return given  # type: ignore[no-any-return]


async def test_what_is_stored_and_recorded_is_as_the_type_has_it(bank: Bank) -> None:
    """Nothing is validated when it is assigned: other programs found "5" where the model says a number."""
    casops = bank.open()
    outcome = await casops.execute(Fill(mixed="a"), operation_id="i")
    assert (outcome.result, outcome.recorded, type(outcome.recorded)) == (3, 3, int)
    await casops.close()
    (found,) = bank.stranger().perform([Read(Key("mixed", "a"))])
    assert isinstance(found, Version)
    assert isinstance(found.body, str)
    assert json.loads(found.body) == {"whole": 5, "yes": True, "exact": "7"}
    assert '"yes":true' in found.body


# Written as 5 only as long as it is a Decimal.
Odd = Annotated[int, BeforeValidator(int), PlainSerializer(lambda value: 5 if isinstance(value, Decimal) else 7)]


class Wavers(Operation[Odd]):
    def apply(self, documents: Documents) -> int:
        given: Any = Decimal(5)
        return given  # type: ignore[no-any-return]


def test_a_result_that_would_not_stay_what_its_type_makes_of_it_is_refused() -> None:
    with CasOps.open("memory://") as casops, pytest.raises(InvalidDocument, match="would come back from JSON"):
        casops.run(Wavers(), operation_id="i")


class Tolerant(Operation[bool]):
    """Goes by that a document does not fit its model."""

    account: Ref[Account]
    flag: Ref[Account]
    refuses: bool = False

    def apply(self, documents: Documents) -> bool:
        runs.append(1)
        try:
            documents.get(self.account)
        except InvalidDocument:
            if len(runs) == 1:
                mend(self.account)
            if self.refuses:
                documents.get(self.flag)
                raise Declined("damaged") from None
            documents.create(self.flag, Account(balance=Decimal(0)))
            return False
        return True


runs: list[int] = []


def mend(account: Ref[Account]) -> None:
    (found,) = mended.perform([Read(account.key)])
    assert isinstance(found, Version)
    mended.perform([Replace(account.key, found.cas, '{"balance":"1"}')])


mended = MemoryStore()


@pytest.mark.parametrize("refuses", [False, True])
def test_a_document_that_does_not_fit_its_model_is_looked_at_like_any_other(refuses: bool) -> None:
    """It was mended before the operation was written, which had gone by what it was, and happened all the same."""
    runs.clear()
    account = f"a-{refuses}"
    mended.perform([Insert(Key("accounts", account), '{"balance":"none"}')])
    with CasOps(mended, options=QUICK) as casops:
        tolerant = Tolerant(account=account, flag="f", refuses=refuses)
        assert casops.run(tolerant, operation_id=account) is True
        assert len(runs) == 2
        assert casops.read(Account.ref("f")) is None


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


class Nest(Operation[Any]):
    account: Ref[Account]
    levels: int
    refuses: bool = False

    def apply(self, documents: Documents) -> Any:
        documents.create(self.account, Account(balance=Decimal(0)))
        if self.refuses:
            raise Declined("no", why=nested(self.levels))
        return nested(self.levels)


@pytest.mark.parametrize("refuses", [False, True])
async def test_what_is_nested_deeply_can_be_read_again_or_is_refused(bank: Bank, refuses: bool) -> None:
    """It was recorded once, and then nobody could read the record, nor use the document, nor sweep."""
    casops = bank.open()
    ended = refused = 0
    for levels in (100, *range(170, 205)):
        nest = Nest(account=f"a{levels}", levels=levels, refuses=refuses)
        try:
            first = await casops.execute(nest, operation_id=f"i{levels}")
        except UsageError:
            refused += 1
            assert await casops.outcome(f"i{levels}") is None
        else:
            ended += 1
            again = await casops.execute(nest, operation_id=f"i{levels}")
            assert (again.replayed, again.recorded) == (True, first.recorded)
            assert (await casops.outcome(f"i{levels}")).status == first.status
    assert ended > 5
    assert refused > 5
    await casops.recover()
    assert await casops.pending() == []


@pytest.mark.parametrize("refuses", [False, True])
def test_a_result_leaves_room_for_what_is_still_to_be_recorded(monkeypatch: pytest.MonkeyPatch, refuses: bool) -> None:
    monkeypatch.setattr("casops.business.MAX_RESULT", 300)
    with CasOps.open("memory://") as casops:
        casops.run(Nest(account="a", levels=100), operation_id="i")
        with pytest.raises(UsageError, match="300 are allowed"):
            casops.run(Nest(account="b", levels=160, refuses=refuses), operation_id="j")
        assert casops.outcome("j") is None
