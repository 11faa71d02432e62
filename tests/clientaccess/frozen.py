"""A server process for `test_freeze`: IMAP over a store in memory, under the tenure of a shared page.

    python -m tests.clientaccess.frozen PORT PAGE [careless]

`careless` leaves the look before each write out.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from everpost.clientaccess.imap import ImapServer
from everpost.clientaccess.session import Services
from everpost.clock import SystemClock
from everpost.directory.page import SharedPage
from everpost.model.recipient import MailboxRef
from everpost.net.conn import Permit
from everpost.net.listen import Listener

from .conftest import ANNA, Anyone, People
from .faulty import FaultyStore


class Tenure:
    """As `directory.authority.RoleAuthority` reads it."""

    def __init__(self, page: SharedPage) -> None:
        self._page = page

    def serving(self) -> bool:
        return self._page.serving()

    def tenure_epoch(self) -> int:
        return self._page.epoch

    async def cover(self) -> bool:
        return True


async def main() -> None:
    port, page = int(sys.argv[1]), SharedPage(Path(sys.argv[2]))
    if "careless" in sys.argv:
        Permit.valid = lambda self: True  # type: ignore[method-assign]
    store = FaultyStore(MailboxRef(ANNA.database, ANNA.guid))
    store.add("INBOX", *[b"Subject: %d\r\n\r\nx\r\n" % n for n in range(500)])
    server = ImapServer(Services(store, People(), Anyone(), SystemClock(), None))
    await Listener(server.handle, Tenure(page)).start("127.0.0.1", port)
    await asyncio.Event().wait()


asyncio.run(main())
