"""Who holds what: nodes and their ports, vbuckets, scopes and collections with their ids.

Must not be in here: documents, sockets.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

# As many as a real bucket has: clients count on it (their transactions choose documents by it).
VBUCKETS = 1024

# As the real one numbers them: the default collection is 0, the first of a user's 8.
FIRST_ID = 8

NAME: Final = re.compile(r"[A-Za-z0-9\-][A-Za-z0-9_%\-]{0,250}")

CAPABILITIES: Final = (
    "collections",
    "couchapi",
    "durableWrite",
    "nodesExt",
    "preserveExpiry",
    "subdoc.DocumentMacroSupport",
    "subdoc.ReplaceBodyWithXattr",
    "subdoc.ReviveDocument",
    "tombstonedUserXAttrs",
    "touch",
    "xattr",
)


class Collections:
    """The manifest: scopes, their collections, and a number that grows with every change."""

    def __init__(self, scopes: Mapping[str, Sequence[str]]) -> None:
        self.uid = 0
        self._next = FIRST_ID
        self._scopes: dict[str, dict[str, int]] = {"_default": {"_default": 0}}
        self._scope_ids: dict[str, int] = {"_default": 0}
        self.ids: set[int] = {0}
        for scope, names in scopes.items():
            if scope not in self._scopes:
                self.add_scope(scope)
            for name in names:
                if name not in self._scopes[scope]:
                    self.add_collection(scope, name)

    def _fresh(self) -> int:
        self._next += 1
        self.uid += 1
        return self._next - 1

    def add_scope(self, scope: str) -> None:
        """Raises ValueError: not a name, or already there."""
        if not NAME.fullmatch(scope):
            raise ValueError(f"not a name for a scope: {scope!r}")
        if scope in self._scopes:
            raise ValueError(f"Scope with name {json.dumps(scope)} already exists")
        self._scope_ids[scope] = self._fresh()
        self._scopes[scope] = {}

    def add_collection(self, scope: str, name: str) -> None:
        """Raises ValueError: not a name, or already there; KeyError: no such scope."""
        if not NAME.fullmatch(name):
            raise ValueError(f"not a name for a collection: {name!r}")
        if name in self._scopes[scope]:
            raise ValueError(f"Collection with name {json.dumps(name)} in scope {json.dumps(scope)} already exists")
        self._scopes[scope][name] = number = self._fresh()
        self.ids.add(number)

    def drop_collection(self, scope: str, name: str) -> int:
        """Gives its id.  Raises KeyError."""
        number = self._scopes[scope].pop(name)
        self.ids.discard(number)
        self.uid += 1
        return number

    def drop_scope(self, scope: str) -> list[int]:
        """Gives the ids of its collections.  Raises KeyError; ValueError for the default scope."""
        if scope == "_default":
            raise ValueError("the default scope stays")
        numbers = list(self._scopes.pop(scope).values())
        del self._scope_ids[scope]
        self.ids.difference_update(numbers)
        self.uid += 1
        return numbers

    def find(self, path: str) -> int | None:
        """The id of `scope.collection`; None: the scope has none of this name.

        Raises ValueError: no such names; KeyError: no such scope.
        """
        scope, _, name = path.partition(".")
        for each in (scope, name):
            if each != "_default" and not NAME.fullmatch(each):
                raise ValueError(path)
        return self._scopes[scope].get(name)

    def scopes(self) -> list[str]:
        return list(self._scopes)

    def paths(self) -> dict[int, str]:
        """`scope.collection` by id."""
        return {number: f"{scope}.{name}" for scope, names in self._scopes.items() for name, number in names.items()}

    def manifest(self) -> dict[str, Any]:
        return {
            "uid": f"{self.uid:x}",
            "scopes": [
                {
                    "name": scope,
                    "uid": f"{self._scope_ids[scope]:x}",
                    "collections": [
                        {"name": name, "uid": f"{number:x}", "maxTTL": 0} for name, number in names.items()
                    ],
                }
                for scope, names in self._scopes.items()
            ],
        }


class Topology:
    """Nodes with their ports, and which of them is responsible for a vbucket."""

    def __init__(self, host: str, bucket: str, nodes: int, replicas: int) -> None:
        if not 1 <= nodes <= 3:
            raise ValueError(f"1 to 3 nodes; not {nodes}")
        if not 0 <= replicas <= 3:
            raise ValueError(f"0 to 3 replicas; not {replicas}")
        self.host, self.bucket, self.nodes, self.replicas = host, bucket, nodes, replicas
        # Of the data service, by node, and of management (0: none); set once they are known.
        self.ports: list[int] = []
        self.management_port = 0
        self.revision = 1
        self._texts: dict[tuple[int, bool], bytes] = {}

    def changed(self) -> None:
        self.revision += 1
        self._texts.clear()

    def node_of(self, vbucket: int) -> int:
        return vbucket % self.nodes

    @property
    def majority_possible(self) -> bool:
        """Whether more than half of the copies a vbucket should have can exist."""
        copies = self.replicas + 1
        return min(copies, self.nodes) > copies // 2

    def text(self, node: int, with_bucket: bool) -> bytes:
        """The cluster map as this node tells it."""
        known = self._texts.get((node, with_bucket))
        if known is None:
            known = json.dumps(self._map(node, with_bucket), separators=(",", ":")).encode()
            self._texts[node, with_bucket] = known
        return known

    def _map(self, node: int, with_bucket: bool) -> dict[str, Any]:
        everything = [
            {
                "hostname": self.host,
                "services": {"kv": port, **({"mgmt": self.management_port} if self.management_port else {})},
                **({"thisNode": True} if index == node else {}),
            }
            for index, port in enumerate(self.ports)
        ]
        shown: dict[str, Any] = {
            "rev": self.revision,
            "revEpoch": 1,
            "nodesExt": everything,
            "clusterCapabilitiesVer": [1, 0],
            "clusterCapabilities": {},
        }
        if not with_bucket:
            return shown
        servers = [f"{self.host}:{port}" for port in self.ports]
        return shown | {
            "name": self.bucket,
            "uuid": "casops-test-double",
            "bucketType": "membase",
            "nodeLocator": "vbucket",
            "bucketCapabilitiesVer": "",
            "bucketCapabilities": CAPABILITIES,
            "nodes": [
                {"hostname": f"{self.host}:{self.management_port or 8091}", "ports": {"direct": port}}
                for port in self.ports
            ],
            "vBucketServerMap": {
                "hashAlgorithm": "CRC",
                "numReplicas": self.replicas,
                "serverList": servers,
                "vBucketMap": [self._copies(vbucket) for vbucket in range(VBUCKETS)],
            },
        }

    def _copies(self, vbucket: int) -> list[int]:
        """The node with the active copy, then those of the replicas; -1: there is no node for it."""
        return [(vbucket + copy) % self.nodes if copy < self.nodes else -1 for copy in range(self.replicas + 1)]
