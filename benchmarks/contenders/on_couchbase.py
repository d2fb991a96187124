"""Those who move money between documents on Couchbase, all with the SDK's sync API and the same durability.

    casops               as its documentation shows it
    transactions         `cluster.transactions.run`, asked again by the caller until it succeeds
    transactions+record  the same, with the idempotency record that a careful user adds to the transaction
    cas loop             read, change, replace by CAS, one document after the other: no guarantee at all
    the limit            the calls of the SDK that casops makes, with none of casops in between

Must not be in here: measuring.
"""

from __future__ import annotations

import importlib
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from typing import Any, Final

from benchmarks.contenders import OPENING
from casops import CasOps, Document, Documents, Operation, Ref
from casops.messages import Stage
from casops.stores.couchbase import THREADS
from casops.stores.couchbase_calls import Call, Calls, answer, send
from casops.stores.couchbase_documents import USUAL_PARTS
from casops.stores.couchbase_places import Place, Settings, path_of, shard_of
from casops.stores.couchbase_specs import add_field, body_from, drop_field
from casops.stores.couchbase_stages import STAGED_BODY, WITHOUT, stage_specs
from casops.stores.couchbase_threads import Threads
from casops.stores.opening import open_store

__all__ = ["NAMES", "Couchbase"]

NAMES: Final = ("casops", "transactions", "transactions+record", "cas loop", "the limit")
SCOPE: Final = "bench"

# Operations whose settling goes out together, as casops does it by default.
TOGETHER: Final = 32

# Tries of a caller whose transaction or loop lost; beyond it the operation is counted as failed.
TRIES: Final = 1_000


class Account(Document, collection="accounts"):
    balance: int


class Move(Operation[int]):
    """From the first account, evenly to all others; one account alone is only rewritten."""

    accounts: list[Ref[Account]]
    amount: int

    def apply(self, documents: Documents) -> int:
        first, *others = (documents[ref] for ref in self.accounts)
        first.balance -= self.amount * len(others)
        for other in others:
            other.balance += self.amount
        return first.balance


class Couchbase:
    """All contenders at one bucket, each with accounts of its own."""

    def __init__(self, url: str, accounts: int) -> None:
        """url: of a bucket, with user and password, as casops takes it; accounts: how many each contender has."""
        user, _, rest = url.removeprefix("couchbase://").partition("@")
        name, _, password = user.partition(":")
        hosts, _, bucket = rest.partition("/")
        self.casops = CasOps(open_store(f"{url}?scope={SCOPE}"), worker="worker")
        sdk, auth, options = (
            importlib.import_module(f"couchbase.{module}") for module in ("cluster", "auth", "options")
        )
        self.errors: Any = importlib.import_module("couchbase.exceptions")
        self._options: Any = options
        levels: Any = importlib.import_module("couchbase.durability")
        self._majority: Any = levels.ServerDurability(levels.Durability.MAJORITY)
        # What casops' own connection leaves out is left out for all: tracing and metering cost as much as a call.
        self.cluster: Any = sdk.Cluster(
            f"couchbase://{hosts}",
            options.ClusterOptions(
                auth.PasswordAuthenticator(name, password),
                tracing_options=options.ClusterTracingOptions(enable_tracing=False),
                enable_metrics=False,
            ),
        )
        self.cluster.wait_until_ready(timedelta(seconds=10))
        self._scope: Any = self.cluster.bucket(bucket).scope(SCOPE)
        self.collection: Any = self._scope.collection("accounts")
        self.transactions_lost = 0
        self._limit = Limit(self._scope)
        keys = [f"{each}-{number}" for each in NAMES for number in range(accounts)]
        with ThreadPoolExecutor(32) as pool:
            list(pool.map(lambda key: self.collection.upsert(key, {"balance": OPENING}), keys))
        self.does: Final[dict[str, Callable[[str, Sequence[str]], None]]] = {
            "casops": self._casops,
            "transactions": lambda id, keys: self._transaction(id, keys, record=False),
            "transactions+record": lambda id, keys: self._transaction(id, keys, record=True),
            "cas loop": self._cas_loop,
            "the limit": self._limit.move,
        }

    def drain(self) -> None:
        """Wait until what comes after the answers is done, too."""
        waiting = threading.Event()
        while self.casops._settler._waiting or self._limit.waiting:
            waiting.wait(0.002)

    def total(self, contender: str, accounts: int) -> int:
        """All money of a contender."""
        if contender == "casops":
            refs = [Account.ref(f"{contender}-{number}") for number in range(accounts)]
            snapshot = self.casops.snapshot(refs)
            return sum(snapshot[ref].balance for ref in refs)
        with ThreadPoolExecutor(32) as pool:
            read = pool.map(lambda number: self.collection.get(f"{contender}-{number}"), range(accounts))
            return sum(int(each.content_as[dict]["balance"]) for each in read)

    def close(self) -> None:
        self.casops.close()
        self._limit.close()
        self.cluster.close()

    def _casops(self, id: str, keys: Sequence[str]) -> None:
        self.casops.run(Move(accounts=list(keys), amount=1), operation_id=id)

    def _transaction(self, id: str, keys: Sequence[str], *, record: bool) -> None:
        def logic(context: Any) -> None:
            if record:
                try:
                    context.get(self.collection, f"record-{id}")
                    return
                except self.errors.DocumentNotFoundException:
                    pass
            read = [context.get(self.collection, key) for key in keys]
            for each, body in zip(read, _moved([each.content_as[dict] for each in read]), strict=True):
                context.replace(each, body)
            if record:
                context.insert(self.collection, f"record-{id}", {"operation": "move", "result": 1})

        for _ in range(TRIES):
            try:
                self.cluster.transactions.run(logic)
                return
            except self.errors.TransactionCommitAmbiguous:
                raise
            except (self.errors.TransactionFailed, self.errors.TransactionExpired):
                self.transactions_lost += 1
        raise RuntimeError("the transaction never succeeded")

    def _cas_loop(self, id: str, keys: Sequence[str]) -> None:
        for number, key in enumerate(keys):
            amount = 1 - len(keys) if number == 0 else 1
            for _ in range(TRIES):
                read = self.collection.get(key)
                body = {"balance": read.content_as[dict]["balance"] + amount}
                options = self._options.ReplaceOptions(cas=read.cas, durability=self._majority)
                try:
                    self.collection.replace(key, body, options)
                    break
                except self.errors.CasMismatchException:
                    continue
            else:
                raise RuntimeError("the loop never succeeded")


