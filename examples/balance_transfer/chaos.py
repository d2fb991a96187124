"""The import while workers are killed and payments are asked for twice, and a proof that it did no harm.

A seed decides the order of the payments, which of them are asked for by two workers at once, and after how
many jobs and how long into the job a worker is killed.  It does not decide what a worker has got done by
then: that is up to the operating system, and another run with the same seed is another run.

Must not be in here: what an import does, what the proof consists of, printing.
"""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass, field
from decimal import Decimal

from casops import Outcome
from examples.balance_transfer.checking import Check, Evidence, check, gather
from examples.balance_transfer.importing import (
    Tally,
    Watcher,
    balances,
    open_accounts,
    payment_answers,
    payment_jobs,
    sweep,
)
from examples.balance_transfer.model import open_bank
from examples.balance_transfer.orders import Orders
from examples.balance_transfer.pool import Pool
from examples.balance_transfer.worker import Answer, Job, answer

# The part of the payments that two workers are asked for at the same moment.
TWICE = 0.25
# Seconds a worker has, at most, from taking the fatal job to its death: about two jobs, so that it dies before,
# in the middle of and after what it writes.
LAST_MOMENTS = 0.012


class NotEmpty(Exception):
    """The store has some of these accounts already, so nothing could be proved."""


@dataclass(slots=True)
class Ordeal:
    """What was done to the import."""

    begun: bool = False
    """From now on something may have been written."""
    jobs: list[Job] = field(default_factory=list[Job])
    kills: dict[int, float] = field(default_factory=dict[int, float])
    twice: int = 0
    killed: int = 0
    tally: Tally = field(default_factory=Tally)
    answers: dict[str, list[Answer]] = field(default_factory=dict[str, list[Answer]])


@dataclass(frozen=True, slots=True)
class Verdict:
    evidence: Evidence
    checks: list[Check]

    @property
    def good(self) -> bool:
        return not any(each.faults for each in self.checks)


def prepare(orders: Orders, kills: int, seed: int) -> Ordeal:
    """Raises ValueError if there are fewer jobs than kills."""
    rng = random.Random(seed)
    payments = list(orders.payments)
    rng.shuffle(payments)
    ordeal = Ordeal()
    for job in payment_jobs(payments):
        ordeal.jobs.append(job)
        if rng.random() < TWICE:
            ordeal.jobs.append(job)  # beside each other: the pool gives them to two workers at once
            ordeal.twice += 1
    handed_out = range(1, len(orders.payers) + len(ordeal.jobs) + 1)
    if kills > len(handed_out):
        raise ValueError(f"there are {len(handed_out)} jobs, so at most as many kills")
    ordeal.kills = {number: rng.uniform(0.0, LAST_MOMENTS) for number in rng.sample(handed_out, kills)}
    return ordeal


def run_chaos(
    url: str, workers: int, orders: Orders, opening_balance: Decimal, ordeal: Ordeal, watcher: Watcher
) -> Verdict:
    """Raises NotEmpty, Stopped, and what casops raises when the store is away."""
    with open_bank(url, grace=0) as casops:
        if any(balance is not None for _, balance in balances(casops, orders.accounts)):
            raise NotEmpty("this store has some of these accounts already; chaos needs a new one to prove anything")
        answers: defaultdict[str, list[Answer]] = defaultdict(list)
        ordeal.answers, ordeal.begun = answers, True
        with Pool(url, workers, ordeal.kills) as pool:
            try:
                open_accounts(casops, pool, orders.payers, opening_balance, watcher, ordeal.tally)
                for job, given in payment_answers(pool, ordeal.jobs, watcher, ordeal.tally):
                    answers[job.operation_id].append(given)
            finally:
                ordeal.killed = pool.killed
        sweep(casops, ordeal.tally)
    with open_bank(url) as fresh:  # whoever proves something knows nothing from before
        evidence = gather(fresh, orders)
    checks = check(evidence, orders, opening_balance)
    return Verdict(evidence, [*checks, _agreement(ordeal, evidence)])


def _agreement(ordeal: Ordeal, evidence: Evidence) -> Check:
    faults: list[str] = []
    for operation_id, given in ordeal.answers.items():
        stored = evidence.outcomes.get(operation_id)
        truth = answer(stored) if isinstance(stored, Outcome) else None
        for each in given:
            if each.status == "unfinished":
                continue  # says nothing
            if truth is None or (each.status, each.text) != (truth.status, truth.text):
                faults.append(f"{operation_id} was answered as {each.status} {each.text}")
    return Check("everybody who asked was answered what the store says", tuple(faults))
