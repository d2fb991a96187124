"""The client of the message tier: ask one of several servers, get one answer, whatever is lost (extra
`casops[client]`).

    with Client(["http://a:8000", "http://b:8000"]) as client:
        receipt = client.run(Transfer(source="alice", target="bob", amount=100), operation_id="order-29401")

It returns what the local call returns and raises the same errors (casops.errors), and BusinessError.

    asking.py      one call: the rules, as a generator without I/O and clock     timing.py    time-outs (RFC 6298)
    desk.py        what calls share; where replies come in                       servers.py   up, slow, suspect
    wire.py        what a reply means                                            budget.py    retries of all calls
    pending.py     the table; pending_file.py: the same on a disk                probing.py   suspect servers
    async_client.py, client.py   those who carry it out

Must not be in here: anything but names.
"""

from casops.client.async_client import AsyncClient, Left, Recovered
from casops.client.client import Client
from casops.client.errors import BusinessError
from casops.client.notices import Counters, Notice
from casops.client.options import ClientOptions
from casops.client.pending import Asked

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
