"""The business: accounts, and what can be done with them.

Must not be in here: files, processes, printing, and anything that acts on the world (`apply` may run several
times before it counts).
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from casops import CasOps, Declined, Document, Documents, Operation, Options, Ref

CENT = Decimal("0.01")
INSUFFICIENT_FUNDS = "insufficient_funds"

_PLAIN = re.compile(r"-?[0-9]+(?:\.[0-9]{1,2})?")


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        raise ValueError("money is a Decimal or its text; a float has lost cents before it gets here")
    # Decimal() takes 1_000, ' 5 ', 1e2 and digits of other scripts; whoever writes these may mean something else.
    if isinstance(value, str) and not _PLAIN.fullmatch(value):
        raise ValueError("money in text looks like 12.50")
    return value


def _to_the_cent(value: Decimal) -> Decimal:
    # 1.5 and 1.50 are one amount, so they must be one argument: an id asked for again with other
    # arguments is refused.
    return value.quantize(CENT)


Money = Annotated[
    Decimal, Field(max_digits=20, decimal_places=2), BeforeValidator(_plain), AfterValidator(_to_the_cent)
]


class Account(Document, collection="accounts"):
    """Stored as {"balance": "12.30"}: text, because a number in JSON is a float to most who read it."""

    balance: Annotated[Money, Field(ge=0)]


class Receipt(BaseModel):
    """What a transfer did.  Kept with the operation: whoever asks again gets this very receipt."""

    model_config = ConfigDict(frozen=True)

    source: str
    target: str
    amount: Money
    source_balance: Money
    target_balance: Money


class OpenAccount(Operation[Decimal]):
    """Bring an account into being; the result is its opening balance."""

    account: Ref[Account]
    balance: Annotated[Money, Field(ge=0)]

    def apply(self, documents: Documents) -> Decimal:
        there = documents.get(self.account)
        if there is not None:
            raise Declined("account_exists", balance=there.balance)
        documents.create(self.account, Account(balance=self.balance))
        return self.balance


class Transfer(Operation[Receipt]):
    """Move money from an account that exists to one that is created at zero if it does not."""

    source: Ref[Account]
    target: Ref[Account]
    amount: Annotated[Money, Field(gt=0)]

    def apply(self, documents: Documents) -> Receipt:
        if self.source == self.target:
            raise Declined("same_account")
        # Without the paying account this raises DocumentMissing, and nothing is recorded.  A Declined
        # would be remembered for ever, though the account may be opened a moment later.
        source = documents[self.source]
        if source.balance < self.amount:
            raise Declined(INSUFFICIENT_FUNDS, balance=source.balance)
        target = documents.get(self.target)
        if target is None:
            target = documents.create(self.target, Account(balance=Decimal(0)))
        source.balance -= self.amount
        target.balance += self.amount
        return Receipt(
            source=self.source.id,
            target=self.target.id,
            amount=self.amount,
            source_balance=source.balance,
            target_balance=target.balance,
        )


OPERATIONS: tuple[type[Operation[Any]], ...] = (OpenAccount, Transfer)


def opening_id(account: str) -> str:
    """The operation id under which an account is opened, so that it is opened once."""
    return f"open-{account}"


def open_bank(url: str, *, grace: float = 10.0, worker: str | None = None) -> CasOps:
    """The store as every process of this program opens it.  Raises UsageError or StoreUnavailable."""
    # A payment's id comes from a file and does not tell how old it is, so casops could not refuse it
    # once its result was forgotten: the same file imported a year later would be paid again.
    # Retention zero remembers results for ever.  (Ids of `new_operation_id` carry their time; with
    # those the default of 30 days is safe.)
    # Ten seconds: whoever gets no certain answer from a file for so long should say so (worker.py).
    options = Options(retention=0, deadline=10.0, grace=grace)
    return CasOps.open(url, options=options, operations=OPERATIONS, worker=worker)
