"""Those who are measured: each moves money between accounts in a SQLite file, exactly once for an id.

All sync every commit to the disk (`synchronous=FULL`) before they answer.

Must not be in here: measuring.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

__all__ = ["ACCOUNTS", "NAMES", "OPENING", "Contender", "opener"]

# Accounts of a bank, and what each has to begin with: few enough to be in memory, many enough not to be hot.
ACCOUNTS: Final = 100
OPENING: Final = 1_000_000


class Contender(Protocol):
    """One process at a file.  Any number of threads may call it."""

    def transfer(self, operation_id: str, source: str, target: str, amount: int) -> int:
        """What is left in the source.  The same id again: the same answer, and nothing moves."""
        ...

    def balances(self) -> dict[str, int]: ...

    def close(self) -> None: ...


def _casops(folder: Path, create: bool) -> Contender:
    from benchmarks.contenders.by_casops import CasopsBank

    return CasopsBank(folder, create)


def _plain(folder: Path, create: bool) -> Contender:
    from benchmarks.contenders.by_hand import PlainBank

    return PlainBank(folder, create)


def _dbos(folder: Path, create: bool) -> Contender:
    from benchmarks.contenders.by_dbos import DbosBank

    return DbosBank(folder, create, log=False)


def _dbos_log(folder: Path, create: bool) -> Contender:
    from benchmarks.contenders.by_dbos import DbosBank

    return DbosBank(folder, create, log=True)


# Imported only in the process that needs it: nobody's threads and imports are in another's way.
_OPENERS: Final[dict[str, Callable[[Path, bool], Contender]]] = {
    "casops": _casops,
    "plain": _plain,
    "dbos": _dbos,
    "dbos-wal": _dbos_log,
}
NAMES: Final = tuple(_OPENERS)


def opener(name: str) -> Callable[[Path, bool], Contender]:
    """How to open a contender: its folder, and whether the bank is to be created there."""
    return _OPENERS[name]
