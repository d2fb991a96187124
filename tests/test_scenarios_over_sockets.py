"""The stories again, over real sockets: the same commands lead to the same requests, answers and documents.

The protocol's store is Couchbase, sync and async.  A lost request or reply is lost on the wire: the server does (or
does not do) what it was asked for and says that nobody can tell.  Left out of the comparison is what must differ: CAS
values, and what the store would have answered where the reply was lost.

Must not be in here: stories.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from casops import messages as m
from casops.stores.opening import open_async_store, open_store
from casops.testing.couchbase_server import CouchbaseServer
from casops.testing.scenario import Scenario, play

FILES = sorted((Path(__file__).parent / "scenarios").glob("*.txt"))

# Of the story that is being told; the server looks at it.
NOW = [1_800_000_000.0]


@pytest.fixture(scope="module")
def server() -> Iterator[CouchbaseServer]:
    with CouchbaseServer(scopes={"_default": ["casops", "purses"]}, clock=lambda: NOW[0]) as server:
        yield server


class OverSockets(Scenario):
    """A world whose store is reached over a network."""

    def __init__(
        self, server: CouchbaseServer, prefix: str, perform: Callable[[Sequence[m.StoreRequest]], list[m.Reply]]
    ) -> None:
        super().__init__()
        self.store = Shelf(perform)
        self.server, self.prefix = server, prefix
        NOW[0] = self.clock.wall()

    def pass_time(self, seconds: float) -> None:
        NOW[0] = self.clock.wall() + seconds
        super().pass_time(seconds)

    def perform(self, name: str, request: m.StoreRequest, how: str) -> m.Reply:
        NOW[0] = self.clock.wall()
        if how != "reply lost":
            return super().perform(name, request, how)
        with self.fault("ambiguous"):
            reply = super().perform(name, request, how)
        assert isinstance(reply, m.Unknown)
        if not isinstance(request, m.Read | m.Scan):
            stored = self.store.versions().get(request.key)
            if stored != self.watcher.versions.get(request.key):
                self.watcher.wrote(request.key, stored)
        return reply

    def lose(self, request: m.StoreRequest, how: str) -> None:
        if how == "request lost":
            with self.fault("ambiguous_lost"):
                assert isinstance(self.store.perform_one(request), m.Unknown)

    @contextmanager
    def fault(self, kind: str) -> Iterator[None]:
        met = self.server.faults.add(kind, key=f"{self.prefix}*", count=None)  # type: ignore[arg-type]
        try:
            yield
        finally:
            assert met.hits > 0
            met.remove()


class Shelf:
    """The store of a story; everything it has ever been asked for can be looked at."""

    def __init__(self, perform: Callable[[Sequence[m.StoreRequest]], list[m.Reply]]) -> None:
        self._perform = perform
        self._keys: dict[m.Key, None] = {}

    def perform_one(self, request: m.StoreRequest) -> m.Reply:
        if isinstance(request, m.Scan):
            return self._all_pages()
        self._keys[request.key] = None
        return self._perform([request])[0]

    def versions(self) -> dict[m.Key, m.Version]:
        replies = self._perform([m.Read(key) for key in self._keys])
        assert all(isinstance(reply, m.Version | m.Missing) for reply in replies)
        return {key: each for key, each in zip(self._keys, replies, strict=True) if isinstance(each, m.Version)}

    def _all_pages(self) -> m.Reply:
        """The stories scan once and see all."""
        entries: list[m.Entry] = []
        cursor: str | None = ""
        while cursor is not None:
            (page,) = self._perform([m.Scan(cursor)])
            if not isinstance(page, m.Page):
                return page
            entries += page.entries
            cursor = page.next
        return m.Page(tuple(sorted(entries, key=lambda entry: entry.id)), None)


def without_numbers(told: str) -> list[str]:
    """The trace without CAS values and columns, and of a lost reply only the request."""
    lines: list[str] = []
    for line in told.splitlines():
        request, lost, _ = line.partition(" (reply lost)")
        if lost:  # the reply begins where the column of requests ends, or one blank after a longer request
            line = REPLY.sub(r"\1", request) + lost
        line = re.sub(r"\((\d+)\)", "(n)", re.sub(r"\b(at|stored) \d+", r"\1 n", line))
        lines.append(" ".join(line.split()))
    return lines


REPLY = re.compile(r"( read \S+) .*$| +(?:stored \d+|exists|mismatch|missing|unknown)$")


@pytest.mark.parametrize("face", ["sync", "async"])
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_scenario_leads_to_the_same_over_sockets(server: CouchbaseServer, file: Path, face: str) -> None:
    told = file.read_text(encoding="utf-8")
    prefix = f"{time.monotonic_ns()}-"
    url = f"{server.url}?prefix={prefix}"
    if face == "sync":
        store = open_store(url)
        now = play(told, OverSockets(server, prefix, store.perform))
        store.close()
    else:
        with asyncio.Runner() as runner:
            front = open_async_store(url)
            now = play(told, OverSockets(server, prefix, lambda batch: runner.run(front.perform(batch))))
            runner.run(front.close())
    assert without_numbers(now) == without_numbers(told)
