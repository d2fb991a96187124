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

# Documents that are read with R(i) although an operation that has ended has no need of them: few enough to cost less
# than another batch.
FEW: Final = 4


class Foresight:
    """What came of the business function when it ran last, for all workers of one call."""

    def __init__(self, work: business.Work) -> None:
        self._work = work
        self._seen: tuple[Mapping[Key, business.Value], business.Evaluation] | None = None

    def evaluate(self, values: Mapping[Key, business.Value]) -> business.Evaluation:
        """As Work.evaluate, which is not asked again about documents it has just seen."""
        if self._seen is None or self._seen[0] != values:
            self._seen = (values, self._work.evaluate(values))
        return self._seen[1]


def look_before(
    environment: Environment, operation_id: str, work: business.Work, foresight: Foresight
) -> Steps[Standing]:
    """R(i) and, unless it is final, foresight of what would come of the operation.

    Raises StoreFailed or TimeUp, and InvariantViolation for a record that cannot be read.
    """
    key, keys = result_key(operation_id), work.declared
    documents = yield from environment.read([key, *keys] if len(keys) <= FEW else [key])
    standing = standing_of(documents.pop(key), operation_id)
    if standing.final:
        return standing
    if len(keys) > FEW:
        documents = yield from environment.read(keys)
    foresight.evaluate({each: _value(found) for each, found in documents.items()})
    return standing


def _value(found: Found) -> business.Value:
    """Should it carry a stage, this is the old value, or not; step 1 finds out."""
    return business.Value(None) if isinstance(found, Missing) else business.Value(found.body, found.expires)
