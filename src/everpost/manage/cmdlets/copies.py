"""Database copies: add, remove, status (spec 2.3, 2.7, 2.8)."""

from __future__ import annotations

from datetime import UTC, datetime

from msgspec.structs import replace

from everpost.activemanager import transitions
from everpost.directory import keys
from everpost.directory.schema import encode
from everpost.errors import Refused, Unavailable
from everpost.manage import registry, timespan
from everpost.manage.cmdlets.change import look_up, seen, write
from everpost.manage.cmdlets.databases import database, write_location
from everpost.manage.context import CommandContext
from everpost.manage.render import Row
from everpost.model.database import CopySettings, CopyState, CopyStatus, Location, MailboxDatabase
from everpost.model.server import Role, Server

MOST_COPIES = 16
SEED_WAIT = 600.0
STATE_WAIT = 30.0
"""Seconds a command waits for the copy to do what it was told; it goes on by itself afterwards."""
POSTPONED = "Its seeding was postponed: Update-MailboxDatabaseCopy seeds it."
UNKNOWN = "Unknown"
COLUMNS = ("Name", "Status", "CopyQueueLength", "ReplayQueueLength", "Resilience", "ContentIndexState")


def split(context: CommandContext, identity: str) -> tuple[MailboxDatabase, str | None]:
    """`MB01` or `MB01\\EX02`."""
    name, slash, server = identity.replace("/", "\\").partition("\\")
    found = database(context, name)
    if not slash:
        return found, None
    known = {one: one for one in found.servers}
    return found, look_up(known, server, f"copy of {found.name} on", "Get-MailboxDatabaseCopyStatus")


async def change_copy(context: CommandContext, found: MailboxDatabase, server: str, settings: CopySettings) -> None:
    """Write the settings of one copy; waits until this host's view shows them."""
    await write_database(context, found.with_copy(server, settings))


async def write_database(context: CommandContext, after: MailboxDatabase) -> None:
    """Write a database's document if it is still as this host saw it; waits until the view shows it."""
    key = keys.database(after.name)
    before = context.organization.revision(key)
    await write(context, {key: before}, {key: encode(after)}, what=after.name)
    await seen(context, key, before + 1)


def state_of(context: CommandContext, found: MailboxDatabase, server: str) -> CopyStatus | None:
    """What the copy last said."""
    return context.live.statuses(server).get(found.name)


async def until_state(
    context: CommandContext, found: MailboxDatabase, server: str, state: CopyState, limit: float = STATE_WAIT
) -> None:
    """Until the copy says that it is in that state; a warning if that takes longer."""
    end = context.clock.boottime() + limit
    while (status := state_of(context, found, server)) is None or status.state is not state:
        if context.clock.boottime() > end:
            now = status.state if status is not None and context.live.holds_tenure(server) else "not answering"
            context.warning(f"{found.name}\\{server} is {now} yet; it becomes {state} by itself.")
            return
        await context.clock.sleep(0.05)


def _place(preference: int, copies: int) -> int:
    """Index of an activation preference among that many copies."""
    if not 1 <= preference <= copies:
        raise Refused(
            f"-ActivationPreference {preference} is out of range.", remedy=f"With {copies} copies it is 1 to {copies}."
        )
    return preference - 1


@registry.command("Add-MailboxDatabaseCopy", positional=2, columns=COLUMNS)
async def add_mailbox_database_copy(
    context: CommandContext,
    identity: str,
    mailbox_server: str,
    activation_preference: int | None = None,
    replay_lag_time: str = "",
    truncation_lag_time: str = "",
    seeding_postponed: bool = False,
) -> list[Row]:
    """Add a copy on another member of the DAG; it is seeded from the active and waited for, unless
    -SeedingPostponed, which leaves it suspended."""
    found = database(context, identity)
    server = look_up(context.organization.servers, mailbox_server, "server", "Get-ExchangeServer")
    _may_add(context, found, server)
    servers = list(found.servers)
    place = len(servers) if activation_preference is None else _place(activation_preference, len(servers) + 1)
    servers.insert(place, server.name)
    settings = CopySettings(
        replay_lag=timespan.seconds(replay_lag_time or "00:00:00", "ReplayLagTime"),
        truncation_lag=timespan.seconds(truncation_lag_time or "00:00:00", "TruncationLagTime"),
        suspended=seeding_postponed,
        suspend_comment=POSTPONED if seeding_postponed else "",
    )
    await write_database(context, replace(found, servers=tuple(servers)).with_copy(server.name, settings))
    if seeding_postponed:
        await until_state(context, found, server.name, CopyState.SUSPENDED)
    else:
        await _wait_healthy(context, found.name, server.name)
    return await get_mailbox_database_copy_status(context, identity=f"{found.name}\\{server.name}")


