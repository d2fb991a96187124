"""Makes sample.csv: 400 payments among 60 accounts, a few of them hot, some too large.

    python -m examples.balance_transfer.make_sample > examples/balance_transfer/sample.csv

Must not be in here: anything that changes from run to run.
"""

from __future__ import annotations

import csv
import random
import sys
from typing import TextIO

PAYMENTS = 400
ACCOUNTS = 60
# Accounts that many payments go to or come from at the same time: a shop, a landlord, an employer.
HOT = ("acct-01", "acct-02", "acct-03")
HOT_SHARE = 0.3
SEED = 1


def write_sample(out: TextIO) -> None:
    rng = random.Random(SEED)
    accounts = [f"acct-{number:02}" for number in range(1, ACCOUNTS + 1)]
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(["payment_id", "source", "target", "amount"])
    for number in range(1, PAYMENTS + 1):
        source, target = rng.sample(accounts, 2)
        if rng.random() < HOT_SHARE:
            hot = rng.choice(HOT)
            if hot not in (source, target):
                source, target = rng.choice([(source, hot), (hot, target)])
        cents = rng.randint(50, 9_999) if rng.random() < 0.8 else rng.randint(10_000, 60_000)
        rows.writerow([f"p{number:04}", source, target, f"{cents // 100}.{cents % 100:02}"])


if __name__ == "__main__":
    write_sample(sys.stdout)
