"""The pending list as the event loop sees it: whatever the disk does, the loop goes on.

One thread of its own writes the file, in the order in which it is told here.  That order is what the rest relies on:

* A call that waits for the disk in vain gives up at its deadline.  Nothing was sent, but the line may get to the disk
  yet: so it is ended like any other, and this `ends` comes after it.
* An id may be acknowledged to the servers, which then forget its result, only when the list on the disk names it no
  more: the next life of the client would ask for it, and it would run again.  Acknowledgements travel with the next
  call anyway, and the `asks` of that one brings every `ends` before it to the disk.

Must not be in here: the form of the file (pending_file.py), what is sent to whom.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable
from functools import partial

from casops.client.acknowledging import MOST_WAITING
from casops.client.pending import Asked
from casops.client.pending_file import PendingFile
from casops.errors import Closed, StoreUnavailable
from casops.threads import Threads

# Calls that may wait for a disk that does not answer; further ones are refused at once.  Some MB.
MOST_UNWRITTEN = 10_000


class PendingList:
    """`path`: None where nothing is to outlive this process; then nothing is waited for."""

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self._file = None if path is None else PendingFile(path)
        # Not the threads of asyncio, which are gone as soon as the main thread has ended.
        self._writing = Threads(1, "casops-pending")
        self._closed = False
        self._asking = 0  # calls that wait for the disk
        self._ended: deque[Callable[[], None]] = deque(maxlen=MOST_WAITING)

    def waiting(self) -> list[Asked]:
        """What an earlier life asked for and did not hand over.  To be called before anything else."""
        return [] if self._file is None else self._file.waiting()

    async def asks(self, asked: Asked, within: float) -> None:
        """Note it.  When this returns it is on the disk, and so is every `ends` that was told before.

        Raises StoreUnavailable, also when so many seconds are over: then it must be told that it `ends`.
        """
        if self._file is None:
            return
        if self._closed:
            raise Closed("the client was closed during the call; nothing was asked", operation_id=asked.operation_id)
        if self._asking >= MOST_UNWRITTEN:
            raise _no_answer(asked)
        file, deciding, wanted, noted = self._file, threading.Lock(), True, False

        def note() -> None:
            nonlocal noted
            if wanted:
                new = file.asks(asked)
                with deciding:
                    noted = wanted
                if new and not noted:
                    file.ends(asked.operation_id)  # here, for the file may be closed next

        ended = list(self._ended)
        self._ended.clear()
        self._asking += 1
        noting = self._writing.run(note)
        try:
            await asyncio.wait([noting], timeout=max(0.0, within))
            with deciding:
                wanted = False
            if noting.done():
                noting.result()
            elif not noted:
                raise _no_answer(asked)
        except BaseException:  # a caller may go away, too
            self._ended.extendleft(reversed(ended))
            raise
        finally:
            wanted = False
            self._asking -= 1
            noting.cancel()  # if it is not done: what it comes to is for nobody
        for each in ended:
            each()

    def ends(self, operation_id: str, then: Callable[[], None] | None = None) -> None:
        """It was answered and handed over.  `then`: called once it is certain that the list names it no more."""
        if self._file is None:
            if then is not None:
                then()
        else:
            self._writing.add(partial(self._file.ends, operation_id))
            if then is not None:
                self._ended.append(then)

    async def is_true(self, within: float) -> bool:
        """Whether the file says by then all that was told here: then a client that is killed leaves no more on it."""
        if self._file is None:
            return True
        looking = self._writing.run(self._file.is_true)
        await asyncio.wait([looking], timeout=max(0.0, within))
        return looking.done() and looking.result()

    async def close(self, within: float) -> None:
        """Have everything written, and let go of the file.  Waits so many seconds for the disk; it may go on alone."""
        self._closed = True
        if self._file is not None:
            closing = self._writing.run(self._file.close)
            self._writing.close()
            await asyncio.wait([closing], timeout=within)


def _no_answer(asked: Asked) -> StoreUnavailable:
    return StoreUnavailable(
        "the disk under the pending list gives no answer; nothing was sent", operation_id=asked.operation_id
    )
