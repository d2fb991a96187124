"""The pending list when the disk fails, hangs or loses power, when somebody removes the list, and when it is old.

What has to hold: an id that is acknowledged to the servers is on no list any more that a next life could read; what a
caller was told was not sent is not sent by the next life; nobody waits for a disk beyond the deadline of a call.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from casops import CasOpsError, Closed, Expired, OutcomeUnknown, StoreUnavailable, UsageError, new_operation_id
from casops.client import AsyncClient, Recovered, async_client, pending_file, pending_list
from casops.client.pending import Asked
from casops.client.pending_file import PendingFile
from tests.bank import Echo
from tests.client_bank import MONTH, NEVER, Bank, noted, waiting
from tests.service_process import PATIENCE


def asked(operation_id: str) -> Asked:
    return Asked(operation_id, "Echo", "f", "{}", 1.5)


def named(content: bytes) -> list[str]:
    """The ids that such a list names."""
    found: dict[str, None] = {}
    for line in map(json.loads, content.splitlines()):
        if "ends" in line:
            found.pop(line["ends"], None)
        else:
            found[line["asks"]] = None
    return list(found)


class Disk:
    """What stands under the list: it can refuse, hang, and lose what was not synced."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.path = folder / "pending.jsonl"
        self.kept = b""  # what a power failure leaves
        self.refused: set[str] = set()
        self.going = threading.Event()
        self.going.set()
        self.hanging = threading.Event()
        self._real = {name: getattr(os, name) for name in ("fsync", "write", "replace", "ftruncate")}
        for name, does in self._real.items():
            monkeypatch.setattr(os, name, self._may_fail(name, does))
        monkeypatch.setattr(os, "write", self._write)
        monkeypatch.setattr(os, "fsync", self._fsync)

    def _may_fail(self, name: str, does: object) -> object:
        def call(*arguments: object) -> object:
            self._check(name)
            return does(*arguments)  # type: ignore[operator]

        return call

    def _check(self, name: str) -> None:
        if name in self.refused:
            raise OSError(5, f"no {name}")

    def _fsync(self, handle: int) -> None:
        if not self.going.is_set():
            self.hanging.set()
            assert self.going.wait(PATIENCE)
        self._check("fsync")
        self._real["fsync"](handle)
        self.kept = self.path.read_bytes() if self.path.exists() else b""

    def _write(self, handle: int, data: bytes) -> int:
        self._check("write")
        if data.startswith(b'{"ends"'):
            self._check("ends")
        written: int = self._real["write"](handle, data)
        return written

    def hang(self) -> None:
        self.going.clear()

    def go_on(self) -> None:
        self.going.set()

    def waiting(self) -> list[str]:
        """What the next life would find, if this process were killed now."""
        return named(self.path.read_bytes())

    def waiting_after_a_power_failure(self) -> list[str]:
        return named(self.kept)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(monkeypatch, tmp_path)
    yield disk
    disk.go_on()  # a test that failed leaves nobody hanging


# --- a disk that refuses ----------------------------------------------------------------------


def test_what_was_told_not_to_be_sent_is_not_on_the_list(disk: Disk) -> None:
    file = PendingFile(disk.path)
    file.asks(asked("a"))
    disk.refused = {"fsync"}
    with pytest.raises(StoreUnavailable, match="nothing was sent") as error:
        file.asks(asked("b"))
    assert error.value.happened is None
    assert b'"b"' not in disk.path.read_bytes()  # at once: this process may be killed now
    file.close()
    assert disk.waiting() == ["a"]


@pytest.mark.parametrize("then", ["asks", "ends", "close"])
def test_a_line_that_could_not_be_taken_back_is_ended(disk: Disk, then: str) -> None:
    file = PendingFile(disk.path)
    disk.refused = {"fsync", "ftruncate"}
    with pytest.raises(StoreUnavailable):
        file.asks(asked("b"))
    assert b'"b"' in disk.path.read_bytes()
    disk.refused = set()
    if then == "asks":
        file.asks(asked("c"))
    if then == "ends":
        file.ends("b")  # what a call does that could not be noted
    if then == "close":
        file.close()
    assert b'"b"' not in disk.path.read_bytes()
    file.close()
    assert disk.waiting() == (["c"] if then == "asks" else [])


