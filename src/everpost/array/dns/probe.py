"""Whether clients of a server would be served: greetings of its mail services, as its listeners give them."""

from __future__ import annotations

import asyncio
import contextlib

from everpost.clock import Clock
from everpost.model.server import Role, Server

EVERY, EVERY_IN_DOUBT = 0.5, 0.2
LIMIT = 1.0
"""Seconds for one connection and its greeting."""
FALL = 2
"""Failures in a row until a server counts as dead, as with HAProxy's checks."""
_CHECKS = (
    ("imap", Role.CLIENT_ACCESS, b"* OK", b"z LOGOUT\r\n"),
    ("smtp", Role.HUB_TRANSPORT, b"220", b"QUIT\r\n"),
)
"""Port, role, greeting, goodbye. A server that does not hold its tenure gives no greeting."""


class Probe:
    """Looks at one server again and again. `dead`: None before anything is known, "" for a server that is well."""

    def __init__(self, server: Server, clock: Clock) -> None:
        self.server = server
        self._clock = clock
        self._failures = 0
        self.dead: str | None = None

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            well = await self.once()
            await self._clock.sleep(EVERY if well or self._failures >= FALL else EVERY_IN_DOUBT)

    async def once(self) -> bool:
        """One look; whether all services greeted."""
        error = await self._look()
        if not error:
            self._failures, self.dead = 0, ""
            return True
        self._failures += 1
        if self._failures >= FALL:
            self.dead = error
        return False

    async def _look(self) -> str:
        asked = [
            greets(self.server.address, getattr(self.server.ports, port), greeting, goodbye, port.upper())
            for port, role, greeting, goodbye in _CHECKS
            if role in self.server.roles
        ]
        return next((error for error in await asyncio.gather(*asked) if error), "")


async def greets(address: str, port: int, greeting: bytes, goodbye: bytes, what: str) -> str:
    """Why the service does not greet, or ""."""
    writer = None
    try:
        async with asyncio.timeout(LIMIT):
            reader, writer = await asyncio.open_connection(address, port)
            line = await reader.readline()
            writer.write(goodbye)
            await writer.drain()
        return "" if line.startswith(greeting) else f"{what} gives no greeting"
    except TimeoutError:
        return f"{what} does not answer"
    except OSError as error:
        return f"{what} cannot be reached: {error.strerror or error}"
    finally:
        if writer is not None:
            writer.close()
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(0.2):
                    await writer.wait_closed()
