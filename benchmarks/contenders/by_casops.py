"""casops as its README shows it.

Must not be in here: anything a user would not write, but for the worker's name, which has one length everywhere.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from benchmarks.contenders import ACCOUNTS, OPENING
from casops import CasOps, Declined, Document, Documents, Operation, Ref


class Account(Document, collection="accounts"):
    balance: Annotated[int, Field(ge=0)]


class OpenAccount(Operation[None]):
    account: Ref[Account]
    balance: int

    def apply(self, documents: Documents) -> None:
        documents.create(self.account, Account(balance=self.balance))


class Transfer(Operation[int]):
    source: Ref[Account]
    target: Ref[Account]
    amount: Annotated[int, Field(gt=0)]

    def apply(self, documents: Documents) -> int:
        source, target = documents[self.source], documents[self.target]
        if source.balance < self.amount:
            raise Declined("insufficient_funds", balance=source.balance)
        source.balance -= self.amount
        target.balance += self.amount
        return source.balance


class CasopsBank:
    """One CasOps on one file."""

    def __init__(self, folder: Path, create: bool) -> None:
        self.casops = CasOps.open(f"sqlite:///{folder}/casops.db", worker="worker")
        if create:
            for number in range(ACCOUNTS):
                self.casops.run(OpenAccount(account=f"a{number}", balance=OPENING), operation_id=f"open-{number}")

    def transfer(self, operation_id: str, source: str, target: str, amount: int) -> int:
        operation = Transfer(source=source, target=target, amount=amount)
        return self.casops.run(operation, operation_id=operation_id)

    def balances(self) -> dict[str, int]:
        refs = [Account.ref(f"a{number}") for number in range(ACCOUNTS)]
        snapshot = self.casops.snapshot(refs)
        return {ref.id: snapshot[ref].balance for ref in refs}

    def close(self) -> None:
        self.casops.close()
