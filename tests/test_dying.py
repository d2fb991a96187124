"""Moments to die at: what they are called, and to which request each belongs."""

from __future__ import annotations

import pytest

from casops import CasOps, Options, UsageError
from casops.messages import Read, StoreRequest
from casops.stores.memory import MemoryStore
from casops.testing.dying import PHASES, DyingStore, phase_of
from tests.bank import Account, Open, Transfer


class Watched:
    """A store that notes the phases it is led through."""

    def __init__(self) -> None:
        self._store = MemoryStore()
        self.phases: list[str] = []

    def perform(self, batch: tuple[StoreRequest, ...], /) -> list[object]:
        self.phases += [phase for phase in dict.fromkeys(map(phase_of, batch)) if phase is not None]
        return list(self._store.perform(batch))

    def close(self) -> None:
        self._store.close()


def test_an_operation_goes_through_the_phases_in_their_order() -> None:
    store = Watched()
    with CasOps(store, options=Options(settle_queue=0)) as casops:  # type: ignore[arg-type]
        for account in ("alice", "bob"):
            casops.run(Open(account=account, balance=10), operation_id=account)
        store.phases.clear()
        casops.run(Transfer(source="alice", target="bob", amount=1), operation_id="t")
    assert tuple(store.phases) == PHASES
    assert phase_of(Read(Account.ref("alice").key)) is None


@pytest.mark.parametrize("moment", ["", "after", "after:", "later:propose", "after:never", "after:PROPOSE:t"])
def test_a_moment_that_there_is_not(moment: str) -> None:
    with pytest.raises(UsageError, match="no moment to die at"):
        DyingStore(MemoryStore(), moment)


def test_another_operation_survives() -> None:
    with CasOps(DyingStore(MemoryStore(), "before:propose:other")) as casops:
        casops.run(Open(account="alice"), operation_id="t")
