"""What a client and a node agree on before documents: features, login, bucket, cluster map, collections.

Must not be in here: sockets, documents.
"""

from __future__ import annotations

import json
from typing import Final

from casops.testing.couchbase_server import sasl
from casops.testing.couchbase_server.answers import Answer
from casops.testing.couchbase_server.documents import Key, vbucket_of
from casops.testing.couchbase_server.service import Service
from casops.testing.couchbase_server.topology import VBUCKETS
from casops.testing.couchbase_server.wire import FEATURES, U16, U32, U64, Opcode, Request, Status

OK: Final = Answer(Status.OK)

ERROR_MAP: Final = json.dumps(
    {
        "version": 2,
        "revision": 1,
        "errors": {
            f"{status:x}": {
                "name": status.name,
                "desc": status.name.replace("_", " ").lower(),
                "attrs": ["item-only"] if status >= Status.PATH_NOT_FOUND else [],
            }
            for status in Status
        },
    }
).encode()


class Session:
    def __init__(self, service: Service, node: int) -> None:
        self._service, self._node = service, node
        self.features: frozenset[int] = frozenset()
        self._scram: sasl.Scram | None = None
        self._authenticated = False
        self._bucket = False

    def refusal(self, request: Request, key: Key) -> Answer | None:
        """Why it gets nothing, whatever it asks of this document."""
        if not self._authenticated:
            return Answer(Status.NO_ACCESS)
        if not self._bucket:
            return Answer(Status.NO_BUCKET)
        topology = self._service.topology
        if refusal := self._service.refusal(key):
            return refusal
        responsible = request.opcode in (Opcode.GET_REPLICA, Opcode.OBSERVE) or (
            request.vbucket == vbucket_of(key[1], VBUCKETS) and topology.node_of(request.vbucket) == self._node
        )
        return None if responsible else Answer(Status.NOT_MY_VBUCKET, value=topology.text(self._node, True))

    def talk(self, request: Request) -> Answer:
        opcode = request.opcode
        if opcode == Opcode.HELO:
            return self._hello(request)
        if opcode == Opcode.SASL_LIST_MECHANISMS:
            return Answer(Status.OK, value=" ".join(sasl.NAMES).encode())
        if opcode in (Opcode.SASL_AUTH, Opcode.SASL_STEP):
            return self._log_in(request)
        if opcode == Opcode.NOOP:
            return OK
        if opcode == Opcode.VERSION:
            return Answer(Status.OK, value=b"7.6.6-casops-test-double")
        if opcode == Opcode.GET_ERROR_MAP:
            return Answer(Status.OK, value=ERROR_MAP)
        if not self._authenticated:
            return Answer(Status.NO_ACCESS)
        if opcode == Opcode.SELECT_BUCKET:
            self._bucket = request.key == self._service.topology.bucket.encode()
            return OK if self._bucket else Answer(Status.NO_ACCESS)
        if opcode == Opcode.GET_CLUSTER_CONFIG:
            return Answer(Status.OK, value=self._service.topology.text(self._node, self._bucket))
        if opcode == Opcode.GET_COLLECTION_ID:
            return self._collection_id(request)
        if opcode == Opcode.GET_COLLECTIONS_MANIFEST:
            return Answer(Status.OK, value=json.dumps(self._service.collections.manifest()).encode())
        return Answer(Status.UNKNOWN_COMMAND)

    def _hello(self, request: Request) -> Answer:
        if len(request.value) % 2:
            return Answer(Status.INVALID)
        asked = [U16.unpack_from(request.value, at)[0] for at in range(0, len(request.value), 2)]
        agreed = [feature for feature in dict.fromkeys(asked) if feature in FEATURES]
        self.features = frozenset(agreed)
        return Answer(Status.OK, value=b"".join(map(U16.pack, agreed)))

    def _log_in(self, request: Request) -> Answer:
        service = self._service
        mechanism = request.key.decode(errors="replace")
        try:
            if request.opcode == Opcode.SASL_STEP:
                if self._scram is None:
                    raise sasl.LoginFailed
                scram, self._scram = self._scram, None
                verdict = scram.verdict(request.value)
            elif mechanism in sasl.MECHANISMS:
                self._scram = sasl.Scram(mechanism, service.user, service.password)
                return Answer(Status.AUTH_CONTINUE, value=self._scram.challenge(request.value))
            elif mechanism == "PLAIN":
                sasl.check_plain(request.value, service.user, service.password)
                verdict = b""
            else:
                raise sasl.LoginFailed
        except sasl.LoginFailed:
            return Answer(Status.AUTH_ERROR)
        self._authenticated = True
        return Answer(Status.OK, value=verdict)

    def _collection_id(self, request: Request) -> Answer:
        collections = self._service.collections
        path = (request.value or request.key).decode(errors="replace")
        try:
            number = collections.find(path)
        except ValueError:
            return Answer(Status.INVALID)
        except KeyError:
            return Answer(Status.UNKNOWN_SCOPE, value=b'{"manifest_uid":"%x"}' % collections.uid)
        if number is None:
            return Answer(Status.UNKNOWN_COLLECTION, value=b'{"manifest_uid":"%x"}' % collections.uid)
        return Answer(Status.OK, extras=U64.pack(collections.uid) + U32.pack(number))
