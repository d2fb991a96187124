"""The example as its users run it: by its command line, in processes of its own, with kills and Ctrl-C.

What it claims is computed once more here, with nothing of its own arithmetic.
"""

from __future__ import annotations

import csv
import os
import re
import resource
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from casops import CasOps, Documents, Operation, Options, Outcome, Ref, StoreUnavailable
from casops.messages import Refused, Reply, StoreRequest
from casops.stores import Store
from casops.stores.opening import open_store
from examples.balance_transfer import cli
from examples.balance_transfer.chaos import Verdict
from examples.balance_transfer.checking import Check, Evidence
from examples.balance_transfer.model import Account, Money, OpenAccount, Transfer, open_bank, opening_id
from examples.balance_transfer.worker import Job, ask

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "examples" / "balance_transfer" / "sample.csv"
HEADER = "payment_id,source,target,amount\n"
OPENING = Decimal("500.00")


@dataclass(frozen=True)
class Ran:
    status: int
    out: str
    err: str

    def count(self, label: str) -> int:
        return int(self.figure(label))

    def figure(self, label: str) -> Decimal:
        """The number in the row of the printed table that begins with this label."""
        found = re.search(rf"^\W*{re.escape(label)}\b.*?([\d,.]+)\W*$", self.out, re.MULTILINE)
        assert found, f"no row {label!r} in\n{self.out}"
        return Decimal(found[1].replace(",", ""))


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "examples.balance_transfer", *map(str, arguments)]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1", **more}


