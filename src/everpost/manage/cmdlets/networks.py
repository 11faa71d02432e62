"""Networks of a DAG (spec 1.6): they follow the servers' addresses; an administrator may describe others."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Mapping

from msgspec.structs import replace

from everpost.errors import AlreadyExists, NotFound, Refused
from everpost.manage import registry
from everpost.manage.cmdlets.dag import change_dag, find_dag
from everpost.manage.context import CommandContext
from everpost.manage.render import Row
from everpost.model import network
from everpost.model.server import DagNetwork, DatabaseAvailabilityGroup, Server
from everpost.monitoring.observe import reaches

LONGEST_NAME = 128
LONGEST_DESCRIPTION = 256
COLUMNS = ("Identity", "ReplicationEnabled", "Subnets")
Dags = Mapping[str, DatabaseAvailabilityGroup]


def _split(context: CommandContext, identity: str) -> tuple[DatabaseAvailabilityGroup, str]:
    """`DAG1\\ReplicationDagNetwork01`."""
    name, _, net = identity.replace("/", "\\").partition("\\")
    if not net:
        raise Refused(f"{identity} names no network.", remedy="Type it as DAG\\NETWORK.")
    return find_dag(context, name), net


def _find(dag: DatabaseAvailabilityGroup, servers: Mapping[str, Server], name: str) -> DagNetwork:
    for one in network.networks(dag, list(servers.values())):
        if one.name.lower() == name.lower():
            return one
    known = ", ".join(one.name for one in network.networks(dag, list(servers.values())))
    raise NotFound(f"{dag.name} has no network {name}.", remedy=f"It has {known or 'none, as it has no members'}.")


def _check(found: DagNetwork) -> DagNetwork:
    """Raises Refused for what spec 1.6 does not allow (NET-13)."""
    if not found.name or len(found.name) > LONGEST_NAME or "\\" in found.name:
        raise Refused("That cannot name a network.", remedy=f"Use at most {LONGEST_NAME} characters, no backslash.")
    if len(found.description) > LONGEST_DESCRIPTION:
        raise Refused("The description is too long.", remedy=f"Use at most {LONGEST_DESCRIPTION} characters.")
    subnets = []
    for subnet in found.subnets:
        try:
            subnets.append(str(ipaddress.ip_network(subnet)))
        except ValueError as error:
            raise Refused(f"{subnet} is no subnet: {error}.", remedy="Type it like 10.0.0.0/24.") from None
    return replace(found, subnets=tuple(subnets))


def _boolean(value: str, name: str) -> bool:
    """`$false` arrives as a boolean of the shell or as its word."""
    if value.lower() not in ("true", "false"):
        raise Refused(f"-{name} is $true or $false, not {value!r}.")
    return value.lower() == "true"


@registry.command("Get-DatabaseAvailabilityGroupNetwork", columns=COLUMNS)
async def get_database_availability_group_network(
    context: CommandContext, identity: str = "", server: str = ""
) -> list[Row]:
    """Show the networks of all DAGs, one DAG, or one network (`DAG1\\ReplicationDagNetwork01`), with the state of each
    server's interface as seen from here."""
    name, _, only = identity.replace("/", "\\").partition("\\")
    dags = [find_dag(context, name)] if name else list(context.organization.dags.values())
    rows = []
    for dag in sorted(dags, key=lambda one: one.name):
        for one in network.networks(dag, list(context.organization.servers.values())):
            if not only or one.name.lower() == only.lower():
                rows.append(await _row(context, dag, one, server))
    if only and not rows:
        _find(dags[0], context.organization.servers, only)
    return rows


async def _row(context: CommandContext, dag: DatabaseAvailabilityGroup, one: DagNetwork, only: str) -> Row:
    servers = [context.organization.servers[name] for name in dag.members if name in context.organization.servers]
    places = [
        (server, address)
        for server in servers
        for address in dict.fromkeys((server.address, server.replication_address))
        if network.contains(one.subnets, address) and only.lower() in ("", server.name.lower())
    ]
    up = await asyncio.gather(*(reaches(address, server.ports.agent) for server, address in places))
    interfaces = [
        {"Server": server.name, "State": "Up" if works else "Unreachable", "IPAddress": address}
        for (server, address), works in zip(places, up, strict=True)
    ]

    def state(subnet: str) -> str:
        inside = [works for (_, address), works in zip(places, up, strict=True) if network.contains((subnet,), address)]
        if not inside:
            return "Unknown"
        return "Up" if all(inside) else "Partitioned" if any(inside) else "Down"

    return {
        "Identity": f"{dag.name}\\{one.name}",
        "ReplicationEnabled": one.replication_enabled,
        "Subnets": [f"{{{subnet},{state(subnet)}}}" for subnet in one.subnets],
        "Name": one.name,
        "Description": one.description,
        "Interfaces": interfaces,
        "MapiAccessEnabled": any(network.contains(one.subnets, server.address) for server in servers),
        "IgnoreNetwork": one.ignore_network,
    }


