"""The benchmarks' own rules: counts may not rise, and clients behind the proxy find every node behind it.

Must not be in here: times.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from couchbase.auth import PasswordAuthenticator
from couchbase.cluster import Cluster
from couchbase.options import ClusterOptions

from benchmarks import counts
from benchmarks.measuring import Slot, ratios
from benchmarks.proxy import Proxy
from casops.testing.couchbase_server import CouchbaseServer


def test_no_count_has_risen(tmp_path: Path) -> None:
    assert counts.risen(counts.count(tmp_path / "counts"), counts.checked_in()) == []


def test_a_count_that_rises_or_is_new_is_told() -> None:
    before = {"on a file": {"transfer": {"statements": 21, "syncs": 1}}}
    assert counts.risen({"on a file": {"transfer": {"statements": 20, "syncs": 1}}}, before) == []
    assert counts.risen({"on a file": {"transfer": {"statements": 22, "calls": 1}}}, before) == [
        "on a file, transfer: calls is not in both",
        "on a file, transfer: statements was 21, is 22",
        "on a file, transfer: syncs is not in both",
    ]


def test_ratios_are_taken_round_by_round() -> None:
    ours = [Slot([1.0], 1.0), Slot([2.0], 1.0), Slot([8.0], 1.0)]
    theirs = [Slot([2.0], 1.0), Slot([2.0], 2.0), Slot([4.0], 1.0)]
    told = ratios({"casops": ours, "other": theirs})["other"]
    assert told["p50"] == {"median": 1.0, "least": 0.5, "most": 2.0}
    assert told["throughput"] == {"median": 1.0, "least": 1.0, "most": 2.0}


def test_clients_behind_the_proxy_find_every_node_behind_it() -> None:
    with CouchbaseServer(nodes=2) as server, Proxy(f"127.0.0.1:{server.ports[0]}", 0.5) as proxy:
        cluster: Any = Cluster(
            f"couchbase://127.0.0.1:{proxy.port}", ClusterOptions(PasswordAuthenticator(server.user, server.password))
        )
        try:
            cluster.wait_until_ready(timedelta(seconds=20))
            collection = cluster.bucket(server.bucket).default_collection()
            for number in range(40):
                collection.upsert(f"key-{number}", {"number": number})
            assert [collection.get(f"key-{number}").content_as[dict] for number in range(40)] == [
                {"number": number} for number in range(40)
            ]
            endpoints = [each for found in cluster.diagnostics().endpoints.values() for each in found]
            reached = {int(each.remote.rpartition(":")[2]) for each in endpoints}
            assert len(reached) >= 2
            assert not reached & set(server.ports)
        finally:
            cluster.close()
