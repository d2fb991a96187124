"""Ids that carry their time, and results that are forgotten: an id is refused before its result may be gone."""

from __future__ import annotations

import time
import uuid
from decimal import Decimal

import pytest

from casops import CasOps, Document, Documents, Expired, Operation, Options, Ref, UsageError, new_operation_id
from casops.protocol.fate import ttl_seconds
from casops.stores.memory import MemoryStore


class Purse(Document, collection="purses"):
    balance: Decimal = Decimal(0)


class Pay(Operation[Decimal]):
    purse: Ref[Purse]

    def apply(self, documents: Documents) -> Decimal:
        purse = documents.get(self.purse) or documents.create(self.purse, Purse())
        purse.balance += 100
        return purse.balance


def made_at(seconds: float) -> str:
    """An id as a maker's clock makes it at that time (RFC 9562: 48 bits of milliseconds come first)."""
    return str(uuid.UUID(int=uuid.UUID(new_operation_id()).int & (1 << 80) - 1 | int(seconds * 1000) << 80))


@pytest.mark.parametrize("retention", [30 * 86_400.0, 600.0, 300.0, 300.49])
@pytest.mark.parametrize("behind", [0.0, 299.0])
@pytest.mark.parametrize("ask", ["run", "cancel"])
def test_an_id_of_a_clock_that_is_ahead_never_runs_twice(
    monkeypatch: pytest.MonkeyPatch, retention: float, behind: float, ask: str
) -> None:
    """Its maker's clock is ahead by all of the skew; the clock of whoever is asked later is `behind` the store's."""
    options = Options(settle_queue=0, retention=retention)
    began = time.time()
    now, wrong = began, 0.0
    monkeypatch.setattr("casops.local.time.time", lambda: now - wrong)
    with CasOps(MemoryStore(clock=lambda: now), options=options) as casops:
        ahead = made_at(now + options.skew - 1)
        assert casops.run(Pay(purse="p"), operation_id=ahead) == 100
        wrong = behind
        for age in range(20, 400):
            now = began + retention * age / 100
            try:
                if ask == "run":
                    assert casops.execute(Pay(purse="p"), operation_id=ahead).replayed
                else:
                    assert casops.cancel(ahead).status == "applied"
            except Expired:
                continue
        found = casops.read(Purse.ref("p"))
        assert found is not None
        assert found.balance == 100
        with pytest.raises(Expired):
            casops.run(Pay(purse="p"), operation_id=ahead)


@pytest.mark.parametrize("retention", [0.4, 1.49, 2.5, 300.4])
def test_a_result_outlives_its_retention(retention: float) -> None:
    lifetime = ttl_seconds(Options(retention=retention, deadline=retention / 10, skew=0))
    assert lifetime is not None
    assert lifetime >= retention


def test_what_is_remembered_for_ever_has_no_lifetime() -> None:
    assert ttl_seconds(Options(retention=0)) is None


def test_clocks_that_differ_by_years_are_a_mistake() -> None:
    with pytest.raises(UsageError, match="option skew must be a number from zero to 31536000, not"):
        Options(skew=86_400.0 * 366)
