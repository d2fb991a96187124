"""A test double of a Couchbase data service: enough of its binary protocol for the real SDK, over real sockets.

It keeps documents in memory, in one process.  It is for tests; it is no server.

    with CouchbaseServer(scopes={"app": ["accounts"]}) as server:
        cluster = Cluster(server.connection_string, ClusterOptions(PasswordAuthenticator("casops", "password")))

Must not be in here: anything but the public names.
"""

from casops.testing.couchbase_server.server import CouchbaseServer

__all__ = ["CouchbaseServer"]
