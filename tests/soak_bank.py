"""What a soak of the message tier asks for: the same transfers for every process that knows seed and round.

Must not be in here: processes, sockets.
"""

from __future__ import annotations

import random
from typing import Any

from casops.testing.checkers import Model
from tests.bank import Transfer

ACCOUNTS = ("hot", "warm", "a2", "a3", "a4", "a5")
OPENED_WITH = 1_000
CLIENTS = 8


def transfers_of(seed: int, number: int, count: int, run: str) -> dict[str, Transfer]:
    """The transfers of a round, by operation id.  A third touch the hot account, some are more than there is.

    `run`: begins the ids, so that a store that knows earlier soaks can be used.
    """
    chance = random.Random(f"{seed}/{number}")
    transfers: dict[str, Transfer] = {}
    for each in range(count):
        source, target = chance.sample(ACCOUNTS, 2)
        amount = chance.choice((1, 5, 70, 2_000 if chance.random() < 0.2 else 20))
        transfers[f"{run}-r{number}-{each}"] = Transfer(source=source, target=target, amount=amount)
    return transfers


def share_of(seed: int, number: int, count: int, run: str, client: int) -> list[tuple[str, Transfer]]:
    """What one client asks for: every id has a client of its own, and a quarter have a second one."""
    chance = random.Random(f"{seed}/{number}/{client}")
    transfers = list(transfers_of(seed, number, count, run).items())
    mine = [each for index, each in enumerate(transfers) if index % CLIENTS == client]
    also = [each for index, each in enumerate(transfers) if index % 4 == 0 and (index // 4) % CLIENTS == client]
    share = list(dict(mine + also).items())
    chance.shuffle(share)
    return share


def model_of(transfer: Transfer) -> Model:
    """The transfer as a plain function on balances, for the checkers."""
    source, target, amount = transfer.source.id, transfer.target.id, int(transfer.amount)

    def apply(balances: dict[str, Any]) -> Any:
        if balances[source] < amount:
            return ["declined", "insufficient_funds", {"balance": str(balances[source])}]
        balances[source] -= amount
        balances[target] += amount
        return ["applied", {"left": str(balances[source])}]

    return apply
