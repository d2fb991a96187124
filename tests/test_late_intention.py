"""A declaration whose request is late: it lands after the call has given up and removed what it knew of.

Must not be in here: other faults of a store.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import pytest

from casops.engine import Engine
from casops.errors import CasOpsError
from casops.messages import INTENTIONS, Insert, Unknown
from casops.options import Options
from casops.stores.memory import MemoryStore
from casops.testing.worker import SimulatedClock, Worker
from tests.bank import Transfer


def test_nobody_is_told_no_while_the_declaration_is_on_its_way() -> None:
    clock = SimulatedClock()
    store = MemoryStore(clock=clock.wall)

    def worker(make: Callable[[Engine], Generator[Any, Any, Any]]) -> Any:
        return Worker("w", make(Engine(Options(), [Transfer], "w")), clock)

    pay = Transfer(source="alice", target="bob", amount=100)  # neither is there, so it cannot be done
    paying = worker(lambda engine: engine.execute(engine.work(pay, "pay"), "pay"))
    late = [each for each in paying.batch if isinstance(each, Insert) and each.key.collection == INTENTIONS]
    assert len(late) == 1
    paying.answer([Unknown("timeout") if each in late else store.perform([each])[0] for each in paying.batch])
    with pytest.raises(CasOpsError) as told:
        paying.finish(store)
    assert (told.value.happened, told.value.retry) == (None, True)
    store.perform(late)
    assert [each.operation_id for each in worker(lambda engine: engine.pending()).finish(store)] == ["pay"]
