"""Will the DAG survive if this server stops now? (spec 13, P8)"""

from __future__ import annotations

from everpost.errors import EverpostError
from everpost.manage import registry
from everpost.manage.cmdlets.dag import find_server
from everpost.manage.context import CommandContext
from everpost.manage.render import Row
from everpost.model import quorum
from everpost.model.database import LocationState, MailboxDatabase
from everpost.monitoring.alarms import good_copies


async def survives(context: CommandContext, server: str) -> list[str]:
    """What stands against stopping that host now, as sentences; empty: the DAG survives it. Voters count when they
    really answer, copies when they could serve without loss on a server that holds its tenure."""
    return [*await _quorum(context, server), *_databases(context, server)]


async def _quorum(context: CommandContext, server: str) -> list[str]:
    try:
        voters = await context.voters.health()
    except EverpostError as error:
        return [f"Whether there is quorum cannot be seen: {error.what}"]
    silent = [name for name, answers in voters.items() if not answers]
    missing = f" ({', '.join(silent)} does not answer already)" if silent else ""
    if server not in voters:
        if quorum.has_quorum(voters, [name for name in voters if voters[name]]):
            return []
        return [f"There is no quorum now{missing}."]
    left = [name for name in voters if voters[name] and name != server]
    if quorum.has_quorum(voters, left):
        return []
    return [
        f"Without {server} {len(left)} of {len(voters)} voters answer{missing}; {quorum.majority(len(voters))} are"
        " needed, so every database would be dismounted."
    ]


def _databases(context: CommandContext, server: str) -> list[str]:
    found = []
    for database in sorted(context.organization.databases.values(), key=lambda one: one.name):
        if server in database.servers:
            obstacle = _database(context, database, server)
            if obstacle:
                found.append(obstacle)
    return found


def _database(context: CommandContext, database: MailboxDatabase, server: str) -> str:
    held = context.organization.locations.get(database.name)
    location = held[0] if held is not None else None
    if location is None or location.state is LocationState.DISMOUNTED:
        return ""
    if len(database.servers) == 1:
        return f"{database.name} has its only copy on {server}."
    alive = {name for name in database.servers if context.live.holds_tenure(name)}
    statuses = {
        name: status
        for name in database.servers
        if (status := context.live.statuses(name).get(database.name)) is not None
    }
    good = good_copies(database, location, alive, statuses)
    if server not in good and location.active != server:
        return ""  # it serves from elsewhere, and loses nothing that it has
    if any(name != server for name in good):
        return ""
    others = ", ".join(
        f"{database.name}\\{name} is {statuses[name].state if name in alive and name in statuses else 'ServiceDown'}"
        for name in database.servers
        if name != server
    )
    return f"{database.name} has no other copy that could serve without loss: {others}."


@registry.command(
    "Test-DatabaseAvailabilityGroupShutdown",
    columns=("Server", "Survives", "Obstacles"),
    aliases=("Test-DagSurvival",),
)
async def test_database_availability_group_shutdown(context: CommandContext, mailbox_server: str) -> list[Row]:
    """Say whether everything goes on when this host (a member or a witness) stops now, and if not, why. Its exit
    status is 1 when it does not."""
    server = find_server(context, mailbox_server)
    obstacles = await survives(context, server.name)
    if obstacles:
        context.failed()
    return [{"Server": server.name, "Survives": not obstacles, "Obstacles": obstacles}]
