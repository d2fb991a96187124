"""The cases the explorer enumerates.

Must not be in here: how they are explored.
"""

from __future__ import annotations

from casops.testing.explorer import Case
from casops.testing.programs import Burn, Move, Put, cancels, reads, runs, sweeps


def cases() -> list[Case]:
    """Every listed case, with as much trouble as can be enumerated in minutes."""
    one = Put(purse="a", coins=1)
    move = Move(source="a", target="b", coins=1)
    back = Move(source="b", target="a", coins=2)
    return [
        Case(
            "two workers on one operation, one document",
            {"a": 5},
            {"i": one},
            [runs(("i", one)), runs(("i", one))],
            lost_replies=1,
            crashes=2,
        ),
        Case(
            "two workers on one operation, two documents",
            {"a": 5, "b": 5},
            {"i": move},
            [runs(("i", move)), runs(("i", move))],
            crashes=1,
        ),
        Case(
            "two operations on one document",
            {"a": 5},
            {"i": one, "j": Put(purse="a", coins=10)},
            [runs(("i", one)), runs(("j", Put(purse="a", coins=10)))],
            lost_replies=1,
            crashes=2,
        ),
        Case(
            "two transfers in opposite directions",
            {"a": 5, "b": 5},
            {"i": move, "j": back},
            [runs(("i", move)), runs(("j", back))],
            crashes=1,
        ),
        Case(
            "an operation, its retry and the sweeper",
            {"a": 5},
            {"i": one},
            [runs(("i", one)), runs(("i", one)), sweeps()],
            crashes=1,
        ),
        Case(
            "a reader during a transfer",
            {"a": 5, "b": 5},
            {"i": move},
            [runs(("i", move)), reads("r", "a"), reads("s", "a", "b")],
            crashes=1,
            readers={"r": ["a"], "s": ["a", "b"]},
        ),
        Case(
            "create, remove and create again",
            {},
            {"i": one, "j": Burn(purse="a"), "k": Put(purse="a", coins=7)},
            [runs(("i", one), ("j", Burn(purse="a"))), runs(("k", Put(purse="a", coins=7)))],
            crashes=1,
        ),
        Case(
            "cancel against commit",
            {"a": 5},
            {"i": one},
            [runs(("i", one)), cancels("i")],
            lost_replies=1,
            crashes=2,
        ),
    ]