def test_after_a_failed_fsync_the_file_is_written_anew(disk: Disk) -> None:
    """The next fsync may succeed although what came before is lost."""
    file = PendingFile(disk.path)
    before = disk.path.stat().st_ino
    disk.refused = {"fsync"}
    with pytest.raises(StoreUnavailable):
        file.asks(asked("a"))
    disk.refused = set()
    file.asks(asked("b"))
    assert disk.path.stat().st_ino != before
    file.close()
    assert disk.waiting() == ["b"]


def test_what_is_asked_for_again_stays_on_the_list_though_it_cannot_be_noted(disk: Disk) -> None:
    file = PendingFile(disk.path)
    for each in ("a", "b"):
        file.asks(asked(each))
    file.ends("b")
    disk.refused = {"fsync"}
    with pytest.raises(StoreUnavailable):
        file.asks(asked("a"))
    disk.refused = set()
    file.close()
    assert disk.waiting() == ["a"]


@pytest.mark.parametrize("then", ["asks", "asks again", "ends", "close"])
def test_an_end_that_could_not_be_written_is_written_later(disk: Disk, then: str) -> None:
    file = PendingFile(disk.path)
    for each in ("a", "b", "c"):
        file.asks(asked(each))
    disk.refused = {"write"}
    file.ends("a")
    disk.refused = set()
    if then == "asks":
        file.asks(asked("d"))
    if then == "asks again":
        file.asks(asked("b"))
    if then == "ends":
        file.ends("c")
    if then == "close":
        file.close()
    assert b'"a"' not in disk.path.read_bytes()
    file.close()
    assert disk.waiting() == {"asks": ["b", "c", "d"], "ends": ["b"]}.get(then, ["b", "c"])


@pytest.mark.parametrize("again", [False, True])
def test_what_asks_brings_every_end_before_it_to_the_disk(disk: Disk, again: bool) -> None:
    file = PendingFile(disk.path)
    for each in ("a", "b"):
        file.asks(asked(each))
    file.ends("a")
    assert disk.waiting_after_a_power_failure() == ["a", "b"]
    file.asks(asked("b" if again else "c"))
    assert disk.waiting_after_a_power_failure() == (["b"] if again else ["b", "c"])
    file.close()


