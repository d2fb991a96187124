"""A sweep puts away together what has ended, and none of it keeps the others from being put away."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest

from casops import CasOps, Options
from casops.drivers import drive
from casops.engine import Engine
from casops.messages import RESULTS, Key, Refused, Replace, Reply, StoreRequest, Unknown
from casops.stores.memory import MemoryStore
from tests.bank import Account, Open
from tests.conftest import QUICK


class Told(MemoryStore):
    """Tells how many operations each batch begins to settle.  A write of a key in `stuck` has that for an answer."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: list[int] = []
        self.stuck: dict[Key, Reply] = {}

    def perform(self, batch: Sequence[StoreRequest], /) -> list[Reply]:
        begun = sum(isinstance(each, Replace) and each.ttl is None and each.key.collection == RESULTS for each in batch)
        self.begun += [begun] if begun else []
        return [self._answer(each) for each in batch]

    def _answer(self, request: StoreRequest) -> Reply:
        if isinstance(request, Replace) and request.key in self.stuck:
            return self.stuck[request.key]
        return super().perform([request])[0]


def leave_behind(store: MemoryStore, ids: Sequence[str]) -> None:
    """Operations that have happened, and that their worker did not live to settle."""
    engine = Engine(QUICK, [], "the dead")
    for id in ids:
        drive(engine.execute(engine.work(Open(account=id), id), id), store)


def ids_of(number: int) -> list[str]:
    return [f"op-{each}" for each in range(number)]


@pytest.mark.parametrize(("several", "begun"), [(32, [32, 32, 6]), (1, [1] * 70)])
def test_what_has_ended_is_put_away_together(several: int, begun: list[int]) -> None:
    store = Told()
    leave_behind(store, ids_of(70))
    store.begun.clear()
    with CasOps(store, options=dataclasses.replace(QUICK, settle_together=several)) as casops:
        recovery = casops.recover()
        assert store.begun == begun
        assert (recovery.settled, recovery.finished, recovery.left) == (70, (), ())
        assert casops.recover().settled == 0


@pytest.mark.parametrize(
    ("answer", "note"),
    [
        (Unknown("silent"), "the store gave no answer: "),
        (Refused("no room"), "the store gave no answer: no room"),
    ],
)
def test_what_cannot_be_put_away_does_not_keep_the_others(answer: Reply, note: str) -> None:
    """Neither those of its batch, nor those of the next."""
    store = Told()
    leave_behind(store, ids_of(7))
    store.stuck[Account.ref("op-1").key] = answer
    with CasOps(store, options=dataclasses.replace(QUICK, settle_together=3, deadline=0.2)) as casops:
        recovery = casops.recover()
        assert recovery.settled == 6
        assert [(each.operation_id, each.note, each.state) for each in recovery.left] == [("op-1", note, "ended")]
        store.stuck.clear()
        assert casops.recover().settled == 1


def test_what_has_ended_just_now_is_left_to_its_worker() -> None:
    store = Told()
    leave_behind(store, ids_of(3))
    store.begun.clear()
    with CasOps(store, options=Options(grace=3600)) as casops:
        recovery = casops.recover()
    assert [each.note for each in recovery.left] == ["younger than the grace period"] * 3
    assert (recovery.settled, store.begun) == (0, [])
