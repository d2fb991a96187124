"""The client at its edges: the pending file, a full disk, Ctrl-C, forks, event loops, programs that forget to close."""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from casops import Closed, InvariantViolation, Operation, OutcomeUnknown, StoreUnavailable, UsageError
from casops.client import AsyncClient, Client, ClientOptions, Notice, pending_file
from casops.client.pending import Asked
from casops.client.pending_file import PendingFile
from casops.wire import PROBLEM_URN
from tests.bank import Account, Echo, Transfer
from tests.client_bank import Bank, noted, waiting
from tests.faulty_proxy import FaultyProxy
from tests.service_process import PATIENCE, free_port
from tests.serving import until


def asked(operation_id: str) -> Asked:
    return Asked(operation_id, "Echo", "f", '{"value":"ü\\n"}', 1.5)


# --- the pending file -------------------------------------------------------------------------


def test_what_was_asked_and_not_ended_is_there_after_opening_again(tmp_path: Path) -> None:
    path = tmp_path / "pending.jsonl"
    file = PendingFile(path)
    for each in ("a", "b", "c"):
        file.asks(asked(each))
    file.asks(asked("a"))  # a second caller
    file.ends("b")
    file.ends("never asked")
    file.close()
    assert len(path.read_text().splitlines()) == 4
    again = PendingFile(path)
    assert again.waiting() == [asked("a"), asked("c")]
    assert len(path.read_text().splitlines()) == 2
    again.close()


def test_an_id_that_ended_may_be_asked_for_again(tmp_path: Path) -> None:
    path = tmp_path / "pending.jsonl"
    file = PendingFile(path)
    file.asks(asked("a"))
    file.ends("a")
    file.asks(asked("a"))
    file.close()
    assert waiting(path) == ["a"]


@pytest.mark.parametrize("torn", ['{"asks": "b", "oper', '{"ends": "a"', "\x00\x00\x00", "{}", '{"asks": 1}'])
def test_a_torn_last_line_was_never_sent(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "pending.jsonl"
    file = PendingFile(path)
    file.asks(asked("a"))
    file.close()
    with path.open("a") as text:
        text.write(torn)
    assert waiting(path) == ["a"]


@pytest.mark.parametrize("torn", ["", "{", '{"asks": "b", "oper', "\x00\x00\x00"])
def test_a_torn_line_may_be_the_only_one(tmp_path: Path, torn: str) -> None:
    (tmp_path / "pending.jsonl").write_text(torn)
    assert waiting(tmp_path / "pending.jsonl") == []


@pytest.mark.parametrize("foreign", ['{"important": "settings"}', "rubbish", "{}", '[{"asks": 1}'])
def test_the_file_of_another_program_is_not_emptied(tmp_path: Path, foreign: str) -> None:
    path = tmp_path / "settings.json"
    path.write_text(foreign)
    with pytest.raises(UsageError, match="line 1 of"):
        PendingFile(path)
    assert path.read_text() == foreign


@pytest.mark.parametrize("broken", ["rubbish", '{"asks": 1}', "[]", "1", '{"asks": "a"}', "\xff", "[" * 100_000])
def test_a_broken_line_in_the_middle_is_not_guessed_at(tmp_path: Path, broken: str) -> None:
    path = tmp_path / "pending.jsonl"
    path.write_text(f'{broken}\n{{"ends": "a"}}\n', encoding="latin-1")
    with pytest.raises(UsageError, match="line 1 of"):
        PendingFile(path)
    assert path.read_text(encoding="latin-1").startswith(broken)
    path.unlink()
    assert waiting(path) == []  # the failed opening let go of the lock


def test_the_file_is_written_anew_when_it_has_grown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending_file, "MOST_DEAD_LINES", 5)
    path = tmp_path / "pending.jsonl"
    file = PendingFile(path)
    file.asks(asked("stays"))
    for each in range(100):
        file.asks(asked(f"i{each}"))
        file.ends(f"i{each}")
    file.close()
    assert len(path.read_text().splitlines()) < 20
    assert waiting(path) == ["stays"]


