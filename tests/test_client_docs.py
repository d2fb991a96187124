"""docs/client.md as a reader would follow it: its two files, its servers as they are started there, all of its code."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.service_process import PATIENCE, free_port

PAGE = Path(__file__).parent.parent / "docs" / "client.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def start(command: str, folder: Path, stack: ExitStack) -> subprocess.Popen[bytes]:
    """A server as the page starts it, and wait until it takes requests."""
    program, *arguments = shlex.split(command)
    log = stack.enter_context((folder / "log").open("ab"))
    process = subprocess.Popen([Path(sys.executable).parent / program, *arguments], cwd=folder, stdout=log, stderr=log)
    stack.callback(process.wait, PATIENCE)
    stack.callback(process.kill)
    port = arguments[-1]
    ends = time.monotonic() + PATIENCE
    while time.monotonic() < ends and process.poll() is None:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health").status_code == 204:
                return process
        except httpx.TransportError:
            time.sleep(0.02)
    raise AssertionError((folder / "log").read_text())


def test_the_page_does_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ports = {"8000": str(free_port()), "8001": str(free_port())}
    bank, serving, *programs = blocks("py")
    servers = [line for block in blocks("console") for line in block.splitlines() if line.startswith("casops serve")]
    assert len(servers) == 2
    (tmp_path / "bank.py").write_text(bank)
    (tmp_path / "serving.py").write_text(serving)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with ExitStack() as stack:
        for each in servers:
            command, _, port = each.rpartition(" ")
            start(f"{command} {ports[port]}", tmp_path, stack)
        namespace: dict[str, object] = {"__name__": "page"}
        for program in programs:
            text = re.sub(r"127\.0\.0\.1:(\d+)", lambda match: f"127.0.0.1:{ports[match[1]]}", program)
            exec(compile(text, "docs/client.md", "exec", dont_inherit=True), namespace)
    sys.modules.pop("bank", None)
    told = capsys.readouterr().out
    assert "insufficient_funds {'balance': '400'}" in told
    assert "applied left=Decimal('400') True" in told
    assert "order-29401" in told