def _moved(bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
    first, *others = bodies
    moved = [{"balance": first["balance"] - len(others)}]
    return moved + [{"balance": other["balance"] + 1} for other in others]


class Limit:
    """What casops asks of the SDK for one uncontended operation, from the same builder of calls, and nothing else."""

    def __init__(self, scope: Any) -> None:
        self._settings = Settings(scope=SCOPE)
        self._calls = Calls(self._settings)
        self._collections: dict[str, Any] = {
            name: scope.collection(name) for name in ("accounts", self._settings.records_at[1])
        }
        self._threads = Threads(THREADS, "limit")
        self._after: queue.SimpleQueue[tuple[str, int, dict[str, int]] | None] = queue.SimpleQueue()
        self.waiting = 0
        self._lock = threading.Lock()
        self._settler = threading.Thread(target=self._settle, daemon=True)
        self._settler.start()
        self._errors: Any = importlib.import_module("couchbase.exceptions")

    def move(self, id: str, keys: Sequence[str]) -> None:
        documents = [Place(SCOPE, "accounts", key) for key in keys]
        looked = self._together(
            [
                self._calls.change_fields(self._shard(id), [add_field(path_of(id), _TEXT)]),
                self._calls.get(self._result(id)),
                *(self._calls.look(place, USUAL_PARTS) for place in documents),
            ]
        )
        written = self._together(
            [
                self._calls.insert(self._result(id), _TEXT + " " * 500),
                *(
                    self._calls.mutate_any(place, each.cas, _STAGE)
                    for place, each in zip(documents, looked[2:], strict=True)
                ),
            ]
        )
        for number, place in enumerate(documents, 1):
            while written[number] is None:  # the settler came in between
                again = self._send(self._calls.look(place, USUAL_PARTS))
                written[number] = self._send(self._calls.mutate_any(place, again.cas, _STAGE))
        with self._lock:
            self.waiting += 1
        staged = {key: each.cas for key, each in zip(keys, written[1:], strict=True)}
        self._after.put((id, written[0].cas, staged))

    def close(self) -> None:
        self._after.put(None)
        self._settler.join()
        self._threads.close()

    def _settle(self) -> None:
        closing = False
        while not closing:
            batch = [self._after.get()]
            while len(batch) < TOGETHER and not self._after.empty():
                batch.append(self._after.get())
            closing = None in batch
            ended = [each for each in batch if each is not None]
            try:
                self._settle_together(ended)
            finally:
                with self._lock:
                    self.waiting -= len(ended)

    def _settle_together(self, ended: list[tuple[str, int, dict[str, int]]]) -> None:
        replace, mutate, change = self._calls.replace, self._calls.mutate, self._calls.change_fields
        noticed = self._together([replace(self._result(id), cas, _TEXT + " " * 600) for id, cas, _ in ended])
        moved = (body_from(STAGED_BODY), WITHOUT)
        places = [(Place(SCOPE, "accounts", key), base) for _, _, staged in ended for key, base in staged.items()]
        self._together([mutate(place, base, moved) for place, base in places])
        self._together([change(self._shard(id), [drop_field(path_of(id))]) for id, _, _ in ended])
        results = [(self._result(id), each.cas) for (id, _, _), each in zip(ended, noticed, strict=True)]
        self._together([replace(result, cas, _TEXT + " " * 700) for result, cas in results])

    def _shard(self, id: str) -> Place:
        return self._settings.shard(shard_of(id))

    def _result(self, id: str) -> Place:
        return Place(*self._settings.records_at, f"limit/{id}")

    def _together(self, calls: Sequence[Call]) -> list[Any]:
        return self._threads.together([partial(self._send, call) for call in calls])

    def _send(self, call: Call) -> Any:
        try:
            return answer(call, send(self._collections[call.place.collection], call))
        except (self._errors.DocumentNotFoundException, self._errors.CasMismatchException):
            return None


_TEXT: Final = '{"v":1,"operation":"Move","fingerprint":"' + "f" * 64 + '"}'
_STAGE: Final = stage_specs(Stage(_TEXT, '{"balance":1000000}'))
