"""Lifetimes that have to be given as a moment: by the server's clock, also after this machine has slept.

Must not be in here: a server.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from casops.messages import RESULTS, Insert, Key, Replace, Unknown
from casops.stores.couchbase_calls import Answer, Call, Calls
from casops.stores.couchbase_clock import ASK_AGAIN, ServerClock
from casops.stores.couchbase_documents import Documents
from casops.stores.couchbase_errors import Meaning, Trouble
from casops.stores.couchbase_places import Settings

SETTINGS = Settings()
CALLS = Calls(SETTINGS)
DAY = 86_400
SERVER = 1_800_000_000.0  # seconds since 1970
WALL = SERVER - 5_000_000  # this machine's clock is wrong
MISSING = Trouble(Meaning.MISSING, "no such document")
EXISTS = Trouble(Meaning.EXISTS, "another was faster")
STORED = Answer(7, b"", ())


def told(seconds: float) -> Answer:
    return Answer(7, b"", (json.dumps({"now": str(seconds), "mode": "real"}).encode(),))


class Machine:
    """A machine whose clocks the test moves, and a server that gives these answers."""

    def __init__(self) -> None:
        self.monotonic, self.wall = 100.0, WALL
        self.clock = ServerClock(CALLS, SETTINGS.shard(0), lambda: self.monotonic, lambda: self.wall)

    def pass_by(self, seconds: float) -> None:
        self.monotonic += seconds
        self.wall += seconds

    def now(self, *answers: Answer | Trouble) -> Any:
        """What the clock says; the server must be asked for exactly these answers."""
        return drive(self.clock.now(), answers)[0]


def drive(steps: Any, answers: Sequence[Answer | Trouble]) -> tuple[Any, list[Call]]:
    calls: list[Call] = []
    came: Answer | Trouble | None = None
    left = list(answers)
    while True:
        try:
            calls.append(steps.send(came))
        except StopIteration as stop:
            assert left == []
            return stop.value, calls
        came = left.pop(0)


def test_the_server_is_asked_once_an_hour() -> None:
    machine = Machine()
    assert machine.now(told(SERVER)) == SERVER
    machine.pass_by(ASK_AGAIN)
    assert machine.now() == SERVER + ASK_AGAIN
    machine.pass_by(1)
    assert machine.now(told(SERVER + 7)) == SERVER + 7


def test_the_server_is_asked_again_after_the_machine_has_slept() -> None:
    machine = Machine()
    assert machine.now(told(SERVER)) == SERVER
    machine.wall += 40 * DAY
    assert machine.now(told(SERVER + 40 * DAY)) == SERVER + 40 * DAY
    assert machine.now() == SERVER + 40 * DAY


def test_a_wall_clock_that_is_set_costs_a_call_and_changes_nothing() -> None:
    machine = Machine()
    assert machine.now(told(SERVER)) == SERVER
    machine.wall -= 3 * DAY
    assert machine.now(told(SERVER + 1)) == SERVER + 1


def test_a_machine_that_sleeps_while_it_asks_asks_again() -> None:
    machine = Machine()
    steps = machine.clock.now()
    next(steps)
    machine.wall += 40 * DAY  # the server's answer is as old
    drive_on: Any = None
    try:
        steps.send(told(SERVER))
    except StopIteration as stop:
        drive_on = stop.value
    assert drive_on == SERVER
    assert machine.now(told(SERVER + 40 * DAY)) == SERVER + 40 * DAY


def test_the_document_whose_node_is_asked_is_put_there_by_an_insert() -> None:
    for made in (STORED, EXISTS):
        now, calls = drive(Machine().clock.now(), [MISSING, made, told(SERVER)])
        assert now == SERVER
        assert [call.method for call in calls] == ["lookup_in", "insert", "lookup_in"]
    failed = Machine().now(MISSING, Trouble(Meaning.UNKNOWN, "timed out"))
    assert failed == Unknown("the server's clock could not be read: timed out")


def test_a_result_lives_on_from_the_cas_it_replaces_whatever_the_clock_says() -> None:
    late = SERVER + 40 * DAY
    for request, until in (
        (Replace(Key(RESULTS, "op"), int(late * 1e9), "1", ttl=30 * DAY), late + 30 * DAY),
        (Replace(Key(RESULTS, "op"), int((SERVER - DAY) * 1e9), "1", ttl=30 * DAY), SERVER + 30 * DAY),
        (Insert(Key(RESULTS, "op"), "1", ttl=30 * DAY), SERVER + 30 * DAY),
    ):
        machine = Machine()
        machine.now(told(SERVER))  # and then it slept for 40 days, and its wall clock stood still, too
        _, calls = drive(Documents(SETTINGS, CALLS, machine.clock).serve(request), [STORED])
        assert [call.expires for call in calls] == [until]
