"""Mailboxes: create, show, change, remove."""

from __future__ import annotations

import re
import uuid

from msgspec.structs import replace

from everpost.directory import keys
from everpost.directory.passwords import hash_password
from everpost.directory.schema import encode
from everpost.errors import AlreadyExists, NotFound, Refused
from everpost.manage import registry
from everpost.manage.cmdlets.change import seen, write
from everpost.manage.cmdlets.databases import database as find_database
from everpost.manage.context import CommandContext
from everpost.manage.render import Row
from everpost.model.database import MailboxDatabase
from everpost.model.recipient import Mailbox

COLUMNS = ("Name", "Alias", "Database", "PrimarySmtpAddress")
_LOCAL = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}")
_DOMAIN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)+")


def _address(text: str) -> str:
    local, _, domain = text.rpartition("@")
    if not _LOCAL.fullmatch(local) or not _DOMAIN.fullmatch(domain):
        raise Refused(f"{text!r} is no SMTP address.", remedy="Write it like anna@contoso.com.")
    return text.lower()


def _find(context: CommandContext, identity: str) -> Mailbox:
    lower = identity.lower()
    for mailbox in context.organization.mailboxes.values():
        if lower in (mailbox.guid, mailbox.name.lower(), mailbox.alias.lower(), *mailbox.addresses):
            return mailbox
    raise NotFound(f"There is no mailbox {identity}.", remedy="Get-Mailbox lists them.")


@registry.command("New-Mailbox", columns=COLUMNS)
async def new_mailbox(
    context: CommandContext,
    name: str,
    password: str,
    database: str = "",
    alias: str = "",
    primary_smtp_address: str = "",
) -> list[Row]:
    """Create a mailbox in a database. The address is ALIAS@domain of the organisation unless named."""
    alias = alias or re.sub(r"[^A-Za-z0-9._-]", "", name).lower()
    if not alias:
        raise Refused(f"No alias can be made of {name!r}.", remedy="Name one with -Alias.")
    organization = context.organization.organization
    domain = organization.domain if organization is not None else ""
    if not primary_smtp_address and not domain:
        raise Refused("The organisation has no mail domain.", remedy="Name -PrimarySmtpAddress.")
    address = _address(primary_smtp_address or f"{alias}@{domain}")
    if any(one.alias.lower() == alias.lower() for one in context.organization.mailboxes.values()):
        raise AlreadyExists(f"The alias {alias} is taken.", remedy="Name another with -Alias.")
    if context.organization.mailbox_by_address(address) is not None:
        raise AlreadyExists(f"The address {address} is taken.", remedy="Name another with -PrimarySmtpAddress.")
    if len(password) < 8:
        raise Refused("The password is too short.", remedy="Use at least 8 characters.")
    home = find_database(context, database) if database else _least_filled(context)
    mailbox = Mailbox(
        guid=str(uuid.uuid4()),
        name=name,
        alias=alias,
        addresses=(address,),
        database=home.name,
        password_hash=await hash_password(password),
    )
    await write(
        context,
        [keys.mailbox(mailbox.guid), keys.address(address)],
        {keys.mailbox(mailbox.guid): encode(mailbox), keys.address(address): mailbox.guid.encode()},
        what=f"The mailbox {name}",
    )
    await seen(context, keys.mailbox(mailbox.guid))
    return [_row(mailbox)]


def _least_filled(context: CommandContext) -> MailboxDatabase:
    counts = context.organization.mailbox_count
    found = sorted(context.organization.databases.values(), key=lambda one: (counts.get(one.name, 0), one.name))
    if not found:
        raise Refused("There is no mailbox database.", remedy="New-MailboxDatabase first.")
    return found[0]


@registry.command("Get-Mailbox", columns=COLUMNS)
async def get_mailbox(
    context: CommandContext, identity: str = "", database: str = "", monitoring: bool = False
) -> list[Row]:
    """Show mailboxes: all, one, or those of a database. -Monitoring shows those of the health checks."""
    everybody = context.organization.mailboxes.values()
    found = [_find(context, identity)] if identity else [one for one in everybody if one.monitoring == monitoring]
    if database:
        home = find_database(context, database)
        found = [one for one in found if one.database == home.name]
    return [_row(one) for one in sorted(found, key=lambda one: one.name)]


@registry.command("Set-Mailbox", columns=COLUMNS)
async def set_mailbox(
    context: CommandContext, identity: str, password: str = "", name: str = "", enabled: bool | None = None
) -> list[Row]:
    """Change a mailbox's name or password, or let it rest (-Enabled:$false)."""
    mailbox = _find(context, identity)
    if password:
        mailbox = replace(mailbox, password_hash=await hash_password(password))
    if name:
        mailbox = replace(mailbox, name=name)
    if enabled is not None:
        mailbox = replace(mailbox, enabled=enabled)
    key = keys.mailbox(mailbox.guid)
    await write(context, [key], {key: encode(mailbox)}, what=f"The mailbox {mailbox.name}")
    return [_row(mailbox)]


@registry.command("Remove-Mailbox")
async def remove_mailbox(context: CommandContext, identity: str) -> list[Row]:
    """Remove a mailbox from the directory. Its mail stays in the database until that is cleaned."""
    mailbox = _find(context, identity)
    puts: dict[str, bytes | None] = {keys.mailbox(mailbox.guid): None}
    puts.update({keys.address(address): None for address in mailbox.addresses})
    await write(context, [keys.mailbox(mailbox.guid)], puts, what=f"The mailbox {mailbox.name}")
    return []


def _row(mailbox: Mailbox) -> Row:
    return {
        "Name": mailbox.name,
        "Alias": mailbox.alias,
        "Database": mailbox.database,
        "PrimarySmtpAddress": mailbox.addresses[0],
        "EmailAddresses": list(mailbox.addresses),
        "Guid": mailbox.guid,
        "Enabled": mailbox.enabled,
    }
