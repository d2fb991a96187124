"""Paths into JSON texts, and changes that leave the rest of the text as it was."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from casops.testing.couchbase_server import changes, jsontext
from casops.testing.couchbase_server.paths import Name, PathFailure, parse_path
from casops.testing.couchbase_server.virtual import crc32c
from casops.testing.couchbase_server.wire import Status


def status_of(call: Any, *arguments: Any) -> Status:
    with pytest.raises(PathFailure) as caught:
        call(*arguments)
    return caught.value.status


@pytest.mark.parametrize(
    ("path", "steps"),
    [
        ("", []),
        ("a", ["a"]),
        ("a.b", ["a", "b"]),
        ("a[0].b[-1]", ["a", 0, "b", -1]),
        ("[3][4]", [3, 4]),
        ("`a.b`.c", ["a.b", "c"]),
        ("`a``b`[1]", ["a`b", 1]),
        ("a.`[`", ["a", "["]),
        ("a.", ["a"]),
        (r"`q\"t`", ['q"t']),
        (r"`\u00e9`", ["é"]),
        ("é.✓", ["é", "✓"]),
    ],
)
def test_paths(path: str, steps: list[str | int]) -> None:
    assert [step.name if isinstance(step, Name) else step for step in parse_path(path)] == steps


@pytest.mark.parametrize(
    "path",
    ["[", "a[", "a[]", "a[x]", "a[-2]", "a[1", "a[0]b", "`", "``", "`a", "`a`b", "a`b", "a]b", "..", ".a", "a..b",
     "`\0`", '"', "\t", "\\", "a[٣]", "a[99999999999]"],
)  # fmt: skip
def test_what_is_no_path(path: str) -> None:
    assert status_of(parse_path, path) == Status.PATH_INVALID


def test_a_path_that_is_too_deep() -> None:
    assert len(parse_path(".".join("a" * 31))) == 31
    assert status_of(parse_path, ".".join("a" * 32)) == Status.PATH_TOO_BIG


TEXT = ' {"a" : 1.10, "b":{"c":[ 1 ,2,{"d":"x,}]"}]},"\\u00e9":null , "f":[]} '


@pytest.mark.parametrize(
    ("path", "found"),
    [("a", "1.10"), ("b.c[0]", "1"), ("b.c[-1].d", '"x,}]"'), ("b.c[2]", '{"d":"x,}]"}'), ("é", "null"), ("f", "[]")],
)
def test_getting_gives_the_text_as_it_stands(path: str, found: str) -> None:
    assert jsontext.get(TEXT, parse_path(path)) == found


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("z", Status.PATH_NOT_FOUND),
        ("b.z.y", Status.PATH_NOT_FOUND),
        ("b.c[3]", Status.PATH_NOT_FOUND),
        ("f[-1]", Status.PATH_NOT_FOUND),
        ("a.z", Status.PATH_MISMATCH),
        ("b[0]", Status.PATH_MISMATCH),
        ("f.z", Status.PATH_MISMATCH),
    ],
)
def test_getting_what_is_not_there(path: str, status: Status) -> None:
    assert status_of(jsontext.get, TEXT, parse_path(path)) == status


CHANGES: list[tuple[str, int, str, str, bool, str | Status]] = [
    ('{"a":1}', changes.ADD, "b", "2", False, '{"a":1,"b":2}'),
    ("{ }", changes.ADD, "b", "2", False, '{ "b":2}'),
    ('{"a":1}', changes.ADD, "a", "2", False, Status.PATH_EXISTS),
    ('{"a":1}', changes.UPSERT, "a", '{"x":[]}', False, '{"a":{"x":[]}}'),
    ('{"a":1}', changes.UPSERT, "p.q.r", "2", False, Status.PATH_NOT_FOUND),
    ('{"a":1}', changes.UPSERT, "p.q.r", "2", True, '{"a":1,"p":{"q":{"r":2}}}'),
    ('{"a":1}', changes.UPSERT, "p[0].r", "2", True, Status.PATH_NOT_FOUND),
    ('{"a":1}', changes.UPSERT, "a.q", "2", True, Status.PATH_MISMATCH),
    ('{"a":[1]}', changes.UPSERT, "a[0]", "2", False, Status.PATH_INVALID),
    ('{"a":1}', changes.UPSERT, "", "2", False, Status.INVALID),
    ('{"a":1}', changes.UPSERT, "a", "{", False, Status.VALUE_CANNOT_INSERT),
    ('{"a":1}', changes.UPSERT, "a", "1,2", False, Status.VALUE_CANNOT_INSERT),
    ('{"a":1}', changes.UPSERT, "a", "", False, Status.VALUE_CANNOT_INSERT),
    ('{"a":1}', changes.UPSERT, "a", "NaN", False, Status.VALUE_CANNOT_INSERT),
    ('{"a":1.50, "b":2}', changes.REPLACE, "b", "3", False, '{"a":1.50, "b":3}'),
    ('{"a":[1,2]}', changes.REPLACE, "a[-1]", "3", False, '{"a":[1,3]}'),
    ('{"a":1}', changes.REPLACE, "b", "3", False, Status.PATH_NOT_FOUND),
    ('{"a":1, "b":2 , "c":3}', changes.REMOVE, "a", "", False, '{"b":2 , "c":3}'),
    ('{"a":1, "b":2 , "c":3}', changes.REMOVE, "b", "", False, '{"a":1, "c":3}'),
    ('{"a":1, "b":2 , "c":3}', changes.REMOVE, "c", "", False, '{"a":1, "b":2 }'),
    ('{"a":1}', changes.REMOVE, "a", "", False, "{}"),
    ("[1,2,3]", changes.REMOVE, "[-1]", "", False, "[1,2]"),
    ("[1]", changes.REMOVE, "[0]", "", False, "[]"),
    ("{}", changes.REMOVE, "a", "", False, Status.PATH_NOT_FOUND),
    ("[]", changes.PUSH_LAST, "", "1,2", False, "[1,2]"),
    ("[0]", changes.PUSH_LAST, "", "1,2", False, "[0,1,2]"),
    ("[0]", changes.PUSH_FIRST, "", "1,2", False, "[1,20]".replace("20", "2,0")),
    ("[]", changes.PUSH_FIRST, "", "1", False, "[1]"),
    ("{}", changes.PUSH_LAST, "", "1", False, Status.PATH_MISMATCH),
    ("{}", changes.PUSH_LAST, "a.b", "1", True, '{"a":{"b":[1]}}'),
    ("{}", changes.PUSH_LAST, "a", "1", False, Status.PATH_NOT_FOUND),
    ("[1,2]", changes.ADD_UNIQUE, "", "3", False, "[1,2,3]"),
    ("[1,2]", changes.ADD_UNIQUE, "", "2", False, Status.PATH_EXISTS),
    ("[1,true]", changes.ADD_UNIQUE, "", "1.0", False, "[1,true,1.0]"),
    ("[1]", changes.ADD_UNIQUE, "", "2,3", False, Status.VALUE_CANNOT_INSERT),
    ("[1]", changes.PUSH_LAST, "", "", False, Status.VALUE_CANNOT_INSERT),
    ("[1]", changes.PUSH_LAST, "", "1],[2", False, Status.VALUE_CANNOT_INSERT),
    ('{"a":1,"a":{"b":2}}', changes.UPSERT, "a.b", "3", False, Status.DOCUMENT_NOT_JSON),
    ("[[]]", changes.ADD_UNIQUE, "", "3", False, Status.PATH_MISMATCH),
    ("[1,3]", changes.ARRAY_INSERT, "[1]", "2", False, "[1,2,3]"),
    ("[1]", changes.ARRAY_INSERT, "[1]", "2", False, "[1,2]"),
    ("[]", changes.ARRAY_INSERT, "[0]", "2", False, "[2]"),
    ("[1]", changes.ARRAY_INSERT, "[3]", "2", False, Status.PATH_NOT_FOUND),
    ("[1]", changes.ARRAY_INSERT, "[-1]", "2", False, Status.PATH_INVALID),
    ('{"a":1}', changes.ARRAY_INSERT, "a", "2", False, Status.PATH_INVALID),
    ("{", changes.UPSERT, "a", "2", False, Status.DOCUMENT_NOT_JSON),
    ('{"a":1} x', changes.UPSERT, "a", "2", False, Status.DOCUMENT_NOT_JSON),
    ("", changes.UPSERT, "a", "2", False, Status.DOCUMENT_NOT_JSON),
    ("1", changes.UPSERT, "a", "2", False, Status.PATH_MISMATCH),
    ("[" * 40 + "]" * 40, changes.PUSH_LAST, "", "2", False, Status.DOCUMENT_TOO_DEEP),
]


@pytest.mark.parametrize(("text", "opcode", "path", "value", "create", "ending"), CHANGES)
def test_changes(text: str, opcode: int, path: str, value: str, create: bool, ending: str | Status) -> None:
    if isinstance(ending, Status):
        assert status_of(changes.change, text, opcode, parse_path(path), value, create) == ending
    else:
        assert changes.change(text, opcode, parse_path(path), value, create) == ending


def test_counting_up() -> None:
    assert changes.count_up('{"n":5}', parse_path("n"), "-7", False) == ('{"n":-2}', "-2")
    assert changes.count_up("{}", parse_path("n"), "3", False) == ('{"n":3}', "3")
    for text, delta, status in [
        ('{"n":1.5}', "1", Status.PATH_MISMATCH),
        ('{"n":true}', "1", Status.PATH_MISMATCH),
        ('{"n":1}', "0", Status.DELTA_INVALID),
        ('{"n":1}', "x", Status.DELTA_INVALID),
        ('{"n":1}', "9223372036854775807", Status.NUMBER_OUT_OF_RANGE),
        ('{"n":1}', "9223372036854775808", Status.DELTA_INVALID),
    ]:
        assert status_of(changes.count_up, text, parse_path("n"), delta, False) == status


def test_counting_members() -> None:
    assert jsontext.count(TEXT, parse_path("b.c")) == 3
    assert jsontext.count(TEXT, ()) == 4
    assert status_of(jsontext.count, TEXT, parse_path("a")) == Status.PATH_MISMATCH


def test_random_changes_do_what_they_would_do_to_values() -> None:
    """Against the same change made by Python on the parsed document."""
    chance = random.Random(3)
    names = ["a", "b", "c.d", "é", "`", 'q"']
    for _ in range(400):
        text, value = "{}", dict[str, Any]()
        for _ in range(12):
            name = chance.choice(names)
            new: Any = chance.choice([1, "x", None, [1, {"y": 2}], {}])
            escaped = json.dumps(name, ensure_ascii=False)[1:-1].replace("`", "``")
            steps = parse_path(f"`{escaped}`")
            written = json.dumps(new, indent=chance.choice([None, 1]))
            if name in value and chance.random() < 0.5:
                text = changes.change(text, changes.REMOVE, steps, "", False)
                del value[name]
            else:
                text = changes.change(text, changes.UPSERT, steps, written, False)
                value[name] = new
            assert json.loads(text) == value


@pytest.mark.parametrize(
    ("text", "depth"),
    [
        ("1", 0),
        ('[{"a":[1]},{}]', 3),
        ('["[[[", "\\"[[", "\\\\", {}]', 2),
        ('{"é[": ["名{", "\ud800["]}', 2),
        ("é[\ud800{", 2),  # no JSON, but nothing may break at it
    ],
)
def test_how_deep_a_text_is_nested(text: str, depth: int) -> None:
    wide = "[]" * 9 + text  # so that its brackets alone do not tell
    assert not jsontext.deeper_than(wide, max(depth, 1))
    assert depth == 0 or jsontext.deeper_than(wide, depth - 1)


def test_absurd_texts_end_in_a_status() -> None:
    for text in ("[" * 100_000, '{"a":' * 50_000, "1" * 10_000, '"' + "\\" * 9_999, "{}" * 1_000):
        assert status_of(jsontext.get, text, parse_path("a")) in (
            Status.DOCUMENT_NOT_JSON, Status.DOCUMENT_TOO_DEEP, Status.PATH_MISMATCH)  # fmt: skip
        assert not jsontext.is_json(text) or text.isdigit()


def test_the_checksum() -> None:
    """The check value of CRC-32C, as every catalogue of checksums has it."""
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(b"") == 0
