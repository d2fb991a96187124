"""A batch of which a SqliteStore can take some, and why not the others.

Must not be in here: what the requests are answered.
"""

from __future__ import annotations

from collections.abc import Sequence

from casops.messages import Reply, StoreRequest
from casops.stores.rows import check

__all__ = ["Checked"]


class Checked:
    """A batch, and which of it a store of rows can take.  Raises as check does: nothing of the batch is then done."""

    __slots__ = ("_refused", "fit")

    def __init__(self, batch: Sequence[StoreRequest]) -> None:
        refused = [check(request) for request in batch]
        self._refused = refused if refused.count(None) < len(refused) else None  # None: the usual batch, taken as it is
        self.fit = batch
        if self._refused is not None:
            self.fit = [request for request, why in zip(batch, refused, strict=True) if why is None]

    def replies(self, to_fit: list[Reply]) -> list[Reply]:
        """A reply for each of the batch, from those to the ones that are fit."""
        if self._refused is None:
            return to_fit
        rest = iter(to_fit)
        return [next(rest) if why is None else why for why in self._refused]
