"""Payment orders from a CSV file: every row is a payment, a repetition of one, or a problem with its line number.

The file is UTF-8 (a byte order mark is allowed); its first line is `payment_id,source,target,amount`.  A row
that is wrong is reported and the others go on.  In doubt a row is a problem and never a payment.

Must not be in here: casops, and deciding whether a payment can be made.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

COLUMNS = ("payment_id", "source", "target", "amount")
# Account ids get `open-` before them and must still fit an operation id of casops (200 bytes).
MAX_ID_BYTES = 150
# The ids that this program gives to the opening of accounts (model.opening_id).
RESERVED = "open-"
# Digits before the point.  More is a mistake, and sums of these stay exact in 28 digits.
MAX_WHOLE_DIGITS = 12
# A line longer than this is no payment; parsing it would only cost memory.
MAX_LINE_BYTES = 10_000
# All of it is kept in memory, some ten times as large.  Whoever has more payments has more files.
MAX_FILE_BYTES = 256 * 1024 * 1024

_AMOUNT = re.compile(r"[0-9]*(?:\.[0-9]{1,2})?")


class BadFile(Exception):
    """The file as a whole cannot be payment orders; the message is for people."""


@dataclass(frozen=True, slots=True)
class Payment:
    payment_id: str
    source: str
    target: str
    amount: Decimal
    line: int = field(compare=False)  # two rows that differ in nothing else say the same


@dataclass(frozen=True, slots=True)
class Problem:
    line: int
    why: str


@dataclass(frozen=True, slots=True)
class Orders:
    payments: tuple[Payment, ...]
    problems: tuple[Problem, ...]
    repeated: int
    """Rows that say once more what an earlier row said; they are no problem."""

    @property
    def payers(self) -> list[str]:
        return list(dict.fromkeys(payment.source for payment in self.payments))

    @property
    def accounts(self) -> list[str]:
        return list(dict.fromkeys(name for payment in self.payments for name in (payment.source, payment.target)))


def read_orders(path: Path) -> Orders:
    """Raises BadFile if it is too large or has no proper header, OSError if it cannot be read."""
    with path.open("rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise BadFile(f"it has more than {MAX_FILE_BYTES >> 20} MiB; make several of it, each with the first line")
    return parse_orders(data)


def parse_orders(data: bytes) -> Orders:
    """Raises BadFile if there is no proper header."""
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    _check_header(lines[0])
    payments: dict[str, Payment] = {}
    problems: list[Problem] = []
    repeated = 0
    for number, row in _rows(lines[1:]):
        if isinstance(row, Problem):
            problems.append(row)
            continue
        try:
            payment = _payment(number, row)
        except ValueError as error:
            problems.append(Problem(number, str(error)))
            continue
        first = payments.setdefault(payment.payment_id, payment)
        if first is payment:
            continue
        if first == payment:
            repeated += 1
        else:
            why = f"payment {payment.payment_id} says something else here than in line {first.line}, which counts"
            problems.append(Problem(number, why))
    return Orders(tuple(payments.values()), tuple(problems), repeated)


def parse_amount(text: str) -> Decimal:
    """Digits, and at most two more after a point: "5", "5.2", ".50".  Raises ValueError."""
    # float() and Decimal() take 1e3, nan, 1_000, ' 5 ' and digits of other scripts; money does not.
    if not _AMOUNT.fullmatch(text) or not text:
        raise ValueError(f"an amount looks like 12.50, not {shown(text)}")
    if len(text.partition(".")[0]) > MAX_WHOLE_DIGITS:
        raise ValueError(f"an amount has at most {MAX_WHOLE_DIGITS} digits before the point, not {shown(text)}")
    return Decimal(text).quantize(Decimal("0.01"))


def shown(text: str) -> str:
    """Text of a file as it may be printed: short, and nothing a terminal would obey."""
    return repr(text if len(text) <= 40 else text[:40] + "...")


def _check_header(line: bytes) -> None:
    text = line.decode("utf-8", errors="replace").rstrip("\r")
    if text.split(",") != list(COLUMNS):
        found = f"it is {shown(text)}" if text else "it is empty"
        raise BadFile(f"the first line must be {','.join(COLUMNS)} (in UTF-8); {found}")


def _rows(lines: list[bytes]) -> Iterator[tuple[int, list[str] | Problem]]:
    """Each row's line number, with its fields or with what is wrong.  Blank lines are left out."""
    index = 0
    while index < len(lines):
        number, row, used = index + 2, _fields(lines[index]), 1
        if row is None:
            used = _quoted_lines(lines, index)
            where = f" (line {number + used - 1} closes it, and what is between is no row)" if used > 1 else ""
            row = f"a quotation mark is opened and not closed in this line{where}"
        if isinstance(row, str):
            yield number, Problem(number, row)
        elif row:
            yield number, row
        index += used


def _fields(line: bytes) -> list[str] | str | None:
    """The fields of one row, or what is wrong with it, or None if a quotation mark is left open."""
    if len(line) > MAX_LINE_BYTES:
        return f"the line has more than {MAX_LINE_BYTES} bytes"
    try:
        text = line.removesuffix(b"\r").decode()
    except UnicodeDecodeError as error:
        return f"not UTF-8: byte 0x{line[error.start]:02x} at position {error.start + 1}"
    try:
        # Strict: or else a quotation mark that is never closed would pass without a word.
        rows = list(csv.reader([text], strict=True))
    except csv.Error as error:
        return None if "unexpected end of data" in str(error) else f"not CSV: {error}"
    return rows[0] if rows else []


def _quoted_lines(lines: list[bytes], start: int) -> int:
    """How many lines a quoted field spans that line `start` opens; 1 if nothing closes it properly.

    What looks like a payment inside of such a field is none.
    """
    taken = 0

    def texts() -> Iterator[str]:
        nonlocal taken
        for index in range(start, len(lines)):  # islice would count up to the start each time
            taken += 1
            yield lines[index].decode(errors="replace") + "\n"

    try:
        next(csv.reader(texts(), strict=True))
    except csv.Error:
        return 1
    return taken


def _payment(line: int, row: list[str]) -> Payment:
    if len(row) != len(COLUMNS):
        raise ValueError(f"{len(COLUMNS)} fields are needed ({', '.join(COLUMNS)}), here are {len(row)}")
    payment_id, source, target, amount = row
    for name, value in zip(COLUMNS, row, strict=True):
        _check_id(name, value)
    if payment_id.startswith(RESERVED):
        raise ValueError(f"a payment_id must not begin with {RESERVED!r}, which is for opening accounts")
    parsed = parse_amount(amount)
    if not parsed:
        raise ValueError("an amount must be more than zero")
    return Payment(payment_id, source, target, parsed, line)


def _check_id(name: str, value: str) -> None:
    if not value:
        raise ValueError(f"{name} is empty")
    if value != value.strip():
        raise ValueError(f"{name} begins or ends with a space: {shown(value)}")
    # Quotation marks: what is left of a field that the line break of another program has torn.
    if not value.isprintable() or '"' in value:
        raise ValueError(f"{name} has a character that does not belong there: {shown(value)}")
    if len(value.encode()) > MAX_ID_BYTES:
        raise ValueError(f"{name} has more than {MAX_ID_BYTES} bytes: {shown(value)}")
