"""The intention: "operation i with these arguments is to happen".

It makes an operation known to sweepers before anything else of it can be seen.

Must not be in here: R(i), documents.
"""

from __future__ import annotations

from dataclasses import replace

from casops.errors import CasOpsError, Expired, OperationMismatch, OutcomeUnknown, StoreUnavailable, text_of
from casops.ids import time_of
from casops.messages import Insert, Missing, Read, Refused, Remove, Replace, Reply, Steps, Stored, Unknown, Version
from casops.protocol.environment import Environment, StoreFailed
from casops.protocol.work import Work
from casops.records import Event, Intention, decode_intention, encode, intention_key

# Characters kept of an exception's text: enough to recognise it in a list.
MAX_ERROR_TEXT = 500

UNTOLD = "a sweep began to run it and has not told what became of that"


class Declaration:
    """The intention of one call: the one it declares, or the one it finds."""

    def __init__(self, environment: Environment, operation_id: str, work: Work, call: str) -> None:
        self._environment = environment
        self._id = operation_id
        self._work = work
        self._key = intention_key(operation_id)
        self.call = call
        self._intention: Intention | None = None
        self.cas: int | None = None  # known if this call declared it or took it over, or a sweep found it
        self._swept = False  # a sweep found it, it may be long ago
        self._uncounted: Intention | None = None  # as it was before take_over counted a failure
        self._mine = False  # this call declared it: it may withdraw it
        self.in_doubt = False  # a write of it by this call may have landed, or land yet, without our knowing

    @property
    def intention(self) -> Intention:
        if self._intention is None:  # what has ended, or takes one write, has no use for it
            self._intention = Intention(
                operation=self._work.name,
                fingerprint=self._work.fingerprint,
                arguments=self._work.arguments,
                call=self.call,
                worker=self._environment.worker,
                at=self._environment.now.wall,
            )
        return self._intention

    def found(self, intention: Intention, cas: int) -> None:
        """Go on with an intention that a sweep found."""
        self._intention, self.cas, self._swept = intention, cas, True

    def request(self) -> Insert:
        return Insert(self._key, encode(self.intention))

    def heard(self, reply: Reply) -> None:
        """What the store said to `request`: this call has declared it, or it does not know."""
        if isinstance(reply, Stored):
            self.cas, self._mine = reply.cas, True
        self.in_doubt = self.in_doubt or isinstance(reply, Unknown)

    def is_ours(self, reply: Reply) -> Steps[bool]:
        """Does the intention of this very call stand?  `reply`: what the store said to `request`.

        Raises OperationMismatch if the one that stands has other arguments.
        """
        answer: Reply = reply
        while isinstance(answer, Unknown):
            yield from self._environment.after_failed(answer)
            (answer,) = yield from self._environment.perform(self.request())
        self.heard(answer)
        if isinstance(answer, Stored):
            return True
        if isinstance(answer, Refused):
            raise StoreFailed(answer)
        (found,) = (yield from self._environment.read([self._key])).values()
        if isinstance(found, Missing):
            return False  # it was settled and removed just now
        standing = decode_intention(found.body, self._id)
        check_fingerprint(self._work, self._id, standing.fingerprint)
        self._intention = standing
        if standing.call == self.call:
            self.heard(Stored(found.cas))  # our own write, whose reply was lost
        return standing.call == self.call

    def take_over(self) -> Steps[None]:
        """Make the intention this call's before it goes on with what another call has begun.

        Whoever declared it may withdraw it, by the CAS it knows, when it gives up.  What is worked on must stay
        listed, so that CAS is moved; and whoever has taken an intention over never withdraws it.
        A sweep counts a failure with it, beforehand: what kills the process, or never returns, tells nobody.
        Raises OperationMismatch, StoreFailed, TimeUp.
        """
        while not self._mine:
            before = replace(self.intention, call=self.call)
            self._intention = _failed(before, UNTOLD) if self._swept else before
            (reply,) = yield from self._environment.perform(self._taking(self._intention))
            if isinstance(reply, Refused) and self._swept:
                # Intentions may share a document, and that be full: then none of them can become longer, and sweeps
                # are what makes room.  So it is written as short as it was.  It must be written: the CAS has to move,
                # and a count that is left out would let a function kill one process after the other.
                self._intention = replace(self._intention, last_error=None)
                (reply,) = yield from self._environment.perform(self._taking(self._intention))
            if isinstance(reply, Stored):
                self.cas, self._uncounted = reply.cas, before
                return
            self.in_doubt = self.in_doubt or isinstance(reply, Unknown)
            yield from self._environment.after_failed(reply)
            (found,) = (yield from self._environment.read([self._key])).values()
            if isinstance(found, Missing):
                self.cas = None
                if self._swept:  # it has ended since the sweep saw it, and its result may even be forgotten
                    raise StoreFailed(Refused("its intention was taken away during the sweep"))
                continue
            self.cas, self._intention = found.cas, decode_intention(found.body, self._id)
            check_fingerprint(self._work, self._id, self._intention.fingerprint)
            if self._intention.call == self.call:
                self._uncounted = before
                return

    def _taking(self, intention: Intention) -> Insert | Replace:
        text = encode(intention)
        return Insert(self._key, text) if self.cas is None else Replace(self._key, self.cas, text)

    def count(self, error: BaseException) -> Steps[None]:
        """Note that the business function raised.  A count that is lost costs one more try."""
        before = self.intention if self._uncounted is None else self._uncounted
        counted = _failed(before, text_of(error)[:MAX_ERROR_TEXT])
        if self.cas is not None:
            yield from self._environment.perform(Replace(self._key, self.cas, encode(counted)))

    def spare(self) -> Steps[None]:
        """The function was not at fault: take back what take_over has counted, as far as the store allows it.

        Another sweep may have counted since, so one less than what stands.
        """
        if self._uncounted is None:
            return
        (found,) = yield from self._environment.perform(Read(self._key))
        if isinstance(found, Version):
            standing = decode_intention(found.body, self._id)
            spared = replace(standing, failures=max(0, standing.failures - 1), last_error=self._uncounted.last_error)
            yield from self._environment.perform(Replace(self._key, found.cas, encode(spared)))

    def history(self, history: tuple[Event, ...], *, taken_over: bool) -> tuple[Event, ...]:
        """What came before an attempt: who declared it, who took it over."""
        intention, worker = self.intention, self._environment.worker
        if not any(event.what == "declared" for event in history):
            history = (Event(at=round(intention.at, 6), worker=intention.worker, what="declared"), *history)
        if taken_over and not any((each.what, each.worker) == ("taken over", worker) for each in history):
            history = (*history, self._environment.event("taken over"))
        return history

    def unanswered(self, why: str, *, in_doubt: bool, refused: bool = False) -> CasOpsError:
        """What to raise where the store was silent, or refused what a call cannot do without.

        in_doubt: a write of the call may make it happen yet.
        """
        if not refused and (trouble := self._environment.last_trouble) is not None:
            why += f" (the store said: {trouble})"
        if in_doubt or not refused or (self.cas is None and self.in_doubt):
            return OutcomeUnknown(f"{why}; ask again with the same id", operation_id=self._id)
        so_far = "this call changed nothing" if self.cas is None else "it is declared and pending"
        return StoreUnavailable(f"{why}; {so_far}; ask again with the same id", operation_id=self._id)

    def withdraw(self) -> Steps[bool]:
        """Remove it, if this call declared it: the operation is not to happen by itself later.

        By its CAS: should another worker have taken it over meanwhile, it stays.  Until it is certain: where many
        intentions share a document, its CAS moves without them, and a lost reply leaves it standing.
        Gives whether nothing of it stands.  Raises StoreFailed, TimeUp: then it may stay declared.
        """
        if self.cas is not None and not self._mine:
            return False
        while True:
            if self.cas is not None:
                (reply,) = yield from self._environment.perform(Remove(self._key, self.cas))
                if isinstance(reply, Stored):
                    self.cas = None
                    return True
                yield from self._environment.after_failed(reply)
            # Also where this call knows of none: another one may have declared it.
            try:
                (found,) = (yield from self._environment.read([self._key])).values()
            except StoreFailed as failure:
                if self.cas is not None or not failure.refusal.lasting:
                    raise
                return True  # what the store can never take nobody has declared
            self.cas = None
            if isinstance(found, Missing):
                return True
            if decode_intention(found.body, self._id).call != self.call:
                return False
            self.cas = found.cas


