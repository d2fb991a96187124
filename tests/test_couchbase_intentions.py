"""Shards of intentions on Couchbase, without a server: which calls they make.

Must not be in here: what comes of the calls (tests/test_couchbase_store.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from casops.messages import INTENTIONS, Forget, Insert, Key, Remove, Replace, Unknown
from casops.stores.couchbase_calls import Calls
from casops.stores.couchbase_errors import Meaning, Trouble
from casops.stores.couchbase_intentions import Edit, EditRequest, Intentions
from casops.stores.couchbase_places import Settings, shard_of

KEY = Key(INTENTIONS, "op-1")
OTHER = next(
    Key(INTENTIONS, id) for id in (f"other-{each}" for each in range(1000)) if shard_of(id) == shard_of("op-1")
)


@pytest.mark.parametrize(
    "requests",
    [[Insert(KEY, "{}")], [Replace(KEY, 7, "{}")], [Remove(KEY, 7)], [Forget(KEY)], [Insert(KEY, "{}"), Forget(OTHER)]],
)
def test_a_write_whose_reply_is_lost_is_not_sent_again(requests: Sequence[EditRequest]) -> None:
    """It may have been done; sent again it would meet itself and seem to have lost, or undo what came after it."""
    intentions = Intentions(Settings(), Calls(Settings()))
    edits = [Edit(request) for request in requests]
    steps = intentions.carry_out(intentions.lane_of(requests[0]), edits)
    next(steps)
    with pytest.raises(StopIteration):
        steps.send(Trouble(Meaning.UNKNOWN, "timed out"))
    assert [edit.reply for edit in edits] == [Unknown("timed out")] * len(edits)


def test_all_versions_have_as_many_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that in a full shard what replaces a text of its own length has room."""
    digits: set[int] = set()
    for drawn in (0, 2**62 - 1):
        monkeypatch.setattr("secrets.randbits", lambda bits, drawn=drawn: drawn)
        edit = Edit(Insert(KEY, "{}"))
        assert 0 < edit.version < 2**63
        digits.add(len(str(edit.version)))
    assert len(digits) == 1
