"""A store in memory that keeps all intentions in one document, with one CAS for all of them.

Stores may do so (casops.stores, 8); the simulator sees whether the protocol bears it.

Must not be in here: anything else that a store may do.
"""

from __future__ import annotations

from casops.messages import INTENTIONS, Reply, Stored
from casops.stores.memory import MemoryStore
from casops.stores.rows import CAS_STEP, Row, Write


class SharingStore(MemoryStore):
    """A write of one intention moves the CAS of all."""

    def _write(self, request: Write, row: Row | None) -> Reply:
        reply = super()._write(request, row)
        if isinstance(reply, Stored) and request.key.collection == INTENTIONS:
            others = self._rows.get(INTENTIONS, {})
            for id, other in others.items():
                if id != request.key.id:
                    others[id] = other._replace(cas=other.cas + CAS_STEP)
        return reply
