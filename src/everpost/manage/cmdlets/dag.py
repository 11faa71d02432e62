"""Database availability groups as objects (spec 1.1 to 1.4): create, change, show, remove."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from msgspec.structs import replace

from everpost.directory import keys
from everpost.directory.schema import decode, encode
from everpost.errors import AlreadyExists, Refused
from everpost.manage import registry
from everpost.manage.cmdlets.change import look_up, one_of, write
from everpost.manage.context import CommandContext
from everpost.manage.render import Row
from everpost.model import quorum
from everpost.model.server import DatabaseAvailabilityGroup, NetworkCompression, Role, Server

LONGEST_NAME = 15
WITNESS_ROOT = "/var/lib/everpost/witness"
TRIES = 20
"""How often a change is decided anew because somebody else changed a DAG at the same moment."""


def find_dag(context: CommandContext, name: str) -> DatabaseAvailabilityGroup:
    """A DAG in any case of its name. Raises NotFound."""
    return look_up(context.organization.dags, name, "database availability group", "Get-DatabaseAvailabilityGroup")


def find_server(context: CommandContext, name: str) -> Server:
    """A joined host in any case of its name. Raises NotFound."""
    return look_up(context.organization.servers, name, "server", "Get-ExchangeServer")


Edit = Callable[[DatabaseAvailabilityGroup, Mapping[str, DatabaseAvailabilityGroup]], DatabaseAvailabilityGroup | None]
"""`edit(the DAG now, all DAGs now)`: the DAG as it shall be, or None for "remove it". Raises Refused."""


async def change_dag(
    context: CommandContext, name: str, edit: Edit, *, create: bool = False, also: Mapping[str, int] | None = None
) -> DatabaseAvailabilityGroup | None:
    """Change a DAG by compare-and-swap on all DAGs as they are now, so that no two commands give one server to two
    DAGs or one directory to two witnesses; `also` guards other documents. Decided anew when somebody was faster."""
    key = keys.dag(name)
    for _ in range(TRIES):
        entries, _ = await context.directory.list(keys.DAGS)
        dags = {entry.key.removeprefix(keys.DAGS): decode(DatabaseAvailabilityGroup, entry.value) for entry in entries}
        guards = {entry.key: entry.revision for entry in entries} | dict(also or {})
        if create:
            guards[key] = 0
        elif name not in dags:
            raise Refused(f"{name} was removed at this moment.", remedy="Get-DatabaseAvailabilityGroup lists the DAGs.")
        after = edit(dags.get(name, DatabaseAvailabilityGroup(name=name)), dags)
        value = encode(after) if after is not None else None
        before = context.organization.revision(key)
        if after == dags.get(name):
            return after
        try:
            await write(context, guards, {key: value}, what=f"The DAG {name}")
        except Refused:
            continue
        end = context.clock.boottime() + 5.0
        while context.organization.revision(key) == before and context.clock.boottime() < end:
            await context.clock.sleep(0.01)
        return after
    raise Refused(f"{name} is being changed by somebody else all the time.", remedy="Repeat the command later.")


# -- the witness ---------------------------------------------------------------------------------------------------


def pick_witness(context: CommandContext) -> str:
    """A host without mailboxes: in this server's site before others, a hub before other roles. Raises Refused."""
    here = context.organization.servers.get(context.settings.name)
    site = here.site if here is not None else ""
    free = [one for one in context.organization.servers.values() if Role.MAILBOX not in one.roles]
    if not free:
        raise Refused(
            "No joined host is free to be the witness: all have the mailbox role.",
            remedy="Join one with `everpost server join --roles witness`, or name a host with -WitnessServer.",
        )
    ranked = sorted(free, key=lambda one: (one.site != site, Role.HUB_TRANSPORT not in one.roles, one.name))
    return ranked[0].name


def default_directory(context: CommandContext, dag: str) -> str:
    """The witness directory when none is named: one of its own for each DAG."""
    organization = context.organization.organization
    domain = organization.domain if organization is not None else ""
    return f"{WITNESS_ROOT}/{dag}.{domain}" if domain else f"{WITNESS_ROOT}/{dag}"


def check_directory(directory: str) -> str:
    """A full local path that is no root. Raises Refused."""
    plain = directory.replace("\\", "/")
    if plain.startswith("//"):
        raise Refused(f"{directory} is a share.", remedy="Name a folder on the witness host's own disk.")
    full = re.fullmatch(r"(?:[A-Za-z]:)?/.*", plain)
    if full is None or not plain.rpartition(":")[2].strip("/") or ".." in plain.split("/"):
        raise Refused(
            f"{directory} cannot be a witness directory.", remedy="Name a full path below the root, like /var/lib/fsw."
        )
    return directory


