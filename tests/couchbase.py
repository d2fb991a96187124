"""A Couchbase for tests: the test double, or the cluster that CASOPS_TEST_COUCHBASE names.

Every test gets keys of its own by a prefix.  On a real cluster what a test has written is removed after it; the
double is forgotten with the process.

Must not be in here: assertions.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any
from urllib.parse import urlencode

from casops.stores import couchbase as stores
from casops.stores.couchbase_calls import Call, Calls
from casops.stores.couchbase_sdk import auth, cluster, exceptions, options
from casops.stores.couchbase_url import read_url
from casops.stores.opening import open_store
from casops.testing.couchbase_server import CouchbaseProcess, CouchbaseServer

REAL = os.environ.get("CASOPS_TEST_COUCHBASE")

# All documents of a test are in one collection, whatever names it makes up.
COLLECTIONS = {"_default": ["casops", "tests"]}


# What this process has written to a real cluster: collection and key.
WRITTEN: set[tuple[str, str]] = set()


def impatient(store: Any, seconds: float) -> None:
    """Let an open store wait no longer than this for a call.  (To connect may take longer on a busy machine.)"""
    shared = store._shared
    vars(shared.calls).update(vars(Calls(replace(shared.settings, timeout=seconds))))


@dataclass
class Couchbase:
    """Where tests may write.  `server`: the double, or None."""

    base: str  # URL without options
    server: CouchbaseServer | CouchbaseProcess | None

    def url(self, prefix: str, **options: str) -> str:
        return f"{self.base}?{urlencode({'collection': 'tests', 'prefix': prefix, **options})}"

    def new_prefix(self) -> str:
        return f"t{secrets.token_hex(4)}-"

    def forget(self, prefix: str) -> None:
        """Remove what tests wrote under a prefix."""
        if self.server is not None:
            return
        with self.client() as (client, bucket):
            scope = client.bucket(bucket).default_scope()
            for name in COLLECTIONS["_default"]:
                collection = scope.collection(name)
                for key in [*written(collection, prefix), *(key for at, key in WRITTEN if at == name)]:
                    if key.startswith(prefix):
                        with suppress(exceptions.DocumentNotFoundException):
                            collection.remove(key)
        WRITTEN.clear()

    @contextmanager
    def client(self) -> Iterator[tuple[Any, str]]:
        """An ordinary client of the SDK, and the name of the bucket."""
        target = read_url(*self.base.split("://", 1))
        login = auth.PasswordAuthenticator(target.user, target.password)
        client = cluster.Cluster(target.connection, options.ClusterOptions(login))
        try:
            yield client, target.bucket
        finally:
            client.close()


def written(collection: Any, prefix: str) -> list[str]:
    """What other processes have written, where the server can tell (7.6 and later)."""
    scans: Any = import_module("couchbase.kv_range_scan")
    try:
        found = list(collection.scan(scans.PrefixScan(prefix), options.ScanOptions(ids_only=True)))
    except exceptions.FeatureUnavailableException:
        return []
    return [each.id for each in found]


@contextmanager
def real(url: str) -> Iterator[Couchbase]:
    """A cluster that somebody has; the collections are created and stay.  What this process writes is noted."""
    open_store(f"{url}?collection=tests&create=true&timeout=30").close()
    # The one place from which calls go out; the module does not export it.
    module: Any = stores
    send = module.send

    def noting(collection: Any, call: Call) -> Any:
        if not call.reading:
            WRITTEN.add((call.place.collection, call.place.key))
        return send(collection, call)

    module.send = noting
    try:
        yield Couchbase(url, None)
    finally:
        module.send = send


@contextmanager
def couchbase_for_tests(**how: Any) -> Iterator[Couchbase]:
    """`how`: arguments for the test double."""
    if REAL:
        with real(REAL) as couchbase:
            yield couchbase
        return
    with CouchbaseServer(scopes=COLLECTIONS, **how) as server:
        yield Couchbase(server.url, server)


@contextmanager
def shared_couchbase() -> Iterator[Couchbase]:
    """For several processes: the double does not share the interpreter of the tests."""
    if REAL:
        with real(REAL) as couchbase:
            yield couchbase
        return
    with CouchbaseProcess(scopes=COLLECTIONS) as server:
        yield Couchbase(server.url, server)
