"""An application under test, put together from environment variables: `python -m casops.service tests.service_app:app`.

    CASOPS_TEST_STORE      URL of the store
    CASOPS_TEST_OPTIONS    JSON: fields of casops.Options that differ
    CASOPS_TEST_SERVICE    JSON: fields of ServiceOptions that differ
    CASOPS_TEST_DIE        WHEN:PHASE or WHEN:PHASE:OPERATION_ID, so that the process kills itself with SIGKILL there
    CASOPS_TEST_GATE       a folder: `Gated` waits in `apply` for a file there named like its `gate`, and tells with a
                           file `<gate>.entered` that it is waiting

WHEN is `before`, `after`, or `half` (the first request of the batch is carried out, the others are not).
PHASE is one of those in `phase_of`.  Production code knows nothing of this: the store is wrapped.

Must not be in here: tests.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from casops import CasOps, Documents, Operation, Options
from casops.messages import INTENTIONS, RESULTS, Body, Forget, Insert, Replace, Reply, StoreRequest
from casops.records import decode_record
from casops.service import ServiceOptions, create_app
from casops.stores import Store
from casops.stores.opening import open_store
from tests.bank import Broken, Close, Echo, Open, Overdraw, Transfer

PHASES = ("declare", "propose", "commit", "settle", "withdraw", "finish")


class Gated(Operation[str]):
    """Business code that takes as long as the test says."""

    gate: str

    def apply(self, documents: Documents) -> str:
        folder = Path(os.environ["CASOPS_TEST_GATE"])
        with (folder / f"{self.gate}.entered").open("a") as entered:
            entered.write("entered\n")  # one line for each run
        ends = time.monotonic() + 60  # a test that died must not leave this waiting for ever
        while not (folder / self.gate).exists() and time.monotonic() < ends:
            time.sleep(0.005)
        return self.gate


OPERATIONS: list[type[Operation[Any]]] = [Open, Transfer, Close, Overdraw, Broken, Echo, Gated]


def phase_of(request: StoreRequest) -> str | None:
    """declare, propose, commit, settle (a body moves into place), withdraw (the intention goes), finish."""
    if isinstance(request, Forget):
        return "withdraw"
    if not isinstance(request, Insert | Replace):
        return None
    if request.body is Body.STAGED:
        return "settle"
    if request.key.collection == INTENTIONS:
        return "declare"
    if request.key.collection == RESULTS and isinstance(request.body, str):
        record = decode_record(request.body, request.key.id)
        if record.settled:
            return "finish"
        return {"proposed": "propose", "committed": "commit", "declined": "propose"}.get(record.state)
    return None


class DyingStore:
    """A store whose process does not survive one moment."""

    def __init__(self, store: Store, moment: str) -> None:
        self._store = store
        self._when, self._phase, *operation_id = moment.split(":", 2)
        self._operation_id = operation_id[0] if operation_id else None
        assert self._when in ("before", "half", "after"), moment
        assert self._phase in PHASES, moment

    def perform(self, batch: Sequence[StoreRequest], /) -> list[Reply]:
        if not any(self._is_fatal(request) for request in batch):
            return self._store.perform(batch)
        if self._when == "half":
            self._store.perform(batch[:1])
        elif self._when == "after":
            self._store.perform(batch)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("dead")

    def _is_fatal(self, request: StoreRequest) -> bool:
        if phase_of(request) != self._phase:
            return False
        if self._operation_id is None or self._phase == "settle":  # which names no operation
            return True
        return isinstance(request, Insert | Replace | Forget) and request.key.id == self._operation_id

    def close(self) -> None:
        self._store.close()


def _open() -> CasOps:
    store = open_store(os.environ["CASOPS_TEST_STORE"])
    moment = os.environ.get("CASOPS_TEST_DIE")
    options = Options(**json.loads(os.environ.get("CASOPS_TEST_OPTIONS", "{}")))
    return CasOps(DyingStore(store, moment) if moment else store, options=options)


def __getattr__(name: str) -> Any:
    """`app` comes into being when the server asks for it, so that tests may import the rest."""
    if name != "app":
        raise AttributeError(name)
    service = ServiceOptions(**json.loads(os.environ.get("CASOPS_TEST_SERVICE", "{}")))
    globals()["app"] = app = create_app(_open(), OPERATIONS, options=service, title="Bank under test")
    return app
