"""One document and the idempotency utility of Powertools for AWS Lambda, on a SQLite file.

Powertools brings no persistence layer for SQLite, so this is one of ours, written as its DynamoDB layer is: a
conditional put before the function, an update after it.  The function itself is one plain transaction.  Three
commits, and not atomic: a crash between the second and the third leaves the document changed and the record
"in progress".

Must not be in here: anything that makes it slower than it has to be.
"""

from __future__ import annotations

import importlib
import sqlite3
import time
from pathlib import Path
from typing import Any

SCHEMA = """
    CREATE TABLE IF NOT EXISTS counters (id TEXT PRIMARY KEY, value INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS idempotency (
        id TEXT PRIMARY KEY, status TEXT NOT NULL, expiry INTEGER NOT NULL, in_progress_expiry INTEGER,
        response TEXT, payload TEXT
    );
"""
PUT = """
    INSERT INTO idempotency (id, status, expiry, in_progress_expiry, payload) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (id) DO UPDATE SET
        status = excluded.status, expiry = excluded.expiry, in_progress_expiry = excluded.in_progress_expiry,
        payload = excluded.payload
    WHERE expiry < ? OR (status = 'INPROGRESS' AND in_progress_expiry < ?)
"""


class Context:
    """What Powertools asks of a Lambda context."""

    def get_remaining_time_in_millis(self) -> int:
        return 30_000


class PowertoolsCounter:
    """Adds to a counter, once for an id."""

    def __init__(self, folder: Path) -> None:
        path = folder / "powertools.db"
        self._connection = sqlite3.connect(path, isolation_level=None, timeout=60, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.executescript(SCHEMA)
        idempotency: Any = importlib.import_module("aws_lambda_powertools.utilities.idempotency")
        config = idempotency.IdempotencyConfig(
            event_key_jmespath="id", payload_validation_jmespath="amount", expires_after_seconds=30 * 86_400
        )
        config.register_lambda_context(Context())

        def add(order: dict[str, Any]) -> dict[str, Any]:
            return {"value": self._add(order["counter"], order["amount"])}

        self._run: Any = idempotency.idempotent_function(
            add, data_keyword_argument="order", persistence_store=layer(self._connection), config=config
        )

    def add(self, operation_id: str, counter: str, amount: int) -> int:
        return int(self._run(order={"id": operation_id, "counter": counter, "amount": amount})["value"])

    def close(self) -> None:
        self._connection.close()

    def _add(self, counter: str, amount: int) -> int:
        run = self._connection.execute
        run("BEGIN IMMEDIATE")
        (value,) = run(
            """INSERT INTO counters VALUES (?, ?)
            ON CONFLICT (id) DO UPDATE SET value = value + excluded.value RETURNING value""",
            (counter, amount),
        ).fetchone()
        run("COMMIT")
        return int(value)


def layer(connection: sqlite3.Connection) -> Any:
    """A persistence layer of Powertools over this connection."""
    persistence: Any = importlib.import_module("aws_lambda_powertools.utilities.idempotency.persistence.base")
    records: Any = importlib.import_module("aws_lambda_powertools.utilities.idempotency.persistence.datarecord")
    errors: Any = importlib.import_module("aws_lambda_powertools.utilities.idempotency.exceptions")

    class Layer(persistence.BasePersistenceLayer):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()

        def _get_record(self, idempotency_key: str) -> Any:
            row = connection.execute(
                "SELECT id, status, expiry, in_progress_expiry, response, payload FROM idempotency WHERE id = ?",
                (idempotency_key,),
            ).fetchone()
            if row is None:
                raise errors.IdempotencyItemNotFoundError
            return records.DataRecord(
                idempotency_key=row[0],
                status=row[1],
                expiry_timestamp=row[2],
                in_progress_expiry_timestamp=row[3],
                response_data=row[4],
                payload_hash=row[5],
            )

        def _put_record(self, data_record: Any) -> None:
            now = time.time()
            written = connection.execute(
                PUT,
                (
                    data_record.idempotency_key,
                    data_record.status,
                    data_record.expiry_timestamp,
                    data_record.in_progress_expiry_timestamp,
                    data_record.payload_hash,
                    int(now),
                    int(now * 1000),
                ),
            )
            if written.rowcount != 1:
                standing = self._get_record(data_record.idempotency_key)
                self._validate_payload(data_payload=data_record, stored_data_record=standing)
                raise errors.IdempotencyItemAlreadyExistsError(old_data_record=standing)

        def _update_record(self, data_record: Any) -> None:
            connection.execute(
                "UPDATE idempotency SET response = ?, expiry = ?, status = ?, payload = ? WHERE id = ?",
                (
                    data_record.response_data,
                    data_record.expiry_timestamp,
                    data_record.status,
                    data_record.payload_hash,
                    data_record.idempotency_key,
                ),
            )

        def _delete_record(self, data_record: Any) -> None:
            connection.execute("DELETE FROM idempotency WHERE id = ?", (data_record.idempotency_key,))

    return Layer()
