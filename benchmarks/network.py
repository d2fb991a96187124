"""Operations on Couchbase, with a delay per message, beside the SDK's transactions and others.

The server is the test double in a process of its own unless a URL is given; absolute times of the double mean little.
One process calls; in every round each contender has a slot, in an order that rotates, and a slot
ends when what comes after the answers is done, too.

Must not be in here: tables and pictures.
"""

from __future__ import annotations

import random
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.contenders import OPENING
from benchmarks.contenders.on_couchbase import NAMES, SCOPE, Couchbase
from benchmarks.measuring import Slot, ratios, summary
from benchmarks.proxy import Proxy
from casops.stores.opening import open_store
from casops.testing import couchbase_server

__all__ = ["CASES", "SHORT", "Case", "measure"]

# Of each contender.  Each of 64 callers has a hundred to itself, where they are not to contend; the hot one is apart.
ACCOUNTS: Final = 6_401


@dataclass(frozen=True, slots=True)
class Case:
    """One point of the comparison."""

    documents: int
    callers: int
    delay: float  # milliseconds of each message, each way
    hot: bool = False  # all from the same account

    def __str__(self) -> str:
        documents = "1 document" if self.documents == 1 else f"{self.documents} documents"
        callers = "1 caller" if self.callers == 1 else f"{self.callers} callers"
        return f"{documents}, {callers}{', one hot account' if self.hot else ''}, {self.delay:g} ms"


CASES: Final = (
    Case(1, 1, 0),
    Case(2, 1, 0),
    Case(4, 1, 0),
    Case(16, 1, 0),
    Case(2, 16, 0),
    Case(2, 64, 0),
    Case(2, 16, 0, hot=True),
    Case(1, 1, 1),
    Case(2, 1, 1),
    Case(4, 1, 1),
    Case(16, 1, 1),
    Case(2, 16, 1),
    Case(2, 64, 1),
    Case(2, 16, 1, hot=True),
    Case(2, 1, 5),
    Case(2, 64, 5),
    Case(2, 16, 5, hot=True),
)
SHORT: Final = (Case(2, 1, 0), Case(2, 4, 1, hot=True))


def measure(
    url: str | None, *, rounds: int, seconds: float, cases: Sequence[Case] = CASES, accounts: int = ACCOUNTS
) -> Iterator[dict[str, Any]]:
    """All there is, after each case.  seconds: of one slot.  url: as for casops, one node; None: the double."""
    told: dict[str, Any] = {}
    for delay in sorted({case.delay for case in cases}):
        with _bank(url, delay, accounts) as bank:
            for case in cases:
                if case.delay == delay:
                    told[str(case)] = _case(bank, case, rounds, seconds, accounts)
                    yield told
            for name in NAMES:
                if name != "the limit" and (total := bank.total(name, accounts)) != accounts * OPENING:
                    raise RuntimeError(f"{name}: the books are wrong: {total}, not {accounts * OPENING}")


@contextmanager
def _bank(url: str | None, delay: float, accounts: int) -> Iterator[Couchbase]:
    with ExitStack() as stack:
        if url is None:
            server = stack.enter_context(couchbase_server.CouchbaseProcess(scopes={SCOPE: ["accounts"]}))
            url = server.url
        open_store(f"{url}?scope={SCOPE}&create=accounts").close()  # the proxy leads to the data service only
        before, _, rest = url.rpartition("@")
        place, _, bucket = rest.partition("/")
        proxy = stack.enter_context(Proxy(place if ":" in place else f"{place}:11210", delay))
        bank = Couchbase(f"{before}@127.0.0.1:{proxy.port}/{bucket}", accounts)
        stack.callback(bank.close)
        yield bank


def _case(bank: Couchbase, case: Case, rounds: int, seconds: float, accounts: int) -> dict[str, Any]:
    names = [name for name in NAMES if name != "the limit" or not case.hot]
    slots: dict[str, list[Slot]] = {name: [] for name in names}
    failed = dict.fromkeys(names, 0)
    run = secrets.token_hex(4)  # a server of somebody's own may remember the ids of an earlier run
    for name in names:
        _slot(bank, case, name, seconds / 4, accounts, f"{run}-{case}-warm")
    for number in range(rounds):
        for each in range(len(names)):
            name = names[(each + number) % len(names)]
            slot, lost = _slot(bank, case, name, seconds, accounts, f"{run}-{case}-{number}")
            slots[name].append(slot)
            failed[name] += lost
    return {
        "new": {
            "contenders": {name: {**summary(slots[name]), "failed": failed[name]} for name in names},
            "casops_to": ratios(slots),
        }
    }


def _slot(bank: Couchbase, case: Case, name: str, seconds: float, accounts: int, tag: str) -> tuple[Slot, int]:
    latencies: list[float] = []
    errors: list[Exception] = []
    begun = time.perf_counter()

    def work(caller: int) -> None:
        chance = random.Random(f"{tag}-{caller}")
        own = range(1, accounts) if case.hot else range(1 + caller, accounts, case.callers)
        number = 0
        while not number or time.perf_counter() < begun + seconds:
            number += 1
            chosen = chance.sample(own, case.documents)
            if case.hot:
                chosen[0] = 0
            before = time.perf_counter()
            try:
                bank.does[name](f"{tag}-{caller}-{number}".replace(" ", "_"), [f"{name}-{each}" for each in chosen])
                latencies.append(time.perf_counter() - before)
            except Exception as error:  # noqa: BLE001 - counted
                errors.append(error)

    threads = [threading.Thread(target=work, args=(caller,)) for caller in range(case.callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    bank.drain()
    if not latencies:
        raise RuntimeError(f"{name}: nothing succeeded ({case}): {errors[0]}") from errors[0]
    return Slot(latencies, time.perf_counter() - begun), len(errors)
