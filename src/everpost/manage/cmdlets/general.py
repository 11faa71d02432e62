"""Get-Command, Get-Help, Get-ExchangeServer."""

from __future__ import annotations

from everpost.manage import registry
from everpost.manage.cmdlets.change import look_up
from everpost.manage.context import CommandContext
from everpost.manage.render import Row
from everpost.model.server import Role


@registry.command("Get-Command", columns=("Name", "Synopsis"))
async def get_command(context: CommandContext, name: str = "") -> list[Row]:
    """List the commands, all or those whose name contains the text."""
    rows: list[Row] = []
    for command in registry.commands():
        if name.lower() in command.name.lower():
            rows.append({"Name": command.name, "Synopsis": command.help.splitlines()[0] if command.help else ""})
    return rows


@registry.command("Get-Help", columns=("Name", "Parameters", "Help"))
async def get_help(context: CommandContext, name: str = "Get-Command") -> list[Row]:
    """Show what a command does and which parameters it takes."""
    command = registry.find(name)
    shown = []
    for parameter in command.parameters:
        text = f"-{parameter.name}" + ("" if parameter.switch else f" <{parameter.kind}>")
        shown.append(text if parameter.mandatory else f"[{text}]")
    return [{"Name": command.name, "Parameters": " ".join(shown), "Help": command.help}]


@registry.command(
    "Get-ExchangeServer", columns=("Name", "Site", "ServerRole", "Address", "Tenure"), aliases=("Get-Server",)
)
async def get_exchange_server(context: CommandContext, identity: str = "") -> list[Row]:
    """List the servers of the organisation, with their roles and whether they hold their tenure."""
    servers = context.organization.servers
    chosen = [look_up(servers, identity, "server", "Get-ExchangeServer")] if identity else list(servers.values())
    return [
        {
            "Name": server.name,
            "Site": server.site,
            "ServerRole": [str(role) for role in server.roles],
            "Address": server.address,
            "ReplicationAddress": server.replication_address,
            "Tenure": context.live.holds_tenure(server.name) if set(server.roles) != {Role.WITNESS} else None,
        }
        for server in sorted(chosen, key=lambda one: one.name)
    ]
