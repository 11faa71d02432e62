"""Members of a database availability group (spec 1.7, 1.8), and hosts that leave the organisation."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from everpost.activemanager import transitions
from everpost.directory import keys
from everpost.errors import NotFound, Refused, Unavailable
from everpost.manage import registry
from everpost.manage.cmdlets.change import write
from everpost.manage.cmdlets.dag import change_dag, find_dag, find_server
from everpost.manage.cmdlets.databases import write_location
from everpost.manage.context import CommandContext
from everpost.manage.render import Row
from everpost.model.server import DatabaseAvailabilityGroup, Role

MOST_MEMBERS = 16
TENURE_WAIT = 10.0
"""Seconds in which a dead server's tenure is surely taken or has run out."""

Dags = Mapping[str, DatabaseAvailabilityGroup]


@registry.command("Add-DatabaseAvailabilityGroupServer", positional=2)
async def add_database_availability_group_server(
    context: CommandContext, identity: str, mailbox_server: str
) -> list[Row]:
    """Make a mailbox server a member of the DAG; voters and witness follow."""
    server = find_server(context, mailbox_server)
    name = find_dag(context, identity).name
    if Role.MAILBOX not in server.roles:
        raise Refused(f"{server.name} has no mailbox role.", remedy="Only mailbox servers can be members.")

    def edit(dag: DatabaseAvailabilityGroup, dags: Dags) -> DatabaseAvailabilityGroup:
        for other in dags.values():
            if server.name in other.members and other.name != dag.name:
                raise Refused(
                    f"{server.name} is a member of {other.name}.",
                    remedy="A server belongs to one DAG at most:"
                    f" Remove-DatabaseAvailabilityGroupServer {other.name} {server.name} first.",
                )
        if server.name == dag.witness_server:
            raise Refused(
                f"{server.name} is the witness of {dag.name}.",
                remedy="Name another with Set-DatabaseAvailabilityGroup -WitnessServer first.",
            )
        if server.name in dag.members:
            return dag
        if len(dag.members) >= MOST_MEMBERS:
            raise Refused(
                f"{dag.name} has {MOST_MEMBERS} members, which is the most.",
                remedy="Remove one, or create another DAG with New-DatabaseAvailabilityGroup.",
            )
        return replace(dag, members=(*dag.members, server.name))

    key = keys.server(server.name)
    await change_dag(context, name, edit, also={key: context.organization.revision(key)})
    context.verbose(f"{server.name} is a member of {name}.")
    await _follow(context)
    return []


@registry.command("Remove-DatabaseAvailabilityGroupServer", positional=2)
async def remove_database_availability_group_server(
    context: CommandContext, identity: str, mailbox_server: str, configuration_only: bool = False
) -> list[Row]:
    """Take a member out of the DAG. -ConfigurationOnly removes a server that is lost for good."""
    server = find_server(context, mailbox_server)
    dag = find_dag(context, identity)
    if server.name not in dag.members:
        raise NotFound(
            f"{server.name} is no member of {dag.name}.", remedy=f"Its members: {', '.join(dag.members) or 'none'}."
        )
    if configuration_only:
        await _surely_gone(context, server.name)
    _refuse_copies(context, server.name, lost=configuration_only)
    if not configuration_only and not context.live.holds_tenure(server.name):
        raise Refused(f"{server.name} does not answer.", remedy="If it is lost for good, add -ConfigurationOnly.")

    def edit(dag: DatabaseAvailabilityGroup, dags: Dags) -> DatabaseAvailabilityGroup:
        _refuse_copies(context, server.name, lost=configuration_only)
        return replace(dag, members=tuple(one for one in dag.members if one != server.name))

    after = await change_dag(context, dag.name, edit)
    context.verbose(f"{server.name} is no member of {dag.name} any more.")
    await _follow(context)
    if configuration_only:
        await write(context, {}, {keys.status(server.name): None}, what=f"The state of {server.name}")
        await _forget_members(context, server.name)
        _warn_of_single_copies(context, server.name)
    if after is not None and not after.members:
        await write(context, {}, {keys.pam(dag.name): None}, what=f"The role of PAM in {dag.name}")
        context.verbose(f"{dag.name} is empty.")
    return []


async def _follow(context: CommandContext) -> None:
    """The voters follow; what hinders them is a warning, as the membership itself is changed (spec 1.2)."""
    try:
        await context.voters.reconcile(context.verbose, context.warning)
    except Unavailable as error:
        context.warning(f"The membership is changed, the voters are not as they should be yet: {error}")


