"""A Couchbase for tests: the test double, or the cluster that CASOPS_TEST_COUCHBASE names.

Every test gets keys of its own by a prefix.  On a real cluster what a test has written is removed after it; the
double is forgotten with the process.

Must not be in here: assertions.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any
from urllib.parse import urlencode

from casops.stores.couchbase_sdk import auth, cluster, exceptions, options
from casops.stores.couchbase_url import read_url
from casops.testing.couchbase_server import CouchbaseProcess, CouchbaseServer

REAL = os.environ.get("CASOPS_TEST_COUCHBASE")

# All documents of a test are in one collection, whatever names it makes up.
COLLECTIONS = {"_default": ["casops", "tests"]}


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
        scans: Any = import_module("couchbase.kv_range_scan")
        with self.client() as (client, bucket):
            for name in COLLECTIONS["_default"]:
                collection = client.bucket(bucket).default_scope().collection(name)
                for each in list(collection.scan(scans.PrefixScan(prefix), options.ScanOptions(ids_only=True))):
                    try:
                        collection.remove(each.id)
                    except exceptions.DocumentNotFoundException:
                        continue

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


@contextmanager
def couchbase_for_tests(**how: Any) -> Iterator[Couchbase]:
    """`how`: arguments for the test double."""
    if REAL:
        yield Couchbase(REAL, None)
        return
    with CouchbaseServer(scopes=COLLECTIONS, **how) as server:
        yield Couchbase(server.url, server)


@contextmanager
def shared_couchbase() -> Iterator[Couchbase]:
    """For several processes: the double does not share the interpreter of the tests."""
    if REAL:
        yield Couchbase(REAL, None)
        return
    with CouchbaseProcess(scopes=COLLECTIONS) as server:
        yield Couchbase(server.url, server)
