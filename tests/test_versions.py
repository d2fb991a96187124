"""Servers of two versions of an application, one after the other, on one store: what was taken is told as it was."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel

from casops import CasOps, Documents, Operation
from casops.service import ServiceOptions, create_app
from casops.stores.memory import MemoryStore
from tests.serving import serving

OPTIONS = ServiceOptions(sweep_every=0)


class Before(Operation[str], name="changing"):
    amount: Decimal

    def apply(self, documents: Documents) -> str:
        return "paid"


class After(Operation[str], name="changing"):
    amount: Annotated[Decimal, AfterValidator(lambda amount: amount * 2)]

    def apply(self, documents: Documents) -> str:
        return "paid"


async def test_arguments_that_do_not_survive_say_nothing_of_an_operation_that_was_taken_before() -> None:
    store, told = MemoryStore(), list[Any]()
    for model in (Before, After):
        casops = CasOps(store)
        async with serving(create_app(casops, [model], options=OPTIONS), casops) as web:
            told.append(await web.post("changing", "c", {"amount": "5"}))
            fresh = await web.post("changing", f"new-{model.__name__}", {"amount": "5"})
    assert told[0].status_code == 200
    assert (told[1].status_code, told[1].json()["happened"], told[1].json()["retry"]) == (422, "unknown", True)
    assert (fresh.status_code, fresh.json()["happened"]) == (422, "no")


class Slip(BaseModel):
    left: Decimal


class NewSlip(Slip):
    fee: Decimal = Decimal(0)


class Buy(Operation[Slip], name="buying"):
    def apply(self, documents: Documents) -> Slip:
        return Slip(left=Decimal(5))


class BuyNow(Operation[NewSlip], name="buying"):
    def apply(self, documents: Documents) -> NewSlip:
        return NewSlip(left=Decimal(5))


async def test_a_replay_is_what_was_recorded_also_by_a_newer_version() -> None:
    store, told = MemoryStore(), list[str]()
    for model in (Buy, BuyNow):
        casops = CasOps(store)
        async with serving(create_app(casops, [model], options=OPTIONS), casops) as web:
            told.append((await web.post("buying", "b", {})).text)
    assert told == ['{"left":"5"}'] * 2
