"""The tools of the proof, in short: that they run, are reproducible, and can fail."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from casops.messages import RESULTS, Insert, Key, Version
from casops.records import Event, Record, State
from casops.testing.__main__ import main
from casops.testing.cases import cases
from casops.testing.checkers import Heard, Violation, Watcher, check_serial
from casops.testing.explorer import Explorer
from casops.testing.frozen import frozen
from casops.testing.programs import Move, Put, model_of
from casops.testing.simulator import live
from casops.testing.soaking import Soak, soak
from tests.mutants.listed import KEPT_SEEDS


def test_a_case_is_explored_to_its_end() -> None:
    found = Explorer(cases()[0]).explore()
    assert found.complete
    assert found.violation is None
    assert found.states > 5_000
    assert found.finals > 10


def test_workers_who_differ_in_histories_only_are_the_same_to_the_explorer() -> None:
    def holding(record: Record) -> Generator[Record]:
        yield record

    def held(state: State, what: str) -> object:
        worker = holding(
            Record(operation="o", fingerprint="f", state=state, history=(Event(at=1.0, worker="w", what=what),))
        )
        next(worker)
        return frozen(worker)

    assert held("open", "lost") == held("open", "voided")
    assert held("open", "lost") != held("declined", "lost")


def test_the_same_seed_gives_the_same_world() -> None:
    for seed in range(20):
        first, again = live(seed, traced=True), live(seed, traced=True)
        assert first == again
        assert first.violation is None


@pytest.mark.parametrize("seed", KEPT_SEEDS)
def test_a_world_that_once_showed_a_bug(seed: int) -> None:
    lived = live(seed)
    assert lived.violation is None, lived.violation


def test_worlds_differ_and_things_go_wrong_in_them() -> None:
    lived = [live(seed) for seed in range(150)]
    assert all(each.violation is None for each in lived)
    assert sum(each.crashes for each in lived) > 20
    assert sum(each.unknown for each in lived) > 100
    assert len({each.events for each in lived}) > 50


def test_a_short_soak(tmp_path: Path) -> None:
    said: list[str] = []
    tally = soak(minutes=0.1, store=f"sqlite:///{tmp_path}/soak.db", seed=3, workers=2, say=said.append)
    assert tally.violations == []
    assert tally.operations > 0


def test_a_worker_of_a_soak_that_hangs_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(_: Soak) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", "import time; time.sleep(60)"]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    monkeypatch.setattr(Soak, "_start", hang)
    monkeypatch.setattr("casops.testing.soaking.HANGING", 0.2)
    tally = soak(minutes=0.1, store=None, seed=3, workers=1, say=print)
    assert "with 'nothing', None" in tally.violations[0]


def test_the_commands_say_what_they_did(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "--seeds", "20", "--jobs", "1"]) == 0
    assert "20 worlds" in capsys.readouterr().out
    assert main(["simulate", "--seed", "7"]) == 0
    assert "seed 7: no violation" in capsys.readouterr().out
    assert main(["explore", "--case", "a reader", "--jobs", "1"]) == 0
    assert "1 cases" in capsys.readouterr().out
    assert main(["explore", "--case", "no such case"]) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        "simulate --seeds 0",
        "simulate --seeds=-5",
        "simulate --seeds x",
        "simulate --jobs 0",
        "explore --jobs 0",
        "soak --minutes 0",
        "soak --minutes=-1",
        "soak --minutes nan",
        "soak --minutes inf",
        "soak --minutes x",
        "soak --workers 0",
    ],
)
def test_a_proof_of_nothing_is_none(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments.split())
    assert "needed" in capsys.readouterr().err


# --- the checkers can fail --------------------------------------------------------------------

MOVE = model_of(Move(source="a", target="b", coins=1))


def test_a_wrong_answer_has_no_serial_order() -> None:
    heard = [Heard("i", MOVE, 0, 1, ["applied", 4])]
    assert check_serial({"a": 5, "b": 5}, {"a": 4, "b": 6}, heard) == ["i"]
    with pytest.raises(Violation):
        check_serial({"a": 5, "b": 5}, {"a": 5, "b": 5}, heard)
    with pytest.raises(Violation):
        check_serial({"a": 5, "b": 5}, {"a": 4, "b": 6}, [Heard("i", MOVE, 0, 1, ["applied", 3])])


def test_real_time_is_respected() -> None:
    put, ten = model_of(Put(purse="a", coins=1)), model_of(Put(purse="a", coins=10))
    early, late = Heard("i", put, 0, 1, ["applied", 11]), Heard("j", ten, 2, 3, ["applied", 10])
    with pytest.raises(Violation):  # the answers say j before i, but i was answered before j was asked
        check_serial({}, {"a": 11}, [early, late])
    overlapping = Heard("j", ten, 0.5, 3, ["applied", 10])
    assert check_serial({}, {"a": 11}, [early, overlapping]) == ["j", "i"]


def test_an_uncommitted_value_is_noticed() -> None:
    key = Key("purses", "a")
    watcher = Watcher({key: Version(2, '{"coins":5}')})
    with pytest.raises(Violation, match="showed readers"):
        watcher.wrote(key, Version(4, '{"coins":6}'))


def test_an_undone_operation_is_noticed() -> None:
    key = Key(RESULTS, "i")
    record = '{"state":"%s","attempt":"1","participants":[],"result":1,"refusal":null}'
    watcher = Watcher({key: Version(2, record % "committed")})
    watcher.wrote(key, Version(4, record % "committed"))
    with pytest.raises(Violation, match="undone"):
        watcher.wrote(key, Version(6, record % "open"))
    assert Insert(key, "x").key == key
