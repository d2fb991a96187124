"""The test double against outcomes recorded on a real data service, by the script that recorded them.

The cases that may differ are those which the documentation lists, no more and no fewer.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from casops.testing import CouchbaseProcess

ROOT = Path(__file__).parent.parent
TELL = Path(__file__).parent / "tell_couchbase_server.py"

# Groups of cases and how many each has: together 41, which is what the record holds.
GROUPS = {"kv": 12, "subdoc": 7, "xattr": 5, "tombstone": 9, "expiry": 3, "durability": 1, "faults": 4}


def conformance() -> Path:
    folder = Path(os.environ.get("CASOPS_CONFORMANCE") or ROOT.parent / "shared" / "conformance")
    if not folder.exists():
        pytest.skip("no conformance cases: set CASOPS_CONFORMANCE to their folder")
    return folder


def known_differences() -> set[str]:
    page = (ROOT / "docs" / "couchbase-test-server.md").read_text()
    table = page.partition("Of the recorded cases these differ:")[2].partition("And what no case covers")[0]
    return set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))


def test_at_least_39_of_the_41_cases_must_pass() -> None:
    assert sum(GROUPS.values()) == 41
    assert len(known_differences()) <= 2


@pytest.mark.parametrize("group", GROUPS)
def test_cases_end_as_recorded(group: str) -> None:
    folder = conformance()
    with CouchbaseProcess(user="Administrator", scopes={"app": ["c0"]}) as server:
        # -P: the folder of the script must not hide modules of the standard library.
        tell = shlex.join([sys.executable, "-P", str(TELL), str(server.control_port)]) + " {action} {value}"
        command = [sys.executable, str(folder / "couchbase_cases.py"), "--url", server.connection_string]
        command += ["--compare", str(folder / "recorded-7.6.6.json"), "--group", group, "--fault-command", tell]
        run = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert run.stderr == ""
    verdicts: list[tuple[str, str]] = re.findall(r"^(ok|DIFFERS) +(\w+) ", run.stdout, re.MULTILINE)
    ended = {name: verdict for verdict, name in verdicts}
    assert len(ended) == GROUPS[group], run.stdout
    differing = {name for name, verdict in ended.items() if verdict != "ok"}
    assert differing == {name for name in known_differences() if name in ended}, run.stdout
