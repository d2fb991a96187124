"""Telling the application: the log, and its callback.

Must not be in here: what there is to tell.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from casops.client.notices import Notice

log = logging.getLogger("casops.client")
LEVELS = {"suspect": logging.WARNING, "contradiction": logging.CRITICAL}


def tell(notice: Notice, on_notice: Callable[[Notice], None] | None) -> None:
    where = f" [operation {notice.operation_id}]" if notice.operation_id else ""
    log.log(LEVELS.get(notice.kind, logging.INFO), "%s: %s: %s%s", notice.server, notice.kind, notice.text, where)
    if on_notice is not None:
        try:
            on_notice(notice)
        except KeyboardInterrupt:
            raise
        except BaseException:  # an application's fault must not cost an answer, nor sys.exit() the client's thread
            log.exception("on_notice raised")
