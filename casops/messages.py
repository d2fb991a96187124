"""Everything the protocol ever yields, and everything it is ever told.

The protocol's generators yield a `Request`; whoever drives them (the sync driver, the async
driver, the simulator) carries it out and sends the reply back in.  There are five requests:

    Batch of store requests   carried out together, in any order, not atomically  -> list of replies
    ReadClock                 what time is it here?                               -> Clock
    Pause                     wait                                                -> None
    FreshId                   a text nobody ever got before                       -> str
    Turn                      wait for others of this process                     -> what they know

A store request names exactly one document by its `Key`, but for `AtOnce`.  Each has its own reply; one part of a
batch may succeed while another fails.  Answers a store is expected to give (missing, exists, CAS
mismatch, *unknown*) are replies and never exceptions, so no rule of the protocol can be skipped by
an exception that somebody forgot to catch.

Must not be in here: any behaviour.
"""

from __future__ import annotations

from collections.abc import Generator
from enum import Enum
from typing import Any, NamedTuple, TypeAlias, TypeVar

from casops.values import value

T = TypeVar("T")

# Collections whose name starts with this are casops' own; a user's collection may not.
RESERVED = "_casops."
RESULTS = "_casops.results"
INTENTIONS = "_casops.intentions"


class Key(NamedTuple):
    """Names one document for ever."""

    collection: str
    id: str

    def __str__(self) -> str:
        return f"{self.collection}/{self.id}"


class Body(Enum):
    """A body that is not sent because the store already has it."""

    KEEP = "keep"  # the body stays as it is (an absent document stays absent)
    STAGED = "staged"  # the staged body is moved into place (None: not allowed, see Remove)


@value()
class Stage:
    """The one hidden attribute of a document: what an attempt puts beside the current value.

    `meta` is JSON text written by casops.records; `body` is the JSON text of the document as it
    would become, or None where it would be absent.  `broken`: why the store says that it no longer fits its
    document (a program that does not know of stages wrote it); nobody may build on it.
    """

    meta: str
    body: str | None
    broken: str | None = None


# --- store requests ---------------------------------------------------------------------------


@value()
class Read:
    """-> Version | Missing | Unknown | Refused"""

    key: Key


@value()
class Insert:
    """Create what is not there.  -> Stored | Exists | Unknown | Refused

    With a body: a live document; only a live document stops it (a tombstone does not).
    Without a body: a tombstone that carries `stage` (or nothing); anything that has a version,
    live or tombstone, stops it.
    `ttl`: seconds from now, by the store's clock, after which it is gone; None: never.
    """

    key: Key
    body: str | None
    stage: Stage | None = None
    ttl: int | None = None


@value()
class Replace:
    """Write a version whose CAS is still `cas`.  -> Stored | Mismatch | Unknown | Refused

    The written version has exactly this stage and this lifetime; nothing of the old ones is kept
    unless it is named here.  `expires`: seconds since 1970 at which the document ceases to be (its
    own expiry); `ttl`: seconds from now (for records).  At most one of the two is given.
    A missing document answers Mismatch.
    """

    key: Key
    cas: int
    body: str | Body
    stage: Stage | None = None
    expires: int | None = None
    ttl: int | None = None


@value()
class Remove:
    """Remove a version whose CAS is still `cas`.  -> Stored (the tombstone's CAS) | Mismatch | Unknown | Refused

    The document's stage goes with it.  A tombstone with a CAS of its own stays for as long as the
    store says it does (see casops.stores), so that "absent" is a version like any other.
    """

    key: Key
    cas: int


@value()
class Forget:
    """Take the intention away, whatever stands there.  -> Stored | Missing (there was none) | Unknown | Refused

    The one write without a CAS, for intentions of operations that have ended: an id is never reused, so
    whatever it takes away, now or late, could not have brought anything about any more.
    """

    key: Key


@value()
class Scan:
    """List the intentions, one page at a time.  -> Page | Unknown | Refused

    `cursor` is "" for the first page, then what the last page gave.
    """

    cursor: str = ""


@value()
class AtOnce:
    """All of these writes or none, if these documents are as they were seen.  -> Stored | Mismatch | Unknown | Refused

    `writes`: inserts, replaces and removals of different documents; Stored tells the CAS that the first of them got.
    `seen`: the CAS of each document, None where nothing was.  Only for a store that says so, see ConversingStore.
    Mismatch: a document was seen otherwise, or one of the writes would not have succeeded; nothing was written.
    """

    writes: tuple[Insert | Replace | Remove, ...]
    seen: tuple[tuple[Key, int | None], ...]

    @property
    def key(self) -> Key:
        """Of the first write."""
        return self.writes[0].key


StoreRequest: TypeAlias = Read | Insert | Replace | Remove | Forget | Scan | AtOnce


# --- replies of a store -----------------------------------------------------------------------


@value()
class Version:
    """One version of a document: live (it has a body) or a tombstone (body None)."""

    cas: int
    body: str | None
    stage: Stage | None = None
    expires: int | None = None


@value()
class Missing:
    """There is no version at all."""


@value()
class Stored:
    """Acknowledged: durable, and `cas` (> 0, never seen before for this key) is its version."""

    cas: int


@value()
class Exists:
    """Certainly not written: something is there."""


@value()
class Mismatch:
    """Certainly not written: the document no longer has that CAS."""


@value()
class Unknown:
    """Nobody knows: it may have been applied, or be applied at any later moment, or never."""

    why: str


@value()
class Refused:
    """Certainly not applied and never will be: no room, too large, not allowed, store away.

    `lasting`: for what it is (too large, a key the store has no place for), so that it would be refused again.
    """

    why: str
    lasting: bool = False


@value()
class Entry:
    """An intention as a Scan lists it."""

    id: str
    cas: int
    body: str


@value()
class Page:
    entries: tuple[Entry, ...]
    next: str | None  # cursor of the next page; None: this was the last


Reply: TypeAlias = Version | Missing | Stored | Exists | Mismatch | Unknown | Refused | Page


# --- requests that are not for a store --------------------------------------------------------


@value()
class ReadClock:
    """-> Clock"""


@value()
class Clock:
    """`monotonic`: seconds, this machine's own, for patience and bounds.  `wall`: seconds since
    1970, which may be wrong, for people and for ids that carry their time."""

    monotonic: float
    wall: float


@value()
class Pause:
    """Wait about this many seconds (the driver spreads it, so that workers do not march in step)."""

    seconds: float


@value()
class FreshId:
    """-> a text that nobody got before"""


@value()
class Turn:
    """Wait until operations of this process that work on these documents have gone before, or patience is over.

    -> Mapping[Key, Version]: those of the documents that who went before has just seen.  Each was so at
    some moment; whether it still is, its CAS tells.
    """

    keys: frozenset[Key]


Batch: TypeAlias = tuple[StoreRequest, ...]
Request: TypeAlias = Batch | ReadClock | Pause | FreshId | Turn

# A protocol generator that ends with a T.  What is sent in depends on what was yielded, which
# Python's types cannot say; casops.protocol.environment re-asserts it in one place.
Steps: TypeAlias = Generator[Request, Any, T]
