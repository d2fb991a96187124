"""Every Python block of the README runs, in order, in one namespace, in an empty folder."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from casops import CasOps

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


PAGES = ["README.md", *(str(each.relative_to(ROOT)) for each in (ROOT / "docs").glob("*.md"))]
# It goes on from the README's classes, and on a server: tests/test_docs_couchbase.py.
PAGES.remove("docs/couchbase.md")


def run(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / page).read_text()
    module = ModuleType("readme")  # pydantic looks up the module of a generic model
    monkeypatch.setitem(sys.modules, "readme", module)
    for match in BLOCK.finditer(text):
        line = text[: match.start()].count("\n") + 1
        # dont_inherit: this file's `annotations` must not hide what the README's code would do.
        code = compile("\n" * line + match[1], page, "exec", dont_inherit=True)
        exec(code, module.__dict__)
    for each in vars(module).values():
        if isinstance(each, CasOps):
            each.close()  # a page that shows a server cannot


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run(page, monkeypatch)


def test_the_readme_runs_again_where_it_has_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It forgot a payment that it makes, and made it once more, from an account that it had closed."""
    monkeypatch.chdir(tmp_path)
    run("README.md", monkeypatch)
    run("README.md", monkeypatch)


def test_the_readme_has_code() -> None:
    assert len(BLOCK.findall((ROOT / "README.md").read_text())) >= 4
