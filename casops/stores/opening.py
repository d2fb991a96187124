"""From a URL to a store.

    memory://                                   gone with the process; each call gives a new one
    sqlite:///bank.db                           a path from the folder the process is in
    sqlite:////var/lib/bank.db                  four slashes: a path from the root
    sqlite:///bank.db?busy_timeout=5            seconds to wait for other processes
    ...?tombstones=2592000                      seconds a removed document still shows that it has moved
    couchbase://user:password@host/bucket       options: see casops.stores.couchbase_url; needs casops[couchbase]

In a path, % ? and # are written %25 %3F %23.

Must not be in here: what a store does.
"""

from __future__ import annotations

import math
from importlib import import_module
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

from casops.bounds import MOST
from casops.errors import UsageError
from casops.stores import AsyncStore, Store
from casops.stores.memory import AsyncMemoryStore, MemoryStore
from casops.stores.rows import TOMBSTONES
from casops.stores.sqlite import BUSY_TIMEOUT, AsyncSqliteStore, SqliteStore

__all__ = ["file_of", "open_async_store", "open_store"]

_COUCHBASE: Final = ("couchbase", "couchbases")


def open_store(url: str) -> Store:
    """The store a URL names.  UsageError: no such URL; StoreUnavailable: it cannot be opened."""
    couchbase = _couchbase(url)
    if couchbase is not None:
        found: Store = couchbase.open_couchbase(*_split(url))
        return found
    return _open(url)


def open_async_store(url: str) -> AsyncStore:
    """As open_store, for the async front.  Opens the file before it returns."""
    couchbase = _couchbase(url)
    if couchbase is not None:
        found: AsyncStore = couchbase.open_async_couchbase(*_split(url))
        return found
    store = _open(url)
    return AsyncMemoryStore(store) if isinstance(store, MemoryStore) else AsyncSqliteStore(store)


def file_of(url: str) -> str | None:
    """The path of the file that a URL names; None: it names no file.  Raises UsageError."""
    scheme, rest = _split(url)
    return _path(rest.partition("?")[0], url) if scheme == "sqlite" else None


def _split(url: str) -> tuple[str, str]:
    """Scheme and rest.  A message shows nothing of the rest where it may hold a password."""
    if not isinstance(url, str):
        raise UsageError(f"a store is named by a URL such as sqlite:///bank.db, not by {type(url).__name__}")
    scheme, found, rest = url.partition("://")
    if not found:
        raise UsageError(f"a store is named by a URL such as memory:// or sqlite:///bank.db, not {url!r}")
    if "#" in rest:
        shown = f"{scheme}://…" if scheme in _COUCHBASE else url
        raise UsageError(f"write # as %23 in the URL of a store: {shown!r}")
    return scheme, rest


def _couchbase(url: str) -> Any:
    """The module that opens such a URL, imported only when it is needed; None: it is not Couchbase's."""
    if _split(url)[0] not in _COUCHBASE:
        return None
    try:
        return import_module("casops.stores.couchbase_opening")
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith(("couchbase", "acouchbase")):
            raise
        raise UsageError("couchbase:// needs the Couchbase SDK: pip install 'casops[couchbase]'") from error


def _open(url: str) -> MemoryStore | SqliteStore:
    scheme, rest = _split(url)
    place, _, query = rest.partition("?")
    if scheme == "memory":
        if place:
            raise UsageError(f"memory:// takes no path: {url!r}")
        options = _options(query, {"tombstones": TOMBSTONES})
        return MemoryStore(tombstones=options["tombstones"])
    if scheme == "sqlite":
        options = _options(query, {"tombstones": TOMBSTONES, "busy_timeout": BUSY_TIMEOUT})
        return SqliteStore(_path(place, url), tombstones=options["tombstones"], busy_timeout=options["busy_timeout"])
    raise UsageError(f"no store is called {scheme}://; there are memory://, sqlite:/// and couchbase://")


def _path(place: str, url: str) -> str:
    if not place.startswith("/"):
        raise UsageError(f"write three slashes before a path, four if it begins at the root: sqlite:///{place}")
    try:
        path = unquote(place.removeprefix("/"), errors="strict")
    except UnicodeDecodeError as error:
        raise UsageError(f"the path in {url!r} is not UTF-8") from error
    if not path:
        raise UsageError("sqlite:/// needs the path of a file, such as sqlite:///bank.db")
    if "\0" in path:
        raise UsageError(f"a path cannot have a NUL: {url!r}")
    return path


def _options(query: str, defaults: dict[str, float]) -> dict[str, float]:
    """Each option in seconds; given once, finite, not negative, tombstones not zero."""
    options = dict(defaults)
    given: set[str] = set()
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
    except ValueError as error:
        raise UsageError(f"options are written name=value&name=value, not {query!r}") from error
    for name, text in pairs:
        if name not in defaults:
            raise UsageError(f"unknown option {name!r}; there are: {', '.join(sorted(defaults))}")
        if name in given:
            raise UsageError(f"option {name!r} is given twice")
        given.add(name)
        options[name] = _seconds(name, text)
    return options


def _seconds(name: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= MOST or (name == "tombstones" and seconds == 0):
        at_least = "more than 0" if name == "tombstones" else "0 or more"
        raise UsageError(f"option {name!r} is a number of seconds, {at_least} and at most fifty years, not {text!r}")
    return seconds
