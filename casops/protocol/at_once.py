"""An operation in one step, where a store can write several documents at once (`AtOnce`).

The three points of the stream log become one: R(i) is inserted as committed, together with the new documents, if all
that the operation looked at is as it was and nobody has declared the operation.

    look      R(i) and the documents; an operation that has ended is answered, and nothing is written
    run       the business function, with nothing locked
    write     R(i) and the documents, all or nothing; if anything has moved: look again

Nothing is staged, so that nothing is left to settle, and nothing is declared, for whoever dies before the write has
done nothing.  Whatever takes more (somebody else is at this operation, a document carries a stage, the function
raised) takes the stream log (execution.py).  The two may work on the same documents and operations at any time:

                   that was there before        that comes after
    a stage        is met, so the log is taken  finds another CAS on what was written; on what was only read, it is
                                                of an operation that comes after this one
    R(i)           answers, if it is final;     finds this one, which is final, and is answered by it
                   else the log is taken
    an intention   stops the write, so the log  its worker meets R(i), as any retry of what has ended does
                   is taken

Must not be in here: stages, deciding, settling.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from casops.errors import OutcomeUnknown
from casops.messages import (
    AtOnce,
    Insert,
    Key,
    Missing,
    Refused,
    Remove,
    Replace,
    Steps,
    Stored,
    Unknown,
    Version,
)
from casops.protocol import work as business
from casops.protocol.ended import Ended
from casops.protocol.environment import SLOW, Environment, Found, StoreFailed
from casops.protocol.fate import Standing, cas_of, standing_of, ttl_seconds
from casops.protocol.limits import MAX_DOCUMENTS
from casops.records import Event, Participant, Record, Refusal, encode, intention_key, result_key

__all__ = ["Foresight", "at_once"]

# Documents that are read with R(i) although an operation that has ended has no need of them: few enough to cost less
# than another batch.
FEW: Final = 4

# Writes of one call.  From the second on the store is held, where it has a way to do so, and nobody comes in between;
# who loses three times without takes the stream log, which queues and waits.
TRIES: Final = 3


class Foresight:
    """What came of the business function when it ran last, for whoever asks again in the same call."""

    def __init__(self, work: business.Work) -> None:
        self._work = work
        self._seen: tuple[Mapping[Key, business.Value], business.Evaluation] | None = None

    def evaluate(self, values: Mapping[Key, business.Value]) -> business.Evaluation:
        """As Work.evaluate, which is not asked again about documents it has just seen."""
        if self._seen is None or self._seen[0] != values:
            self._seen = (values, self._work.evaluate(values))
        return self._seen[1]


def at_once(
    environment: Environment, operation_id: str, work: business.Work, foresight: Foresight, call: str
) -> Steps[Ended | None]:
    """None: it takes the stream log.  `call`: a name that nobody had before.

    Raises OutcomeUnknown, InvariantViolation, StoreFailed, TimeUp.  Whether R(i) is of this operation is not looked at.
    """
    record_key, declared = result_key(operation_id), intention_key(operation_id)
    began: Event | None = None
    few = work.declared if len(work.declared) <= FEW else ()
    for number in range(TRIES):
        # That it is declared is seldom, and stops the write anyway: it is only looked at if something did.
        documents = yield from environment.read([record_key, *few, *([declared] if number else [])])
        standing, intention = standing_of(documents.pop(record_key), operation_id), documents.pop(declared, None)
        if standing.final:
            return Ended(operation_id, standing, replayed=True)
        began = began or environment.event("declared")
        if standing.record is not None or isinstance(intention, Version):
            return None
        evaluation = yield from _evaluate(environment, work, foresight, documents)
        if not isinstance(evaluation, business.Success | business.Refused):
            return None
        yield from environment.tick(SLOW)  # no write after the deadline (see Options)
        looked_at = evaluation.changes if isinstance(evaluation, business.Success) else evaluation.looked_at
        seen = {key: cas_of(documents[key]) for key in sorted(looked_at)}
        record = _record(environment, work, began, seen, evaluation, f"{call}.0")
        inserted = Insert(record_key, encode(record), ttl=ttl_seconds(environment.options))
        writes = (inserted, *_writes(documents, evaluation))
        (reply,) = yield from environment.perform(AtOnce(writes, ((declared, None), *seen.items())))
        if isinstance(reply, Stored):
            return Ended(operation_id, Standing(record, reply.cas), replayed=False)
        if isinstance(reply, Unknown):
            raise OutcomeUnknown(f"{reply.why}; ask again with the same id", operation_id=operation_id)
        if isinstance(reply, Refused):
            raise StoreFailed(reply)
    return None


def _evaluate(
    environment: Environment, work: business.Work, foresight: Foresight, documents: dict[Key, Found]
) -> Steps[business.Evaluation | None]:
    """What comes of the operation, for documents that are fetched as it wants them.  None: it meets a stage."""
    wanted = [key for key in work.declared if key not in documents]
    while True:
        documents.update((yield from environment.read(wanted)))
        if any(isinstance(each, Version) and each.stage is not None for each in documents.values()):
            return None
        values = {key: _value(found) for key, found in documents.items()}
        evaluation = foresight.evaluate(values)
        if not isinstance(evaluation, business.Wants):
            return evaluation
        wanted = sorted(evaluation.keys - documents.keys())
        assert wanted, "business code asked for documents it was given"
        if len(documents) + len(wanted) > MAX_DOCUMENTS:
            return None  # told there


def _value(found: Found) -> business.Value:
    return business.Value(None) if isinstance(found, Missing) else business.Value(found.body, found.expires)


def _writes(
    documents: Mapping[Key, Found], evaluation: business.Success | business.Refused
) -> list[Insert | Replace | Remove]:
    """A document that stays as it is need not be written: that it was so is part of the write."""
    writes: list[Insert | Replace | Remove] = []
    for key, body in evaluation.changes.items() if isinstance(evaluation, business.Success) else ():
        found = documents[key]
        before = None if isinstance(found, Missing) else found.body
        if body == before:
            continue
        if body is None:
            assert isinstance(found, Version)
            writes.append(Remove(key, found.cas))
        elif isinstance(found, Missing) or before is None:
            writes.append(Insert(key, body))
        else:
            writes.append(Replace(key, found.cas, body, expires=found.expires))
    return writes


def _record(
    environment: Environment,
    work: business.Work,
    began: Event,
    seen: Mapping[Key, int | None],
    evaluation: business.Success | business.Refused,
    attempt: str,
) -> Record:
    """R(i) as the stream log would leave it, but that all of its history is of one moment."""
    settled = environment.event("settled")
    if isinstance(evaluation, business.Refused):
        return Record(
            operation=work.name,
            fingerprint=work.fingerprint,
            state="declined",
            attempt=attempt,
            refusal=Refusal(code=evaluation.code, details=evaluation.details),
            attempts=1,
            settled=True,
            history=(began, environment.event("declined", attempt), settled),
        )
    return Record(
        operation=work.name,
        fingerprint=work.fingerprint,
        state="committed",
        attempt=attempt,
        participants=tuple(Participant(*key, cas) for key, cas in seen.items()),
        result=evaluation.result,
        attempts=1,
        settled=True,
        history=(began, *(environment.event(what, attempt) for what in ("proposed", "committed")), settled),
    )
