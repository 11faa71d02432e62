"""Datacenter switchover (spec 4.3): the commands of the field, refused in a clear sentence until it is built."""

from __future__ import annotations

from everpost.errors import Refused
from everpost.manage import registry
from everpost.manage.cmdlets.dag import find_dag
from everpost.manage.context import CommandContext
from everpost.manage.render import Row

_LATER = "A datacenter switchover cannot be done by this release."
_REMEDY = (
    "While there is quorum, Remove-DatabaseAvailabilityGroupServer -ConfigurationOnly takes lost servers out;"
    " without quorum, bring a majority of the voters back."
)


@registry.command("Stop-DatabaseAvailabilityGroup")
async def stop_database_availability_group(
    context: CommandContext,
    identity: str,
    active_directory_site: str = "",
    mailbox_server: str = "",
    configuration_only: bool = False,
) -> list[Row]:
    """Mark members as stopped for a datacenter switchover. Not in this release."""
    find_dag(context, identity)
    raise Refused(_LATER, remedy=_REMEDY)


@registry.command("Restore-DatabaseAvailabilityGroup")
async def restore_database_availability_group(
    context: CommandContext,
    identity: str,
    active_directory_site: str = "",
    alternate_witness_server: str = "",
    alternate_witness_directory: str = "",
) -> list[Row]:
    """Go on with the members of one site. Not in this release."""
    find_dag(context, identity)
    raise Refused(_LATER, remedy=_REMEDY)


@registry.command("Start-DatabaseAvailabilityGroup")
async def start_database_availability_group(
    context: CommandContext,
    identity: str,
    active_directory_site: str = "",
    mailbox_server: str = "",
    configuration_only: bool = False,
) -> list[Row]:
    """Take stopped members in again. Not in this release."""
    find_dag(context, identity)
    raise Refused(_LATER, remedy=_REMEDY)
