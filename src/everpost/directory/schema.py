"""Documents of the directory: msgspec values as JSON, and the organisation as a typed view that is parsed once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TypeVar

import msgspec

from everpost.directory import keys
from everpost.directory.interface import Entry
from everpost.model.array import ClientAccessArray
from everpost.model.database import Location, MailboxDatabase
from everpost.model.dns import DnsZone
from everpost.model.recipient import HealthMailbox, Mailbox
from everpost.model.server import DatabaseAvailabilityGroup, MaintenanceRecord, Role, Server

log = logging.getLogger(__name__)
T = TypeVar("T")

VERSION = 1
"""Version of the documents' schema: raised when an older release would misunderstand a newer document."""


class OrganizationDocument(msgspec.Struct, frozen=True, kw_only=True):
    """The organisation itself. `domain` completes DAG and server names; `administrator_mail` is told of failovers."""

    name: str
    domain: str = ""
    administrator_mail: str = ""


class GenerationDocument(msgspec.Struct, frozen=True, kw_only=True):
    """Changes when the directory was restored or forced (3.12)."""

    generation: int
    identity: str


class _Stamp(msgspec.Struct):
    v: int = VERSION


_PREFIX = b'{"v":%d' % VERSION


def encode(value: object) -> bytes:
    """A document as JSON, an object with its schema version first; equal values give equal bytes."""
    text = msgspec.json.encode(value)
    if not text.startswith(b"{"):
        return text
    return _PREFIX + (b"}" if text == b"{}" else b"," + text[1:])


def decode(kind: type[T], value: bytes) -> T:
    """The document. Fields that this release does not know are passed over, missing ones take their default. Raises
    msgspec.ValidationError, also for a document of a newer schema: a guess at its meaning could lose mail."""
    if value.startswith(b'{"v":') and not value.startswith((_PREFIX + b",", _PREFIX + b"}")):
        stamp = msgspec.json.decode(value, type=_Stamp)
        if stamp.v > VERSION:
            raise msgspec.ValidationError(f"it has schema {stamp.v}, this release knows {VERSION}: update this server")
    return msgspec.json.decode(value, type=kind)


