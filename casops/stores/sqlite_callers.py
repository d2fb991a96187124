"""Callers of a SqliteStore: a batch or a conversation on its way through a transaction, and what became of it.

A caller is done when `done` is set, which is for those who stand in the queue with it; what it then knows it tells its
own thread.

Must not be in here: the queue, threads, connections, errors of transactions.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, TypeAlias

from casops.messages import Key, Read, Refused, Reply, Scan, StoreRequest, Unknown
from casops.stores import Perform
from casops.stores.sqlite_documents import Transaction

__all__ = ["INTERRUPTED", "BatchCaller", "Caller", "ConversationCaller"]

# Requests a conversation is reckoned to have, before it is known: an operation on two documents, with its settling.
CONVERSATION: Final = 15

INTERRUPTED: Final = Unknown("the thread that wrote for several callers was interrupted")


class _Waiting:
    """One who may have to wait for others, and is woken alone."""

    __slots__ = ("_bell", "done")

    def __init__(self) -> None:
        self.done = False
        self._bell = threading.Lock()  # held, until it rings
        self._bell.acquire()

    def wait(self, seconds: float) -> None:
        """Until it is woken."""
        self._bell.acquire(timeout=seconds)

    def wake(self) -> None:
        """To be called by one thread at a time."""
        if self._bell.locked():
            self._bell.release()


class BatchCaller(_Waiting):
    """A batch on its way."""

    __slots__ = ("_batch", "_bug", "_replies", "reads", "size")

    def __init__(self, batch: Sequence[StoreRequest]) -> None:
        super().__init__()
        self._batch = batch
        self._replies: list[Reply] = [INTERRUPTED] * len(batch)
        self._bug: AssertionError | None = None
        self.size = len(batch)
        self.reads = all(isinstance(request, Read | Scan) for request in batch)

    @property
    def keys(self) -> list[Key] | None:
        """What it reads, if that is all it does."""
        keys = [request.key for request in self._batch if isinstance(request, Read)]
        return keys if len(keys) == self.size else None

    def carry_out(self, transaction: Transaction) -> None:
        self._bug = None
        transaction.meet(self._batch)
        for number, request in enumerate(self._batch):
            try:
                self._replies[number] = transaction.answer(request)
            except AssertionError as bug:
                self._bug = self._bug or bug

    def committed(self) -> None:
        """What the transaction said is true."""

    def failed(self, reply: Refused | Unknown) -> None:
        self._replies, self._bug = [reply] * self.size, None

    def replies(self) -> list[Reply]:
        if self._bug is not None:
            raise self._bug
        return self._replies


class ConversationCaller(_Waiting):
    """A conversation on its way."""

    __slots__ = ("_bug", "_failed", "_hold", "reads", "size")

    def __init__(self, conversation: Callable[[Perform], None]) -> None:
        super().__init__()
        self._hold = conversation
        self._bug: AssertionError | None = None
        self._failed: Refused | Unknown | None = Unknown("it was not carried out")
        self.reads = False
        self.size = CONVERSATION

    def carry_out(self, transaction: Transaction) -> None:
        try:
            self._hold(partial(_perform, transaction))
        except AssertionError as bug:  # of this caller: what it wrote before stands, as if it had crashed here
            self._bug = bug

    def committed(self) -> None:
        self._failed = None

    def failed(self, reply: Refused | Unknown) -> None:
        self._failed, self._bug = reply, None

    def outcome(self) -> Refused | Unknown | None:
        if self._bug is not None:
            raise self._bug
        return self._failed


Caller: TypeAlias = BatchCaller | ConversationCaller


def _perform(transaction: Transaction, batch: Sequence[StoreRequest]) -> list[Reply]:
    transaction.meet(batch)
    return [transaction.answer(request) for request in batch]
