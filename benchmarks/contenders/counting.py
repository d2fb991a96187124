"""One document with casops and by hand: for what Powertools does, and for growth.

Must not be in here: anything a user would not write, but for the worker's name, which has one length everywhere.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from casops import CasOps, Document, Documents, Operation, Ref


class Counter(Document, collection="counters"):
    value: int = 0
    load: str = ""


class Add(Operation[int]):
    """Adds to all of some counters; they come into being when they are needed."""

    counters: list[Ref[Counter]]
    amount: int

    def apply(self, documents: Documents) -> int:
        total = 0
        for ref in self.counters:
            counter = documents.get(ref)
            if counter is None:
                counter = documents.create(ref, Counter())
            counter.value += self.amount
            total += counter.value
        return total


class Load(Operation[None]):
    """Gives a counter something to carry."""

    counter: Ref[Counter]
    characters: int

    def apply(self, documents: Documents) -> None:
        documents.create(self.counter, Counter(load="x" * self.characters))


class CasopsCounters:
    """One CasOps on one file."""

    def __init__(self, folder: Path) -> None:
        self.casops = CasOps.open(f"sqlite:///{folder}/counters.db", worker="worker")

    def add(self, operation_id: str, counter: str, amount: int) -> int:
        return self.casops.run(Add(counters=[counter], amount=amount), operation_id=operation_id)

    def add_all(self, operation_id: str, counters: list[str]) -> int:
        return self.casops.run(Add(counters=counters, amount=1), operation_id=operation_id)

    def load(self, counter: str, characters: int) -> None:
        self.casops.run(Load(counter=counter, characters=characters), operation_id=f"load-{counter}")

    def close(self) -> None:
        self.casops.close()


class PlainCounters:
    """The same in plain transactions with an idempotency table; the document is a text beside a number."""

    def __init__(self, folder: Path) -> None:
        self._connection = sqlite3.connect(folder / "plain.db", isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.executescript(
            """CREATE TABLE counters (id TEXT PRIMARY KEY, value INTEGER NOT NULL, load TEXT NOT NULL);
            CREATE TABLE done (id TEXT PRIMARY KEY, result INTEGER NOT NULL);"""
        )

    def add(self, operation_id: str, counter: str, amount: int) -> int:
        return self.add_all(operation_id, [counter])

    def add_all(self, operation_id: str, counters: list[str]) -> int:
        run = self._connection.execute
        answered = run("SELECT result FROM done WHERE id = ?", (operation_id,)).fetchone()
        if answered is not None:
            return int(answered[0])
        run("BEGIN IMMEDIATE")
        total = 0
        for counter in counters:
            row = run("SELECT value, load FROM counters WHERE id = ?", (counter,)).fetchone()
            value, load = row or (0, "")
            total += value + 1
            run("INSERT OR REPLACE INTO counters VALUES (?, ?, ?)", (counter, value + 1, load))
        run("INSERT INTO done VALUES (?, ?)", (operation_id, total))
        run("COMMIT")
        return total

    def load(self, counter: str, characters: int) -> None:
        self._connection.execute("INSERT INTO counters VALUES (?, 0, ?)", (counter, "x" * characters))

    def close(self) -> None:
        self._connection.close()
