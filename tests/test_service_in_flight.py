"""Requests that meet: one operation is worked on once, slow ones hold up nobody, and everything has a bound."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Container, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from casops import CasOps, Documents, Operation, Recovery, Ref, UsageError
from casops.service import asking, in_flight
from casops.service.in_flight import InFlight, InProgress, TooMany
from casops.stores import Store
from casops.stores.sqlite import SqliteStore
from casops.threads import Threads, in_thread
from tests.bank import Account
from tests.serving import OPERATIONS, SERVICE, Web, bank, until
from tests.test_service_answers import problem


class Gates:
    """What the operations below wait for, and what they have done."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.entered: list[str] = []


GATES = Gates()


class Slow(Operation[str]):
    """Waits until the test lets it go on."""

    name: str
    account: Ref[Account] | None = None

    def apply(self, documents: Documents) -> str:
        if self.account is not None:
            documents[self.account].balance += 1
        GATES.entered.append(self.name)
        assert GATES.open.wait(30)
        return self.name


@pytest.fixture(autouse=True)
def gates() -> Iterator[Gates]:
    global GATES
    GATES = Gates()
    yield GATES
    GATES.open.set()


def served(store: Store | None = None, **service: Any) -> Any:
    return bank(store, operations=[*OPERATIONS, Slow], service=replace(SERVICE, **service))


async def asked(web: Web, name: str, operation_id: str, **more: Any) -> asyncio.Task[Any]:
    return asyncio.create_task(web.post("slow", operation_id, {"name": name, **more}))


async def test_a_second_request_waits_for_the_answer_of_the_first(gates: Gates) -> None:
    async with served() as web:
        first = await asked(web, "a", "s", account="alice")
        await until(lambda: gates.entered)
        others = [await asked(web, "a", "s", account="alice") for _ in range(3)]
        await asyncio.sleep(0.05)
        assert not any(each.done() for each in (first, *others))
        gates.open.set()
        answers = [await each for each in (first, *others)]
        assert {each.text for each in answers} == {'"a"'}
        assert [each.headers.get("Idempotent-Replayed") for each in answers] == [None, "true", "true", "true"]
        assert gates.entered == ["a"]
        account = web.casops.read(Account.ref("alice"))
        assert account is not None
        assert account.balance == 101


async def test_slower_than_the_caller_waits_and_there_for_the_next_ask(gates: Gates) -> None:
    async with served(answer_within=0.05) as web:
        response = await (await asked(web, "a", "s"))
        told = problem(response, 409, "in-progress")
        assert (response.headers["Retry-After"], told["retry"], told["happened"]) == ("1", True, "unknown")
        assert (await web.get("s")).json()["status"] == "pending"
        problem(await (await asked(web, "a", "s")), 409, "in-progress")
        gates.open.set()  # nobody asks now; the work goes on all the same
        outcome: Any = None
        while (outcome := (await web.get("s")).json())["status"] == "pending":
            await asyncio.sleep(0.005)
        assert outcome["result"] == "a"
        response = await (await asked(web, "a", "s"))
        assert (response.text, response.headers["Idempotent-Replayed"]) == ('"a"', "true")
        assert gates.entered == ["a"]


async def test_a_caller_who_goes_away_does_not_stop_the_work(gates: Gates) -> None:
    async with served() as web:
        first = await asked(web, "a", "s")
        await until(lambda: gates.entered)
        first.cancel()
        await asyncio.wait([first])
        gates.open.set()
        assert (await (await asked(web, "a", "s"))).text == '"a"'
        assert gates.entered == ["a"]


async def test_other_content_under_an_id_that_is_worked_on_is_for_the_protocol_to_judge(gates: Gates) -> None:
    async with served() as web:
        first = await asked(web, "a", "s")
        await until(lambda: gates.entered)
        problem(await (await asked(web, "b", "s")), 422, "operation-mismatch")
        gates.open.set()
        assert (await first).text == '"a"'
        assert gates.entered == ["a"]


async def test_a_slow_operation_holds_up_nobody_else(gates: Gates) -> None:
    async with served() as web:
        slow = await asked(web, "a", "s")
        await until(lambda: gates.entered)
        transfer = {"source": "alice", "target": "bob", "amount": 1}
        assert (await web.post("transfer", "t", transfer)).status_code == 200
        assert (await web.client.get("/health")).status_code == 204
        assert not slow.done()
        gates.open.set()
        await slow


async def test_no_more_threads_than_allowed(gates: Gates) -> None:
    async with served(threads=2) as web:
        asks = [await asked(web, str(number), f"s{number}") for number in range(5)]
        await until(lambda: len(gates.entered) == 2)
        await asyncio.sleep(0.05)
        assert len(gates.entered) == 2
        gates.open.set()
        assert {(await each).status_code for each in asks} == {200}
        assert len(gates.entered) == 5


