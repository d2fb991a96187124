"""What comes after the answer: staged bodies move into place, then the records may be forgotten.

In this order, each step acknowledged before the next is sent:

    1   R(i): proposed -> committed
    2   every document that carries a stage of i: staged body -> body (void stages are dropped)
    3   the intention is removed
    4   R(i) gets its time to live

2 before 1 would erase the evidence that all had landed.  4 before 2 would leave stages nobody can
judge; 4 before 3 would leave an intention that outlives its result, and a sweeper would run it again.
A crash between 3 and 4 leaves one small record for ever: the cheaper mistake.

Settling is never urgent and never certain to finish; whoever comes next may do it again.

Must not be in here: deciding (fate.py).
"""

from __future__ import annotations

from casops.errors import InvariantViolation
from casops.messages import (
    Body,
    Forget,
    Key,
    Missing,
    Refused,
    Replace,
    Reply,
    Steps,
    Stored,
    StoreRequest,
    Unknown,
    Version,
)
from casops.protocol.ended import Ended
from casops.protocol.environment import Environment, Found, TimeUp
from casops.protocol.fate import Standing, Suspect, decide, standing_of, ttl_seconds
from casops.protocol.limits import MAX_SETTLE_ROUNDS
from casops.protocol.participants import settling
from casops.records import Record, encode, intention_key, result_key, stage_of


def settle_documents(environment: Environment, ended: Ended) -> Steps[tuple[Standing, dict[Key, Version]]]:
    """1 and 2.  Gives R(i) as it is then, for put_away, and documents as this has left them.

    Raises TimeUp or StoreFailed: it is left to others.
    """
    yield from environment.begin()
    standing = ended.standing
    if ended.record.state == "proposed":
        standing = yield from _notice(environment, ended)
    record = standing.record
    assert record is not None
    assert record.final, "what has ended is final, once it was noticed"
    # What another worker has settled: that one did not know of void stages of ours.
    if not ended.staged and record.settled:
        return standing, {}
    return standing, (yield from _settle_documents(environment, ended, record))


def put_away(environment: Environment, operation_id: str, standing: Standing) -> Steps[None]:
    """3 and 4, only after settle_documents.  Raises TimeUp or StoreFailed: it is left to others."""
    yield from _remove_intention(environment, operation_id)
    yield from _forget_later(environment, operation_id, standing)


def _notice(environment: Environment, ended: Ended) -> Steps[Standing]:
    """proposed -> committed: it was committed when all had landed, now it says so."""
    record = ended.record
    assert record.attempt is not None
    assert ended.standing.cas is not None
    noticed = record.becoming(environment.event("committed", record.attempt), state="committed")
    key = result_key(ended.operation_id)
    (reply,) = yield from environment.perform(Replace(key, ended.standing.cas, encode(noticed)))
    if isinstance(reply, Stored):
        return Standing(noticed, reply.cas)
    # Somebody helped us, or the reply is lost: whoever looks must find it committed with our attempt.
    keys = tuple(each.key for each in record.participants)
    suspect = Suspect(ended.operation_id, record.attempt, keys, record.operation, record.fingerprint, known=True)
    fate = yield from decide(environment, suspect, patience=0.0)
    if not fate.committed:
        raise InvariantViolation("an answered operation is no longer committed", operation_id=ended.operation_id)
    return fate.standing


def _settle_documents(environment: Environment, ended: Ended, record: Record) -> Steps[dict[Key, Version]]:
    """Until no document carries a stage of this operation, as far as this worker knows them.

    Gives those that were moved, as they are now.
    """
    moved: dict[Key, Version] = {}
    keys = {each.key for each in record.participants} | set(record.loose) | set(ended.staged)
    # What this worker has staged itself it need not read; should it have moved, CAS tells.
    found: dict[Key, Found] = {key: each for key, each in ended.staged.items() if each is not None}
    for _ in range(MAX_SETTLE_ROUNDS):
        found.update((yield from environment.read(sorted(keys - found.keys()))))
        writes = _writes(found, ended.operation_id, record)
        replies = yield from environment.perform(*writes.values())
        failed = {key: reply for key, reply in zip(writes, replies, strict=True) if not isinstance(reply, Stored)}
        for (key, write), reply in zip(writes.items(), replies, strict=True):
            body = _moved_in(found[key], write)
            if isinstance(reply, Stored) and body is not None:
                moved[key] = Version(reply.cas, body)
        if not failed:
            return moved
        keys, found = set(failed), {}
        yield from environment.after_failed(max(failed.values(), key=_how_bad))
    raise TimeUp


def _how_bad(reply: Reply) -> int:
    return 2 if isinstance(reply, Refused) else 1 if isinstance(reply, Unknown) else 0


def _writes(found: dict[Key, Found], operation_id: str, record: Record) -> dict[Key, StoreRequest]:
    writes: dict[Key, StoreRequest] = {}
    for key, each in found.items():
        meta = None if isinstance(each, Missing) else stage_of(key, each)
        if meta is not None and meta.operation_id == operation_id and isinstance(each, Version):
            landed = record.state == "committed" and meta.attempt == record.attempt
            writes[key] = settling(key, each, committed=landed)
    return writes


def _moved_in(found: Found, write: StoreRequest) -> str | None:
    """The body that a document has after this write; None: not what anybody will build on."""
    if not isinstance(write, Replace) or write.body is not Body.STAGED or write.expires is not None:
        return None  # (a store may round an expiry)
    return found.stage.body if isinstance(found, Version) and found.stage is not None else None


def _remove_intention(environment: Environment, operation_id: str) -> Steps[None]:
    """Until it is certain that no intention stands."""
    while True:
        (reply,) = yield from environment.perform(Forget(intention_key(operation_id)))
        if isinstance(reply, Stored | Missing):
            return
        yield from environment.after_failed(reply)


def _forget_later(environment: Environment, operation_id: str, standing: Standing) -> Steps[None]:
    key = result_key(operation_id)
    while standing.record is not None and not standing.record.settled and standing.cas is not None:
        done = standing.record.becoming(environment.event("settled"), settled=True)
        (reply,) = yield from environment.perform(
            Replace(key, standing.cas, encode(done), ttl=ttl_seconds(environment.options))
        )
        if isinstance(reply, Stored):
            return
        yield from environment.after_failed(reply)
        standing = standing_of((yield from environment.read([key]))[key], operation_id)
