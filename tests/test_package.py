"""The public face: exports, errors, options, ids, and what files may import."""

from __future__ import annotations

import ast
import inspect
import pickle
import subprocess
import sys
import time
from pathlib import Path

import pytest

import casops
from casops import CasOpsError, Declined, Options, Ref, UsageError, errors, local, new_operation_id
from casops.ids import time_of
from tests.bank import Account

PACKAGE = Path(casops.__file__).parent


def test_exports_are_these() -> None:
    assert casops.__all__ == sorted(casops.__all__)
    assert all(hasattr(casops, name) for name in casops.__all__)
    assert set(errors.__all__) <= set(casops.__all__)


@pytest.mark.parametrize(
    ("package", "missing", "told"),
    [
        ("client", "httpx", "pip install 'casops[client]'"),
        ("service", "fastapi", "pip install 'casops[service]'"),
        ("client", "httpx._client", ""),  # a fault of something else is told as it is
    ],
)
def test_a_package_that_needs_more_says_what(package: str, missing: str, told: str) -> None:
    code = f"""
import sys
sys.modules[{missing!r}] = None
try:
    import casops.{package}
except ModuleNotFoundError as error:
    print(error.name, error)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout.startswith(missing)
    assert ("pip install" in ran.stdout) == (told != "")
    assert told in ran.stdout


def all_errors() -> list[type[CasOpsError]]:
    return [each for each in vars(errors).values() if inspect.isclass(each) and issubclass(each, CasOpsError)]


@pytest.mark.parametrize("cls", all_errors(), ids=lambda cls: cls.__name__)
def test_every_error_survives_pickling_with_all_it_carries(cls: type[CasOpsError]) -> None:
    error = cls("what happened")
    error.operation_id = "order-1"
    error.add_note("a note")
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is cls
    assert str(back) == str(error)
    assert (back.operation_id, back.happened, back.retry) == ("order-1", cls.happened, cls.retry)
    assert back.__notes__ == ["a note"]


def test_a_refusal_survives_with_its_details() -> None:
    refusal = Declined("no", left=0)
    refusal.operation_id = "i"
    back = pickle.loads(pickle.dumps(refusal))
    assert (back.code, back.details) == ("no", {"left": 0})
    assert str(back) == "declined: no (left=0) [operation i]"


def test_the_tree_in_the_docstring_and_the_table_in_the_readme_name_every_error() -> None:
    readme = (PACKAGE.parent / "README.md").read_text()
    for name in errors.__all__:
        assert name in (errors.__doc__ or "")
        assert f"`{name}`" in readme


def test_options_refuse_what_cannot_be() -> None:
    for wrong in (
        {"patience": -1},
        {"retention": float("nan")},
        {"deadline": float("inf")},
        {"attempts": 0},
        {"deadline": 0},
        {"settle_together": 0},
        {"retention": 100, "deadline": 11},
    ):
        with pytest.raises(UsageError):
            Options(**wrong)
    Options(retention=0, patience=0, poll=0, grace=0, skew=0, park_after=0, settle_queue=0)


def test_every_option_is_explained() -> None:
    source = inspect.getsource(Options)
    tree = ast.parse(source).body[0]
    assert isinstance(tree, ast.ClassDef)
    for here, after in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(here, ast.AnnAssign):
            assert isinstance(after, ast.Expr)
            assert "ero" in ast.unparse(after)  # "Zero: …", "zero: …"


def test_new_ids_are_uuid7_of_now() -> None:
    ids = [new_operation_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    made = time_of(ids[0])
    assert made is not None
    assert abs(made - time.time()) < 60
    assert ids[0][14] == "7"
    assert ids[0][19] in "89ab"


@pytest.mark.parametrize("text", ["", "order-1", "x" * 36, "01890a5dac96774bbcceb302099a8057"])
def test_other_ids_carry_no_time(text: str) -> None:
    assert time_of(text) is None


def test_references() -> None:
    ref = Account.ref("alice")
    assert ref == Ref(Account, "alice") == pickle.loads(pickle.dumps(ref))
    assert hash(ref) == hash(Ref(Account, "alice"))
    assert repr(ref) == "Ref(Account, 'alice')"
    with pytest.raises(AttributeError):
        ref.id = "bob"
    with pytest.raises(UsageError):
        Account.ref("")


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("path", sorted((PACKAGE / "protocol").glob("*.py")), ids=lambda path: path.name)
def test_the_protocol_does_no_io_and_reads_no_clock(path: Path) -> None:
    allowed = {"__future__", "collections.abc", "dataclasses", "math", "typing", "enum"}
    outside = {name for name in imports(path) if not name.startswith("casops") and name not in allowed}
    assert outside == set()
    inside = {name for name in imports(path) if name.startswith("casops")}
    # ids is asked only for the time an id carries
    assert all(
        name.startswith("casops.protocol")
        or name in {f"casops.{each}" for each in ("messages", "records", "errors", "options", "ids", "values")}
        for name in inside
    )


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_file_says_what_it_is_for_and_what_must_not_be_in_it(path: Path) -> None:
    if path.name == "__init__.py" and path.parent in (PACKAGE, PACKAGE / "testing"):
        return
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    assert "Must not be in" in text
    assert path.read_text().count("\n") <= 500


@pytest.mark.parametrize(("platform", "name"), [("linux", "CLOCK_BOOTTIME"), ("darwin", "CLOCK_MONOTONIC")])
def test_the_clock_of_a_call_goes_on_while_the_machine_sleeps(
    platform: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, name, 7, raising=False)
    monkeypatch.setattr(time, "clock_gettime", lambda which: 42.0 if which == 7 else 0.0)
    assert local._clock(platform)() == 42.0
    assert local._clock("elsewhere") is time.monotonic
