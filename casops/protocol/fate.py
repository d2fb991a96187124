"""Meeting a stage: deciding, as a stranger, whether an attempt is committed or void.

This is the one recovery path.  It serves operations that meet somebody else's stage, workers that take an
operation over, workers in doubt about their own writes, and cancel.  What it decides it
makes irrevocable before it returns, so that what is built on it stays true.

    R(X) found                      the attempt `a` is
    ------------------------------- ------------------------------------------------------------
    final                           committed if it says so with `a`, otherwise void
    proposed with another attempt   void; nothing is written (moving R(X) could kill a live proposal)
    open                            void, once `open -> open` was written: its owner may have a
                                    proposal in flight that names this version
    nothing                         void, once `open` was inserted: its insert may be in flight
    proposed with `a`               committed if all have landed (write it down);
                                    otherwise be patient, fence, then write `open`: void

Must not be in here: what the asker does with the answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import ceil

from casops.errors import Expired
from casops.messages import Body as BodyOf
from casops.messages import Insert, Key, Missing, Replace, Steps, Stored, StoreRequest
from casops.options import Options
from casops.protocol.environment import Environment, Found, Watch
from casops.protocol.limits import MAX_DOCUMENTS
from casops.records import Participant, Record, decode_record, encode, result_key, stage_of
from casops.values import value


@value()
class Standing:
    """R(i) as it was last seen or written: its record and CAS, or neither."""

    record: Record | None = None
    cas: int | None = None

    @property
    def final(self) -> bool:
        return self.record is not None and self.record.final


@value()
class Fate:
    """What became of an attempt, and R(X) as the decision left it."""

    committed: bool
    standing: Standing


@value()
class Suspect:
    """The attempt in question, with what its stage tells."""

    operation_id: str
    attempt: str
    participants: tuple[Key, ...]
    operation: str | None
    fingerprint: str | None
    known: bool = False  # the asker has seen R(X) before: if it is gone now, it was forgotten


def standing_of(found: Found, operation_id: str) -> Standing:
    if isinstance(found, Missing):
        return Standing()
    return Standing(decode_record(found.body, operation_id), found.cas)


def cas_of(found: Found) -> int | None:
    """The version, as a later look tells it from others.  None: nothing was there."""
    return None if isinstance(found, Missing) else found.cas


def carries(key: Key, found: Found, operation_id: str, attempt: str) -> bool:
    """Has exactly this attempt landed on the document?"""
    if isinstance(found, Missing):
        return False
    meta = stage_of(key, found)
    return meta is not None and (meta.operation_id, meta.attempt) == (operation_id, attempt)


def missing_participants(record: Record, operation_id: str, documents: Mapping[Key, Found]) -> list[Participant]:
    """The participants of a proposal on which it has not landed."""
    assert record.attempt is not None
    return [
        each for each in record.participants if not carries(each.key, documents[each.key], operation_id, record.attempt)
    ]


def at_base(participant: Participant, found: Found) -> bool:
    """Could the attempt's stage still land here?  (A CAS never returns.)"""
    return participant.base == cas_of(found)


def fence(participant: Participant, found: Found) -> StoreRequest:
    """Write the document unchanged, so that a late stage meets a CAS that has moved."""
    if isinstance(found, Missing):
        return Insert(participant.key, None)
    return Replace(participant.key, found.cas, BodyOf.KEEP, found.stage, expires=found.expires)


def read_with_participants(
    environment: Environment, operation_id: str, keys: Iterable[Key]
) -> Steps[tuple[Standing, dict[Key, Found]]]:
    """R(X) and its participants, in one batch where the keys are known beforehand."""
    record_key = result_key(operation_id)
    found = yield from environment.read([record_key, *keys])
    standing = standing_of(found[record_key], operation_id)
    if standing.record is not None:
        more = [each.key for each in standing.record.participants if each.key not in found]
        if more and standing.record.state == "proposed":
            found.update((yield from environment.read(more)))
    return standing, found


