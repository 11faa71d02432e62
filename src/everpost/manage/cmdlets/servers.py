"""Mailbox servers' settings for activation (spec 3.6), and the role of Primary Active Manager (AM-7)."""

from __future__ import annotations

import logging

from msgspec.structs import replace

from everpost.directory import keys
from everpost.directory.schema import decode, encode
from everpost.errors import Refused, Unavailable
from everpost.log import fact
from everpost.manage import registry
from everpost.manage.cmdlets.change import look_up, seen, write
from everpost.manage.context import CommandContext
from everpost.manage.render import Row
from everpost.model.database import LocationState
from everpost.model.server import ActivationPolicy, DatabaseAvailabilityGroup, MountDial, Role, Server
from everpost.model.tenure import FencingRecord, PamRecord, TenureState

log = logging.getLogger(__name__)

UNCHANGED = -1
"""A limit that was not named; $null takes the limit away."""
PAM_WAIT = 5.0
COLUMNS = (
    "Name",
    "DatabaseAvailabilityGroup",
    "AutoDatabaseMountDial",
    "DatabaseCopyAutoActivationPolicy",
    "MaximumActiveDatabases",
    "ActiveDatabases",
    "Maintenance",
)


def mailbox_server(context: CommandContext, name: str) -> Server:
    """A mailbox server by name. Raises NotFound or Refused."""
    found = look_up(context.organization.servers, name, "server", "Get-MailboxServer")
    if Role.MAILBOX not in found.roles:
        raise Refused(f"{found.name} has no mailbox role.", remedy="Get-MailboxServer lists the mailbox servers.")
    return found


def active_on(context: CommandContext, server: str) -> list[str]:
    """Databases that are active on the server, or on their way to be, by name."""
    return sorted(
        name
        for name, (location, _) in context.organization.locations.items()
        if location.active == server and location.state not in (LocationState.DISMOUNTED, LocationState.UNKNOWN)
    )


@registry.command("Get-MailboxServer", columns=COLUMNS)
async def get_mailbox_server(context: CommandContext, identity: str = "") -> list[Row]:
    """Show mailbox servers, what is active on them and what may be activated there."""
    if identity:
        return [_row(context, mailbox_server(context, identity))]
    servers = sorted(context.organization.servers.values(), key=lambda one: one.name)
    return [_row(context, one) for one in servers if Role.MAILBOX in one.roles]


def _row(context: CommandContext, server: Server) -> Row:
    dag = context.organization.dag_of(server.name)
    record = context.organization.maintenance.get(server.name)
    return {
        "Name": server.name,
        "DatabaseAvailabilityGroup": dag.name if dag is not None else None,
        "AutoDatabaseMountDial": str(server.mount_dial),
        "DatabaseCopyAutoActivationPolicy": str(server.activation_policy),
        "MaximumActiveDatabases": server.maximum_active_databases,
        "MaximumPreferredActiveDatabases": server.maximum_preferred_active_databases,
        "ActiveDatabases": len(active_on(context, server.name)),
        "Maintenance": str(record.phase) if record is not None else None,
        "MaintenanceBegan": record.began if record is not None else None,
        "MaintenanceBy": record.operator if record is not None else None,
        "Site": server.site,
    }


@registry.command("Set-MailboxServer", columns=COLUMNS)
async def set_mailbox_server(
    context: CommandContext,
    identity: str,
    auto_database_mount_dial: str = "",
    database_copy_auto_activation_policy: str = "",
    maximum_active_databases: int | None = UNCHANGED,
    maximum_preferred_active_databases: int | None = UNCHANGED,
) -> list[Row]:
    """Change how many generations may be missing at an automatic mount, whether copies are activated automatically,
    and how many databases may be active ($null: any number)."""
    server = mailbox_server(context, identity)
    after = server
    if auto_database_mount_dial:
        after = replace(after, mount_dial=_dial(auto_database_mount_dial))
    if database_copy_auto_activation_policy:
        after = replace(after, activation_policy=_policy(database_copy_auto_activation_policy))
    if maximum_active_databases != UNCHANGED:
        limit = _limit("MaximumActiveDatabases", maximum_active_databases)
        after = replace(after, maximum_active_databases=limit)
    if maximum_preferred_active_databases != UNCHANGED:
        limit = _limit("MaximumPreferredActiveDatabases", maximum_preferred_active_databases)
        after = replace(after, maximum_preferred_active_databases=limit)
    hard, soft = after.maximum_active_databases, after.maximum_preferred_active_databases
    if hard is not None and soft is not None and soft > hard:
        raise Refused(
            f"MaximumPreferredActiveDatabases {soft} is above MaximumActiveDatabases {hard}.",
            remedy=f"Name at most {hard}.",
        )
    key = keys.server(server.name)
    revision = context.organization.revision(key)
    await write(context, {key: revision}, {key: encode(after)}, what=f"The server {server.name}")
    await seen(context, key, revision + 1)
    active = len(active_on(context, server.name))
    if hard is not None and active > hard:
        context.warning(f"{active} databases are active on {server.name} now; they stay until they are moved.")
    return [_row(context, after)]


