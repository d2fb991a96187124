"""URLs of stores, and a SQLite file that cannot be opened: each says what happened and what to do.

Must not be in here: what an open store does.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from casops.errors import StoreUnavailable, UsageError
from casops.messages import Insert, Key, Read, Stored, Version
from casops.stores.memory import AsyncMemoryStore, MemoryStore
from casops.stores.opening import open_async_store, open_store
from casops.stores.sqlite import AsyncSqliteStore, SqliteStore

DOC = Key("accounts", "alice")


# --- URLs -----------------------------------------------------------------------------------------


def test_memory_is_a_new_store_each_time() -> None:
    first, second = open_store("memory://"), open_store("memory://?tombstones=60")
    assert isinstance(first, MemoryStore)
    first.perform([Insert(DOC, "1")])
    assert second.perform([Read(DOC)]) != first.perform([Read(DOC)])
    assert isinstance(open_async_store("memory://"), AsyncMemoryStore)


@pytest.mark.parametrize(
    ("name", "written"),
    [("bank.db", "bank.db"), ("a b?#%.db", "a%20b%3F%23%25.db"), ("äö.db", "äö.db"), ("äö.db", "%C3%A4%C3%B6.db")],
)
@pytest.mark.parametrize("absolute", [True, False])
def test_the_path_of_a_sqlite_url(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, written: str, absolute: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_store(f"sqlite:///{tmp_path}/{written}" if absolute else f"sqlite:///{written}")
    assert isinstance(store.perform([Insert(DOC, "1")])[0], Stored)
    store.close()
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_a_relative_path_is_kept_when_the_process_changes_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with closing(open_store("sqlite:///bank.db?busy_timeout=0.5&tombstones=60")) as store:
        monkeypatch.chdir("/")
        assert isinstance(store.perform([Insert(DOC, "1")])[0], Stored)


def test_the_async_front_is_opened_outside_of_a_loop(tmp_path: Path) -> None:
    store = open_async_store(f"sqlite:///{tmp_path}/bank.db")
    assert isinstance(store, AsyncSqliteStore)
    asyncio.run(store.close())


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("", "a URL such as"),
        ("bank.db", "a URL such as"),
        ("sqlite:bank.db", "a URL such as"),
        ("sqlite://bank.db", "three slashes"),
        ("sqlite://", "three slashes"),
        ("sqlite:///", "needs the path"),
        ("sqlite:///?tombstones=5", "needs the path"),
        ("sqlite:///:memory:", "memory://"),
        ("sqlite:///a%00b", "NUL"),
        ("sqlite:///a%ff", "not UTF-8"),
        ("sqlite:///bank.db#x", "%23"),
        ("sqlite:///bank.db?timeout=5", "unknown option 'timeout'; there are: busy_timeout, tombstones"),
        ("sqlite:///bank.db?busy_timeout", "name=value"),
        ("sqlite:///bank.db?busy_timeout=", "0 or more"),
        ("sqlite:///bank.db?busy_timeout=soon", "0 or more"),
        ("sqlite:///bank.db?busy_timeout=-1", "0 or more"),
        ("sqlite:///bank.db?busy_timeout=nan", "0 or more"),
        ("sqlite:///bank.db?busy_timeout=inf", "0 or more"),
        ("sqlite:///bank.db?tombstones=0", "more than 0"),
        ("sqlite:///bank.db?tombstones=1e19", "at most fifty years"),
        ("sqlite:///bank.db?tombstones=1&tombstones=2", "twice"),
        ("memory://bank", "no path"),
        ("memory://?busy_timeout=5", "unknown option"),
        ("couchbase://localhost/bank", "couchbase://user:password@host/bucket, with @"),
        ("couchbases://localhost/bank", "couchbases://user:password@host/bucket, with @"),
        ("couchbase://", "is named"),
        ("couchbase://user@host/bank", "is named"),
        ("couchbase://:password@host/bank", "is named"),
        ("couchbase://user:password@host", "is named"),
        ("couchbase://user:password@host/", "is named"),
        ("couchbase://user:password@host/bank/accounts", "is named"),
        ("couchbase://user:password@ho st/bank", "hosts are written"),
        ("couchbase://user:password@/bank", "hosts are written"),
        ("couchbase://user:p%ff@host/bank", "percent-encoded UTF-8"),
        ("couchbase://user:password@host/bank#x", "%23"),
        ("couchbase://user:password@host/bank?scope", "name=value"),
        ("couchbase://user:password@host/bank?size=5", "unknown option 'size'; there are: certificate, collection,"),
        ("couchbase://user:password@host/bank?scope=a&scope=b", "twice"),
        ("couchbase://user:password@host/bank?scope=_app", "no scope or collection of the name '_app'"),
        ("couchbase://user:password@host/bank?collection=a.b", "no scope or collection of the name 'a.b'"),
        ("couchbase://user:password@host/bank?records=a.b.c", "no scope or collection of the name 'b.c'"),
        ("couchbase://user:password@host/bank?records=", "no scope or collection of the name ''"),
        ("couchbase://user:password@host/bank?create=a,b c", "no scope or collection of the name 'b c'"),
        ("couchbase://user:password@host/bank?prefix=a%00b", "printable"),
        ("couchbase://user:password@host/bank?prefix=aaaaaaaaaaaaaaaaaaaaaaaaa", "24 bytes"),
        ("couchbase://user:password@host/bank?durability=all", "one of none, majority,"),
        ("couchbase://user:password@host/bank?timeout=0", "more than 0"),
        ("couchbase://user:password@host/bank?timeout=soon", "more than 0"),
        ("couchbase://user:password@host/bank?timeout=inf", "more than 0"),
        ("couchbase://user:password@host/bank?timeout=4000", "more than 0"),
        ("couchbase://user:password@host/bank?certificate=ca.pem", "couchbases://"),
        ("postgres://localhost/bank", "no store is called postgres://"),
    ],
)
def test_a_url_that_cannot_be_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, sentence: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r".") as error:
        open_store(url)
    assert sentence in str(error.value)
    assert "password@" not in str(error.value) or "user:password@host/bucket" in str(error.value)
    with pytest.raises(UsageError):
        open_async_store(url)
    assert list(tmp_path.iterdir()) == []


# --- files that cannot be opened --------------------------------------------------------------------


def unavailable(path: Path) -> str:
    with pytest.raises(StoreUnavailable) as error:
        SqliteStore(path)
    assert str(path) in str(error.value) or str(path.parent) in str(error.value)
    return str(error.value)


def test_a_missing_folder_is_named_and_not_created(tmp_path: Path) -> None:
    assert "folder does not exist, create it first" in unavailable(tmp_path / "nowhere" / "bank.db")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_or_a_pipe_is_not_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "not a file" in unavailable(tmp_path)
    assert "not a file" in unavailable(tmp_path / "pipe")


def test_a_path_through_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert "cannot be used" in unavailable(tmp_path / "file" / "bank.db")


def test_the_empty_path_and_memory_are_wrong_use() -> None:
    for path in ("", ":memory:"):
        with pytest.raises(UsageError, match="memory://"):
            SqliteStore(path)


@pytest.mark.parametrize("content", [b"dear diary\n", b"x" * 10_000, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_file_that_is_not_a_database_is_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bank.db"
    path.write_bytes(content)
    assert "not a SQLite database" in unavailable(path) or "damaged" in unavailable(path)
    assert path.read_bytes() == content
    assert [file.name for file in tmp_path.iterdir()] == ["bank.db"]


@pytest.mark.parametrize(
    "statement",
    ["CREATE TABLE documents (x)", "PRAGMA application_id = 252006674", "PRAGMA user_version = 3"],
)
def test_a_database_of_another_program_is_left_alone(tmp_path: Path, statement: str) -> None:
    path = tmp_path / "bank.db"
    with closing(sqlite3.connect(path)) as other:
        other.execute(statement)
    content = path.read_bytes()
    assert "belongs to another program" in unavailable(path)
    assert path.read_bytes() == content
    assert [file.name for file in tmp_path.iterdir()] == ["bank.db"]


def test_an_empty_file_becomes_a_store(tmp_path: Path) -> None:
    path = tmp_path / "bank.db"
    path.touch()
    with closing(SqliteStore(path)) as store:
        assert isinstance(store.perform([Insert(DOC, "1")])[0], Stored)


def test_a_creation_that_broke_off_is_taken_up(tmp_path: Path) -> None:
    path = tmp_path / "bank.db"
    with closing(sqlite3.connect(path)) as first:
        first.execute("PRAGMA journal_mode = WAL")
    with closing(SqliteStore(path)) as store:
        assert isinstance(store.perform([Insert(DOC, "1")])[0], Stored)


def test_a_newer_format_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "bank.db"
    SqliteStore(path).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as newer:
        newer.execute("UPDATE meta SET schema = 2")
    assert "newer casops" in unavailable(path)
    assert "newer casops" in unavailable(path)


def test_a_database_that_is_locked_for_too_long(tmp_path: Path) -> None:
    path = tmp_path / "bank.db"
    SqliteStore(path).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="busy"):
            SqliteStore(path, busy_timeout=0)
        other.execute("ROLLBACK")
    SqliteStore(path, busy_timeout=0).close()


def run(program: str, *arguments: object) -> str:
    """What a Python of its own prints."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that every user may enter; pytest closes its own to others, again whenever a pytest starts."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)
        Path(name).chmod(0o755)