def test_a_new_file_whose_name_may_be_lost_is_written_once_more(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder was not synced: after a power failure the old file may be back, with what has ended since."""
    file = PendingFile(disk.path)
    file.asks(asked("a"))
    disk.refused = {"write"}
    file.ends("a")
    disk.refused = set()
    with monkeypatch.context() as patch:
        patch.setattr(pending_file, "_sync_folder", lambda folder: os.close(-1))
        with pytest.raises(StoreUnavailable):
            file.asks(asked("b"))
    synced: list[Path] = []
    with monkeypatch.context() as patch:
        patch.setattr(pending_file, "_sync_folder", synced.append)
        file.asks(asked("c"))
    assert synced == [disk.path.parent]
    file.close()
    assert disk.waiting() == ["c"]


def test_what_could_not_become_the_list_leaves_no_file(disk: Disk) -> None:
    """It would take the room that is missing."""
    file = PendingFile(disk.path)
    disk.refused = {"fsync"}
    for each in ("a", "b"):
        with pytest.raises(StoreUnavailable):
            file.asks(asked(each))
    assert sorted(each.name for each in disk.path.parent.iterdir()) == ["pending.jsonl", "pending.jsonl.lock"]
    file.close()


# --- a list that is not there any more --------------------------------------------------------


@pytest.mark.parametrize("gone", ["", ".lock"])
@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_a_list_that_nobody_would_find_is_not_written(tmp_path: Path, gone: str, how: str) -> None:
    path = tmp_path / "p"
    file = PendingFile(path)
    file.asks(asked("a"))
    target = path.with_name(f"p{gone}")
    content = target.read_bytes()
    target.unlink()
    if how == "replaced":
        target.write_bytes(content)
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match=f"p{gone} was moved, removed or replaced.*nothing was sent"):
            file.asks(asked("b"))
    file.ends("a")
    file.close()


def test_the_list_of_another_client_is_not_overwritten(tmp_path: Path) -> None:
    """It got in because somebody removed the lock."""
    path = tmp_path / "p"
    first = PendingFile(path)
    first.asks(asked("a"))
    (tmp_path / "p.lock").unlink()
    second = PendingFile(path)
    second.asks(asked("b"))
    first.ends("a")
    with pytest.raises(StoreUnavailable, match="nothing was sent"):
        first.asks(asked("c"))
    first.close()
    second.asks(asked("d"))
    second.close()
    assert waiting(path) == ["a", "b", "d"]


def test_a_list_that_is_moved_back_knows_what_has_ended_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "p"
    file = PendingFile(path)
    for each in ("a", "b"):
        file.asks(asked(each))
    path.rename(tmp_path / "moved")
    file.ends("a")
    (tmp_path / "moved").rename(path)
    file.asks(asked("c"))
    file.close()
    assert waiting(path) == ["b", "c"]


async def test_nothing_is_sent_while_the_list_is_gone(tmp_path: Path) -> None:
    bank = Bank(i=1)
    async with bank.client(pending=tmp_path / "p") as client:
        (tmp_path / "p.lock").unlink()
        with pytest.raises(StoreUnavailable, match="nothing was sent"):
            await client.run(Echo(value=1), operation_id="i")
        assert client.pending() == []
    assert bank.asked == []


# --- acknowledging ----------------------------------------------------------------------------


async def test_an_acknowledgement_waits_until_the_disk_has_ended_it(disk: Disk) -> None:
    """A retry of another call must not carry it: after a power failure its id would be asked for again."""
    bank = Bank(slow=None, i=1, next=1)
    bank.held = {"slow"}
    async with bank.client(pending=disk.path) as client:
        slow = asyncio.create_task(client.run(Echo(value=1), operation_id="slow"))
        while not bank.asked:
            await asyncio.sleep(0.001)
        await client.run(Echo(value=1), operation_id="i")
        client.acknowledge("i")
        bank.held.clear()  # the connection breaks, and breaks again
        with pytest.raises(OutcomeUnknown):
            await slow
        assert bank.asked.count("slow") > 1
        assert bank.acknowledged == []
        await client.run(Echo(value=1), operation_id="next")
        assert bank.acknowledged == ["i"]
        assert "i" not in disk.waiting_after_a_power_failure()


async def test_an_acknowledgement_waits_for_a_disk_that_refuses(disk: Disk) -> None:
    bank = Bank(i=1, j=1, k=1)
    async with bank.client(pending=disk.path) as client:
        disk.refused = {"ends", "replace"}
        await client.run(Echo(value=1), operation_id="i")
        client.acknowledge("i")
        with pytest.raises(StoreUnavailable):
            await client.run(Echo(value=1), operation_id="j")
        assert bank.asked == ["i"]
        disk.refused = set()
        await client.run(Echo(value=1), operation_id="k")
        assert bank.acknowledged == ["i"]
        assert "i" not in disk.waiting()
    assert disk.waiting() == []


async def test_what_is_acknowledged_is_not_asked_for_by_the_next_life(disk: Disk) -> None:
    """The disk was full for a moment, when the answer had been handed over."""
    bank = Bank(i=1, j=1)
    async with bank.client(pending=disk.path) as client:
        disk.refused = {"ends"}
        await client.run(Echo(value=1), operation_id="i")
        client.acknowledge("i")
        await client.run(Echo(value=1), operation_id="j")
    assert bank.acknowledged == ["i"]
    async with bank.client(pending=disk.path) as client:
        assert "i" not in [each.operation_id for each in client.pending()]
        await client.recover()
    assert bank.asked.count("i") == 1


async def test_an_acknowledged_id_is_refused_before_the_servers_know(disk: Disk) -> None:
    bank = Bank(i=1)
    async with bank.client(pending=disk.path) as client:
        await client.run(Echo(value=1), operation_id="i")
        client.acknowledge("i")
        with pytest.raises(UsageError, match="acknowledged"):
            await client.run(Echo(value=1), operation_id="i")
    assert bank.asked == ["i"]


async def test_a_caller_that_goes_away_takes_no_acknowledgement_with_it(disk: Disk) -> None:
    bank = Bank(i=1, j=1, k=1)
    async with bank.client(pending=disk.path) as client:
        await client.run(Echo(value=1), operation_id="i")
        client.acknowledge("i")
        disk.hang()
        call = asyncio.create_task(client.run(Echo(value=1), operation_id="j"))
        assert await asyncio.to_thread(disk.hanging.wait, PATIENCE)
        call.cancel()
        await asyncio.wait([call])
        disk.go_on()
        await client.run(Echo(value=1), operation_id="k")
    assert bank.acknowledged == ["i"]


async def test_without_a_list_an_acknowledgement_waits_for_nothing() -> None:
    bank = Bank(i=1, j=1)
    async with bank.client() as client:
        await client.run(Echo(value=1), operation_id="i")
        client.acknowledge("i")
        await client.run(Echo(value=1), operation_id="j")
    assert bank.acknowledged == ["i"]


# --- a disk that hangs ------------------------------------------------------------------------


async def test_a_disk_that_hangs_holds_no_call_beyond_its_deadline(disk: Disk) -> None:
    bank = Bank(i=1, j=1)
    async with bank.client(pending=disk.path, deadline=0.2) as client:
        disk.hang()
        for each in ("i", "j"):  # the second does not even come to the disk
            with pytest.raises(StoreUnavailable, match="nothing was sent") as error:
                await client.run(Echo(value=1), operation_id=each)
            assert (error.value.operation_id, error.value.happened) == (each, None)
        client.forget("i")  # nor does anything of this wait for the disk
        client.acknowledge("j")
        assert client.pending() == []
        disk.go_on()
        client._options = replace(client._options, deadline=PATIENCE)  # for as long as closing may wait now
    assert bank.asked == []
    assert disk.waiting() == []  # the line of the first got to the disk after all


async def test_what_one_call_gave_up_another_may_have_noted(disk: Disk) -> None:
    bank = Bank(i=1)
    bank.held = {"i"}
    async with bank.client(pending=disk.path, deadline=0.2) as client:
        disk.hang()
        first = asyncio.create_task(client.run(Echo(value=1), operation_id="i"))
        assert await asyncio.to_thread(disk.hanging.wait, PATIENCE)
        client._options = client._desk.options = replace(client._options, deadline=PATIENCE)
        second = asyncio.create_task(client.run(Echo(value=1), operation_id="i"))
        with pytest.raises(StoreUnavailable):
            await first
        disk.go_on()
        while not bank.asked:
            await asyncio.sleep(0.001)
        assert disk.waiting() == ["i"]
        bank.held.clear()
        assert await second == 1
    assert disk.waiting() == []


async def test_a_disk_that_hangs_does_not_hold_up_closing(disk: Disk) -> None:
    bank = Bank()
    client = bank.client(pending=disk.path, deadline=0.2)
    disk.hang()
    with pytest.raises(StoreUnavailable):
        await client.run(Echo(value=1), operation_id="i")
    await client.aclose()
    with pytest.raises(UsageError, match="another client has"):
        PendingFile(disk.path)  # it is let go of when nobody writes any more
    disk.go_on()
    ends = time.monotonic() + PATIENCE
    while True:
        try:
            assert waiting(disk.path) == []
            return
        except UsageError:
            assert time.monotonic() < ends
            await asyncio.sleep(0.01)


async def test_calls_that_find_too_many_waiting_for_the_disk_are_refused_at_once(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pending_list, "MOST_UNWRITTEN", 1)
    bank = Bank(i=1, j=1)
    async with bank.client(pending=disk.path, deadline=PATIENCE) as client:
        disk.hang()
        first = asyncio.create_task(client.run(Echo(value=1), operation_id="i"))
        assert await asyncio.to_thread(disk.hanging.wait, PATIENCE)
        client.forget("something")  # waits
        with pytest.raises(StoreUnavailable, match="nothing was sent"):
            await client.run(Echo(value=1), operation_id="j")
        disk.go_on()
        assert await first == 1
    assert bank.asked == ["i"]


async def test_a_list_that_was_closed_takes_nothing(tmp_path: Path) -> None:
    listed = pending_list.PendingList(tmp_path / "p")
    await listed.asks(asked("a"), PATIENCE)
    await listed.close(PATIENCE)
    listed.ends("a")
    with pytest.raises(Closed):
        await listed.asks(asked("b"), PATIENCE)
    assert waiting(tmp_path / "p") == ["a"]


async def test_nobody_is_told_no_for_good_while_the_next_life_would_ask_again(disk: Disk) -> None:
    bank = Bank(i=NEVER, j=1)
    async with bank.client(pending=disk.path, deadline=0.5) as client:
        with pytest.raises(UsageError) as error:
            await client.run(Echo(value=1), operation_id="i")
        assert (error.value.happened, error.value.retry, disk.waiting()) == (False, False, [])
        bank.held = {"i"}
        first = asyncio.create_task(client.run(Echo(value=1), operation_id="i"))
        while len(bank.asked) < 2:
            await asyncio.sleep(0.001)
        disk.hang()
        second = asyncio.create_task(client.run(Echo(value=1), operation_id="j"))
        assert await asyncio.to_thread(disk.hanging.wait, PATIENCE)
        bank.held.clear()
        with pytest.raises(UsageError) as error:
            await first
        assert (error.value.happened, error.value.retry, "i" in disk.waiting()) == (None, True, True)
        disk.go_on()
        await asyncio.gather(second, return_exceptions=True)
        client._options = replace(client._options, deadline=PATIENCE)


async def test_what_was_not_sent_is_off_the_list_that_is_closed_next(disk: Disk) -> None:
    bank = Bank(i=1)
    client = bank.client(pending=disk.path, deadline=0.2)
    disk.hang()
    call = asyncio.create_task(client.run(Echo(value=1), operation_id="i"))
    assert await asyncio.to_thread(disk.hanging.wait, PATIENCE)
    client._options = replace(client._options, deadline=PATIENCE)
    closing = asyncio.create_task(client.aclose())
    with pytest.raises(CasOpsError):
        await call
    disk.go_on()
    await closing
    assert (bank.asked, waiting(disk.path)) == ([], [])


async def test_ends_do_not_count_for_calls_that_wait(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending_list, "MOST_UNWRITTEN", 2)
    bank = Bank(i=1, j=1)
    async with bank.client(pending=disk.path, deadline=PATIENCE) as client:
        disk.hang()
        first = asyncio.create_task(client.run(Echo(value=1), operation_id="i"))
        assert await asyncio.to_thread(disk.hanging.wait, PATIENCE)
        for number in range(5):
            client.forget(f"f{number}")
        second = asyncio.create_task(client.run(Echo(value=1), operation_id="j"))
        await asyncio.sleep(0)
        disk.go_on()
        assert (await first, await second) == (1, 1)


def test_a_list_that_cannot_be_tidied_goes_on_growing(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending_file, "MOST_DEAD_LINES", 3)
    file = PendingFile(disk.path)
    disk.refused = {"replace"}
    for number in range(20):
        file.asks(asked(f"a{number}"))
        file.ends(f"a{number}")
    file.asks(asked("b"))
    assert (disk.waiting(), len(disk.path.read_bytes().splitlines())) == (["b"], 41)
    disk.refused = set()
    for number in range(5):
        file.ends(f"b{number}")
        file.asks(asked(f"c{number}"))
        file.ends(f"c{number}")
    assert len(disk.path.read_bytes().splitlines()) < 20
    assert disk.waiting() == ["b"]
    file.close()


def test_a_full_disk_refuses_without_writing_all_of_the_list_again(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    file = PendingFile(disk.path)
    file.asks(asked("a"))
    rewritten: list[int] = []
    monkeypatch.setattr(PendingFile, "_rewrite", lambda self: rewritten.append(1))
    disk.refused = {"write"}
    for number in range(3):
        with pytest.raises(StoreUnavailable, match="nothing was sent"):
            file.asks(asked(f"b{number}"))
    disk.refused = set()
    file.asks(asked("c"))
    assert (rewritten, disk.waiting()) == ([], ["a", "c"])


def test_writing_all_of_it_in_vain_takes_a_tenth_of_the_time(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    file = PendingFile(disk.path)
    file.asks(asked("a"))
    disk.refused = {"fsync"}
    with pytest.raises(StoreUnavailable):
        file.asks(asked("b"))
    tries: list[int] = []

    def rewrite(self: PendingFile) -> None:
        tries.append(1)
        time.sleep(0.05)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(PendingFile, "_rewrite", rewrite)
    for number in range(20):
        with pytest.raises(StoreUnavailable, match="nothing was sent"):
            file.asks(asked(f"c{number}"))
        file.ends(f"c{number}")
    assert len(tries) < 5
    file.close()
    assert len(tries) < 6


def test_a_disk_that_complains_at_the_end_keeps_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, close = PendingFile(tmp_path / "p"), os.close

    def complain(handle: int) -> None:
        close(handle)
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "close", complain)
        file.close()
    assert waiting(tmp_path / "p") == []


# --- an old list ------------------------------------------------------------------------------


async def recovered(bank: Bank, path: Path) -> tuple[Recovered, list[str]]:
    """What a new life found out, and what it has left on its list."""
    async with bank.client(pending=path) as client:
        result = await client.recover()
    return result, waiting(path)


async def test_what_the_servers_may_have_forgotten_is_not_asked_for_again(tmp_path: Path) -> None:
    bank = Bank(old=1)
    noted(tmp_path / "p", {"old": 1}, age=MONTH / 2 + 60)
    for _ in range(2):
        result, left = await recovered(bank, tmp_path / "p")
        (only,) = result.left
        assert isinstance(only.error, Expired)
        assert (only.error.happened, only.error.operation_id) == (None, "old")
        assert "first asked for" in str(only.error)
        assert left == ["old"]  # somebody has to look at it
    async with bank.client(pending=tmp_path / "p") as client:
        with pytest.raises(Expired):
            await client.run(Echo(value=1), operation_id="old")
        client.forget("old")
    assert waiting(tmp_path / "p") == []
    assert bank.asked == []


@pytest.mark.parametrize(
    ("age", "retention"),
    [(MONTH / 2 - 60, MONTH), (0, MONTH), (20 * 365 * 86_400, 0)],
    ids=["young", "new", "for ever"],
)
async def test_what_they_remember_is_asked_for_again(tmp_path: Path, age: float, retention: float) -> None:
    bank = Bank(i=1)
    bank.retention = retention
    noted(tmp_path / "p", {"i": 1}, age=age)
    result, left = await recovered(bank, tmp_path / "p")
    assert [each.value for each in result.finished] == [1]
    assert (bank.looked, bank.asked, left) == (["i"], ["i"], [])


async def test_a_clock_that_was_set_back_is_noticed(tmp_path: Path) -> None:
    bank = Bank(i=1)
    noted(tmp_path / "p", {"i": 1}, age=-MONTH)
    result, left = await recovered(bank, tmp_path / "p")
    assert isinstance(result.left[0].error, Expired)
    assert (bank.asked, left) == ([], ["i"])


async def test_ids_that_tell_their_time_are_left_to_the_servers(tmp_path: Path) -> None:
    operation_id = new_operation_id()
    bank = Bank(**{operation_id: 1})
    noted(tmp_path / "p", {operation_id: 1}, age=MONTH)
    result, _ = await recovered(bank, tmp_path / "p")
    assert len(result.finished) == 1
    assert bank.looked == []


async def test_nothing_is_asked_for_again_unless_a_server_tells_its_retention(tmp_path: Path) -> None:
    bank = Bank(i=1)
    bank.retention = None
    noted(tmp_path / "p", {"i": 1})
    result, left = await recovered(bank, tmp_path / "p")
    assert isinstance(result.left[0].error, OutcomeUnknown)
    assert "Idempotency-Retention" in str(result.left[0].error)
    assert (bank.asked, left) == ([], ["i"])


@pytest.mark.parametrize("broken", [1, 3])
async def test_a_connection_that_breaks_does_not_put_off_what_is_pending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: int
) -> None:
    monkeypatch.setattr(async_client, "LOOKS", (0.0, 0.0, 0.0))
    bank = Bank(i=1)
    bank.broken = broken
    noted(tmp_path / "p", {"i": 1})
    result, left = await recovered(bank, tmp_path / "p")
    assert (len(result.finished), left) == (1, [])


async def test_who_cannot_be_reached_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(async_client, "LOOKS", (0.0, 0.0, 0.0))
    bank = Bank(i=1)
    bank.broken = 1000
    noted(tmp_path / "p", {"i": 1})
    result, left = await recovered(bank, tmp_path / "p")
    assert isinstance(result.left[0].error, OutcomeUnknown)
    assert "the connection broke" in str(result.left[0].error)
    assert (bank.asked, len(bank.looked), left) == ([], 4, ["i"])


async def test_an_id_of_ones_own_is_not_asked_again_for_ever_in_one_life_either(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bank = Bank(i=None, j=1)
    async with bank.client() as client:
        with pytest.raises(OutcomeUnknown):
            await client.run(Echo(value=1), operation_id="i")
        await client.run(Echo(value=1), operation_id="j")  # tells the retention
        bank.answers["i"] = 1
        asked_before = len(bank.asked)
        with monkeypatch.context() as patch:
            later = time.time() + MONTH
            patch.setattr(time, "time", lambda: later)
            with pytest.raises(Expired):
                await client.run(Echo(value=1), operation_id="i")
        assert len(bank.asked) == asked_before
        assert await client.run(Echo(value=1), operation_id="i") == 1


async def test_an_answer_that_is_there_is_handed_over_however_old_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    bank = Bank(i=1)
    bank.held = {"i"}
    async with bank.client() as client:
        call = asyncio.create_task(client.run(Echo(value=1), operation_id="i"))
        while not bank.asked:
            await asyncio.sleep(0.001)
        call.cancel()
        await asyncio.wait([call])
        bank.held.clear()
        while not client.counters.answers:
            await asyncio.sleep(0.001)
        later = time.time() + MONTH
        monkeypatch.setattr(time, "time", lambda: later)
        assert await client.run(Echo(value=1), operation_id="i") == 1
    assert bank.asked == ["i"]


# --- what cannot be told ----------------------------------------------------------------------


async def test_an_error_of_a_call_that_asked_nobody_does_not_say_that_it_did_not_happen(tmp_path: Path) -> None:
    bank = Bank(i=1, stuck=None)

    async def refused(client: AsyncClient, operation_id: str) -> CasOpsError:
        with pytest.raises(CasOpsError) as error:
            await client.run(Echo(value=1), operation_id=operation_id)
        return error.value

    async with bank.client(table=1) as client:
        await client.run(Echo(value=1), operation_id="i")
        client.acknowledge("i")
        again = await refused(client, "i")
        assert (type(again), again.happened, again.retry) == (UsageError, None, False)
        await refused(client, "stuck")
        full = await refused(client, "of an earlier life")
        assert (full.happened, full.retry) == (None, True)
        assert "nothing was sent" in str(full)