@pytest.mark.parametrize("step", ["_write_whole", "_sync_folder", "os.replace"])
def test_a_file_that_cannot_be_written_anew_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Neither before the new file has taken the place of the old one, nor after."""
    refused: list[str] = []

    def no_room(*_: object) -> None:
        refused.append(step)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pending_file, "MOST_DEAD_LINES", 0)
    path = tmp_path / "pending.jsonl"
    file = PendingFile(path)
    file.asks(asked("a"))
    with monkeypatch.context() as patch:
        patch.setattr(f"casops.client.pending_file.{step}", no_room)
        file.ends("a")
    assert refused == [step]
    file.asks(asked("b"))
    file.close()
    assert waiting(path) == ["b"]


def test_the_file_is_not_closed_under_somebody_who_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of a closed descriptor may be that of another file a moment later."""
    file = PendingFile(tmp_path / "pending.jsonl")
    locked: list[bool] = []
    close = os.close

    def closing(descriptor: int) -> None:
        locked.append(file._lock.locked())
        close(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "close", closing)
        file.close()
    assert locked == [True, True]


async def test_an_error_of_one_call_does_not_take_the_operation_off_the_list_for_another(tmp_path: Path) -> None:
    path = tmp_path / "pending.jsonl"
    told = iter([(503, "contended", {"retry-after": "60"}), (422, "usage", dict[str, str]())])

    def reply(request: httpx.Request) -> httpx.Response:
        status, kind, headers = next(told)
        headers["casops-message"] = request.headers["casops-message"]
        return httpx.Response(status, json={"type": PROBLEM_URN + kind, "happened": "no"}, headers=headers)

    def connect(url: str) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=url, transport=httpx.MockTransport(reply))

    options = ClientOptions(deadline=120)
    async with AsyncClient(["http://a"], options=options, pending=path, connect=connect) as client:
        first = asyncio.create_task(client.run(Echo(value=1), operation_id="i"))
        await until(lambda: client.counters.messages == 1 and client._desk.servers.all[0].in_flight == 0)
        with pytest.raises(UsageError):
            await client.run(Echo(value=1), operation_id="i")
        first.cancel()
        await asyncio.wait([first])
    assert waiting(path) == ["i"]


def test_the_list_is_the_same_file_wherever_the_process_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pending_file, "MOST_DEAD_LINES", 0)
    file = PendingFile("pending.jsonl")
    for each in ("a", "b", "c"):
        file.asks(asked(each))
    monkeypatch.chdir(tmp_path / "elsewhere")
    for each in ("a", "b"):
        file.ends(each)  # written anew
    file.close()
    assert os.listdir(tmp_path / "elsewhere") == []
    assert waiting(tmp_path / "pending.jsonl") == ["c"]


def test_a_list_that_nobody_holds_any_more_is_free(tmp_path: Path) -> None:
    PendingFile(tmp_path / "p").asks(asked("a"))  # and forgotten
    gc.collect()
    assert waiting(tmp_path / "p") == ["a"]


def test_a_forked_child_neither_holds_nor_writes_the_list(tmp_path: Path) -> None:
    path = tmp_path / "p"
    program = (
        "import os, sys, time\n"
        "from casops import CasOpsError\n"
        "from casops.client.pending import Asked\n"
        "from casops.client.pending_file import PendingFile\n"
        "file = PendingFile(sys.argv[1])\n"
        "file._lock.acquire()  # a thread that stays behind\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    try: file.asks(Asked('child', 'Act', 'f', '{}', 0.0))\n"
        "    except CasOpsError as error: print(error, flush=True)\n"
        "    file.ends('parent')\n"
        "    os.read(0, 1)\n"
        "    os._exit(0)\n"
        "file._lock.release()\n"
        "file.asks(Asked('parent', 'Act', 'f', '{}', 0.0))\n"
        "print('asked', flush=True)\n"
        "os._exit(0)"
    )
    command = [sys.executable, "-c", program, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.wait(PATIENCE) == 0
        until = time.monotonic() + PATIENCE
        while True:  # it has the guard of the list, too, until it has come to its first line
            try:
                assert waiting(path) == ["parent"]  # while the child lives
            except UsageError:
                assert time.monotonic() < until
                time.sleep(0.01)
            else:
                break
        told, _ = process.communicate("\n", timeout=PATIENCE)
    assert "nothing was sent" in told


def test_a_place_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be opened"):
        PendingFile(tmp_path / "missing" / "pending.jsonl")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match="is not a file"):
        PendingFile(tmp_path / "folder")


