"""Every scenario is told again, and must lead to what its file says.

After a change that is meant, `CASOPS_REWRITE=1 pytest tests/test_scenarios.py` writes the files anew; each difference
is then to be read by eye: the trace must tell the story that the head of its file promises.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from casops.testing.checkers import Violation
from casops.testing.scenario import play

FILES = sorted((Path(__file__).parent / "scenarios").glob("*.txt"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_scenario_leads_to_what_it_says(file: Path) -> None:
    told = file.read_text(encoding="utf-8")
    now = play(told)
    if os.environ.get("CASOPS_REWRITE") == "1":
        file.write_text(now, encoding="utf-8")
    else:
        assert now == told


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_scenario_begins_with_its_story(file: Path) -> None:
    head, _, rest = file.read_text(encoding="utf-8").partition("\n\n")
    assert all(line.startswith("# ") for line in head.splitlines())
    assert "# Proves: " in head
    assert rest.startswith("documents")
    assert "all settled" in rest


def test_there_is_a_story_for_each_error() -> None:
    assert len(FILES) >= 20


def test_what_led_to_nothing_is_filled_in() -> None:
    told = play(
        "# A story.\n\ndocuments a=1\nfirst asks t1 put a 2 and runs\n    what was told before\nshow documents\n"
    )
    assert "    first hears t1: applied 3\n" in told
    assert '    a: {"coins":1} + stage first-1.1 = {"coins":3}' in told
    assert "before" not in told
    assert play(told) == told


@pytest.mark.parametrize(
    ("commands", "words"),
    [
        ("documents a=1\nfirst asks t1 put a 2 and runs\nall settled", "not settled|still carries"),
        ("documents a=1\ntotal stays\nfirst asks t1 put a 2 and runs", "there were 1 coins, and now there are 3"),
        ("documents a=1\nfirst asks t1 put a 2\nfirst steps; held: stage b", "first sends"),
        ("documents a=1\nfirst asks t1 put a 2\nfirst wakes", "has sent nothing"),
        ("documents a=1\nfirst dances", "no command"),
    ],
)
def test_a_story_that_does_not_hold_is_noticed(commands: str, words: str) -> None:
    with pytest.raises(AssertionError, match=words) as caught:
        play(commands)
    assert "in line" in caught.value.__notes__[0]


def test_a_store_that_is_changed_past_the_protocol_is_noticed() -> None:
    from casops.messages import Key, Version
    from casops.testing.scenario import Scenario

    story = Scenario()
    story.command("documents a=1")
    with pytest.raises(Violation):
        story.watcher.wrote(Key("purses", "a"), Version(99, '{"coins":2}'))
