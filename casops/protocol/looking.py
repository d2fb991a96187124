"""Step 0 of an operation, where reading costs next to nothing: has it ended, and what would come of it?

An operation that has ended is answered from what is read here, and nothing is written.  If it has not, nothing is
built on what was read.  The business function runs on it before anything is declared or locked; should the
documents be the same when they are read in step 1, as they nearly always are, it need not run again there,
where a store may have others wait.

Must not be in here: anything an answer depends on, other than a final R(i).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from casops.messages import Key, Missing, Steps
from casops.protocol import work as business
from casops.protocol.environment import Environment, Found
from casops.protocol.fate import Standing, standing_of
from casops.records import result_key
from casops.values import value

# Documents that are read with R(i) although an operation that has ended has no need of them: few enough to cost less
# than another batch.
FEW: Final = 4


@value()
class Foreseen:
    """What comes of the business function on these documents."""

    values: Mapping[Key, business.Value]
    evaluation: business.Evaluation


@value()
class Seen:
    """R(i) and, unless it is final, what would come of the operation."""

    standing: Standing
    foreseen: Foreseen | None


def look_before(environment: Environment, operation_id: str, work: business.Work) -> Steps[Seen]:
    """Raises StoreFailed or TimeUp, and InvariantViolation for a record that cannot be read."""
    key, keys = result_key(operation_id), work.declared
    documents = yield from environment.read([key, *keys] if len(keys) <= FEW else [key])
    standing = standing_of(documents.pop(key), operation_id)
    if standing.final:
        return Seen(standing, None)
    if len(keys) > FEW:
        documents = yield from environment.read(keys)
    values = {each: _value(found) for each, found in documents.items()}
    return Seen(standing, Foreseen(values, work.evaluate(values)))


def _value(found: Found) -> business.Value:
    """Should it carry a stage, this is the old value, or not; step 1 finds out."""
    return business.Value(None) if isinstance(found, Missing) else business.Value(found.body, found.expires)
