"""What the test double tells about requests: counters, the log, and steps one after the other; also from a process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import couchbase.subdocument as sd
import pytest
from couchbase import options as opt
from couchbase.exceptions import AmbiguousTimeoutException

from casops.testing import CouchbaseProcess, CouchbaseServer
from casops.testing.couchbase_server.documents import vbucket_of
from casops.testing.couchbase_server.face import Face
from casops.testing.couchbase_server.topology import VBUCKETS
from casops.testing.couchbase_server.wire import HEADER
from tests.couchbase_sdk import BRIEF, collection, connected, connected_async


@pytest.fixture(params=[CouchbaseServer, CouchbaseProcess])
def server(request: pytest.FixtureRequest) -> Iterator[Face]:
    with request.param(scopes={"app": ["c0"]}, nodes=2) as server:
        yield server


def test_counters_and_the_log(server: Face) -> None:
    with connected(server) as cluster:
        col = collection(cluster, "app", "c0")
        col.upsert("k", {})
        server.clear_log()
        assert "SET" not in server.counters
        assert server.log == []
        col.upsert("k", {"v": 1})
        col.get("k")
        col.get("k")
        server.faults.add("drop_reply", opcode="REPLACE")
        with pytest.raises(AmbiguousTimeoutException):
            col.replace("k", 2, opt.ReplaceOptions(**BRIEF))
        counters = server.counters
        assert (counters["GET"].requests, counters["GET"].replies) == (2, 2)
        assert (counters["REPLACE"].requests, counters["REPLACE"].replies) == (1, 0)
        # header, flags and body, twice
        assert counters["GET"].bytes_out == 2 * (24 + 4 + len('{"v": 1}'))
        assert [(seen.opcode, seen.key) for seen in server.log] == [
            ("SET", "k"), ("GET", "k"), ("GET", "k"), ("REPLACE", "k")]  # fmt: skip
        assert sum(seen.size for seen in server.log) == sum(
            counters[name].bytes_in for name in ("SET", "GET", "REPLACE")
        )


def test_steps_of_the_sync_sdk(server: Face) -> None:
    """What goes out together is one step, however many keys and nodes; one after the other are several."""
    keys = [f"k{n}" for n in range(16)]
    with connected(server) as cluster:
        col = collection(cluster)
        col.upsert_multi(dict.fromkeys(keys, 1))
        with server.steps() as steps:
            col.get_multi(keys)
        assert steps.count == 1
        assert sorted(seen.key for seen in steps.requests[0]) == sorted(keys)
        assert {seen.node for seen in steps.requests[0]} == {0, 1}
        with server.steps() as steps:
            for key in keys[:3]:
                col.get(key)
        assert [[seen.key for seen in step] for step in steps.requests] == [["k0"], ["k1"], ["k2"]]
        with server.steps(quiet=1) as steps, ThreadPoolExecutor(16) as pool:
            list(pool.map(col.get, keys))
        assert steps.count == 1


async def test_steps_of_the_async_sdk(server: Face) -> None:
    async with connected_async(server) as cluster:
        col = collection(cluster)
        await col.upsert("k0", 1)
        await asyncio.gather(*(col.upsert(f"k{n}", {}) for n in range(17)))
        with server.steps() as steps:
            await asyncio.gather(*(col.get(f"k{n}") for n in range(17)))
            stages = [sd.upsert("stage", 1, xattr=True)]
            await asyncio.gather(*(col.mutate_in(f"k{n}", stages) for n in range(17)))
            assert steps.count == 2
        assert [{seen.opcode for seen in step} for step in steps.requests] == [{"GET"}, {"SUBDOC_MULTI_MUTATION"}]
        assert [len(step) for step in steps.requests] == [17, 17]


def test_steps_that_cannot_be_counted(server: Face) -> None:
    with pytest.raises(ValueError, match="quiet"), server.steps(quiet=0):
        pass
    with server.steps(), pytest.raises(ValueError, match="already"), server.steps():
        pass


def test_after_counting_steps_answers_come_at_once(server: Face) -> None:
    with connected(server) as cluster:
        col = collection(cluster)
        with server.steps(quiet=10) as steps, ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(col.upsert, "k", 1)
            while not steps.requests:
                pass
            assert steps.count == 0
            server.ask("end_steps")
            waiting.result(10)
            server.ask("begin_steps", quiet=0.01)
        col.get("k")


def test_what_a_process_is_told(server: Face) -> None:
    """The same commands, stopping and starting included."""
    with connected(server) as cluster:
        col = collection(cluster)
        col.upsert("a", 1)
        col.upsert("b", 1)
        ports = server.ports
        server.stop()
        assert server.start(lose=1) == 1
        assert server.ports == ports
        assert server.live_keys == ["_default._default/a"]
        server.add_collection("new", "c")
        collection(cluster, "new", "c").upsert("a", 1)
    for command, arguments in (("explode", {}), ("stop", {"now": True}), ("fault_hits", {"number": 99})):
        with pytest.raises((ValueError, TypeError, IndexError)):
            server.ask(command, **arguments)
    server.close()
    server.close()
    with pytest.raises(ValueError, match="closed"):
        server.ask("ports")


def test_two_processes_and_one_that_cannot_start() -> None:
    with CouchbaseProcess() as one, CouchbaseProcess() as two:
        assert one.url != two.url
        with pytest.raises(ValueError, match="address already in use"):
            CouchbaseProcess(port=one.ports[0])
    with pytest.raises(ValueError, match="1 to 3 nodes"):
        CouchbaseProcess(nodes=9)


def test_a_process_that_is_killed() -> None:
    server = CouchbaseProcess()
    subprocess.run(["kill", "-9", str(server.pid)], check=True)
    os.waitid(os.P_PID, server.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(ValueError, match="is gone"):
        server.ask("ports")
    with pytest.raises(RuntimeError, match="ended with -9"):
        server.close()


def test_the_command_prints_its_url_and_ends_when_asked() -> None:
    command = [sys.executable, "-m", "casops.testing", "couchbase", "--collection", "app.c0", "--user", "me"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("couchbase://me:password@127.0.0.1:")
        process.send_signal(2)
        assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == 0


@pytest.mark.parametrize("wrong", [["--collection", "nodot"], ["--nodes", "7"], ["--host", "no such host"]])
def test_the_command_says_what_is_wrong(wrong: list[str]) -> None:
    command = [sys.executable, "-m", "casops.testing", "couchbase", *wrong]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert run.returncode == 2
    assert run.stderr.startswith("cannot start: ")
    assert "Traceback" not in run.stderr


def test_the_control_channel_survives_what_makes_no_sense() -> None:
    with CouchbaseProcess() as server:
        lines = [b"{", b"[]\n", b"null\n", b'{"command": 1}\n', b'{"command": "stop", "arguments": 3}\n', b"\xff\n"]
        for line in [*lines, b"x" * 200_000 + b"\n"]:
            # A reset is what a line gets that is too long to be read to its end, whatever we are at by then.
            reset = contextlib.suppress(OSError) if len(line) > 100_000 else contextlib.nullcontext()
            with socket.create_connection(("127.0.0.1", server.control_port), 10) as channel, reset:
                channel.sendall(line)
                channel.shutdown(socket.SHUT_WR)
                answer = channel.makefile("rb").read()
                assert answer == b"" or b'"error"' in answer
        assert len(server.ports) == 1


PLUGIN_TEST = """
import pytest
from casops.testing import CouchbaseServer

