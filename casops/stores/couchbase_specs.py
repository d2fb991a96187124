"""The parts of sub-document calls: what to look at, what to change.

In a call, attributes come before the body: the server wants them so, the SDK sorts them so, and where it has to retry
a call that it has sorted (4.6.3), it gives the results in that order.

Values are JSON text and go through as they are.

Must not be in here: calls; what they are for.
"""

from __future__ import annotations

from typing import Any

from casops.stores.couchbase_sdk import subdocument

__all__ = [
    "add_field",
    "body_as",
    "body_from",
    "changes_a_field",
    "drop",
    "drop_field",
    "field",
    "put",
    "whole",
]

Spec = subdocument.Spec
SubDocOp = subdocument.SubDocOp


def whole() -> Any:
    """The body."""
    return Spec(SubDocOp.GET_DOC, "", False)


def field(path: str, *, hidden: bool = False) -> Any:
    """A field of the body, or a hidden attribute."""
    return Spec(SubDocOp.GET, path, hidden)


def put(path: str, value: str, *, macro: bool = False) -> Any:
    """A hidden attribute, or a part of one, becomes this JSON text (macro: what the server makes of it)."""
    return Spec(SubDocOp.DICT_UPSERT, path, False, True, macro, value.encode())


def drop(path: str) -> Any:
    """A hidden attribute goes."""
    return Spec(SubDocOp.REMOVE, path, False, True, False)


def body_from(path: str) -> Any:
    """The body becomes what this part of a hidden attribute is."""
    return Spec(SubDocOp.REPLACE_BODY_WITH_XATTR, path, False, True, False)


def body_as(text: str) -> Any:
    """The body becomes this JSON text."""
    return Spec(SubDocOp.SET_DOC, "", False, False, False, text.encode())


def add_field(path: str, value: str) -> Any:
    """A field of the body that must not be there yet."""
    return Spec(SubDocOp.DICT_ADD, path, False, False, False, value.encode())


def drop_field(path: str) -> Any:
    """A field of the body that must be there goes."""
    return Spec(SubDocOp.REMOVE, path, False, False, False)


def changes_a_field(spec: Any) -> bool:
    """Whether a part is one of the last two, which fail where the field is not as they name it."""
    return spec[0] in (SubDocOp.DICT_ADD, SubDocOp.REMOVE) and bool(spec[1]) and not spec[3]
