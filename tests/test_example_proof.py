"""The example's proof of its books must fail when it should: each test falsifies one thing in what was read."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from casops import Outcome
from examples.balance_transfer.chaos import prepare
from examples.balance_transfer.checking import Evidence, check, gather
from examples.balance_transfer.model import OpenAccount, Transfer, open_bank, opening_id
from examples.balance_transfer.orders import Orders, parse_orders, read_orders

SAMPLE = Path(__file__).parents[1] / "examples" / "balance_transfer" / "sample.csv"
OPENING = Decimal("500.00")
FEW = b"payment_id,source,target,amount\np1,a,b,100.00\np2,b,c,30.00\np3,a,c,900.00\np4,c,c,1.00\np5,a,d,.50\n"


@pytest.fixture
def few() -> Orders:
    return parse_orders(FEW)


@pytest.fixture
def evidence(few: Orders) -> Evidence:
    with open_bank("memory://") as casops:
        for account in few.payers:
            casops.run(OpenAccount(account=account, balance=OPENING), operation_id=opening_id(account))
        for each in few.payments:
            transfer = Transfer(source=each.source, target=each.target, amount=each.amount)
            casops.execute(transfer, operation_id=each.payment_id)
        return gather(casops, few)


def failing(evidence: Evidence, orders: Orders) -> set[str]:
    return {each.claim for each in check(evidence, orders, OPENING) if each.faults}


def test_what_is_right_passes(evidence: Evidence, few: Orders) -> None:
    assert failing(evidence, few) == set()
    assert [each.status for each in evidence.outcomes.values()] == [
        "applied",
        "applied",
        "declined",
        "declined",
        "applied",
    ]


def without(evidence: Evidence, payment_id: str) -> dict[str, Outcome[Any]]:
    return {name: each for name, each in evidence.outcomes.items() if name != payment_id}


def moved(evidence: Evidence, **changes: str) -> dict[str, Decimal | None]:
    balances = dict(evidence.balances)
    for account, change in changes.items():
        balances[account] = (balances[account] or Decimal(0)) + Decimal(change)
    return balances


ENDED = "every payment was either applied or declined"
RECEIPTS = "every receipt is that of its order"
REFUSALS = "every refusal was justified"
OPENED = "every payer was opened at the same balance"
BALANCES = "for every account, opening + received - sent = balance"
CHAINS = "the receipts of every account form one chain"
TOTAL = "no money appeared or vanished"
PENDING = "nothing is pending"


def test_a_payment_without_an_outcome(evidence: Evidence, few: Orders) -> None:
    bad = replace(evidence, outcomes=without(evidence, "p3"), not_ended=("p3",))
    assert failing(bad, few) == {ENDED}


def test_a_payment_that_was_cancelled(evidence: Evidence, few: Orders) -> None:
    cancelled = replace(evidence.outcomes["p3"], status="cancelled", refusal=None)
    assert failing(replace(evidence, outcomes={**evidence.outcomes, "p3": cancelled}), few) == {ENDED}


def test_a_payment_that_happened_twice(evidence: Evidence, few: Orders) -> None:
    bad = replace(evidence, balances=moved(evidence, a="-100", b="100"))
    assert failing(bad, few) == {BALANCES, CHAINS}


def test_a_payment_of_which_only_half_happened(evidence: Evidence, few: Orders) -> None:
    assert failing(replace(evidence, balances=moved(evidence, d="-.50")), few) == {BALANCES, CHAINS, TOTAL}


def test_a_cent_that_vanished(evidence: Evidence, few: Orders) -> None:
    assert failing(replace(evidence, balances=moved(evidence, c="-.01")), few) == {BALANCES, CHAINS, TOTAL}


def test_a_receipt_of_another_payment(evidence: Evidence, few: Orders) -> None:
    outcomes = {**evidence.outcomes, "p1": evidence.outcomes["p2"]}
    assert failing(replace(evidence, outcomes=outcomes), few) >= {RECEIPTS}


def test_two_payments_that_both_saw_the_same_balance(evidence: Evidence, few: Orders) -> None:
    """A lost update whose balance somebody has put right afterwards."""
    outcome = evidence.outcomes["p5"]
    blind = outcome.result.model_copy(update={"source_balance": Decimal("499.50")})
    outcomes = {**evidence.outcomes, "p5": replace(outcome, value=blind)}
    assert failing(replace(evidence, outcomes=outcomes), few) == {CHAINS}


def test_a_refusal_without_need(evidence: Evidence, few: Orders) -> None:
    refused = evidence.outcomes["p3"]
    assert refused.refusal is not None
    refused.refusal.details = {"balance": "900.00"}
    assert failing(evidence, few) == {REFUSALS}


def test_an_account_that_was_opened_at_another_balance(evidence: Evidence, few: Orders) -> None:
    bad = replace(evidence, openings={**evidence.openings, "c": Decimal("501.00")}, balances=moved(evidence, c="1"))
    assert failing(bad, few) == {OPENED, CHAINS, TOTAL}


def test_something_pending(evidence: Evidence, few: Orders) -> None:
    assert failing(replace(evidence, pending=("p9",)), few) == {PENDING}


# --- what a seed decides -------------------------------------------------------------------------


def test_a_seed_decides_the_order_the_doubles_and_the_kills() -> None:
    orders = read_orders(SAMPLE)
    one, same, other = (prepare(orders, 20, seed) for seed in (7, 7, 8))
    assert (one.jobs, one.kills, one.twice) == (same.jobs, same.kills, same.twice)
    assert one.jobs != other.jobs
    assert one.kills != other.kills
    assert len(one.kills) == 20
    asked = Counter(job.operation_id for job in one.jobs)
    assert set(asked) == {payment.payment_id for payment in orders.payments}
    assert sum(count == 2 for count in asked.values()) == one.twice == len(one.jobs) - 400
    beside = sum(first is second for first, second in pairwise(one.jobs))
    assert beside == one.twice
