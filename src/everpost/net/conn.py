"""A client's connection: reading with limits, and a last look before every write (architecture 3.8).

What a host computed while it held its tenure must not leave it after it lost it, and not after it was frozen and
resumed in a later tenure either. So each piece of work begins with a `Permit`, and every write checks it again. A
tenure that only lapsed (its renewals were late, nobody took it) comes back under the same epoch: until then a write
waits, and nothing is written.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Protocol

from everpost.net.guard import GuardedSocket

SLICE = 256 * 1024
"""Bytes handed over at a time, so that little waits in the process for a slow client."""
HOLD_LIMIT = 30.0
"""Seconds a write waits for a lapsed tenure to come back; clients bear that, and see no error."""
HOLD_STEP = 0.05
STALL_LIMIT = 1800.0
"""Seconds a client may leave a slice unread (RFC 3501 5.4 allows half an hour)."""


class NotServing(ConnectionError):
    """This host does not hold the tenure under which the answer was computed: nothing was written."""


class Serving(Protocol):
    """The host's tenure (`directory.authority.RoleAuthority`)."""

    def serving(self) -> bool:
        """Whether it holds it now."""

    def tenure_epoch(self) -> int:
        """Which one it is."""

    async def cover(self) -> bool:
        """Whether what was computed before this call may be shown (3.8, `strict_reads`)."""


class Permit:
    """The tenure under which an answer is computed."""

    def __init__(self, authority: Serving) -> None:
        self._authority = authority
        self._epoch = authority.tenure_epoch()

    def valid(self) -> bool:
        """Whether that very tenure still holds. The epoch is looked at last: it is published before its deadline."""
        return self._authority.serving() and not self.over()

    def over(self) -> bool:
        """Whether another tenure began: this one never holds again."""
        return self._authority.tenure_epoch() != self._epoch


class Connection:
    """Streams of one client with guarded writes. Everything it sends goes through `before_write`."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        authority: Serving,
        guard: GuardedSocket,
        *,
        encrypted: bool,
    ) -> None:
        self._reader = reader
        self._guard = guard
        self._writer = writer
        self._authority = authority
        self._read_on = False
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

    async def granted(self) -> Permit:
        """A permit that holds now, waited for at most HOLD_LIMIT: what is computed without one is for nobody. Raises
        NotServing."""
        loop = asyncio.get_running_loop()
        end = loop.time() + HOLD_LIMIT
        while not (permit := self.permit()).valid():
            if loop.time() >= end:
                raise NotServing("this host holds no tenure")
            await asyncio.sleep(HOLD_STEP)
        return permit

    async def read(self, limit: float | None) -> bytes:
        """The next bytes; b"" at the end. Raises TimeoutError after `limit` seconds (None: waits)."""
        if self._read_on:
            self._guard.acknowledge()
        self._read_on = True
        async with asyncio.timeout(limit):
            return await self._reader.read(65536)

    async def before_write(self, permit: Permit) -> None:
        """Returns when `permit` holds. Raises NotServing when it never will again, or not within HOLD_LIMIT."""
        if permit.valid():
            return
        loop = asyncio.get_running_loop()
        end = loop.time() + HOLD_LIMIT
        while not permit.valid():
            if permit.over() or loop.time() >= end:
                raise NotServing("the tenure under which this was computed is over")
            await asyncio.sleep(HOLD_STEP)

    async def write(self, data: bytes, permit: Permit) -> None:
        """Send when the tenure of `permit` holds; NotServing, and nothing more is sent, if it is over. The guarded
        socket looks once more before each system call, also for what waits for a slow client. Returns when the client
        has taken nearly all of it; raises TimeoutError if it takes nothing for STALL_LIMIT."""
        self._read_on = False
        if not await self._authority.cover():
            raise NotServing("no renewal covers the answer")
        for start in range(0, len(data), SLICE):
            await self.before_write(permit)
            self._guard.permit = permit
            self._writer.write(data if len(data) <= SLICE else data[start : start + SLICE])
            async with asyncio.timeout(STALL_LIMIT):
                await self._writer.drain()

    async def start_tls(self, context: ssl.SSLContext) -> None:
        """Upgrade after STARTTLS. Bytes that came in plain text behind it would count as said under TLS (command
        injection): raises ConnectionError. What a caller has read already it must drop itself."""
        if self._reader._buffer:  # type: ignore[attr-defined]  # streams have no public way to ask
            raise ConnectionResetError("plain text behind STARTTLS")
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