def run(
    *arguments: str | Path,
    cwd: Path,
    seconds: float = 120,
    env: Mapping[str, str] | None = None,
    before: Callable[[], None] | None = None,
) -> Ran:
    done = subprocess.run(
        command(*arguments),
        cwd=cwd,
        env=environment(**(env or {})),
        capture_output=True,
        text=True,
        timeout=seconds,
        preexec_fn=before,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Ran(done.returncode, done.stdout, done.stderr)


def bank(where: Path | str) -> CasOps:
    """The bank in a folder, or of a URL."""
    return open_bank(where if isinstance(where, str) else f"sqlite:///{where / 'bank.db'}")


def the_books(where: Path | str, file: Path, opening: Decimal = OPENING) -> Counter[str]:
    """Compare every balance with what the orders that were not declined make of it.  Gives the statuses."""
    with file.open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    cents = {row["source"]: int(opening * 100) for row in rows}
    statuses: Counter[str] = Counter()
    with bank(where) as casops:
        for row in rows:
            outcome = casops.outcome(row["payment_id"])
            assert isinstance(outcome, Outcome), row
            statuses[outcome.status] += 1
            if outcome.status == "applied":
                amount = round(Decimal(row["amount"]) * 100)
                cents[row["source"]] -= amount
                cents[row["target"]] = cents.get(row["target"], 0) + amount
        for account, expected in cents.items():
            found = casops.read(Account.ref(account))
            assert found is not None
            assert found.balance * 100 == expected, account
        assert casops.pending() == []
    return statuses


def write(folder: Path, *rows: str) -> Path:
    file = folder / "orders.csv"
    file.write_text(HEADER + "".join(f"{row}\n" for row in rows), encoding="utf-8")
    return file


def many(folder: Path, count: int) -> Path:
    return write(folder, *(f"p{number},a{number % 50},b{number % 7},1.00" for number in range(count)))


# --- importing ----------------------------------------------------------------------------------


def test_import_and_import_again(tmp_path: Path) -> None:
    first = run("import", SAMPLE, "--store", "sqlite:///bank.db", cwd=tmp_path)
    assert (first.status, first.err) == (0, "")
    statuses = the_books(tmp_path, SAMPLE)
    assert statuses["declined"] > 10
    assert statuses["applied"] == 400 - statuses["declined"]
    assert (first.count("applied"), first.count("declined")) == (statuses["applied"], statuses["declined"])
    assert first.count("replayed") == 0
    payers = first.count("accounts opened")
    assert first.figure("sum of all balances before") == payers * OPENING
    assert first.figure("sum of all balances after") == payers * OPENING
    assert "payments: 400 of 400" in first.out

    again = run("import", SAMPLE, "--store", "sqlite:///bank.db", cwd=tmp_path)
    assert (again.status, again.err) == (0, "")
    assert (again.count("applied"), again.count("declined"), again.count("replayed")) == (0, 0, 400)
    assert again.count("accounts opened") == 0
    assert again.figure("sum of all balances after") == payers * OPENING
    assert the_books(tmp_path, SAMPLE) == statuses


def test_two_imports_of_one_file_at_the_same_time(tmp_path: Path) -> None:
    arguments = command("import", SAMPLE, "--store", "sqlite:///bank.db", "--workers", "2")
    both = [
        subprocess.Popen(arguments, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    ran = [Ran(each.wait(120), each.communicate()[0], "") for each in both]
    statuses = the_books(tmp_path, SAMPLE)
    assert sum(each.count("applied") for each in ran) == statuses["applied"]
    assert sum(each.count("declined") for each in ran) == statuses["declined"]
    assert sum(each.count("replayed") for each in ran) == 400


def test_one_worker_is_enough(tmp_path: Path) -> None:
    file = write(tmp_path, "p1,alice,bob,12.50", "p2,bob,carol,.50")
    done = run("import", file, "--store", "sqlite:///bank.db", "--workers", "1", cwd=tmp_path)
    assert (done.status, done.count("applied")) == (0, 2)
    with bank(tmp_path) as casops:
        assert casops.read(Account.ref("bob")) == Account(balance=Decimal("512.00"))


def test_bad_rows_are_told_by_line_and_the_rest_is_paid(tmp_path: Path) -> None:
    file = tmp_path / "orders.csv"
    rows = [b"p1,a,b,1.00", b"p2,a,b", b"p3,a,b,-1", b"caf\xe9,a,b,1", b"p1,a,b,1", b"p1,a,b,2", b"p5,a,b,499.00"]
    file.write_bytes(b"\xef\xbb\xbf" + HEADER.encode() + b"\n".join(rows))
    done = run("import", file, "--store", "sqlite:///bank.db", cwd=tmp_path)
    assert done.status == 1
    assert [line.split(":")[0] for line in done.err.splitlines()] == ["line 3", "line 4", "line 5", "line 7"]
    assert (done.count("payments in the file"), done.count("applied")) == (2, 2)
    assert (done.count("rows that repeat one of them"), done.count("rows left out")) == (1, 4)
    with bank(tmp_path) as casops:
        assert casops.read(Account.ref("a")) == Account(balance=Decimal("0.00"))
        assert casops.outcome("p2") is None


def test_an_account_that_exists_keeps_its_balance(tmp_path: Path) -> None:
    """Opened before with another balance, or created by a payment to it."""
    file = write(tmp_path, "p1,alice,bob,100.00")
    assert run("import", file, "--store", "sqlite:///bank.db", cwd=tmp_path).status == 0
    file = write(tmp_path, "p1,alice,bob,100.00", "p2,bob,alice,100.00", "p3,carol,bob,.01")
    done = run("import", file, "--store", "sqlite:///bank.db", "--opening-balance", "7", cwd=tmp_path)
    assert (done.status, done.count("accounts opened"), done.count("applied")) == (0, 1, 2)
    with bank(tmp_path) as casops:
        found = {name: casops.read(Account.ref(name)) for name in ("alice", "bob", "carol")}
    assert {name: account and str(account.balance) for name, account in found.items()} == {
        "alice": "500.00",
        "bob": "0.01",
        "carol": "6.99",
    }


def test_an_id_that_was_used_for_another_payment_is_told_and_changes_nothing(tmp_path: Path) -> None:
    assert run("import", write(tmp_path, "p1,a,b,1.00"), "--store", "sqlite:///bank.db", cwd=tmp_path).status == 0
    file = write(tmp_path, "p1,a,b,2.00", "p2,a,b,4.00")
    done = run("import", file, "--store", "sqlite:///bank.db", cwd=tmp_path)
    assert (done.status, done.count("impossible"), done.count("applied")) == (1, 1, 1)
    assert done.err.startswith("p1: impossible: this id belongs to an operation with other arguments")
    with bank(tmp_path) as casops:
        assert casops.read(Account.ref("a")) == Account(balance=Decimal("495.00"))


@pytest.mark.parametrize("text", ["1_000", " 5 ", "1e2", "٥", "+5", "nan", "5.", ".5", "1.234", ""])
def test_text_that_only_python_would_take_for_money_is_none(text: str) -> None:
    with pytest.raises(ValidationError, match="amount"):
        Transfer.model_validate({"source": "a", "target": "b", "amount": text})


def test_a_payment_to_oneself_is_declined_and_told(tmp_path: Path) -> None:
    done = run("import", write(tmp_path, "p1,a,a,1.00"), "--store", "sqlite:///bank.db", cwd=tmp_path)
    assert (done.status, done.count("declined")) == (1, 1)
    assert done.err == 'p1: declined: ["same_account",{}]\n'
    with bank(tmp_path) as casops:
        outcome = casops.outcome("p1")
        assert isinstance(outcome, Outcome)
        assert outcome.refusal is not None
        assert outcome.refusal.code == "same_account"
        assert casops.read(Account.ref("a")) == Account(balance=OPENING)


def test_a_payment_that_was_cancelled_is_told(tmp_path: Path) -> None:
    with bank(tmp_path) as casops:
        casops.cancel("p1")
    done = run("import", write(tmp_path, "p1,a,b,1.00"), "--store", "sqlite:///bank.db", cwd=tmp_path)
    assert (done.status, done.count("cancelled")) == (1, 1)
    assert done.err.startswith("p1: cancelled: ")


class Odd(Operation[int], name="Transfer"):
    """Recorded as if it were a transfer of another time, when receipts were numbers."""

    source: Ref[Account]
    target: Ref[Account]
    amount: Money

    def apply(self, documents: Documents) -> int:
        return 1


def test_a_receipt_that_can_no_longer_be_read_keeps_no_other_payment_back(tmp_path: Path) -> None:
    with CasOps.open(f"sqlite:///{tmp_path / 'bank.db'}", options=Options(retention=0)) as casops:
        casops.run(Odd(source="a", target="b", amount="1.00"), operation_id="p1")
    file = write(tmp_path, "p1,a,b,1.00", "p2,a,b,2.00")
    done = run("import", file, "--store", "sqlite:///bank.db", cwd=tmp_path)
    assert (done.status, done.count("impossible"), done.count("applied")) == (1, 1, 1)
    assert done.err.startswith("p1: impossible: it happened, but its stored result does not fit its type any more")


def test_a_file_without_payments(tmp_path: Path) -> None:
    done = run("import", write(tmp_path), "--store", "sqlite:///bank.db", cwd=tmp_path)
    assert (done.status, done.count("applied"), done.err) == (0, 0, "")


# --- what cannot be started ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("import", "missing.csv", "--store", "sqlite:///bank.db"), "missing.csv cannot be read: No such file"),
        (("import", ".", "--store", "sqlite:///bank.db"), "cannot be read: Is a directory"),
        (("import", "empty.csv", "--store", "sqlite:///bank.db"), "the first line must be payment_id,source"),
        (("import", "good.csv", "--store", "sqlite:///no/such/folder/bank.db"), "no/such/folder"),
        (("import", "good.csv", "--store", "bank.db"), "bank.db"),
        (("import", "good.csv", "--store", "postgres://bank"), "postgres"),
        (("import", "good.csv", "--store", "memory://"), "a store in memory is seen by one process only"),
        (("import", "good.csv", "--store", "sqlite:///good.csv"), "good.csv"),
        (("import", "good.csv", "--store", "sqlite:///."), "not a file"),
        (("show", "p1", "--store", "sqlite:///no/such/folder/bank.db"), "no/such/folder"),
        (("show", "p1", "--store", "sqlite:///missing.db"), "missing.db"),
        (("show", "p1", "--store", "sqlite:///empty.csv"), "there is no such store"),
        (("show", "", "--store", "sqlite:///there.db"), "must not be empty"),
        (("chaos", "missing.csv"), "missing.csv cannot be read"),
        (("chaos", "good.csv", "--kills", "4"), "there are"),
        (("chaos", "--workers", "1"), "two workers"),
    ],
)
def test_what_cannot_be_started_is_said_in_one_sentence(arguments: Sequence[str], told: str, tmp_path: Path) -> None:
    (tmp_path / "good.csv").write_text(HEADER + "p1,a,b,1.00\n")
    (tmp_path / "empty.csv").write_text("")
    open_bank(f"sqlite:///{tmp_path / 'there.db'}").close()
    before = sorted(each.name for each in tmp_path.iterdir())
    done = run(*arguments, cwd=tmp_path, env={"TMPDIR": str(tmp_path)})
    assert done.status == 2
    assert done.out == ""
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert told in done.err
    assert sorted(each.name for each in tmp_path.iterdir()) == before  # nothing is left behind either


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("import", "good.csv"), "--store"),
        (("import", "good.csv", "--store", "x", "--workers", "0"), "between 1 and 64"),
        (("import", "good.csv", "--store", "x", "--workers", "four"), "a number is needed"),
        (("import", "good.csv", "--store", "x", "--opening-balance", "1e3"), "an amount looks like 12.50"),
        (("import", "good.csv", "--store", "x", "--opening-balance", "-1"), "--opening-balance"),
        ((), "COMMAND"),
    ],
)
def test_wrong_arguments(arguments: Sequence[str], told: str, tmp_path: Path) -> None:
    done = run(*arguments, cwd=tmp_path)
    assert (done.status, done.out) == (2, "")
    assert told in done.err


