"""What cannot be disturbed by noise: how often the store is asked, and how much is written.

On a store that is asked batch by batch (as over a network): sequential steps, requests and
bytes of text to the answer, and after it.
On a file: statements, and transactions; each that writes is one sync.

`counts.json` holds what it was when it was last looked at; more than that fails, less is to be written down.

Must not be in here: clocks.
"""

from __future__ import annotations

import importlib
import json
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks.contenders.by_casops import Account, OpenAccount, Transfer
from benchmarks.contenders.counting import Add
from casops import CasOps, Declined, Operation, Options
from casops.engine import Engine
from casops.messages import Clock, FreshId, Insert, ReadClock, Replace, Steps, StoreRequest
from casops.stores.memory import MemoryStore
from casops.stores.sqlite import SqliteStore

__all__ = ["CHECKED_IN", "count", "count_dbos", "risen"]

CHECKED_IN: Final = Path(__file__).parent / "counts.json"
START: Final = 1_750_000_000.0  # seconds since 1970; a clock that stands, so that every time has the same length
NEW: Final[list[tuple[str, Operation[Any]]]] = [
    ("transfer", Transfer(source="a0", target="a1", amount=1)),
    ("refused transfer", Transfer(source="a0", target="a1", amount=10_000)),
    *(
        (f"{number} documents", Add(counters=[f"c{each:02}" for each in range(number)], amount=1))
        for number in (1, 16, 64)
    ),
]

Counts = dict[str, dict[str, int]]


def count(folder: Path) -> dict[str, Counts]:
    """All counts of casops."""
    folder.mkdir(parents=True)
    return {"batch by batch": _batch_by_batch(), "on a file": _on_a_file(folder)}


def risen(now: dict[str, Counts], before: dict[str, Counts]) -> list[str]:
    """Sentences on all that is more than it was, or is gone or new."""
    flat_now, flat_before = _flat(now), _flat(before)
    told = [
        f"{name} was {flat_before[name]}, is {flat_now[name]}"
        for name in flat_now.keys() & flat_before.keys()
        if flat_now[name] > flat_before[name]
    ]
    return sorted(told + [f"{name} is not in both" for name in flat_now.keys() ^ flat_before.keys()])


def _flat(counts: dict[str, Counts]) -> dict[str, int]:
    return {
        f"{where}, {case}: {what}": number
        for where, cases in counts.items()
        for case, values in cases.items()
        for what, number in values.items()
    }


# --- batch by batch ---------------------------------------------------------------------------------


def _batch_by_batch() -> Counts:
    store, engine = MemoryStore(clock=lambda: START), Engine(Options(), [], "worker")
    told = Counter[str]()
    for number in range(2):
        _execute(store, engine, OpenAccount(account=f"a{number}", balance=100), f"open-{number}", told)
    counts: Counts = {}
    for case, operation in NEW:
        for again in ("", ", asked again"):
            told = Counter[str]()
            _execute(store, engine, operation, f"id-{case}", told)
            counts[case + again] = dict(told)
    return counts


def _execute(store: MemoryStore, engine: Engine, operation: Operation[Any], id: str, told: Counter[str]) -> None:
    work = engine.work(operation, id)
    _, ended = _drive(engine.execute(work, id), store, told, "to the answer")
    if not ended.put_away:
        _drive(engine.settle(ended), store, told, "afterwards")


def _drive(steps: Steps[Any], store: MemoryStore, told: Counter[str], when: str) -> Any:
    reply: Any = None
    ids = 0
    while True:
        try:
            request = steps.send(reply)
        except StopIteration as stop:
            return stop.value
        if isinstance(request, tuple):
            told[f"steps {when}"] += 1
            told[f"requests {when}"] += len(request)
            told[f"bytes {when}"] += sum(_bytes(each) for each in request)
            reply = store.perform(request)
        elif isinstance(request, ReadClock):
            reply = Clock(0.0, START)
        elif isinstance(request, FreshId):
            ids += 1
            reply = f"{ids:032}"
        else:
            raise AssertionError(f"nobody is there to wait for: {request}")


def _bytes(request: StoreRequest) -> int:
    """Of the texts a request brings to the store."""
    if not isinstance(request, Insert | Replace):
        return 0
    stage = request.stage
    texts = (request.body if isinstance(request.body, str) else "", *((stage.meta, stage.body) if stage else ()))
    return sum(len((text or "").encode()) for text in texts)


# --- on a file ----------------------------------------------------------------------------------------


def _on_a_file(folder: Path) -> Counts:
    store = SqliteStore(folder / "counts.db")
    counts: Counts = {}
    with CasOps(store, worker="worker") as casops:
        for number in range(2):
            casops.run(OpenAccount(account=f"a{number}", balance=100), operation_id=f"open-{number}")
        for case, operation in NEW:
            for again in ("", ", asked again"):
                counts[case + again] = _statements(store, partial(_ask, casops, operation, f"id-{case}"))
        assert casops.read(Account.ref("a0")) == Account(balance=99)
    return counts


def _ask(casops: CasOps, operation: Operation[Any], id: str) -> None:
    with suppress(Declined):  # an answer like any other
        casops.run(operation, operation_id=id)


def _statements(store: SqliteStore, call: Callable[[], None]) -> dict[str, int]:
    statements: list[str] = []
    connections = [connection for connection in (store._connection, store._reader) if connection is not None]
    for connection in connections:
        connection.set_trace_callback(statements.append)
    call()
    for connection in connections:
        connection.set_trace_callback(None)
    return {
        "statements": len(statements),
        "transactions that only read": statements.count("BEGIN"),
        "transactions that write": statements.count("BEGIN IMMEDIATE"),
    }


# --- DBOS, to compare with ------------------------------------------------------------------------------


def count_dbos(folder: Path, calls: int = 15) -> Counts:
    """One transfer with DBOS, for the table only: it also works in the background, so the median of many is taken."""
    from benchmarks.contenders.by_dbos import DbosBank

    sql: Any = importlib.import_module("sqlalchemy")
    folder.mkdir(parents=True)
    bank = DbosBank(folder, create=True, log=True)
    told = Counter[str]()
    writing: set[int] = set()

    def executed(connection: Any, cursor: object, statement: str, *_: object) -> None:
        told["statements"] += 1
        if not statement.lstrip().upper().startswith(("SELECT", "PRAGMA")):
            writing.add(id(connection))

    def committed(connection: Any) -> None:
        if id(connection) in writing:
            writing.discard(id(connection))
            told["transactions that write"] += 1
        else:
            told["transactions that only read"] += 1

    sql.event.listen(sql.Engine, "before_cursor_execute", executed)
    sql.event.listen(sql.Engine, "commit", committed)
    samples: dict[str, list[Counter[str]]] = {"transfer": [], "transfer, asked again": []}
    for number in range(calls):
        for case in samples:
            told.clear()
            bank.transfer(f"op-{number}", "a0", "a1", 1)
            samples[case].append(Counter(told))
    bank.close()
    names = ("statements", "transactions that only read", "transactions that write")
    return {
        case: {name: sorted(each[name] for each in taken)[len(taken) // 2] for name in names}
        for case, taken in samples.items()
    }


def checked_in() -> dict[str, Counts]:
    """What it was when it was last looked at."""
    loaded: dict[str, Counts] = json.loads(CHECKED_IN.read_text())
    return loaded
