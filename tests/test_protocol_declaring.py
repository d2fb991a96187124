"""What a call says when it does not know whether it has declared its operation.

Must not be in here: what becomes of attempts (tests/test_protocol_attempts.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from casops import CasOps, OutcomeUnknown, StoreUnavailable
from casops.messages import INTENTIONS, Insert, Refused, Reply, StoreRequest, Unknown
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


def test_a_declaration_that_was_refused_has_changed_nothing() -> None:
    store = Declaring()
    store.answers = [Refused("not allowed")]
    with CasOps(store, options=QUICK) as casops:
        with pytest.raises(StoreUnavailable, match="this call changed nothing"):
            casops.run(Open(account="alice"), operation_id="open")
        assert casops.pending() == []