@contextmanager
def full_disk(room: int) -> Iterator[None]:
    """Files may have so many bytes: a write beyond is cut short, then refused, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_a_full_disk_is_told_before_anything_is_sent(tmp_path: Path) -> None:
    path = tmp_path / "pending.jsonl"
    file = PendingFile(path)
    file.asks(asked("a"))
    with full_disk(path.stat().st_size + 10), pytest.raises(StoreUnavailable, match="nothing was sent") as error:
        file.asks(asked("b"))
    assert error.value.operation_id == "b"
    with full_disk(path.stat().st_size + 5):
        file.ends("a")  # cannot be written either: it is with the next
    file.asks(asked("c"))
    file.close()
    assert [json.loads(line).get("asks") for line in path.read_text().splitlines()] == ["c"]
    assert waiting(path) == ["c"]


async def test_a_call_that_cannot_be_noted_is_not_sent(tmp_path: Path) -> None:
    path = tmp_path / "pending.jsonl"
    with FaultyProxy(free_port()) as proxy:
        async with AsyncClient([proxy.url], pending=path) as client:
            with full_disk(10), pytest.raises(StoreUnavailable, match="nothing was sent"):
                await client.run(Echo(value=1), operation_id="i")
            assert client.pending() == []  # a full disk must not fill the table
        assert proxy.posts == []


class Changed(Operation[int], name="Echo"):
    other: int


@pytest.mark.parametrize("operations", [[], [Changed]], ids=["unknown", "changed"])
async def test_what_cannot_be_asked_again_may_have_happened(
    tmp_path: Path, operations: list[type[Operation[Any]]]
) -> None:
    noted(tmp_path / "p", {"1": 1})
    async with Bank(**{"1": 1}).client(pending=tmp_path / "p", operations=operations) as client:
        (left,) = (await client.recover()).left
        assert isinstance(left.error, UsageError)
        assert (left.error.happened, left.error.retry) == (None, True)
    assert waiting(tmp_path / "p") == ["1"]


async def test_what_recover_has_found_out_stays_on_the_list_until_it_is_handed_over(tmp_path: Path) -> None:
    noted(tmp_path / "p", {"1": 1, "2": 2})
    bank = Bank(**{"1": 1, "2": 2})
    bank.held.add("2")
    async with bank.client(pending=tmp_path / "p") as client:
        recovering = asyncio.create_task(client.recover())
        while len(bank.asked) < 2 or client.counters.answers < 1:
            await asyncio.sleep(0.001)
        recovering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await recovering
        assert {each.operation_id for each in client.pending()} == {"1", "2"}
    assert waiting(tmp_path / "p") == ["1", "2"]
    bank.held.clear()
    async with bank.client(pending=tmp_path / "p") as client:
        recovered = await client.recover()
        assert [(each.operation_id, each.value) for each in recovered.finished] == [("1", 1), ("2", 2)]
        assert client.pending() == []
    assert waiting(tmp_path / "p") == []


TRANSFER = Transfer(source=Account.ref("alice"), target=Account.ref("bob"), amount="1")


async def test_a_result_that_does_not_fit_stays_on_the_list(tmp_path: Path) -> None:
    """Somebody mends the program and asks again."""
    bank = Bank(t=[])
    async with bank.client(pending=tmp_path / "p") as client:
        with pytest.raises(InvariantViolation, match="it happened"):
            await client.run(TRANSFER, operation_id="t")
        assert [each.operation_id for each in client.pending()] == ["t"]
    assert waiting(tmp_path / "p") == ["t"]


async def test_a_client_closed_in_another_event_loop_lets_go_of_its_list(tmp_path: Path) -> None:
    bank = Bank(i=1)
    client = bank.client(pending=tmp_path / "p")
    bank.held.add("i")

    async def ask() -> None:
        call = asyncio.create_task(client.run(Echo(value=1), operation_id="i"))
        while not bank.asked:
            await asyncio.sleep(0.001)
        call.cancel()

    loop = asyncio.new_event_loop()
    await asyncio.to_thread(loop.run_until_complete, ask())  # the message is left running there
    with suppress(RuntimeError, ValueError):
        await client.aclose()
    assert waiting(tmp_path / "p") == ["i"]
    await asyncio.to_thread(loop.run_until_complete, asyncio.sleep(0))
    loop.close()


# --- processes and threads --------------------------------------------------------------------

OPENS = """
import os, sys
from casops import CasOpsError
from casops.client import Client, ClientOptions
from tests.bank import Account, Echo, Transfer
url, pending = sys.argv[1:]
client = Client([url], pending=pending, options=ClientOptions(deadline=60, first_timeout=10))
"""


def test_ctrl_c_ends_a_call_and_the_pending_list_knows_it(tmp_path: Path) -> None:
    path = tmp_path / "pending.jsonl"
    with FaultyProxy(free_port()) as proxy:
        proxy.faults += ["hold-request"]
        program = OPENS + "with client: client.run(Echo(value=1), operation_id='i')"
        command = [sys.executable, "-c", program, proxy.url, str(path)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=interruptible) as process:
            proxy.wait_for_posts(1)
            process.send_signal(signal.SIGINT)
            _, told = process.communicate(timeout=PATIENCE)
    assert "KeyboardInterrupt" in told
    assert process.returncode in (1, 130, -signal.SIGINT)
    assert waiting(path) == ["i"]


def interruptible() -> None:
    """Whoever runs the tests in the background has SIGINT ignored, and children inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_a_program_that_forgets_to_close_ends(tmp_path: Path) -> None:
    with FaultyProxy(free_port()) as proxy:
        proxy.faults += ["hold-request"]
        program = OPENS + (
            "import threading\n"
            "def ask(): client.run(Echo(value=1), operation_id='i')\n"
            "threading.Thread(target=ask, daemon=True).start()\n"
            "sys.stdin.readline()"
        )
        command = [sys.executable, "-c", program, proxy.url, str(tmp_path / "p")]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            proxy.wait_for_posts(1)
            process.communicate("\n", timeout=PATIENCE)
    assert process.returncode == 0


