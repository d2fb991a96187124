"""The hidden attribute: what is written can be read, to the character; what another program wrote is no stage."""

import json
from types import SimpleNamespace

import pytest

from casops.messages import Key, Read, Refused, Stage
from casops.stores.couchbase import CouchbaseStore
from casops.stores.couchbase_calls import Call
from casops.stores.couchbase_places import Settings
from casops.stores.couchbase_stages import stage_in, stage_specs

CAS = 0x18A3_0000_0000_BEEF
WRITTEN_BY = f'"0x{CAS.to_bytes(8, "little").hex()}"'


@pytest.mark.parametrize(
    "body",
    [
        "{}",
        "null",
        '"a text with \\"}, and \\\\ in it"',
        "1e400",
        "1.10",
        "-0.0",
        "9" * 5000,  # more digits than Python makes a number of
        '{"a": [1, {"m": 2, "c": "x"}], "é\\u00e9": "}"}',
        '{ "balance" : 1.0 ,\n "of" : [ ] }',
    ],
)
@pytest.mark.parametrize("form", ['{{"m":{m},"b":{b},"c":{c}}}', ' {{ "c" : {c} ,\n"b"\t:{b} , "m" : {m} }} '])
def test_what_was_staged_is_read_as_it_was_written(body: str, form: str) -> None:
    meta = '{"id": "op-1", "attempt": 2.50}'
    attribute = form.format(m=meta, b=body, c=WRITTEN_BY)
    assert stage_in(attribute, CAS) == Stage(meta, body, None)


def test_what_is_written_is_what_is_read() -> None:
    attribute, (_, _, _, _, macro, value) = stage_specs(Stage('{"a":1}', '{"b":2}', None))
    assert macro
    assert value == b'"${Mutation.CAS}"'
    written = attribute[5].decode()[:-1] + f',"c":{WRITTEN_BY}}}'
    assert stage_in(written, CAS) == Stage('{"a":1}', '{"b":2}', None)


def test_a_document_that_would_be_absent_has_no_staged_body() -> None:
    stage = stage_in(f'{{"m":{{}},"c":{WRITTEN_BY}}}', CAS)
    assert stage == Stage("{}", None, None)


def test_an_attribute_without_an_owner_is_no_stage() -> None:
    assert stage_in("{}", CAS) is None
    assert stage_in(' { "b" : 1 } ', CAS) is None


@pytest.mark.parametrize("written_by", [None, "null", '"0x01"', "5", '"nonsense"', WRITTEN_BY.replace("ef", "ee")])
def test_a_stage_that_was_left_by_another_write_is_broken(written_by: str | None) -> None:
    more = "" if written_by is None else f',"c":{written_by}'
    stage = stage_in(f'{{"m":1,"b":2{more}}}', CAS)
    assert stage is not None
    assert stage.broken is not None


def test_a_broken_stage_that_is_moved_along_stays_broken() -> None:
    _, written_by = stage_specs(Stage("{}", None, "somebody wrote"))
    assert written_by[5] == b"null"


@pytest.mark.parametrize("attribute", ["1", "[]", "", "{", '{"m":}', '{"m":1', '{"m" 1}', '{"m":1 "b":2}', "{m:1}"])
def test_what_is_no_object_is_an_error(attribute: str) -> None:
    with pytest.raises(ValueError, match=r"missing|Expecting|delimiter"):
        stage_in(attribute, CAS)


def test_the_members_are_those_that_json_knows() -> None:
    text = json.dumps({"m": {"deep": [[{}]]}, "b": ["]", "}", ",", ":"], "c": None})
    stage = stage_in(text, CAS)
    assert stage is not None
    assert json.loads(stage.meta) == {"deep": [[{}]]}
    assert json.loads(stage.body or "") == ["]", "}", ",", ":"]


def test_a_document_whose_attribute_another_program_wrote_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, and not read as a document without a stage."""

    def shown(_: object, call: Call) -> SimpleNamespace:
        parts = ({"path": spec[1], "status": 0, "value": b"[5]"} for spec in call.arguments[0])
        return SimpleNamespace(cas=5, value=list(parts))

    monkeypatch.setattr("casops.stores.couchbase.send", shown)
    store = CouchbaseStore(SimpleNamespace(name="s", collection=lambda name: name), Settings(scope="s"))
    (reply,) = store.perform([Read(Key("accounts", "a"))])
    assert isinstance(reply, Refused)
    assert "the attribute casops of the document a is of another program" in reply.why
    store.close()
