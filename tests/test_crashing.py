"""What `crash_everywhere` runs, and what it catches."""

from __future__ import annotations

import random
import subprocess
import sys
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel

from casops import Declined, Document, DocumentMissing, Documents, InvalidDocument, Operation, Outcome, Ref, UsageError
from casops.protocol import execution, fate, settling
from casops.protocol.execution import Execution
from casops.testing import crash_everywhere
from tests.bank import Account, Broken, Close, Echo, Open, Receipt, Transfer

ALICE, BOB = Account.ref("alice"), Account.ref("bob")
BANK: dict[Ref[Any], Document] = {ALICE: Account(balance=Decimal(100)), BOB: Account(balance=Decimal(0))}
TRANSFER = Transfer(source="alice", target="bob", amount=30)


def test_every_world_of_a_transfer_comes_out_right_and_is_checked() -> None:
    seen: list[Outcome[Receipt]] = []

    def check(documents: Documents, outcome: Outcome[Receipt]) -> None:
        seen.append(outcome)
        assert documents[ALICE].balance == 70
        assert documents[BOB].balance == 30
        assert Account.ref("carol") not in documents
        assert outcome.result.left == 70

    report = crash_everywhere(TRANSFER, documents=BANK, check=check)
    assert report.worlds == len(report.names) == len(seen) > 100
    assert (report.outcome.status, report.outcome.replayed) == ("applied", False)
    assert all(outcome.replayed for outcome in seen)


@pytest.mark.parametrize(
    ("operation", "status"),
    [
        (Transfer(source="alice", target="bob", amount=9_999), "declined"),
        (Transfer(source="alice", target="alice", amount=1), "applied"),
        (Open(account="carol", balance=5), "applied"),
        (Close(account="alice"), "applied"),
        (Echo(value=None), "applied"),
        (Echo(value=[0, "", None]), "applied"),
    ],
)
def test_all_kinds_of_operations_come_out_right(operation: Operation[Any], status: str) -> None:
    assert crash_everywhere(operation, documents=BANK).outcome.status == status


class Follow(Operation[str]):
    """Looks up documents that it finds out about only while running, and keeps a field called "state"."""

    start: Ref[Account]

    def apply(self, documents: Documents) -> str:
        other = Account.ref(documents[self.start].note or "nobody")
        if other in documents:
            documents.remove(other)
        documents.create(Parcel.ref("p"), Parcel(state={"state": "sent"}))
        return other.id


class Parcel(Document, collection="parcels"):
    state: dict[str, str]


def test_documents_that_are_found_out_while_running() -> None:
    documents = {ALICE: Account(balance=Decimal(1), note="bob"), BOB: Account(balance=Decimal(2))}

    def check(documents: Documents, outcome: Outcome[str]) -> None:
        assert (outcome.result, BOB in documents, documents[Parcel.ref("p")].state["state"]) == ("bob", False, "sent")

    crash_everywhere(Follow(start="alice"), documents=documents, check=check)


# --- one world --------------------------------------------------------------------------------


def test_one_world_alone_with_its_conversation() -> None:
    report = crash_everywhere(TRANSFER, documents=BANK, world="crash after 6 requests, the rest late")
    assert report.names == ("crash after 6 requests, the rest late",)
    trace = "\n".join(report.trace)
    assert "first crashes\nsecond is asked" in trace
    assert 'first → replace accounts/bob at 2 stage first-1.1 = {"balance":"30","note":null}   (late)' in trace
    assert 'first → replace accounts/bob at 2 stage first-1.1 = {"balance":"30","note":null}   mismatch' in trace
    assert 'third hears: applied {"left": "70"}, replayed' in trace


def test_the_same_world_is_the_same_again() -> None:
    one, other = (crash_everywhere(TRANSFER, documents=BANK, world="two at once, order 7") for _ in range(2))
    assert one.trace == other.trace


def test_a_world_that_is_not_there_is_refused_with_the_list() -> None:
    with pytest.raises(UsageError, match=r"no world 'crash after 999 requests'.* crash after 1 requests"):
        crash_everywhere(TRANSFER, documents=BANK, world="crash after 999 requests")


# --- what it catches --------------------------------------------------------------------------


class Lottery(Operation[int]):
    account: Ref[Account]

    def apply(self, documents: Documents) -> int:
        documents[self.account].balance += random.randrange(10**9)
        return 0


class Counting(Operation[int]):
    """Remembers something from one call to the next."""

    account: Ref[Account]

    def apply(self, documents: Documents) -> int:
        CALLS.append(None)
        return len(CALLS)


CALLS: list[None] = []


class Moody(Operation[None]):
    """Refuses now and then."""

    account: Ref[Account]

    def apply(self, documents: Documents) -> None:
        CALLS.append(None)
        assert self.account in documents
        if len(CALLS) % 7 == 0:
            raise Declined("not today")


