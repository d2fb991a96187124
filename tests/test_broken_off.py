"""What may befall a process at any line (Ctrl-C, no memory) is told truly, and ends no thread that others need."""

from __future__ import annotations

import asyncio
import sys
import threading
from functools import partial
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, PlainSerializer, field_serializer, model_serializer

from casops import CasOps, Declined, Document, Documents, Operation, Ref, UsageError
from casops.client import Client
from casops.threads import Threads
from tests.conftest import QUICK


class Noted(BaseModel):
    note: str

    @field_serializer("note")
    def written(self, note: str) -> str:
        if note == NOTE and TROUBLE:
            raise TROUBLE.pop()
        return note


class Book(Document, collection="books"):
    last: Noted


class Write(Operation[Noted | None]):
    """Its arguments, its document, its result and the details of its refusal have the note."""

    book: Ref[Book]
    argument: Noted
    kept: str = ""
    result: str = ""
    detail: str = ""

    def apply(self, documents: Documents) -> Noted | None:
        if self.detail != "":
            raise Declined("no", detail=Noted(note=self.detail))
        documents.create(self.book, Book(last=Noted(note=self.kept)))
        return Noted(note=self.result)


NOTE = "it comes when this is written"
TROUBLE: list[BaseException] = []


@pytest.mark.parametrize("where", ["argument", "kept", "result", "detail"])
@pytest.mark.parametrize("befalls", [KeyboardInterrupt(), SystemExit(3), SystemExit(), MemoryError()], ids=repr)
def test_what_befalls_the_writing_of_a_model_is_told_as_what_it_is(befalls: BaseException, where: str) -> None:
    """It was told as an error of the model, and of arguments that nothing had happened, whatever had before."""
    notes: dict[str, Any] = {where: Noted(note=NOTE) if where == "argument" else NOTE}
    operation = Write(**{"book": "b", "argument": Noted(note=""), **notes})
    with CasOps.open("memory://", options=QUICK) as casops:
        TROUBLE[:] = [befalls]
        with pytest.raises(type(befalls)) as told:
            casops.run(operation, operation_id="i")
        assert TROUBLE == []
        if isinstance(befalls, SystemExit):
            assert isinstance(told.value, SystemExit)
            assert told.value.code == befalls.code
        assert casops.execute(operation, operation_id="i").status == ("declined" if where == "detail" else "applied")
        TROUBLE[:] = [befalls]
        if where == "argument":
            with pytest.raises(type(befalls)):
                casops.run(operation, operation_id="i")
            assert casops.execute(operation, operation_id="i").replayed
    TROUBLE.clear()


class Upper:
    """A serializer without a name of its own."""

    def __call__(self, text: str) -> str:
        if TROUBLE:
            raise TROUBLE.pop()
        return text


Lambda = Annotated[str, PlainSerializer(lambda text: Upper()(text), return_type=str)]
Instance = Annotated[str, PlainSerializer(Upper(), return_type=str)]
Partial = Annotated[str, PlainSerializer(partial(Upper()), return_type=str)]


class Inner(BaseModel):
    text: Lambda = "t"

    @model_serializer(mode="wrap")
    def written(self, handler: Any) -> Any:
        return handler(self)


class Keep(Operation[int]):
    def apply(self, documents: Documents) -> int:
        return 1


class KeepInner(Keep):
    inner: Inner


class KeepByInstance(Keep):
    text: Instance


class KeepByPartial(Keep):
    text: Partial


@pytest.mark.parametrize("befalls", [KeyboardInterrupt(), SystemExit(-1), MemoryError()], ids=repr)
@pytest.mark.parametrize(
    "operation", [KeepInner(inner=Inner()), KeepByInstance(text="t"), KeepByPartial(text="t")], ids=repr
)
def test_it_is_found_behind_whatever_functions_are_called(operation: Keep, befalls: BaseException) -> None:
    with CasOps.open("memory://", options=QUICK) as casops:
        assert casops.run(operation, operation_id="i") == 1
        TROUBLE[:] = [befalls]
        with pytest.raises(type(befalls)) as told:
            casops.run(operation, operation_id="i")
        assert not isinstance(befalls, SystemExit) or told.value.args == (-1,)
        assert TROUBLE == []
        assert casops.execute(operation, operation_id="i").replayed


@pytest.mark.parametrize(
    "text",
    [
        "Error calling function `f`: SystemExit: 0",
        "Error serializing to JSON: Error calling function `f`: KeyboardInterrupt",
        "`: SystemExit: 0",
        "SystemExit",
    ],
)
def test_what_a_customer_has_typed_ends_no_program(text: str) -> None:
    operation = KeepInner(inner=Inner())
    with CasOps.open("memory://", options=QUICK) as casops:
        TROUBLE[:] = [ValueError(text)]
        with pytest.raises(UsageError, match="do not survive JSON"):
            casops.run(operation, operation_id="i")


def test_ctrl_c_while_the_thread_of_a_client_starts_is_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start
    begun: list[threading.Thread] = []

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        begun.append(thread)
        raise KeyboardInterrupt

    loop = asyncio.new_event_loop()
    with monkeypatch.context() as patched:
        patched.setattr(asyncio, "new_event_loop", lambda: loop)
        patched.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            Client(["http://127.0.0.1:1"])
    loop.call_soon_threadsafe(loop.stop)  # nobody has it; it would end with the process
    begun[0].join(20)
    assert not begun[0].is_alive()
    loop.close()


def test_a_client_whose_thread_cannot_start_leaves_no_loop_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    loop = asyncio.new_event_loop()
    monkeypatch.setattr(asyncio, "new_event_loop", lambda: loop)
    monkeypatch.setattr(threading.Thread, "start", none_left)
    with pytest.raises(RuntimeError, match="can't start"):
        Client(["http://127.0.0.1:1"])
    assert loop.is_closed()


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
