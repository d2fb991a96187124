"""The Couchbase SDK, imported here and nowhere else.

The SDK ships no types, so for a type checker its modules hold `Any`; casops.stores.couchbase_calls says what comes out
of them.  Importing this without the SDK raises ModuleNotFoundError.

Must not be in here: anything but imports.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

auth: Any = import_module("couchbase.auth")
cluster: Any = import_module("couchbase.cluster")
constants: Any = import_module("couchbase.constants")
durability: Any = import_module("couchbase.durability")
exceptions: Any = import_module("couchbase.exceptions")
options: Any = import_module("couchbase.options")
subdocument: Any = import_module("couchbase.subdocument")


def async_cluster() -> Any:
    """The class of the async API, which is imported only where it is used: it looks for an event loop."""
    return import_module("acouchbase.cluster").AsyncCluster
