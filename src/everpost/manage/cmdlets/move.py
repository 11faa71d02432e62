"""Move-ActiveMailboxDatabase: planned switchovers (spec 3.3, 3.7, 3.8)."""

from __future__ import annotations

from everpost.activemanager import transitions
from everpost.errors import NotFound, Refused
from everpost.manage import registry
from everpost.manage.cmdlets.change import look_up
from everpost.manage.cmdlets.databases import database, wait_open, write_location
from everpost.manage.context import CommandContext
from everpost.manage.render import Row
from everpost.model.database import LocationState, MailboxDatabase

MOVE_WAIT = 30.0


@registry.command(
    "Move-ActiveMailboxDatabase",
    columns=("Identity", "ActiveServerAtStart", "ActiveServerAtEnd", "Status", "NumberOfLogsLost", "ErrorMessage"),
)
async def move_active_mailbox_database(
    context: CommandContext,
    identity: str,
    activate_on_server: str | None = None,
    move_comment: str = "",
    mount_dial_override: str = "Lossless",
    skip_lag_checks: bool = False,
    skip_client_experience_checks: bool = False,
    skip_health_checks: bool = False,
    skip_active_copy_checks: bool = False,
) -> list[Row]:
    """Make another copy the active one, without loss; without -ActivateOnServer the best other copy is chosen."""
    if mount_dial_override.lower() != "lossless":
        raise Refused(
            "Only -MountDialOverride Lossless is possible yet.",
            remedy="A copy outside the synchronous set cannot be activated by this release.",
        )
    found = database(context, identity)
    location, revision = context.organization.locations[found.name]
    target = _target(context, found, activate_on_server)
    row: Row = {
        "Identity": found.name,
        "ActiveServerAtStart": location.active,
        "ActiveServerAtEnd": location.active,
        "Status": "NotNeeded",
        "NumberOfLogsLost": 0,
        "MountStatusAtMoveStart": "Mounted" if location.state is LocationState.OPEN else "Dismounted",
        "MountStatusAtMoveEnd": "Mounted",
        "ErrorMessage": "",
    }
    if target == location.active:
        return [row]
    if location.state is not LocationState.OPEN:
        raise Refused(f"{found.name} is {location.state} just now.", remedy="Wait until it is mounted, then repeat.")
    if not any(member.server == target for member in location.set):
        status = context.live.statuses(target).get(found.name)
        why = f" It is {status.state}{': ' + status.error if status.error else ''}." if status is not None else ""
        raise Refused(
            f"The copy on {target} is not in the synchronous set, so it may lack acknowledged mail.{why}",
            remedy="Wait until Get-MailboxDatabaseCopyStatus shows it as the active's Resilience.",
        )
    reason = move_comment or f"moved to {target} by an administrator"
    await write_location(context, location, revision, transitions.moving(location, target, reason=reason))
    context.verbose(f"{found.name} is being closed on {location.active}.")
    after = await wait_open(context, found.name, None, MOVE_WAIT)
    while after.token == location.token and after.state is not LocationState.OPEN:
        await context.clock.sleep(0.02)
        after = context.organization.locations[found.name][0]
    row["ActiveServerAtEnd"] = after.active
    row["Status"] = "Succeeded" if after.active == target else "Failed"
    if after.active != target:
        row["ErrorMessage"] = after.reason
    return [row]


def _target(context: CommandContext, found: MailboxDatabase, name: str | None) -> str:
    location = context.organization.locations[found.name][0]
    if name is not None:
        server = look_up(context.organization.servers, name, "server", "Get-ExchangeServer").name
        if server not in found.servers:
            raise NotFound(
                f"{server} has no copy of {found.name}.", remedy=f"Its copies are on {', '.join(found.servers)}."
            )
        return server
    for server in found.servers:
        if server != location.active and any(member.server == server for member in location.set):
            return server
    raise Refused(
        f"No other copy of {found.name} is complete.", remedy="See Get-MailboxDatabaseCopyStatus for the reasons."
    )
