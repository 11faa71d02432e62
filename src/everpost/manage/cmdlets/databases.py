"""Mailbox databases (spec 2.1, 9.5)."""

from __future__ import annotations

import re
import uuid

from msgspec.structs import replace

from everpost.array import healthmailbox
from everpost.directory import keys
from everpost.directory.arraynames import client_access_name, known_client_access_name
from everpost.directory.schema import encode
from everpost.errors import AlreadyExists, Refused, Unavailable
from everpost.manage import registry
from everpost.manage.cmdlets.change import look_up, seen, write
from everpost.manage.context import CommandContext
from everpost.manage.render import Row
from everpost.model.database import Location, LocationState, MailboxDatabase, Token
from everpost.model.server import Role

WAIT = 60.0
"""Seconds a command waits for what it asked to come true; it goes on by itself afterwards."""
MOST_DATABASES = 1000


def database(context: CommandContext, name: str) -> MailboxDatabase:
    """A database by name."""
    return look_up(context.organization.databases, name, "mailbox database", "Get-MailboxDatabase")


async def wait_open(context: CommandContext, name: str, server: str | None, limit: float = WAIT) -> Location:
    """Until the database is open (on `server`, if named). Raises Unavailable with what it is instead."""
    end = context.clock.boottime() + limit
    said = ""
    while True:
        found = context.organization.locations.get(name)
        location = found[0] if found is not None else None
        if location is not None and location.state is LocationState.OPEN and server in (None, location.active):
            return location
        now = f"{name} is {location.state} on {location.active}" if location is not None else f"{name} is not known yet"
        if now != said:
            context.verbose(now + ".")
            said = now
        if context.clock.boottime() > end:
            why = f" ({location.reason})" if location is not None and location.reason else ""
            raise Unavailable(
                f"{said}{why} after {limit:.0f} s.", remedy="It goes on by itself; see Get-MailboxDatabaseCopyStatus."
            )
        await context.clock.sleep(0.02)


@registry.command("New-MailboxDatabase", columns=("Name", "Server", "Recovery", "ReplicationType"))
async def new_mailbox_database(context: CommandContext, name: str, server: str) -> list[Row]:
    """Create a mailbox database on a server and mount it."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 _.-]{0,63}", name):
        raise Refused(f"{name!r} cannot name a database.", remedy="Use letters, digits, spaces, _ . and -.")
    if any(one.lower() == name.lower() for one in context.organization.databases):
        raise AlreadyExists(f"There is a database named {name} already.", remedy="Choose another name.")
    host = look_up(context.organization.servers, server, "server", "Get-ExchangeServer")
    if Role.MAILBOX not in host.roles:
        raise Refused(f"{host.name} has no mailbox role.", remedy="Name a mailbox server.")
    taken = {one.number for one in context.organization.databases.values()}
    number = next(one for one in range(MOST_DATABASES) if one not in taken)
    row = MailboxDatabase(name=name, guid=str(uuid.uuid4()), number=number, servers=(host.name,))
    generation = context.organization.generation
    location = Location(
        database=name,
        active=host.name,
        token=Token(generation.generation if generation is not None else 1, 0),
        state=LocationState.CLOSED,
        target=host.name,
        reason="created",
    )
    slot = f"{keys.CONFIG}slot/{number}"
    await write(
        context,
        [keys.database(name), keys.location(name), slot],
        {keys.database(name): encode(row), keys.location(name): encode(location), slot: name.encode()},
        what=f"The database {name}",
    )
    await seen(context, keys.database(name))
    await wait_open(context, name, host.name)
    return [_row(context, row)]


@registry.command("Get-MailboxDatabase", columns=("Name", "Server", "Recovery", "ReplicationType"))
async def get_mailbox_database(context: CommandContext, identity: str = "", status: bool = False) -> list[Row]:
    """Show mailbox databases; -Status adds whether they are mounted, and where."""
    found = [database(context, identity)] if identity else list(context.organization.databases.values())
    rows = [_row(context, one) for one in sorted(found, key=lambda one: one.name)]
    if status:
        for row in rows:
            held = context.organization.locations.get(str(row["Name"]))
            mounted = held is not None and held[0].state in (LocationState.OPEN, LocationState.MOVING)
            row["Mounted"] = mounted
            row["MountedOnServer"] = held[0].active if held is not None and mounted else None
    return rows


def _row(context: CommandContext, one: MailboxDatabase) -> Row:
    held = context.organization.locations.get(one.name)
    return {
        "Name": one.name,
        "Server": held[0].active if held is not None else None,
        "Recovery": False,
        "ReplicationType": "Remote" if len(one.servers) > 1 else "None",
        "Guid": one.guid,
        "CircularLoggingEnabled": one.circular_logging,
        "RpcClientAccessServer": client_access_name(context.organization, one),
        "Servers": list(one.servers),
        "ActivationPreference": [f"{server}={place}" for place, server in enumerate(one.servers, 1)],
        "DatabaseCopies": [f"{one.name}\\{server}" for server in one.servers],
    }


@registry.command("Remove-MailboxDatabase")
async def remove_mailbox_database(context: CommandContext, identity: str) -> list[Row]:
    """Remove a database without mailboxes and further copies. Its files stay."""
    one = database(context, identity)
    if len(one.servers) > 1:
        raise Refused(f"{one.name} has {len(one.servers)} copies.", remedy="Remove-MailboxDatabaseCopy first.")
    count = context.organization.mailbox_count.get(one.name, 0)
    if count:
        raise Refused(f"{one.name} holds {count} mailboxes.", remedy="Move or remove them first.")
    slot = f"{keys.CONFIG}slot/{one.number}"
    await write(
        context,
        [keys.database(one.name)],
        {
            keys.database(one.name): None,
            keys.location(one.name): None,
            slot: None,
            **healthmailbox.removal(context.organization, one.name),
        },
        what=f"The database {one.name}",
    )
    return []


@registry.command("Set-MailboxDatabase")
async def set_mailbox_database(
    context: CommandContext,
    identity: str,
    circular_logging_enabled: bool | None = None,
    rpc_client_access_server: str | None = None,
) -> list[Row]:
    """Change a database's settings. -CircularLoggingEnabled takes effect at once (spec 2.10).

    -RpcClientAccessServer is the name that clients of the database are told: the FQDN of a client access array or a
    client access server; "" follows the array of the site, as every database does from the start (spec 6.2).
    """
    one = database(context, identity)
    if circular_logging_enabled is None and rpc_client_access_server is None:
        raise Refused("Nothing is to be changed.", remedy="Name a setting, such as -CircularLoggingEnabled $true.")
    key = keys.database(one.name)
    before = context.organization.revision(key)
    after = one
    if circular_logging_enabled is not None:
        after = replace(after, circular_logging=circular_logging_enabled)
    if rpc_client_access_server is not None:
        name = known_client_access_name(context.organization, rpc_client_access_server)
        after = replace(after, rpc_client_access_server=name)
    await write(context, {key: before}, {key: encode(after)}, what=one.name)
    await seen(context, key, before + 1)
    return []


async def write_location(context: CommandContext, before: Location, revision: int, after: Location) -> int:
    """Change a location record as seen; waits until this host's view shows it."""
    key = keys.location(before.database)
    await write(context, {key: revision}, {key: encode(after)}, what=f"The location of {before.database}")
    await seen(context, key, revision + 1)
    return context.organization.revision(key)
