"""Which SQLite files must not be opened in this process, since they were open when it was forked.

SQLite keeps its locks in the process: a forked child believes it holds those of its parent, which it
does not, so that the parent may delete the log that the child writes to.  This holds for every connection of the child
to that file, also for a new one, and for closing the old ones: they are kept and never touched.
(https://www.sqlite.org/howtocorrupt.html#_carrying_an_open_database_file_across_a_fork_)

Must not be in here: anything else about files.
"""

from __future__ import annotations

import os
import weakref
from typing import Final

from casops.errors import UsageError
from casops.stores.sqlite_file import Identity, identity

__all__ = ["HINT", "check_not_inherited", "forks", "note_closed", "note_open"]

HINT: Final = "close it before forking, fork before opening it, or start processes with spawn"

_open: weakref.WeakKeyDictionary[object, Identity | None] = weakref.WeakKeyDictionary()
_inherited: list[tuple[object, Identity | None]] = []
_forks = 0  # of which this process is the child


def forks() -> int:
    """It has changed in a child: Python tells us of a fork, so that nobody need ask the system."""
    return _forks


def note_open(store: object, file: Identity | None) -> None:
    """The store has opened this file."""
    _open[store] = file


def note_closed(store: object) -> None:
    """The store has let go of its file."""
    _open.pop(store, None)


def check_not_inherited(path: str) -> None:
    """Raise UsageError if the file was open when this process was forked."""
    file = identity(path)
    if file is not None and any(file == inherited for _, inherited in _inherited):
        raise UsageError(f"this file was open when the process was forked; {HINT}: {path}")


def _note_inherited() -> None:
    global _forks
    _forks += 1
    _inherited.extend(_open.items())
    _open.clear()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_note_inherited)
