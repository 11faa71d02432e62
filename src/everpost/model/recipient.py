"""Recipients of the organisation."""

from __future__ import annotations

import msgspec


class Mailbox(msgspec.Struct, frozen=True, kw_only=True):
    """A user's mailbox: `addresses` are SMTP addresses in lower case, the first is the primary one."""

    guid: str
    name: str
    alias: str
    addresses: tuple[str, ...]
    database: str
    password_hash: str = ""
    enabled: bool = True
    monitoring: bool = False
    """It is a health mailbox: nobody's, and not shown among the others."""


class HealthMailbox(msgspec.Struct, frozen=True, kw_only=True):
    """How the health checks log in to a database: its health mailbox, and that one's password."""

    database: str
    guid: str
    user: str
    password: str


class MailboxRef(msgspec.Struct, frozen=True):
    """Where a mailbox is: enough to run a store operation on it."""

    database: str
    guid: str
