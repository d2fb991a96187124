"""What a request comes to: an answer, or a write that nothing speaks against and the answer it will have.

Must not be in here: how either is reached.
"""

from __future__ import annotations

from typing import NamedTuple

from casops.testing.couchbase_server.documents import Version


class Answer(NamedTuple):
    status: int
    cas: int = 0
    extras: bytes = b""
    value: bytes = b""


class Write(NamedTuple):
    version: Version
    status: int = 0
    value: bytes = b""
