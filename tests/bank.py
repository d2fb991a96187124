"""The operations the tests of the fronts share.  Must not be in here: tests."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any

from pydantic import BaseModel, Field

from casops import Declined, Document, Documents, Operation, Ref


class Account(Document, collection="accounts"):
    balance: Annotated[Decimal, Field(ge=0)]
    note: str | None = None


class Receipt(BaseModel):
    left: Decimal


class Open(Operation[None]):
    account: Ref[Account]
    balance: Annotated[Decimal, Field(ge=0)] = Decimal(0)

    def apply(self, documents: Documents) -> None:
        documents.create(self.account, Account(balance=self.balance))


class Close(Operation[Decimal]):
    account: Ref[Account]

    def apply(self, documents: Documents) -> Decimal:
        left = documents[self.account].balance
        del documents[self.account]
        return left


class Transfer(Operation[Receipt]):
    source: Ref[Account]
    target: Ref[Account]
    amount: Annotated[Decimal, Field(gt=0)]

    def apply(self, documents: Documents) -> Receipt:
        source, target = documents[self.source], documents[self.target]
        if source.balance < self.amount:
            raise Declined("insufficient_funds", balance=source.balance)
        source.balance -= self.amount
        target.balance += self.amount
        return Receipt(left=source.balance)


class Overdraw(Operation[None]):
    """Leaves an account that its model refuses."""

    account: Ref[Account]

    def apply(self, documents: Documents) -> None:
        documents[self.account].balance = Decimal(-1)


class Broken(Operation[None]):
    """Business code with a bug, until `mended`."""

    account: Ref[Account]

    def apply(self, documents: Documents) -> None:
        documents[self.account].balance += 1
        if not MENDED:
            raise ZeroDivisionError("a bug")


MENDED: list[bool] = []


class Echo(Operation[Any]):
    """Gives back what it was given."""

    value: Any = None

    def apply(self, documents: Documents) -> Any:
        return self.value
