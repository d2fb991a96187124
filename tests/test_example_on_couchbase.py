"""The balance transfer on Couchbase: chaos as its users run it, the same with asyncio, and a short soak.

The real payments are in test_example_balance_transfer.py, on every store.

Must not be in here: what the example does on any store.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from casops import AsyncCasOps, Options, StoreUnavailable
from casops.stores.memory import MemoryStore
from casops.testing import soaking
from casops.testing.couchbase_server import CouchbaseProcess
from casops.testing.couchbase_server.face import Kind
from casops.testing.soaking import soak
from examples.balance_transfer.model import Account, OpenAccount, Transfer, opening_id
from examples.balance_transfer.orders import read_orders
from tests.couchbase import COLLECTIONS
from tests.test_example_balance_transfer import OPENING, SAMPLE, run, the_books


def test_chaos_on_couchbase(tmp_path: Path, couchbase_url: str) -> None:
    done = run("chaos", "--store", couchbase_url, cwd=tmp_path, seconds=300)
    assert (done.status, done.err) == (0, "")
    assert done.count("workers killed") == 20
    statuses = the_books(couchbase_url, SAMPLE)
    assert statuses.total() == 400
    again = run("import", SAMPLE, "--store", couchbase_url, cwd=tmp_path, seconds=300)
    assert (again.status, again.err) == (0, "")
    assert again.count("replayed") == 400
    assert the_books(couchbase_url, SAMPLE) == statuses


async def test_an_import_with_asyncio_whose_tasks_are_cancelled(couchbase_url: str) -> None:
    """Many payments at once; some callers give up in the middle, and another front asks again with the same ids."""
    orders = read_orders(SAMPLE)
    chance = random.Random(7)
    options = Options(grace=0.0, deadline=60.0)
    at_once = asyncio.Semaphore(16)
    jobs: list[tuple[str, Any]] = [
        (each.payment_id, Transfer(source=each.source, target=each.target, amount=each.amount))
        for each in orders.payments
    ]

    async def ask(casops: AsyncCasOps, operation_id: str, operation: Any) -> str:
        async with at_once:
            return (await casops.execute(operation, operation_id=operation_id)).status

    async with AsyncCasOps.open(couchbase_url, options=options) as casops:
        opening = [OpenAccount(account=payer, balance=OPENING) for payer in sorted(orders.payers)]
        await asyncio.gather(*(ask(casops, opening_id(each.account.id), each) for each in opening))
        tasks = [asyncio.create_task(ask(casops, *job)) for job in jobs[:200]]
        for task in tasks:
            if chance.random() < 0.3:
                asyncio.get_running_loop().call_later(chance.uniform(0, 0.5), task.cancel)
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert any(isinstance(each, asyncio.CancelledError) for each in ended)
    async with AsyncCasOps.open(couchbase_url, options=options, operations=[OpenAccount, Transfer]) as casops:
        statuses: Counter[str] = Counter(await asyncio.gather(*(ask(casops, *job) for job in jobs)))
        assert (await casops.recover()).left == ()
        balances = [await casops.read(Account.ref(each)) for each in orders.accounts]
        total = sum((each.balance for each in balances if each is not None), Decimal(0))
        assert total == OPENING * len(orders.payers)
    assert the_books(couchbase_url, SAMPLE) == statuses


def test_a_short_soak_on_a_cluster_that_misbehaves() -> None:
    """Two nodes that lose, delay, doubt and reset by chance, workers that are killed: still every answer is true."""
    with CouchbaseProcess(scopes=COLLECTIONS, nodes=2, replicas=1, seed=5) as server:
        for kind, probability in MISBEHAVIOUR.items():
            server.faults.add(kind, count=None, probability=probability, delay=0.05)
        url = f"{server.url}?collection=tests&timeout=1"
        tally = soak(minutes=0.2, store=url, seed=5, workers=3, say=lambda line: None)
    assert tally.violations == []
    assert tally.rounds > 0


def test_a_worker_of_a_soak_opens_its_store_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by the soak above: a durable write was ambiguous as often as opening tries it."""
    store = MemoryStore()
    answers: list[Exception | MemoryStore] = [StoreUnavailable("doubt"), StoreUnavailable("doubt"), store]

    def opening(_: str) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(soaking, "open_store", opening)
    assert soaking._opened("couchbase://…") is store
    answers += [StoreUnavailable("away")] * soaking.OPENINGS
    with pytest.raises(StoreUnavailable):
        soaking._opened("couchbase://…")
    assert answers == []


MISBEHAVIOUR: dict[Kind, float] = {
    "ambiguous": 0.02,
    "ambiguous_lost": 0.02,
    "drop_reply": 0.003,
    "drop_request": 0.003,
    "reset_after": 0.002,
    "reset_before": 0.002,
    "temporary_failure": 0.01,
    "sync_write_in_progress": 0.01,
    "delay_request": 0.02,
    "delay_reply": 0.02,
}


def test_a_short_soak(couchbase_url: str) -> None:
    tally = soak(minutes=0.1, store=couchbase_url, seed=3, workers=3, say=lambda line: None)
    assert tally.violations == []
    assert tally.rounds > 0
    assert tally.kills > 0