def _dial(text: str) -> MountDial:
    for dial in (MountDial.LOSSLESS, MountDial.GOOD_AVAILABILITY, MountDial.BEST_AVAILABILITY):
        if dial.lower() == text.lower():
            return dial
    if text.lower() == MountDial.BEST_EFFORT.lower():
        raise Refused(
            "BestEffort is no setting of a server.",
            remedy="It is named in the command only: Move-ActiveMailboxDatabase -MountDialOverride BestEffort.",
        )
    raise Refused(f"{text} is no mount dial.", remedy="Use Lossless, GoodAvailability or BestAvailability.")


def _policy(text: str) -> ActivationPolicy:
    for policy in ActivationPolicy:
        if policy.lower() == text.lower():
            return policy
    raise Refused(f"{text} is no activation policy.", remedy=f"Use {', '.join(ActivationPolicy)}.")


def _limit(name: str, value: int | None) -> int | None:
    if value is not None and value < 0:
        raise Refused(f"-{name} is {value}.", remedy="Name 0 or more, or $null for no limit.")
    return value


@registry.command(
    "Move-PrimaryActiveManager", columns=("DatabaseAvailabilityGroup", "ServerAtStart", "ServerAtEnd", "Status")
)
async def move_primary_active_manager(
    context: CommandContext, identity: str = "", activate_on_server: str | None = None
) -> list[Row]:
    """Give the role of Primary Active Manager to another member, as before planned work on its holder."""
    dags = context.organization.dags
    if not identity and len(dags) == 1:
        identity = next(iter(dags))
    if not identity:
        raise Refused("Which DAG?", remedy="Name one of Get-DatabaseAvailabilityGroup.")
    dag = look_up(dags, identity, "database availability group", "Get-DatabaseAvailabilityGroup")
    before = context.live.pam(dag.name)
    target = mailbox_server(context, activate_on_server).name if activate_on_server else other_manager(context, dag)
    if target not in dag.members:
        raise Refused(f"{target} is no member of {dag.name}.", remedy=f"Its members are {', '.join(dag.members)}.")
    row = {
        "DatabaseAvailabilityGroup": dag.name,
        "ServerAtStart": before,
        "ServerAtEnd": target,
        "Status": "NotNeeded" if before == target else "Succeeded",
    }
    if before != target:
        await move_manager(context, dag, target)
    return [row]


def other_manager(context: CommandContext, dag: DatabaseAvailabilityGroup) -> str:
    """A member that can decide instead of the present one. Raises Refused."""
    holder = context.live.pam(dag.name)
    for name in dag.members:
        if name != holder and name not in context.organization.maintenance and context.live.holds_tenure(name):
            return name
    raise Refused(
        f"No other member of {dag.name} can be Primary Active Manager.",
        remedy="It needs a member that holds its tenure and is not in maintenance; see Get-MailboxServer.",
    )


async def move_manager(context: CommandContext, dag: DatabaseAvailabilityGroup, target: str) -> None:
    """Write the role over to `target`, guarded by its fence: it holds its tenure at that moment. What the old manager
    decided and did not yet write is refused by the record's new revision."""
    key, fence_key = keys.pam(dag.name), keys.fence(target)
    for _ in range(5):
        entry, fence = await context.directory.get(key), await context.directory.get(fence_key)
        if fence is None or decode(FencingRecord, fence.value).state is not TenureState.UP:
            raise Refused(f"{target} does not hold its tenure.", remedy="Name a member that works.")
        revision = entry.revision if entry is not None else 0
        record = PamRecord(dag=dag.name, holder=target, epoch=revision + 1)
        try:
            await write(
                context,
                {key: revision, fence_key: fence.revision},
                {key: encode(record)},
                what="The Primary Active Manager",
            )
        except Unavailable:
            raise
        except Refused:
            continue
        break
    else:
        raise Unavailable("The Primary Active Manager changes too fast.", remedy="Repeat the command.")
    fact(log, "primary active manager moved", dag=dag.name, holder=target, operator=context.operator)
    end = context.clock.boottime() + PAM_WAIT
    while context.live.pam(dag.name) != target and context.clock.boottime() < end:
        await context.clock.sleep(0.02)
