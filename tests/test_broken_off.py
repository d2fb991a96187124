"""What may befall a process at any line (Ctrl-C, no memory) is told truly, and ends no thread that others need."""

from __future__ import annotations

import sys
import threading
from typing import Any

import pytest
from pydantic import Field, field_serializer

from casops import CasOps, Documents, Operation, Ref, UsageError
from casops.client import Client
from casops.threads import Threads
from tests.bank import Account


@pytest.mark.parametrize("befalls", [KeyboardInterrupt, SystemExit, MemoryError])
def test_what_befalls_the_writing_of_arguments_says_nothing_of_what_an_earlier_call_did(
    befalls: type[BaseException],
) -> None:
    trouble: list[BaseException] = []

    class Add(Operation[int]):
        account: Ref[Account]
        note: str = Field(default="")

        def apply(self, documents: Documents) -> int:
            return 1

        @field_serializer("note")
        def written(self, note: str) -> str:
            if trouble:
                raise trouble.pop()
            return note

    with CasOps.open("memory://") as casops:
        operation = Add(account="a", note="n")
        assert casops.run(operation, operation_id="i") == 1
        trouble.append(befalls())
        with pytest.raises(UsageError, match=f"broken off: .*{befalls.__name__}") as told:
            casops.run(operation, operation_id="i")
        assert (told.value.happened, told.value.retry) == (None, True)
        assert casops.run(operation, operation_id="i") == 1


def test_a_job_that_is_broken_off_leaves_its_thread_to_the_others() -> None:
    threads = Threads(1, "test")
    done = threading.Event()

    def no_memory() -> Any:
        raise MemoryError

    threads.add(no_memory)
    threads.add(done.set)
    assert done.wait(10)
    threads.close()


def test_what_ends_an_event_loop_does_not_end_the_clients() -> None:
    client = Client(["http://127.0.0.1:9"], operations=[])
    client._loop.call_soon_threadsafe(sys.exit)
    again = threading.Event()
    client._loop.call_soon_threadsafe(again.set)
    assert again.wait(10)
    client.close()  # without its thread it would wait for ever
