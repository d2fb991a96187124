"""`casops outcome` and `casops pending`: what a store knows, told on the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from casops import CasOps, Documents, Operation, new_operation_id
from casops.__main__ import main
from tests.bank import Open, Transfer
from tests.conftest import QUICK

README = Path(__file__).parent.parent / "README.md"


class Fails(Operation[None]):
    def apply(self, documents: Documents) -> None:
        raise ZeroDivisionError("a bug")


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Of a bank in which everything has happened that may."""
    url = f"sqlite:///{tmp_path}/bank.db"
    with CasOps.open(url, options=QUICK, worker="w") as casops:
        for account in ("alice", "bob"):
            casops.run(Open(account=account, balance="10"), operation_id=f"open-{account}")
        casops.run(Transfer(source="alice", target="bob", amount="4"), operation_id="paid")
        casops.execute(Transfer(source="alice", target="bob", amount="40"), operation_id="refused")
        casops.cancel("never")
        with pytest.raises(ZeroDivisionError):
            casops.run(Fails(), operation_id="fails")
    return url


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return [json.loads(line) for line in out.splitlines()]


def test_what_became_of_an_operation(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    (paid,) = told(capsys, "outcome", url, "paid")
    with CasOps.open(url) as casops:
        recorded = casops.execute(Transfer(source="alice", target="bob", amount="4"), operation_id="paid").recorded
    assert (paid["status"], paid["operation"], paid["result"], paid["attempts"]) == ("applied", "Transfer", recorded, 1)
    assert [event["what"] for event in paid["history"]] == ["declared", "proposed", "committed", "settled"]
    (refused,) = told(capsys, "outcome", url, "refused")
    assert (refused["status"], refused["refusal"]["code"]) == ("declined", "insufficient_funds")
    assert refused["refusal"]["details"]["balance"]
    assert "result" not in refused
    assert [each["status"] for each in told(capsys, "outcome", url, "never")] == ["cancelled"]
    # Of what nobody knows it is not said that it did not happen.
    unknown = new_operation_id()
    assert told(capsys, "outcome", url, unknown) == [{"operation_id": unknown, "status": "unknown"}]
    (fails,) = told(capsys, "outcome", url, "fails")
    assert (fails["status"], fails["operation"], fails["worker"]) == ("pending", "Fails", "w")


def test_what_is_pending(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = time.time() - 600
    (fails,) = told(capsys, "pending", url)
    assert (fails["operation_id"], fails["state"], fails["parked"]) == ("fails", "declared", False)
    assert before <= fails["since"] <= time.time()
    with CasOps.open(url, options=QUICK, operations=[Fails]) as casops:
        casops.recover()
    (again,) = told(capsys, "pending", url)
    assert again["failures"] == fails["failures"] + 1
    assert "ZeroDivisionError: a bug" in again["last_error"]
    with CasOps.open(url) as casops:
        casops.cancel("fails")
    assert told(capsys, "pending", url) == []


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["pending", "sqlite:///{folder}/none.db"], 2, "there is no store yet at "),
        (["pending", "memory://"], 2, "there is no store yet at "),
        (["outcome", "sqlite:///{folder}/none.db", "x"], 2, "nothing was made"),
        (["outcome", "{url}", ""], 2, "an operation id"),
        (["outcome", "bank.db", "x"], 2, "a store is named by a URL"),
        (["pending", "sqlite:///{folder}/text"], 1, "not a SQLite database"),
    ],
)
def test_what_cannot_be_told(
    url: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    status: int,
    words: str,
) -> None:
    (tmp_path / "text").write_text("no database, but longer than the head of one " * 100)
    before = sorted(each.name for each in tmp_path.iterdir())
    assert main([each.format(folder=tmp_path, url=url) for each in arguments]) == status
    out, err = capsys.readouterr()
    assert (out, err[:7]) == ("", "error: ")
    assert words in err
    assert sorted(each.name for each in tmp_path.iterdir()) == before


@pytest.mark.parametrize("arguments", [["outcome", "sqlite:///x"], ["pending"], ["pending", "sqlite:///x", "y"]])
def test_wrong_use_is_told(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage: casops" in capsys.readouterr().err


def test_whoever_reads_no_more_gets_no_traceback(url: str) -> None:
    command = [sys.executable, "-m", "casops", "pending", url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(60) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device here")
@pytest.mark.parametrize("arguments", [["outcome", "{url}", "paid"], ["--version"], ["--help"]])
def test_a_full_disk_is_told(url: str, arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "casops", *[each.format(url=url) for each in arguments]]
        ran = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert ran.returncode == 1
    assert ran.stderr.startswith("error: what there is to tell could not be written: ")
    assert ran.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", ["outcome {url} paid", "--version", "--help", "", "outcome {url}"])
def test_streams_that_were_closed_before_are_no_fault(url: str, arguments: str) -> None:
    """An error of the first would be found only where the second is open."""
    said = f"'{sys.executable}' -m casops {arguments.format(url=url)}"
    closed, open_ = (
        subprocess.run(["/bin/sh", "-c", said + how], capture_output=True, text=True, timeout=60, check=False)
        for how in (" >&- 2>&-", " >&-")
    )
    assert "Traceback" not in open_.stderr
    assert closed.returncode == open_.returncode == (0 if arguments.endswith(("paid", "n", "help")) else 2)


def test_the_lines_of_the_readme(url: str, tmp_path: Path) -> None:
    lines = [
        line for line in README.read_text().splitlines() if line.startswith(("casops outcome ", "casops pending "))
    ]
    assert len(lines) == 2
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for line, told in zip(lines, ("unknown", "pending"), strict=True):
        ran = subprocess.run(
            ["/bin/sh", "-c", line],
            cwd=tmp_path,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (ran.returncode, ran.stderr) == (0, "")
        assert json.loads(ran.stdout)["status"] == told


def test_looking_at_an_empty_file_makes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "empty.db"
    file.touch()
    assert main(["outcome", f"sqlite:///{file}", "i"]) == 2
    assert "there is no store yet at" in capsys.readouterr().err
    assert file.stat().st_size == 0


def test_a_file_that_may_not_be_looked_at_is_not_told_as_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object, **__: object) -> os.stat_result:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "stat", denied)
    status = main(["outcome", f"sqlite:///{tmp_path}/bank.db", "i"])
    monkeypatch.undo()
    told = capsys.readouterr().err
    assert status == 1
    assert "no store yet" not in told
    assert "Permission denied" in told
