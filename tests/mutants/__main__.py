"""Hunts all mutants:  python -m tests.mutants

One line for each: caught by what, after how many schedules.  Exit status 1 if one survives.

Must not be in here: the hunting (hunt.py).
"""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.mutants.listed import MUTANTS


def caught(number: int) -> dict[str, Any]:
    ran = subprocess.run(
        [sys.executable, "-m", "tests.mutants.hunt", str(number)], capture_output=True, text=True, check=False
    )
    if ran.returncode:
        return {"by": None, "after": 0, "of": "", "what": ran.stderr.strip().splitlines()[-1]}
    told: dict[str, Any] = json.loads(ran.stdout)
    return told


def main() -> int:
    survived = 0
    with ThreadPoolExecutor(2) as pool:
        for mutant, told in zip(MUTANTS, pool.map(caught, range(len(MUTANTS))), strict=True):
            survived += told["by"] is None
            by = f"caught by {told['by']}, after {told['after']} {told['of']}" if told["by"] else "SURVIVED"
            sys.stdout.write(f"{mutant.name:62} {by}: {told['what'][:90]}\n")
            sys.stdout.flush()
    sys.stdout.write(f"{len(MUTANTS)} mutants, {survived} survived\n")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
