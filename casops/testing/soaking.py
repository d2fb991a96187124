"""The soak: real processes on a real store, killed with SIGKILL, asked for everything twice.

    python -m casops.testing soak --minutes 60 --store sqlite:///soak.db

A soak is a chain of rounds.  In each, some worker processes are asked for some dozens of operations on a few hot
purses, many of them by several workers at once, while the parent kills workers at random moments and starts
others.  Each worker writes down what it asked and heard, with the time of the machine's monotonic clock
(one clock for all processes), in a file of its own.  After the round a fresh worker finishes what was left,
and the checkers judge the files and the documents, as they do for the simulator.

The seed decides operations, askers and moments of killing; the scheduling of processes it cannot decide.

Must not be in here: rules; checks (checkers.py).
"""

from __future__ import annotations

import json
import random
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from casops.errors import CasOpsError, StoreUnavailable
from casops.front import CasOps
from casops.operations import Operation
from casops.options import Options
from casops.outcome import Outcome
from casops.stores import Store
from casops.stores.opening import open_store
from casops.testing.checkers import Heard, Violation, check_serial
from casops.testing.programs import OPERATIONS, Burn, Move, Purse, Put, answer_of, model_of, reading_model

# Impatient, so that much is taken over, also from live workers.
OPTIONS = Options(patience=0.02, poll=0.001, grace=0.0, deadline=20.0)
PURSES = ("hot", "warm", "p2", "p3", "p4")

# Operations of a round: enough for every kind of meeting, few enough for a serial order to be found.
ROUND = 40

# Seconds a round may take before it counts as hanging (a worker's deadline is 20).
HANGING = 120.0

# Rounds on one file: the file stays small enough to be looked at when something is wrong.
ROUNDS_OF_A_FILE = 200

# Tries of a worker to open its store: a soak opens it some hundred times, and on a cluster that misbehaves on purpose
# one of them is doubtful as often as opening itself tries.
OPENINGS = 5


@dataclass
class Tally:
    """What a soak did."""

    rounds: int = 0
    operations: int = 0
    asked: int = 0
    kills: int = 0
    replayed: int = 0
    taken_over: int = 0
    declined: int = 0
    unknown: int = 0
    seconds: float = 0.0
    violations: list[str] = field(default_factory=list[str])


def operations_of(seed: int, number: int) -> dict[str, Operation[Any]]:
    """The operations of a round: the same for every process that knows its seed and number."""
    chance = random.Random(f"{seed}/{number}")
    operations: dict[str, Operation[Any]] = {}
    for each in range(ROUND):
        name, other = chance.choice(PURSES), chance.choice(PURSES)
        if chance.random() < 0.4:
            name = "hot"
        kind = chance.random()
        operation: Operation[Any]
        if kind < 0.7:
            operation = Move(source=name, target=other, coins=chance.choice((1, 3, 50)))
        elif kind < 0.97:
            operation = Put(purse=name, coins=chance.choice((1, 20)))
        else:
            operation = Burn(purse=name)
        operations[f"s{seed}-r{number}-{each}"] = operation
    return operations


# --- a worker ---------------------------------------------------------------------------------


