"""The stage of a document on Couchbase: its hidden attribute `casops`, written and read.

    {"m": whose stage it is (JSON), "b": the staged body (left out where the document would be absent),
     "c": the CAS of the write that put it there}

"c" is what tells that another program has changed the document since: its CAS is another one then.

The attribute is read whole, not member by member, for a lookup costs what its parts cost (of the test server, one after
the other: 0.32 ms with three of them, 0.48 with six).  What the members are is taken from its text as it stands: a
number that went through a parser might not be the same afterwards.

Must not be in here: calls, requests.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from casops.messages import Stage
from casops.stores.couchbase_specs import drop, field, put

__all__ = ["ATTRIBUTE", "NO_STAGE", "STAGED_BODY", "UNSTAGED", "WITHOUT", "stage_in", "stage_specs"]

ATTRIBUTE: Final = field("casops", hidden=True)
STAGED_BODY: Final = "casops.b"

UNSTAGED: Final = put("casops", "{}")
WITHOUT: Final = drop("casops")
NO_STAGE: Final = (UNSTAGED, WITHOUT)  # a removal alone fails where none is

_BY_NOBODY: Final = put("casops.c", "null")
_WRITTEN_BY: Final = put("casops.c", '"${Mutation.CAS}"', macro=True)

_BROKEN: Final = (
    "another program wrote this document while an operation had staged a change on it; casops touches it no more, "
    'see "Other programs" in docs/couchbase.md'
)


def stage_specs(stage: Stage) -> tuple[Any, ...]:
    """The attribute, and in it the CAS that this very write gets."""
    body = "" if stage.body is None else f',"b":{stage.body}'
    # One that is broken and only moved along (by a fence) stays broken.
    return put("casops", f'{{"m":{stage.meta}{body}}}'), _WRITTEN_BY if stage.broken is None else _BY_NOBODY


def stage_in(attribute: str, cas: int) -> Stage | None:
    """The stage in the attribute of a document that has this CAS.

    Raises ValueError for what is no object of JSON, which casops never writes.
    """
    members = _members(attribute)
    meta = members.get("m")
    if meta is None:
        return None
    broken = None if _same(members.get("c"), cas) else _BROKEN
    return Stage(meta, members.get("b"), broken)


def _same(written_by: str | None, cas: int) -> bool:
    """Is this the CAS that the macro has left?  It writes the bytes in the order of the server's memory."""
    if written_by is None:
        return False
    try:
        return int.from_bytes(bytes.fromhex(json.loads(written_by)[2:]), "little") == cas
    except (ValueError, TypeError):
        return False


# Numbers are passed over as text: Python refuses to make one of more than some thousand digits.
_decoder: Final = json.JSONDecoder(parse_int=str, parse_float=str)
_space: Final = re.compile(r"[ \t\r\n]*")


def _members(text: str) -> dict[str, str]:
    """The members of a JSON object, each as the text that it is."""
    found: dict[str, str] = {}
    at = _past(text, 0, "{")
    while not text.startswith("}", at):
        if found:
            at = _past(text, at, ",")
        name, end = _decoder.raw_decode(text, at)
        begin = _past(text, end, ":")
        _, end = _decoder.raw_decode(text, begin)
        found[name] = text[begin:end]
        at = _skip(text, end)
    return found


def _past(text: str, at: int, sign: str) -> int:
    """Where something begins again after a sign."""
    at = _skip(text, at)
    if not text.startswith(sign, at):
        raise ValueError(f"{sign} is missing at {at}")
    return _skip(text, at + 1)


def _skip(text: str, at: int) -> int:
    found = _space.match(text, at)
    assert found is not None  # it matches nothing, too
    return found.end()
