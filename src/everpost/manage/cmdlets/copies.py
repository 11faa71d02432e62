"""Database copies: add, remove, status (spec 2.3, 2.7, 2.8)."""

from __future__ import annotations

from msgspec.structs import replace

from everpost.activemanager import transitions
from everpost.directory import keys
from everpost.directory.schema import encode
from everpost.errors import Refused, Unavailable
from everpost.manage import registry
from everpost.manage.cmdlets.change import look_up, write
from everpost.manage.cmdlets.databases import database, write_location
from everpost.manage.context import CommandContext
from everpost.manage.render import Row
from everpost.model.database import CopyState, CopyStatus, MailboxDatabase
from everpost.model.server import Role

MOST_COPIES = 16
SEED_WAIT = 600.0
COLUMNS = ("Name", "Status", "CopyQueueLength", "ReplayQueueLength", "Resilience", "ContentIndexState")


def _split(context: CommandContext, identity: str) -> tuple[MailboxDatabase, str | None]:
    """`MB01` or `MB01\\EX02`."""
    name, slash, server = identity.replace("/", "\\").partition("\\")
    found = database(context, name)
    if not slash:
        return found, None
    known = {one: one for one in found.servers}
    return found, look_up(known, server, f"copy of {found.name} on", "Get-MailboxDatabaseCopyStatus")


@registry.command("Add-MailboxDatabaseCopy", positional=2, columns=COLUMNS)
async def add_mailbox_database_copy(
    context: CommandContext, identity: str, mailbox_server: str, activation_preference: int | None = None
) -> list[Row]:
    """Add a copy on another member of the DAG; it is seeded from the active and waited for."""
    found = database(context, identity)
    server = look_up(context.organization.servers, mailbox_server, "server", "Get-ExchangeServer")
    if server.name in found.servers:
        raise Refused(f"{server.name} holds a copy of {found.name} already.", remedy="Name another member of the DAG.")
    if Role.MAILBOX not in server.roles:
        raise Refused(f"{server.name} has no mailbox role.", remedy="Name a mailbox server of the DAG.")
    active = context.organization.locations[found.name][0].active
    dag = context.organization.dag_of(active)
    if dag is None or server.name not in dag.members:
        where = f"the DAG of {active}" if dag is None else dag.name
        raise Refused(
            f"{server.name} and {active} are not in one DAG ({where}).",
            remedy="Add-DatabaseAvailabilityGroupServer first, for both.",
        )
    if len(found.servers) >= MOST_COPIES:
        raise Refused(f"{found.name} has {MOST_COPIES} copies, which is the most.")
    servers = list(found.servers)
    place = len(servers) if activation_preference is None else max(0, min(activation_preference - 1, len(servers)))
    servers.insert(place, server.name)
    after = replace(found, servers=tuple(servers))
    await write(context, [keys.database(found.name)], {keys.database(found.name): encode(after)}, what=found.name)
    await _wait_healthy(context, found.name, server.name)
    return await get_mailbox_database_copy_status(context, identity=f"{found.name}\\{server.name}")


async def _wait_healthy(context: CommandContext, name: str, server: str) -> None:
    """Until the copy follows and is in the synchronous set."""
    end = context.clock.boottime() + SEED_WAIT
    said = ""
    while True:
        status = context.live.statuses(server).get(name)
        state = str(status.state) if status is not None else "not there yet"
        if state != said:
            context.verbose(f"{name}\\{server} is {state}.")
            said = state
        held = context.organization.locations.get(name)
        if held is not None and any(member.server == server for member in held[0].set):
            return
        if context.clock.boottime() > end:
            raise Unavailable(f"{name}\\{server} is {state} after {SEED_WAIT:.0f} s.", remedy="It goes on by itself.")
        await context.clock.sleep(0.05)


@registry.command("Remove-MailboxDatabaseCopy")
async def remove_mailbox_database_copy(context: CommandContext, identity: str) -> list[Row]:
    """Remove a passive copy (`MB01\\EX02`). Its files stay on the server."""
    found, server = _split(context, identity)
    if server is None:
        raise Refused("Which copy?", remedy=f"Name it as {found.name}\\SERVER.")
    location, revision = context.organization.locations[found.name]
    if server == location.active:
        raise Refused(
            f"{identity} is the active copy.",
            remedy=f"Move-ActiveMailboxDatabase {found.name} to another server first.",
        )
    await write_location(
        context, location, revision, transitions.shrunk(location, server, reason=f"the copy on {server} is removed")
    )
    after = replace(found, servers=tuple(one for one in found.servers if one != server))
    await write(context, [keys.database(found.name)], {keys.database(found.name): encode(after)}, what=found.name)
    context.warning(f"The files of {found.name} on {server} stay; delete them by hand.")
    return []


@registry.command("Get-MailboxDatabaseCopyStatus", columns=COLUMNS, aliases=("Get-DatabaseCopyStatus",))
async def get_mailbox_database_copy_status(context: CommandContext, identity: str = "*", server: str = "") -> list[Row]:
    """Show copies: all, those of a database, one (`MB01\\EX02`), or those of a -Server."""
    rows: list[Row] = []
    chosen: list[tuple[MailboxDatabase, str | None]]
    if identity == "*":
        chosen = [(one, None) for one in sorted(context.organization.databases.values(), key=lambda one: one.name)]
    else:
        chosen = [_split(context, identity)]
    for found, only in chosen:
        for name in found.servers:
            if only in (None, name) and (not server or server.lower() == name.lower()):
                rows.append(_status_row(context, found, name))
    return rows


def _status_row(context: CommandContext, found: MailboxDatabase, server: str) -> Row:
    held = context.organization.locations.get(found.name)
    location = held[0] if held is not None else None
    known = context.live.statuses(server).get(found.name)
    status = known or CopyStatus(database=found.name, server=server, state=CopyState.INITIALIZING)
    state = str(status.state)
    alive = context.live.holds_tenure(server)
    if not alive:
        state = str(CopyState.SERVICE_DOWN)
    elif status.state is CopyState.MOUNTED and location is not None and location.active != server:
        state = str(CopyState.INITIALIZING)  # its last word is from before the database moved
    resilience = ""
    if location is not None and location.active == server and alive:
        resilience = "single" if location.single else ",".join(member.server for member in location.set)
    generated = (status.generated_lsn or 0) >> 20
    return {
        "Name": f"{found.name}\\{server}",
        "Status": state,
        # What a silent server had is not what it has: unknown is shown as unknown.
        "CopyQueueLength": status.copy_queue if alive else None,
        "ReplayQueueLength": status.replay_queue if alive else None,
        "Resilience": resilience,
        "ContentIndexState": "Healthy" if alive else "Unknown",
        "DatabaseName": found.name,
        "MailboxServer": server,
        "ActiveDatabaseCopy": location.active if location is not None else None,
        "ActiveCopy": location is not None and location.active == server,
        "ActivationPreference": found.servers.index(server) + 1,
        "Epoch": str(location.token) if location is not None else None,
        "LastLogGenerated": generated,
        "LastLogCopied": (status.received_lsn or 0) >> 20,
        "LastLogReplayed": (status.replayed_lsn or 0) >> 20,
        "Synchronous": location is not None and any(member.server == server for member in location.set),
        "ErrorMessage": status.error,
    }