def decide(environment: Environment, suspect: Suspect, patience: float) -> Steps[Fate]:
    """The fate of an attempt.  `patience`: seconds a live-looking owner is left alone.

    Raises TimeUp or StoreFailed; then nothing is decided, and whoever asks next goes on from there.
    """
    record_key = result_key(suspect.operation_id)
    watch = Watch(environment, patience)
    while True:
        standing, documents = yield from read_with_participants(environment, suspect.operation_id, suspect.participants)
        record = standing.record
        if record is None:
            if suspect.known:
                raise Expired(
                    "its result was there and is forgotten: it must not be asked again",
                    operation_id=suspect.operation_id,
                )
            if not (yield from watch.over(None)):
                continue
            opened = Record(
                operation=suspect.operation,
                fingerprint=suspect.fingerprint,
                state="open",
                loose=suspect.participants,
                history=(environment.event("voided before it was proposed", suspect.attempt),),
            )
            if (cas := (yield from _move(environment, record_key, None, opened))) is not None:
                return Fate(False, Standing(opened, cas))
            continue
        assert standing.cas is not None
        if record.final:
            return Fate(record.state == "committed" and record.attempt == suspect.attempt, standing)
        if record.state == "proposed" and record.attempt != suspect.attempt:
            return Fate(False, standing)
        if record.state == "open":
            bumped = record.becoming(environment.event("voided", suspect.attempt))
            if (cas := (yield from _move(environment, record_key, standing.cas, bumped))) is not None:
                return Fate(False, Standing(bumped, cas))
            continue

        late = missing_participants(record, suspect.operation_id, documents)
        if not late:
            noticed = record.becoming(environment.event("committed", record.attempt), state="committed")
            if (cas := (yield from _move(environment, record_key, standing.cas, noticed))) is not None:
                return Fate(True, Standing(noticed, cas))
            continue
        if all(at_base(each, documents[each.key]) for each in late):
            # It may yet land everywhere: be patient, then make sure that it cannot.
            if not (yield from watch.over(standing.cas)):
                continue
            # All of them, though one would do: what lands after all is settled, a sweep does not find.
            replies = yield from environment.perform(*(fence(each, documents[each.key]) for each in late))
            if not any(isinstance(reply, Stored) for reply in replies):
                yield from environment.after_failed(replies[0])
                continue
        # From here on at least one participant has moved on without the stage: it can never commit.
        opened = as_open(environment, record, "voided")
        if (cas := (yield from _move(environment, record_key, standing.cas, opened))) is not None:
            return Fate(False, Standing(opened, cas))


def as_open(environment: Environment, record: Record, why: str) -> Record:
    """The void marker after a proposal that can no longer be committed."""
    event = environment.event(why, record.attempt)
    loose = dict.fromkeys((*record.loose, *(each.key for each in record.participants)))
    return record.becoming(
        event, state="open", attempt=None, participants=(), loose=tuple(loose)[:MAX_DOCUMENTS], result=None
    )


def release(environment: Environment, operation_id: str, standing: Standing) -> Steps[None]:
    """Nothing of an operation is left but the void marker of a lost attempt: its id is free for a mended call.

    A courtesy, tried once: without it that call has to take a new id.
    """
    record = standing.record
    if record is not None and record.fingerprint is not None:
        nobodys = replace(record.becoming(environment.event("withdrawn")), operation=None, fingerprint=None)
        yield from environment.perform(record_write(environment, result_key(operation_id), standing.cas, nobodys))


def record_write(environment: Environment, key: Key, cas: int | None, record: Record) -> StoreRequest:
    """Insert R(X) (cas None) or replace it by CAS.

    An open record may stand for an operation nobody asks for again, so it has a time to live.  One
    that says committed has none: that comes last of all (settling.py).
    """
    seconds = ttl_seconds(environment.options) if record.state == "open" else None
    if cas is None:
        return Insert(key, encode(record), ttl=seconds)
    return Replace(key, cas, encode(record), ttl=seconds)


def _move(environment: Environment, key: Key, cas: int | None, record: Record) -> Steps[int | None]:
    """Gives the new CAS, or None: look again."""
    (reply,) = yield from environment.perform(record_write(environment, key, cas, record))
    if isinstance(reply, Stored):
        return reply.cas
    yield from environment.after_failed(reply)
    return None


def ttl_seconds(options: Options) -> int | None:
    """How long what is remembered lives: whole seconds, at least the retention; None: for ever.

    An id that tells its time is too old (`check_time`) only when its result may be gone.  Its maker's clock may be
    ahead of ours by the skew, and the clock of whoever is asked later behind ours by as much.
    """
    return ceil(options.retention + 2 * options.skew) if options.retention else None