def test_a_forked_child_is_told_to_open_its_own(tmp_path: Path) -> None:
    program = OPENS + (
        "child = os.fork()\n"
        "if child == 0:\n"
        "    try: client.run(Echo(value=1), operation_id='i')\n"
        "    except CasOpsError as error: print(error, flush=True)\n"
        "    client.close()\n"
        "    sys.exit(7)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)\n"
        "client.close()"
    )
    command = [sys.executable, "-W", "ignore", "-c", program, "http://127.0.0.1:1", str(tmp_path / "p")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert "opened before a fork" in done.stdout
    assert done.stdout.splitlines()[-1] == "7"


def test_a_forked_child_is_told_so_by_an_async_client_too(tmp_path: Path) -> None:
    program = (
        "import asyncio, os, sys\n"
        "from casops import CasOpsError\n"
        "from casops.client import AsyncClient\n"
        "from tests.bank import Echo\n"
        "client = AsyncClient(['http://127.0.0.1:1'], pending=sys.argv[1])\n"
        "child = os.fork()\n"
        "async def ask(): await client.run(Echo(value=1), operation_id='i')\n"
        "if child == 0:\n"
        "    for asked in (lambda: asyncio.run(ask()), lambda: client.acknowledge('i'), lambda: client.forget('i')):\n"
        "        try: asked()\n"
        "        except CasOpsError as error: print(error, flush=True)\n"
        "    asyncio.run(client.aclose())\n"
        "    os._exit(0)\n"
        "os.waitpid(child, 0)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "p")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert done.stdout.count("opened before a fork") == 3
    assert waiting(tmp_path / "p") == []


def test_threads_that_outlive_the_main_one_still_get_answers(tmp_path: Path) -> None:
    program = OPENS + (
        "import threading\n"
        "def ask():\n"
        "    threading.main_thread().join()\n"
        "    try: client.run(Echo(value=1), operation_id='i')\n"
        "    except CasOpsError as error: print(error, flush=True)\n"
        "threading.Thread(target=ask).start()\n"
    )
    command = [sys.executable, "-c", program, "http://127.0.0.1:1", str(tmp_path / "p")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert "nothing was sent by this call" in done.stdout, done
    assert waiting(tmp_path / "p") == ["i"]


def test_a_signal_handler_may_close_the_client_in_the_middle_of_a_call() -> None:
    client = Client(["http://127.0.0.1:1"])
    with client._closing:  # where the signal comes
        closing = threading.Timer(PATIENCE, os._exit, (1,))  # it would wait for itself
        closing.start()
        client.close()
        closing.cancel()
    with pytest.raises(UsageError, match="closed"):
        client.pending()


async def test_what_a_closed_client_refuses_has_its_id() -> None:
    client = AsyncClient(["http://127.0.0.1:1"])
    await client.aclose()
    for call in (client.run(Echo(value=1), operation_id="i"), client.outcome("i")):
        with pytest.raises(Closed) as refused:
            await call
        assert refused.value.operation_id == "i"


def test_what_a_closed_sync_client_refuses_has_its_id() -> None:
    client = Client(["http://127.0.0.1:1"])
    client.close()
    calls = (partial(client.run, Echo(value=1), operation_id="i"), partial(client.outcome, "i"))
    for call in (*calls, partial(client.acknowledge, "i"), partial(client.forget, "i")):
        with pytest.raises(Closed) as refused:
            call()
        assert refused.value.operation_id == "i"


def test_an_on_notice_that_calls_the_client_does_not_hang(caplog: pytest.LogCaptureFixture) -> None:
    clients: list[Client] = []

    def calling(notice: Notice) -> None:
        clients[0].pending()

    with Client([f"http://127.0.0.1:{free_port()}"], on_notice=calling) as client:
        clients.append(client)
        with pytest.raises(OutcomeUnknown, match="nothing was sent"):
            client.run(Echo(value=1), operation_id="i")
    assert "must not call the client" in caplog.text


@pytest.mark.parametrize(("ends", "told"), [(Client.close, "must not close the client"), (sys.exit, "SystemExit")])
def test_an_on_notice_that_would_end_the_client_costs_no_answer(
    ends: Callable[[Client], None], told: str, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[BaseException] = []

    def ask() -> None:
        try:
            client.run(Echo(value=1), operation_id="i")
        except OutcomeUnknown as error:
            heard.append(error)

    client = Client([f"http://127.0.0.1:{free_port()}"], on_notice=lambda notice: ends(client))
    caller = threading.Thread(target=ask, daemon=True)  # so that a client that hangs does not keep the tests
    caller.start()
    caller.join(PATIENCE)
    assert len(heard) == 1
    assert told in caplog.text
    client.close()


def test_an_async_client_belongs_to_one_event_loop() -> None:
    client = AsyncClient([f"http://127.0.0.1:{free_port()}"])

    async def ask() -> None:
        with pytest.raises(OutcomeUnknown):
            await client.run(Echo(value=1), operation_id="i")

    asyncio.run(ask())

    async def ask_elsewhere() -> None:
        with pytest.raises(UsageError, match="another event loop"):
            await client.run(Echo(value=1), operation_id="i")

    asyncio.run(ask_elsewhere())
    assert [each.operation_id for each in client.pending()] == ["i"]  # wrong use took nothing off the list

    async def close() -> None:
        await client.aclose()
        await client.aclose()

    asyncio.run(close())


async def test_a_connect_that_fails_is_told(caplog: pytest.LogCaptureFixture) -> None:
    def connect(url: str) -> httpx.AsyncClient:
        raise ZeroDivisionError("no such certificate")

    options = ClientOptions(deadline=5, pause=0, probe=100, probe_at_most=100)
    async with AsyncClient(["http://a"], options=options, connect=connect) as client:
        with pytest.raises(OutcomeUnknown) as error:
            await client.run(Echo(value=1), operation_id="i")
    assert error.value.operation_id == "i"
    assert "no such certificate" in caplog.text
    assert "nothing was sent by this call" in str(error.value)


async def test_servers_may_have_a_path() -> None:
    paths: list[str] = []

    def reply(request: httpx.Request) -> httpx.Response:
        paths.append(request.url.raw_path.decode())
        return httpx.Response(200, json=1, headers={"casops-message": request.headers["casops-message"]})

    def connect(url: str) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=url, transport=httpx.MockTransport(reply))

    async with AsyncClient(["http://a/api/"], connect=connect) as client:
        assert await client.run(Echo(value=1), operation_id="i") == 1
        with pytest.raises(StoreUnavailable):  # a number is no outcome
            await client.outcome("..")
    assert paths == ["/api/operations/echo", "/api/operations/%2E%2E"]


# --- what httpx tells -------------------------------------------------------------------------

CERTAIN = {httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol}


def all_httpx_errors(cls: type[Exception] = httpx.HTTPError) -> list[type[Exception]]:
    return [cls, *(each for sub in cls.__subclasses__() for each in all_httpx_errors(sub))]


@pytest.mark.parametrize("cls", [*all_httpx_errors(), httpx.InvalidURL, OSError], ids=lambda cls: cls.__name__)
async def test_every_error_of_httpx_is_unknown_but_for_those_before_sending(cls: type[Exception]) -> None:
    def fail(request: httpx.Request) -> httpx.Response:
        raise (
            cls("no")
            if cls is not httpx.HTTPStatusError
            else httpx.HTTPStatusError("no", request=request, response=httpx.Response(500))
        )

    def connect(url: str) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=url, transport=httpx.MockTransport(fail))

    options = ClientOptions(deadline=5, pause=0, probe=100, probe_at_most=100)
    async with AsyncClient(["http://a"], options=options, connect=connect) as client:
        with pytest.raises(OutcomeUnknown) as error:
            await client.run(Echo(value=1), operation_id="i")
        certain = cls in CERTAIN
        assert ("nothing was sent by this call" in str(error.value)) is certain
        assert (client.counters.unreachable, client.counters.broken) == ((1, 0) if certain else (0, 2))


async def test_a_reply_that_is_too_long_is_no_reply() -> None:
    def reply(request: httpx.Request) -> httpx.Response:
        return httpx.Response(
            200, content=b'"' + b"x" * 2000 + b'"', headers={"casops-message": request.headers["casops-message"]}
        )

    def connect(url: str) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=url, transport=httpx.MockTransport(reply))

    for most, answered in ((2002, True), (2001, False)):
        options = ClientOptions(deadline=5, pause=0, reply_bytes=most, probe=100, probe_at_most=100)
        async with AsyncClient(["http://a"], options=options, connect=connect) as client:
            if answered:
                assert await client.run(Echo(value=1), operation_id="i") == "x" * 2000
            else:
                with pytest.raises(OutcomeUnknown):
                    await client.run(Echo(value=1), operation_id="i")


@pytest.mark.parametrize(
    ("headers", "answered"),
    [(b"", False), (b"Content-Length: 2\r\n", True), (b"Transfer-Encoding: chunked\r\n", True)],
)
async def test_a_reply_that_may_have_been_cut_short_is_no_reply(headers: bytes, answered: bool) -> None:
    """12 of 1234.  Without a length only the end of the connection tells the end of a body."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = (await reader.readuntil(b"\r\n\r\n")).decode()
        named = next(line for line in asked.splitlines() if line.lower().startswith("casops-message"))
        body = b"2\r\n12\r\n0\r\n\r\n" if b"chunked" in headers else b"12"
        writer.write(b"HTTP/1.1 200 OK\r\n" + named.encode() + b"\r\n" + headers + b"\r\n" + body)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", port := free_port())
    options = ClientOptions(deadline=5, pause=0, probe=100, probe_at_most=100)
    async with server, AsyncClient([f"http://127.0.0.1:{port}"], options=options) as client:
        if answered:
            assert await client.run(Echo(value=1), operation_id="i") == 12
        else:
            with pytest.raises(OutcomeUnknown, match="cut short"):
                await client.run(Echo(value=1), operation_id="i")


async def test_a_password_in_a_servers_url_is_used_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[str] = []

    def reply(request: httpx.Request) -> httpx.Response:
        heard.append(request.headers["authorization"])
        return httpx.Response(500)

    def connect(url: str) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=url, transport=httpx.MockTransport(reply))

    options = ClientOptions(deadline=5, pause=0, probe=100, probe_at_most=100)
    async with AsyncClient(["http://me:secret@a"], options=options, connect=connect) as client:
        with pytest.raises(OutcomeUnknown) as error:
            await client.run(Echo(value=1), operation_id="i")
        assert client.servers() == {"http://…@a": "suspect"}
    assert heard[0] == "Basic bWU6c2VjcmV0"
    assert "http://…@a" in caplog.text
    assert "secret" not in caplog.text + str(error.value)
    for wrong in (["http://me:secret@a?x"], "http://me:secret@a"):
        with pytest.raises(UsageError) as refused:
            AsyncClient(wrong)
        assert "secret" not in str(refused.value)


async def test_a_compressed_reply_is_not_unpacked() -> None:
    def reply(request: httpx.Request) -> httpx.Response:
        assert request.headers["accept-encoding"] == "identity"
        headers = {"casops-message": request.headers["casops-message"], "content-encoding": "gzip"}
        return httpx.Response(200, stream=httpx.ByteStream(gzip.compress(b"1")), headers=headers)

    def connect(url: str) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=url, transport=httpx.MockTransport(reply))

    options = ClientOptions(deadline=5, pause=0, probe=100, probe_at_most=100)
    async with AsyncClient(["http://a"], options=options, connect=connect) as client:
        with pytest.raises(OutcomeUnknown):
            await client.run(Echo(value=1), operation_id="i")
        assert client.counters.broken == 2


def test_no_files_are_left_open(tmp_path: Path) -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = count()
    for each in range(3):
        url = f"http://127.0.0.1:{free_port()}"
        with Client([url], pending=tmp_path / "p") as client, pytest.raises(OutcomeUnknown):
            client.run(Echo(value=1), operation_id=f"i{each}")
    assert count() == before


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pending_list_that_is_no_file_is_left_alone(tmp_path: Path) -> None:
    """A device would be replaced by a file, for the whole machine where one may, and a pipe has no end."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDWR)  # so that nobody who opens it waits for ever
    try:
        with pytest.raises(UsageError, match="is not a file"):
            PendingFile(path)
    finally:
        os.close(reader)
    assert [each.name for each in tmp_path.iterdir()] == ["pipe"]
    assert stat.S_ISFIFO(path.stat().st_mode)
