"""What a user writes, checked by mypy and pyright in strict mode and never run.

`assert_type` fails in the type checker if the user's own code got the wrong type.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, assert_type

from pydantic import BaseModel, ConfigDict, Field

from casops import AsyncCasOps, CasOps, Declined, Document, Documents, Operation, Outcome, Pending, Ref
from casops.client import AsyncClient, Client, ClientOptions, Notice, Recovered


class Account(Document, collection="accounts"):
    balance: Annotated[Decimal, Field(ge=0)]


class Receipt(BaseModel):
    left: Decimal


class Transfer(Operation[Receipt]):
    source: Ref[Account]
    target: Ref[Account]
    amount: Annotated[Decimal, Field(gt=0)]

    def apply(self, documents: Documents) -> Receipt:
        source, target = documents[self.source], documents[self.target]
        assert_type(source, Account)
        assert_type(documents.get(self.target), Account | None)
        assert_type(self.amount, Decimal)
        if source.balance < self.amount:
            raise Declined("insufficient_funds", balance=source.balance)
        source.balance -= self.amount
        target.balance += self.amount
        assert_type(documents.create(Account.ref("new"), Account(balance=Decimal(1))), Account)
        if self.source in documents:
            del documents[self.source]
        return Receipt(left=source.balance)


class Count(Operation[int]):
    """With all that pydantic lets a model of one's own have."""

    model_config = ConfigDict(str_strip_whitespace=True)

    names: list[Ref[Account]]

    def model_post_init(self, context: Any, /) -> None:
        super().model_post_init(context)

    def apply(self, documents: Documents) -> int:
        return sum(1 for each in self.names if each in documents)


def sync() -> None:
    with CasOps.open("sqlite:///bank.db", operations=[Transfer, Count]) as casops:
        receipt = casops.run(Transfer(source="alice", target="bob", amount=100), operation_id="order-29401")
        assert_type(receipt, Receipt)
        outcome = casops.execute(Count(names=["alice"]), operation_id="i")
        assert_type(outcome, Outcome[int])
        assert_type(outcome.result, int)
        assert_type(casops.read(Account.ref("alice")), Account | None)
        snapshot = casops.snapshot([Account.ref("alice")])
        assert_type(snapshot[Account.ref("alice")], Account)
        found = casops.outcome("i")
        assert_type(found, Outcome[Any] | Pending | None)


async def asynchronous() -> None:
    async with AsyncCasOps.open("memory://") as casops:
        assert_type(await casops.run(Count(names=[]), operation_id="i"), int)
        assert_type(await casops.read(Account.ref("alice")), Account | None)


class Renamed(Operation[Receipt]):
    """Its parameter may have any name."""

    def apply(self, docs: Documents) -> Receipt:
        return Receipt(left=Decimal(len(self.model_fields_set)))


async def results_are_covariant(casops: AsyncCasOps) -> None:
    assert_type(str(await casops.run(Count(names=[]), operation_id="i")), str)  # an int where any object will do
    several: list[Operation[BaseModel]] = [Transfer(source="a", target="b", amount=1), Renamed()]
    outcome: Outcome[BaseModel] = await casops.execute(several[0], operation_id="j")
    model: BaseModel = outcome.result
    assert_type(model, BaseModel)


def an_operation_is_a_model() -> None:
    count = Count(names=["a"])
    assert_type(count.model_copy(update={"names": []}), Count)
    assert_type(count.model_dump(by_alias=True, exclude={"names"}), dict[str, Any])
    assert_type(count.model_dump_json(exclude_none=True), str)
    assert_type(Count.model_validate({"names": []}, strict=True), Count)
    assert_type(Count.model_json_schema(), dict[str, Any])
    assert_type(sorted(Count.model_fields), list[str])
    assert_type(Count.model_construct(names=[]), Count)
    assert_type(Count.model_rebuild(force=True), bool | None)
    assert_type(Count.model_json_schema(mode="serialization"), dict[str, Any])
    assert_type(count.model_extra, dict[str, Any] | None)


def told(notice: Notice) -> None:
    assert_type(notice.operation_id, str | None)


def over_the_network() -> None:
    servers = ["http://a:8000", "http://b:8000"]
    with Client(servers, options=ClientOptions(deadline=5), on_notice=told, pending="pending.jsonl") as client:
        assert_type(client.run(Transfer(source="alice", target="bob", amount=100), operation_id="i"), Receipt)
        assert_type(client.execute(Count(names=["alice"]), operation_id="i"), Outcome[int])
        assert_type(client.outcome("i"), Outcome[Any] | Pending | None)
        assert_type(client.recover(), Recovered)


async def over_the_network_asynchronously() -> None:
    async with AsyncClient(["http://a:8000"]) as client:
        assert_type(await client.run(Count(names=[]), operation_id="i"), int)
        assert_type(await client.recover(), Recovered)
