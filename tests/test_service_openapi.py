"""The service against its own OpenAPI document, by somebody else's tool: schemathesis."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

from tests.service_process import Server

# Requests for each path and phase: enough to reach every documented status, in some ten seconds.
EXAMPLES = 15
# Refusals of well-formed requests ("there is no such account") are 4xx by design, and more follows from the meaning of
# arguments than a schema can tell.
EXCLUDED = "positive_data_acceptance"
# All but those that break on purpose.
SERVED = ("Open", "Transfer", "Close", "Overdraw", "Echo")


def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    with Server(f"sqlite:///{tmp_path}/bank.db", tmp_path, served=SERVED) as server:
        # In a folder of its own: it leaves a cache behind.
        command = [
            *(str(Path(sys.executable).with_name("schemathesis")), "run", f"{server.url}/openapi.json"),
            *("--max-examples", str(EXAMPLES), "--seed", "1", "--exclude-checks", EXCLUDED, "--no-color"),
        ]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
        statuses = Counter(re.findall(r'HTTP/1.1" (\d{3})', server.log.read_text()))
    assert done.returncode == 0, done.stdout
    assert f"Tested: {len(SERVED) + 2}" in done.stdout
    # It has been everywhere: results, refusals, bad bodies and keys, ids nobody has heard of, wrong methods.
    assert {"200", "400", "404", "405", "422"} <= statuses.keys()
    assert "500" not in statuses
    assert sum(statuses.values()) > 100
