"""An operation from its declaration to its answer: two steps, however many documents.

    step 1   declare the intention  ‖  read R(i)  ‖  read d1 … dk
             run the business function
    step 2   R(i) := proposed  ‖  stage d1 … dk
             all acknowledged: committed, answer

Everything else in this file is about losing: a lost race is tried again from a new reading, an unknown reply is
decided like a stranger's attempt (fate.py), another worker's operation is given its time and then taken over.

Where a store can write several documents at once, all of it is tried in one write first (at_once.py).  Where others of
this process work on the same documents (`behind`), they are waited for between the two, and leave what they have seen.

Must not be in here: what comes after the answer (settling.py).
"""

from __future__ import annotations

from collections.abc import Iterable

from casops.errors import (
    CasOpsError,
    Contended,
    Expired,
    OperationMismatch,
    UsageError,
)
from casops.messages import (
    Exists,
    Key,
    Mismatch,
    Missing,
    Read,
    Refused,
    Steps,
    Stored,
    StoreRequest,
    Unknown,
    Version,
)
from casops.protocol import work as business
from casops.protocol.at_once import Foresight, at_once
from casops.protocol.declaring import Declaration, check_fingerprint, check_time, stays_pending
from casops.protocol.ended import Ended
from casops.protocol.environment import SLOW, Environment, Found, StoreFailed, TimeUp, Watch
from casops.protocol.fate import Standing, Suspect, as_open, cas_of, decide, record_write, release, standing_of
from casops.protocol.limits import MAX_DOCUMENTS
from casops.protocol.participants import Asker, Document, Moved, drop_dead, resolve, stages_of, staging
from casops.protocol.sweeping import look_up
from casops.records import (
    Intention,
    Participant,
    Record,
    Refusal,
    StageMeta,
    State,
    result_key,
)


