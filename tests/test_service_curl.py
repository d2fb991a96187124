"""A client that is not ours: the curl lines of two pages, and curl against a server that dies."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.service_process import PATIENCE, Server, free_port

PAGE = Path(__file__).parent.parent / "docs" / "service.md"
README = PAGE.parent.parent / "README.md"
CURL = shutil.which("curl")


@pytest.fixture(autouse=True)
def curl_is_there() -> None:
    assert CURL is not None, "curl is needed for this test: apt-get install curl"


def curl(command: str, port: int) -> str:
    words = shlex.split(command.replace("127.0.0.1:8000", f"127.0.0.1:{port}"))
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout.replace("\r\n", "\n").rstrip("\n")


def conversations(text: str) -> list[tuple[str, str]]:
    """Each `$ curl …` of a page with what it is said to print."""
    found: list[tuple[str, str]] = []
    for block in re.findall(r"^```console\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, prints = part.partition("\n")
            found.append((command, prints.rstrip("\n")))
    return found


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[int]:
    """The page's own server, started by the page's own command.  Gives its port."""
    text = PAGE.read_text()
    (code,) = re.findall(r"^```python\n(# bank.py\n.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "bank.py").write_text(code)
    (command,) = re.findall(r"^(casops serve .*)$", text, re.MULTILINE)
    port = free_port()
    program, *arguments = shlex.split(command.replace("8000", str(port)))
    with (tmp_path / "log").open("wb") as log:
        path = Path(sys.executable).with_name(program)
        process = subprocess.Popen([path, *arguments], cwd=tmp_path, stdout=log, stderr=log)
    try:
        ends = time.monotonic() + PATIENCE
        while True:
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < ends
            try:
                httpx.get(f"http://127.0.0.1:{port}/health")
                break
            except httpx.TransportError:
                time.sleep(0.02)
        yield port
    finally:
        process.terminate()
        process.wait(PATIENCE)


@pytest.mark.parametrize(("page", "lines"), [(PAGE, 9), (README, 5)], ids=["docs/service.md", "README.md"])
def test_the_curl_lines_of_a_page_do_what_it_says(bank: int, page: Path, lines: int) -> None:
    told = conversations(page.read_text())
    assert len(told) >= lines
    for command, prints in told:
        pattern = ".*?".join(re.escape(part) for part in prints.split("…"))
        printed = curl(command, bank)
        assert re.fullmatch(pattern, printed, re.DOTALL), (command, printed)


def test_curl_gets_its_answer_from_a_server_that_dies_and_comes_back(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/bank.db"
    with Server(store, tmp_path, die="half:propose:t") as server:
        post = f"curl -s --retry 20 --retry-delay 1 --retry-all-errors {server.url}/operations"
        for account, balance in (("alice", 100), ("bob", 0)):
            body = f'{{"account": "{account}", "balance": "{balance}"}}'
            assert curl(f"{post}/open -H 'Idempotency-Key: open-{account}' -d '{body}'", server.port) == "null"

        def bring_back() -> None:
            assert server.wait() == -9
            server.restart()

        helper = threading.Thread(target=bring_back)
        helper.start()
        transfer = '{"source": "alice", "target": "bob", "amount": "30"}'
        answers = [curl(f"{post}/transfer -H 'Idempotency-Key: t' -d '{transfer}'", server.port) for _ in range(2)]
        helper.join(PATIENCE)
        assert answers == ['{"left":"70"}'] * 2
        balances = [
            curl(f"{post}/close -H 'Idempotency-Key: close-{who}' -d '{{\"account\": \"{who}\"}}'", server.port)
            for who in ("alice", "bob")
        ]
        assert balances == ['"70"', '"30"']
