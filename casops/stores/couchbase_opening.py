"""From a URL, or a ready bucket, to a Couchbase store that is known to work.

Opening connects, looks for the collection of the records and makes one durable write there, so that what cannot work
is told at once and in one sentence.

Must not be in here: what a store does; the URL (casops.stores.couchbase_url).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final

from casops.errors import StoreUnavailable
from casops.messages import Refused
from casops.stores.couchbase import AsyncCouchbaseStore, CouchbaseStore
from casops.stores.couchbase_calls import Answer, Call, Calls, answer, send, usable_sdk
from casops.stores.couchbase_documents import refusal
from casops.stores.couchbase_errors import Meaning, Trouble, judge
from casops.stores.couchbase_places import Settings
from casops.stores.couchbase_sdk import async_cluster, auth, options
from casops.stores.couchbase_sdk import cluster as sync_cluster
from casops.stores.couchbase_sdk import exceptions as sdk
from casops.stores.couchbase_specs import field, put
from casops.stores.couchbase_url import Target, read_url

__all__ = ["open_async_couchbase", "open_couchbase", "prepare"]

# Of what is stored.  A casops that does not know the number leaves the store alone.
FORMAT: Final = 1

# Of the write that is made at opening: another process may be at it, or a single message be lost.
TRIES: Final = 3


def open_couchbase(scheme: str, rest: str) -> CouchbaseStore:
    """The store of a URL.  UsageError: it cannot be right; StoreUnavailable: it cannot be opened."""
    target = read_url(scheme, rest)
    cluster = _connect(target)
    try:
        bucket = _bucket(cluster, target)
        if target.create is not None:
            _create(bucket, target.settings, target.create)
        prepare(bucket, target.settings, target.shown)
    except BaseException:
        cluster.close()
        raise
    return CouchbaseStore(bucket, target.settings, close=cluster.close)


def open_async_couchbase(scheme: str, rest: str) -> AsyncCouchbaseStore:
    """As open_couchbase, for the async front.

    Whether it can work is found out here, blocking, by a connection of the sync SDK; the one that is used is made
    at the first request, since it belongs to the event loop that runs then.
    """
    open_couchbase(scheme, rest).close()
    target = read_url(scheme, rest)

    async def connect() -> tuple[Any, Callable[[], Awaitable[None]]]:
        cluster = async_cluster()(target.connection, _options(target))
        try:
            await cluster.on_connect()
            bucket = cluster.bucket(target.bucket)
            await bucket.on_connect()
        except Exception as error:
            with suppress(Exception):  # where there was no connection, it says so once more
                await cluster.close()
            raise _unavailable(error, target) from error
        return bucket, cluster.close

    return AsyncCouchbaseStore(None, target.settings, connect=connect)


# --- the connection ---------------------------------------------------------------------------


def _options(target: Target) -> Any:
    limit = timedelta(seconds=target.settings.timeout)
    limits = options.ClusterTimeoutOptions(
        bootstrap_timeout=limit,
        connect_timeout=limit,
        resolve_timeout=limit,
        dns_srv_timeout=limit,
        management_timeout=limit,
        kv_timeout=limit,
        kv_durable_timeout=limit,
    )
    # The SDK's own tracing and metering cost as much as the call; casops keeps histories of its own.
    tracing = options.ClusterTracingOptions(enable_tracing=False)
    more = {}
    if target.certificate is not None:
        try:
            open(target.certificate, "rb").close()  # the SDK only says that it cannot connect
        except OSError as error:
            raise StoreUnavailable(f"the certificate {target.certificate} cannot be read: {error.strerror}") from error
        more["trust_store_path"] = target.certificate
    return options.ClusterOptions(
        auth.PasswordAuthenticator(target.user, target.password),
        timeout_options=limits,
        tracing_options=tracing,
        enable_metrics=False,
        **more,
    )


def _connect(target: Target) -> Any:
    try:
        return sync_cluster.Cluster(target.connection, _options(target))
    except Exception as error:
        raise _unavailable(error, target) from error


def _bucket(cluster: Any, target: Target) -> Any:
    try:
        return cluster.bucket(target.bucket)
    except Exception as error:
        bucket_missing = isinstance(error, sdk.UnAmbiguousTimeoutException | sdk.BucketNotFoundException)
        if bucket_missing:  # it has answered just now
            raise StoreUnavailable(
                f"there is no bucket {target.bucket!r} on {target.connection} (or it is not ready): create it or "
                f"name another one ({type(error).__name__})"
            ) from error
        raise _unavailable(error, target) from error


def _unavailable(error: Exception, target: Target) -> StoreUnavailable:
    """The sentence for a connection that could not be made."""
    if isinstance(error, sdk.AuthenticationException):
        why = f"{target.connection} does not accept this user and password, or the user may not use {target.bucket!r}"
    elif isinstance(error, sdk.UnAmbiguousTimeoutException | sdk.AmbiguousTimeoutException):
        why = (
            f"no Couchbase server answered at {target.connection} within {target.settings.timeout:g} s: look at host, "
            "port, network and TLS"
        )
    else:
        why = f"{target.shown} cannot be opened: {judge(error, reading=True).why}"
    return StoreUnavailable(why)


# --- what a store needs -----------------------------------------------------------------------


def prepare(bucket: Any, settings: Settings, shown: str = "the bucket") -> None:
    """Make sure that records can be kept there: the collection is there, a durable write succeeds, the format is ours.

    bucket: a Bucket of the sync SDK.  Raises StoreUnavailable with a sentence for a person.
    """
    lost = (Meaning.MOVED, Meaning.EXISTS, Meaning.MISSING)
    trouble = _probe(bucket, settings, shown)
    for _ in range(TRIES - 1):
        if trouble is None or trouble.meaning not in (*lost, Meaning.UNKNOWN):
            break
        trouble = _probe(bucket, settings, shown)
    if trouble is not None and trouble.meaning not in lost:  # lost to others each time: so writes succeed there
        raise _lacking(trouble, settings, shown)


def _probe(bucket: Any, settings: Settings, shown: str) -> Trouble | None:
    """Write the format into a shard of intentions, durably; None: it is there."""
    calls, place = Calls(settings), settings.shard(0)
    collection = bucket.scope(place.scope).collection(place.collection)
    ours = f'{{"v":{FORMAT}}}'
    if not usable_sdk(collection):
        raise StoreUnavailable("this version of the Couchbase SDK is not known to casops: install couchbase 4.6")

    def ask(call: Call) -> Answer | Trouble:
        try:
            return answer(call, send(collection, call))
        except Exception as error:  # noqa: BLE001 - as in CouchbaseStore
            return judge(error, reading=call.reading)

    found = ask(calls.look(place, (field("casops", hidden=True),)))
    if isinstance(found, Answer):
        if found.fields[0] not in (None, ours.encode()):
            raise StoreUnavailable(f"a newer casops wrote {settings.records} of {shown}: upgrade casops")
        done = ask(calls.mutate(place, found.cas, (put("casops", ours),)))
    elif found.meaning is Meaning.MISSING:
        done = ask(calls.insert_parts(place, (put("casops", ours),)))
    else:
        return found
    if not isinstance(done, Answer):
        return done
    kept = ask(calls.look(place, (field("$document.exptime", hidden=True),)))
    if isinstance(kept, Trouble):
        return kept
    if kept.fields[0] not in (None, b"0"):
        raise StoreUnavailable(
            f"{settings.records} of {shown} has a maximum time to live (maxTTL): results would be forgotten too early, "
            "and operations happen twice. Set it to 0, there or on the bucket"
        )
    return None


def _lacking(trouble: Trouble, settings: Settings, shown: str) -> StoreUnavailable:
    scope, collection = settings.records_at
    if trouble.meaning is Meaning.NO_COLLECTION:
        return StoreUnavailable(
            f"there is no collection {scope}.{collection} in {shown}, where results and intentions are to live: create "
            "it, name another one with option records, or open with create=true"
        )
    reply = refusal(trouble)
    certain = isinstance(reply, Refused)
    return StoreUnavailable(f"{shown} {'does not take' if certain else 'did not confirm'} a durable write: {reply.why}")


def _create(bucket: Any, settings: Settings, names: tuple[str, ...]) -> None:
    """Create what is missing.  Needs the cluster manager, and a user who may do so."""
    manager = bucket.collections()
    wanted = {settings.records_at, *((settings.scope, name) for name in names)}
    try:
        found = {scope.name: scope for scope in manager.get_all_scopes()}
        there = {(name, collection.name) for name, scope in found.items() for collection in scope.collections}
        for scope in sorted({scope for scope, _ in wanted} - found.keys()):
            with suppress(sdk.ScopeAlreadyExistsException):  # another process was faster
                manager.create_scope(scope)
        for scope, name in sorted(wanted - there):
            with suppress(sdk.CollectionAlreadyExistsException):
                manager.create_collection(scope, name)
    except sdk.CouchbaseException as error:
        why = judge(error, reading=False).why
        raise StoreUnavailable(
            f"the collections {', '.join('.'.join(each) for each in sorted(wanted))} could not be created: {why}"
        ) from error
