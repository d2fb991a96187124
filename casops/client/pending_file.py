"""The pending table on a disk, so that a client that was killed knows what it had asked for.

JSON lines, only ever appended to: `asks` before the first message of an operation leaves (on the disk before it is
sent), `ends` after its caller has had the answer.  A lost `ends` costs one question more, so the disk is not waited
for: the next `asks` brings it there, too.  The last line may be torn; the file is written anew, without what has ended,
when it is opened and when it has grown.

A write that failed may be on the disk nevertheless, or get there later, and after a failed fsync nobody knows what the
disk has of all that came before.  So the file is not trusted any more: the next line is not appended, but all of it
written anew.

The arguments of operations are in it, in plain text.  A forked child has no part in it.

Must not be in here: what is done about an operation; event loops (pending_list.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import threading
import time
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from casops.client.pending import Asked
from casops.errors import StoreUnavailable, UsageError

# Lines of ended operations before the file is written anew: some MB, written in a moment.
MOST_DEAD_LINES = 10_000

# Where it took long (seconds) to write all of it anew, in vain: times as long until that is tried again, so that
# callers of a full disk hear at once, and of all time a tenth is lost.
LONG, FUTILE = 0.01, 9


class _Unchanged(OSError):
    """A line could not be written, and nothing is left of it."""


class PendingFile:
    """One file, one client at a time; may be called by several threads.

    Raises UsageError if another client has it or if it is not such a file, StoreUnavailable if the disk does not take
    it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = self._guard = -1
        self._path = Path(os.path.realpath(path))  # the same file wherever the process goes
        # The lock is on a file of its own: the other one is replaced by a new one now and then.
        self._guard_path = self._path.with_name(self._path.name + ".lock")
        self._lock = threading.Lock()
        self._live: dict[str, Asked] = {}
        self._dead = 0
        self._trusted = False  # the file says what `_live` says
        self._synced = False  # and so does the disk
        self._not_before = 0.0  # monotonic seconds: when writing all of it anew may be tried again
        if self._path.exists() and not self._path.is_file():
            # A device would be replaced by a file, and a pipe never ends.
            raise UsageError(f"the pending list {self._path} is not a file: name one, or a path where there is none")
        try:
            self._guard = os.open(self._guard_path, os.O_CREAT | os.O_RDWR, 0o600)
        except OSError as error:
            raise UsageError(f"the pending list {self._path} cannot be opened: {error}") from None
        _open.add(self)
        try:
            self._take_guard()
            self._live = self._read()
            self._rewrite()
            self._trusted = True
        except OSError as error:
            self._let_go()
            raise StoreUnavailable(f"the pending list {self._path} could not be written: {error}") from None
        except BaseException:
            self._let_go()
            raise

    def waiting(self) -> list[Asked]:
        """What an earlier life asked for and did not hand over."""
        return list(self._live.values())

    def asks(self, asked: Asked) -> bool:
        """Note it.  When this returns it is on the disk, and so is every `ends` before it.  Gives whether it is new."""
        with self._lock:
            known = asked.operation_id in self._live
            self._live.setdefault(asked.operation_id, asked)
            try:
                self._say("" if known else _asks(asked), sync=True)
                return not known
            except OSError as error:
                if not known:
                    del self._live[asked.operation_id]
                self._trusted = self._trusted or isinstance(error, _Unchanged)
                raise StoreUnavailable(
                    f"the pending list {self._path} could not be written ({error}); nothing was sent",
                    operation_id=asked.operation_id,
                ) from None

    def ends(self, operation_id: str) -> None:
        """It was answered and handed over.  What cannot be written now is with the next `asks`, or `close`."""
        with self._lock:
            if self._live.pop(operation_id, None) is None and self._trusted:
                return
            self._dead += 1
            with contextlib.suppress(OSError):
                self._say(json.dumps({"ends": operation_id}), sync=False)

    def is_true(self) -> bool:
        """Whether the file says what was told here (not: whether it is on the disk)."""
        with self._lock:
            return self._trusted and self._file >= 0

    def close(self) -> None:
        with self._lock:  # a descriptor may belong to somebody else as soon as it is closed
            if not self._trusted:
                self._not_before = 0.0
                with contextlib.suppress(OSError):
                    self._say("", sync=False)
            self._let_go()

    def __del__(self) -> None:
        self._let_go()  # a client that was forgotten must not keep the list from the next one

    def let_go_in_child(self) -> None:
        """The parent goes on with it; here the lock may be held by a thread that stayed behind."""
        self._lock = threading.Lock()
        self._let_go()

    def _let_go(self) -> None:
        handles, self._file, self._guard = (self._file, self._guard), -1, -1  # never twice: it may be another's by then
        for each in handles:
            if each < 0:
                continue
            try:
                os.close(each)
            except OSError:  # what a disk tells only now was not waited for
                continue

    def _take_guard(self) -> None:
        try:
            fcntl.flock(self._guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(f"another client has the pending list {self._path}: give each client its own") from None

    def _read(self) -> dict[str, Asked]:
        live: dict[str, Asked] = {}
        try:
            lines = self._path.read_bytes().split(b"\n") if self._path.exists() else []
        except OSError as error:
            raise UsageError(f"the pending list {self._path} cannot be read: {error}") from None
        for number, line in enumerate(lines, 1):
            try:
                _apply(live, json.loads(line))
            except (ValueError, TypeError, KeyError, RecursionError):
                # Nothing was sent for a torn line: it was not on the disk when the client died.
                if number < len(lines) or (number == 1 and not _may_be_ours(line)):
                    raise UsageError(
                        f"line {number} of {self._path} cannot be read: changed by something else. Mend or remove it"
                    ) from None
        return live

    def _say(self, line: str, *, sync: bool) -> None:
        """Have the file say what `_live` says by now: with this line, or with all of it.  Raises OSError."""
        whole, self._trusted = not self._trusted, False  # until it is done
        self._check_there()
        if whole:
            self._renew()
        elif not (self._dead > MOST_DEAD_LINES and self._dead > len(self._live) and self._tidied()):
            self._append(line, sync=sync)
        self._trusted = True

    def _renew(self) -> None:
        began = time.monotonic()
        if began < self._not_before:
            raise OSError("it could not be written anew a moment ago")
        try:
            self._rewrite()
        except OSError:
            took = time.monotonic() - began
            self._not_before = time.monotonic() + (FUTILE * took if took > LONG else 0.0)
            raise

    def _tidied(self) -> bool:
        """Whether the file was written anew without what has ended.  Where that cannot be it goes on growing."""
        try:
            self._rewrite()
        except OSError:
            if self._dead == 0:
                raise  # it was, but whether the disk knows is not certain
            self._dead //= 2  # another time
            return False
        return True

    def _check_there(self) -> None:
        """Whether whoever opens the list next finds what is written here, and is kept out until then."""
        if self._file < 0:
            raise OSError("it is closed")
        for path, handle in ((self._path, self._file), (self._guard_path, self._guard)):
            try:
                there = os.path.samestat(os.stat(path), os.fstat(handle))
            except FileNotFoundError:
                there = False
            if not there:
                raise OSError(f"{path.name} was moved, removed or replaced while it was open")

    def _append(self, line: str, *, sync: bool) -> None:
        before = os.fstat(self._file).st_size
        if line:
            data = line.encode() + b"\n"
            self._synced = False
            try:
                written = os.write(self._file, data)
                if written < len(data):
                    raise OSError(f"{written} of {len(data)} bytes were written")
            except OSError as error:
                os.ftruncate(self._file, before)
                raise _Unchanged(*error.args) from None
        if sync and not self._synced:
            try:
                os.fsync(self._file)
                self._synced = True
            except OSError:
                # At once: a client that dies now must not ask for what its caller was told was not sent.
                with contextlib.suppress(OSError):
                    os.ftruncate(self._file, before)
                raise

    def _rewrite(self) -> None:
        fresh = self._path.with_name(self._path.name + ".new")
        try:
            _write_whole(fresh, (_asks(each) for each in self._live.values()))
            renewed = os.open(fresh, os.O_WRONLY | os.O_APPEND)
            try:
                os.replace(fresh, self._path)
            except OSError:
                os.close(renewed)
                raise
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(fresh)  # it takes room
            raise
        # From here on the old file has no name: what is appended to it is lost.
        old, self._file, self._dead = self._file, renewed, 0
        if old >= 0:
            os.close(old)
        _sync_folder(self._path.parent)
        self._synced = True


_open: weakref.WeakSet[PendingFile] = weakref.WeakSet()


def _let_go_in_child() -> None:
    for each in list(_open):
        each.let_go_in_child()


os.register_at_fork(after_in_child=_let_go_in_child)


def _asks(asked: Asked) -> str:
    told = dataclasses.asdict(asked)
    return json.dumps({"asks": told.pop("operation_id"), **told})


def _apply(live: dict[str, Asked], line: Any) -> None:
    if "ends" in line:
        live.pop(line["ends"], None)
        return
    texts = [line[each] for each in ("asks", "operation", "fingerprint", "arguments")]
    if not all(isinstance(each, str) for each in texts):
        raise ValueError("not texts")
    operation_id, operation, fingerprint, arguments = texts
    live[operation_id] = Asked(operation_id, operation, fingerprint, arguments, float(line["at"]))


def _may_be_ours(line: bytes) -> bool:
    """Whether it may be a line of ours that was torn: another program's file is not to be emptied."""
    begun = line.rstrip(b"\0")  # what some file systems leave of what was not written
    return any(begun.startswith(each) or each.startswith(begun) for each in (b'{"asks": ', b'{"ends": '))


def _write_whole(path: Path, lines: Iterable[str]) -> None:
    file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    with open(file, "w", encoding="utf-8") as text:
        text.writelines(line + "\n" for line in lines)
        text.flush()
        os.fsync(text.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
