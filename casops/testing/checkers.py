"""Checkers: what must hold, told from raw stored text and from what callers heard.

They use nothing of the protocol: stored JSON is parsed here once more, and operations are plain
functions on plain values (a `Model`), so that an error in casops cannot hide itself.

Must not be in here: imports of casops other than messages.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeAlias

from casops.messages import INTENTIONS, RESERVED, RESULTS, AtOnce, Key, Read, Scan, StoreRequest, Version

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


LATER = 1e9  # a moment after all others

Versions: TypeAlias = Mapping[Key, Version]


@lru_cache(maxsize=4096)
def parsed(text: str) -> Any:
    """Stored JSON.  Shared: not to be changed."""
    return json.loads(text)


def committed_in(versions: Versions) -> dict[str, Committed]:
    """Which operations have ended in this state of a store, and how."""
    found = {key.id: ended_in(versions, key.id) for key in versions if key.collection == RESULTS}
    return {operation_id: ended for operation_id, ended in found.items() if ended is not None}


def ended_in(versions: Versions, operation_id: str) -> Committed | None:
    """How one operation has ended in this state of a store, if it has."""
    version = versions.get(Key(RESULTS, operation_id))
    if version is None or version.body is None:
        return None
    record = parsed(version.body)
    state, attempt = record["state"], str(record.get("attempt"))
    if state == "committed" or (state == "proposed" and _landed(versions, operation_id, record)):
        return Committed(attempt, ["applied", record["result"]], state == "committed")
    if state == "declined":
        return Committed(attempt, ["declined", record["refusal"]["code"]], True)
    return Committed(attempt, ["cancelled"], True) if state == "cancelled" else None


def _landed(versions: Versions, operation_id: str, record: Any) -> bool:
    return all(
        stage_in(versions.get(Key(collection, id))) == (operation_id, record["attempt"])
        for collection, id, _ in record["participants"]
    )


def stage_in(version: Version | None) -> tuple[str, str] | None:
    """Whose stage this is: operation id and attempt id."""
    if version is None or version.stage is None:
        return None
    meta = parsed(version.stage.meta)
    return meta["operation_id"], meta["attempt"]


class Watcher:
    """Follows a store write by write.

    `wrote` raises Violation if a write undid an ended operation, showed ordinary readers a value that was not
    committed, or left a committed operation to be settled though no sweep would find it.
    """

    def __init__(self, versions: Versions) -> None:
        self.versions = dict(versions)
        self.ended = committed_in(self.versions)
        self._returned: set[str] = set()  # records that were forgotten and then written again, by something late

    def wrote(self, key: Key, after: Version | None) -> None:
        """`key` was written and is now `after`."""
        before = self.versions.get(key)
        concerned: set[str] = {owner[0] for owner in (stage_in(before), stage_in(after)) if owner is not None}
        if key.collection == RESULTS:
            concerned = {key.id}
        elif key.collection.startswith(RESERVED):
            concerned = set[str]()
        else:
            self._check_body(key, before, after)
        if after is None:
            self.versions.pop(key, None)
        else:
            self.versions[key] = after
        for operation_id in concerned:
            record = Key(RESULTS, operation_id)
            if key == record and before is None and operation_id in self.ended:
                self._returned.add(operation_id)
            self._check_ended(operation_id, forgotten=record not in self.versions or operation_id in self._returned)
        for operation_id in {key.id} if key.collection == INTENTIONS else concerned:
            self._check_listed(operation_id)

    def saw(self, request: StoreRequest, version: Callable[[Key], Version | None]) -> None:
        """This request succeeded; `version`: what a document is now."""
        if isinstance(request, AtOnce):
            self.wrote_at_once({each.key: version(each.key) for each in request.writes})
        elif not isinstance(request, Read | Scan):
            self.wrote(request.key, version(request.key))

    def wrote_at_once(self, after: Mapping[Key, Version | None]) -> None:
        """All of these were written in one moment, and are now so.

        That is for one operation alone, which had not ended and was not declared, on documents without a stage.
        """
        (operation_id,) = [key.id for key in after if key.collection == RESULTS]
        if Key(RESULTS, operation_id) in self.versions or operation_id in self.ended:
            raise Violation(f"{operation_id} was written at once, but was there before")
        if Key(INTENTIONS, operation_id) in self.versions:
            raise Violation(f"{operation_id} was written at once, but is declared")
        for key, version in after.items():
            owners = stage_in(self.versions.get(key)), stage_in(version)
            if owners != (None, None):
                raise Violation(f"{key} was written at once by {operation_id}, over or with a stage: {owners}")
            if version is None:
                self.versions.pop(key, None)
            else:
                self.versions[key] = version
        ended = ended_in(self.versions, operation_id)
        if ended is None or not ended.noticed or not parsed(self._body(operation_id))["settled"]:
            raise Violation(f"{operation_id} was written at once, but has not ended")
        self.ended[operation_id] = ended

    def _body(self, operation_id: str) -> str:
        version = self.versions.get(Key(RESULTS, operation_id))
        return (version.body if version else None) or ""

    def forgotten(self, key: Key) -> None:
        """`key` ceased to be by itself, because its time was over."""
        self.versions.pop(key, None)

    def _check_ended(self, operation_id: str, *, forgotten: bool) -> None:
        """What was forgotten may come back as a void marker, or as a proposal that is never committed."""
        was, now = self.ended.get(operation_id), ended_in(self.versions, operation_id)
        if was is not None and now != was and not (forgotten and now is None):
            record = self.versions.get(Key(RESULTS, operation_id))
            raise Violation(f"{operation_id} had ended {was} and is undone or changed: {record}")
        if now is not None:
            self.ended[operation_id] = now

    def _check_listed(self, operation_id: str) -> None:
        """A committed operation that is still to be settled has an intention, by which a sweep finds it."""
        record = self.versions.get(Key(RESULTS, operation_id))
        ended = self.ended.get(operation_id)
        if record is None or ended is None or Key(INTENTIONS, operation_id) in self.versions:
            return
        for collection, id, _ in parsed(record.body or "")["participants"]:
            if stage_in(self.versions.get(Key(collection, id))) == (operation_id, ended.attempt):
                raise Violation(f"{operation_id} is committed, {collection}/{id} is not settled, and nothing lists it")

    def _check_body(self, key: Key, before: Version | None, after: Version | None) -> None:
        if (before and before.body) == (after and after.body):
            return
        owner = stage_in(before)
        ended = self.ended.get(owner[0]) if owner else None
        if owner is None or ended is None or ended.attempt != owner[1] or not ended.noticed:
            raise Violation(f"{key} showed readers what no committed attempt had staged: {before} -> {after}")
        if (after.body if after else None) != (before.stage.body if before and before.stage else None):
            raise Violation(f"{key} did not become what was staged: {before} -> {after}")


def check_told(ended: Committed | None, operation_id: str, answer: Any) -> None:
    """A caller hears this.  Raises Violation if it is told that what has been applied did not happen."""
    if answer[-1] == "did not happen" and ended is not None and ended.answer[0] == "applied":
        raise Violation(f"{operation_id} was told to have failed ({answer}), but it has happened: {ended}")


def check_unhappened(versions: Versions, told: Iterable[str]) -> None:
    """After a sweep, if nobody asked again.  Raises Violation if one of these has been applied all the same."""
    ended = committed_in(versions)
    for operation_id in told:
        if operation_id in ended and ended[operation_id].answer[0] == "applied":
            raise Violation(
                f"{operation_id} was told not to have happened, and happened by itself: {ended[operation_id]}"
            )


def moments_of(order: Mapping[str, frozenset[str]], told: set[str]) -> dict[str, tuple[float, float | None]]:
    """Numbers for "asked" and "answered" that say exactly which answers came before which askings.

    What had been answered at an asking only grows with time, so the sets are nested and their sizes are moments.
    """
    moments: dict[str, tuple[float, float | None]] = {}
    for name, before in order.items():
        later = [len(answered) for answered in order.values() if name in answered]
        answered = (min(later) - 0.5 if later else LATER) if name in told else None
        moments[name] = (float(len(before)), answered)
    return moments


def check_put_away(versions: Versions) -> None:
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