def test_help_tells_the_exit_statuses(tmp_path: Path) -> None:
    done = run("import", "--help", cwd=tmp_path)
    assert done.status == 0
    assert "130  interrupted; importing the same file again continues" in done.out
    assert max(len(line) for line in done.out.splitlines()) <= 80


# --- interrupted --------------------------------------------------------------------------------


def start(folder: Path, file: Path) -> subprocess.Popen[str]:
    """An import in a process group of its own that has begun to pay."""
    started = subprocess.Popen(
        command("import", file, "--store", "sqlite:///bank.db"),
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell that runs its commands in the background has them ignore Ctrl-C, and their children too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
    )
    assert started.stdout is not None
    while not started.stdout.readline().startswith("payments: "):
        assert started.poll() is None
    return started


def test_ctrl_c_stops_all_and_importing_again_continues(tmp_path: Path) -> None:
    file = many(tmp_path, 1500)
    started = start(tmp_path, file)
    os.killpg(started.pid, signal.SIGINT)  # as a terminal does: everybody gets it
    out, err = started.communicate(timeout=30)  # the pipes end when the last worker has
    assert started.returncode == 130
    assert err == ("interrupted. What was answered is done and stays done; importing the same file again continues.\n")
    done_before = Ran(130, out, err).count("applied")
    assert 0 < done_before < 1500
    again = run("import", file, "--store", "sqlite:///bank.db", cwd=tmp_path)
    assert again.status == 0
    assert again.count("replayed") >= done_before
    assert the_books(tmp_path, file).total() == 1500


