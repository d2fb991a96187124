"""Callers of a SqliteStore: a batch or a conversation on its way through a transaction, and what became of it.

A caller is done when `done` is set, which is for those who stand in the queue with it; what it then knows it tells its
own thread.

Must not be in here: the queue, threads, connections, errors of transactions.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from casops.messages import Read, Refused, Reply, Scan, StoreRequest, Unknown
from casops.stores import Perform
from casops.stores.rows import check
from casops.stores.sqlite_documents import Transaction

__all__ = ["INTERRUPTED", "BatchCaller", "Caller", "ConversationCaller"]

# Requests a conversation is reckoned to have, before it is known: an operation on two documents, with its settling.
CONVERSATION: Final = 15

INTERRUPTED: Final = Unknown("the thread that wrote for several callers was interrupted")


class _Part:
    """A request on its way, and what became of it."""

    __slots__ = ("bug", "reply", "request")

    def __init__(self, request: StoreRequest) -> None:
        self.request = request
        self.reply: Reply | None = check(request)
        self.bug: AssertionError | None = None


class BatchCaller:
    """A batch on its way."""

    __slots__ = ("done", "open", "parts", "reads", "size")

    def __init__(self, batch: Sequence[StoreRequest]) -> None:
        self.parts = [_Part(request) for request in batch]
        self.open = [part for part in self.parts if part.reply is None]
        self.size = len(self.open)
        self.reads = all(isinstance(part.request, Read | Scan) for part in self.open)
        self.done = False

    def carry_out(self, transaction: Transaction) -> None:
        for part in self.open:
            part.bug = None
            try:
                part.reply = _answer(transaction, part.request)
            except AssertionError as bug:
                part.bug = bug

    def committed(self) -> None:
        """What the transaction said is true."""

    def failed(self, reply: Refused | Unknown) -> None:
        for part in self.open:
            part.reply, part.bug = reply, None

    def replies(self) -> list[Reply]:
        for part in self.parts:
            if part.bug is not None:
                raise part.bug
        return [INTERRUPTED if part.reply is None else part.reply for part in self.parts]


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
            self._hold(lambda batch: [_checked_answer(transaction, request) for request in batch])
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


def _checked_answer(transaction: Transaction, request: StoreRequest) -> Reply:
    refused = check(request)
    return _answer(transaction, request) if refused is None else refused


def _answer(transaction: Transaction, request: StoreRequest) -> Reply:
    try:
        return transaction.answer(request)
    except (sqlite3.DataError, OverflowError, UnicodeError) as error:
        return Refused(f"SQLite does not take this text: {error}")  # that statement did nothing
