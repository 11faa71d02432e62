"""Database availability groups (spec 1.1, 1.2, 1.7, 1.8)."""

from __future__ import annotations

import re

from msgspec.structs import replace

from everpost.directory import keys
from everpost.directory.schema import encode
from everpost.errors import AlreadyExists, NotFound, Refused
from everpost.manage import registry
from everpost.manage.cmdlets.change import look_up, seen, write
from everpost.manage.context import CommandContext
from everpost.manage.render import Row
from everpost.model.server import DatabaseAvailabilityGroup, Role, Server

LONGEST_NAME = 15
MOST_MEMBERS = 16
WITNESS_ROOT = "/var/lib/everpost/witness"


def _dag(context: CommandContext, name: str) -> DatabaseAvailabilityGroup:
    return look_up(context.organization.dags, name, "database availability group", "Get-DatabaseAvailabilityGroup")


def _server(context: CommandContext, name: str) -> Server:
    return look_up(context.organization.servers, name, "server", "Get-ExchangeServer")


def _witness(context: CommandContext, name: str | None, directory: str | None, dag: str) -> tuple[str | None, str]:
    """The witness by spec 1.2: as named, else a joined host that is no mailbox server."""
    chosen: str | None = None
    if name:
        chosen = _server(context, name).name
    else:
        free = [one.name for one in context.organization.servers.values() if Role.MAILBOX not in one.roles]
        chosen = sorted(free)[0] if free else None
    place = directory or f"{WITNESS_ROOT}/{dag}"
    for other in context.organization.dags.values():
        if other.name != dag and chosen == other.witness_server and place == other.witness_directory:
            raise Refused(f"{place} on {chosen} is the witness directory of {other.name}.", remedy="Name another one.")
    return chosen, place