class Execution:
    """One call for one operation: what it knows of R(i), of its documents and of its own attempts."""

    def __init__(self, environment: Environment, operation_id: str, work: business.Work) -> None:
        self.environment = environment
        self.options = environment.options
        self.foresight: Foresight | None = None
        self.id = operation_id
        self.work = work
        self.standing = Standing()  # the version of R(i) from which we may propose
        self.asker = Asker(operation_id)
        self.taken_over = False
        self.at_fault = True  # the function: it is running, has raised, or took too long; or nothing has begun
        self.in_doubt = False  # a write of ours may make it committed without our knowing
        self.attempts = 0
        self.found: dict[Key, Found] = {}  # read and not used yet
        self.told: frozenset[Key] = frozenset()  # documents this call knows from others: so they were, some time ago
        self.wanted: tuple[Key, ...] = work.declared
        self.staged: dict[Key, Version | None] = {}

    def run(
        self,
        entry: tuple[Intention, int] | None = None,
        *,
        foresight: Foresight | None = None,
        behind: frozenset[Key] = frozenset(),
    ) -> Steps[Ended]:
        """Make it happen exactly once and give its answer.

        `entry`: an intention found by a sweep (and its CAS), to be taken over without patience.
        `foresight`: the store can write several documents at once, see at_once.py.
        `behind`: documents that others of this process work on, so that it has to wait for its turn.
        Raises OperationMismatch, Expired, Contended, OutcomeUnknown, StoreUnavailable,
        InvariantViolation, UsageError, and whatever the function raises.
        """
        try:
            yield from self.environment.begin()
            check_time(self.environment, self.id)
            call = yield from self.environment.fresh_id()
            self.declaration = Declaration(self.environment, self.id, self.work, call)
            self.at_fault = False
            try:
                return (yield from self._to_its_end(entry, foresight, behind))
            except StoreFailed as failure:
                if not failure.refusal.lasting or self.in_doubt:
                    raise
                told = self._nothing_happened(failure.refusal)
            except OperationMismatch as mismatch:
                told = mismatch
            return (yield from self._give_up(told))  # it would be pending for ever
        except TimeUp as up:
            if self.environment.outlived():
                why = "this call slept for so long that the result may be forgotten: it must not be asked again"
                raise Expired(why, operation_id=self.id) from None
            why = f"no certain answer within {self.options.deadline:g} s"
            raise self.declaration.unanswered(f"{why} ({up})" if up.args else why, in_doubt=True) from None
        except StoreFailed as failure:
            raise self.declaration.unanswered(str(failure), in_doubt=self.in_doubt, refused=True) from None

    def _to_its_end(
        self, entry: tuple[Intention, int] | None, foresight: Foresight | None, behind: frozenset[Key]
    ) -> Steps[Ended]:
        if entry is None:
            ended = None if foresight is None else (yield from self._at_once(foresight))
            if ended is None:
                ended = yield from self._declare(behind)
        else:
            self.declaration.found(*entry)
            yield from self._look()
            ended = yield from self._follow(patience=0.0)
        while ended is None:
            ended = yield from self._attempt()
        return ended

    def _at_once(self, foresight: Foresight) -> Steps[Ended | None]:
        """In one write.  None: something is in the way."""
        self.foresight = foresight
        try:
            ended = yield from at_once(self.environment, self.id, self.work, foresight, self.declaration.call)
        except UsageError:
            return None  # of arguments that cannot be declared, either
        if ended is not None:
            self._adopt(ended.standing)
        return ended

    # --- step 1, and operations that others have begun --------------------------------------

    def _declare(self, behind: frozenset[Key]) -> Steps[Ended | None]:
        keys = (result_key(self.id), *(key for key in self.wanted if key not in behind))
        try:
            request = self.declaration.request()
        except UsageError as error:  # its arguments would not come back from JSON
            return (yield from self._look_instead(error))
        declared, *replies = yield from self.environment.perform(request, *(Read(key) for key in keys))
        for key, reply in zip(keys, replies, strict=True):
            if isinstance(reply, Version | Missing):
                self.found[key] = reply
        self.declaration.heard(declared)
        yield from self._look()
        if self.standing.final:
            return self._ended(self.standing, replayed=True)
        ours = yield from self.declaration.is_ours(declared)
        if behind:  # everything that does not need the documents is done before the turn, not in it
            known = yield from self.environment.turn(behind)
            self.found.update(known)
            self.told = frozenset(known)
            if not ours:
                self.found.clear()  # who declared it may stand before us, and has ended it now
                yield from self._look()
        if ours and self._free():
            return None
        return (yield from self._follow(self.options.patience))

    def _look_instead(self, error: UsageError) -> Steps[Ended]:
        """An earlier version of the application may have declared it, or brought it to its end."""
        found = yield from look_up(self.environment, self.id)
        if isinstance(found, Ended):
            self._adopt(found.standing)
            return found
        if found is not None:
            stays_pending(error)
        raise error

    def _look(self) -> Steps[None]:
        """See R(i), from what was read already or from a new reading."""
        key = result_key(self.id)
        found = self.found.pop(key, None)
        if found is None:
            found = (yield from self.environment.read([key]))[key]
        if isinstance(found, Missing) and self.asker.known:
            raise Expired("its result was there and is forgotten: it must not be asked again", operation_id=self.id)
        self._adopt(standing_of(found, self.id))

    def _adopt(self, standing: Standing) -> None:
        if standing.record is not None:
            check_fingerprint(self.work, self.id, standing.record.fingerprint)
            self.asker.known = True
        self.standing = standing

    def _follow(self, patience: float) -> Steps[Ended | None]:
        """Another worker has this operation: give it its time, then take over.

        None: R(i) is free, that is, there is none or it is open.  A proposal may start from nothing else.
        """
        watch = Watch(self.environment, patience)
        while not self.standing.final:
            if not (yield from watch.over(self.standing.cas)):
                yield from self._look()
                continue
            if not self.taken_over:
                self.taken_over = True
                yield from self.declaration.take_over()
            self.found.clear()  # what was read before the wait is old
            record = self.standing.record
            if record is None or record.attempt is None:
                return None
            yield from self._decide(record.attempt, tuple(each.key for each in record.participants))
            if self._free():
                return None
        return self._ended(self.standing, replayed=True)

    def _free(self) -> bool:
        return self.standing.record is None or self.standing.record.state == "open"

    def _overtaken(self) -> Steps[Ended | None]:
        """R(i) is not what we left there.  None: go on from what it is now."""
        if self._free():
            return None  # a stranger voided us, which takes nothing but a new attempt
        return (yield from self._follow(self.options.patience))

    def _decide(self, attempt: str, keys: tuple[Key, ...]) -> Steps[bool]:
        """Decide an attempt at our own operation like a stranger's.  True: it is committed."""
        suspect = Suspect(self.id, attempt, keys, self.work.name, self.work.fingerprint, self.asker.known)
        fate = yield from decide(self.environment, suspect, patience=0.0)
        self._adopt(fate.standing)
        return fate.committed

    # --- one attempt ------------------------------------------------------------------------

    def _attempt(self) -> Steps[Ended | None]:
        """Read, run the function, write.  None: lost, try again."""
        if self.attempts >= self.options.attempts:
            why = f"lost {self.attempts} tries to others; this call changed nothing: ask again with the same id"
            if self.taken_over:
                why += " (another call declared it, so it stays pending: cancel it if it must not happen)"
            return (yield from self._give_up(Contended(why, operation_id=self.id)))
        if self.attempts:
            # Twice as long after every loss, so that some worker is always left alone long enough.
            yield from self.environment.pause(self.options.poll * 2 ** min(self.attempts - 1, 6))
        self.attempts += 1
        try:
            documents, evaluation = yield from self._evaluate()
        except Moved:
            self.found.clear()
            return self._ended(self.standing, replayed=True) if self.standing.final else None
        yield from self.environment.tick(SLOW)  # no proposal after the deadline (see Options)
        self.at_fault = False
        if isinstance(evaluation, business.Success):
            return (yield from self._propose(documents, evaluation))
        if not (yield from self._still_true(documents, evaluation.looked_at)):
            return None
        if isinstance(evaluation, business.Refused):
            return (yield from self._decline(evaluation))
        self.at_fault = True
        return (yield from self._fail(evaluation))

    def _evaluate(self) -> Steps[tuple[dict[Key, Document], business.Success | business.Refused | business.Failed]]:
        """Run the function on documents whose stages are decided, fetching what it discovers."""
        if self.attempts > 1 or self.taken_over:
            yield from self._look_again()
        documents: dict[Key, Document] = {}
        wanted: Iterable[Key] = self.wanted
        while True:
            self.found.update((yield from self.environment.read(key for key in wanted if key not in self.found)))
            for key in wanted:
                document = yield from resolve(self.environment, self.asker, key, self.found.pop(key))
                documents[key] = document
                if document.carries_own:
                    self.staged.setdefault(key, None)  # whatever comes of this call, it is to be dropped
                if document.own is not None:
                    self._adopt(document.own)
                    if not self._free():
                        yield from self._overtaken()
                        raise Moved
            values = {key: each.value for key, each in documents.items()}
            self.at_fault = True
            evaluation = (self.foresight or self.work).evaluate(values)
            if not isinstance(evaluation, business.Wants):
                self.wanted = tuple(documents)
                return documents, evaluation
            wanted = sorted(evaluation.keys - documents.keys())
            assert wanted, "business code asked for documents it was given"
            if len(documents) + len(wanted) > MAX_DOCUMENTS:
                why = f"an operation may look at {MAX_DOCUMENTS} documents at most; nothing happened"
                error = UsageError(why, operation_id=self.id)
                return documents, business.Failed(error, True, frozenset(documents))

    def _look_again(self) -> Steps[None]:
        """Read the documents anew, and R(i): whoever moved it knows more than we do.

        A proposal of ours that is dead is taken back beside the reading, which costs no step.  It has to be:
        whoever meets a stage takes it for void if R(i) is proposed with another attempt, so no
        proposal may follow another without an `open` between them.
        """
        before, record, key = self.standing, self.standing.record, result_key(self.id)
        reads = [Read(each) for each in self.wanted]
        opened = None
        first: StoreRequest = Read(key)
        if before.cas is not None and record is not None and record.attempt in self.asker.dead:
            opened = as_open(self.environment, record, "lost")
            first = record_write(self.environment, key, before.cas, opened)
        reply, *replies = yield from self.environment.perform(first, *reads)
        for read, found in zip(reads, replies, strict=True):
            if isinstance(found, Version | Missing):
                self.found[read.key] = found
        if opened is not None and isinstance(reply, Stored):
            self._adopt(Standing(opened, reply.cas))
            return
        if isinstance(reply, Version | Missing):
            self.found[key] = reply
        yield from self._look()
        if self.standing.cas == before.cas:
            if opened is not None:
                raise Moved  # it is not known to be taken back: once more
            return
        yield from self._overtaken()
        if self.standing.final or not self.found:
            raise Moved  # it is over, or we took it over and what we had read is old

    def _still_true(self, documents: dict[Key, Document], looked_at: frozenset[Key]) -> Steps[bool]:
        """Was there one instant of this call at which all of this held?  What it read alone needs no second look."""
        if len(looked_at) < 2 and not looked_at & self.told:
            return True
        again = yield from self.environment.read(sorted(looked_at))
        return all(documents[key].base == cas_of(now) for key, now in again.items())

    # --- step 2 -----------------------------------------------------------------------------

    def _propose(self, documents: dict[Key, Document], success: business.Success) -> Steps[Ended | None]:
        attempt = self._attempt_id()
        keys = tuple(sorted(success.changes))
        participants = tuple(Participant(key.collection, key.id, documents[key].base) for key in keys)
        record = self._record("proposed", attempt, participants=participants, result=success.result)
        meta = StageMeta(
            operation_id=self.id,
            operation=self.work.name,
            fingerprint=self.work.fingerprint,
            attempt=attempt,
            participants=keys,
        )
        stages = stages_of(meta, documents, success.changes)
        self.in_doubt = True
        reply, *landed = yield from self.environment.perform(
            self._write(record), *(staging(key, documents[key], stage) for key, stage in stages.items())
        )
        for (key, stage), each in zip(stages.items(), landed, strict=True):
            self.staged[key] = documents[key].staged(each.cas, stage) if isinstance(each, Stored) else None

        if isinstance(reply, Stored) and all(isinstance(each, Stored) for each in landed):
            return self._ended(Standing(record, reply.cas))
        if isinstance(reply, Exists | Mismatch):
            # Another worker got there first, or a stranger voided us: this attempt can never commit.
            self._is_dead(attempt)
            self.asker.known = True
            yield from self._look()
            return (yield from self._overtaken())
        if isinstance(reply, Refused):
            self._is_dead(attempt)
            return (yield from self._give_up(self._nothing_happened(reply)))
        if isinstance(reply, Stored) and any(isinstance(each, Exists | Mismatch | Refused) for each in landed):
            # A participant has moved on (a refused one is never tried again): dead.
            self._is_dead(attempt)
            self._adopt(Standing(record, reply.cas))
            refused = [each for each in landed if isinstance(each, Refused)]
            return (yield from self._give_up(self._nothing_happened(refused[0]))) if refused else None
        # Somewhere the reply is lost.  Decide like a stranger: there is one recovery path.
        if (yield from self._decide(attempt, keys)):
            return self._ended(self.standing)
        self._is_dead(attempt)
        return (yield from self._overtaken())

    def _is_dead(self, attempt: str) -> None:
        self.in_doubt = False
        self.asker.dead.add(attempt)

    def _attempt_id(self) -> str:
        """Never used before: the call is fresh, and its attempts are numbered."""
        return f"{self.declaration.call}.{self.attempts}"

    def _write(self, record: Record) -> StoreRequest:
        """R(i) from exactly the version we know."""
        assert self._free(), "a proposal may not follow another without an open between them"
        return record_write(self.environment, result_key(self.id), self.standing.cas, record)

    def _record(
        self,
        state: State,
        attempt: str,
        participants: tuple[Participant, ...] = (),
        result: object = None,
        refusal: Refusal | None = None,
    ) -> Record:
        before = self.standing.record
        record = Record(
            operation=self.work.name,
            fingerprint=self.work.fingerprint,
            state=state,
            attempt=attempt,
            participants=participants,
            loose=before.loose if before else (),
            result=result,
            refusal=refusal,
            attempts=(before.attempts if before else 0) + 1,
            history=self.declaration.history(before.history if before else (), taken_over=self.taken_over),
        )
        return record.becoming(self.environment.event(state, attempt))

    # --- other endings ----------------------------------------------------------------------

    def _decline(self, refusal: business.Refused) -> Steps[Ended | None]:
        attempt = self._attempt_id()
        record = self._record("declined", attempt, refusal=Refusal(code=refusal.code, details=refusal.details))
        (reply,) = yield from self.environment.perform(self._write(record))
        while isinstance(reply, Unknown):
            # The same write again does no harm: only one of them can succeed.
            self.in_doubt = True
            yield from self.environment.after_failed(reply)
            (reply,) = yield from self.environment.perform(self._write(record))
        if isinstance(reply, Stored):
            return self._ended(Standing(record, reply.cas))
        if isinstance(reply, Refused):
            raise StoreFailed(reply)
        self.asker.known = True
        yield from self._look()
        self.in_doubt = False
        if self.standing.record is not None and self.standing.record.attempt == attempt:
            return self._ended(self.standing)
        return (yield from self._overtaken())

    def _fail(self, failed: business.Failed) -> Steps[Ended | None]:
        """The business function raised: count it in the intention, or leave nothing pending.

        Unless somebody else has done it meanwhile, which may be why it raised.
        """
        if failed.lasting and not self.taken_over:
            return (yield from self._give_up(failed.error))
        before = self.standing.cas
        yield from self._look()
        if self.standing.cas != before:
            return (yield from self._overtaken())
        yield from self.declaration.count(failed.error)
        if not isinstance(failed.error, CasOpsError):
            failed.error.add_note(
                f"casops: operation {self.id} did not happen and is pending; asking again with the same id is safe"
            )
        else:
            stays_pending(failed.error)
        raise failed.error

    def _give_up(self, error: BaseException) -> Steps[Ended]:
        """Leave nothing that could still happen by itself (void our proposal, drop its stages, withdraw), then raise.

        Should somebody else have brought it to its end meanwhile, that is the answer: so R(i) is looked at last of all.
        """
        record = self.standing.record
        if record is not None and record.state == "proposed" and record.attempt in self.asker.dead:
            yield from self._decide(record.attempt, tuple(each.key for each in record.participants))
        yield from drop_dead(self.environment, self.asker, self.staged)
        withdrawn = yield from self.declaration.withdraw()
        # An intention that got no reply may still be on its way, and land after all of it was removed.
        withdrawn = withdrawn and not self.declaration.in_doubt
        if isinstance(error, OperationMismatch):
            if self.declaration.in_doubt:
                stays_pending(error)
            raise error  # R(i) is of another operation, or the intention that stands
        if withdrawn and self._free():
            yield from release(self.environment, self.id, self.standing)
        try:
            yield from self._look()
        except StoreFailed as failure:
            if not failure.refusal.lasting:
                raise  # what the store can never take has no R(i)
        if self.standing.final:
            return self._ended(self.standing, replayed=True)
        if not (withdrawn and self._free()) and isinstance(error, CasOpsError):
            stays_pending(error)
        raise error

    def _ended(self, standing: Standing, *, replayed: bool = False) -> Ended:
        declared = self.declaration.cas is not None
        return Ended(self.id, standing, replayed, self.taken_over and not replayed, self.staged, declared)

    def _nothing_happened(self, refusal: Refused) -> Exception:
        """What to raise where the store refused, when nothing is left of the operation."""
        if not refusal.lasting:
            return StoreFailed(refusal)
        return UsageError(f"{refusal.why}; nothing happened", operation_id=self.id)
