"""Mail to the administrator at each failover: taken from the journal, handed to a hub, tried again for a day.

Any PAM continues where a former one stopped, as the journal says which mails were handed over. A mail may come twice,
never not at all while a hub takes it.
"""

from __future__ import annotations

import asyncio
import logging
import smtplib
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from email.message import EmailMessage

import msgspec

from everpost.clock import Clock
from everpost.directory.interface import Directory, Entry
from everpost.directory.schema import OrganizationDocument, encode
from everpost.errors import EverpostError
from everpost.log import fact
from everpost.model.server import Role, Server
from everpost.monitoring.catalogue import Event
from everpost.monitoring.journal import read

log = logging.getLogger(__name__)

LOOK_EVERY = 2.0
AGAIN = 20.0
"""Seconds before the next try after all hubs declined or were silent."""
GIVE_UP = timedelta(hours=24)
ATTEMPT = 10.0


def compose(event: Event, organization: OrganizationDocument) -> EmailMessage:
    """The mail for an event."""
    message = EmailMessage()
    domain = organization.domain or "localhost"
    message["From"] = event.mail_from or f"Everpost <postmaster@{domain}>"
    message["To"] = event.mail_to or organization.administrator_mail
    message["Subject"] = f"{organization.name}: {event.text}"
    message["Message-ID"] = f"<event-{event.server}-{event.sequence}-{int(event.time.timestamp())}@{domain}>"
    message["Date"] = event.time
    lines = [event.text, "", f"Event {event.id} ({event.name}), written by {event.server} at {event.time.isoformat()}."]
    lines += [f"{name}: {value}" for name, value in event.facts.items()]
    lines += ["", "Get-EverpostEvent shows what else happened, Get-MailboxDatabaseCopyStatus how things are now."]
    message.set_content("\n".join(lines))
    return message


def hubs(servers: Iterable[Server], me: str) -> list[Server]:
    """Who takes mail, this host first."""
    able = [server for server in servers if Role.HUB_TRANSPORT in server.roles]
    return sorted(able, key=lambda server: (server.name != me, server.name))


def _hand_over(hub: Server, message: EmailMessage) -> None:
    with smtplib.SMTP(hub.address, hub.ports.smtp, timeout=ATTEMPT) as connection:
        connection.send_message(message)


class Mailer:
    """Runs on every server; works while `responsible()`, which is where the PAM is."""

    def __init__(
        self,
        me: str,
        directory: Directory,
        clock: Clock,
        *,
        known: Callable[[], Iterable[Entry]],
        organization: Callable[[], OrganizationDocument | None],
        servers: Callable[[], Iterable[Server]],
        responsible: Callable[[], bool],
    ) -> None:
        self._me = me
        self._directory = directory
        self._clock = clock
        self._known = known
        self._organization = organization
        self._servers = servers
        self._responsible = responsible
        self._not_before: dict[str, float] = {}

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._clock.sleep(LOOK_EVERY)
            organization = self._organization()
            if organization is None or not self._responsible():
                continue
            for event, entry in read(self._known()):
                addressed = bool(event.mail_to or organization.administrator_mail)
                if event.mail and addressed and not event.mailed and self._due(event, entry):
                    await self._send(event, entry, organization)

    def _due(self, event: Event, entry: Entry) -> bool:
        fresh = self._clock.wall() - event.time < GIVE_UP
        return fresh and self._clock.boottime() >= self._not_before.get(entry.key, 0.0)

    async def _send(self, event: Event, entry: Entry, organization: OrganizationDocument) -> None:
        """Hand over, then mark: a crash in between sends it twice."""
        self._not_before[entry.key] = self._clock.boottime() + AGAIN
        if not await self._try_hubs(compose(event, organization), hubs(self._servers(), self._me)):
            return
        marked = msgspec.structs.replace(event, mailed=True)
        try:
            await self._directory.txn({entry.key: entry.revision}, {entry.key: encode(marked)}, attempt=1.0)
        except EverpostError as error:
            log.debug("event not marked as mailed: %s", error)

    async def _try_hubs(self, message: EmailMessage, found: Sequence[Server]) -> bool:
        for hub in found:
            try:
                await asyncio.to_thread(_hand_over, hub, message)
            except (OSError, smtplib.SMTPException) as error:
                fact(log, "mail to the administrator not taken", level=logging.WARNING, hub=hub.name, why=str(error))
            else:
                fact(log, "mail to the administrator", hub=hub.name, subject=message["Subject"])
                return True
        return False
