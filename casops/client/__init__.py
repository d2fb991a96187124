"""The client of the message tier: ask one of several servers, get one answer, whatever is lost (extra
`casops[client]`).

    with Client(["http://a:8000", "http://b:8000"]) as client:
        receipt = client.run(Transfer(source="alice", target="bob", amount=100), operation_id="order-29401")

It returns what the local call returns and raises the same errors (casops.errors), and BusinessError.

    asking.py      one call: the rules, as a generator     timing.py         time-outs (RFC 6298)
    desk.py        what calls share; replies come in here  servers.py        up, slow, suspect
    replies.py     what a reply means                      budget.py         retries of all calls
    pending.py     the table; pending_file.py: on a disk   acknowledging.py  ids nobody will ask for again
    aging.py       what is too old to be asked for again   pending_list.py   the disk, kept off the event loop
    probing.py     suspect servers                         looking.py        what became of an operation?
    recovering.py  after a restart                         translating.py    operations to texts, and back
    messages.py    all that is sent, and what comes of it  notices.py        what the application is told
    async_client.py, client.py, http.py                    those who carry it out

None of these but the last three does I/O or reads a clock; pending_file.py writes its file, and sees how long it takes.

Must not be in here: anything but names.
"""

try:
    import httpx as httpx
except ModuleNotFoundError as error:
    if error.name != "httpx":
        raise
    told = "the client needs more than casops itself: pip install 'casops[client]'"
    raise ModuleNotFoundError(told, name=error.name) from None

from casops.client.async_client import AsyncClient
from casops.client.client import Client
from casops.client.errors import BusinessError
from casops.client.notices import Counters, Notice
from casops.client.options import ClientOptions
from casops.client.pending import Asked
from casops.client.recovering import Left, Recovered

__all__ = [
    "Asked",
    "AsyncClient",
    "BusinessError",
    "Client",
    "ClientOptions",
    "Counters",
    "Left",
    "Notice",
    "Recovered",
]
