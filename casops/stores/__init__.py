"""Stores: where documents live.  This page is all one needs to write another.

A store is an object with two methods:

    perform(batch)   carry out the requests of a batch and give one reply for each, in their order
    close()          let go of files and connections; nothing is called afterwards

`Store.perform` blocks; `AsyncStore.perform` is a coroutine.  A store that can have several batches in one
transaction, and to which reading costs next to nothing, may have a third, `converse` (see ConversingStore), and
spares its callers a sync for each batch.

The requests and replies are in casops.messages.  What a store owes to the protocol, each with the reason:

 1. CAS.  Every acknowledged write gives the document a CAS > 0 that this key never had before, also
    across removal, expiry and re-creation (a fence is only a fence because a CAS never returns).
 2. One document, one write, all or nothing: body, stage and lifetime of one request change
    together.  Different requests of a batch are independent: carried out in any order, each
    succeeding or failing by itself.  The protocol takes nothing for granted about a batch.
 3. `Stored` means durable: a crash of the process or, where the store promises it, of the machine
    does not undo it.  Anything less certain is `Unknown`: "may be applied, now or later".
    `Refused`, `Exists` and `Mismatch` promise that the write was not and will not be applied.
    When in doubt, `Unknown`.  `perform` raises for programming errors only, and `Closed` if it was closed before
    anything of the batch was done; whatever else it raises, the batch may have been carried out.
 4. A read sees every write acknowledged before it began.
 5. Three states of a document: nothing at all (`Missing`), a tombstone (a `Version` without a body, with or
    without a stage), and live.  Ordinary programs see only live ones, and never a stage.
 6. A removed or expired document leaves a tombstone with a new CAS for at least the store's
    `tombstones` period (seconds), so that an old write meets a version that has moved.  After that it may be
    Missing again; a worker must not be asleep for longer in the middle of an attempt.
    In collections that start with RESERVED there are no tombstones: a record that was removed or
    whose time is over is Missing.
 7. A stage does not survive expiry; the protocol never leaves one on a document that can expire.
 8. Intentions are documents of the collection INTENTIONS and the only ones that can be listed and forgotten
    (`Forget`, which names no CAS).  A store may keep many in one shard document: their CAS may then be
    coarser, that is, a `Mismatch` may come although only another intention has changed.
 9. Keys and bodies are text.  What a store cannot take (too long, too large) is `Refused`.
10. Only a store with `converse` is asked for `AtOnce`, which is all or nothing over several documents: they were as
    `seen` and became as written at one moment.  `Mismatch` promises that none was or will be written.

casops.testing tests these, and the tests of this package show how a store is put to them.

Must not be in here: knowledge of operations or of the protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias, runtime_checkable

from casops.messages import Refused, Reply, StoreRequest, Unknown

__all__ = ["AsyncConversingStore", "AsyncStore", "ConversingStore", "Perform", "Store", "TalkTo"]


Perform: TypeAlias = Callable[[Sequence[StoreRequest]], list[Reply]]
TalkTo: TypeAlias = Callable[[Perform], None]


class Store(Protocol):
    """A store for the sync driver."""

    def perform(self, batch: Sequence[StoreRequest], /) -> list[Reply]: ...

    def close(self) -> None: ...


class AsyncStore(Protocol):
    """A store for the async driver."""

    async def perform(self, batch: Sequence[StoreRequest], /) -> list[Reply]: ...

    async def close(self) -> None: ...


@runtime_checkable
class ConversingStore(Store, Protocol):
    """A store that can carry out a whole conversation as one write, and writes of several documents `AtOnce`."""

    def converse(self, conversations: Sequence[TalkTo], /) -> list[Refused | Unknown | None]:
        """Call each once, in any thread, with a `perform` for it to use; then make all of them durable.

        Batches see what those before wrote, of this conversation and of others in its transaction; nobody else does
        until it is durable (None), and nobody else writes meanwhile.
        An outcome for each.  Refused: nothing of it was or will be written; it need not have been called.  Unknown: all
        of it, or nothing.
        """
        ...

    def check_usable(self) -> None:
        """Raise UsageError if this thread must not ask: the store is closed, or it is holding a conversation."""
        ...


@runtime_checkable
class AsyncConversingStore(AsyncStore, Protocol):
    """A ConversingStore for the async driver."""

    async def converse(self, conversations: Sequence[TalkTo], /) -> list[Refused | Unknown | None]: ...

    def check_usable(self) -> None: ...
