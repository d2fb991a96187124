"""What a SqliteStore is asked for, on its way through a transaction: a batch, or conversations.

Whatever was answered within a transaction is true only when that is committed.

Must not be in here: connections, when a transaction begins, commits or fails.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from casops.messages import Key, Read, Refused, Reply, Scan, StoreRequest, Unknown
from casops.stores import TalkTo
from casops.stores.rows import check
from casops.stores.sqlite_documents import Transaction

__all__ = ["Batch", "talk"]


class Batch:
    """A batch, of which a store of rows may be able to take some only.

    Raises AssertionError for what only a bug asks for, as far as it can be seen beforehand: nothing is then done.
    """

    __slots__ = ("_bug", "_fit", "_refused", "_replies")

    def __init__(self, batch: Sequence[StoreRequest]) -> None:
        refused = [check(request) for request in batch]
        self._refused = refused if refused.count(None) < len(refused) else None  # None: the usual batch, taken as it is
        self._fit = batch
        if self._refused is not None:
            self._fit = [request for request, why in zip(batch, refused, strict=True) if why is None]
        self._replies: list[Reply] = []
        self._bug: AssertionError | None = None

    @property
    def size(self) -> int:
        return len(self._fit)

    @property
    def reads(self) -> bool:
        return all(isinstance(request, Read | Scan) for request in self._fit)

    @property
    def keys(self) -> list[Key] | None:
        """What it reads, if that is all it does."""
        keys = [request.key for request in self._fit if isinstance(request, Read)]
        return keys if len(keys) == len(self._fit) else None

    def carry_out(self, transaction: Transaction) -> None:
        """May be done again, in another transaction: the last one counts."""
        self._bug, self._replies = None, []
        transaction.meet(self._fit)
        for request in self._fit:
            try:
                self._replies.append(transaction.answer(request))
            except AssertionError as bug:  # of this request, which is not done; the others are
                self._bug = self._bug or bug

    def replies(self, failed: Refused | Unknown | None) -> list[Reply]:
        """A reply for each request.  failed: what became of the transaction; None: it was committed."""
        if failed is None and self._bug is not None:
            raise self._bug
        to_fit: list[Reply] = self._replies if failed is None else [failed for _ in self._fit]
        if self._refused is None:
            return to_fit
        rest = iter(to_fit)
        return [next(rest) if why is None else why for why in self._refused]


def talk(conversations: Sequence[TalkTo]) -> Callable[[Transaction], None]:
    """Hold conversations, one after the other."""

    def carry_out(transaction: Transaction) -> None:
        for conversation in conversations:
            conversation(partial(_perform, transaction))

    return carry_out


def _perform(transaction: Transaction, requests: Sequence[StoreRequest]) -> list[Reply]:
    batch = Batch(requests)
    batch.carry_out(transaction)
    return batch.replies(None)
