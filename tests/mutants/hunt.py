"""Hunts one mutant, in a process of its own:  python -m tests.mutants.hunt NUMBER

The mutant's source is changed while it is imported, so nothing of casops may be imported before.
Prints one line of JSON: what caught it, after how many schedules, worlds or tests.

Must not be in here: the mutants.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import pytest

from tests.mutants.listed import KEPT_SEEDS, MUTANTS, Mutant

ROOT = Path(__file__).parent.parent.parent

# How long is looked for a violation: states of each case, then worlds.  In two rounds, since what falls at once in the
# last case need not wait until the others are looked at in full.  Every listed mutant falls far before the end.
ROUNDS = ((3_000, 100), (60_000, 6_000))
SECONDS_OF_A_CASE = 40.0


class Changed(importlib.machinery.SourceFileLoader):
    """Loads a module from its source with one text replaced by another."""

    def __init__(self, name: str, path: str, mutant: Mutant) -> None:
        super().__init__(name, path)
        self._mutant = mutant

    def get_code(self, fullname: str) -> CodeType:
        """Compiled anew: neither from a cache nor to one."""
        text, old = Path(self.path).read_text(), self._mutant.old
        if text.count(old) != 1:
            raise SystemExit(f"{self._mutant.name!r}: its text stands {text.count(old)} times in {self.path}")
        return compile(text.replace(old, self._mutant.new), self.path, "exec", dont_inherit=True)


class Finder(importlib.abc.MetaPathFinder):
    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant
        self._module = "casops." + mutant.file.removesuffix(".py").replace("/", ".")

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._module:
            return None
        file = str(ROOT / "casops" / self._mutant.file)
        return importlib.util.spec_from_loader(fullname, Changed(fullname, file, self._mutant))


def hunt(mutant: Mutant) -> dict[str, Any]:
    """Explore every case, then live worlds, until something is caught; then the same at greater length."""
    sys.meta_path.insert(0, Finder(mutant))
    if mutant.tests:
        return _tested(mutant.tests)
    from casops.testing.__main__ import collect_seldom
    from casops.testing.cases import cases
    from casops.testing.explorer import Explorer
    from casops.testing.simulator import live

    collect_seldom()
    explored = lived = 0
    for states, worlds in ROUNDS:
        for case in cases():
            try:
                found = Explorer(case).explore(seconds=SECONDS_OF_A_CASE, states=states)
            except Exception as error:  # noqa: BLE001 - a mutant may break anything
                return {"by": case.name, "after": explored, "of": "states", "what": f"{type(error).__name__}: {error}"}
            explored += found.states
            if found.violation is not None:
                return {"by": case.name, "after": explored, "of": "states", "what": found.violation}
        for seed in (*KEPT_SEEDS, *range(worlds)):
            lived += 1
            try:
                violation = live(seed).violation
            except Exception as error:  # noqa: BLE001
                violation = f"{type(error).__name__}: {error}"
            if violation is not None:
                return {"by": f"world {seed}", "after": lived, "of": "worlds", "what": violation}
    return {"by": None, "after": explored, "of": "states", "what": f"survived {explored} states, {lived} worlds"}


def _tested(tests: str) -> dict[str, Any]:
    """The first of these tests that fails."""
    failed = Failed()
    with redirect_stdout(StringIO()):
        status = pytest.main(["-q", "-x", "-p", "no:cacheprovider", tests], plugins=[failed])
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise SystemExit(f"{tests}: pytest ends with {status}")
    by = failed.name
    return {"by": by, "after": failed.ran, "of": "tests", "what": failed.what if by else f"survived {failed.ran} tests"}


class Failed:
    """Keeps which test failed first, after how many."""

    name: str | None = None
    what = ""
    ran = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.ran += report.when == "call"
        if report.failed and self.name is None:
            crash = getattr(report.longrepr, "reprcrash", None)
            self.name, self.what = report.nodeid, " ".join(getattr(crash, "message", "it fails").split())


if __name__ == "__main__":
    sys.stdout.write(json.dumps(hunt(MUTANTS[int(sys.argv[1])])) + "\n")
