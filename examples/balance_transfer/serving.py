"""The bank over HTTP:  casops serve examples.balance_transfer.serving:app

    BALANCE_TRANSFER_STORE     URL of the store (sqlite:///bank.db)
    BALANCE_TRANSFER_SERVER    what this server is called in histories (its host and process)
    BALANCE_TRANSFER_DIE       for the demonstration: when this server kills itself (casops/testing/dying.py)

Must not be in here: the business (model.py), the demonstration (service.py).
"""

from __future__ import annotations

import os

from casops import CasOps
from casops.service import ServiceOptions, create_app
from casops.stores.opening import open_store
from casops.testing.dying import DyingStore
from examples.balance_transfer.model import OPERATIONS, open_bank

# Below the deadline that `open_bank` sets, so that a slow payment goes on when its caller is told to ask again.
# A payment's id does not tell how old it is: here nothing is forgotten, acknowledged or not.
SERVICE = ServiceOptions(answer_within=5.0, forget_after=0)


def _open() -> CasOps:
    url = os.environ.get("BALANCE_TRANSFER_STORE", "sqlite:///bank.db")
    worker = os.environ.get("BALANCE_TRANSFER_SERVER")
    casops = open_bank(url, worker=worker)
    moment = os.environ.get("BALANCE_TRANSFER_DIE")
    if moment is None:
        return casops
    options = casops.options
    casops.close()
    return CasOps(DyingStore(open_store(url), moment), options=options, worker=worker)


app = create_app(_open(), OPERATIONS, options=SERVICE, title="Balance transfers")
