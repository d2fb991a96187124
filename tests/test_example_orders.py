"""The example's CSV files: what is a payment, what is a problem, and in which line."""

from __future__ import annotations

import io
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from examples.balance_transfer.make_sample import write_sample
from examples.balance_transfer.orders import (
    BadFile,
    Orders,
    Payment,
    _rows,
    parse_amount,
    parse_orders,
    read_orders,
    shown,
)

SAMPLE = Path(__file__).parents[1] / "examples" / "balance_transfer" / "sample.csv"
HEADER = b"payment_id,source,target,amount\n"


def orders(*lines: bytes) -> Orders:
    return parse_orders(HEADER + b"\n".join(lines) + b"\n")


def ids(parsed: Orders) -> list[str]:
    return [payment.payment_id for payment in parsed.payments]


def problems(parsed: Orders) -> dict[int, str]:
    return {problem.line: problem.why for problem in parsed.problems}


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("5", "5.00"),
        ("5.2", "5.20"),
        ("5.25", "5.25"),
        (".50", "0.50"),
        (".5", "0.50"),
        ("0.01", "0.01"),
        ("007.50", "7.50"),
        ("999999999999.99", "999999999999.99"),
    ],
)
def test_amounts_are_decimals_to_the_cent(text: str, amount: str) -> None:
    parsed = parse_amount(text)
    assert isinstance(parsed, Decimal)
    assert str(parsed) == amount


@pytest.mark.parametrize(
    "text",
    [
        *("", ".", "5.", "5.123", "-5", "+5", "1e3", "1E3", "nan", "NaN", "inf", "Infinity", "1_000", "1,000"),
        *(" 5", "5 ", "5 0", "5\n", "0x10", "٥", "５", "½", "5.٥", "5,50", "$5", "1000000000000", "9" * 5000, "5\x00"),
    ],
)
def test_what_is_no_amount(text: str) -> None:
    with pytest.raises(ValueError, match="an amount") as raised:
        parse_amount(text)
    assert len(str(raised.value)) < 150


def test_rows_become_payments() -> None:
    parsed = orders(b"p1,alice,bob,12.50", b"p2,bob,carol,.5")
    assert parsed.payments == (
        Payment("p1", "alice", "bob", Decimal("12.50"), 2),
        Payment("p2", "bob", "carol", Decimal("0.50"), 3),
    )
    assert [payment.line for payment in parsed.payments] == [2, 3]
    assert (parsed.problems, parsed.repeated) == ((), 0)
    assert parsed.payers == ["alice", "bob"]
    assert parsed.accounts == ["alice", "bob", "carol"]


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbf" + HEADER + b"p1,a,b,1\n",
        HEADER + b"p1,a,b,1",
        HEADER.replace(b"\n", b"\r\n") + b"p1,a,b,1\r\n",
        HEADER + b"\n\np1,a,b,1\n\n\r\n",
        HEADER + b'"p1","a","b","1"\n',
    ],
    ids=["byte order mark", "no last line end", "windows", "blank lines", "quoted"],
)
def test_ways_to_write_the_same(data: bytes) -> None:
    parsed = parse_orders(data)
    assert parsed.payments == (Payment("p1", "a", "b", Decimal("1.00"), 2),)
    assert parsed.problems == ()


def test_quoted_fields_may_hold_commas_and_other_alphabets() -> None:
    parsed = orders('p1,"Müller, Jan",Żółć,1'.encode())
    assert (parsed.payments[0].source, parsed.payments[0].target) == ("Müller, Jan", "Żółć")


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", "it is empty"),
        (b"p1,a,b,1\n", "it is 'p1,a,b,1'"),
        (b"payment_id;source;target;amount\n", "payment_id;source"),
        (b"payment_id,source,target\n", "payment_id,source,target'"),
        (b"payment_id,source,target,amount,note\n", "amount,"),
        (b"source,payment_id,target,amount\n", "source,payment_id"),
        (b"payment_id,source,target,amount\n".decode().encode("utf-16"), r"\x00"),
        (b"\x1b[2J\n", r"\x1b"),
    ],
)
def test_without_its_header_a_file_is_refused_as_a_whole(data: bytes, found: str) -> None:
    with pytest.raises(BadFile, match="the first line must be payment_id,source,target,amount") as raised:
        parse_orders(data)
    assert found in str(raised.value)
    assert str(raised.value).isprintable()


def test_a_file_that_does_not_fit_in_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("examples.balance_transfer.orders.MAX_FILE_BYTES", 1 << 20)
    with pytest.raises(BadFile, match="more than 1 MiB; make several"):
        read_orders(Path("/dev/zero"))


