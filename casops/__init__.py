"""casops: business operations over documents that happen exactly once.

Business code says what an operation does to its documents; casops makes it happen exactly once,
however often it is asked for, whichever worker dies, whichever reply is lost.  Start with the README;
the protocol is explained at the top of `casops/protocol/__init__.py`, the errors in `casops/errors.py`.

A call comes down through these:

    front.py, async_front.py                the doors; callers, turns and settling in the background
    callers.py, combining.py, turns.py      calls of one process that meet: together, or one after the other
    engine.py, business.py                  what can be asked for, as generators; operations as the protocol takes them
    protocol/                               how an operation happens exactly once: generators of requests (messages.py)
    drivers.py, conversations.py, local.py  who carries the requests out
    stores/                                 where documents live: memory, SQLite, Couchbase

`documents.py` and `operations.py` are what business code is written with.  That it comes back from JSON as it was
is looked after by `arguments.py`, `sameness.py`, `validating.py` and `numbers.py`; `running.py` says who must not ask
whom, `tasks.py` makes the tasks of casops' own.  `client/` and `service/` do all of this over HTTP and agree on
`wire.py`.  `testing/` proves it, and crashes operations of your own.
"""

from casops.async_front import AsyncCasOps
from casops.documents import Document, Documents, Ref
from casops.errors import (
    Cancelled,
    CasOpsError,
    Closed,
    Contended,
    Declined,
    DocumentExists,
    DocumentMissing,
    Expired,
    InvalidDocument,
    InvariantViolation,
    OperationMismatch,
    OutcomeUnknown,
    StoreUnavailable,
    UsageError,
)
from casops.front import CasOps
from casops.ids import new_operation_id
from casops.operations import Operation
from casops.options import Options
from casops.outcome import Outcome, Pending, Recovery, Snapshot
from casops.records import Event

__all__ = [
    "AsyncCasOps",
    "Cancelled",
    "CasOps",
    "CasOpsError",
    "Closed",
    "Contended",
    "Declined",
    "Document",
    "DocumentExists",
    "DocumentMissing",
    "Documents",
    "Event",
    "Expired",
    "InvalidDocument",
    "InvariantViolation",
    "Operation",
    "OperationMismatch",
    "Options",
    "Outcome",
    "OutcomeUnknown",
    "Pending",
    "Recovery",
    "Ref",
    "Snapshot",
    "StoreUnavailable",
    "UsageError",
    "new_operation_id",
]
