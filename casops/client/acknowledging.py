"""Acknowledgements: ids whose answers the application has put away and will never ask for again.

They travel in a header of later requests; the server may forget those results early. Only the application can say
so: if the client acknowledged whatever it received, an application that died before it had written the answer down
would ask again, find the result forgotten, and have the operation run a second time. For the same reason an id is not
acknowledged while a request for it may still be on its way somewhere.

Must not be in here: requests.
"""

from __future__ import annotations

from collections import OrderedDict, deque

from casops.wire import MAX_ACKNOWLEDGED, encode_id

# Half of the 8 KB of headers that most servers and gateways take; ids may be long.
MOST_BYTES = 4096

# What is not told in time is forgotten after the retention anyway.
MOST_WAITING = 10_000

# Ids that were acknowledged here, so that asking again with one is noticed.
MOST_REMEMBERED = 10_000


class Acknowledgements:
    """Ids to be acknowledged, and those that were."""

    def __init__(self) -> None:
        self._waiting: deque[str] = deque(maxlen=MOST_WAITING)
        self._remembered: OrderedDict[str, None] = OrderedDict()

    def __contains__(self, operation_id: object) -> bool:
        return operation_id in self._remembered

    def add(self, operation_id: str) -> None:
        """The application has put the answer away."""
        self.remember(operation_id)
        self._waiting.append(operation_id)

    def remember(self, operation_id: str) -> None:
        """The application will not ask again, but the servers are not to be told."""
        self._remembered[operation_id] = None
        if len(self._remembered) > MOST_REMEMBERED:
            self._remembered.popitem(last=False)

    def take(self) -> tuple[str, ...]:
        """Ids for the next message."""
        taken: list[str] = []
        size = 0
        while self._waiting and len(taken) < MAX_ACKNOWLEDGED:
            size += len(encode_id(self._waiting[0])) + 2
            if size > MOST_BYTES:
                break
            taken.append(self._waiting.popleft())
        return tuple(taken)

    def give_back(self, operation_ids: tuple[str, ...]) -> None:
        """The message that named them was not answered: they are named once more."""
        for each in reversed(operation_ids):
            if len(self._waiting) < MOST_WAITING:
                self._waiting.appendleft(each)