@registry.command("New-DatabaseAvailabilityGroupNetwork", positional=2, columns=COLUMNS)
async def new_database_availability_group_network(
    context: CommandContext,
    name: str,
    database_availability_group: str,
    subnets: tuple[str, ...],
    description: str = "",
    replication_enabled: str = "true",
    ignore_network: str = "false",
) -> list[Row]:
    """Describe a network by its -Subnets (address/bits)."""
    found = _check(
        DagNetwork(
            name=name,
            subnets=subnets,
            description=description,
            replication_enabled=_boolean(replication_enabled, "ReplicationEnabled"),
            ignore_network=_boolean(ignore_network, "IgnoreNetwork"),
        )
    )

    def edit(dag: DatabaseAvailabilityGroup, dags: Dags) -> DatabaseAvailabilityGroup:
        if any(one.name.lower() == name.lower() for one in dag.networks):
            raise AlreadyExists(f"{dag.name} has a network {name} already.", remedy="Set-… changes it.")
        _refuse_overlap(dag, found)
        return network.changed(dag, found)

    dag = await change_dag(context, find_dag(context, database_availability_group).name, edit)
    assert dag is not None
    return [await _row(context, dag, found, "")]


def _refuse_overlap(dag: DatabaseAvailabilityGroup, found: DagNetwork) -> None:
    for other in dag.networks:
        for mine in map(ipaddress.ip_network, found.subnets):
            for its in map(ipaddress.ip_network, other.subnets):
                if other.name.lower() != found.name.lower() and mine.version == its.version and mine.overlaps(its):
                    raise Refused(
                        f"{mine} overlaps {its} of {other.name}.", remedy="A subnet belongs to one network at most."
                    )


@registry.command("Set-DatabaseAvailabilityGroupNetwork", columns=COLUMNS)
async def set_database_availability_group_network(
    context: CommandContext,
    identity: str,
    name: str | None = None,
    description: str | None = None,
    replication_enabled: str | None = None,
    ignore_network: str | None = None,
    subnets: tuple[str, ...] = (),
) -> list[Row]:
    """Change a network. -ReplicationEnabled $false: only if no other network works; -IgnoreNetwork $true: not at all.
    Copies that follow over it go on until their connection ends."""
    group, old = _split(context, identity)
    servers = context.organization.servers
    fields: dict[str, object] = {}
    if name is not None:
        fields["name"] = name
    if description is not None:
        fields["description"] = description
    if replication_enabled is not None:
        fields["replication_enabled"] = _boolean(replication_enabled, "ReplicationEnabled")
    if ignore_network is not None:
        fields["ignore_network"] = _boolean(ignore_network, "IgnoreNetwork")
    if subnets:
        fields["subnets"] = subnets

    def edit(dag: DatabaseAvailabilityGroup, dags: Dags) -> DatabaseAvailabilityGroup:
        before = _find(dag, servers, old)
        after = _check(replace(before, **fields))
        members = [servers[one] for one in dag.members if one in servers]
        if after.ignore_network and any(network.contains(after.subnets, one.address) for one in members):
            raise Refused(f"{after.name} is the MAPI network; it cannot be ignored.")
        _refuse_overlap(replace(dag, networks=tuple(one for one in dag.networks if one.name != before.name)), after)
        return network.changed(dag, after, before.name)

    dag = await change_dag(context, group.name, edit)
    assert dag is not None
    return [await _row(context, dag, _find(dag, servers, name or old), "")]


@registry.command("Remove-DatabaseAvailabilityGroupNetwork")
async def remove_database_availability_group_network(context: CommandContext, identity: str) -> list[Row]:
    """Forget the description of a network; addresses in it follow the rule by default again."""
    group, name = _split(context, identity)

    def edit(dag: DatabaseAvailabilityGroup, dags: Dags) -> DatabaseAvailabilityGroup:
        kept = tuple(one for one in dag.networks if one.name.lower() != name.lower())
        if len(kept) == len(dag.networks):
            raise NotFound(
                f"{dag.name} has no described network {name}.",
                remedy="A network that follows the servers' addresses goes with them.",
            )
        return replace(dag, networks=kept)

    await change_dag(context, group.name, edit)
    return []
