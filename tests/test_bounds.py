"""Options: whatever is no number of its kind, or beyond its bounds, is refused when it is given."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from casops import Options, UsageError
from casops.client import ClientOptions
from casops.service import ServiceOptions

SECONDS = [
    *((Options, name, True) for name in ("retention", "patience", "poll", "grace", "skew")),
    (Options, "deadline", False),
    *((ServiceOptions, name, True) for name in ("answer_within", "forget_after", "sweep_every", "finish_within")),
    *((ClientOptions, name, True) for name in ("least_timeout", "pause", "retry_share", "retry_rate")),
    *((ClientOptions, name, False) for name in ("deadline", "first_timeout", "most_timeout", "life", "probe")),
    (ClientOptions, "probe_at_most", False),
]
COUNTS = [
    *((Options, name, 1) for name in ("attempts", "settle_together")),
    *((Options, name, 0) for name in ("park_after", "settle_queue")),
    *((ServiceOptions, name, 1) for name in ("threads", "in_flight", "requests", "body_bytes", "header_bytes")),
    *((ServiceOptions, name, 0) for name in ("acknowledged", "retry_after")),
    *((ClientOptions, name, 1) for name in ("retry_burst", "messages", "recovered_after", "table", "reply_bytes")),
    *((ClientOptions, name, n) for name, n in (("connections", 1), ("slow_share", 0))),
]


@pytest.mark.parametrize(("options", "name", "zero"), SECONDS)
def test_seconds_are_bounded(options: Any, name: str, zero: bool) -> None:
    for seconds in (1e308, float("inf"), float("nan"), -1, 51 * 365 * 86_400.0, "1", None, True):
        with pytest.raises(UsageError, match=rf"^option {name} must be a number from zero to [0-9]+, not .*$"):
            options(**{name: seconds})
    if not zero:
        with pytest.raises(UsageError, match=rf"^option {name} must be more than zero$"):
            options(**{name: 0})


@pytest.mark.parametrize(("options", "name", "least"), COUNTS)
def test_there_is_no_half_thread(options: Any, name: str, least: int) -> None:
    for number in (least - 1, 1.5, 1e6, float("nan"), "1", None, True):
        with pytest.raises(UsageError, match=rf"^option {name} must be a whole number and at least {least}, not .*$"):
            options(**{name: number})


@pytest.mark.parametrize("options", [Options, ServiceOptions, ClientOptions])
def test_no_option_is_forgotten(options: Any) -> None:
    bounded = [name for of, name, _ in (*SECONDS, *COUNTS) if of is options]
    assert sorted(bounded) == sorted(each.name for each in fields(options))
