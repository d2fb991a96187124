"""The import from beginning to end: open the accounts, make the payments, finish what dead workers left.

Nothing here remembers how far an import came.  Every payment is asked for under its own id every time, and
casops answers those that were made before; so to continue an import is to import again.

Must not be in here: printing, killing, parsing.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Protocol

from casops import CasOps, Contended, Outcome, Pending
from examples.balance_transfer.model import INSUFFICIENT_FUNDS, Account, OpenAccount, Transfer, opening_id
from examples.balance_transfer.orders import Orders, Payment
from examples.balance_transfer.pool import Pool, Stopped
from examples.balance_transfer.worker import Answer, Job

# Accounts read at one time: enough to share what a reading costs, few enough to be seen at one instant.
CHUNK = 500


class Watcher(Protocol):
    """Somebody who is told how far it is."""

    def phase(self, name: str, total: int) -> None: ...

    def advance(self) -> None: ...


@dataclass(slots=True)
class Tally:
    """What an import did, counted as it goes; after an interruption it says how far it came."""

    opened: int = 0
    counts: Counter[str] = field(default_factory=Counter[str])
    """Payments by what came of them: applied, declined, cancelled, unfinished, impossible, replayed."""
    taken_over: int = 0
    asked_again: int = 0
    complaints: list[str] = field(default_factory=list[str])
    """What is to be told about single payments and accounts."""
    before: Decimal | None = None
    after: Decimal | None = None
    seconds: float = 0.0
    finished: tuple[Outcome[Any], ...] = ()
    """Operations of other imports that had been left and were finished at the end."""
    left: tuple[Pending, ...] = ()

    @property
    def payments_per_second(self) -> float:
        return self.counts.total() / self.seconds if self.seconds else 0.0


def run_import(
    casops: CasOps, pool: Pool, orders: Orders, opening_balance: Decimal, watcher: Watcher, tally: Tally
) -> None:
    """Fills `tally`.  Raises Stopped, and what casops raises when the store is away."""
    with pool:
        open_accounts(casops, pool, orders.payers, opening_balance, watcher, tally)
        tally.before = total(casops, orders.accounts)
        for job, answer in payment_answers(pool, payment_jobs(orders.payments), watcher, tally):
            _count(tally, job, answer)
    sweep(casops, tally)
    tally.after = total(casops, orders.accounts)


def sweep(casops: CasOps, tally: Tally) -> None:
    """After the workers: finish what those that died had begun for nobody who asked again."""
    recovery = casops.recover()
    tally.finished, tally.left = recovery.finished, recovery.left


def opening_jobs(accounts: Iterable[str], balance: Decimal) -> list[Job]:
    return [
        Job(number, opening_id(account), OpenAccount(account=account, balance=balance))
        for number, account in enumerate(accounts)
    ]


def payment_jobs(payments: Iterable[Payment]) -> list[Job]:
    return [
        Job(number, each.payment_id, Transfer(source=each.source, target=each.target, amount=each.amount))
        for number, each in enumerate(payments)
    ]


def balances(casops: CasOps, accounts: Sequence[str]) -> Iterator[tuple[str, Decimal | None]]:
    """Every account with its balance, or None where there is no such account."""
    for start in range(0, len(accounts), CHUNK):
        refs = [Account.ref(name) for name in accounts[start : start + CHUNK]]
        try:
            get = casops.snapshot(refs).get
        except Contended:  # others are at work on them: one after the other, then
            get = casops.read
        for ref in refs:
            account = get(ref)
            yield ref.id, None if account is None else account.balance


def total(casops: CasOps, accounts: Sequence[str]) -> Decimal:
    """The money on all these accounts.  Exact only while nobody else works on them."""
    return sum((balance for _, balance in balances(casops, accounts) if balance is not None), Decimal(0))


def open_accounts(
    casops: CasOps, pool: Pool, payers: Sequence[str], balance: Decimal, watcher: Watcher, tally: Tally
) -> None:
    """Raises Stopped unless all payers have an account in the end."""
    # Payments begin when the last account is open: one that met a missing account would have to wait.
    # An account that is there keeps what it has, whatever opening balance is given this time.
    missing = [name for name, found in balances(casops, payers) if found is None]
    watcher.phase("opening accounts", len(missing))
    failed = 0
    for job, answer in _answers(pool, opening_jobs(missing, balance), watcher, tally):
        if answer.status == "applied":
            tally.opened += not answer.replayed
        elif answer.status != "declined":  # declined: somebody has made a payment to it meanwhile
            failed += 1
            tally.complaints.append(f"{job.operation_id}: {answer.status}: {answer.text}")
    if failed:
        raise Stopped(f"{failed} accounts could not be opened, so no payment was begun")


def payment_answers(pool: Pool, jobs: Sequence[Job], watcher: Watcher, tally: Tally) -> Iterator[tuple[Job, Answer]]:
    """The answers to these jobs as they come, timed.  Raises Stopped."""
    watcher.phase("payments", len(jobs))
    began = time.monotonic()
    try:
        yield from _answers(pool, jobs, watcher, tally)
    finally:
        tally.seconds = time.monotonic() - began


def _answers(pool: Pool, jobs: Sequence[Job], watcher: Watcher, tally: Tally) -> Iterator[tuple[Job, Answer]]:
    for job, answer in pool.answers(jobs):
        watcher.advance()
        tally.asked_again = pool.asked_again
        if answer.stop:
            raise Stopped(f"{job.operation_id}: {answer.text}")
        tally.taken_over += answer.taken_over
        yield job, answer


def _count(tally: Tally, job: Job, answer: Answer) -> None:
    replayed = answer.replayed and answer.status != "cancelled"
    tally.counts["replayed" if replayed else answer.status] += 1
    # Lack of money is what an import must expect; whoever sent the rest of these should hear of it.
    if answer.status != "applied" and answer.refusal != INSUFFICIENT_FUNDS:
        tally.complaints.append(f"{job.operation_id}: {answer.status}: {answer.text}")
