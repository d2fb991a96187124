"""A connection of a SQLite store some of whose commits fail.  Must not be in here: tests."""

from __future__ import annotations

import sqlite3
from typing import Any


class Failing:
    """A connection some of whose commits of writes fail, before or after SQLite has carried them out.

    after: so many succeed; times: so many fail then.
    """

    def __init__(self, connection: Any, code: int, *, done: bool = False, after: int = 0, times: int = 1) -> None:
        self._connection, self._code, self._done, self._after, self._times = connection, code, done, after, times
        self._writing = True  # it may be in the middle of one

    def execute(self, sql: str, *arguments: Any) -> Any:
        if sql.startswith("BEGIN"):
            self._writing = sql == "BEGIN IMMEDIATE"
        if sql == "COMMIT" and self._writing:
            if self._after:
                self._after -= 1
            elif self._times:
                self._fail(sql)
        return self._connection.execute(sql, *arguments)

    def _fail(self, sql: str) -> None:
        self._times -= 1
        if self._done:
            self._connection.execute(sql)
        error = sqlite3.OperationalError("seeded")
        error.sqlite_errorcode, error.sqlite_errorname = self._code, "SEEDED"
        raise error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)