def test_a_file_without_rows() -> None:
    assert parse_orders(HEADER) == Orders((), (), 0)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (b"p2,a,b", "4 fields are needed"),
        (b"p2,a,b,1,note", "here are 5"),
        (b"p2", "here are 1"),
        (b",a,b,1", "payment_id is empty"),
        (b"p2,,b,1", "source is empty"),
        (b"p2,a,,1", "target is empty"),
        (b"p2,a,b,", "amount is empty"),
        (b"p2,a,b,0", "more than zero"),
        (b"p2,a,b,0.00", "more than zero"),
        (b"p2,a,b,-1", "an amount looks like"),
        (b"p2,a,b, 1", "begins or ends with a space"),
        (b" p2,a,b,1", "payment_id begins or ends with a space"),
        (b"p2,a\xc2\xa0,b,1", "source begins or ends with a space"),
        (b"p\x002,a,b,1", "a character that does not belong there"),
        (b"p\x1b[2J,a,b,1", "a character that does not belong there"),
        (b"p\xe2\x80\xa8,a,b,1", "payment_id begins or ends with a space"),
        (b"p\xe2\x80\xa82,a,b,1", "a character that does not belong there"),
        (b"p" * 151 + b",a,b,1", "more than 150 bytes"),
        (b"p2," + "ž".encode() * 76 + b",b,1", "source has more than 150 bytes"),
        (b"open-a,a,b,1", "must not begin with 'open-'"),
        (b"p2,a,b,1" + b" " * 20_000, "more than 10000 bytes"),
        (b"p2,\xff,b,1", "not UTF-8: byte 0xff at position 4"),
        (b"p2,caf\xe9,b,1", "not UTF-8: byte 0xe9 at position 7"),
        (b"p2,\xed\xa0\x80,b,1", "not UTF-8"),
        (b"p2,a\rb,c,1", "not CSV"),
        (b'p2,"a"x,b,1', "not CSV"),
        (b'p"2,a,b,1', "a character that does not belong there"),
        (b'p2,"a,b,1', "a quotation mark is opened and not closed"),
    ],
)
def test_a_bad_row_is_reported_by_its_line_and_the_others_go_on(row: bytes, why: str) -> None:
    parsed = orders(b"p1,a,b,1", row, b"p3,a,b,1")
    assert ids(parsed) == ["p1", "p3"]
    assert list(problems(parsed)) == [3]
    assert why in problems(parsed)[3]
    assert problems(parsed)[3].isprintable()
    assert len(problems(parsed)[3]) < 200


def test_the_same_row_twice_is_a_repetition_and_no_problem() -> None:
    parsed = orders(b"p1,a,b,1.5", b"p1,a,b,1.50", b'"p1",a,b,01.50')
    assert ids(parsed) == ["p1"]
    assert (parsed.repeated, parsed.problems) == (2, ())


@pytest.mark.parametrize("row", [b"p1,a,b,2", b"p1,a,c,1", b"p1,c,b,1"])
def test_the_same_id_with_other_content_is_a_problem_and_the_first_counts(row: bytes) -> None:
    parsed = orders(b"p1,a,b,1", row)
    assert parsed.payments == (Payment("p1", "a", "b", Decimal("1.00"), 2),)
    assert problems(parsed) == {3: "payment p1 says something else here than in line 2, which counts"}


def test_what_looks_like_a_payment_inside_of_a_quoted_field_is_none() -> None:
    parsed = orders(b'p1,"a', b"p2,a,b,100", b'",b,1', b"p3,a,b,1")
    assert ids(parsed) == ["p3"]
    assert problems(parsed) == {
        2: "a quotation mark is opened and not closed in this line (line 4 closes it, and what is between is no row)"
    }


def test_the_rest_of_a_torn_field_is_no_payment_either() -> None:
    parsed = orders(b'"p', b'1",a,b,1', b"p3,a,b,1")
    assert ids(parsed) == ["p3"]
    assert list(problems(parsed)) == [2]


def test_a_stray_quotation_mark_does_not_swallow_the_rest_of_the_file() -> None:
    parsed = orders(b'p1,"a,b,1', b"p2,a,b,1", b'p3,"a",b,1')
    assert ids(parsed) == ["p2", "p3"]
    assert list(problems(parsed)) == [2]


def test_stray_quotation_marks_are_looked_for_in_the_lines_that_follow_only() -> None:
    looked_at = 0

    class Lines(list[bytes]):
        def __iter__(self) -> Iterator[bytes]:
            nonlocal looked_at
            for each in super().__iter__():
                looked_at += 1
                yield each

    found = list(_rows(Lines([b'a,"b'] * 1000)))
    assert (len(found), looked_at) == (1000, 0)


def test_every_row_is_accounted_for() -> None:
    rows = [b"p1,a,b,1", b"p1,a,b,1", b"p1,a,b,2", b"", b"p4,a", b"\xff", b"p5,a,b,.01"]
    parsed = orders(*rows)
    assert len(parsed.payments) + len(parsed.problems) + parsed.repeated == len([row for row in rows if row])


def test_what_is_shown_of_a_file_is_short_and_harmless() -> None:
    assert shown("\x1b]0;x\x07\u202e") == r"'\x1b]0;x\x07\u202e'"
    assert len(shown("x" * 1000)) < 50


def test_the_sample_is_what_its_maker_makes() -> None:
    out = io.StringIO()
    write_sample(out)
    data = SAMPLE.read_bytes()
    assert data == out.getvalue().encode()
    parsed = parse_orders(data)
    assert (len(parsed.payments), len(parsed.problems), parsed.repeated) == (400, 0, 0)
    assert len(parsed.accounts) == 60
