"""A client's connection: reading with limits, and a last look before every write (architecture 3.8).

What a host computed while it held its tenure must not leave it after it lost it, and not after it was frozen and
resumed in a later tenure either. So each piece of work begins with a `Permit`, and every write checks it again.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Protocol


class NotServing(ConnectionError):
    """This host does not hold the tenure under which the answer was computed: nothing was written."""


class Serving(Protocol):
    """The host's tenure (`directory.authority.RoleAuthority`)."""

    def serving(self) -> bool:
        """Whether it holds it now."""

    def tenure_epoch(self) -> int:
        """Which one it is."""


class Permit:
    """The tenure under which an answer is computed."""

    def __init__(self, authority: Serving) -> None:
        self._authority = authority
        self._epoch = authority.tenure_epoch()

    def valid(self) -> bool:
        """Whether that very tenure still holds."""
        return self._authority.tenure_epoch() == self._epoch and self._authority.serving()


class Connection:
    """Streams of one client with guarded writes."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, authority: Serving, *, encrypted: bool
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._authority = authority
        self.encrypted = encrypted
        peer = writer.get_extra_info("peername")
        self.peer: str = str(peer[0]) if peer else "unknown"

    @property
    def local(self) -> bool:
        """Whether the client is on this very host."""
        return self.peer.startswith("127.") or self.peer == "::1"

    def permit(self) -> Permit:
        """To be taken before an answer is computed."""
        return Permit(self._authority)

    async def read(self, limit: float) -> bytes:
        """The next bytes; b"" at the end. Raises TimeoutError after `limit` seconds."""
        async with asyncio.timeout(limit):
            return await self._reader.read(65536)

    async def write(self, data: bytes, permit: Permit) -> None:
        """Send, if the tenure of `permit` still holds; otherwise NotServing, and nothing is sent. A whole host that
        was frozen resumes exactly here: the check is the last thing before the socket."""
        if not permit.valid():
            raise NotServing("the tenure under which this was computed is over")
        self._writer.write(data)
        await self._writer.drain()

    async def start_tls(self, context: ssl.SSLContext) -> None:
        """Upgrade after STARTTLS."""
        await self._writer.start_tls(context)
        self.encrypted = True

    def abort(self) -> None:
        """Close at once."""
        transport = self._writer.transport
        if transport is not None:
            transport.abort()

    async def close(self) -> None:
        """Close after what was written is sent."""
        self._writer.close()