def _refuse_copies(context: CommandContext, server: str, *, lost: bool) -> None:
    """A replicated database keeps its copies within one DAG (DAG-11); a single copy does not bind (DAG-15). The remedy
    has what to type for each copy, in order: an active one cannot be moved away from a server that is lost."""
    held = [
        one.name
        for one in sorted(context.organization.databases.values(), key=lambda one: one.name)
        if server in one.servers and len(one.servers) > 1
    ]
    if not held:
        return
    lines: list[str] = []
    for name in held:
        location = context.organization.locations.get(name)
        if location is not None and location[0].active == server:
            lines.append(f"Mount-Database {name} -AcceptDataLoss" if lost else f"Move-ActiveMailboxDatabase {name}")
        lines.append(f"Remove-MailboxDatabaseCopy {name}\\{server}")
    remedy = f"Type first: {'; '.join(lines)}."
    if any(line.startswith("Mount") for line in lines):
        remedy += f" Without -AcceptDataLoss it shows what would be lost; nothing is if {server} can be started."
    copies = ", ".join(f"{name}\\{server}" for name in held)
    raise Refused(f"{server} hosts copies of replicated databases: {copies}.", remedy=remedy)


async def _forget_members(context: CommandContext, server: str) -> None:
    """No record names a copy on the lost server that its database does not have any more: nobody waits for it, and it
    is not activated when it comes back."""
    for name, (location, revision) in list(context.organization.locations.items()):
        database = context.organization.databases.get(name)
        named = any(member.server == server for member in (*location.set, *location.eligible))
        if database is not None and server not in database.servers and named:
            after = transitions.shrunk(location, server, reason=f"{server} is removed")
            await write_location(context, location, revision, after)
            context.verbose(f"{name} does not count on {server} any more.")


def _warn_of_single_copies(context: CommandContext, server: str) -> None:
    alone = [one.name for one in context.organization.databases.values() if one.servers == (server,)]
    if alone:
        context.warning(
            f"{', '.join(sorted(alone))}: the only copy is on {server}; it opens when {server} is back, and"
            " Remove-MailboxDatabase forgets it."
        )


async def _surely_gone(context: CommandContext, server: str) -> None:
    """A server that still renews is not lost. Raises Refused."""
    end = context.clock.boottime() + TENURE_WAIT
    while context.live.holds_tenure(server):
        if context.clock.boottime() > end:
            raise Refused(
                f"{server} is alive: it renews its tenure.",
                remedy="Leave -ConfigurationOnly out, or switch the server off first.",
            )
        await context.clock.sleep(0.1)


@registry.command("Remove-ExchangeServer", aliases=("Remove-Server",))
async def remove_exchange_server(context: CommandContext, identity: str, configuration_only: bool = False) -> list[Row]:
    """Take a joined host out of the organisation: its document, its state, its vote. Its own files stay. Its name may
    join again. -ConfigurationOnly removes one that is lost for good."""
    server = find_server(context, identity)
    _refuse_in_use(context, server.name)
    if server.name == context.settings.name:
        raise Refused(f"{server.name} is this server.", remedy="Run the command on another server.")
    if configuration_only:
        await _surely_gone(context, server.name)
    elif not await _answers(context, server.name):
        raise Refused(f"{server.name} does not answer.", remedy="If it is lost for good, add -ConfigurationOnly.")
    if list(await context.voters.health()) == [server.name]:
        raise Refused(
            f"{server.name} is the only voter: it holds the organisation's documents.",
            remedy="Make another server a member of a DAG first, which makes it a voter.",
        )
    guards = {keys.server(server.name): context.organization.revision(keys.server(server.name))}
    dags, _ = await context.directory.list(keys.DAGS)
    guards |= {entry.key: entry.revision for entry in dags}
    # The fence stays: epochs of a name never go back, even if a host of that name joins again.
    gone = {keys.server(server.name): None, keys.status(server.name): None, keys.tenure(server.name): None}
    await write(context, guards, gone, what=server.name)
    await context.voters.reconcile(context.verbose, context.warning)
    await context.voters.expel(server)
    context.warning(f"The files on {server.name} stay; its certificate is not asked for any more.")
    return []


def _refuse_in_use(context: CommandContext, server: str) -> None:
    for dag in context.organization.dags.values():
        if server in dag.members:
            raise Refused(
                f"{server} is a member of {dag.name}.",
                remedy=f"Remove-DatabaseAvailabilityGroupServer {dag.name} {server} first.",
            )
        if server == dag.witness_server:
            raise Refused(
                f"{server} is the witness of {dag.name}.",
                remedy=f"Set-DatabaseAvailabilityGroup {dag.name} -WitnessServer HOST first.",
            )
    for database in context.organization.databases.values():
        if server in database.servers:
            raise Refused(f"{server} hosts {database.name}.", remedy="Remove the database, or its copy there, first.")


async def _answers(context: CommandContext, server: str) -> bool:
    try:
        await context.agents.call(server, "GET", "/v1/ping")
    except Unavailable:
        return False
    return True
