"""The example over HTTP: the demonstration shows what it claims."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from examples.balance_transfer import cli

ROOT = Path(__file__).parent.parent


def test_a_payment_lives_through_the_death_of_its_server(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "examples.balance_transfer", "service"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    said = " ".join(done.stdout.split())
    for each in (
        "client hears nothing from server-1",
        "server-2 answers (taken over)",
        "server-1 answers (replayed)",
        "server-1 declared: this is to happen",
        "server-2 an unfinished attempt was made void",
        "alice has 70.00, bob has 30.00",
        "the payment happened exactly once",
    ):
        assert each in said
    assert done.stderr == ""


def test_a_sign_to_end_leaves_no_server(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "examples.balance_transfer", "service"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as asked:
        while not any(log.stat().st_size for log in tmp_path.glob("*/server-2.log")):
            assert asked.poll() is None
            time.sleep(0.01)
        servers = Path(f"/proc/{asked.pid}/task/{asked.pid}/children").read_text().split()
        asked.terminate()
        _, err = asked.communicate(timeout=60)
    assert (asked.returncode, err) == (130, "interrupted\n")
    assert len(servers) > 0
    assert [each for each in servers if Path(f"/proc/{each}").exists()] == []
    assert list(tmp_path.iterdir()) == []


def test_what_is_missing_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert cli.main(["service"]) == 2
    assert "casops[demo,service]" in capsys.readouterr().err
