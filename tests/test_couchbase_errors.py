"""What each exception of the SDK means, and that no blind write leaves the border.

Must not be in here: a server.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import textwrap
from typing import Any

import pytest

from casops.errors import StoreUnavailable
from casops.messages import (
    INTENTIONS,
    RESULTS,
    Forget,
    Insert,
    Key,
    Missing,
    Read,
    Refused,
    Replace,
    Stage,
    Stored,
    StoreRequest,
    Unknown,
    Version,
)
from casops.stores.couchbase import AsyncCouchbaseStore, CouchbaseStore
from casops.stores.couchbase_calls import Calls, Lifetime
from casops.stores.couchbase_documents import refusal
from casops.stores.couchbase_errors import MEANINGS, Meaning, Trouble, judge
from casops.stores.couchbase_intentions import Edit
from casops.stores.couchbase_places import Place, Settings
from casops.stores.couchbase_sdk import exceptions, subdocument
from casops.stores.couchbase_specs import add_field, drop_field, put

DOC = Key("accounts", "alice")
PLACE = Place("_default", "accounts", "alice")
CLASSES = [
    each
    for each in vars(exceptions).values()
    if isinstance(each, type) and issubclass(each, exceptions.CouchbaseException)
]


# --- the table ----------------------------------------------------------------------------------


@pytest.mark.parametrize("error", CLASSES, ids=lambda error: error.__name__)
def test_every_exception_of_the_sdk_has_a_meaning(error: type[Exception]) -> None:
    assert error in MEANINGS


def test_all_modules_of_the_sdk_raise_what_is_in_the_table() -> None:
    found: set[type[Any]] = set()
    for name in ("transactions", "encryption", "subdocument", "datastructures", "collection", "transcoder", "result"):
        module = importlib.import_module(f"couchbase.{name}")
        found |= {each for each in vars(module).values() if isinstance(each, type) and issubclass(each, Exception)}
    assert {each for each in found if issubclass(each, exceptions.CouchbaseException)} <= set(MEANINGS)


def test_what_is_not_certain_is_unknown() -> None:
    """Whoever moves a class out of here has to show that the write cannot have been done."""
    certain = {error for error, meaning in MEANINGS.items() if meaning is not Meaning.UNKNOWN}
    for name in (
        "AmbiguousTimeoutException",
        "UnAmbiguousTimeoutException",
        "TimeoutException",
        "TemporaryFailException",
        "DocumentLockedException",
        "DurabilitySyncWriteAmbiguousException",
        "DurabilitySyncWriteInProgressException",
        "RequestCanceledException",
        "InternalServerFailureException",
        "InternalSDKException",
        "ServiceUnavailableException",
        "TransactionCommitAmbiguous",
        "CouchbaseException",
    ):
        assert getattr(exceptions, name) not in certain


class New(exceptions.CouchbaseException):  # type: ignore[misc]
    """A class that a later SDK may bring."""


class NewKind(exceptions.DocumentExistsException):  # type: ignore[misc]
    """One that says more than its base."""


@pytest.mark.parametrize(
    "error",
    [New(message="?"), NewKind(message="?"), RuntimeError("closed"), ValueError("?"), New("a text of the SDK's")],
)
@pytest.mark.parametrize("reading", [True, False])
def test_an_unknown_class_is_an_unknown_outcome(error: Exception, reading: bool) -> None:
    trouble = judge(error, reading=reading)
    assert trouble.meaning is Meaning.UNKNOWN
    assert isinstance(refusal(trouble), Unknown)
    assert type(error).__name__ in trouble.why


@pytest.mark.parametrize(
    ("code", "meaning"),
    [
        (104, Meaning.TOO_LARGE),
        (124, Meaning.REFUSED),
        (132, Meaning.ALIVE),
        (13, Meaning.UNKNOWN),
        (999, Meaning.UNKNOWN),
    ],
)
def test_an_exception_without_a_class_of_its_own_means_what_its_code_says(code: int, meaning: Meaning) -> None:
    assert judge(exceptions.CouchbaseException(message="?", error_code=code), reading=False).meaning is meaning


@pytest.mark.parametrize("meaning", Meaning)
def test_a_meaning_that_does_not_fit_its_call_never_becomes_a_certain_answer(meaning: Meaning) -> None:
    certain = {Meaning.REFUSED, Meaning.TOO_LARGE, Meaning.UNFIT, Meaning.NO_COLLECTION}
    reply = refusal(Trouble(meaning, "why"))
    assert isinstance(reply, Refused if meaning in certain else Unknown)


# --- blind writes -------------------------------------------------------------------------------


@pytest.mark.parametrize("cas", [0, -1, 2**64 - 1])
def test_no_write_leaves_without_a_cas(cas: int) -> None:
    calls = Calls(Settings())
    blind: list[Any] = [
        lambda: calls.replace(PLACE, cas, "1"),
        lambda: calls.remove(PLACE, cas),
        lambda: calls.mutate(PLACE, cas, ()),
        lambda: calls.mutate_any(PLACE, cas, ()),
        lambda: calls.revive(PLACE, cas, ()),
    ]
    for call in blind:
        with pytest.raises(AssertionError, match="a blind write"):
            call()


def test_a_call_that_names_no_cas_only_inserts_or_changes_fields_by_name() -> None:
    calls = Calls(Settings())
    calls.change_fields(PLACE, (add_field("a", "1"), drop_field("b")))
    upsert = subdocument.Spec(subdocument.SubDocOp.DICT_UPSERT, "a", False, False, False, b"1")
    for spec in (upsert, put("casops", "1"), drop_field(""), subdocument.Spec(subdocument.SubDocOp.REMOVE_DOC, "")):
        with pytest.raises(AssertionError, match="a blind write"):
            calls.change_fields(PLACE, (add_field("a", "1"), spec))


def test_the_sdk_is_asked_for_nothing_that_could_overwrite() -> None:
    """A whole bucket that notes every call: the methods used, and the CAS or the semantics of each."""
    bucket = Noting()
    store = CouchbaseStore(bucket, Settings(durability="none"))
    batch: list[StoreRequest] = [
        Insert(DOC, "1"),
        Insert(DOC, "1", Stage("1", "2")),
        Insert(DOC, None, Stage("1", "2")),
        Insert(Key(RESULTS, "1"), "1"),
        Replace(DOC, 7, "2"),
        Replace(DOC, 7, "2", Stage("1", "2"), expires=2_000_000_000),
        Replace(Key(RESULTS, "1"), 7, "2", ttl=60),
        Insert(Key(INTENTIONS, "1"), "1"),
        Replace(Key(INTENTIONS, "1"), 7, "1"),
        Forget(Key(INTENTIONS, "1")),
    ]
    store.perform(batch)
    store.close()
    insert = subdocument.StoreSemantics.INSERT
    assert {method for method, _ in bucket.seen} <= {"insert", "replace", "remove", "mutate_in", "get", "lookup_in"}
    for method, options in bucket.seen:
        if method in ("replace", "remove"):
            assert options["cas"] == 7
        if method == "mutate_in":
            fields = options["key"].startswith(INTENTIONS)
            assert options.get("cas") == 7 or options.get("store_semantics") is insert or fields
            assert options.get("store_semantics", insert) is insert
        assert "preserve_expiry" not in options


class Noting:
    """A bucket, a scope and a collection of the SDK that fails every call and notes what it was asked."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, Any]]] = []
        self._impl = self
        self.request_builder = self

    def default_scope(self) -> Noting:
        return self

    def scope(self, _: str) -> Noting:
        return self

    def collection(self, _: str) -> Noting:
        return self

    def __getattr__(self, method: str) -> Any:
        def call(key: str, *arguments: Any) -> Any:
            name = method.removeprefix("build_").removesuffix("_request")
            self.seen.append((name, {"key": key, **arguments[-1]}))
            raise exceptions.RequestCanceledException(message="noted")

        return call


