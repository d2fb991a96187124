"""What an operator needs: did it happen, what is pending, finish it, make sure it never happens.

Must not be in here: loops over operations that run business code (the front does them one by one).
"""

from __future__ import annotations

from casops.errors import InvariantViolation
from casops.messages import Entry, Key, Missing, Remove, Steps, Stored
from casops.protocol.declaring import check_time
from casops.protocol.ended import Ended
from casops.protocol.environment import Environment, Found, StoreFailed
from casops.protocol.fate import Standing, Suspect, decide, read_with_participants, record_write, standing_of
from casops.protocol.limits import MAX_LISTED
from casops.protocol.reading import is_committed
from casops.records import Intention, Record, decode_intention, intention_key, result_key
from casops.values import value


@value()
class Declared:
    """An operation whose intention stands, and how far it is."""

    operation_id: str
    intention: Intention | None  # None: proposed, though its intention was withdrawn
    cas: int | None  # of the intention
    standing: Standing
    ended: bool  # whether or not anybody has noticed
    unreadable: str | None = None  # why nothing can be said of it


def look_up(environment: Environment, operation_id: str) -> Steps[Ended | Declared | None]:
    """How an operation ended, or that it is declared; None: never heard of, or forgotten.  Writes nothing."""
    yield from environment.begin()
    key = intention_key(operation_id)
    declared = (yield from environment.read([key]))[key]
    standing, ended = yield from _how_far(environment, operation_id)
    if ended:
        return Ended(operation_id, standing, replayed=True)
    if not isinstance(declared, Missing):
        intention = decode_intention(declared.body, operation_id)
        return Declared(operation_id, intention, declared.cas, standing, ended=False)
    if standing.record is None or standing.record.state == "open":
        return None  # an open record alone says that nothing happened
    return Declared(operation_id, None, None, standing, ended=False)


def _how_far(environment: Environment, operation_id: str) -> Steps[tuple[Standing, bool]]:
    """R(i), and whether the operation has ended."""
    record_key = result_key(operation_id)
    while True:
        standing, found = yield from read_with_participants(environment, operation_id, ())
        record = standing.record
        if record is None or record.attempt is None or record.final:
            return standing, standing.final
        if is_committed(standing, operation_id, record.attempt, found):
            return standing, True
        # It may have been committed and settled while its participants were being read.
        again = standing_of((yield from environment.read([record_key]))[record_key], operation_id)
        if again.cas == standing.cas:
            return standing, False
        yield from environment.tick()


def list_declared(environment: Environment) -> Steps[list[Declared]]:
    """Every intention that stands, and how far each operation is."""
    yield from environment.begin()
    listed: list[Declared] = []
    entries = [entry for page in (yield from environment.scan()) for entry in page.entries]
    for first in range(0, len(entries), MAX_LISTED):  # a page may be of any length
        several = entries[first : first + MAX_LISTED]
        records = yield from environment.read(result_key(entry.id) for entry in several)
        for entry in several:
            try:
                listed.append((yield from _declared(environment, entry, records[result_key(entry.id)])))
            except (InvariantViolation, StoreFailed) as error:  # it must not keep the others from being listed
                listed.append(Declared(entry.id, None, entry.cas, Standing(), ended=False, unreadable=str(error)))
    return listed


def _declared(environment: Environment, entry: Entry, record: Found) -> Steps[Declared]:
    intention, standing = decode_intention(entry.body, entry.id), standing_of(record, entry.id)
    ended = standing.final
    if standing.record is not None and standing.record.state == "proposed":
        standing, ended = yield from _how_far(environment, entry.id)
    return Declared(entry.id, intention, entry.cas, standing, ended)


def cancel(environment: Environment, operation_id: str) -> Steps[Ended]:
    """Make sure that it never happens, unless it has: gives how it ended, cancelled or otherwise.

    Raises Expired for an id of which nothing is there, and which is so old that its result may be forgotten.
    """
    yield from environment.begin()
    key, record_key = intention_key(operation_id), result_key(operation_id)
    while True:
        standing, found = yield from read_with_participants(environment, operation_id, [key])
        record = standing.record
        if standing.final:
            return Ended(operation_id, standing, replayed=True)
        if record is not None and record.attempt is not None:
            keys: tuple[Key, ...] = tuple(each.key for each in record.participants)
            suspect = Suspect(operation_id, record.attempt, keys, record.operation, record.fingerprint, known=True)
            yield from decide(environment, suspect, patience=0.0)
            yield from environment.tick()
            continue
        declared = found[key]
        intention = None if isinstance(declared, Missing) else decode_intention(declared.body, operation_id)
        if record is None and intention is None:
            check_time(environment, operation_id)  # what was forgotten may have happened
        if record is None:
            record = Record(
                operation=intention.operation if intention else None,
                fingerprint=intention.fingerprint if intention else None,
                state="open",
            )
        cancelled = record.becoming(environment.event("cancelled"), state="cancelled")
        (reply,) = yield from environment.perform(record_write(environment, record_key, standing.cas, cancelled))
        if isinstance(reply, Stored):
            return Ended(operation_id, Standing(cancelled, reply.cas), replayed=False)
        yield from environment.after_failed(reply)


def too_old_to_start(environment: Environment, declared: Declared) -> bool:
    """May this intention have outlived its own result?

    A retry declares again what may have ended long ago, and the declaration of a retry that died stays.  As long
    as the final R(i) stands that does no harm.  Once it may be forgotten, running it could be the second time;
    and that an R(i) which is not final stands there proves nothing, it may be a void marker or a proposal that
    arrived late.  Retries are allowed up to half of the retention, so an intention younger than the other
    half has its R(i) still.  (Both times are wall clocks, with half a retention of margin.)
    """
    retention = environment.options.retention
    if declared.intention is None:
        return False
    age = environment.now.wall - declared.intention.at
    return bool(retention) and not declared.ended and age > retention / 2


def drop_intention(environment: Environment, declared: Declared) -> Steps[None]:
    """Remove an intention that can never run, because its id has ended with other arguments.

    By its CAS: another call may have declared the id anew, with the arguments that it has ended with.
    """
    if declared.cas is not None:
        yield from environment.perform(Remove(intention_key(declared.operation_id), declared.cas))