class OrganizationView:
    """What the configuration and location keys say, parsed when they change and never at a lookup."""

    def __init__(self) -> None:
        self.organization: OrganizationDocument | None = None
        self.generation: GenerationDocument | None = None
        self.servers: dict[str, Server] = {}
        self.dags: dict[str, DatabaseAvailabilityGroup] = {}
        self.databases: dict[str, MailboxDatabase] = {}
        self.maintenance: dict[str, MaintenanceRecord] = {}
        self.arrays: dict[str, ClientAccessArray] = {}
        self.dns_zones: dict[str, DnsZone] = {}
        self.locations: dict[str, tuple[Location, int]] = {}
        self.mailboxes: dict[str, Mailbox] = {}
        self.health_mailboxes: dict[str, HealthMailbox] = {}
        self._addresses: dict[str, str] = {}
        self.revisions: dict[str, int] = {}
        self._kinds: tuple[tuple[str, Callable[[str, Entry | None], None]], ...] = (
            (keys.SERVERS, self._put_into(self.servers, Server)),
            (keys.DAGS, self._put_into(self.dags, DatabaseAvailabilityGroup)),
            (keys.DATABASES, self._put_into(self.databases, MailboxDatabase)),
            (keys.MAINTENANCE, self._put_into(self.maintenance, MaintenanceRecord)),
            (keys.CLIENT_ACCESS_ARRAYS, self._put_into(self.arrays, ClientAccessArray)),
            (keys.DNS_ZONES, self._put_into(self.dns_zones, DnsZone)),
            (keys.HEALTH_MAILBOXES, self._put_into(self.health_mailboxes, HealthMailbox)),
            (keys.LOCATIONS, self._location),
            (keys.MAILBOXES, self._mailbox),
        )

    @staticmethod
    def _put_into(table: dict[str, T], kind: type[T]) -> Callable[[str, Entry | None], None]:
        def put(name: str, entry: Entry | None) -> None:
            if entry is None:
                table.pop(name, None)
            else:
                table[name] = decode(kind, entry.value)

        return put

    def _location(self, name: str, entry: Entry | None) -> None:
        if entry is None:
            self.locations.pop(name, None)
        else:
            self.locations[name] = (decode(Location, entry.value), entry.revision)

    def _mailbox(self, guid: str, entry: Entry | None) -> None:
        mailbox = decode(Mailbox, entry.value) if entry is not None else None
        before = self.mailboxes.pop(guid, None)
        for address in before.addresses if before is not None else ():
            # Another mailbox may have been given the address in the meantime.
            if self._addresses.get(address.lower()) == guid:
                del self._addresses[address.lower()]
        if mailbox is not None:
            self.mailboxes[guid] = mailbox
            for address in mailbox.addresses:
                self._addresses[address.lower()] = guid

    def apply(self, key: str, entry: Entry | None) -> None:
        """A key was put (`entry`) or deleted (None). An unreadable document is logged and left as it was."""
        try:
            if key == keys.ORGANIZATION:
                self.organization = decode(OrganizationDocument, entry.value) if entry else None
            elif key == keys.GENERATION:
                self.generation = decode(GenerationDocument, entry.value) if entry else None
            for prefix, put in self._kinds:
                if key.startswith(prefix):
                    put(key.removeprefix(prefix), entry)
        except msgspec.MsgspecError as error:
            log.error("the document at %s cannot be read: %s", key, error)
            return
        if entry is None:
            self.revisions.pop(key, None)
        else:
            self.revisions[key] = entry.revision

    def revision(self, key: str) -> int:
        """The revision at which a document was seen, 0 if it was not: the guard for changing it."""
        return self.revisions.get(key, 0)

    def mailbox_by_address(self, address: str) -> Mailbox | None:
        """The mailbox with that SMTP address, in any case."""
        guid = self._addresses.get(address.lower())
        return None if guid is None else self.mailboxes.get(guid)

    def mailbox_by_alias(self, alias: str) -> Mailbox | None:
        """The mailbox with that alias, in any case."""
        wanted = alias.lower()
        return next((one for one in self.mailboxes.values() if one.alias.lower() == wanted), None)

    def dag_of(self, server: str) -> DatabaseAvailabilityGroup | None:
        """The DAG that has the server as a member."""
        return next((dag for dag in self.dags.values() if server in dag.members), None)

    def array_of(self, site: str) -> ClientAccessArray | None:
        """The client access array of a site (spec 6.2: one at most)."""
        return next((array for array in self.arrays.values() if array.site.lower() == site.lower()), None)

    def drained(self, server: str, role: Role) -> bool:
        """Whether clients of that role of the server are sent to another one: it is in maintenance, and another one is
        not (spec 3.10; without another, being served here is better than not at all)."""
        return server in self.maintenance and bool(self.relieved_by(server, role))

    def relieved_by(self, server: str, role: Role) -> list[str]:
        """Other servers of that role that are not in maintenance."""
        others = [one.name for one in self.servers.values() if role in one.roles and one.name != server]
        return sorted(name for name in others if name not in self.maintenance)

    def balancers(self) -> frozenset[str]:
        """Addresses of the hosts whose balancers may hand on connections."""
        return frozenset(one.address for one in self.servers.values() if Role.CLIENT_ACCESS in one.roles)

    @property
    def mailbox_count(self) -> Mapping[str, int]:
        """Mailboxes by database, without those of the health checks."""
        counts: dict[str, int] = {}
        for mailbox in self.mailboxes.values():
            if mailbox.monitoring:
                continue
            counts[mailbox.database] = counts.get(mailbox.database, 0) + 1
        return counts