def _may_add(context: CommandContext, found: MailboxDatabase, server: Server) -> None:
    """The rules CPY-1 to CPY-7 of spec 2.3."""
    if server.name in found.servers:
        raise Refused(
            f"{server.name} holds a copy of {found.name} already; a server holds one at most.",
            remedy="Name another member of the DAG.",
        )
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
        raise Refused(
            f"{found.name} has {MOST_COPIES} copies, which is the most.", remedy="Remove-MailboxDatabaseCopy first."
        )
    if len(found.servers) == 1 and found.circular_logging:
        raise Refused(
            f"{found.name} has circular logging, and no other copy yet.",
            remedy=f"Set-MailboxDatabase {found.name} -CircularLoggingEnabled $false; it may be set again afterwards.",
        )


@registry.command("Set-MailboxDatabaseCopy")
async def set_mailbox_database_copy(
    context: CommandContext,
    identity: str,
    activation_preference: int | None = None,
    replay_lag_time: str = "",
    truncation_lag_time: str = "",
) -> list[Row]:
    """Change a copy's (`MB01\\EX02`) activation preference, where the others move up or down, and its lags."""
    found, server = split(context, identity)
    if server is None:
        raise Refused("Which copy?", remedy=f"Name it as {found.name}\\SERVER.")
    after = found
    if activation_preference is not None:
        place = _place(activation_preference, len(found.servers))
        servers = [one for one in found.servers if one != server]
        servers.insert(place, server)
        after = replace(after, servers=tuple(servers))
    settings = after.copy(server)
    if replay_lag_time:
        lag = timespan.seconds(replay_lag_time, "ReplayLagTime")
        settings = replace(settings, replay_lag=lag, lag_disabled="" if lag == 0 else settings.lag_disabled)
    if truncation_lag_time:
        settings = replace(settings, truncation_lag=timespan.seconds(truncation_lag_time, "TruncationLagTime"))
    after = after.with_copy(server, settings)
    if after == found:
        context.warning(f"{found.name}\\{server} is so already.")
        return []
    if settings.replay_lag > 0 and found.copy(server).replay_lag == 0:
        context.warning(
            f"{found.name}\\{server} becomes a lagged copy: it is no member of the synchronous set and is not activated"
            " by itself."
        )
    await write_database(context, after)
    return []


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
        found = context.organization.databases.get(name)
        lagged = found is not None and found.copy(server).lag > 0
        if lagged and status is not None and status.state is CopyState.HEALTHY:
            return
        if context.clock.boottime() > end:
            raise Unavailable(f"{name}\\{server} is {state} after {SEED_WAIT:.0f} s.", remedy="It goes on by itself.")
        await context.clock.sleep(0.05)


