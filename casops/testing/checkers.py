"""Checkers: what must hold, told from raw stored text and from what callers heard.

They use nothing of the protocol: stored JSON is parsed here once more, and operations are plain
functions on plain values (a `Model`), so that an error in casops cannot hide itself.

Must not be in here: imports of casops other than messages.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from casops.messages import RESULTS, Key, Version

# What an operation does to documents, by document name; None: absent.  It changes its argument and
# gives its answer.
Model: TypeAlias = Callable[[dict[str, Any]], Any]

# Positions of the search for a serial order.  Real histories need about one for each operation.
MAX_SEARCH = 200_000


class Violation(AssertionError):
    """Something that must hold at every moment did not."""


@dataclass(frozen=True)
class Heard:
    """One operation as its callers saw it.

    `asked` and `answered` are moments of one clock (any numbers that grow); `answered` None: nobody heard.
    """

    operation_id: str
    model: Model
    asked: float
    answered: float | None
    answer: Any = None


@dataclass(frozen=True)
class Committed:
    """The attempt of an operation that counts, and its answer as stored."""

    attempt: str
    answer: Any
    noticed: bool = field(compare=False)  # R(i) says so; otherwise it is proposed and has landed everywhere


def committed_in(versions: Mapping[Key, Version]) -> dict[str, Committed]:
    """Which attempts are committed, declined or cancelled in this state of a store."""
    found: dict[str, Committed] = {}
    for key, version in versions.items():
        if key.collection != RESULTS:
            continue
        record = json.loads(version.body or "null")
        state, attempt = record["state"], str(record.get("attempt"))
        if state == "committed" or (state == "proposed" and _landed(versions, key.id, record)):
            found[key.id] = Committed(attempt, ["applied", record["result"]], state == "committed")
        elif state == "declined":
            found[key.id] = Committed(attempt, ["declined", record["refusal"]["code"]], True)
        elif state == "cancelled":
            found[key.id] = Committed(attempt, ["cancelled"], True)
    return found


def _landed(versions: Mapping[Key, Version], operation_id: str, record: Any) -> bool:
    return all(
        stage_in(versions.get(Key(collection, id))) == (operation_id, record["attempt"])
        for collection, id, _ in record["participants"]
    )


def stage_in(version: Version | None) -> tuple[str, str] | None:
    """Whose stage this is: operation id and attempt id."""
    if version is None or version.stage is None:
        return None
    meta = json.loads(version.stage.meta)
    return meta["operation_id"], meta["attempt"]


def check_step(before: Mapping[Key, Version], after: Mapping[Key, Version]) -> None:
    """One write happened.  Raises Violation if it undid an operation or showed an uncommitted value."""
    was, now = committed_in(before), committed_in(after)
    for operation_id, ended in was.items():
        if now.get(operation_id) != ended:
            raise Violation(
                f"{operation_id} had ended ({ended.answer}) and is undone or changed: {now.get(operation_id)}"
            )
    for key in before.keys() | after.keys():
        if key.collection.startswith("_casops."):
            continue
        old, new = before.get(key), after.get(key)
        if (old and old.body) == (new and new.body):
            continue
        owner = stage_in(old)
        ended_by = was.get(owner[0]) if owner else None
        if owner is None or ended_by is None or ended_by.attempt != owner[1] or not ended_by.noticed:
            raise Violation(
                f"{key} changed for ordinary readers, but no committed attempt had staged it: {old} -> {new}"
            )
        if (new.body if new else None) != (old.stage.body if old and old.stage else None):
            raise Violation(f"{key} did not become what was staged: {old} -> {new}")


def check_put_away(versions: Mapping[Key, Version]) -> None:
    """After everything was finished and settled.  Raises Violation if a committed stage is left."""
    ended = committed_in(versions)
    for key, version in versions.items():
        owner = stage_in(version)
        if owner is not None and owner[0] in ended and ended[owner[0]].attempt == owner[1]:
            raise Violation(f"{key} still carries the committed stage of {owner}")


def check_serial(initial: Mapping[str, Any], final: Mapping[str, Any] | None, heard: Sequence[Heard]) -> list[str]:
    """Is there an order in which the operations, one after another, give these answers and documents?

    The order must respect real time: what was answered before another was asked comes first.
    `heard`: every operation that counts, with the answer it counts with.  `final` None: documents
    are not compared.  Gives the order.  Raises Violation if there is none.

    Depth-first search over the operations that may come next, remembering positions already
    refuted (Wing and Gong, "Testing and verifying concurrent objects", 1993; Lowe's memory of states).
    """
    count = len(heard)
    end = float("inf")
    answered = [end if each.answered is None else each.answered for each in heard]
    by_time = sorted(range(count), key=lambda index: (answered[index], heard[index].asked))
    refuted: set[tuple[int, str]] = set()
    searched = 0

    def key_of(documents: Mapping[str, Any]) -> str:
        return json.dumps({name: value for name, value in documents.items() if value is not None}, sort_keys=True)

    goal = None if final is None else key_of(final)
    # A stack of its own: histories are longer than Python's recursion limit.
    stack: list[tuple[int, dict[str, Any], list[int], int]] = [
        (0, dict(initial), _next(0, by_time, heard, answered), -1)
    ]
    order: list[int] = []
    while stack:
        done, documents, candidates, came_by = stack[-1]
        if done == (1 << count) - 1 and (goal is None or key_of(documents) == goal):
            return [heard[index].operation_id for index in order]
        while candidates:
            index = candidates.pop(0)
            changed = dict(documents)
            if heard[index].model(changed) != heard[index].answer:
                continue
            position = (done | 1 << index, key_of(changed))
            if position in refuted:
                continue
            searched += 1
            if searched > MAX_SEARCH:
                raise Violation(f"no serial order was found in {MAX_SEARCH} steps")
            refuted.add(position)
            order.append(index)
            stack.append((position[0], changed, _next(position[0], by_time, heard, answered), index))
            break
        else:
            stack.pop()
            if came_by >= 0:
                order.pop()
    told = ", ".join(f"{each.operation_id} -> {each.answer}" for each in heard)
    raise Violation(f"no serial order gives these answers and documents: {told}; from {dict(initial)} to {final}")


def _next(done: int, by_time: Iterable[int], heard: Sequence[Heard], answered: Sequence[float]) -> list[int]:
    """The operations that may come next: asked before any other open one was answered."""
    left = [index for index in by_time if not done >> index & 1]
    first = min((answered[index] for index in left), default=0.0)
    return [index for index in left if heard[index].asked <= first]
