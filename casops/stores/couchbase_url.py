"""The URL of a Couchbase store.

    couchbase://user:password@host/bucket            couchbases:// for TLS; several hosts: host1,host2:11210
    ?scope=app                                       scope of the documents (default _default)
    &collection=all                                  one Couchbase collection for all documents, keys `accounts/alice`
    &records=casops                                  collection (or scope.collection) of results and intentions
    &prefix=test-                                    stands before every key
    &durability=majority                             none, majority, majority_and_persist, persist_to_majority
    &timeout=5                                       seconds for one call
    &create=accounts,orders                          these collections, their scope and what the records need are
                                                     created where missing; create=true: no collections of documents
    &certificate=/etc/ca.pem                         whom to trust, with couchbases://

User, password and options are percent-encoded.

Must not be in here: the SDK; connections.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

from casops.errors import UsageError
from casops.stores.couchbase_places import Settings

__all__ = ["Target", "read_url"]

_HOSTS: Final = re.compile(r"[A-Za-z0-9._\-\[\]:]+(,[A-Za-z0-9._\-\[\]:]+)*")
_TEXT_OPTIONS: Final = ("scope", "collection", "records", "prefix", "durability")


@dataclass(frozen=True, slots=True)
class Target:
    """What a URL says."""

    connection: str
    user: str
    password: str = field(repr=False)
    bucket: str
    settings: Settings
    create: tuple[str, ...] | None
    certificate: str | None

    @property
    def shown(self) -> str:
        """For messages: without the password."""
        return f"{self.connection}/{self.bucket}"


def read_url(scheme: str, rest: str) -> Target:
    """Take a URL apart.  Raises UsageError; no message shows a password."""
    place, _, query = rest.partition("?")
    login, found, address = place.rpartition("@")
    user, colon, password = login.partition(":")
    hosts, slash, bucket = address.partition("/")
    if not (found and colon and user and slash and bucket and "/" not in bucket):
        raise UsageError(
            f"a Couchbase store is named {scheme}://user:password@host/bucket, with @ : / ? in the password written "
            "%40 %3A %2F %3F"
        )
    if not _HOSTS.fullmatch(hosts):
        raise UsageError(f"hosts are written host1,host2:11210, not {hosts!r}")
    given = _options_of(query)
    certificate = given.pop("certificate", None)
    if certificate is not None and scheme != "couchbases":
        raise UsageError("option certificate needs TLS: couchbases://")
    create = given.pop("create", None)
    values: dict[str, Any] = dict(given)
    if "timeout" in values:
        values["timeout"] = _seconds(values["timeout"])
    settings = Settings(**values)
    return Target(
        connection=f"{scheme}://{hosts}",
        user=_decoded(user),
        password=_decoded(password),
        bucket=_decoded(bucket),
        settings=settings,
        create=None if create is None else _to_create(create, settings),
        certificate=certificate,
    )


def _options_of(query: str) -> dict[str, str]:
    known = (*_TEXT_OPTIONS, "timeout", "create", "certificate")
    given: dict[str, str] = {}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True, errors="strict") if query else []
    except ValueError as error:
        raise UsageError(f"options are written name=value&name=value, not {query!r}") from error
    for name, text in pairs:
        if name not in known:
            raise UsageError(f"unknown option {name!r}; there are: {', '.join(sorted(known))}")
        if name in given:
            raise UsageError(f"option {name!r} is given twice")
        given[name] = text
    return given


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds) or seconds <= 0:
        raise UsageError(f"option 'timeout' is a number of seconds, more than 0, not {text!r}")
    return seconds


def _to_create(text: str, settings: Settings) -> tuple[str, ...]:
    names = () if text == "true" else tuple(text.split(","))
    for name in names:
        Settings(collection=name)  # says what Couchbase does not take as a name
    return names if settings.collection is None else (settings.collection,)


def _decoded(text: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError as error:
        raise UsageError("user, password and bucket are percent-encoded UTF-8") from error
