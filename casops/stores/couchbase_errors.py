"""What an exception of the Couchbase SDK means: was the write done, not done, or does nobody know?

One table names every exception class of the SDK.  A class that is not in it means *unknown*, and so does
everything that is not an exception of the SDK.  Certain is only what a server has answered, or what the SDK refused
to send.  Two traps:

 * TemporaryFailException and DocumentLockedException are raised for time-outs whose retries have met such an answer;
   the last try may have been applied.
 * Nothing groups the ambiguous ones: AmbiguousTimeout, DurabilitySyncWriteAmbiguous and RequestCanceled have no
   class in common but the base of all.

Must not be in here: calls; what a request makes of a meaning.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from casops.stores.couchbase_sdk import exceptions as sdk

__all__ = ["MEANINGS", "Meaning", "Trouble", "judge"]


class Meaning(Enum):
    """What the server or the SDK says of one call."""

    UNKNOWN = "unknown"  # it may have been done, or be done later
    REFUSED = "refused"  # certainly not done
    EXISTS = "exists"  # not done: a document is there
    MISSING = "missing"  # not done: there is no document (no live one, unless tombstones were asked for)
    MOVED = "moved"  # not done: the CAS is another one
    FIELD_EXISTS = "field exists"  # not done: a path to be inserted is there
    FIELD_MISSING = "field missing"  # not done: a path to be removed or moved is not there
    ALIVE = "alive"  # not done: what was to be revived is no tombstone
    TOO_LARGE = "too large"  # not done
    UNFIT = "unfit"  # not done: the server does not take this in a part of a document
    NO_COLLECTION = "no collection"  # not done, as far as a read is concerned


@dataclass(frozen=True, slots=True)
class Trouble:
    """A call that did not succeed."""

    meaning: Meaning
    why: str


_UNKNOWN = (
    sdk.AmbiguousTimeoutException,
    sdk.UnAmbiguousTimeoutException,  # "not sent", it says; believed for reads only, where it does not matter
    sdk.TimeoutException,
    sdk.TemporaryFailException,
    sdk.DocumentLockedException,
    sdk.DurabilitySyncWriteAmbiguousException,
    sdk.DurabilitySyncWriteInProgressException,
    sdk.RequestCanceledException,
    sdk.InternalServerFailureException,
    sdk.InternalSDKException,
    sdk.ServiceUnavailableException,
    sdk.MissingConnectionException,
    sdk.CouchbaseException,  # the base: what it means is in its code, see below
    sdk.HTTPException,
    sdk.UnsuccessfulOperationException,
    sdk.ParsingFailedException,
    sdk.DocumentUnretrievableException,
    sdk.MutationTokenOutdatedException,
    sdk.RangeScanCompletedException,
    sdk.TransactionException,
    sdk.TransactionOperationFailed,
    sdk.TransactionFailed,
    sdk.TransactionExpired,
    sdk.TransactionCommitAmbiguous,
)

_REFUSED = (
    sdk.InvalidArgumentException,
    sdk.AuthenticationException,
    sdk.BucketNotFoundException,
    sdk.BucketDoesNotExistException,
    sdk.ValueFormatException,
    sdk.FeatureUnavailableException,
    sdk.UnsupportedOperation,
    sdk.RateLimitedException,
    sdk.QuotaLimitedException,
    sdk.DurabilityImpossibleException,
    sdk.DurabilityInvalidLevelException,
    sdk.DocumentNotJsonException,
    sdk.DocumentNotLockedException,
    sdk.DeltaInvalidException,
    sdk.PathInvalidException,
    sdk.PathMismatchException,
    sdk.PathTooBigException,
    sdk.PathTooDeepException,
    sdk.InvalidIndexException,
)

_UNFIT = (
    sdk.InvalidValueException,
    sdk.NumberTooBigException,
    sdk.SubdocCantInsertValueException,
    sdk.ValueTooDeepException,
)

# Of services that no call of a store uses: they say nothing of a document.
_FOREIGN = (
    sdk.AlreadyQueriedException,
    sdk.AnalyticsLinkExistsException,
    sdk.AnalyticsLinkNotFoundException,
    sdk.BucketAlreadyExistsException,
    sdk.BucketNotFlushableException,
    sdk.CollectionAlreadyExistsException,
    sdk.CryptoException,
    sdk.CryptoKeyNotFoundException,
    sdk.DatasetAlreadyExistsException,
    sdk.DatasetNotFoundException,
    sdk.DataverseAlreadyExistsException,
    sdk.DataverseNotFoundException,
    sdk.DecrypterAlreadyExistsException,
    sdk.DecrypterNotFoundException,
    sdk.DecryptionFailureException,
    sdk.DesignDocumentNotFoundException,
    sdk.EncrypterAlreadyExistsException,
    sdk.EncrypterNotFoundException,
    sdk.EncryptionFailureException,
    sdk.EventingFunctionAlreadyDeployedException,
    sdk.EventingFunctionCollectionNotFoundException,
    sdk.EventingFunctionCompilationFailureException,
    sdk.EventingFunctionIdenticalKeyspaceException,
    sdk.EventingFunctionNotBootstrappedException,
    sdk.EventingFunctionNotDeployedException,
    sdk.EventingFunctionNotFoundException,
    sdk.EventingFunctionNotUnDeployedException,
    sdk.FeatureNotFoundException,
    sdk.GroupNotFoundException,
    sdk.InvalidCipherTextException,
    sdk.InvalidCryptoKeyException,
    sdk.KeyspaceNotFoundException,
    sdk.MissingTokenException,
    sdk.NoChildrenException,
    sdk.QueryIndexAlreadyExistsException,
    sdk.QueryIndexNotFoundException,
    sdk.QueueEmpty,
    sdk.ScopeAlreadyExistsException,
    sdk.SearchIndexNotFoundException,
    sdk.UserNotFoundException,
    sdk.WatchQueryIndexTimeoutException,
)

MEANINGS: Final[dict[type[BaseException], Meaning]] = {
    **dict.fromkeys(_UNKNOWN + _FOREIGN, Meaning.UNKNOWN),
    **dict.fromkeys(_REFUSED, Meaning.REFUSED),
    **dict.fromkeys(_UNFIT, Meaning.UNFIT),
    sdk.DocumentExistsException: Meaning.EXISTS,
    sdk.DocumentNotFoundException: Meaning.MISSING,
    sdk.CasMismatchException: Meaning.MOVED,
    sdk.PathExistsException: Meaning.FIELD_EXISTS,
    sdk.PathNotFoundException: Meaning.FIELD_MISSING,
    sdk.CollectionNotFoundException: Meaning.NO_COLLECTION,
    sdk.ScopeNotFoundException: Meaning.NO_COLLECTION,
}

# Errors that have a code but no class of their own (couchbase-cxx-client, error_codes.hxx).
_CODES: Final = {
    104: Meaning.TOO_LARGE,
    124: Meaning.REFUSED,  # unknown macro
    132: Meaning.ALIVE,  # cannot revive a living document
}

# The reason that the SDK gives for retrying when a node does not know the collection.
_COLLECTION_RETRIES: Final = "collection_outdated"


def judge(error: BaseException, *, reading: bool) -> Trouble:
    """What an exception of a call means."""
    meaning = MEANINGS.get(type(error), Meaning.UNKNOWN)
    if not isinstance(error, sdk.CouchbaseException):
        return Trouble(meaning, f"the Couchbase SDK failed with {type(error).__name__}: {error}")
    code, said, retried = _facts(error)
    if type(error) is sdk.CouchbaseException and code is not None:
        meaning = _CODES.get(code, Meaning.UNKNOWN)
    elif reading and any(_COLLECTION_RETRIES in reason for reason in retried):
        meaning = Meaning.NO_COLLECTION
    said = _SAY.get(type(error)) or f"Couchbase answered: {said or 'no reason'}"
    name = type(error).__name__
    return Trouble(meaning, f"{said} ({', '.join([name if code is None else f'{name} {code}', *retried])})")


def _facts(error: Any) -> tuple[int | None, str | None, list[str]]:
    """Its code, its text and the reasons of its retries."""
    base: Any = error.__dict__.get("_base")
    if isinstance(base, str):  # the SDK itself passes its texts so in places; its properties then fail
        return None, base, []
    return error.error_code, error.message, sorted(str(reason) for reason in error.error_context.retry_reasons or ())


_SAY: Final[dict[type[BaseException], str]] = {
    sdk.AmbiguousTimeoutException: "Couchbase gave no certain answer in time",
    sdk.UnAmbiguousTimeoutException: "Couchbase did not answer in time",
    sdk.TemporaryFailException: "Couchbase is overloaded or out of memory and gave no certain answer in time",
    sdk.DocumentLockedException: "the document is locked by another program",
    sdk.DurabilitySyncWriteAmbiguousException: "too few replicas acknowledged the write in time",
    sdk.DurabilitySyncWriteInProgressException: "another durable write of the document is under way",
    sdk.DurabilityImpossibleException: (
        "the bucket has more replicas than there are nodes to keep them, so no write can be made durable: "
        "add nodes, set the bucket's replicas to 0, or open with durability=none"
    ),
    sdk.RequestCanceledException: "the connection broke during the call",
    sdk.AuthenticationException: "the user may not do this here",
}