def test_a_sign_to_end_is_the_same_as_ctrl_c(tmp_path: Path) -> None:
    started = start(tmp_path, many(tmp_path, 1500))
    started.terminate()
    out, err = started.communicate(timeout=30)
    assert (started.returncode, err) == (130, f"interrupted. {cli.AGAIN}\n")
    assert 0 < Ran(130, out, err).count("applied") < 1500


def test_no_worker_hears_ctrl_c_however_early(tmp_path: Path) -> None:
    started = start(tmp_path, many(tmp_path, 1500))
    try:
        children = Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text().split()
        workers = [each for each in children if b"spawn_main" in Path(f"/proc/{each}/cmdline").read_bytes()]
        blocked = [re.search(r"SigBlk:\s*(\w+)", Path(f"/proc/{each}/status").read_text()) for each in workers]
        assert len(workers) == 4
        assert all(found and int(found[1], 16) & 1 << signal.SIGINT - 1 for found in blocked)
    finally:
        started.kill()
        started.communicate(timeout=30)


def test_output_that_cannot_be_written_is_said_in_one_sentence(town: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command("show", "p1", "--store", "sqlite:///bank.db"),
            cwd=town,
            env=environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert (done.returncode, done.stderr) == (1, "error: [Errno 28] No space left on device\n")


def test_whoever_listens_no_more_loses_no_payment(tmp_path: Path) -> None:
    file = many(tmp_path, 400)
    started = start(tmp_path, file)
    assert started.stdout is not None
    started.stdout.close()
    _, err = started.communicate(timeout=30)  # the pipe ends when the last worker has
    assert started.returncode == 1
    assert err == f"error: [Errno 32] Broken pipe. {cli.AGAIN}\n"
    assert run("import", file, "--store", "sqlite:///bank.db", cwd=tmp_path).status == 0
    assert the_books(tmp_path, file).total() == 400


def test_workers_do_not_outlive_a_parent_that_is_killed(tmp_path: Path) -> None:
    file = many(tmp_path, 1500)
    started = start(tmp_path, file)
    started.kill()
    _, err = started.communicate(timeout=30)  # the pipes end when the last worker has
    assert "Traceback" not in err
    again = run("import", file, "--store", "sqlite:///bank.db", cwd=tmp_path)
    assert again.status == 0
    assert the_books(tmp_path, file).total() == 1500


def test_a_disk_that_fills_up_loses_nothing(tmp_path: Path) -> None:
    file = write(tmp_path, *(f"p{number},a{number % 10},b{number % 10},1.00" for number in range(1000)))

    def little_room() -> None:  # for any one file, which is as near to a full disk as a test may go
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))

    full = run("import", file, "--store", "sqlite:///bank.db", cwd=tmp_path, before=little_room)
    assert full.status == 1
    assert full.err.startswith("stopped: ")
    assert full.err.endswith("importing the same file again continues.\n")
    done_before = full.count("applied")
    assert 0 < done_before < 1000
    again = run("import", file, "--store", "sqlite:///bank.db", cwd=tmp_path)
    assert again.status == 0
    assert again.count("replayed") >= done_before
    assert the_books(tmp_path, file).total() == 1000


