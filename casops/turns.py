"""Turns: operations of one process on the same document queue up instead of racing for it.

A ticket stands in the line of each of its documents and may go when it heads all of them.  It joins
all lines at one moment, so lines never wait for each other in a circle.  It leaves when the documents of its operation
are settled, not when the answer is there: whoever came next would meet the stages, and race with their settling.
It tells who comes next how it has left them, so that he need not read them: in a line each takes three steps
(propose, committed, moved), whatever else is to be done he has done while he waited.
Nothing depends on this but waste: whoever has waited for its patience, and nobody before it has left meanwhile, goes
ahead and takes part in the race.

Must not be in here: threads, asyncio (the fronts give each ticket its own way to be woken).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Final, TypeAlias

from casops.messages import Key, Version
from casops.options import Options

# The part of the deadline that may be spent in a line that moves: most of it must be left for the operation itself.
WAITING = 0.25

# Seconds that whoever heads a line is left alone at least.  Nobody in this process dies unnoticed, and a busy process
# may take longer for one operation than one's patience with strangers; but business code may hang.
HEAD = 1.0


def patience(options: Options) -> float:
    """Seconds a ticket waits without anybody before it leaving.  Zero: no waiting."""
    return max(options.patience, HEAD) if options.patience else 0.0


def rounds(options: Options) -> int:
    """How often a ticket may wait for so long, in a line that moves."""
    return max(1, int(options.deadline * WAITING / patience(options))) if options.patience else 1


# Documents as somebody has seen them.
Known: TypeAlias = Mapping[Key, Version]
NOTHING: Final[Known] = MappingProxyType({})


class Ticket:
    """A place in the lines of some documents.  `wake` is called once, when it may go."""

    __slots__ = ("keys", "known", "left", "wake")

    def __init__(self, keys: Iterable[Key], wake: Callable[[], None]) -> None:
        self.keys = frozenset(keys)
        self.wake = wake
        self.left = False
        self.known: dict[Key, Version] = {}  # documents as who went before has left them


class Turns:
    """The lines of one front.  Calls must not overlap (a lock, or one event loop)."""

    def __init__(self) -> None:
        self._lines: dict[Key, deque[Ticket]] = {}

    def join(self, ticket: Ticket) -> None:
        """Stand in line.  Its `wake` is called at once if nobody stands before."""
        for key in ticket.keys:
            self._lines.setdefault(key, deque()).append(ticket)
        if self._may_go(ticket):
            ticket.wake()

    def leave(self, ticket: Ticket, known: Known = NOTHING) -> None:
        """Go, whether it was one's turn or not, and wake whoever may go now.  The second time does nothing.

        `known`: documents as they are now, for who comes next.  One that Ctrl-C met while it joined, or left, is in
        some lines only.
        """
        if ticket.left:
            return
        following: dict[int, Ticket] = {}
        for key in ticket.keys:
            line = self._lines.get(key, deque())
            if ticket not in line:
                continue
            was_head = line[0] is ticket
            line.remove(ticket)
            if not line:
                del self._lines[key]
            elif was_head:
                following[id(line[0])] = line[0]
                if key in known:
                    line[0].known[key] = known[key]
        ticket.left = True
        for each in following.values():
            if self._may_go(each):
                each.wake()

    def behind(self, ticket: Ticket) -> frozenset[Key]:
        """The documents that others are at."""
        return frozenset(key for key in ticket.keys if self._lines[key][0] is not ticket)

    def followed(self, ticket: Ticket) -> bool:
        """Does anybody wait for it?"""
        return any(line[0] is ticket and len(line) > 1 for line in map(self._lines.__getitem__, ticket.keys))

    def ahead(self, ticket: Ticket) -> int:
        """How many stand before it, in all its lines."""
        return sum(self._lines[key].index(ticket) for key in ticket.keys)

    def _may_go(self, ticket: Ticket) -> bool:
        return all(self._lines[key][0] is ticket for key in ticket.keys)
