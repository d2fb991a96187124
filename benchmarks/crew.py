"""Some processes of one contender, each with some threads, that work a slot whenever they are told to.

Every answer is checked: a duplicate must get the first answer, and in the end no money may have come or gone.

Must not be in here: what is compared with what.
"""

from __future__ import annotations

import multiprocessing
import random
import threading
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, cast

from benchmarks.contenders import ACCOUNTS, OPENING, Contender, opener
from benchmarks.measuring import Slot

__all__ = ["Crew"]

# Seconds until a process that does not answer is taken for dead: far beyond any slot.
PATIENCE: Final = 300.0


@dataclass(frozen=True, slots=True)
class Order:
    """Work for so many seconds with so many threads; `again`: ask again what was asked in the last slot."""

    seconds: float
    threads: int
    again: bool = False
    hot: bool = False  # all from and to account 0


Call = tuple[str, str, str, int]


@dataclass(slots=True)
class _Bench:
    """One thread's place: what it asks, and what it was answered."""

    name: str
    chance: random.Random
    number: int = 0
    asked: list[tuple[Call, int]] = field(default_factory=list["tuple[Call, int]"])

    def new(self, hot: bool) -> Call:
        self.number += 1
        source, target = (f"a{number}" for number in self.chance.sample(range(ACCOUNTS), 2))
        return f"{self.name}-{self.number}", "a0" if hot and source != "a0" and target != "a0" else source, target, 1


class Crew:
    """The processes of one contender; a context manager."""

    def __init__(self, name: str, folder: Path, processes: int) -> None:
        self.name = name
        self._folder = folder
        context = multiprocessing.get_context("spawn")
        self._members: list[tuple[Any, Connection]] = []
        for number in range(processes):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(name, str(folder), number, there), daemon=True)
            process.start()
            there.close()
            self._members.append((process, here))
            self._hear(here)  # the first one makes the bank

    def work(self, order: Order) -> Slot:
        """All processes at once.  Raises RuntimeError if one of them failed."""
        begun = time.perf_counter()
        for _, member in self._members:
            member.send(order)
        latencies = [latency for _, member in self._members for latency in cast("list[float]", self._hear(member))]
        return Slot(latencies, time.perf_counter() - begun)

    def check(self) -> None:
        """Raises RuntimeError if money came or went."""
        self._members[0][1].send("balances")
        balances = cast("dict[str, int]", self._hear(self._members[0][1]))
        if sum(balances.values()) != ACCOUNTS * OPENING or len(balances) != ACCOUNTS:
            raise RuntimeError(f"{self.name}: the books are wrong: {sum(balances.values())}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process, member in self._members:
            if kind is None:
                member.send(None)
                process.join(PATIENCE)
            process.terminate()
            process.join()
            member.close()

    def _hear(self, member: Connection) -> object:
        if not member.poll(PATIENCE):
            raise RuntimeError(f"{self.name}: a process does not answer")
        try:
            answer: object = member.recv()
        except EOFError:
            raise RuntimeError(f"{self.name}: a process has ended") from None
        if isinstance(answer, Exception):
            raise RuntimeError(f"{self.name}: {answer}")
        return answer


def _serve(name: str, folder: str, number: int, orders: Connection) -> None:
    try:
        contender = opener(name)(Path(folder), number == 0)
        benches: dict[int, _Bench] = {}
        orders.send("ready")
        while (order := orders.recv()) is not None:
            if isinstance(order, Order):
                orders.send(_slot(contender, order, number, benches))
            else:
                orders.send(contender.balances())
        contender.close()
    except Exception as error:  # noqa: BLE001 - told to whoever gave the order
        orders.send(RuntimeError(f"{type(error).__name__}: {error}"))


def _slot(contender: Contender, order: Order, process: int, benches: dict[int, _Bench]) -> list[float]:
    latencies: list[list[float]] = []
    errors: list[BaseException] = []
    end = time.perf_counter() + order.seconds

    def work(bench: _Bench, mine: list[float]) -> None:
        try:
            (_ask_again if order.again else _ask)(contender, bench, mine, end, order.hot)
        except Exception as error:  # noqa: BLE001 - raised where the threads are joined
            errors.append(error)

    threads: list[threading.Thread] = []
    for number in range(order.threads):
        bench = benches.setdefault(number, _Bench(f"{process}-{number}", random.Random(1_000 * process + number)))
        latencies.append([])
        threads.append(threading.Thread(target=work, args=(bench, latencies[-1])))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return [latency for each in latencies for latency in each]


def _ask(contender: Contender, bench: _Bench, latencies: list[float], end: float, hot: bool) -> None:
    bench.asked.clear()
    while True:
        call = bench.new(hot)
        begun = time.perf_counter()
        answer = contender.transfer(*call)
        now = time.perf_counter()
        latencies.append(now - begun)
        bench.asked.append((call, answer))
        if now >= end:
            return


def _ask_again(contender: Contender, bench: _Bench, latencies: list[float], end: float, hot: bool) -> None:
    while True:
        for call, answer in bench.asked:
            begun = time.perf_counter()
            again = contender.transfer(*call)
            now = time.perf_counter()
            latencies.append(now - begun)
            if again != answer:
                raise AssertionError(f"the second answer to {call} was {again}, the first was {answer}")
            if now >= end:
                return
