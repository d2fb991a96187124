"""The one error that only callers over the network meet.

Must not be in here: the errors of a local call (casops.errors), which the client raises as well.
"""

from __future__ import annotations

from casops.errors import CasOpsError


class BusinessError(CasOpsError):
    """Business code raised something unexpected at the server, which does not tell strangers what.

    Nothing is recorded as done: the operation is pending, and a sweep may bring it to its end yet.  Asking again with
    the same id is safe.  The operator finds the exception in the server's log and list of pending operations.
    """

    happened = None
    retry = True
