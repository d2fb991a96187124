"""The threads that carry out the calls of a batch."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial

import pytest

from casops.stores.couchbase_threads import Threads, _Job

LONG = 20.0
NAME = "casops-test"


def ours() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(f"{NAME}-")]


def wait_until(holds: Callable[[], bool]) -> None:
    waited = threading.Event()
    for _ in range(int(LONG / 0.001)):
        if holds():
            return
        waited.wait(0.001)
    raise AssertionError("it never came to that")


def none_left(_: threading.Thread) -> None:
    """Instead of Thread.start."""
    raise RuntimeError("can't start new thread")


def test_results_are_in_the_order_of_the_tasks_and_the_first_is_done_by_who_asks() -> None:
    threads = Threads(4, NAME)
    for size in (0, 1, 2, 9):
        assert threads.together([partial(int, number) for number in range(size)]) == list(range(size))
    begun = threading.Event()

    def first() -> int:
        assert begun.wait(LONG)
        return threading.get_ident()

    def second() -> int:
        begun.set()
        return threading.get_ident()

    here, elsewhere = threads.together([first, second])
    assert here == threading.get_ident() != elsewhere
    threads.close()


def test_what_nobody_has_begun_is_done_by_who_waits_for_it() -> None:
    threads = Threads(1, NAME)
    go_on, begun = threading.Event(), threading.Event()

    def hangs() -> None:
        begun.set()
        assert go_on.wait(LONG)

    asking = threading.Thread(target=lambda: threads.together([lambda: None, hangs]))
    asking.start()
    assert begun.wait(LONG)
    told: list[int] = []
    other = threading.Thread(target=lambda: told.extend(threads.together([threading.get_ident] * 3)))
    other.start()
    other.join(LONG)
    assert told == [other.ident] * 3
    go_on.set()
    asking.join(LONG)
    threads.close()


def test_a_signal_handler_may_close_while_a_thread_is_being_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waited for a lock that its own thread held.

    Then for a thread that waited for its end, which the one that was being started had taken.
    """
    threads = Threads(4, NAME)
    begun, go_on = threading.Event(), threading.Event()

    def busy() -> None:
        begun.set()
        assert go_on.wait(LONG)

    def later(meanwhile: threading.Thread) -> None:
        meanwhile.join(LONG)
        go_on.set()

    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        if thread.name.startswith(NAME):
            start(threading.Thread(target=later, args=(thread,), daemon=True))
            threads.close()

    before = threading.Thread(target=lambda: threads.together([lambda: None, busy]), daemon=True)
    before.start()
    assert begun.wait(LONG)
    told: list[int] = []
    asking = threading.Thread(
        target=lambda: told.extend(threads.together([partial(int, each) for each in range(4)])), daemon=True
    )
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", interrupted)
        start(asking)
        asking.join(LONG)
    assert told == [0, 1, 2, 3]
    wait_until(lambda: ours() == [])


def test_all_tasks_of_a_batch_are_under_way_at_once() -> None:
    threads = Threads(7, NAME)
    meeting = threading.Barrier(8)
    assert sorted(threads.together([lambda: meeting.wait(LONG)] * 8)) == list(range(8))
    threads.close()


def test_no_more_threads_than_allowed_and_no_more_than_needed() -> None:
    threads = Threads(3, NAME)
    for _ in range(20):
        threads.together([lambda: None, lambda: None])
        wait_until(lambda: threads._work.queue.empty() and threads._work.idle.qsize() == len(ours()))
    assert len(ours()) == 1
    threads.together([lambda: None] * 50)
    assert len(ours()) == 3
    threads.close()


def test_many_callers_at_once_each_get_their_own() -> None:
    threads = Threads(5, NAME)
    wrong: list[object] = []

    def ask(caller: int) -> None:
        for number in range(200):
            told = threads.together([partial(tuple, (caller, number, each)) for each in range(4)])
            if told != [(caller, number, each) for each in range(4)]:
                wrong.append(told)

    callers = [threading.Thread(target=ask, args=(caller,)) for caller in range(8)]
    for each in callers:
        each.start()
    for each in callers:
        each.join(LONG)
    assert wrong == []
    threads.close()