# --- the life of one payment --------------------------------------------------------------------


class Lost:
    """A store that is cut off after so many batches."""

    def __init__(self, store: Store, batches: int) -> None:
        self._store, self._left = store, batches

    def perform(self, batch: Sequence[StoreRequest], /) -> list[Reply]:
        if not self._left:
            return [Refused("the cable is cut") for _ in batch]
        self._left -= 1
        return self._store.perform(batch)

    def close(self) -> None:
        self._store.close()


@pytest.fixture
def town(tmp_path: Path) -> Path:
    with bank(tmp_path) as casops:
        casops.run(OpenAccount(account="alice", balance="50"), operation_id=opening_id("alice"))
        casops.run(Transfer(source="alice", target="bob", amount="12.5"), operation_id="p1")
        casops.execute(Transfer(source="alice", target="bob", amount="1000"), operation_id="p2")
        casops.cancel("p3")
    return tmp_path


def begin(folder: Path, operation_id: str, batches: int) -> None:
    """Ask for a payment and be cut off from the store after so many steps."""
    lost = Lost(open_store(f"sqlite:///{folder / 'bank.db'}"), batches)
    with CasOps(lost, worker="the-lost") as casops, suppress(StoreUnavailable):
        casops.run(Transfer(source="alice", target="carol", amount="1"), operation_id=operation_id)


def show(folder: Path, operation_id: str) -> Ran:
    done = run("show", operation_id, "--store", "sqlite:///bank.db", cwd=folder)
    assert max((len(line) for line in done.out.splitlines()), default=0) <= 80
    return done


