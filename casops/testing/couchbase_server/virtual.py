"""Attributes a document has by itself (`$document`, `$XTOC`, `$vbucket`), and macros that a write replaces.

Must not be in here: paths, requests.
"""

from __future__ import annotations

import json
from typing import Any, Final

from casops.testing.couchbase_server.documents import Documents, Version
from casops.testing.couchbase_server.jsontext import is_json


def _table() -> tuple[int, ...]:
    """Of CRC-32C (Castagnoli), which the standard library does not have."""
    table: list[int] = []
    for number in range(256):
        for _ in range(8):
            number = number >> 1 ^ (0x82F63B78 if number & 1 else 0)
        table.append(number)
    return tuple(table)


_TABLE: Final = _table()


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def _datatype(version: Version) -> list[str]:
    kinds: list[str] = []
    try:
        json_body = bool(version.body) and is_json(version.body.decode())
    except UnicodeDecodeError:
        json_body = False
    if not json_body:
        kinds.append("raw")
    else:
        kinds.append("json")
    if version.attributes:
        kinds = [kind for kind in kinds if kind != "raw"] + ["xattr"]
    return kinds


def virtual(name: str, version: Version, documents: Documents, only: str | None) -> str | None:
    """The JSON text of a virtual attribute; None: there is none of this name.

    `only`: the one member that is asked for, so that a checksum is not computed for nothing.
    """
    if name == "$XTOC":
        return json.dumps(list(version.attributes))
    if name == "$vbucket":
        return json.dumps({"HLC": {"now": str(documents.now()), "mode": "real"}})
    if name != "$document":
        return None
    members: dict[str, Any] = {
        "CAS": f"0x{version.cas:016x}",
        "vbucket_uuid": f"0x{documents.history:016x}",
        "seqno": f"0x{version.seqno:016x}",
        "revid": str(version.revision),
        "exptime": version.expiry,
        "value_bytes": len(version.body),
        "deleted": version.deleted,
        "flags": version.flags,
        "last_modified": str(version.modified),
    }
    if only in (None, "datatype"):
        members["datatype"] = _datatype(version)
    if only in (None, "value_crc32c"):
        members["value_crc32c"] = f"0x{crc32c(version.body):08x}"
    return json.dumps(members)


def swapped(number: int) -> str:
    """As macros write a CAS: the bytes in reverse."""
    return f"0x{number.to_bytes(8, 'little').hex()}"