@registry.command("New-DatabaseAvailabilityGroup", columns=("Name", "WitnessServer", "WitnessDirectory"))
async def new_database_availability_group(
    context: CommandContext,
    name: str,
    witness_server: str | None = None,
    witness_directory: str | None = None,
    database_availability_group_ip_addresses: tuple[str, ...] = (),
) -> list[Row]:
    """Create an empty database availability group. Without -WitnessServer a host without mailboxes is chosen."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]*", name) or len(name) > LONGEST_NAME:
        raise Refused(
            f"{name!r} cannot name a DAG.", remedy=f"Use letters, digits and hyphens, at most {LONGEST_NAME} of them."
        )
    if any(one.lower() == name.lower() for one in context.organization.servers):
        raise AlreadyExists(f"{name} is the name of a server.", remedy="Choose another name for the DAG.")
    if any(one.lower() == name.lower() for one in context.organization.dags):
        raise AlreadyExists(f"There is a DAG named {name} already.", remedy="Choose another name.")
    server, directory = _witness(context, witness_server, witness_directory, name)
    if server is None:
        context.warning(
            "No host without mailboxes has joined, so there is no witness yet; name one before the second member."
        )
    dag = DatabaseAvailabilityGroup(name=name, witness_server=server, witness_directory=directory)
    await write(context, [keys.dag(name)], {keys.dag(name): encode(dag)}, what=f"The DAG {name}")
    await seen(context, keys.dag(name))
    context.verbose(f"{name} is empty; its witness will be {directory} on {server}.")
    if database_availability_group_ip_addresses:
        context.verbose("A DAG needs no address of its own here; the addresses are accepted and not used.")
    return [_row(context, dag, status=False)]


@registry.command("Set-DatabaseAvailabilityGroup", columns=("Name", "WitnessServer", "WitnessDirectory"))
async def set_database_availability_group(
    context: CommandContext,
    identity: str,
    witness_server: str | None = None,
    witness_directory: str | None = None,
    datacenter_activation_mode: str | None = None,
) -> list[Row]:
    """Change the witness; with no parameter, make the voters right again."""
    dag = _dag(context, identity)
    if datacenter_activation_mode is not None and datacenter_activation_mode.lower() == "off":
        raise Refused(
            "Datacenter activation coordination cannot be switched off.",
            remedy="It is what keeps two halves of a DAG from mounting the same database after a power failure.",
        )
    old = dag.witness_server
    if witness_server or witness_directory:
        server, directory = _witness(context, witness_server or dag.witness_server, witness_directory, dag.name)
        if server in dag.members:
            raise Refused(f"{server} is a member of {dag.name}.", remedy="The witness must be a host outside the DAG.")
        dag = replace(dag, witness_server=server, witness_directory=directory)
        await write(context, [keys.dag(dag.name)], {keys.dag(dag.name): encode(dag)}, what=f"The DAG {dag.name}")
        context.verbose(f"The witness moves from {old} to {server}.")
    await context.voters.reconcile(dag, context.verbose)
    return [_row(context, dag, status=False)]


@registry.command("Remove-DatabaseAvailabilityGroup")
async def remove_database_availability_group(context: CommandContext, identity: str) -> list[Row]:
    """Remove an empty DAG."""
    dag = _dag(context, identity)
    if dag.members:
        raise Refused(
            f"{dag.name} has members: {', '.join(dag.members)}.",
            remedy="Remove them first with Remove-DatabaseAvailabilityGroupServer.",
        )
    await write(context, [keys.dag(dag.name)], {keys.dag(dag.name): None}, what=f"The DAG {dag.name}")
    return []


@registry.command("Add-DatabaseAvailabilityGroupServer", positional=2)
async def add_database_availability_group_server(
    context: CommandContext, identity: str, mailbox_server: str
) -> list[Row]:
    """Make a mailbox server a member of the DAG; voters and witness follow."""
    dag = _dag(context, identity)
    server = _server(context, mailbox_server)
    if Role.MAILBOX not in server.roles:
        raise Refused(f"{server.name} has no mailbox role.", remedy="Only mailbox servers can be members.")
    if server.name == dag.witness_server:
        raise Refused(f"{server.name} is the witness of {dag.name}.", remedy="Name another witness first.")
    other = context.organization.dag_of(server.name)
    if other is not None and other.name != dag.name:
        raise Refused(f"{server.name} is a member of {other.name}.", remedy="A server belongs to one DAG at most.")
    if other is None:
        if len(dag.members) >= MOST_MEMBERS:
            raise Refused(f"{dag.name} has {MOST_MEMBERS} members, which is the most.", remedy="Create another DAG.")
        if len(dag.members) % 2 == 1 and dag.witness_server is None:
            raise Refused(
                f"{dag.name} would have an even number of members and no witness.",
                remedy="Join a witness host, then Set-DatabaseAvailabilityGroup -WitnessServer.",
            )
        dag = replace(dag, members=(*dag.members, server.name))
        await write(context, [keys.dag(dag.name)], {keys.dag(dag.name): encode(dag)}, what=f"The DAG {dag.name}")
        await seen(context, keys.dag(dag.name), context.organization.revision(keys.dag(dag.name)) + 1, 1.0)
        context.verbose(f"{server.name} is a member of {dag.name}.")
    await context.voters.reconcile(dag, context.verbose)
    return []


@registry.command("Remove-DatabaseAvailabilityGroupServer", positional=2)
async def remove_database_availability_group_server(
    context: CommandContext, identity: str, mailbox_server: str, configuration_only: bool = False
) -> list[Row]:
    """Take a member out of the DAG. -ConfigurationOnly removes a server that is lost for good."""
    dag = _dag(context, identity)
    server = _server(context, mailbox_server)
    if server.name not in dag.members:
        raise NotFound(f"{server.name} is no member of {dag.name}.")
    for database in context.organization.databases.values():
        if server.name in database.servers and len(database.servers) > 1:
            raise Refused(
                f"{server.name} holds a copy of {database.name}.",
                remedy=f"Remove-MailboxDatabaseCopy {database.name}\\{server.name} first.",
            )
    if not configuration_only and not context.live.holds_tenure(server.name):
        raise Refused(f"{server.name} does not answer.", remedy="If it is lost for good, add -ConfigurationOnly.")
    dag = replace(dag, members=tuple(name for name in dag.members if name != server.name))
    await write(context, [keys.dag(dag.name)], {keys.dag(dag.name): encode(dag)}, what=f"The DAG {dag.name}")
    await context.voters.reconcile(dag, context.verbose)
    return []


@registry.command("Get-DatabaseAvailabilityGroup", columns=("Name", "MemberServers", "OperationalServers"))
async def get_database_availability_group(
    context: CommandContext, identity: str = "", status: bool = False
) -> list[Row]:
    """Show DAGs; -Status adds who works, who decides and who votes."""
    dags = [_dag(context, identity)] if identity else list(context.organization.dags.values())
    rows = [_row(context, dag, status=status) for dag in sorted(dags, key=lambda one: one.name)]
    if status:
        voters = await context.voters.names()
        for row in rows:
            row["Voters"] = voters
    return rows


def _row(context: CommandContext, dag: DatabaseAvailabilityGroup, *, status: bool) -> Row:
    even = len(dag.members) % 2 == 0 and bool(dag.members)
    row: Row = {
        "Name": dag.name,
        "MemberServers": list(dag.members),
        "OperationalServers": [name for name in dag.members if context.live.holds_tenure(name)] if status else [],
        "WitnessServer": dag.witness_server,
        "WitnessDirectory": dag.witness_directory,
        "DatacenterActivationMode": "DagOnly" if len(dag.members) > 1 else "Off",
        "QuorumModel": "Node and File Share Majority" if even else "Node Majority",
    }
    if status:
        row["PrimaryActiveManager"] = context.live.pam(dag.name)
    return row
