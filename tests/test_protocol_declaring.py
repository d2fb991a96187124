"""What a call says when it does not know whether it has declared its operation.

Must not be in here: what becomes of attempts (tests/test_protocol_attempts.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from casops import CasOps, OutcomeUnknown, StoreUnavailable
from casops.local import local_reply
from casops.messages import INTENTIONS, Forget, Insert, Refused, Reply, StoreRequest, Unknown
from casops.stores.memory import MemoryStore
from tests.bank import Account, Open
from tests.conftest import QUICK


class Declaring(MemoryStore):
    """Answers declarations so; what is unknown here has landed."""

    answers: list[Unknown | Refused]

    def perform(self, batch: Sequence[StoreRequest], /) -> list[Reply]:
        return [self._answer(each) for each in batch]

    def _answer(self, request: StoreRequest) -> Reply:
        if isinstance(request, Insert) and request.key.collection == INTENTIONS and self.answers:
            answer = self.answers.pop(0)
            if isinstance(answer, Unknown):
                super().perform([request])
            return answer
        return super().perform([request])[0]


def test_a_declaration_that_may_stand_is_no_nothing_has_happened() -> None:
    store = Declaring()
    store.answers = [Unknown("timed out"), Refused("not allowed any more")]
    with CasOps(store, options=QUICK, operations=[Open]) as casops:
        with pytest.raises(OutcomeUnknown, match="not allowed any more; ask again with the same id"):
            casops.run(Open(account="alice"), operation_id="open")
        assert [each.operation_id for each in casops.pending()] == ["open"]  # and a sweep may make it happen
        casops.recover()
        assert casops.read(Account.ref("alice")) is not None


class TakenOver(MemoryStore):
    """Another call's intention stands at first and goes away; of this call's own ones nothing is told, then no more."""

    def __init__(self) -> None:
        super().__init__()
        self.declared = 0

    def perform(self, batch: Sequence[StoreRequest], /) -> list[Reply]:
        return [self._answer(each) for each in batch]

    def _answer(self, request: StoreRequest) -> Reply:
        if not (isinstance(request, Insert) and request.key.collection == INTENTIONS):
            return super().perform([request])[0]
        self.declared += 1
        if self.declared < 3:  # of another call, and of this one, which finds that
            return super().perform([request])[0]
        if self.declared == 3:
            super().perform([Forget(request.key)])
            return Unknown("timed out")
        return Refused("not allowed any more")


def test_a_take_over_that_may_stand_is_no_nothing_has_happened() -> None:
    store = TakenOver()
    with CasOps(store, options=QUICK) as casops:
        other = Open(account="alice")
        steps = casops._engine.execute(casops._engine.work(other, "open"), "open")
        leave_after_declaring(steps, store)
        with pytest.raises(OutcomeUnknown, match="not allowed any more; ask again with the same id"):
            casops.run(other, operation_id="open")
        assert store.declared == 4


def leave_after_declaring(steps: Any, store: MemoryStore) -> None:
    """A worker that dies when it has declared its operation."""
    reply: Any = None
    while not isinstance(request := steps.send(reply), tuple):
        reply = local_reply(request)
    store.perform(request)
    steps.close()


def test_a_declaration_that_was_refused_has_changed_nothing() -> None:
    store = Declaring()
    store.answers = [Refused("not allowed")]
    with CasOps(store, options=QUICK) as casops:
        with pytest.raises(StoreUnavailable, match="this call changed nothing"):
            casops.run(Open(account="alice"), operation_id="open")
        assert casops.pending() == []
