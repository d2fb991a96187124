"""Callers of a file in all the ways in which they can come together and things can go wrong.

Small worlds in every schedule there is, and larger ones of a seed each.  CASOPS_WORLDS=20000 pytest
tests/test_callers_world.py: more of them.  One in all its steps:
python -m tests.test_callers_world SEED

Must not be in here: how a world goes on and what is checked (tests/callers_world.py).
"""

from __future__ import annotations

import os
import random
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from casops import Operation, Options, StoreUnavailable
from casops.messages import Refused, Steps, Unknown
from casops.testing.checkers import Violation
from casops.testing.programs import Burn, Move, Open, Put, Require
from tests.callers_world import Actor, Follow, Odd, Plan, Scripted, Seeded, World

WORLDS = int(os.environ.get("CASOPS_WORLDS", "120"))

NOW = Options(patience=0.0, poll=0.0, grace=0.0, attempts=20, deadline=20.0, retention=100_000.0, park_after=0)


def some_plan(seed: int) -> Plan:
    """A world of this seed."""
    chance = random.Random(f"plan {seed}")
    names = [f"p{each}" for each in range(chance.choice((1, 2, 2, 4)))]
    operations = {f"o{each}": some_operation(chance, names) for each in range(chance.choice((1, 2, 3, 5)))}
    return Plan(
        purses={name: chance.choice((0, 1, 4)) for name in names if chance.random() < 0.9},
        operations=operations,
        actors=some_actors(chance, list(operations)),
        options=replace(
            NOW,
            patience=chance.choice((0.0, 0.0, 1.0)),
            poll=chance.choice((0.0, 0.005)),
            attempts=chance.choice((2, 5, 20)),
            settle_queue=chance.choice((0, 1000)),
        ),
        faults=chance.choice((0, 1, 3, 10)),
        losses=chance.choice((0, 0, 1, 3)),
        leaps=chance.choice((0, 0, 2, 20)),
        parts=chance.choice((0, 3, 10**6)),
        tries=chance.choice((1, 2, 3)),
        begin_apart=chance.random() < 0.7,
        most=chance.choice((2, 3, 50)),
        batches=chance.choice((1, 2, 4, 64)),
        few=chance.choice((0, 4)),
        stands_still=chance.choice((0.05, 5.0)),
    )


def some_operation(chance: random.Random, names: list[str]) -> Operation[Any]:
    name, other = chance.choice(names), chance.choice(names)
    return chance.choices(
        (
            Move(source=name, target=other, coins=chance.choice((1, 2))),
            Put(purse=name, coins=1),
            Follow(purse=name, others=2),
            Require(first=name, second=other, coins=3),
            Open(purse=name, coins=1),
            Odd(purse=name),
            Burn(purse=name),
        ),
        (5, 2, 2, 1, 1, 1, 1),
    )[0]


def some_actors(chance: random.Random, ids: list[str]) -> list[Actor]:
    def callers(at_most: int) -> list[list[str]]:
        return [chance.sample(ids, min(len(ids), chance.choice((1, 1, 2)))) for _ in range(chance.randint(1, at_most))]

    actors = [Actor(callers(2), log=True, dies_after=chance.randint(1, 16))] * (chance.random() < 0.4)
    actors += [Actor(callers(5), threads=chance.random() < 0.4) for _ in range(chance.choice((1, 1, 2)))]
    actors += [Actor(callers(2), log=True)] * (chance.random() < 0.3)
    actors += [Actor(sweeps=2, log=True)] * (chance.random() < 0.3)
    actors += [Actor(cancels=[chance.choice(ids)])] * (chance.random() < 0.15)
    return actors


def lived(world: World) -> World:
    try:
        world.run()
    except Exception as error:
        error.add_note("\n".join(world.trace))
        raise
    return world