def check_witness(
    dag: DatabaseAvailabilityGroup,
    dags: Mapping[str, DatabaseAvailabilityGroup],
    server: str,
    directory: str,
    switch: str,
) -> None:
    """Raises Refused for a member, and for a directory that another witness uses (spec 1.2)."""
    if server in dag.members:
        raise Refused(
            f"{server} is a member of {dag.name}.", remedy=f"{switch} takes a host outside the DAG, as it breaks ties."
        )
    for other in dags.values():
        for host, place in (
            (other.witness_server, other.witness_directory),
            (other.alternate_witness_server, other.alternate_witness_directory),
        ):
            if other.name != dag.name and (server, directory) == (host, place):
                raise Refused(
                    f"{directory} on {server} is the witness directory of {other.name}.", remedy="Name another one."
                )


# -- commands ------------------------------------------------------------------------------------------------------


@registry.command("New-DatabaseAvailabilityGroup", columns=("Name", "WitnessServer", "WitnessDirectory"))
async def new_database_availability_group(
    context: CommandContext,
    name: str,
    witness_server: str | None = None,
    witness_directory: str | None = None,
    database_availability_group_ip_addresses: tuple[str, ...] = (),
    third_party_replication: str = "Disabled",
) -> list[Row]:
    """Create an empty database availability group. Without -WitnessServer a host without mailboxes is chosen."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]*", name) or len(name) > LONGEST_NAME:
        raise Refused(
            f"{name!r} cannot name a DAG.", remedy=f"Use letters, digits and hyphens, at most {LONGEST_NAME} of them."
        )
    if third_party_replication.lower() != "disabled":
        raise Refused("Replication is built in; another one cannot take its place.", remedy="Leave the parameter out.")
    if any(one.lower() == name.lower() for one in context.organization.servers):
        raise AlreadyExists(f"{name} is the name of a server.", remedy="Choose another name for the DAG.")
    server = find_server(context, witness_server).name if witness_server else pick_witness(context)
    directory = check_directory(witness_directory) if witness_directory else default_directory(context, name)

    def create(
        dag: DatabaseAvailabilityGroup, dags: Mapping[str, DatabaseAvailabilityGroup]
    ) -> DatabaseAvailabilityGroup:
        if any(one.lower() == name.lower() for one in dags):
            raise AlreadyExists(f"There is a DAG named {name} already.", remedy="Choose another name.")
        check_witness(dag, dags, server, directory, "-WitnessServer")
        return replace(dag, witness_server=server, witness_directory=directory)

    dag = await change_dag(context, name, create, create=True)
    assert dag is not None
    context.verbose(f"{name} is empty; its witness will be {directory} on {server}.")
    if database_availability_group_ip_addresses:
        context.verbose("A DAG needs no address of its own here; the addresses are accepted and not used.")
    return [_row(context, dag)]


@registry.command("Set-DatabaseAvailabilityGroup", columns=("Name", "WitnessServer", "WitnessDirectory"))
async def set_database_availability_group(
    context: CommandContext,
    identity: str,
    witness_server: str | None = None,
    witness_directory: str | None = None,
    alternate_witness_server: str | None = None,
    alternate_witness_directory: str | None = None,
    datacenter_activation_mode: str | None = None,
    network_encryption: str | None = None,
    network_compression: str | None = None,
    database_availability_group_ip_addresses: tuple[str, ...] = (),
    discover_networks: bool = False,
) -> list[Row]:
    """Change the witness, the alternate witness or the compression; with no parameter, make the voters right again.

    -NetworkCompression: when a seed is compressed on its way. InterSubnetOnly (preset): from another subnet; SeedOnly
    and Enabled: always; Disabled: never.
    """
    dag = find_dag(context, identity)
    if datacenter_activation_mode is not None and datacenter_activation_mode.lower() != "dagonly":
        raise Refused(
            "Datacenter activation coordination cannot be switched off: it keeps two halves of a DAG from mounting the"
            " same database after a power failure.",
            remedy="Leave the parameter out; it is DagOnly from two members on.",
        )
    if network_encryption is not None and network_encryption.lower() != "enabled":
        raise Refused("Replication is always encrypted.", remedy="Leave -NetworkEncryption out; it is Enabled.")
    compression: NetworkCompression | None = None
    if network_compression is not None:
        compression = one_of("-NetworkCompression", NetworkCompression, network_compression)
    if discover_networks:
        context.verbose("Networks follow the servers' addresses; there is nothing to discover.")
    if database_availability_group_ip_addresses:
        context.verbose("A DAG needs no address of its own here; the addresses are accepted and not used.")
    server = find_server(context, witness_server).name if witness_server else None
    alternate = find_server(context, alternate_witness_server).name if alternate_witness_server else None
    old = dag.witness_server

    def edit(
        dag: DatabaseAvailabilityGroup, dags: Mapping[str, DatabaseAvailabilityGroup]
    ) -> DatabaseAvailabilityGroup:
        if server or witness_directory:
            # Another host without a named directory gets the default one: the old host's path may not exist there.
            kept = dag.witness_directory if server in (None, dag.witness_server) else None
            place = check_directory(witness_directory) if witness_directory else kept
            place = place or default_directory(context, dag.name)
            host = server or dag.witness_server or pick_witness(context)
            check_witness(dag, dags, host, place, "-WitnessServer")
            dag = replace(dag, witness_server=host, witness_directory=place)
        if alternate or alternate_witness_directory:
            host = alternate or dag.alternate_witness_server or ""
            if not host:
                raise Refused("Which alternate witness?", remedy="Add -AlternateWitnessServer.")
            place = alternate_witness_directory or dag.alternate_witness_directory
            place = check_directory(place) if place else default_directory(context, dag.name)
            check_witness(dag, dags, host, place, "-AlternateWitnessServer")
            dag = replace(dag, alternate_witness_server=host, alternate_witness_directory=place)
        return replace(dag, network_compression=compression or dag.network_compression)

    after = await change_dag(context, dag.name, edit)
    assert after is not None
    if after.witness_server != old:
        context.verbose(f"The witness moves from {old or 'nowhere'} to {after.witness_server}.")
    if alternate or alternate_witness_directory:
        context.verbose("The alternate witness is used by a datacenter switchover only; it never takes over by itself.")
    await context.voters.reconcile(context.verbose, context.warning)
    return [_row(context, after)]


@registry.command("Remove-DatabaseAvailabilityGroup")
async def remove_database_availability_group(context: CommandContext, identity: str) -> list[Row]:
    """Remove an empty DAG."""

    def edit(dag: DatabaseAvailabilityGroup, dags: Mapping[str, DatabaseAvailabilityGroup]) -> None:
        if dag.members:
            raise Refused(
                f"{dag.name} has members: {', '.join(dag.members)}.",
                remedy="Remove them first with Remove-DatabaseAvailabilityGroupServer.",
            )

    await change_dag(context, find_dag(context, identity).name, edit)
    return []


@registry.command("Get-DatabaseAvailabilityGroup", columns=("Name", "MemberServers", "OperationalServers"))
async def get_database_availability_group(
    context: CommandContext, identity: str = "", status: bool = False
) -> list[Row]:
    """Show DAGs; -Status adds who works, who decides, who votes, and warns of a voter that is missing."""
    dags = [find_dag(context, identity)] if identity else list(context.organization.dags.values())
    rows = []
    voters = await context.voters.health() if status else {}
    for dag in sorted(dags, key=lambda one: one.name):
        row = _row(context, dag)
        if status:
            row |= _status(context, dag, voters)
        rows.append(row)
    return rows


def _row(context: CommandContext, dag: DatabaseAvailabilityGroup) -> Row:
    return {
        "Name": dag.name,
        "MemberServers": list(dag.members),
        "OperationalServers": [],
        "Servers": list(dag.members),
        "WitnessServer": dag.witness_server,
        "WitnessDirectory": dag.witness_directory,
        "AlternateWitnessServer": dag.alternate_witness_server,
        "AlternateWitnessDirectory": dag.alternate_witness_directory,
        "QuorumModel": str(quorum.model_of(dag)),
        "DatacenterActivationMode": "DagOnly" if len(dag.members) > 1 else "Off",
        "StartedMailboxServers": list(dag.members),
        "StoppedMailboxServers": [],
        "NetworkCompression": str(dag.network_compression),
        "NetworkEncryption": "Enabled",
        "ThirdPartyReplication": "Disabled",
        "DatabaseAvailabilityGroupIpv4Addresses": [],
    }


def _status(context: CommandContext, dag: DatabaseAvailabilityGroup, voters: Mapping[str, bool]) -> Row:
    """The live columns, and a warning for each voter that is missing."""
    wanted = quorum.wanted_voters(
        dag, lambda name: context.organization.servers[name].site if name in context.organization.servers else ""
    )
    silent = [name for name in wanted if not voters.get(name, False)]
    votes = dag.witness_server is not None and dag.witness_server in wanted
    for name in silent:
        what = "is the witness" if name == dag.witness_server else "is a voter"
        context.warning(missing_voter(name, what, quorum.tolerance(list(voters), [n for n in voters if voters[n]])))
    if votes and dag.witness_server in silent:
        share = "InvalidConfiguration"
    else:
        share = "Primary" if votes else "None"
    return {
        "OperationalServers": [name for name in dag.members if context.live.holds_tenure(name)],
        "PrimaryActiveManager": context.live.pam(dag.name),
        "Voters": sorted(voters),
        "VotersMissing": silent,
        "VotersThatMayBeLost": quorum.tolerance(list(voters), [name for name in voters if voters[name]]),
        "WitnessShareInUse": share,
        "ReplicationPort": context.settings.ports.postgres,
    }


def missing_voter(name: str, what: str, tolerance: int) -> str:
    """The alarm's sentence (P9)."""
    left = "the next loss of a voter stops every database" if tolerance <= 0 else f"{tolerance} more may be lost"
    return f"{name} {what} and does not answer; {left}."
