"""A short soak of the message tier, and whether its judge notices what it must."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from casops import CasOps
from casops.testing.checkers import Violation
from tests.bank import Transfer
from tests.service_soak import Soak, balances, soak
from tests.soak_bank import transfers_of
from tests.soak_client import History, answer_of


def test_a_short_soak(capsys: pytest.CaptureFixture[str]) -> None:
    told: list[str] = []
    tally = soak(240, store=None, seed=1, share=0.1, say=told.append, size=120)
    assert tally["transfers"] == 240
    assert tally["contradictions"] == 0
    # It was no walk in the park: something was repeated, killed and replayed.
    assert min(tally[each] for each in ("repeated", "broken", "servers killed", "replayed")) > 0
    assert "240 transfers" in told[-1]


COUNT = 20
Tamper = Callable[[Soak, CasOps, list[dict[str, Any]]], object]


def leave(soak: Soak, casops: CasOps, lines: list[dict[str, Any]]) -> None:
    pass


def twice(soak: Soak, casops: CasOps, lines: list[dict[str, Any]]) -> None:
    """One transfer happened once more, under an id nobody knows."""
    transfer = next(iter(transfers_of(soak.seed, 0, COUNT, soak.run_id).values()))
    casops.run(Transfer(source=transfer.source, target=transfer.target, amount=1), operation_id="again")


def silent(soak: Soak, casops: CasOps, lines: list[dict[str, Any]]) -> None:
    """A caller never heard."""
    lines[:] = [line for line in lines if line.get("hears") != f"{soak.run_id}-r0-3"]


def other(soak: Soak, casops: CasOps, lines: list[dict[str, Any]]) -> None:
    """A caller heard something else."""
    lines[-1]["answer"] = ["applied", {"left": "0"}]


def two_answers(soak: Soak, casops: CasOps, lines: list[dict[str, Any]]) -> None:
    """Two callers heard different things."""
    lines.append({**lines[-1], "answer": ["cancelled"]})


def hopeless(soak: Soak, casops: CasOps, lines: list[dict[str, Any]]) -> None:
    """A caller was told not to ask again."""
    lines.append({"at": 0, "fails": "x", "error": "Expired", "retry": False})


def backwards(soak: Soak, casops: CasOps, lines: list[dict[str, Any]]) -> None:
    """The first was asked for after the last was answered, though the others built on it."""
    late = lines[-1]["at"] + 10.0
    lines[0]["at"], lines[1]["at"] = late, late + 1


@pytest.mark.parametrize(
    ("tamper", "told"),
    [
        (leave, None),
        (twice, "no serial order"),
        (silent, "never answered"),
        (other, "its outcome is"),
        (two_answers, "was answered"),
        (hopeless, "failed with"),
        (backwards, "no serial order"),
    ],
)
def test_the_judge_notices(tmp_path: Path, tamper: Tamper, told: str | None) -> None:
    soak = Soak(None, 5, 0.0, tmp_path, lambda text: None)
    with CasOps.open(soak.store) as casops:
        soak.open_accounts(casops)
        before = balances(casops)
        lines: list[dict[str, Any]] = []
        for operation_id, transfer in transfers_of(5, 0, COUNT, soak.run_id).items():
            lines.append({"at": len(lines), "asks": operation_id})
            outcome = casops.execute(transfer, operation_id=operation_id)
            answer = answer_of(outcome)
            lines.append({"at": len(lines), "hears": operation_id, "answer": answer, "replayed": False})
        tamper(soak, casops, lines)
        history = History(str(tmp_path / "history-0"))
        for line in lines:
            history.note(**line)
        history.close()
        if told is None:
            soak.judge(casops, 0, COUNT, before)
            return
        with pytest.raises(Violation, match=told):
            soak.judge(casops, 0, COUNT, before)
