"""Networks of a DAG (spec 1.6): which subnet is which, and over which addresses a copy follows another. Pure."""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Collection, Iterable

import msgspec

from everpost.model.server import DagNetwork, DatabaseAvailabilityGroup, NetworkCompression, Server

MAPI = "MapiDagNetwork"
REPLICATION = "ReplicationDagNetwork01"
IPV4_BITS = 24
IPV6_BITS = 64
"""How large a subnet is taken to be that nobody described: a host knows its address, not who else is on its line."""


@functools.lru_cache(maxsize=256)
def subnet_of(address: str) -> str:
    """The subnet of an address in `address/bits` notation, when no network names it. Asked at each look of a copy."""
    place = ipaddress.ip_address(address)
    bits = IPV4_BITS if place.version == 4 else IPV6_BITS
    return str(ipaddress.ip_network(f"{address}/{bits}", strict=False))


def contains(subnets: Iterable[str], address: str) -> bool:
    """Whether one of the subnets holds the address."""
    place = ipaddress.ip_address(address)
    return any(place in ipaddress.ip_network(subnet) for subnet in subnets)


def networks(dag: DatabaseAvailabilityGroup, servers: Collection[Server]) -> tuple[DagNetwork, ...]:
    """Those that an administrator described, and one each for the MAPI and the replication addresses that these do not
    hold. All MAPI subnets are one network, all replication subnets another (NET-7, P29)."""
    members = [server for server in servers if server.name in dag.members]
    described = [subnet for network in dag.networks for subnet in network.subnets]

    def rest(addresses: Iterable[str]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(subnet_of(one) for one in addresses if not contains(described, one)))

    found = list(dag.networks)
    mapi = rest(server.address for server in members)
    replication = tuple(
        subnet
        for subnet in rest(server.replication_address for server in members if _two_addresses(server))
        if subnet not in mapi
    )
    for name, subnets in ((MAPI, mapi), (REPLICATION, replication)):
        if subnets:
            found.append(DagNetwork(name=name, subnets=subnets, description="by the servers' addresses"))
    return tuple(found)


def _two_addresses(server: Server) -> bool:
    return server.replication_address != server.address


def network_at(found: Iterable[DagNetwork], address: str) -> DagNetwork | None:
    """The network that an address lies in."""
    return next((network for network in found if contains(network.subnets, address)), None)


def replication_addresses(dag: DatabaseAvailabilityGroup | None, server: Server) -> tuple[str, ...]:
    """Where a server's copy is followed, the preferred address first: the replication network unless it is ignored or
    not enabled for replication, and always the MAPI network, to fall back to (NET-9)."""
    if not _two_addresses(server):
        return (server.address,)
    network = network_at(dag.networks, server.replication_address) if dag is not None else None
    usable = network is None or (network.replication_enabled and not network.ignore_network)
    return (server.replication_address, server.address) if usable else (server.address,)


def compressed_seed(dag: DatabaseAvailabilityGroup | None, source: Server, target: Server) -> bool:
    """Whether a seed is compressed on its way: by the DAG's NetworkCompression, and by whether the preferred address of
    its source lies in a subnet of the target's."""
    if dag is None or dag.network_compression is NetworkCompression.DISABLED:
        return False
    if dag.network_compression is not NetworkCompression.INTER_SUBNET_ONLY:
        return True
    described = [subnet for network in dag.networks for subnet in network.subnets]
    place = replication_addresses(dag, source)[0]

    def subnet(address: str) -> str:
        return next((one for one in described if contains((one,), address)), subnet_of(address))

    return subnet(place) not in {subnet(one) for one in (target.address, target.replication_address)}


def changed(dag: DatabaseAvailabilityGroup, network: DagNetwork, old: str = "") -> DatabaseAvailabilityGroup:
    """The DAG with that network in place of the one named `old`."""
    kept = [one for one in dag.networks if one.name.lower() not in (network.name.lower(), old.lower())]
    return msgspec.structs.replace(dag, networks=(*kept, network))