@pytest.mark.parametrize("operation", [Lottery(account="alice"), Counting(account="alice"), Moody(account="alice")])
def test_an_apply_that_does_not_always_do_the_same_is_caught(operation: Operation[Any]) -> None:
    with pytest.raises(AssertionError, match="does not always do the same") as caught:
        crash_everywhere(operation, documents=BANK)
    assert '"account":"alice"' in str(caught.value)
    assert 'accounts/alice = {"balance":"100","note":null}' in str(caught.value) or type(operation) is Counting
    assert "no clock, no random numbers" in str(caught.value)


class Opaque(BaseModel):
    """Looks different each time, as what has no `__repr__` of its own does."""

    number: int

    def __repr__(self) -> str:
        return f"<Opaque object at {random.getrandbits(48):#x}>"


class Makes(Operation[Opaque]):
    account: Ref[Account]

    def apply(self, documents: Documents) -> Opaque:
        return Opaque(number=1)


class Misfit(Operation[int]):
    account: Ref[Account]

    def apply(self, documents: Documents) -> Any:
        return Opaque(number=1)


def test_results_are_compared_as_they_are_recorded_and_not_by_what_they_look_like() -> None:
    assert crash_everywhere(Makes(account="alice"), documents=BANK).outcome.value == Opaque(number=1)
    with pytest.raises(InvalidDocument, match="does not fit its type"):
        crash_everywhere(Misfit(account="alice"), documents=BANK)


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
def test_a_check_that_says_no_without_raising_has_not_passed() -> None:
    async def later(documents: Documents, outcome: Outcome[Any]) -> None:
        raise AssertionError

    with pytest.raises(AssertionError, match="check returned False"):
        crash_everywhere(TRANSFER, documents=BANK, check=lambda documents, outcome: False)
    with pytest.raises(AssertionError, match="nobody awaits"):
        crash_everywhere(TRANSFER, documents=BANK, check=later)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_a_check_that_is_not_content_is_told_with_the_world_and_its_conversation() -> None:
    def check(documents: Documents, outcome: Outcome[Receipt]) -> None:
        assert not outcome.taken_over
        assert documents[ALICE].balance == 100, "alice has lost money"

    with pytest.raises(AssertionError, match="alice has lost money") as caught:
        crash_everywhere(TRANSFER, documents=BANK, check=check)
    text = str(caught.value)
    assert text.startswith("in the world 'undisturbed'")
    assert "first → insert results/the-operation proposed first-1.1   stored 2" in text
    assert 'first hears: applied {"left": "70"' in text
    assert text.endswith("crash_everywhere(…, world='undisturbed')")


def test_a_check_that_raises_something_else_tells_the_world_too() -> None:
    def check(documents: Documents, outcome: Outcome[Receipt]) -> None:
        documents[Account.ref("carol")].balance += 1

    with pytest.raises(DocumentMissing) as caught:
        crash_everywhere(TRANSFER, documents=BANK, check=check)
    assert "in the world 'undisturbed'" in caught.value.__notes__[0]


def test_an_operation_that_raises_where_nothing_goes_wrong_raises_here() -> None:
    with pytest.raises(ZeroDivisionError):
        crash_everywhere(Broken(account="alice"), documents=BANK)
    with pytest.raises(DocumentMissing):
        crash_everywhere(TRANSFER, documents={})


def test_documents_of_another_type_are_refused() -> None:
    with pytest.raises(UsageError, match="a reference is needed"):
        crash_everywhere(TRANSFER, documents={"alice": Account(balance=Decimal(1))})  # type: ignore[dict-item]
    with pytest.raises(UsageError, match="needs a Account, not a Parcel"):
        crash_everywhere(TRANSFER, documents={ALICE: Parcel(state={})})


# Each of these makes the protocol wrong; the worlds must show it.
def test_a_protocol_that_takes_half_for_all_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fate, "missing_participants", lambda *_: [])
    with pytest.raises(AssertionError, match="in the world 'crash after 5 requests'"):
        crash_everywhere(TRANSFER, documents=BANK)


def test_a_protocol_that_takes_unknown_for_failure_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def void(self: Execution, attempt: str, keys: object) -> Any:
        return False
        yield

    monkeypatch.setattr(execution.Execution, "_decide", void)
    with pytest.raises(AssertionError, match="in the world"):
        crash_everywhere(TRANSFER, documents=BANK)


def test_settling_that_forgets_a_document_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settling, "_writes", lambda *_: {})
    with pytest.raises(AssertionError, match="is not settled, and nothing lists it"):
        crash_everywhere(TRANSFER, documents=BANK)


def test_it_is_light_to_import() -> None:
    code = "import sys, casops.testing; sys.exit(any(n in sys.modules for n in ('pytest', 'casops.testing.explorer')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
