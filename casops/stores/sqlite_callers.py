"""Callers of a SqliteStore: a batch or a conversation on its way through a transaction, and what became of it.

A caller is done when `done` is set, which is for those who stand in the queue with it; what it then knows it tells its
own thread.  Whatever it was answered within a transaction it takes for true only once it is told of the COMMIT.

Must not be in here: the queue, connections, errors of transactions.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from typing import Final, TypeAlias

from casops.messages import Key, Read, Refused, Reply, Scan, StoreRequest, Unknown
from casops.stores import TalkTo
from casops.stores.sqlite_checked import Checked
from casops.stores.sqlite_documents import Transaction

__all__ = ["INTERRUPTED", "BatchCaller", "Caller", "ConversationCaller"]

# Requests a conversation is reckoned to have, before it is known: documents that an operation on a few meets.
CONVERSATION: Final = 6

INTERRUPTED: Final = Unknown("the thread that wrote for several callers was interrupted")


class _Caller:
    """One who may have to wait for others, is woken alone, and is told what became of the transaction."""

    __slots__ = ("_bell", "_bug", "_failed", "done")

    def __init__(self) -> None:
        self.done = False
        self._failed: Refused | Unknown | None = INTERRUPTED  # until it is told something else
        self._bug: AssertionError | None = None
        self._bell = threading.Lock()  # held, until it rings
        self._bell.acquire()

    def committed(self) -> None:
        """What the transaction said is true."""
        self._failed = None

    def failed(self, reply: Refused | Unknown) -> None:
        self._failed = reply

    def outcome(self) -> Refused | Unknown | None:
        """None: it is committed.  Raises AssertionError if it is, but for what only a bug asks."""
        if self._failed is None and self._bug is not None:
            raise self._bug
        return self._failed

    def wait(self, seconds: float) -> None:
        """Until it is woken, at once if it has been since it last waited."""
        self._bell.acquire(timeout=seconds)

    def wake(self) -> None:
        """To be called by one thread at a time."""
        if self._bell.locked():
            self._bell.release()


class BatchCaller(_Caller):
    """A batch on its way.  Raises AssertionError for what only a bug asks for, as far as it can be seen beforehand."""

    __slots__ = ("_batch", "_replies", "reads", "size")

    def __init__(self, batch: Sequence[StoreRequest]) -> None:
        super().__init__()
        self._batch = Checked(batch)
        self._replies: list[Reply] = []
        self.size = len(self._batch.fit)
        self.reads = all(isinstance(request, Read | Scan) for request in self._batch.fit)

    @property
    def keys(self) -> list[Key] | None:
        """What it reads, if that is all it does."""
        keys = [request.key for request in self._batch.fit if isinstance(request, Read)]
        return keys if len(keys) == self.size else None

    def carry_out(self, transaction: Transaction) -> None:
        self._bug, self._replies = None, []
        transaction.meet(self._batch.fit)
        for request in self._batch.fit:
            try:
                self._replies.append(transaction.answer(request))
            except AssertionError as bug:  # of this caller, the others of the group must not suffer for it
                self._bug = self._bug or bug

    def replies(self) -> list[Reply]:
        failed = self.outcome() if self.size else None
        return self._batch.replies(self._replies if failed is None else [failed] * self.size)


class ConversationCaller(_Caller):
    """A conversation on its way."""

    __slots__ = ("_hold", "reads", "size")

    def __init__(self, conversation: TalkTo) -> None:
        super().__init__()
        self._hold = conversation
        self.reads = False
        self.size = CONVERSATION

    def carry_out(self, transaction: Transaction) -> None:
        try:
            self._hold(partial(_perform, transaction))
        except AssertionError as bug:  # of this caller: what it wrote before stands, as if it had crashed here
            self._bug = bug


Caller: TypeAlias = BatchCaller | ConversationCaller


def _perform(transaction: Transaction, batch: Sequence[StoreRequest]) -> list[Reply]:
    checked = Checked(batch)
    transaction.meet(checked.fit)
    return checked.replies([transaction.answer(request) for request in checked.fit])
