"""The code of docs/couchbase.md runs as it is written, but for the address.

Must not be in here: anything else.
"""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from casops.testing.couchbase_server import CouchbaseServer
from tests.test_readme import BLOCK, ROOT


def blocks(page: str) -> list[str]:
    return BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))


def test_the_code_of_the_page_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("page")  # pydantic looks up the module of a generic model
    monkeypatch.setitem(sys.modules, "page", module)
    classes = blocks("README.md")[0].partition("with CasOps.open")[0]
    exec(compile(f"{classes}\nimport asyncio\nfrom casops import AsyncCasOps", "README.md", "exec"), module.__dict__)
    with CouchbaseServer(user="user", password="password", bucket="bank") as server:
        hosts = server.connection_string.removeprefix("couchbase://")
        for block in blocks("docs/couchbase.md"):
            assert "db1,db2" in block
            code = compile(block.replace("db1,db2", hosts), "docs/couchbase.md", "exec", dont_inherit=True)
            exec(code, module.__dict__)