def test_show_a_payment_that_was_applied(town: Path) -> None:
    out = show(town, "p1").out
    assert out.startswith("p1: applied\n  12.50 from alice to bob\n  afterwards alice had 37.50, bob had 12.50\n")
    phases = [line.split()[1] for line in out.splitlines() if re.match(r"\d ", line)]
    assert phases == ["intention", "main", "result"]


def test_show_a_payment_that_was_declined(town: Path) -> None:
    out = show(town, "p2").out
    assert out.startswith("p2: declined\n  insufficient_funds, balance 37.50\n")
    assert "3 result" in out


def test_show_a_payment_that_was_cancelled(town: Path) -> None:
    out = show(town, "p3").out
    assert out.startswith("p3: cancelled\n")
    assert "it will never happen" in out


def test_show_the_opening_of_an_account(town: Path) -> None:
    assert show(town, "open-alice").out.startswith("open-alice: applied\n  result 50.00\n")


def test_show_a_payment_nobody_asked_for(town: Path) -> None:
    done = show(town, "p9")
    assert (done.status, done.out, done.err) == (
        1,
        "",
        "p9: nothing is known of it: nobody has asked, or is asking now\n",
    )


def test_show_a_payment_whose_worker_was_lost_after_declaring_it(town: Path) -> None:
    begin(town, "p4", batches=1)
    out = show(town, "p4").out
    assert out.startswith("p4: pending (declared)")
    assert "the-lost" in out
    assert "not yet" in out


def test_show_a_payment_that_nobody_has_noticed_is_committed(town: Path) -> None:
    begin(town, "p4", batches=2)
    out = show(town, "p4").out
    assert out.startswith("p4: applied\n")
    assert "committed, since all of it has landed" in out


def test_show_a_payment_that_was_taken_over(town: Path) -> None:
    begin(town, "p4", batches=1)
    with bank(town) as casops:
        outcome = casops.execute(Transfer(source="alice", target="carol", amount="1"), operation_id="p4")
        assert outcome.taken_over
    out = show(town, "p4").out
    assert "1 attempt, 1 taken over" in out
    assert "taken over by another worker" in out
    assert "the-lost" in out


# --- what a worker makes of trouble -------------------------------------------------------------


class Buggy(Operation[None]):
    account: Ref[Account]

    def apply(self, documents: Documents) -> None:
        raise ZeroDivisionError("a bug")


PAY = Transfer(source="alice", target="bob", amount="1")


def test_trouble_with_the_store_stops_the_import(town: Path) -> None:
    lost = Lost(open_store(f"sqlite:///{town / 'bank.db'}"), batches=0)
    with CasOps(lost) as casops:
        answer = ask(casops, Job(0, "p4", PAY))
    assert (answer.status, answer.stop) == ("unfinished", True)
    assert "the cable is cut" in answer.text


@pytest.mark.parametrize(
    ("operation_id", "operation", "status", "told"),
    [
        ("p1", PAY, "impossible", "this id belongs to an operation with other arguments"),
        ("p4", Transfer(source="nobody", target="bob", amount="1"), "impossible", "there is no document"),
        ("p4", Buggy(account="alice"), "unfinished", "ZeroDivisionError: a bug"),
    ],
)
def test_trouble_with_one_payment_does_not(
    operation_id: str, operation: Operation[Any], status: str, told: str, town: Path
) -> None:
    with bank(town) as casops:
        answer = ask(casops, Job(0, operation_id, operation))
    assert (answer.status, answer.stop) == (status, False)
    assert told in answer.text


# --- chaos --------------------------------------------------------------------------------------


def test_chaos_does_no_harm_and_leaves_nothing_behind(tmp_path: Path) -> None:
    done = run("chaos", "--kills", "8", "--seed", "3", cwd=tmp_path, env={"TMPDIR": str(tmp_path)})
    assert (done.status, done.err) == (0, "")
    assert done.count("workers killed") == 8
    assert done.count("of them asked for by two workers at once") > 50
    assert done.count("applied") + done.count("declined") == 400
    assert done.out.count(" ok ") == 9
    assert done.out.endswith("every payment happened exactly once or was declined (seed 3)\n")
    assert list(tmp_path.iterdir()) == []


