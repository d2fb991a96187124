"""Callers of a SqliteStore: a batch or a conversation on its way through a transaction, and what became of it.

A caller is done when `done` is set, which is for those who stand in the queue with it; what it then knows it tells its
own thread.

Must not be in here: the queue, threads, connections, errors of transactions.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final, TypeAlias

from casops.messages import Key, Read, Refused, Reply, Scan, StoreRequest, Unknown
from casops.stores import Perform
from casops.stores.rows import check
from casops.stores.sqlite_documents import Transaction

__all__ = ["INTERRUPTED", "BatchCaller", "Caller", "ConversationCaller"]

# Requests a conversation is reckoned to have, before it is known: an operation on two documents, with its settling.
CONVERSATION: Final = 15

INTERRUPTED: Final = Unknown("the thread that wrote for several callers was interrupted")


class BatchCaller:
    """A batch on its way."""

    __slots__ = ("_batch", "_bug", "_replies", "done", "keys", "open", "reads", "size")

    def __init__(self, batch: Sequence[StoreRequest]) -> None:
        self._batch = batch
        self._replies: list[Reply | None] = [check(request) for request in batch]
        self._bug: AssertionError | None = None
        self.open = [number for number, refused in enumerate(self._replies) if refused is None]
        self.size = len(self.open)
        self.reads = all(isinstance(batch[number], Read | Scan) for number in self.open)
        self.keys = _keys(batch[number] for number in self.open)
        self.done = False

    def carry_out(self, transaction: Transaction) -> None:
        self._bug = None
        transaction.meet(self.keys)
        for number in self.open:
            try:
                self._replies[number] = _answer(transaction, self._batch[number])
            except AssertionError as bug:
                self._bug = self._bug or bug

    def committed(self) -> None:
        """What the transaction said is true."""

    def failed(self, reply: Refused | Unknown) -> None:
        self._bug = None
        for number in self.open:
            self._replies[number] = reply

    def replies(self) -> list[Reply]:
        if self._bug is not None:
            raise self._bug
        return [INTERRUPTED if reply is None else reply for reply in self._replies]


class ConversationCaller:
    """A conversation on its way."""

    __slots__ = ("_bug", "_failed", "_hold", "done", "reads", "size")

    def __init__(self, conversation: Callable[[Perform], None]) -> None:
        self._hold = conversation
        self._bug: AssertionError | None = None
        self._failed: Refused | Unknown | None = Unknown("it was not carried out")
        self.reads = False
        self.size = CONVERSATION
        self.done = False

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
    refused = [check(request) for request in batch]
    transaction.meet(_keys(request for request, why in zip(batch, refused, strict=True) if why is None))
    return [_answer(transaction, request) if why is None else why for request, why in zip(batch, refused, strict=True)]


def _keys(requests: Iterable[StoreRequest]) -> list[Key]:
    return [request.key for request in requests if not isinstance(request, Scan)]


def _answer(transaction: Transaction, request: StoreRequest) -> Reply:
    try:
        return transaction.answer(request)
    except (sqlite3.DataError, OverflowError, UnicodeError) as error:
        return Refused(f"SQLite does not take this text: {error}")  # that statement did nothing