@registry.command("Remove-MailboxDatabaseCopy")
async def remove_mailbox_database_copy(context: CommandContext, identity: str) -> list[Row]:
    """Remove a passive copy (`MB01\\EX02`). Its files stay on the server."""
    found, server = split(context, identity)
    if server is None:
        raise Refused("Which copy?", remedy=f"Name it as {found.name}\\SERVER.")
    location, revision = context.organization.locations[found.name]
    if server == location.active:
        raise Refused(
            f"{identity} is the active copy.",
            remedy=f"Move-ActiveMailboxDatabase {found.name} to another server first.",
        )
    if len(found.servers) == 2 and found.circular_logging:
        raise Refused(
            f"{identity} is the last passive copy, and {found.name} has circular logging.",
            remedy=f"Set-MailboxDatabase {found.name} -CircularLoggingEnabled $false first.",
        )
    await write_location(
        context, location, revision, transitions.shrunk(location, server, reason=f"the copy on {server} is removed")
    )
    after = replace(found, servers=tuple(one for one in found.servers if one != server))
    await write_database(context, after.with_copy(server, CopySettings()))
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
        chosen = [split(context, identity)]
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
    active = location is not None and location.active == server
    if not alive:
        state = str(CopyState.SERVICE_DOWN)
    elif status.state is CopyState.MOUNTED and not active:
        state = str(CopyState.INITIALIZING)  # its last word is from before the database moved
    elif status.state is CopyState.MOUNTED and location is not None and status.token != location.token:
        state = str(CopyState.MOUNTING)  # or from before its own agent died and began to activate it anew
    resilience = ""
    if location is not None and active and alive:
        resilience = "single" if location.single else ",".join(member.server for member in location.set)
    settings = found.copy(server)
    newest = _newest(context, found, location)
    seeding = status.seed_percent is not None and status.state is CopyState.SEEDING
    return {
        "Name": f"{found.name}\\{server}",
        "Status": state,
        "CopyQueueLength": _copy_queue(context, location, status) if alive else UNKNOWN,
        "ReplayQueueLength": _known(status.replay_queue) if alive else UNKNOWN,
        "Resilience": resilience,
        "ContentIndexState": "Healthy" if alive else UNKNOWN,
        "DatabaseName": found.name,
        "MailboxServer": server,
        "ActiveDatabaseCopy": location.active if location is not None else None,
        "ActiveCopy": active,
        "ActivationPreference": found.servers.index(server) + 1,
        "ActivationSuspended": settings.activation_suspended or settings.suspended,
        "SuspendComment": settings.suspend_comment,
        "ErrorMessage": status.error,
        "Epoch": str(location.token) if location is not None else None,
        "Synchronous": location is not None and any(member.server == server for member in location.set),
        "LatestAvailableLogTime": _time(newest.generated_at) if newest is not None else None,
        "LastLogGenerated": _generation(newest.generated_lsn) if newest is not None else 0,
        "LastLogCopyNotified": _generation(status.generated_lsn),
        "LastLogCopied": _generation(status.received_lsn),
        "LastLogInspected": _generation(status.received_lsn),  # a log is checked as it is replayed, record by record
        "LastLogReplayed": _generation(status.replayed_lsn),
        "ReplayLagTime": timespan.text(settings.replay_lag),
        "ReplayLagStatus": _lag_status(settings, status) if alive else UNKNOWN,
        "TruncationLagTime": timespan.text(settings.truncation_lag),
        "DatabaseSeedStatus": f"{status.seed_percent} % from {status.seed_source}" if seeding else "",
        "DivergedLogs": ", ".join(status.diverged),
        "SeedingSource": status.seed_source if seeding else "",
    }


def _newest(context: CommandContext, found: MailboxDatabase, location: Location | None) -> CopyStatus | None:
    """The last word about the newest log, from whoever knows of the most, also if it is silent now."""
    words = [context.live.statuses(one).get(found.name) for one in found.servers]
    token = location.token if location is not None else None
    said = [one for one in words if one is not None and one.generated_lsn is not None and one.token == token]
    return max(said, key=lambda one: one.generated_lsn or 0, default=None)


def _copy_queue(context: CommandContext, location: Location | None, status: CopyStatus) -> int | str:
    """Against the active's own word. Without a living active nobody knows how much it wrote that was never copied, and
    a copy's own 0 would be a lie (spec 2.2): the queue is unknown."""
    if location is None or not context.live.holds_tenure(location.active):
        return UNKNOWN
    if status.server == location.active:
        return _known(status.copy_queue)
    active = context.live.statuses(location.active).get(location.database)
    generated = active.generated_lsn if active is not None and active.token == location.token else None
    if generated is None or status.received_lsn is None:
        return UNKNOWN
    return max(_generation(generated) - _generation(status.received_lsn), 0)


def _lag_status(settings: CopySettings, status: CopyStatus) -> str:
    """Whether a lagged copy lags, or why not; "" for others."""
    if settings.replay_lag <= 0:
        return ""
    if settings.lag_disabled:
        return f"Enabled: False; PlayDownReason: {settings.lag_disabled}"
    return f"Enabled: True; {_known(status.replay_queue)} logs wait"


def _known(queue: int | None) -> int | str:
    return UNKNOWN if queue is None else queue


def _generation(lsn: int | None) -> int:
    return (lsn or 0) >> 20


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
