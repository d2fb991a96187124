"""Memory of one process over many operations: it must not grow with them.

Must not be in here: tables and pictures.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.contenders import ACCOUNTS
from benchmarks.contenders.by_casops import CasopsBank

__all__ = ["measure"]

# Enough for the group commit to make a long run bearable.
THREADS: Final = 16


def measure(folder: Path, *, marks: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Resident memory in KiB after so many operations, half of which were asked twice; all there is at each mark."""
    folder.mkdir(parents=True)
    bank = CasopsBank(folder, create=True)
    points: dict[str, Any] = {}
    done = 0
    for mark in marks:
        _run(bank, done, mark)
        done = mark
        points[str(mark)] = {"resident_kib": _resident()}
        yield points
    bank.close()


def _run(bank: CasopsBank, first: int, last: int) -> None:
    errors: list[Exception] = []

    def work(number: int) -> None:
        try:
            for each in range(first + number, last, THREADS):
                call = (f"op-{each}", f"a{each % ACCOUNTS}", f"a{(each + 1) % ACCOUNTS}", 1)
                answer = bank.transfer(*call)
                if each % 2 and bank.transfer(*call) != answer:
                    raise AssertionError(f"two answers to {call}")
        except Exception as error:  # noqa: BLE001 - raised where the threads are joined
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def _resident() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise RuntimeError("no VmRSS in /proc/self/status")
