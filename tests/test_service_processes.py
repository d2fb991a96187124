"""Real servers: killed in the middle, taken over, shut down."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from casops import CasOps, Options, Outcome
from casops.wire import encode_id
from tests.bank import Account, Open
from tests.service_process import PATIENCE, ROOT, Server

TRANSFER = {"source": "alice", "target": "bob", "amount": "30"}


def post(server: Server, path: str, operation_id: str, arguments: Any, **more: Any) -> httpx.Response:
    return httpx.post(
        f"{server.url}/operations/{path}",
        json=arguments,
        headers={"Idempotency-Key": encode_id(operation_id)},
        timeout=PATIENCE,
        **more,
    )


def until(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.01)


@pytest.fixture
def store(tmp_path: Path) -> str:
    """A store with two accounts."""
    url = f"sqlite:///{tmp_path}/bank.db"
    with CasOps.open(url) as casops:
        casops.run(Open(account="alice", balance=100), operation_id="open-alice")
        casops.run(Open(account="bob"), operation_id="open-bob")
    return url


def balances(store: str) -> tuple[Any, Any]:
    with CasOps.open(store) as casops:
        assert casops.pending() == []
        alice, bob = casops.read(Account.ref("alice")), casops.read(Account.ref("bob"))
        assert alice is not None
        assert bob is not None
        return alice.balance, bob.balance


@pytest.fixture(scope="module")
def survivor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that all of the next tests share, as they do its store."""
    folder = tmp_path_factory.mktemp("survivor")
    with Server(f"sqlite:///{folder}/bank.db", folder) as server:
        yield server


@pytest.mark.parametrize(
    ("moment", "answered"),
    [
        ("before:declare", False),
        ("after:declare", False),
        ("half:propose", False),
        ("after:propose", False),
        ("after:commit", True),
        ("after:settle", True),
        ("before:withdraw", True),
        ("before:finish", True),
    ],
)
def test_killed_in_the_middle_and_asked_again_elsewhere(
    moment: str, answered: bool, survivor: Server, tmp_path: Path
) -> None:
    """`answered`: its settling has begun, so it has its answer, and may have given it."""
    payer, payee, transfer = f"alice {moment}", f"bob {moment}", f"transfer {moment}"
    arguments = {"source": payer, "target": payee, "amount": "30"}
    post(survivor, "open", f"open {payer}", {"account": payer, "balance": "100"})
    post(survivor, "open", f"open {payee}", {"account": payee})
    with Server(survivor.store, tmp_path, die=f"{moment}:{transfer}") as first:
        try:
            before: str | None = post(first, "transfer", transfer, arguments).text
        except httpx.TransportError:
            before = None
        assert first.wait() == -9
    response = post(survivor, "transfer", transfer, arguments)
    assert (response.status_code, response.text) == (200, '{"left":"70"}')
    assert before == response.text if answered and before is not None else before is None
    assert answered == (response.headers.get("Idempotent-Replayed") == "true") or moment == "after:propose"
    with CasOps.open(survivor.store, options=Options(grace=0)) as casops:
        casops.recover()
        assert casops.pending() == []
        snapshot = casops.snapshot([Account.ref(payer), Account.ref(payee)])
    assert (snapshot[Account.ref(payer)].balance, snapshot[Account.ref(payee)].balance) == (Decimal(70), Decimal(30))


def test_a_second_server_takes_over_what_a_dead_one_left_without_being_asked(store: str, tmp_path: Path) -> None:
    with Server(store, tmp_path, die="half:propose:t") as first:
        with pytest.raises(httpx.TransportError):
            post(first, "transfer", "t", TRANSFER)
        first.wait()
    with Server(store, tmp_path, service={"sweep_every": 0.1}) as second:
        outcome: Any = {}
        while outcome.get("status") != "applied":
            outcome = httpx.get(f"{second.url}/operations/t").json()
            time.sleep(0.02)
        assert outcome["result"] == {"left": "70"}
        assert "taken over" in [event["what"] for event in outcome["history"]]
        second.terminate()
        second.wait()
    assert balances(store) == (Decimal(70), Decimal(30))


