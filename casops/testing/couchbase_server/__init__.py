"""A test double of a Couchbase data service: enough of its binary protocol for the real SDK, over real sockets.

It keeps documents in memory, in one process.  It is for tests; it is no server.

    with CouchbaseServer(scopes={"app": ["accounts"]}) as server:
        cluster = Cluster(server.connection_string, ClusterOptions(PasswordAuthenticator(server.user, server.password)))
        server.faults.add("drop_reply", opcode="REPLACE", key="account-*")

Must not be in here: anything but the public names.
"""

from casops.testing.couchbase_server.face import AddedFault, Faults, StepCount
from casops.testing.couchbase_server.process import CouchbaseProcess
from casops.testing.couchbase_server.server import CouchbaseServer
from casops.testing.couchbase_server.wirelog import Counter, Seen

__all__ = ["AddedFault", "CouchbaseProcess", "CouchbaseServer", "Counter", "Faults", "Seen", "StepCount"]