def test_a_lifetime_is_given_once() -> None:
    calls = Calls(Settings())
    assert calls.insert(PLACE, "1", Lifetime(short=5)).options["expiry"].total_seconds() == 5
    later = calls.insert(PLACE, "1", Lifetime(until=2_000_000_000))
    assert "expiry" not in later.options
    assert later.expires == 2_000_000_000


# --- answers that are not as they should be -------------------------------------------------------


class Silent:
    """A result of the SDK without a CAS."""

    cas = 0
    value = None


def test_an_acknowledgement_without_a_cas_is_an_unknown_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    store = CouchbaseStore(Noting(), Settings())
    monkeypatch.setattr("casops.stores.couchbase.send", lambda collection, call: Silent())
    replies = store.perform([Insert(DOC, "1"), Replace(DOC, 7, "1"), Insert(Key(INTENTIONS, "1"), "1")])
    assert [type(reply) for reply in replies] == [Unknown] * 3
    store.close()


def test_what_is_thrown_into_the_leader_of_a_lane_leaves_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    store = CouchbaseStore(Noting(), Settings())

    def interrupt(collection: Any, call: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("casops.stores.couchbase.send", interrupt)
    with pytest.raises(KeyboardInterrupt):
        store.perform([Insert(Key(INTENTIONS, "1"), "1")])
    monkeypatch.setattr("casops.stores.couchbase.send", lambda collection, call: Answering())
    assert isinstance(store.perform([Insert(Key(INTENTIONS, "1"), "1")])[0], Stored)
    store.close()


def test_an_edit_that_was_taken_and_lost_is_unknown() -> None:
    store = CouchbaseStore(Noting(), Settings())
    edit = Edit(Insert(Key(INTENTIONS, "1"), "1"))  # taken out of its lane by one whom Ctrl-C stopped there
    store._edit(store._shared.intentions.lane_of(edit.request), [edit])
    assert isinstance(edit.reply, Unknown)
    store.close()


async def test_an_edit_that_was_taken_and_lost_is_unknown_to_the_async_store() -> None:
    store = AsyncCouchbaseStore(Noting(), Settings())
    edit = Edit(Insert(Key(INTENTIONS, "1"), "1"))
    await store._edit(store._shared.intentions.lane_of(edit.request), [edit])
    assert isinstance(edit.reply, Unknown)
    await store.close()


class Shown:
    """A lookup of a document without a body, in which one part has a status of its own; the others are there."""

    cas = 5

    def __init__(self, call: Any, path: str, status: int) -> None:
        statuses = [status if spec[1] == path else 0 for spec in call.arguments[0]]
        values = {"casops": b'{"m": 1}', "": b""}
        self.value = [
            {"path": spec[1], "status": each, **({} if each else {"value": values.get(spec[1], b"1")})}
            for spec, each in zip(call.arguments[0], statuses, strict=True)
        ]


@pytest.mark.parametrize("path", ["casops", "$document.exptime", "$document.deleted"])
@pytest.mark.parametrize(("status", "kind"), [(192, Version), (193, Unknown), (134, Unknown), (None, Unknown)])
def test_an_attribute_that_is_not_shown_is_not_taken_for_absent(
    path: str, status: Any, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CouchbaseStore(Noting(), Settings())
    monkeypatch.setattr("casops.stores.couchbase.send", lambda collection, call: Shown(call, path, status))
    (reply,) = store.perform([Read(DOC)])
    assert isinstance(reply, kind)
    store.close()


async def test_requests_are_refused_where_there_is_no_connection() -> None:
    async def connect() -> Any:
        raise StoreUnavailable("nobody is there")

    store = AsyncCouchbaseStore(None, Settings(), connect=connect)
    wrong = Key("accounts", "")
    assert [type(each) for each in await store.perform([Read(DOC), Read(wrong)])] == [Refused, Refused]
    await store.close()


class Answering:
    cas = 5
    value = None


def test_the_fields_of_a_shard_that_is_not_there_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    store = CouchbaseStore(Noting(), Settings())

    def missing(collection: Any, call: Any) -> Any:
        raise exceptions.DocumentNotFoundException(message="?")

    monkeypatch.setattr("casops.stores.couchbase.send", missing)
    assert store.perform([Forget(Key(INTENTIONS, str(number))) for number in range(40)]) == [Missing()] * 40
    store.close()


# --- without the SDK ------------------------------------------------------------------------------


def test_casops_works_without_the_sdk_and_says_what_couchbase_needs() -> None:
    script = """
        import sys
        sys.modules["couchbase"] = sys.modules["acouchbase"] = None
        import casops
        with casops.CasOps.open("memory://") as front:
            assert front.pending() == []
        try:
            casops.CasOps.open("couchbase://user:password@host/bucket")
        except casops.UsageError as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "couchbase:// needs the Couchbase SDK: pip install 'casops[couchbase]'", done.stderr


def test_importing_casops_does_not_import_the_sdk() -> None:
    script = "import casops, sys; print([name for name in sys.modules if name.startswith(('couchbase', 'acouchbase'))])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]"
