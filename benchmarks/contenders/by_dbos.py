"""DBOS on the same kind of file: one workflow with one transactional step, as its documentation shows it.

DBOS leaves SQLite's settings alone: a rollback journal, `synchronous=FULL`.  With `log` the file is put into
WAL mode before DBOS opens it, which suits it better.

Must not be in here: anything that makes it slower than its users have it.
"""

from __future__ import annotations

import importlib
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.contenders import ACCOUNTS, OPENING


class DbosBank:
    """The one DBOS of a process."""

    def __init__(self, folder: Path, create: bool, *, log: bool) -> None:
        dbos: Any = importlib.import_module("dbos")
        sql: Any = importlib.import_module("sqlalchemy")
        self._path = folder / ("dbos-wal.db" if log else "dbos.db")
        if create:
            self._create(log)
        url = f"sqlite:///{self._path}"
        self._set_id: Any = dbos.SetWorkflowID
        self._dbos: Any = dbos.DBOS
        self._dbos(config={"name": "bank", "system_database_url": url, "log_level": "ERROR"})
        datasource: Any = dbos.SQLAlchemyDatasource.create(database_url=url)
        self.engines: list[Any] = [datasource.engine]  # for counting
        balance = sql.text("SELECT balance FROM accounts WHERE id = :id")
        less = sql.text("UPDATE accounts SET balance = balance - :amount WHERE id = :id")
        more = sql.text("UPDATE accounts SET balance = balance + :amount WHERE id = :id")

        def move(source: str, target: str, amount: int) -> int:
            session = datasource.sql_session()
            have = int(session.execute(balance, {"id": source}).scalar_one())
            if have < amount:
                raise ValueError("insufficient funds")
            session.execute(less, {"id": source, "amount": amount})
            session.execute(more, {"id": target, "amount": amount})
            return have - amount

        def transfer(source: str, target: str, amount: int) -> Any:
            return datasource.run_tx_step({"name": "move"}, move, source, target, amount)

        self._transfer: Any = self._dbos.workflow(name="transfer")(transfer)
        self._dbos.launch()

    def transfer(self, operation_id: str, source: str, target: str, amount: int) -> int:
        with self._set_id(operation_id):
            return int(self._transfer(source, target, amount))

    def balances(self) -> dict[str, int]:
        with closing(sqlite3.connect(self._path)) as connection:
            return dict(connection.execute("SELECT id, balance FROM accounts").fetchall())

    def close(self) -> None:
        self._dbos.destroy()

    def _create(self, log: bool) -> None:
        with closing(sqlite3.connect(self._path, isolation_level=None)) as connection:
            if log:
                connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("CREATE TABLE accounts (id TEXT PRIMARY KEY, balance INTEGER NOT NULL)")
            connection.execute("BEGIN")
            for number in range(ACCOUNTS):
                connection.execute("INSERT INTO accounts VALUES (?, ?)", (f"a{number}", OPENING))
            connection.execute("COMMIT")
