"""Log-ins at every server of an array, every few seconds, and what HAProxy is told of them.

HAProxy's own checks speak the greeting, twice a second: they notice a server that is dead. These notice one that greets
and serves nobody. HAProxy asks for the verdict by agent-check (its configuration manual, 5.2), on the loopback
interface.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from everpost.array import healthmailbox
from everpost.array.verdict import Verdicts
from everpost.clock import Clock
from everpost.directory.interface import Directory
from everpost.directory.schema import OrganizationView
from everpost.errors import EverpostError
from everpost.log import fact
from everpost.model.server import Role, Server
from everpost.net import login

log = logging.getLogger(__name__)

EVERY = 2.0
LIMIT = 5.0
"""Seconds for one log-in."""
ASKED = 1.0
_PROTOCOLS = (
    ("imap", Role.CLIENT_ACCESS, "imaps", login.imap),
    ("smtp", Role.HUB_TRANSPORT, "submission", login.submission),
)


@dataclass(frozen=True)
class Around:
    """What the checks of all arrays work with."""

    directory: Directory
    organization: OrganizationView
    clock: Clock


class LoginChecks:
    """The checks for one array on one server. `members`: its client access servers now."""

    def __init__(self, around: Around, members: Callable[[], Iterable[Server]]) -> None:
        self._a = around
        self._members = members
        self._tls = login.context()
        self._verdicts = {name: Verdicts() for name, *_ in _PROTOCOLS}
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        """Where HAProxy asks."""

    def down(self) -> dict[str, str]:
        """Why a service is taken out, by `protocol/server`."""
        return {
            f"{name}/{server}": why
            for name, verdicts in self._verdicts.items()
            for server, why in verdicts.down.items()
        }

    async def run(self) -> None:
        """Until cancelled. Whatever goes wrong in a round, the array goes on without it."""
        answering = await asyncio.start_server(self._answer, sock=self._socket)
        try:
            for number in itertools.count():
                began = self._a.clock.boottime()
                try:
                    await self._make_mailboxes()
                    await self._round(number)
                except Exception:  # a fault of a check must not cost the address
                    log.exception("log-in checks")
                await self._a.clock.sleep(max(0.1, began + EVERY - self._a.clock.boottime()))
        finally:
            answering.close()

    async def _make_mailboxes(self) -> None:
        for database in healthmailbox.missing(self._a.organization):
            try:
                if await healthmailbox.make(self._a.directory, self._a.organization, database):
                    fact(log, "health mailbox made", database=database)
            except EverpostError as error:  # the next round looks again
                log.debug("no health mailbox made: %s", error)

    async def _round(self, number: int) -> None:
        """One log-in at each server, all in the same database, each time in the next one."""
        mailboxes = healthmailbox.usable(self._a.organization)
        if not mailboxes:
            return
        one = mailboxes[number % len(mailboxes)]
        account = login.Account(one.user, one.password)
        members = list(self._members())
        for name, role, port, attempt in _PROTOCOLS:
            servers = [server for server in members if role in server.roles]
            tries = (attempt(it.address, getattr(it.ports, port), self._tls, account, LIMIT) for it in servers)
            results = await asyncio.gather(*tries)
            verdicts = self._verdicts[name]
            before = dict(verdicts.down)
            verdicts.heard({server.name: result for server, result in zip(servers, results, strict=True)})
            for server in sorted(verdicts.down.keys() - before.keys()):
                why = verdicts.down[server]
                fact(log, "taken out", level=logging.WARNING, server=server, protocol=name, why=why)
            for server in sorted(before.keys() - verdicts.down.keys()):
                fact(log, "put back", server=server, protocol=name)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """`imap/EX01` is asked, `up` or `down` answered."""
        with contextlib.suppress(OSError, TimeoutError, ValueError):
            async with asyncio.timeout(ASKED):
                asked = (await reader.readline()).decode("ascii", "replace").strip()
                writer.write(b"down\n" if asked in self.down() else b"up\n")
                await writer.drain()
        writer.close()
