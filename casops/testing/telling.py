"""Requests and replies in a few words, for traces that people read.

Must not be in here: anything that decides something.
"""

from __future__ import annotations

import json
from typing import Any

from casops.messages import AtOnce, Forget, Insert, Read, Replace, Reply, Scan, Stored, StoreRequest, Version


def tell_request(request: StoreRequest) -> str:
    """A request in a few words."""
    if isinstance(request, Scan):
        return "scan intentions"
    if isinstance(request, AtOnce):
        seen = ", ".join(f"{key.collection.removeprefix('_casops.')}/{key.id} at {cas}" for key, cas in request.seen)
        return f"at once [{'; '.join(tell_request(each) for each in request.writes)}] if {seen}"
    key = f"{request.key.collection.removeprefix('_casops.')}/{request.key.id}"
    if isinstance(request, Read):
        return f"read {key}"
    at = "" if isinstance(request, Insert | Forget) else f" at {request.cas}"
    what = ""
    if isinstance(request, Insert | Replace):
        if isinstance(request.body, str) and request.key.collection.startswith("_casops."):
            record = json.loads(request.body)
            what = f" {record.get('state', 'declared')} {record.get('attempt') or ''}".rstrip()
        elif request.stage is not None:
            what = f" stage {json.loads(request.stage.meta)['attempt']} = {request.stage.body}"
        else:
            what = f" {getattr(request.body, 'value', request.body)}"
    return f"{type(request).__name__.lower()} {key}{at}{what}"


def tell_reply(reply: Reply) -> str:
    """A reply in a few words."""
    if isinstance(reply, Stored):
        return f"stored {reply.cas}"
    if isinstance(reply, Version):
        record: Any = json.loads(reply.body) if reply.body is not None else None
        if reply.body is not None and reply.body.startswith('{"v":') and '"state"' in reply.body:
            return f"{record.get('state')} {record.get('attempt') or ''} ({reply.cas})"
        stage = f" + stage {json.loads(reply.stage.meta)['attempt']} = {reply.stage.body}" if reply.stage else ""
        return f"{reply.body if reply.body is None or len(reply.body) < 60 else '…'}{stage} ({reply.cas})"
    return type(reply).__name__.lower()