@pytest.mark.parametrize("what", ["new", "file", "folder"])
def test_where_nothing_may_be_written(place: Path, what: str) -> None:
    path = place / "bank.db"
    if what != "new":
        with closing(SqliteStore(path)) as store:
            store.perform([Insert(DOC, "1")])
    if what == "file":
        path.chmod(0o444)
    else:
        place.chmod(0o555)
    content = path.read_bytes() if path.exists() else None
    # Root may write anywhere, so a root that runs the tests becomes nobody first.
    said = run(
        """
        import os, sys
        from casops.errors import StoreUnavailable
        from casops.stores.sqlite import SqliteStore
        if os.getuid() == 0:
            os.setuid(65534)
        try:
            SqliteStore(sys.argv[1])
        except StoreUnavailable as error:
            print(error)
        """,
        path,
    )
    assert str(path) in said
    assert "may not be written by this user" in said or "cannot be opened by this user" in said
    place.chmod(0o755)
    assert (path.read_bytes() if path.exists() else None) == content
    if content is not None:
        path.chmod(0o644)
        with closing(SqliteStore(path)) as store:
            (version,) = store.perform([Read(DOC)])
            assert isinstance(version, Version)


def test_no_room_for_a_new_database(tmp_path: Path) -> None:
    path = tmp_path / "bank.db"
    said = run(
        """
        import resource, sys
        from casops.errors import StoreUnavailable
        from casops.stores.sqlite import SqliteStore
        resource.setrlimit(resource.RLIMIT_FSIZE, (6000, resource.RLIM_INFINITY))  # Python ignores SIGXFSZ
        try:
            SqliteStore(sys.argv[1])
        except StoreUnavailable as error:
            print(error)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        SqliteStore(sys.argv[1]).close()
        """,
        path,
    )
    assert str(path) in said
    assert "limit on file sizes" in said or "disk is full" in said
