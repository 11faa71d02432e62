"""The journal of events, and who is told by mail (spec 3.11, 3.12)."""

from __future__ import annotations

import re

from msgspec.structs import replace

from everpost.directory import keys
from everpost.directory.schema import OrganizationDocument, encode
from everpost.errors import NotFound, Refused
from everpost.manage import registry
from everpost.manage.cmdlets.change import seen, write
from everpost.manage.context import CommandContext
from everpost.manage.render import Row
from everpost.monitoring import journal
from everpost.monitoring.catalogue import KINDS


@registry.command(
    "Get-EverpostEvent",
    columns=("TimeCreated", "Id", "Level", "Server", "Message"),
    aliases=("Get-EventLog", "Get-WinEvent"),
)
async def get_everpost_event(
    context: CommandContext, id: int | None = None, newest: int = 50, server: str = "", database: str = ""
) -> list[Row]:
    """Show the journal, oldest first: the -Newest 50, or those of an -Id, a -Server or a -Database. It is kept in the
    directory, so it outlives the server that wrote it."""
    if id is not None and id not in KINDS:
        known = ", ".join(f"{one.id} {one.name}" for one in KINDS.values())
        raise Refused(f"There is no event {id}.", remedy=f"There are {known}.")
    entries, _ = await context.directory.list(keys.JOURNAL)
    rows: list[Row] = []
    for event, _ in journal.read(entries):
        wanted = id in (None, event.id) and server.lower() in ("", event.server.lower())
        if wanted and database.lower() in ("", event.facts.get("database", event.facts.get("subject", "")).lower()):
            rows.append(
                {
                    "TimeCreated": event.time.isoformat(timespec="seconds"),
                    "Id": event.id,
                    "Level": str(event.level),
                    "Server": event.server,
                    "Message": event.text,
                    "Name": event.name,
                    "Properties": event.facts,
                    "Mailed": event.mailed if event.mail else None,
                }
            )
    return rows[-newest:] if newest > 0 else rows


def _organization(context: CommandContext) -> OrganizationDocument:
    found = context.organization.organization
    if found is None:
        raise NotFound("The organisation is not known yet.", remedy="Wait until the first server's agent has started.")
    return found


def _row(found: OrganizationDocument) -> Row:
    return {"Name": found.name, "Domain": found.domain, "AdministratorMail": found.administrator_mail}


@registry.command("Get-OrganizationConfig", columns=("Name", "Domain", "AdministratorMail"))
async def get_organization_config(context: CommandContext) -> list[Row]:
    """Show the organisation's settings."""
    return [_row(_organization(context))]


@registry.command("Set-OrganizationConfig", positional=0, columns=("Name", "Domain", "AdministratorMail"))
async def set_organization_config(context: CommandContext, administrator_mail: str) -> list[Row]:
    """Set who gets a mail at each failover; '' for nobody."""
    if administrator_mail and not re.fullmatch(r"[^@\s<>]+@[^@\s<>]+", administrator_mail):
        raise Refused(f"{administrator_mail!r} is no mail address.", remedy="Type it like admin@contoso.com.")
    after = replace(_organization(context), administrator_mail=administrator_mail)
    before = context.organization.revision(keys.ORGANIZATION)
    await write(context, [keys.ORGANIZATION], {keys.ORGANIZATION: encode(after)}, what="The organisation")
    await seen(context, keys.ORGANIZATION, before + 1)
    return [_row(after)]