def test_sigterm_finishes_what_is_in_flight(store: str, tmp_path: Path) -> None:
    answers: list[httpx.Response] = []
    with Server(store, tmp_path) as server:
        asking = threading.Thread(target=lambda: answers.append(post(server, "gated", "g", {"gate": "open"})))
        asking.start()
        until(lambda: (tmp_path / "open.entered").exists())
        server.terminate()
        until(lambda: "Shutting down" in server.log.read_text())
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{server.url}/health")  # nothing new is taken
        (tmp_path / "open").touch()
        asking.join(PATIENCE)
        assert [each.text for each in answers] == ['"open"']
        server.wait()
        assert "Traceback" not in server.log.read_text()
    assert balances(store) == (Decimal(100), Decimal(0))


def test_sigterm_finishes_what_nobody_waits_for_any_more(store: str, tmp_path: Path) -> None:
    with Server(store, tmp_path, service={"answer_within": 0.05}) as server:
        assert post(server, "gated", "g", {"gate": "open"}).status_code == 409
        told = httpx.get(f"{server.url}/operations/g")
        assert told.status_code == 409
        assert told.json()["detail"].startswith("it is being worked on here")
        server.terminate()
        until(lambda: "Waiting for application shutdown" in server.log.read_text())
        (tmp_path / "open").touch()
        server.wait()
    with CasOps.open(store) as casops:
        outcome = casops.outcome("g")
        assert isinstance(outcome, Outcome)
        assert outcome.result == "open"
        assert casops.pending() == []
    assert (tmp_path / "open.entered").read_text() == "entered\n"


def test_an_apply_that_never_returns_does_not_keep_the_process(store: str, tmp_path: Path) -> None:
    service = {"answer_within": 0.05, "finish_within": 0.1}
    with Server(store, tmp_path, service=service, options={"deadline": 0.5}) as server:
        assert post(server, "gated", "g", {"gate": "never"}).status_code == 409
        server.terminate()
        server.wait()
        assert "operation g is left unfinished by the shutdown" in server.log.read_text()


# --- the command line ---------------------------------------------------------------------------


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "casops", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        ([], 2, "usage: casops serve"),
        (["--help"], 0, "usage: casops serve"),
        (["dance"], 2, "usage: casops serve"),
        (["serve"], 2, "MODULE:APP"),
        (["serve", "--help"], 0, "SIGTERM"),
        (["serve", "nowhere:app"], 2, "Could not import module"),
        (["serve", "tests.bank:nothing"], 2, "nothing"),
        (["serve", "tests.bank"], 2, "format"),
        (["serve", "os:getcwd"], 2, "no application"),
        (["serve", "builtins:int"], 2, "no application"),
        (["serve", "..:app"], 2, "no MODULE:APP"),
        (["serve", "./bank.py:app"], 2, "no MODULE:APP"),
        (["serve", "tests.bank:app", "--port", "65536"], 2, "between 0 and 65535"),
    ],
)
def test_the_command_line_says_what_is_wrong(arguments: list[str], status: int, says: str) -> None:
    done = run(*arguments)
    assert done.returncode == status, done.stderr
    assert says in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_store_that_cannot_be_opened_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(
        "from casops import CasOps\n"
        "from casops.service import create_app\n"
        "app = create_app(CasOps.open('sqlite:////nowhere/at/all/bank.db'), [])\n"
    )
    done = run("serve", "shop:app", "--app-dir", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.startswith("error: shop:app: ")
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken(store: str, tmp_path: Path) -> None:
    with Server(store, tmp_path) as server:
        second = Server(store, tmp_path, port=server.port)
        done = subprocess.run(
            [sys.executable, "-m", "casops.service", "tests.service_app:app", "--port", str(server.port)],
            cwd=ROOT,
            env=second.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 1
        assert "address already in use" in done.stderr
        assert "Traceback" not in done.stderr
