"""Test-ReplicationHealth (spec 5.1)."""

from __future__ import annotations

import asyncio

from everpost.errors import Refused
from everpost.manage import registry
from everpost.manage.cmdlets.dag import find_dag, find_server
from everpost.manage.context import CommandContext
from everpost.manage.render import Row
from everpost.model.server import Role
from everpost.monitoring import health, observe

PASSED = "Passed"
FAILED = "*FAILED*"


@registry.command("Test-ReplicationHealth", columns=("Server", "Check", "Result", "Error"))
async def test_replication_health(
    context: CommandContext, identity: str = "", database_availability_group: str = ""
) -> list[Row]:
    """Check a server (this one, if none is named) or all of a -DatabaseAvailabilityGroup. The exit status is 1 when a
    check failed."""
    if database_availability_group:
        names = list(find_dag(context, database_availability_group).members)
    else:
        names = [find_server(context, identity or context.settings.name).name]
    servers = [context.organization.servers[name] for name in names if name in context.organization.servers]
    for server in servers:
        if Role.MAILBOX not in server.roles:
            raise Refused(f"{server.name} has no mailbox role.", remedy="Name a mailbox server; Get-ExchangeServer.")
    found = await asyncio.gather(*(observe.observe(context, server) for server in servers))
    rows: list[Row] = []
    for one in found:
        for check, error in health.run(one):
            rows.append({"Server": one.server, "Check": check, "Result": FAILED if error else PASSED, "Error": error})
    if any(row["Result"] == FAILED for row in rows):
        context.failed()
    return rows