def work(store: str, seed: int, name: str, history: str) -> int:
    """A worker process: it is told the numbers of rounds on its standard input and says when it is through."""
    # One write for each line, so that what is written survives SIGKILL.
    opened = _opened(store)
    # Every other worker can be killed between its batches also where the store could have them as one transaction.
    front = CasOps(
        BatchByBatch(opened) if int(name[1:]) % 2 else opened, options=OPTIONS, operations=OPERATIONS, worker=name
    )
    with (
        front as casops,
        open(history, "ab", 0) as log,
    ):

        def note(**line: Any) -> None:
            log.write(json.dumps({"at": time.monotonic_ns(), "worker": name, **line}).encode() + b"\n")

        for told in sys.stdin:
            number = int(told)
            chance = random.Random(f"{seed}/{number}/{name}")
            operations = list(operations_of(seed, number).items())
            chance.shuffle(operations)
            for operation_id, operation in operations[: ROUND * 2 // 3]:
                _ask(casops, operation_id, operation, note)
                if chance.random() < 0.05:
                    _read(casops, f"{name}/{time.monotonic_ns()}", chance, note)
            sys.stdout.write(f"{number}\n")
            sys.stdout.flush()
    return 0


def _opened(store: str) -> Store:
    """A cluster that misbehaves may do so while it is looked at, too; a program would be started again."""
    for _ in range(OPENINGS - 1):
        with suppress(StoreUnavailable):
            return open_store(store)
    return open_store(store)


class BatchByBatch:
    """A store without `converse`."""

    def __init__(self, store: Store) -> None:
        self.perform = store.perform
        self.close = store.close


def _ask(casops: CasOps, operation_id: str, operation: Operation[Any], note: Callable[..., None]) -> None:
    note(asks=operation_id)
    try:
        outcome = casops.execute(operation, operation_id=operation_id)
    except CasOpsError as error:
        note(fails=operation_id, error=type(error).__name__, retry=error.retry)
        return
    note(hears=operation_id, answer=answer_of(outcome), replayed=outcome.replayed, taken_over=outcome.taken_over)


def _read(casops: CasOps, reading: str, chance: random.Random, note: Callable[..., None]) -> None:
    names = chance.sample(PURSES, chance.randint(1, 3))
    note(asks=reading, names=names)
    with suppress(CasOpsError):
        snapshot = casops.snapshot([Purse.ref(each) for each in names])
        coins = [None if (purse := snapshot.get(Purse.ref(each))) is None else purse.coins for each in names]
        note(hears=reading, answer=["read", coins])


# --- the parent -------------------------------------------------------------------------------


class Soak:
    """One soak: rounds until the time is over or something is wrong."""

    def __init__(self, store: str | None, seed: int, workers: int, folder: Path, say: Callable[[str], None]) -> None:
        self.tally = Tally()
        self._store = store
        self._seed = seed
        self._chance = random.Random(seed)
        self._count = workers
        self._folder = folder
        self._say = say
        self._workers: list[subprocess.Popen[str]] = []
        self._names = 0
        self._url = ""

    def run(self, minutes: float) -> Tally:
        began = time.monotonic()
        try:
            while time.monotonic() - began < minutes * 60 and not self.tally.violations:
                self._round(self.tally.rounds)
                self.tally.rounds += 1
                self.tally.seconds = time.monotonic() - began
                if self.tally.rounds % 50 == 0:
                    self._say(told(self.tally))
        finally:
            for worker in self._workers:
                worker.kill()
                worker.communicate()
        return self.tally

    def _round(self, number: int) -> None:
        if number % ROUNDS_OF_A_FILE == 0:
            self._fresh_store(number)
        while len(self._workers) < self._count:
            self._workers.append(self._start())
        with CasOps.open(self._url, options=OPTIONS, operations=OPERATIONS, worker="parent") as casops:
            before = purses(casops)
            for worker in self._workers:
                self._tell(worker, number)
            self._disturb(number)
            try:
                self._judge(casops, number, before)
            except Violation as violation:
                kept = f"seed {self._seed}, round {number}; store {self._url}; histories in {self._folder}"
                self.tally.violations.append(f"{violation} ({kept})")
        for each in self._folder.glob("history-*"):
            if not self.tally.violations:
                each.write_bytes(b"")

    def _fresh_store(self, number: int) -> None:
        for worker in self._workers:
            worker.kill()
            worker.communicate()
        self._workers.clear()
        for old in self._folder.glob("history-*"):
            old.unlink()
        if self._store is not None:
            self._url = self._store
            return
        for old in self._folder.glob("soak*.db*"):
            old.unlink()
        self._url = f"sqlite:///{self._folder}/soak{number}.db"

    def _start(self) -> subprocess.Popen[str]:
        name = f"w{self._names}"
        self._names += 1
        arguments = ("worker", self._url, str(self._seed), name, str(self._folder / f"history-{name}"))
        return subprocess.Popen(
            [sys.executable, "-m", "casops.testing.soaking", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def _tell(self, worker: subprocess.Popen[str], number: int) -> None:
        stdin: IO[str] | None = worker.stdin
        assert stdin is not None
        with suppress(BrokenPipeError):  # it died; the end of the round sees that
            stdin.write(f"{number}\n")
            stdin.flush()

    def _disturb(self, number: int) -> None:
        """Kill some workers at random moments, then wait for the rest."""
        for worker in list(self._workers):
            if self._chance.random() < 0.4:
                time.sleep(self._chance.uniform(0, 0.15))
                worker.send_signal(signal.SIGKILL)
                worker.communicate()
                self._workers.remove(worker)
                self.tally.kills += 1
                if self._chance.random() < 0.3:
                    late = self._start()
                    self._workers.append(late)
                    self._tell(late, number)
        for worker in self._workers:
            self._wait(worker, number)

    def _wait(self, worker: subprocess.Popen[str], number: int) -> None:
        assert worker.stdout is not None
        said, _, _ = select.select([worker.stdout], [], [], HANGING)  # it says one line in each round
        line = worker.stdout.readline() if said else "nothing"
        if line != f"{number}\n":
            self.tally.violations.append(f"a worker ended round {number} with {line!r}, {worker.poll()}")

    def _judge(self, casops: CasOps, number: int, before: dict[str, Any]) -> None:
        """Finish what was left, then judge by histories and documents alone."""
        operations = operations_of(self._seed, number)
        asked: dict[str, float] = {}
        heard: dict[str, tuple[float, Any]] = {}
        readings: dict[str, Sequence[str]] = {}
        for line in self._lines():
            self._note(line, asked, heard, readings)
        # What was declared and left is finished by a sweep, and everything is asked for once more.
        recovery = casops.recover()
        if recovery.left:
            raise Violation(f"a sweep left {recovery.left}")
        self.tally.taken_over += len(recovery.finished)
        histories: list[Heard] = []
        for operation_id, operation in operations.items():
            asked.setdefault(operation_id, float(time.monotonic_ns()))
            answer = json.loads(json.dumps(answer_of(casops.execute(operation, operation_id=operation_id))))
            at, known = heard.get(operation_id, (float(time.monotonic_ns()), answer))
            if known != answer:
                raise Violation(f"{operation_id} was answered {known} and then {answer}")
            self.tally.declined += answer[0] == "declined"
            found = casops.outcome(operation_id)
            if not isinstance(found, Outcome):
                raise Violation(f"{operation_id} was answered, but its outcome is {found}")
            histories.append(Heard(operation_id, model_of(operation), asked[operation_id], at, answer))
        for reading, names in readings.items():
            if reading in heard:
                at, answer = heard[reading]
                histories.append(Heard(reading, reading_model(names), asked[reading], at, answer))
        self.tally.operations += len(operations)
        check_serial(before, purses(casops), histories)

    def _note(
        self,
        line: dict[str, Any],
        asked: dict[str, float],
        heard: dict[str, tuple[float, Any]],
        readings: dict[str, Sequence[str]],
    ) -> None:
        at = float(line["at"])
        if "asks" in line:
            self.tally.asked += 1
            asked[line["asks"]] = min(at, asked.get(line["asks"], at))
            if "names" in line:
                readings[line["asks"]] = line["names"]
        elif "hears" in line:
            at, known = min(
                (at, line["answer"]), heard.get(line["hears"], (at, line["answer"])), key=lambda each: each[0]
            )
            if known != line["answer"]:
                raise Violation(f"{line['hears']} was answered {known} and {line['answer']}")
            heard[line["hears"]] = (at, known)
            self.tally.replayed += bool(line.get("replayed"))
            self.tally.taken_over += bool(line.get("taken_over"))
        else:
            self.tally.unknown += 1
            if not line["retry"]:
                raise Violation(f"{line['fails']} failed with {line['error']}")

    def _lines(self) -> Iterator[dict[str, Any]]:
        for path in sorted(self._folder.glob("history-*")):
            for text in path.read_bytes().split(b"\n"):
                with suppress(json.JSONDecodeError):  # the last line of a killed worker may be half a line
                    yield json.loads(text)


def purses(casops: CasOps) -> dict[str, Any]:
    snapshot = casops.snapshot([Purse.ref(each) for each in PURSES])
    return {each: None if (purse := snapshot.get(Purse.ref(each))) is None else purse.coins for each in PURSES}


def told(tally: Tally) -> str:
    """A tally in one line."""
    return (
        f"{tally.seconds / 60:6.1f} min  {tally.rounds} rounds  {tally.operations} operations  {tally.asked} asked  "
        f"{tally.kills} kills  {tally.replayed} replayed  {tally.taken_over} taken over  {tally.declined} declined  "
        f"{tally.unknown} unanswered  {len(tally.violations)} violations"
    )


def soak(*, minutes: float, store: str | None, seed: int, workers: int, say: Callable[[str], None]) -> Tally:
    """Soak for so many minutes.  `store` None: an SQLite file of its own.  What was found wrong is kept."""
    folder = Path(tempfile.mkdtemp(prefix="casops-soak-"))
    tally = Soak(store, seed, workers, folder, say).run(minutes)
    if not tally.violations:
        for each in folder.iterdir():
            each.unlink()
        folder.rmdir()
    return tally


if __name__ == "__main__":
    sys.exit(work(sys.argv[2], int(sys.argv[3]), sys.argv[4], sys.argv[5]))
