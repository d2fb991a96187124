"""Forgetting acknowledged results before their retention is over.

Whoever asks for this vouches that no request for the id will be made or can arrive any more, and has waited so long
that every call which could know the id has ended or died (ten deadlines, as for the retention).  Then:

  * R(i) must be final and settled: without it nobody could judge a stage, and an unsettled one is needed.
  * No intention of i may stand.  A retry declares again what has ended; if it died before it took that away, the
    intention waits for a sweep, and a sweep that found no R(i) would run the operation a second time.  So this is
    looked at now, after the wait, and not when the acknowledgement arrived: a time to live given then would
    end without anybody looking.
  * It is removed by the CAS it was read at, so what has moved in between stays.

Nothing is tried twice: what is left is forgotten by its time to live.

Must not be in here: waiting.
"""

from __future__ import annotations

from collections.abc import Sequence

from casops.messages import Key, Missing, Remove, Steps, Stored
from casops.protocol.environment import Environment
from casops.protocol.fate import standing_of
from casops.records import intention_key, result_key


def forget(environment: Environment, operation_ids: Sequence[str]) -> Steps[int]:
    """Gives how many were certainly forgotten.  Raises TimeUp or StoreFailed if nothing could be read."""
    yield from environment.begin()
    keys: list[Key] = []
    for operation_id in operation_ids:
        keys += (result_key(operation_id), intention_key(operation_id))
    found = yield from environment.read(keys)
    removals: list[Remove] = []
    for operation_id in operation_ids:
        standing = standing_of(found[result_key(operation_id)], operation_id)
        if standing.record is None or standing.cas is None or not standing.record.settled or not standing.final:
            continue
        if isinstance(found[intention_key(operation_id)], Missing):
            removals.append(Remove(result_key(operation_id), standing.cas))
    replies = yield from environment.perform(*removals)
    return sum(isinstance(reply, Stored) for reply in replies)
