"""An operation from its declaration to its answer: two steps, however many documents.

    step 1   declare the intention  ‖  read R(i)  ‖  read d1 … dk
             run the business function
    step 2   R(i) := proposed  ‖  stage d1 … dk
             all acknowledged: committed, answer

Everything else in this file is about losing: a lost race is tried again from a new reading, an
unknown reply is decided like a stranger's attempt (fate.py), another worker's operation is given
its time and then taken over.

Must not be in here: what comes after the answer (settling.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from casops.errors import (
    Contended,
    Expired,
    InvariantViolation,
    OperationMismatch,
    OutcomeUnknown,
    StoreUnavailable,
    UsageError,
)
from casops.ids import time_of
from casops.messages import Body as BodyOf
from casops.messages import (
    Exists,
    Insert,
    Key,
    Mismatch,
    Missing,
    Read,
    Refused,
    Remove,
    Replace,
    Reply,
    Stage,
    Steps,
    Stored,
    StoreRequest,
    Unknown,
    Version,
)
from casops.protocol import work as business
from casops.protocol.environment import Environment, Found, StoreFailed, TimeUp, Watch
from casops.protocol.fate import Standing, Suspect, decide, standing_of
from casops.protocol.limits import MAX_DOCUMENTS
from casops.records import (
    Intention,
    Participant,
    Record,
    Refusal,
    StageMeta,
    State,
    decode_intention,
    encode,
    intention_key,
    result_key,
    stage_of,
)


@dataclass(frozen=True, slots=True)
class Ended:
    """A final answer, and what settling can save by knowing."""

    operation_id: str
    standing: Standing
    replayed: bool
    attempts: int = 0
    taken_over: bool = False
    staged: dict[Key, Version | None] = field(default_factory=dict)  # our stages; None: look
    intention_cas: int | None = None

    @property
    def record(self) -> Record:
        assert self.standing.record is not None
        return self.standing.record


@dataclass(frozen=True, slots=True)
class Document:
    """A participant as read: the version, and the value it has now that its stage is decided."""

    found: Found
    value: business.Value
    built_on: bool = False  # the value is that of a committed stage which is still to be moved in

    @property
    def base(self) -> int | None:
        return None if isinstance(self.found, Missing) else self.found.cas

    def staged(self, cas: int, stage: Stage) -> Version:
        """This document once `stage` has landed on it."""
        live = not isinstance(self.found, Missing) and self.found.body is not None
        return Version(cas, self.value.body if live else None, stage)


class _Moved(Exception):
    """A document changed while it was being resolved: read again, in the next attempt."""


def execute(environment: Environment, operation_id: str, work: business.Work) -> Steps[Ended]:
    """Make `work` happen exactly once under this id, and give its answer.

    Raises OperationMismatch, Expired, Contended, OutcomeUnknown, StoreUnavailable,
    InvariantViolation, UsageError, and whatever the business function raises.
    """
    return (yield from Execution(environment, operation_id, work).run())


class Execution:
    """The state of one call: what it knows of R(i), of its documents and of its own attempts."""

    def __init__(self, environment: Environment, operation_id: str, work: business.Work) -> None:
        self.environment = environment
        self.options = environment.options
        self.id = operation_id
        self.work = work
        self.call = ""
        self.standing = Standing()  # the version of R(i) from which we may propose
        self.intention: Intention | None = None  # ours, or the one that was there
        self.intention_cas: int | None = None  # only if this call declared it
        self.taken_over = False
        self.in_doubt = False  # a proposal of ours may be, or become, committed
        self.attempts = 0
        self.dead: set[str] = set()  # attempts known never to commit
        self.found: dict[Key, Found] = {}
        self.wanted: tuple[Key, ...] = work.declared
        self.staged: dict[Key, Version | None] = {}

    # --- the whole --------------------------------------------------------------------------

    def run(self, entry: tuple[Intention, int] | None = None) -> Steps[Ended]:
        """`entry`: an intention found by a sweep, to be taken over at once."""
        try:
            yield from self.environment.begin()
            self._refuse_impossible_id()
            self.call = yield from self.environment.fresh_id()
            if entry is None:
                ended = yield from self._declare()
            else:
                self.intention, self.intention_cas = entry
                self._check_fingerprint(self.intention.fingerprint)
                yield from self._look()
                ended = yield from self._follow(patience=0.0)
            while ended is None:
                ended = yield from self._attempt()
            return ended
        except TimeUp:
            raise self._out_of_time() from None
        except StoreFailed as failure:
            raise self._store_failed(str(failure)) from None

    def _refuse_impossible_id(self) -> None:
        made, now, retention = time_of(self.id), self.environment.now.wall, self.options.retention
        if made is None:
            return
        if retention and made < now - retention:
            raise Expired(
                "this id is older than the retention: whether it happened was forgotten; it must not be asked again",
                operation_id=self.id,
            )
        if made > now + self.options.skew:
            raise Expired(
                "this id comes from the future: the clock of its maker or of this machine is wrong",
                operation_id=self.id,
            )

    # --- step 1 -----------------------------------------------------------------------------

    def _declare(self) -> Steps[Ended | None]:
        mine = Intention(
            operation=self.work.name,
            fingerprint=self.work.fingerprint,
            arguments=self.work.arguments,
            call=self.call,
            worker=self.environment.worker,
            at=self.environment.now.wall,
        )
        declare = Insert(intention_key(self.id), encode(mine))
        keys = (result_key(self.id), *self.wanted)
        declared, *replies = yield from self.environment.perform(declare, *(Read(key) for key in keys))
        self.found = {
            key: reply for key, reply in zip(keys, replies, strict=True) if isinstance(reply, Version | Missing)
        }
        if isinstance(declared, Stored):
            self.intention, self.intention_cas = mine, declared.cas
        try:
            yield from self._look()
        except OperationMismatch:
            yield from self._withdraw()  # these arguments must not stay pending under this id
            raise
        if self.standing.final:
            return self._replay()
        ours = yield from self._declared(mine, declare, declared)
        if ours and (self.standing.record is None or self.standing.record.state == "open"):
            return None
        return (yield from self._follow(self.options.patience))

    def _declared(self, mine: Intention, declare: Insert, reply: Reply) -> Steps[bool]:
        """Is the intention that stands there the one of this very call?"""
        while True:
            if isinstance(reply, Stored):
                self.intention, self.intention_cas = mine, reply.cas
                return True
            if isinstance(reply, Exists):
                (found,) = (yield from self.environment.read([declare.key])).values()
                if isinstance(found, Missing):
                    return False  # it was settled and removed just now
                self.intention = decode_intention(found.body, self.id)
                self._check_fingerprint(self.intention.fingerprint)
                if self.intention.call == self.call:  # our own write, whose reply was lost
                    self.intention_cas = found.cas
                    return True
                return False
            if isinstance(reply, Refused):
                raise StoreFailed(reply.why)
            yield from self.environment.pause(self.options.poll)
            (reply,) = yield from self.environment.perform(declare)

    def _look(self) -> Steps[None]:
        """See R(i), from what was read already or from a new reading."""
        key = result_key(self.id)
        found = self.found.pop(key, None)
        if found is None:
            found = (yield from self.environment.read([key]))[key]
        if isinstance(found, Missing) and self.standing.record is not None:
            raise Expired("its result was there and is forgotten: it must not be asked again", operation_id=self.id)
        self._adopt(standing_of(found, self.id))

    def _adopt(self, standing: Standing) -> None:
        self.standing = standing
        if standing.record is not None and standing.record.fingerprint is not None:
            self._check_fingerprint(standing.record.fingerprint)

    def _check_fingerprint(self, fingerprint: str) -> None:
        if fingerprint != self.work.fingerprint:
            raise OperationMismatch(
                "this id belongs to an operation with other arguments; this one did not happen: use a new id",
                operation_id=self.id,
            )

    def _follow(self, patience: float) -> Steps[Ended | None]:
        """Another worker has this operation: give it its time, then take over."""
        watch = Watch(self.environment, patience)
        while not self.standing.final and not (yield from watch.over(self.standing.cas)):
            yield from self._look()
        if self.standing.final:
            return self._replay()
        self.taken_over = True
        self.found.clear()
        if self.intention_cas is None:
            # Whoever declared it may have withdrawn it meanwhile; what is worked on must be listed.
            (reply,) = yield from self.environment.perform(self._redeclaration())
            if isinstance(reply, Stored):
                self.intention_cas = reply.cas
        record = self.standing.record
        if record is None or record.attempt is None:
            return None
        keys = tuple(each.key for each in record.participants)
        fate = yield from decide(self.environment, self._suspect(record.attempt, keys), patience=0.0)
        self._adopt(fate.standing)
        return self._replay() if self.standing.final else None

    def _overtaken(self) -> Steps[Ended | None]:
        """R(i) is not what we left there.  None: go on from what it is now."""
        record = self.standing.record
        if self.standing.final:
            return self._replay()
        if record is None or record.state == "open":
            return None  # a stranger voided us, which takes nothing but a new attempt
        return (yield from self._follow(self.options.patience))

    def _redeclaration(self) -> Insert:
        intention = self.intention or Intention(
            operation=self.work.name,
            fingerprint=self.work.fingerprint,
            arguments=self.work.arguments,
            call=self.call,
            worker=self.environment.worker,
            at=self.environment.now.wall,
        )
        return Insert(intention_key(self.id), encode(intention))

    # --- one attempt ------------------------------------------------------------------------

    def _attempt(self) -> Steps[Ended | None]:
        """Read, run the function, write.  None: lost, try again."""
        if self.attempts:
            if self.attempts >= self.options.attempts:
                yield from self._give_up()
                raise Contended(
                    f"lost {self.attempts} tries to others; nothing happened: ask again with the same id",
                    operation_id=self.id,
                )
            # Twice as long after every loss, so that some worker is always left alone long enough.
            yield from self.environment.pause(self.options.poll * 2 ** min(self.attempts - 1, 6))
        self.attempts += 1
        try:
            documents, evaluation = yield from self._evaluate()
        except _Moved:
            return self._replay() if self.standing.final else None
        yield from self.environment.tick()  # no proposal after the deadline (see Options)
        if isinstance(evaluation, business.Success):
            return (yield from self._propose(documents, evaluation))
        if not (yield from self._still_true(documents, evaluation.looked_at)):
            return None
        if isinstance(evaluation, business.Refused):
            return (yield from self._decline(evaluation))
        yield from self._fail(evaluation)
        raise evaluation.error

    def _evaluate(
        self,
    ) -> Steps[tuple[dict[Key, Document], business.Success | business.Refused | business.Failed]]:
        """Run the function on documents whose stages are decided, fetching what it discovers."""
        documents: dict[Key, Document] = {}
        wanted: Iterable[Key] = self.wanted
        again = self.attempts > 1 or self.taken_over
        while True:
            missing = [key for key in wanted if key not in self.found]
            if again:
                missing.append(result_key(self.id))
            if missing:
                self.found.update((yield from self.environment.read(missing)))
            if again:
                again = False
                yield from self._look_again()
            for key in wanted:
                documents[key] = yield from self._resolve(key, self.found.pop(key))
            evaluation = self.work.evaluate({key: each.value for key, each in documents.items()})
            if not isinstance(evaluation, business.Wants):
                self.wanted = tuple(documents)
                return documents, evaluation
            wanted = sorted(evaluation.keys - documents.keys())
            assert wanted, "business code asked for documents it was given"
            if len(documents) + len(wanted) > MAX_DOCUMENTS:
                yield from self._withdraw()
                raise UsageError(
                    f"an operation may look at {MAX_DOCUMENTS} documents at most; nothing happened",
                    operation_id=self.id,
                )

    def _look_again(self) -> Steps[None]:
        """R(i) before another try: whoever moved it knows more than we do."""
        before = self.standing
        yield from self._look()
        if self.standing.cas == before.cas:
            return
        yield from self._overtaken()
        if self.standing.final or not self.found:
            raise _Moved  # it is over, or we took it over and what we had read is old

    def _resolve(self, key: Key, found: Found) -> Steps[Document]:
        """Decide the fate of the stage a document carries, so that its value can be built on."""
        if isinstance(found, Missing):
            return Document(found, business.Value(None))
        meta = stage_of(key, found)
        if meta is None or found.stage is None:
            return Document(found, business.Value(found.body, found.expires))
        own = meta.operation_id == self.id
        suspect = Suspect(
            meta.operation_id,
            meta.attempt,
            meta.participants,
            meta.operation,
            meta.fingerprint,
            known=own and self.standing.record is not None,
        )
        if own and meta.attempt in self.dead:
            return Document(found, business.Value(found.body, meta.expires))
        # Wound-wait: the older id does not wait for the younger, so that no circle of waiting lasts.
        elder = self.id <= meta.operation_id
        patience = min(self.options.poll, self.options.patience) if elder else self.options.patience
        fate = yield from decide(self.environment, suspect, patience)
        if own:
            # Our own operation is no exception; and we propose from exactly what this left behind.
            self._adopt(fate.standing)
            if self.standing.final:
                raise _Moved
        if not fate.committed:
            return Document(found, business.Value(found.body, meta.expires))
        value = business.Value(found.stage.body, meta.expires)
        if (found.body is None) == (value.body is None):
            return Document(found, value, built_on=value.body is not None)
        # The stage brings the document into being, or ends it: that is settled before anything is
        # built on it (a store need not be able to do both in one write).
        (reply,) = yield from self.environment.perform(settling(key, found, committed=True))
        if not isinstance(reply, Stored):
            raise _Moved
        expires = None if value.body is None else value.expires
        return Document(Version(reply.cas, value.body, None, expires), value)

    def _still_true(self, documents: dict[Key, Document], looked_at: frozenset[Key]) -> Steps[bool]:
        """Was there one instant at which all of this held?  A single document needs no second look."""
        if len(looked_at) < 2:
            return True
        again = yield from self.environment.read(sorted(looked_at))
        return all(documents[key].base == (None if isinstance(now, Missing) else now.cas) for key, now in again.items())

    # --- step 2 -----------------------------------------------------------------------------

    def _propose(self, documents: dict[Key, Document], success: business.Success) -> Steps[Ended | None]:
        attempt = f"{self.call}.{self.attempts}"
        keys = tuple(sorted(success.changes))
        record = self._record(
            "proposed",
            attempt,
            participants=tuple(Participant(key.collection, key.id, documents[key].base) for key in keys),
            result=success.result,
        )
        stages = [self._stage(attempt, keys, documents[key], success.changes[key]) for key in keys]
        self.in_doubt = True
        reply, *landed = yield from self.environment.perform(
            self._write(record),
            *(_staging(key, documents[key], stage) for key, stage in zip(keys, stages, strict=True)),
        )
        for key, stage, each in zip(keys, stages, landed, strict=True):
            self.staged[key] = documents[key].staged(each.cas, stage) if isinstance(each, Stored) else None

        if isinstance(reply, Stored) and all(isinstance(each, Stored) for each in landed):
            return self._ended(Standing(record, reply.cas))
        if isinstance(reply, Exists | Mismatch | Refused):
            # R(i) was not written and will not be: this attempt can never be committed.
            self.in_doubt = False
            self.dead.add(attempt)
            if isinstance(reply, Refused):
                raise StoreFailed(reply.why)
            yield from self._look()
            return (yield from self._overtaken())
        if isinstance(reply, Stored) and any(isinstance(each, Exists | Mismatch | Refused) for each in landed):
            # One participant has moved on (a refused one is never tried again): dead, by our own knowledge.
            self.in_doubt = False
            self.dead.add(attempt)
            self.standing = Standing(record, reply.cas)
            refused = [each.why for each in landed if isinstance(each, Refused)]
            if refused:
                yield from self._give_up()
                raise StoreFailed(refused[0])
            return None
        # Somewhere the reply is lost.  Decide like a stranger; nobody else can be expected to.
        fate = yield from decide(self.environment, self._suspect(attempt, keys), patience=0.0)
        self._adopt(fate.standing)
        self.in_doubt = False
        if fate.committed:
            return self._ended(fate.standing)
        self.dead.add(attempt)
        return self._replay() if self.standing.final else None

    def _stage(self, attempt: str, keys: tuple[Key, ...], document: Document, body: str | None) -> Stage:
        meta = StageMeta(
            operation_id=self.id,
            operation=self.work.name,
            fingerprint=self.work.fingerprint,
            attempt=attempt,
            participants=keys,
            expires=document.value.expires,
        )
        return Stage(encode(meta), body)

    def _decline(self, refusal: business.Refused) -> Steps[Ended | None]:
        attempt = f"{self.call}.{self.attempts}"
        record = self._record("declined", attempt, refusal=Refusal(code=refusal.code, details=refusal.details))
        (reply,) = yield from self.environment.perform(self._write(record))
        while isinstance(reply, Unknown):
            # The same write again does no harm: only one of them can succeed.
            self.in_doubt = True
            yield from self.environment.pause(self.options.poll)
            (reply,) = yield from self.environment.perform(self._write(record))
        if isinstance(reply, Stored):
            return self._ended(Standing(record, reply.cas))
        if isinstance(reply, Refused):
            raise StoreFailed(reply.why)
        yield from self._look()
        self.in_doubt = False
        if self.standing.record is not None and self.standing.record.attempt == attempt:
            return self._ended(self.standing)
        return (yield from self._overtaken())

    def _write(self, record: Record) -> StoreRequest:
        """R(i) from exactly the version we know.  Without a time to live: that comes last of all."""
        if self.standing.cas is None:
            return Insert(result_key(self.id), encode(record))
        return Replace(result_key(self.id), self.standing.cas, encode(record))

    def _record(
        self,
        state: State,
        attempt: str,
        participants: tuple[Participant, ...] = (),
        result: object = None,
        refusal: Refusal | None = None,
    ) -> Record:
        environment = self.environment
        history = self.standing.record.history if self.standing.record is not None else ()
        before = self.standing.record.attempts if self.standing.record is not None else 0
        if not any(event.what == "declared" for event in history) and self.intention is not None:
            begun = environment.event("declared").model_copy(
                update={"at": round(self.intention.at, 6), "worker": self.intention.worker}
            )
            history = (begun, *history)
        if self.taken_over and not any(
            (event.what, event.worker) == ("taken over", environment.worker) for event in history
        ):
            history = (*history, environment.event("taken over"))
        record = Record(
            operation=self.work.name,
            fingerprint=self.work.fingerprint,
            state=state,
            attempt=attempt,
            participants=participants,
            result=result,
            refusal=refusal,
            attempts=before + 1,
            history=history,
        )
        return record.becoming(environment.event(state, attempt))

    def _suspect(self, attempt: str, keys: tuple[Key, ...]) -> Suspect:
        known = self.standing.record is not None
        return Suspect(self.id, attempt, keys, self.work.name, self.work.fingerprint, known)

    # --- endings ----------------------------------------------------------------------------

    def _ended(self, standing: Standing, *, replayed: bool = False) -> Ended:
        assert standing.record is not None
        return Ended(
            self.id,
            standing,
            replayed,
            attempts=standing.record.attempts,
            taken_over=self.taken_over and not replayed,
            staged=self.staged,
            intention_cas=self.intention_cas,
        )

    def _replay(self) -> Ended:
        return self._ended(self.standing, replayed=True)

    def _fail(self, failed: business.Failed) -> Steps[None]:
        """The business function raised: count it in the intention, or leave nothing pending."""
        if failed.lasting and not self.taken_over:
            yield from self._give_up()
            return
        if self.intention is not None and self.intention_cas is not None:
            counted = self.intention.model_copy(
                update={
                    "failures": self.intention.failures + 1,
                    "last_error": f"{type(failed.error).__name__}: {failed.error}"[:500],
                }
            )
            # A count that is lost costs one more try: no second attempt at it.
            yield from self.environment.perform(Replace(intention_key(self.id), self.intention_cas, encode(counted)))
        failed.error.add_note(
            f"casops: operation {self.id} did not happen and is pending; asking again with the same id is safe"
        )

    def _give_up(self) -> Steps[None]:
        """Leave nothing behind that could still happen by itself: void our proposal, then withdraw.

        Best effort beyond that: stages that stay are void, and whoever meets them finds that out.
        """
        record = self.standing.record
        if record is not None and record.state == "proposed" and record.attempt in self.dead:
            keys = tuple(each.key for each in record.participants)
            fate = yield from decide(self.environment, self._suspect(record.attempt, keys), patience=0.0)
            self.standing = fate.standing
            if fate.standing.final:
                return
        staged = list(self.staged)
        if staged:
            found = yield from self.environment.read(staged)
            void = [
                settling(key, each, committed=False)
                for key, each in found.items()
                if isinstance(each, Version)
                and (meta := stage_of(key, each)) is not None
                and meta.operation_id == self.id
                and meta.attempt in self.dead
            ]
            if void:
                yield from self.environment.perform(*void)
        yield from self._withdraw()

    def _withdraw(self) -> Steps[None]:
        """Remove the intention, if this call declared it: it is not to happen by itself later."""
        if self.intention_cas is not None and not self.taken_over:
            yield from self.environment.perform(Remove(intention_key(self.id), self.intention_cas))

    def _out_of_time(self) -> Exception:
        why = f" (the store said: {self.environment.last_trouble})" if self.environment.last_trouble else ""
        return OutcomeUnknown(
            f"no certain answer within {self.options.deadline:g} s{why}; ask again with the same id",
            operation_id=self.id,
        )

    def _store_failed(self, why: str) -> Exception:
        if self.in_doubt:
            return OutcomeUnknown(
                f"the store gave no certain answer: {why}; ask again with the same id", operation_id=self.id
            )
        pending = "it is declared and pending" if self.intention_cas is not None else "this call changed nothing"
        return StoreUnavailable(f"{why}; {pending}; ask again with the same id", operation_id=self.id)


def settling(key: Key, version: Version, *, committed: bool) -> StoreRequest:
    """The write that settles the stage of a version: move it into place, or drop it.

    The document gets back the expiry of its own that the stage remembers.
    """
    meta = stage_of(key, version)
    if meta is None or version.stage is None:
        raise InvariantViolation(f"there is no stage on {key} to settle")
    if not committed:
        return Replace(key, version.cas, BodyOf.KEEP, expires=meta.expires if version.body is not None else None)
    if version.stage.body is not None:
        return Replace(key, version.cas, BodyOf.STAGED, expires=meta.expires)
    if version.body is not None:
        return Remove(key, version.cas)
    return Replace(key, version.cas, BodyOf.KEEP)


def _staging(key: Key, document: Document, stage: Stage) -> StoreRequest:
    """The write that puts a stage on a document, if it still is what was read."""
    if isinstance(document.found, Missing):
        return Insert(key, None, stage)
    moved = BodyOf.STAGED if document.built_on else BodyOf.KEEP
    # No expiry while it is staged: a participant must not vanish (its stage remembers it).
    return Replace(key, document.found.cas, moved, stage)