def _failed(intention: Intention, why: str) -> Intention:
    return replace(intention, failures=intention.failures + 1, last_error=why)


def check_time(environment: Environment, operation_id: str) -> None:
    """Raises Expired for an id that tells when it was made, if that is too long ago or has not come yet."""
    made, now, retention = time_of(operation_id), environment.now.wall, environment.options.retention
    if made is None:
        return
    if retention and made < now - retention:
        why = "this id is older than the retention: whether it happened was forgotten; it must not be asked again"
        raise Expired(why, operation_id=operation_id)
    if made > now + environment.options.skew:
        why = "this id comes from the future: the clock of its maker or of this machine is wrong"
        raise Expired(why, operation_id=operation_id)


def check_fingerprint(work: Work, operation_id: str, fingerprint: str | None) -> None:
    """Raises OperationMismatch unless the id belongs to this very operation (None: cannot be told)."""
    if fingerprint is not None and fingerprint != work.fingerprint:
        raise OperationMismatch(
            "this id belongs to an operation with other arguments, and this one did not happen; if it was meant to be "
            "the same, look with outcome() at what did happen: a new id would do it once more",
            operation_id=operation_id,
        )


def stays_pending(error: CasOpsError) -> None:
    """Another call has the intention, so it stays listed, and may succeed where this one did not."""
    error.happened, error.retry = None, True
    error.add_note(
        "casops: another call declared it or took it over, or its own declaration is still on its way: it stays "
        "pending; cancel it if it must not happen"
    )