@pytest.mark.parametrize("place", [0, 1, 2])
def test_what_a_task_raises_is_raised_and_the_others_are_done(place: int) -> None:
    threads = Threads(3, NAME)
    done: list[int] = []

    def fail() -> None:
        raise AssertionError("a bug")

    tasks: list[Callable[[], None]] = [partial(done.append, number) for number in range(3)]
    tasks[place] = fail
    with pytest.raises(AssertionError, match="a bug"):
        threads.together(tasks)
    threads.close()  # waits for those that go on
    assert set(done) == {0, 1, 2} - {place}
    assert threads.together([lambda: 1, lambda: 2]) == [1, 2]


def test_close_waits_for_what_is_under_way_and_later_tasks_are_done_by_who_asks() -> None:
    threads = Threads(1, NAME)
    go_on, begun, done = threading.Event(), threading.Event(), threading.Event()

    def task() -> None:
        begun.set()
        assert go_on.wait(LONG)
        done.set()

    asking = threading.Thread(target=lambda: threads.together([lambda: None, task]))
    asking.start()
    assert begun.wait(LONG)
    closing = threading.Thread(target=threads.close)
    closing.start()
    closing.join(0.05)
    assert closing.is_alive()
    assert set(threads.together([threading.get_ident] * 3)) == {threading.get_ident()}
    go_on.set()
    closing.join(LONG)
    assert done.is_set()
    asking.join(LONG)
    threads.close()
    assert ours() == []


def test_threads_of_an_owner_that_nobody_has_any_more_end() -> None:
    threads = Threads(2, NAME)
    threads.together([lambda: None] * 3)
    assert ours() != []
    del threads
    gc.collect()
    wait_until(lambda: ours() == [])


def test_nobody_to_do_it_is_no_reason_not_to_do_it(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = Threads(2, NAME)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", none_left)
        assert set(threads.together([threading.get_ident] * 3)) == {threading.get_ident()}
    threads.together([lambda: None, lambda: None])  # now there is one
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", none_left)
        assert threads.together([partial(int, each) for each in range(5)]) == list(range(5))
    threads.close()


def test_what_nobody_can_be_given_to_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = Threads(2, NAME)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", none_left)
        for _ in range(5):
            threads.together([lambda: None] * 3)
    assert threads._work.queue.empty()
    threads.close()


def test_ctrl_c_comes_before_what_the_others_raise() -> None:
    def fail() -> None:
        raise AssertionError("a bug")

    def interrupted() -> None:
        raise KeyboardInterrupt

    job = _Job([lambda: None, interrupted, fail])
    assert job.do_one()
    assert job.do_one()
    with pytest.raises(KeyboardInterrupt):
        job.results()


SCRIPT = """
import os, sys, threading, time
from casops.stores.couchbase_threads import Threads, _Job
threads = Threads(2, "t")
def slow():
    time.sleep(0.2)
    print("done", flush=True)
def ask():
    threads.together([lambda: None, slow])
asking = threading.Thread(target=ask, daemon=True)
asking.start()
time.sleep(0.05)
if sys.argv[1] == "fork":
    with threads._work.lock:
        child = os.fork()
    if not child:
        sys.exit(0)  # must not wait for a lock that was the parent's
    assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.parametrize("how", ["end", "fork"])
def test_the_end_of_the_interpreter_waits_for_what_is_under_way(how: str) -> None:
    if how == "fork" and not hasattr(os, "fork"):
        pytest.skip("there is no fork here")
    quiet = "-Wignore::DeprecationWarning"  # of a fork beside threads, which Python 3.12 warns of
    ran = subprocess.run(
        [sys.executable, quiet, "-c", SCRIPT, how], capture_output=True, text=True, timeout=LONG, check=False
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "done\n", "")