def test_worlds_of_seeds() -> None:
    told: Counter[str] = Counter()
    for seed in range(WORLDS):
        told.update(lived(World(some_plan(seed), Seeded(seed))).told)
    assert {"applied", "declined", "OutcomeUnknown", "StoreUnavailable", "ZeroDivisionError"} <= told.keys()


def test_the_same_seed_gives_the_same_world() -> None:
    for seed in range(10):
        first, again = (lived(World(some_plan(seed), Seeded(seed))).trace for _ in range(2))
        assert first == again


def test_it_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    def not_asked(_again: object, failed: Refused | Unknown, *, durable: bool) -> Steps[None]:
        raise StoreUnavailable(f"{failed.why}; this call changed nothing ({durable})")
        yield

    monkeypatch.setattr("casops.conversations._ask_again", not_asked)
    with pytest.raises(Violation, match="told"):
        all(lived(World(some_plan(seed), Seeded(seed))) for seed in range(100))


def schedules(plan: Plan) -> Iterator[Scripted]:
    """All of them, each for a world that is to follow it before the next is asked for."""
    script: list[int] | None = []
    while script is not None:
        yield (scripted := Scripted(script))
        script = scripted.next()


ONE, TWO = Put(purse="p0", coins=1), Put(purse="p1", coins=1)
MOVE, BACK = Move(source="p0", target="p1", coins=1), Move(source="p1", target="p0", coins=2)
BOTH = {"p0": 1, "p1": 1}

# Nobody waits, as in casops.testing.explorer; few attempts, for with no patience at all three can void each other.
FEW = replace(NOW, attempts=3)

SMALL = {
    "one": Plan(BOTH, {"i": MOVE}, [Actor([["i"]])], FEW, faults=1, losses=1),
    "one that asks again": Plan(BOTH, {"i": MOVE}, [Actor([["i"]])], FEW, faults=2),
    "the same id twice": Plan(BOTH, {"i": ONE}, [Actor([["i"], ["i"]])], FEW, faults=1, switches=1),
    "one account": Plan(BOTH, {"i": ONE, "j": BACK}, [Actor([["i"], ["j"]])], FEW, faults=1, switches=1),
    "three": Plan(
        BOTH, {"i": ONE, "j": TWO, "k": Open(purse="p0", coins=1)}, [Actor([["i"], ["j"], ["k"]])], FEW, 1, 0, 0
    ),
    "a refusal during a transfer": Plan(
        BOTH,
        {"r": Require(first="p1", second="p0", coins=2), "m": MOVE},
        [Actor([["r"]]), Actor([["m"]])],
        FEW,
        switches=3,
        parts=2,
    ),
    "beside the stream log": Plan(BOTH, {"i": ONE}, [Actor([["i"]]), Actor([["i"]], log=True)], FEW, 1, 0, 2),
    "two processes": Plan(BOTH, {"i": MOVE, "j": BACK}, [Actor([["i"]]), Actor([["j"]])], FEW, 1, 0, 2),
    "beside a sweep and a cancel": Plan(
        BOTH, {"i": ONE}, [Actor([["i"]]), Actor(sweeps=1), Actor(cancels="i")], FEW, 1, 0, 2
    ),
    **{
        f"left after {begun}": Plan(
            BOTH, {"i": MOVE}, [Actor([["i"]], log=True, dies_after=begun), Actor([["i"], ["i"]])], FEW, 1, 0, 1
        )
        for begun in (1, 5, 9)
    },
}


@pytest.mark.parametrize("name", SMALL)
def test_every_schedule(name: str) -> None:
    for scripted in schedules(SMALL[name]):
        lived(World(SMALL[name], scripted))


if __name__ == "__main__":
    for each in sys.argv[1:]:
        world = World(some_plan(int(each)), Seeded(int(each)))
        try:
            world.run()
        except Violation as error:
            world.trace.append(f"violation: {error}")
        sys.stdout.write("\n".join((repr(world.plan), *world.trace)) + "\n")
