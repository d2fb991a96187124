"""What a store alone proves about payments: that each happened exactly once or not at all, to the cent.

Everything is computed anew from the orders and from what the store says about each payment and
account; nothing that the import has counted is used.

Must not be in here: workers, printing, or anything that writes.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from casops import CasOps, Outcome
from examples.balance_transfer.importing import balances
from examples.balance_transfer.model import INSUFFICIENT_FUNDS, Receipt, opening_id
from examples.balance_transfer.orders import Orders, Payment

ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must hold, and where it does not."""

    claim: str
    faults: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was read from the store."""

    outcomes: dict[str, Outcome[Any]]
    """The payments that have ended."""
    not_ended: tuple[str, ...]
    openings: dict[str, Decimal]
    """The opening balance of every account that was opened."""
    balances: dict[str, Decimal | None]
    pending: tuple[str, ...]


def gather(casops: CasOps, orders: Orders) -> Evidence:
    outcomes: dict[str, Outcome[Any]] = {}
    not_ended: list[str] = []
    for payment in orders.payments:
        found = casops.outcome(payment.payment_id)
        if isinstance(found, Outcome):
            outcomes[payment.payment_id] = found
        else:
            not_ended.append(payment.payment_id)
    openings: dict[str, Decimal] = {}
    for account in orders.payers:
        opened = casops.outcome(opening_id(account))
        if isinstance(opened, Outcome) and opened.status == "applied":
            openings[account] = opened.result
    pending = tuple(each.operation_id for each in casops.pending())
    return Evidence(outcomes, tuple(not_ended), openings, dict(balances(casops, orders.accounts)), pending)


def check(evidence: Evidence, orders: Orders, opening_balance: Decimal) -> list[Check]:
    """All that must hold for a store which nothing but one import of these orders has worked on."""
    applied = [each for each in orders.payments if _status(evidence, each) == "applied"]
    return [
        Check("every payment was either applied or declined", tuple(_not_ended(evidence, orders.payments))),
        Check("every receipt is that of its order", tuple(_wrong_receipts(evidence, applied))),
        Check("every refusal was justified", tuple(_wrong_refusals(evidence, orders.payments))),
        Check(
            "every payer was opened at the same balance",
            tuple(_wrong_openings(evidence, orders, opening_balance)),
        ),
        Check(
            "for every account, opening + received - sent = balance", tuple(_wrong_balances(evidence, orders, applied))
        ),
        Check("the receipts of every account form one chain", tuple(_torn_chains(evidence, applied))),
        Check("no money appeared or vanished", tuple(_wrong_total(evidence, orders, opening_balance))),
        Check("nothing is pending", tuple(f"{each} is pending" for each in evidence.pending)),
    ]


def _status(evidence: Evidence, payment: Payment) -> str | None:
    outcome = evidence.outcomes.get(payment.payment_id)
    return outcome.status if outcome else None


def _receipt(evidence: Evidence, payment: Payment) -> Receipt:
    receipt: Receipt = evidence.outcomes[payment.payment_id].result
    return receipt


def _not_ended(evidence: Evidence, payments: Sequence[Payment]) -> Iterator[str]:
    yield from (f"{each} has no outcome" for each in evidence.not_ended)
    for payment in payments:
        if _status(evidence, payment) == "cancelled":
            yield f"{payment.payment_id} was cancelled"


def _wrong_receipts(evidence: Evidence, applied: Sequence[Payment]) -> Iterator[str]:
    for payment in applied:
        receipt = _receipt(evidence, payment)
        if (receipt.source, receipt.target, receipt.amount) != (payment.source, payment.target, payment.amount):
            yield f"{payment.payment_id} was ordered as {payment} and done as {receipt!r}"


def _wrong_refusals(evidence: Evidence, payments: Sequence[Payment]) -> Iterator[str]:
    for payment in payments:
        outcome = evidence.outcomes.get(payment.payment_id)
        if outcome is None or outcome.refusal is None:
            continue
        refusal = outcome.refusal
        if payment.source == payment.target:
            justified = refusal.code == "same_account"
        else:
            justified = refusal.code == INSUFFICIENT_FUNDS and Decimal(refusal.details["balance"]) < payment.amount
        if not justified:
            yield f"{payment.payment_id} over {payment.amount} was {refusal}"


def _wrong_openings(evidence: Evidence, orders: Orders, opening_balance: Decimal) -> Iterator[str]:
    for account in orders.payers:
        if evidence.openings.get(account) != opening_balance:
            yield f"{account} was opened at {evidence.openings.get(account)}"


def _wrong_balances(evidence: Evidence, orders: Orders, applied: Sequence[Payment]) -> Iterator[str]:
    expected: defaultdict[str, Decimal] = defaultdict(Decimal, evidence.openings)
    touched = set(evidence.openings)
    for payment in applied:
        expected[payment.source] -= payment.amount
        expected[payment.target] += payment.amount
        touched |= {payment.source, payment.target}
    for account in orders.accounts:
        balance = evidence.balances[account]
        if balance != (expected[account] if account in touched else None):
            yield f"{account} has {balance}, and should have {expected[account]}"


def _torn_chains(evidence: Evidence, applied: Sequence[Payment]) -> Iterator[str]:
    # Every receipt says what its account had afterwards.  If nothing was lost or done twice in between,
    # each of these is what the next payment began with, but for the first and the last.
    found: defaultdict[str, Counter[Decimal]] = defaultdict(Counter)
    for payment in applied:
        receipt = _receipt(evidence, payment)
        found[payment.source][receipt.source_balance] += 1
        found[payment.source][receipt.source_balance + payment.amount] -= 1
        found[payment.target][receipt.target_balance] += 1
        found[payment.target][receipt.target_balance - payment.amount] -= 1
    for account, links in found.items():
        links[evidence.openings.get(account, ZERO)] += 1
        links[evidence.balances[account] or ZERO] -= 1
        if any(links.values()):
            yield f"{account}: what its receipts say does not add up"


def _wrong_total(evidence: Evidence, orders: Orders, opening_balance: Decimal) -> Iterator[str]:
    brought = opening_balance * len(orders.payers)
    there = sum((each for each in evidence.balances.values() if each is not None), ZERO)
    if brought != there:
        yield f"{brought} was brought in, {there} is there"
