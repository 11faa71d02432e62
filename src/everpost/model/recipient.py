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


class MailboxRef(msgspec.Struct, frozen=True):
    """Where a mailbox is: enough to run a store operation on it."""

    database: str
    guid: str
