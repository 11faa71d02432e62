"""Observes a server and its DAG from here, for the checks of `health`: each question has its own limit of time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any, Protocol

from everpost.directory.schema import OrganizationView
from everpost.errors import EverpostError
from everpost.model import network, quorum
from everpost.model.database import CopyState, CopyStatus, LocationState, MailboxDatabase
from everpost.model.server import DatabaseAvailabilityGroup, Server
from everpost.monitoring.alarms import good_copies
from everpost.monitoring.health import CopyHealth, Health

CONNECT = 1.0
"""Seconds for a TCP connection between hosts of a DAG."""


class Live(Protocol):
    """What changes by itself."""

    def holds_tenure(self, server: str) -> bool: ...
    def pam(self, dag: str) -> str | None: ...
    def statuses(self, server: str) -> Mapping[str, CopyStatus]: ...


class Calls(Protocol):
    """Calls to other hosts' agents."""

    async def call(
        self, server: str, method: str, path: str, json: Any = None, *, timeout: float = 2.0
    ) -> dict[str, Any]: ...


class Voters(Protocol):
    """Who votes, and whether it answers."""

    async def health(self) -> dict[str, bool]: ...


class Sources(Protocol):
    """Where observations come from; every command's context is one."""

    organization: OrganizationView
    live: Any
    agents: Any
    voters: Any


async def reaches(address: str, port: int) -> bool:
    """Whether a TCP connection comes about."""
    try:
        async with asyncio.timeout(CONNECT):
            _, writer = await asyncio.open_connection(address, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True


async def observe(sources: Sources, server: Server) -> Health:
    """One server and its DAG."""
    dag = sources.organization.dag_of(server.name)
    status, listeners, group = await asyncio.gather(
        _status(sources.agents, server.name), _listeners(sources, server), _group(sources, server, dag)
    )
    error = status.get("error", "")
    dac = status.get("coordination", {})
    pam = sources.live.pam(dag.name) if dag is not None else None
    role = "Standalone" if dag is None else "Primary" if pam == server.name else "Standby"
    return Health(
        server=server.name,
        dag=dag.name if dag is not None else None,
        agent=error,
        role=role,
        tenure=sources.live.holds_tenure(server.name),
        coordination="" if dac.get("bit", True) else str(dac.get("reason", "")),
        listeners=listeners,
        pam=pam,
        copies=copies_on(sources, server.name),
        **group,
    )


async def _status(agents: Calls, server: str) -> dict[str, Any]:
    try:
        return await agents.call(server, "GET", "/v1/status")
    except EverpostError as error:
        return {"error": error.what}


async def _listeners(sources: Sources, server: Server) -> str:
    """The log streams' listeners, on any of the server's networks."""
    dag = sources.organization.dag_of(server.name)
    addresses = network.replication_addresses(dag, server)

    async def ask(database: MailboxDatabase) -> str:
        port = server.ports.postgres + database.number
        if any(await asyncio.gather(*(reaches(address, port) for address in addresses))):
            return ""
        return f"nothing listens for {database.name}\\{server.name} on port {port}"

    held = [one for one in sources.organization.databases.values() if server.name in one.servers]
    return "; ".join(text for text in await asyncio.gather(*(ask(one) for one in held)) if text)


async def _group(sources: Sources, server: Server, dag: DatabaseAvailabilityGroup | None) -> dict[str, Any]:
    if dag is None:
        return {}
    servers = sources.organization.servers
    wanted = quorum.wanted_voters(dag, lambda name: servers[name].site if name in servers else "")
    witness_votes = dag.witness_server is not None and dag.witness_server in wanted
    voters, down, witness = await asyncio.gather(
        _voters(sources.voters), networks_down(dag, servers), witness_error(sources.agents, dag) if witness_votes
        else _nothing()
    )  # fmt: skip
    found, error = voters
    cluster = error
    if not cluster and server.name in wanted and not found.get(server.name, False):
        cluster = f"its member of the directory does not {'answer' if server.name in found else 'vote'}"
    if witness_votes and not witness and not found.get(str(dag.witness_server), False):
        witness = f"{dag.witness_server} does not vote"
    return {
        "cluster": cluster,
        "quorum": error,
        "voters": found,
        "wanted": tuple(wanted),
        "members_down": tuple(name for name in dag.members if not sources.live.holds_tenure(name)),
        "networks_down": tuple(down),
        "witness_votes": witness_votes,
        "witness": witness,
    }


async def _nothing() -> str:
    return ""


async def _voters(voters: Voters) -> tuple[dict[str, bool], str]:
    try:
        return await voters.health(), ""
    except EverpostError as error:
        return {}, error.what


async def witness_error(agents: Calls, dag: DatabaseAvailabilityGroup) -> str:
    """Why the witness does not take a durable write, or "" (P9)."""
    if dag.witness_server is None:
        return f"{dag.name} has no witness: Set-DatabaseAvailabilityGroup {dag.name} -WitnessServer HOST"
    try:
        found = await agents.call(
            dag.witness_server, "POST", "/v1/witness", {"directory": dag.witness_directory}, timeout=3.0
        )
    except EverpostError as error:
        return f"{error.what} ({dag.witness_directory} on {dag.witness_server})"
    return "" if found.get("member_here") else f"{dag.witness_server} does not vote from {dag.witness_directory}"


async def networks_down(dag: DatabaseAvailabilityGroup, servers: Mapping[str, Server]) -> list[str]:
    """Interfaces of members that this host does not reach, in networks that are not ignored."""
    found = network.networks(dag, list(servers.values()))

    async def ask(server: Server, address: str) -> str:
        where = network.network_at(found, address)
        if where is None or where.ignore_network or await reaches(address, server.ports.agent):
            return ""
        return f"{server.name} does not answer at {address} ({where.name})"

    members = [servers[name] for name in dag.members if name in servers]
    asked = [ask(one, address) for one in members for address in dict.fromkeys((one.address, one.replication_address))]
    return [text for text in await asyncio.gather(*asked) if text]


def copies_on(sources: Sources, server: str) -> tuple[CopyHealth, ...]:
    """The server's copies as last published."""
    view = sources.organization
    alive = {name for name in view.servers if sources.live.holds_tenure(name)}
    rows = []
    for database in sorted(view.databases.values(), key=lambda one: one.name):
        if server not in database.servers:
            continue
        held = view.locations.get(database.name)
        location = held[0] if held is not None else None
        statuses = {
            name: status
            for name in database.servers
            if (status := sources.live.statuses(name).get(database.name)) is not None
        }
        status = statuses.get(server)
        state = status.state if status is not None else CopyState.INITIALIZING
        good = good_copies(database, location, alive, statuses)
        closed = location is not None and location.state is LocationState.DISMOUNTED
        rows.append(
            CopyHealth(
                name=f"{database.name}\\{server}",
                state=state if server in alive else CopyState.SERVICE_DOWN,
                error=status.error if status is not None else "",
                copy_queue=status.copy_queue if status is not None else None,
                replay_queue=status.replay_queue if status is not None else None,
                active=location is not None and location.active == server,
                mounted_somewhere=closed or (location is not None and location.active in good),
                copies=len(database.servers),
                good=len(good),
            )
        )
    return tuple(rows)
