"""Where things live in a bucket: which Couchbase collection, under which key, along which path.

    document accounts/alice         collection `accounts`, key `alice`                       (the plain way)
                                    collection `c`, key `accounts/alice`                     (with collection=c)
    result of operation 29401       collection `casops`, key `_casops.results/29401`
    intentions                      collection `casops`, keys `_casops.intentions/00` to `15`, one field each

A prefix, if there is one, stands before every key.  Names never clash: a user's casops collection cannot start
with `_casops.`, and documents may share a Couchbase collection with the records only where their keys carry
the name of their casops collection.

Must not be in here: the SDK; what is done there.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from typing import Final, NamedTuple
from urllib.parse import quote, unquote

from casops.errors import UsageError
from casops.messages import INTENTIONS, RESERVED, Key

__all__ = ["DURABILITIES", "SHARDS", "Place", "Settings", "id_at", "path_of", "shard_of"]

# Documents that share the intentions.  Few, so that declarations and removals of concurrent operations meet in one
# call and a sweep reads little; not one, since durable writes of several processes on a document wait for each other.
# It cannot be changed without moving intentions: another number looks for them in other documents.
SHARDS: Final = 16

# Bytes.  What Couchbase takes in any collection but the default one, which takes four more.
MAX_KEY: Final = 246

# Bytes.  So that the key of a result, whose operation id may have 200 bytes, always fits.
MAX_PREFIX: Final = 24

DURABILITIES: Final = ("none", "majority", "majority_and_persist", "persist_to_majority")

# Seconds for one call, retries of the SDK included.  Well above a failover's pause of a healthy cluster's write, and a
# few of them fit into the deadline of an operation (casops.options).
TIMEOUT: Final = 5.0

# What Couchbase takes as the name of a scope or collection, its own (_default) included.
_NAME: Final = re.compile(r"_default|[A-Za-z0-9-][A-Za-z0-9_%-]{0,250}")

# In a quoted path only these mean something; % introduces ours.
_PLAIN: Final = "".join(chr(code) for code in range(32, 127) if chr(code) not in '%`"\\')


class Place(NamedTuple):
    """A document in a bucket's scope."""

    scope: str
    collection: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Where documents and records live, and how they are written.  Raises UsageError for what cannot be right.

    scope: the scope of the documents.  collection: one Couchbase collection for all documents, whose keys then carry
    the casops collection; None: each casops collection is the Couchbase collection of its name.
    records: collection (or scope.collection) of results and intentions.  prefix: stands before every key.
    durability: one of DURABILITIES.  timeout: seconds for one call, more than 0.
    """

    scope: str = "_default"
    collection: str | None = None
    records: str = "casops"
    prefix: str = ""
    durability: str = "majority"
    timeout: float = TIMEOUT

    def __post_init__(self) -> None:
        names = [("scope", self.scope), *zip(("records", "records"), self.records.split(".", 1), strict=False)]
        if self.collection is not None:
            names.append(("collection", self.collection))
        for option, name in names:
            if not _NAME.fullmatch(name):
                raise UsageError(f"option {option}: Couchbase takes no scope or collection of the name {name!r}")
        if self.durability not in DURABILITIES:
            raise UsageError(f"option durability is one of {', '.join(DURABILITIES)}, not {self.durability!r}")
        if not 0 < self.timeout <= 3600:
            raise UsageError(f"option timeout is a number of seconds, more than 0, not {self.timeout!r}")
        if not self.prefix.isprintable() or len(self.prefix.encode(errors="replace")) > MAX_PREFIX:
            raise UsageError(f"option prefix is up to {MAX_PREFIX} bytes of printable text, not {self.prefix!r}")

    @property
    def records_at(self) -> tuple[str, str]:
        """Scope and collection of results and intentions."""
        scope, found, collection = self.records.rpartition(".")
        return (scope, collection) if found else (self.scope, collection)

    def place(self, key: Key) -> Place | str:
        """Where a document or a result lives, or the sentence that says why it cannot."""
        if key.collection.startswith(RESERVED):
            place = Place(*self.records_at, f"{self.prefix}{key.collection}/{key.id}")
        elif self.collection is not None:
            name = key.collection.replace("%", "%25").replace("/", "%2F")  # a/b of c is not b of c/a
            place = Place(self.scope, self.collection, f"{self.prefix}{name}/{key.id}")
        elif not _NAME.fullmatch(key.collection):
            return (
                f"{key.collection!r} cannot be the name of a Couchbase collection (letters, digits, _ - %, not "
                "beginning with _ or %): name it otherwise, or keep all documents in one with option collection"
            )
        elif (self.scope, key.collection) == self.records_at:
            return f"the collection {key.collection!r} holds results and intentions: set option records to another one"
        else:
            place = Place(self.scope, key.collection, f"{self.prefix}{key.id}")
        size = len(place.key.encode())
        return place if size <= MAX_KEY else f"the key is too long for Couchbase: {size} bytes, {MAX_KEY} are allowed"

    def shard(self, number: int) -> Place:
        """The document that holds this part of the intentions."""
        return Place(*self.records_at, f"{self.prefix}{INTENTIONS}/{number:02}")


def shard_of(operation_id: str) -> int:
    """The number of the shard that an intention is in."""
    return zlib.crc32(operation_id.encode()) % SHARDS


def path_of(operation_id: str) -> str:
    """The field of a shard that holds an intention: the id, with what means something in a path made harmless."""
    return f"`{quote(operation_id, safe=_PLAIN)}`"


def id_at(field: str) -> str:
    """The operation id that a field of a shard belongs to."""
    return unquote(field)
