"""The cases the explorer enumerates, each with as much trouble as can be enumerated in a minute or so.

`attempts` bounds how often a worker tries again after a lost race, which keeps the state space finite; a
worker that has used them up gives up, and a fresh one is asked in the end.

Must not be in here: how they are explored.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from casops.testing.explorer import Case
from casops.testing.programs import Burn, Move, Open, Put, Require, cancels, reads, runs, sweeps

ONE = Put(purse="a", coins=1)
TEN = Put(purse="a", coins=10)
MOVE = Move(source="a", target="b", coins=1)
BACK = Move(source="b", target="a", coins=2)
OPEN = Open(purse="a", coins=3)
BURN = Burn(purse="a")
AGAIN = Put(purse="a", coins=7)
ALL = Require(first="a", second="b", coins=10)

BOTH = {"a": 5, "b": 5}

TWICE = Case(
    "two workers on one operation, one document",
    {"a": 5},
    {"i": ONE},
    [runs(("i", ONE)), runs(("i", ONE))],
)
OPPOSITE = Case(
    "two transfers in opposite directions",
    BOTH,
    {"i": MOVE, "j": BACK},
    [runs(("i", MOVE)), runs(("j", BACK))],
)
AT_ONCE = Case(
    "at once beside the stream log, two operations",
    BOTH,
    {"i": MOVE, "j": BACK},
    [runs(("i", MOVE), at_once=True), runs(("j", BACK))],
)
REFUSAL = Case(
    "a refusal about two documents during a transfer",
    BOTH,
    {"i": MOVE, "j": ALL},
    [runs(("i", MOVE)), runs(("j", ALL))],
)


def cases() -> list[Case]:
    """Every case but the long ones, in the order in which they are explored: short ones first."""
    return [
        *_with(
            Case("cancel against commit", {"a": 5}, {"i": ONE}, [runs(("i", ONE)), cancels("i")]),
            (2, 0, 0),
            (1, 1, 1),
        ),
        *_with(
            Case(
                "two operations on one document",
                {"a": 5},
                {"i": ONE, "j": TEN},
                [runs(("i", ONE)), runs(("j", TEN))],
            ),
            (2, 0, 0),
            (1, 1, 1),
        ),
        *_with(
            TWICE,
            (1, 0, 1),
            (1, 1, 0),
        ),
        *_with(
            Case(
                "two workers on one operation whose function fails once it has happened",
                {},
                {"i": OPEN},
                [runs(("i", OPEN)), runs(("i", OPEN))],
            ),
            (1, 1, 0),
            (1, 0, 1),
        ),
        *_with(
            Case(
                "at once beside the stream log, one operation",
                {"a": 5},
                {"i": ONE},
                [runs(("i", ONE), at_once=True), runs(("i", ONE))],
            ),
            (1, 1, 0),
            (1, 0, 1),
            (2, 0, 0),
        ),
        *_with(
            AT_ONCE,
            (1, 1, 0),
            (1, 0, 1),
        ),
        *_with(
            Case(
                "a refusal about two documents, at once, during a transfer at once",
                BOTH,
                {"i": MOVE, "j": ALL},
                [runs(("i", MOVE), at_once=True), runs(("j", ALL), at_once=True)],
            ),
            (2, 1, 1),
        ),
        *_with(
            Case(
                "at once, cancel and a sweep",
                {"a": 5},
                {"i": ONE},
                [runs(("i", ONE), at_once=True), cancels("i"), sweeps()],
            ),
            (1, 1, 1),
        ),
        *_with(
            Case(
                "a reader during a transfer",
                BOTH,
                {"i": MOVE},
                [runs(("i", MOVE)), reads("r", "a")],
                readers={"r": ["a"]},
            ),
            (1, 1, 1),
        ),
        *_with(
            Case(
                "a snapshot during a transfer",
                BOTH,
                {"i": MOVE},
                [runs(("i", MOVE)), reads("s", "a", "b")],
                readers={"s": ["a", "b"]},
            ),
            (1, 0, 1),
            (1, 1, 0),
        ),
        *_with(
            REFUSAL,
            (1, 0, 0),
        ),
        *_with(
            Case(
                "create, remove and create again",
                {},
                {"i": ONE, "j": BURN, "k": AGAIN},
                [runs(("i", ONE), ("j", BURN)), runs(("k", AGAIN))],
            ),
            (1, 0, 1),
            (2, 0, 0),
        ),
        *_with(
            OPPOSITE,
            (1, 0, 1),
        ),
        *_with(
            Case(
                "an operation, its retry and the sweeper",
                {"a": 5},
                {"i": ONE},
                [runs(("i", ONE)), runs(("i", ONE), settles=False), sweeps()],
                begun=1,  # declared and read; what it proposes lands at any moment, or never
            ),
            (1, 0, 0),
        ),
        *_with(
            Case(
                "an operation that cannot be done, another one under its id, and the sweeper",
                {"a": 5},
                {"i": ONE},
                [runs(("i", OPEN)), runs(("i", ONE)), sweeps()],
                rivals={"i": OPEN},
            ),
            (1, 0, 0),
        ),
        *_with(
            Case("an operation and the sweeper", {"a": 5}, {"i": ONE}, [runs(("i", ONE)), sweeps()]),
            (1, 1, 1),
        ),
        *_with(
            Case(
                "two workers on one operation, two documents",
                BOTH,
                {"i": MOVE},
                [runs(("i", MOVE)), runs(("i", MOVE))],
            ),
            (1, 0, 0),
            (1, 0, 1),
        ),
    ]


def long_cases() -> list[Case]:
    """Four of them with other troubles, which take half of the time of all."""
    return [
        *_with(TWICE, (2, 0, 0)),
        *_with(OPPOSITE, (1, 1, 0)),
        *_with(AT_ONCE, (2, 0, 0)),
        *_with(REFUSAL, (2, 0, 0)),
    ]


def _with(case: Case, *troubles: tuple[int, int, int]) -> Iterator[Case]:
    """The case with so many attempts, lost replies and crashes."""
    for attempts, lost, crashes in troubles:
        yield replace(
            case,
            name=f"{case.name} ({attempts} attempts, {lost} lost, {crashes} crashes)",
            options=replace(case.options, attempts=attempts),
            lost_replies=lost,
            crashes=crashes,
        )
