"""Log-ins at this server itself, for balancers that ask by HTTPS whether a protocol works here (docs/balancers.md)."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable

from everpost.directory.schema import OrganizationView
from everpost.log import fact
from everpost.model.server import Role
from everpost.net import login

log = logging.getLogger(__name__)

EVERY = 5.0
LIMIT = 4.0
FALL = 2
"""Failures in a row until a protocol is said not to work. A log-in that stalls is none: while a database moves they
stall on every server, and a balancer that believed it would take out all of them."""
_LOGINS = {"imap": ("imaps", login.imap), "smtp": ("submission", login.submission)}
SAME = {"imap": "imap", "imaps": "imap", "smtp": "smtp", "submission": "smtp"}
"""Which log-in speaks for a protocol."""


class SelfCheck:
    """`me`: this server; `serving`: whether it holds its tenure."""

    def __init__(self, organization: OrganizationView, me: str, serving: Callable[[], bool]) -> None:
        self._organization = organization
        self._me = me
        self._serving = serving
        self._tls = login.context()
        self._failures = dict.fromkeys(_LOGINS, 0)
        self._why = dict.fromkeys(_LOGINS, "")

    def trouble(self, protocol: str) -> str | None:
        """Why clients of a protocol should not come here, "" if they may; None if it is not served here."""
        server = self._organization.servers.get(self._me)
        if protocol not in ("https", *SAME) or server is None:
            return None
        if SAME.get(protocol) == "smtp" and Role.HUB_TRANSPORT not in server.roles:
            return None
        if not self._serving():
            return "no tenure"
        if self._me in self._organization.maintenance:
            return "in maintenance"
        name = SAME.get(protocol, "")
        return self._why[name] if self._failures.get(name, 0) >= FALL else ""

    def heard(self, name: str, result: login.Result) -> None:
        """The result of a log-in."""
        before = self._failures[name]
        if result.outcome is login.Outcome.OK:
            self._failures[name] = 0
            if before >= FALL:
                fact(log, "log-ins work again", protocol=name)
        elif result.outcome is login.Outcome.FAILED:
            self._failures[name] += 1
            self._why[name] = f"log-in failed: {result.why}"
            if before + 1 == FALL:
                fact(log, "log-ins fail", level=logging.WARNING, protocol=name, why=result.why)

    async def run(self) -> None:
        """Until cancelled."""
        for number in itertools.count():
            await asyncio.sleep(EVERY)
            server = self._organization.servers.get(self._me)
            mailboxes = sorted(self._organization.health_mailboxes.items())
            if server is None or not mailboxes:
                continue
            _, one = mailboxes[number % len(mailboxes)]
            account = login.Account(one.user, one.password)
            for name, (port, attempt) in _LOGINS.items():
                if name == "smtp" and Role.HUB_TRANSPORT not in server.roles:
                    continue
                result = await attempt(server.address, getattr(server.ports, port), self._tls, account, LIMIT)
                self.heard(name, result)
