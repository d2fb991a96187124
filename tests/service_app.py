"""An application under test, put together from environment variables: `python -m casops.service tests.service_app:app`.

    CASOPS_TEST_STORE      URL of the store
    CASOPS_TEST_OPTIONS    JSON: fields of casops.Options that differ
    CASOPS_TEST_SERVICE    JSON: fields of ServiceOptions that differ
    CASOPS_TEST_DIE        WHEN:PHASE or WHEN:PHASE:OPERATION_ID, so that the process kills itself with SIGKILL there
    CASOPS_TEST_SERVED     JSON: names of the operations to be served (all)
    CASOPS_TEST_GATE       a folder: `Gated` waits in `apply` for a file there named like its `gate`, and tells with a
                           file `<gate>.entered` that it is waiting

Moments to die at are told in casops/testing/dying.py.  Production code knows nothing of them: the store is wrapped.

Must not be in here: tests.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from casops import CasOps, Documents, Operation, Options
from casops.service import ServiceOptions, create_app
from casops.stores.opening import open_store
from casops.testing.dying import DyingStore
from tests.bank import Broken, Close, Echo, Open, Overdraw, Transfer


class Gated(Operation[str]):
    """Business code that takes as long as the test says."""

    gate: str

    def apply(self, documents: Documents) -> str:
        folder = Path(os.environ["CASOPS_TEST_GATE"])
        with (folder / f"{self.gate}.entered").open("a") as entered:
            entered.write("entered\n")  # one line for each run
        ends = time.monotonic() + 120  # a test that died must not leave this waiting for ever
        while not (folder / self.gate).exists() and time.monotonic() < ends:
            time.sleep(0.005)
        return self.gate


OPERATIONS: list[type[Operation[Any]]] = [Open, Transfer, Close, Overdraw, Broken, Echo, Gated]


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
    served = json.loads(os.environ.get("CASOPS_TEST_SERVED", "null"))
    operations = [each for each in OPERATIONS if served is None or each.operation_name in served]
    globals()["app"] = app = create_app(_open(), operations, options=service, title="Bank under test")
    return app
