"""A process that was forked must not touch SQLite files of its parent, however many forks are between them.

Forks are real ones, in processes of their own.

Must not be in here: what a store does in one process (tests/test_sqlite_store.py).
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")

PROLOGUE = """
import os, sys
from casops.errors import UsageError
from casops.messages import *
from casops.stores.sqlite import SqliteStore
from casops.stores.sqlite_forks import forks

path, doc = sys.argv[1], Key("accounts", "alice")

def tell(*what):
    print(*what, flush=True)

def fork(program):
    child = os.fork()
    if child == 0:
        try:
            program()
        except BaseException as error:
            tell("failed", error)
        os._exit(0)
    os.waitpid(child, 0)

def opens(name):
    try:
        store = SqliteStore(name)
    except UsageError:
        return "refused"
    body = store.perform([Read(doc)])[0].body
    store.close()
    return body

def usable(store):
    try:
        return store.perform([Read(doc)])[0].body
    except UsageError as error:
        return str(error).partition(";")[0]
"""


def run(program: str, path: Path) -> list[str]:
    process = subprocess.run(
        [sys.executable, "-c", PROLOGUE + textwrap.dedent(program), str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.splitlines()


def test_every_fork_counts_in_the_child_alone(tmp_path: Path) -> None:
    program = """
        def child():
            tell("child", forks())
            fork(lambda: tell("grandchild", forks()))
            tell("child", forks())
        tell("parent", forks())
        fork(child)
        tell("parent", forks())
    """
    assert run(program, tmp_path / "bank.db") == ["parent 0", "child 1", "grandchild 2", "child 1", "parent 0"]


def test_what_was_open_at_any_fork_is_out_of_reach(tmp_path: Path) -> None:
    program = """
        store = SqliteStore(path)
        store.perform([Insert(doc, "parent's")])
        def child():
            own = SqliteStore(path + "2")
            own.perform([Insert(doc, "child's")])
            def grandchild():
                tell("grandchild", usable(store), usable(own), opens(path), opens(path + "2"))
            fork(grandchild)
            tell("child", usable(store), usable(own), opens(path))
            own.close()
            fork(lambda: tell("grandchild", opens(path + "2")))
        fork(child)
        tell("parent", usable(store))
    """
    before = "this store was opened before a fork"
    assert run(program, tmp_path / "bank.db") == [
        f"grandchild {before} {before} refused refused",
        f"child {before} child's refused",
        "grandchild child's",
        "parent parent's",
    ]


def test_closing_in_a_child_leaves_the_parent_its_file(tmp_path: Path) -> None:
    program = """
        store = SqliteStore(path)
        store.perform([Insert(doc, "parent's")])
        def child():
            store.close()
            tell("child", opens(path))
        fork(child)
        tell("parent", usable(store))
        store.close()
        fork(lambda: tell("child", opens(path)))
    """
    assert run(program, tmp_path / "bank.db") == ["child refused", "parent parent's", "child parent's"]