def test_chaos_in_a_store_of_ones_own_which_must_be_new(tmp_path: Path) -> None:
    arguments = ("chaos", SAMPLE, "--kills", "4", "--workers", "2", "--store", "sqlite:///bank.db")
    done = run(*arguments, cwd=tmp_path)
    assert (done.status, done.err) == (0, "")
    statuses = the_books(tmp_path, SAMPLE)
    assert (done.count("applied"), done.count("declined")) == (statuses["applied"], statuses["declined"])
    again = run(*arguments, cwd=tmp_path)
    assert (again.status, again.out) == (2, "")
    assert "chaos needs a new one" in again.err


def test_a_store_that_goes_away_in_the_middle_of_chaos_is_no_chaos_that_could_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def away(*_: object) -> None:
        raise StoreUnavailable("the cable is cut")

    monkeypatch.setattr("examples.balance_transfer.chaos.sweep", away)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    file = write(tmp_path, "p1,a,b,1.00")
    assert cli.main(["chaos", str(file), "--kills", "0"]) == 1
    assert "stopped: the cable is cut" in capfd.readouterr().err
    monkeypatch.setattr("examples.balance_transfer.chaos.balances", away)
    assert cli.main(["chaos", str(file), "--kills", "0"]) == 2


def test_when_a_check_fails_it_is_said_and_the_store_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def run_badly(url: str, *_: object) -> Verdict:
        open_bank(url).close()
        return Verdict(Evidence({}, (), {}, {}, ()), [Check("two and two is four", ("it was five",))])

    monkeypatch.setattr(cli, "run_chaos", run_badly)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert cli.main(["chaos", "--seed", "5"]) == 1
    out, err = capfd.readouterr()
    assert "every payment happened" not in out
    assert "FAILED: two and two is four: 1 times\n    it was five\n" in err
    assert err.endswith("NOT PROVED (seed 5)\n")
    (folder,) = tmp_path.iterdir()
    assert f"the store is kept: sqlite:///{folder}/bank.db\n" in err
    assert (folder / "bank.db").exists()


# --- the orders of a real bank ------------------------------------------------------------------


def payment_orders() -> Path:
    """6,471 permanent payment orders of a Czech bank (PKDD'99 Discovery Challenge); not part of this repository."""
    file = Path(os.environ.get("CASOPS_PAYMENT_ORDERS") or ROOT.parent / "shared" / "data" / "payment_orders.csv")
    if not file.exists():
        pytest.skip("no payment_orders.csv: set CASOPS_PAYMENT_ORDERS to its path")
    return file


@pytest.mark.parametrize("kind", ["sqlite", "couchbase"])
def test_real_orders_while_workers_are_killed_and_then_imported_again(
    tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    file = payment_orders()
    url = "sqlite:///bank.db" if kind == "sqlite" else request.getfixturevalue("couchbase_url")
    books: Path | str = tmp_path if kind == "sqlite" else url
    done = run("chaos", file, "--kills", "20", "--store", url, cwd=tmp_path, seconds=900)
    assert (done.status, done.err) == (0, "")
    assert done.count("workers killed") == 20
    assert done.figure("sum of all balances before") == done.figure("sum of all balances after") == 3758 * OPENING
    statuses = the_books(books, file)
    assert statuses.total() == 6471
    assert statuses["declined"] > 1000
    assert (done.count("applied"), done.count("declined")) == (statuses["applied"], statuses["declined"])

    again = run("import", file, "--store", url, cwd=tmp_path, seconds=900)
    assert (again.status, again.err) == (0, "")
    assert (again.count("applied"), again.count("declined"), again.count("replayed")) == (0, 0, 6471)
    assert again.count("accounts opened") == 0
    assert again.figure("sum of all balances before") == again.figure("sum of all balances after") == 3758 * OPENING
    assert the_books(books, file) == statuses