async def test_what_waited_for_a_thread_beyond_its_deadline_is_not_begun(
    gates: Gates, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Another server may have finished it meanwhile, and its result may be forgotten: it would happen twice."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(asking, "time", SimpleNamespace(monotonic=lambda: clock.now))
    async with served(threads=1, answer_within=0.05) as web:
        problem(await (await asked(web, "a", "s")), 409, "in-progress")
        problem(await (await asked(web, "b", "t")), 409, "in-progress")
        await until(lambda: gates.entered)
        clock.now += web.casops.options.deadline
        gates.open.set()
        await until(lambda: "was not begun" in caplog.text or len(gates.entered) > 1)
        assert gates.entered == ["a"]
        assert web.casops.outcome("t") is None
        async with asyncio.timeout(30):
            while (response := await (await asked(web, "b", "t"))).status_code != 200:
                pass
        assert response.text == '"b"'
        assert gates.entered == ["a", "b"]


async def test_no_more_operations_in_flight_than_allowed(gates: Gates) -> None:
    async with served(in_flight=2) as web:
        asks = [await asked(web, str(number), f"s{number}") for number in range(2)]
        await until(lambda: len(gates.entered) == 2)
        response = await web.post("echo", "e", {})
        told = problem(response, 503, "too-busy")
        assert (response.headers["Retry-After"], told["retry"], told["happened"]) == ("1", True, "unknown")
        assert web.casops.outcome("e") is None
        joined = await asked(web, "0", "s0")
        gates.open.set()
        assert {(await each).status_code for each in (*asks, joined)} == {200}
        assert (await web.post("echo", "e", {})).status_code == 200


@pytest.mark.parametrize(("path", "kind"), [("slow", "body-invalid"), ("sloow", "operation-unknown")])
async def test_what_is_refused_while_its_operation_is_worked_on_here_is_no_no(
    path: str, kind: str, gates: Gates, tmp_path: Path
) -> None:
    """On a file nothing is known of an operation before it has happened."""
    async with served(SqliteStore(tmp_path / "s.db")) as web:
        asks = await asked(web, "a", "s")
        await until(lambda: gates.entered)
        refused = await web.post(path, "s", {"nam": "a"})
        assert problem(refused, 400 if path == "slow" else 404, kind)["happened"] == "unknown"
        gates.open.set()
        assert (await asks).status_code == 200


async def test_no_more_requests_than_allowed(gates: Gates) -> None:
    async with served(requests=2) as web:
        asks = [await asked(web, "a", "s") for _ in range(2)]
        await until(lambda: gates.entered)
        for refused in (await (await asked(web, "a", "s")), await web.get("s")):
            assert problem(refused, 503, "too-busy")["happened"] == "unknown"
        gates.open.set()
        assert {(await each).status_code for each in asks} == {200}
        assert (await web.get("s")).status_code == 200
        assert (await (await asked(web, "a", "s"))).status_code == 200


async def test_a_sweep_leaves_alone_what_is_worked_on_here(gates: Gates, monkeypatch: pytest.MonkeyPatch) -> None:
    sweeps: list[Recovery] = []

    def recover(casops: CasOps, *, busy: Container[str]) -> Recovery:
        sweeps.append(swept := sweep(casops, busy=busy))
        return swept

    sweep = CasOps.recover
    monkeypatch.setattr(CasOps, "recover", recover)
    async with served(sweep_every=0.01) as web:
        slow = await asked(web, "a", "s")
        await until(lambda: gates.entered)
        before = len(sweeps)
        await until(lambda: len(sweeps) > before + 2)
        assert [each.note for each in sweeps[-1].left] == ["being worked on here"]
        assert gates.entered == ["a"]
        gates.open.set()
        assert (await slow).text == '"a"'
        assert gates.entered == ["a"]


async def test_a_shutdown_finishes_what_is_in_flight_and_takes_nothing_new(gates: Gates) -> None:
    async with served(answer_within=0.01) as web:
        problem(await (await asked(web, "a", "s")), 409, "in-progress")
        store = web.casops
        threading.Timer(0.1, gates.open.set).start()
    # The lifespan has ended: the work was waited for, although no request waited for it.
    with pytest.raises(UsageError, match="closed"):
        store.outcome("s")
    assert gates.entered == ["a"]


async def test_a_shutdown_does_not_wait_for_ever(gates: Gates, caplog: pytest.LogCaptureFixture) -> None:
    async with served(answer_within=0.01, finish_within=0.05) as web:
        problem(await (await asked(web, "a", "s")), 409, "in-progress")
    assert "operation s is left unfinished by the shutdown" in caplog.text


# --- the table alone ----------------------------------------------------------------------------


async def test_the_table_forgets_what_has_ended() -> None:
    table = InFlight(threads=1, operations=1, requests=1)

    def fail() -> Any:
        raise ZeroDivisionError

    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            await table.ask("i", "f", fail, 30)
        assert table.ids() == frozenset()
    assert await table.finish(0) == frozenset()


async def test_work_that_has_ended_is_not_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even in the moment between its end and its being taken out of the table."""
    table = InFlight(threads=1, operations=2, requests=2)
    loop = asyncio.get_running_loop()
    ends, more = loop.create_future(), loop.create_future()
    more.set_result("again")
    runs = iter([ends, more])
    monkeypatch.setattr(table, "_working", SimpleNamespace(run=lambda work: next(runs)))

    def unused() -> Any:
        raise AssertionError("not called")

    def ask_in_that_moment(_: object) -> None:
        assert [each.done() for each in table._table.values()] == [True]
        later.append(table._begin_or_join("i", "f", unused)[0])

    later: list[asyncio.Task[Any]] = []
    first = asyncio.create_task(table.ask("i", "f", unused, 30))
    await until(lambda: ends._callbacks)  # the work waits
    ends.add_done_callback(ask_in_that_moment)  # told just after the work is, and before the table
    ends.set_result("first")
    answers: list[Any] = [await first]
    await until(lambda: later)
    answers.append(await later[0])
    assert answers == [("first", False), "again"]


async def test_the_bounds_of_the_table() -> None:
    table = InFlight(threads=1, operations=1, requests=1)
    go = threading.Event()

    def wait() -> Any:
        assert go.wait(30)

    with pytest.raises(InProgress):
        await table.ask("i", "f", wait, 0)
    assert table.ids() == {"i"}
    with pytest.raises(TooMany):
        await table.ask("j", "f", wait, 0)
    asks = asyncio.create_task(table.ask("i", "f", wait, 30))
    await asyncio.sleep(0)
    with pytest.raises(TooMany):
        await table.ask("i", "f", wait, 30)
    assert await table.finish(0.01) == {"i"}
    go.set()
    assert await table.finish(30) == frozenset()
    _, joined = await asks
    assert joined


async def test_what_a_future_cannot_hold_is_passed_on_all_the_same() -> None:
    def stop() -> None:
        raise StopIteration

    with pytest.raises(RuntimeError, match="StopIteration"):
        await asyncio.wait_for(in_thread(stop), 30)


async def test_looking_is_bounded_too() -> None:
    table = InFlight(threads=2, operations=1, requests=10)
    go = threading.Event()
    inside: list[int] = []

    def look() -> None:
        inside.append(1)
        assert go.wait(30)

    looks = [asyncio.create_task(table.look(look, 30)) for _ in range(5)]
    await until(lambda: len(inside) == 2)
    await asyncio.sleep(0.05)
    assert len(inside) == 2
    go.set()
    await asyncio.gather(*looks)
    assert len(inside) == 5


async def test_who_looks_at_a_store_that_does_not_answer_is_told_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()
    async with served(threads=1, answer_within=0.01) as web:
        monkeypatch.setattr(in_flight, "LEAST_LOOK", 0.05)
        looked: list[str] = []

        def outcome(operation_id: str) -> None:
            looked.append(operation_id)
            go.wait(30)

        monkeypatch.setattr(web.casops, "outcome", outcome)
        for _ in range(3):
            told = problem(await web.get("a"), 503, "store-unavailable")
            assert (told["happened"], told["retry"]) == ("unknown", True)
        monkeypatch.undo()
        go.set()

        async def heard() -> bool:
            return bool((await web.get("a")).status_code == 404)

        async with asyncio.timeout(30):
            while not await heard():
                pass
    assert looked == ["a"]  # the others were not done when nobody waited for them any more


async def test_threads_are_kept_no_more_than_needed_and_end_when_told() -> None:
    threads = Threads(3, "kept")

    def count() -> int:
        return sum(each.name == "kept" for each in threading.enumerate())

    for number in range(5):
        assert await threads.run(lambda number=number: number) == number  # type: ignore[misc]
        await until(lambda: threads._idle._value == 1)
        assert count() == 1
    barrier = threading.Barrier(3)
    await asyncio.gather(*(threads.run(lambda: barrier.wait(30)) for _ in range(3)))
    assert count() == 3
    threads.close()
    await until(lambda: count() == 0)


async def test_where_no_thread_can_be_started_the_event_loop_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """As at the end of the interpreter, for threads that outlive the main one."""

    def none_left(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    threads = Threads(1, "none")
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", none_left)
        assert await threads.run(lambda: threading.current_thread()) is threading.current_thread()
        with pytest.raises(ZeroDivisionError):
            await threads.run(lambda: 1 // 0)
    assert await threads.run(lambda: threading.current_thread()) is not threading.current_thread()
    threads.close()


async def test_a_thread_whose_caller_is_gone_ends_in_silence() -> None:
    go, ended = threading.Event(), threading.Event()

    def work() -> None:
        assert go.wait(30)
        ended.set()

    task = asyncio.create_task(in_thread(work))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go.set()
    assert ended.wait(30)
    await asyncio.sleep(0.01)
