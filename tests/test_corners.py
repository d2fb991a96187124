"""Rules about models, operations, fronts and lines that are easily broken without anybody noticing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, computed_field

from casops import (
    CasOps,
    Declined,
    Document,
    Documents,
    Expired,
    InvalidDocument,
    Operation,
    Options,
    OutcomeUnknown,
    Ref,
)
from casops.arguments import fingerprint_of
from casops.errors import UsageError
from casops.local import local_reply
from casops.messages import RESERVED, Read, Refused, Reply, StoreRequest, Unknown
from casops.stores.memory import MemoryStore
from casops.turns import Ticket, Turns, rounds
from tests.bank import Account, Open
from tests.conftest import QUICK
from tests.steps import n


class Other(Document, collection="others"):
    balance: int = 0


# --- references -----------------------------------------------------------------------------------


def test_a_field_takes_a_reference_to_its_own_type_and_to_no_other() -> None:
    assert Open(account=Account.ref("alice")).account == Account.ref("alice")
    with pytest.raises(ValidationError, match="a reference to Account is needed"):
        Open(account=Other.ref("alice"))


def test_a_reference_names_its_type() -> None:
    for wrong in (Ref, Ref[int], Ref[BaseModel]):  # type: ignore[type-var]
        with pytest.raises(UsageError, match=r"Ref\[Account\]"):
            type("Bad", (Operation,), {"__annotations__": {"account": wrong}, "__module__": __name__})


def test_collections_of_casops_are_nobody_elses() -> None:
    with pytest.raises(UsageError, match="casops' own"):

        class Mine(Document, collection=RESERVED + "results"):
            pass


# --- what comes back from JSON --------------------------------------------------------------------


class Base(BaseModel):
    note: str = ""


class Sub(Base):
    """Nothing of its own: only its class tells it from its base."""


class Holder(Document, collection="holders"):
    inner: Base = Base()


class Hold(Operation[None]):
    holder: Ref[Holder]

    def apply(self, documents: Documents) -> None:
        documents.create(self.holder, Holder(inner=Sub()))


def test_a_subclass_without_fields_of_its_own_is_not_stored_as_its_base() -> None:
    with CasOps(MemoryStore(), options=QUICK) as casops, pytest.raises(InvalidDocument, match="inner"):
        casops.run(Hold(holder="h"), operation_id="h")


class Told(BaseModel):
    model_config = ConfigDict(frozen=True)

    left_over: int = Field(alias="left")


class Tell(Operation[Told]):
    def apply(self, documents: Documents) -> Told:
        return Told(left=1)


def test_a_result_may_have_aliases() -> None:
    with CasOps(MemoryStore(), options=QUICK) as casops:
        assert casops.run(Tell(), operation_id="t") == casops.run(Tell(), operation_id="t") == Told(left=1)


class Odd(Operation[None]):
    def apply(self, documents: Documents) -> None:
        raise Declined("odd", what=object())


def test_a_refusal_that_cannot_be_stored_leaves_nothing_pending() -> None:
    with CasOps(MemoryStore(), options=QUICK) as casops:
        with pytest.raises(UsageError, match="not JSON"):
            casops.run(Odd(), operation_id="odd")
        assert casops.pending() == []


# --- fronts ---------------------------------------------------------------------------------------


def test_what_is_run_is_an_operation() -> None:
    with CasOps(MemoryStore(), options=QUICK) as casops:
        for wrong in (Open, "open", None):
            with pytest.raises(UsageError, match="an Operation is needed"):
                casops.run(wrong, operation_id="open")  # type: ignore[arg-type]


def test_a_sweep_tells_what_it_leaves_because_it_is_young() -> None:
    store = MemoryStore()
    with CasOps(store, options=Options(grace=3600.0), operations=[Open]) as casops:
        steps = casops._engine.execute(casops._engine.work(Open(account="alice"), "open"), "open")
        reply: Any = None
        while not isinstance(request := steps.send(reply), tuple):
            reply = local_reply(request)
        store.perform(request)
        steps.close()
        recovery = casops.recover()
        assert [(each.operation_id, each.note) for each in recovery.left] == [("open", "younger than the grace period")]
        assert recovery.settled == 0


class Deaf(MemoryStore):
    """From the first write on nothing is heard of it, though it carries out everything."""

    silent = False

    def perform(self, batch: Sequence[StoreRequest], /) -> list[Reply]:
        self.silent = self.silent or not all(isinstance(each, Read) for each in batch)
        replies = super().perform(batch)
        return [Unknown("silent") for _ in batch] if self.silent else replies


class Refusing(MemoryStore):
    def perform(self, batch: Sequence[StoreRequest], /) -> list[Reply]:
        return [Refused("not such a document", lasting=True) for _ in batch]


def test_a_cancel_that_was_not_heard_of_is_no_nothing_has_changed() -> None:
    with CasOps(Deaf(), options=Options(deadline=0.1, poll=0.001)) as casops, pytest.raises(OutcomeUnknown):
        casops.cancel("open")


def test_what_a_store_can_never_take_is_an_error_of_the_call() -> None:
    with CasOps(Refusing(), options=QUICK) as casops, pytest.raises(UsageError, match="not such a document"):
        casops.read(Account.ref("alice"))


# --- lines ----------------------------------------------------------------------------------------


def test_who_is_behind_others_on_two_documents_goes_when_both_have_left() -> None:
    woken: list[str] = []
    turns = Turns()
    tickets = {
        names: Ticket([n(name) for name in names], lambda names=names: woken.append(names))  # type: ignore[misc]
        for names in ("a", "b", "ab")
    }
    for ticket in tickets.values():
        turns.join(ticket)
    assert woken == ["a", "b"]
    turns.leave(tickets["a"])
    assert woken == ["a", "b"]
    turns.leave(tickets["b"])
    assert woken == ["a", "b", "ab"]


def test_who_has_no_patience_waits_for_no_round() -> None:
    assert rounds(Options(patience=0)) == 1


class Summed(BaseModel):
    model_config = ConfigDict(extra="forbid")

    parts: list[int]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def total(self) -> int:
        return sum(self.parts)


class Sum(Operation[Summed]):
    def apply(self, documents: Documents) -> Summed:
        return Summed(parts=[1, 2])


def test_what_a_result_computes_is_not_stored() -> None:
    with CasOps(MemoryStore(), options=QUICK) as casops:
        assert casops.run(Sum(), operation_id="s") == casops.run(Sum(), operation_id="s") == Summed(parts=[1, 2])


class Speak(Operation[None]):
    def apply(self, documents: Documents) -> None:
        raise Expired("not for an apply to say")


def test_who_speaks_for_the_id_leaves_nothing_pending() -> None:
    with CasOps(MemoryStore(), options=QUICK) as casops:
        with pytest.raises(UsageError, match="casops alone"):
            casops.run(Speak(), operation_id="s")
        assert casops.pending() == []


class Labelled(Operation[None]):
    labels: dict[str, int]

    def apply(self, documents: Documents) -> None: ...


def test_equal_mappings_have_one_fingerprint_in_whatever_order() -> None:
    one, other = Labelled(labels={"a": 1, "b": 2}), Labelled(labels={"b": 2, "a": 1})
    assert one == other
    assert fingerprint_of(one) == fingerprint_of(other)