def test_default(couchbase_server: CouchbaseServer) -> None:
    assert len(couchbase_server.ports) == 1

@pytest.mark.couchbase_server(nodes=3, bucket="shop")
def test_marked(couchbase_server: CouchbaseServer) -> None:
    assert len(couchbase_server.ports) == 3
    assert couchbase_server.url.endswith("/shop")
"""


def test_the_pytest_plugin(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["casops.testing.pytest_plugin"]')
    (tmp_path / "test_it.py").write_text(PLUGIN_TEST)
    command = [sys.executable, "-m", "pytest", "-q", "--strict-markers", "-p", "no:cacheprovider", "test_it.py"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert "2 passed" in run.stdout, run.stdout + run.stderr
    (tmp_path / "test_it.py").write_text(PLUGIN_TEST.replace("nodes=3", "3").replace('3, bucket="shop"', "3"))
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert "1 passed, 1 error" in run.stdout, run.stdout + run.stderr
    assert "couchbase_server takes its arguments by name" in run.stdout


def test_the_server_needs_neither_the_sdk_nor_pytest() -> None:
    code = "import sys, casops.testing; print({'couchbase', 'acouchbase', 'pytest'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_a_failure_of_the_double_itself_is_told() -> None:
    server = CouchbaseServer()
    server._loop.call_soon_threadsafe(lambda: 1 / 0)
    server.ask("ports")
    with pytest.raises(RuntimeError, match="itself failed 1 times"):
        server.close()


ORPHAN = """
import os
from casops.testing import CouchbaseProcess
print(CouchbaseProcess().ports[0], flush=True)
os._exit(0)
"""


def test_a_process_ends_with_the_one_that_started_it() -> None:
    run = subprocess.run([sys.executable, "-c", ORPHAN], capture_output=True, text=True, timeout=60, check=True)
    for _ in range(1_000):
        try:
            socket.create_connection(("127.0.0.1", int(run.stdout)), 10).close()
        except ConnectionRefusedError:
            return
        except ConnectionResetError:  # it ended just after it took the connection
            pass
        time.sleep(0.01)
    raise AssertionError("it still listens")


BROKEN = """
import sys
from casops.testing.__main__ import main
from casops.testing.couchbase_server.service import HANDLERS
HANDLERS[0] = lambda *_: 1 / 0
sys.exit(main(["couchbase", "--until-eof"]))
"""


def test_a_failure_of_the_process_itself_is_told() -> None:
    command = [sys.executable, "-c", BROKEN]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline().decode().rpartition(":")[2].partition("/")[0])
        with socket.create_connection(("127.0.0.1", port), 10) as it:
            for opcode, key, value in (
                (0x21, b"PLAIN", b"\0casops\0password"),
                (0x89, b"default", b""),
                (0, b"k", b""),
            ):
                size = len(key) + len(value)
                it.sendall(
                    HEADER.pack(0x80, opcode, len(key), 0, 0, vbucket_of(b"k", VBUCKETS), size, 0, 0) + key + value
                )
            while it.recv(4096):
                pass
        _, said = process.communicate(timeout=30)
    assert process.returncode == 1
    assert b"itself failed 1 times" in said
    assert b"ZeroDivisionError" in said
