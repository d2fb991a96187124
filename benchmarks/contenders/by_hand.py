"""The limit: one plain transaction with an idempotency table, in the sqlite3 module, columns instead of documents.

It knows nothing of documents, models, validation, histories, retention; whoever can do with it should take it.

Must not be in here: anything that makes it slower than it has to be.
"""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

from benchmarks.contenders import ACCOUNTS, OPENING

TABLES = """
    CREATE TABLE IF NOT EXISTS accounts (id TEXT PRIMARY KEY, balance INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS done (id TEXT PRIMARY KEY, arguments TEXT NOT NULL, result INTEGER NOT NULL);
"""


class PlainBank:
    """One connection; the threads of a process take turns, as SQLite would make them."""

    def __init__(self, folder: Path, create: bool) -> None:
        self._connection = sqlite3.connect(
            folder / "plain.db", isolation_level=None, timeout=60, check_same_thread=False
        )
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._lock = threading.Lock()
        if create:
            self._connection.executescript(TABLES)
            self._connection.execute("BEGIN")
            for number in range(ACCOUNTS):
                self._connection.execute("INSERT INTO accounts VALUES (?, ?)", (f"a{number}", OPENING))
            self._connection.execute("COMMIT")

    def transfer(self, operation_id: str, source: str, target: str, amount: int) -> int:
        arguments = f"{source},{target},{amount}"
        with self._lock:
            run = self._connection.execute
            answered = self._answered(operation_id, arguments)  # reading needs no lock
            if answered is not None:
                return answered
            run("BEGIN IMMEDIATE")
            try:
                answered = self._answered(operation_id, arguments)
                if answered is not None:
                    run("ROLLBACK")
                    return answered
                (have,) = run("SELECT balance FROM accounts WHERE id = ?", (source,)).fetchone()
                if have < amount:
                    raise ValueError("insufficient funds")
                run("UPDATE accounts SET balance = balance - ? WHERE id = ?", (amount, source))
                run("UPDATE accounts SET balance = balance + ? WHERE id = ?", (amount, target))
                run("INSERT INTO done VALUES (?, ?, ?)", (operation_id, arguments, have - amount))
                run("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    run("ROLLBACK")
                raise
            return int(have - amount)

    def balances(self) -> dict[str, int]:
        with self._lock:
            return dict(self._connection.execute("SELECT id, balance FROM accounts").fetchall())

    def close(self) -> None:
        self._connection.close()

    def _answered(self, operation_id: str, arguments: str) -> int | None:
        row = self._connection.execute("SELECT arguments, result FROM done WHERE id = ?", (operation_id,)).fetchone()
        if row is None:
            return None
        if row[0] != arguments:
            raise ValueError("this id belongs to other arguments")
        return int(row[1])
