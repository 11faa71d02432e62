"""Mount-Database and Dismount-Database (spec 2.14). An administrator's dismount is remembered (T-AM-6)."""

from __future__ import annotations

from everpost.activemanager import bestcopy, transitions
from everpost.errors import Refused, Unavailable
from everpost.manage import registry
from everpost.manage.cmdlets import lossy
from everpost.manage.cmdlets.databases import WAIT, database, wait_open, write_location
from everpost.manage.cmdlets.placement import row_of, view_of
from everpost.manage.context import CommandContext
from everpost.manage.render import Row
from everpost.model.database import LocationState


@registry.command("Dismount-Database")
async def dismount_database(context: CommandContext, identity: str) -> list[Row]:
    """Close a database; it stays closed until Mount-Database, whatever fails meanwhile.

    In the middle of a failover or a move the order is recorded: whoever ends that closes the database.
    """
    one = database(context, identity)
    end = context.clock.boottime() + WAIT
    await _order_dismount(context, one.name, end)
    while context.organization.locations[one.name][0].state is not LocationState.DISMOUNTED:
        if context.clock.boottime() > end:
            raise Unavailable(f"{one.name} is not dismounted yet.", remedy="It goes on by itself.")
        await context.clock.sleep(0.02)
    return []


async def _order_dismount(context: CommandContext, name: str, end: float) -> None:
    """Until the record says so: an activation that begins at this very moment changes it, and is followed."""
    while True:
        location, revision = context.organization.locations[name]
        if location.state is LocationState.UNKNOWN:
            raise Refused(f"{name} is {location.state} just now.", remedy="Agree to its copies first.")
        after = transitions.dismount_asked(location, reason=f"{context.operator} dismounts it")
        if after == location:
            return
        try:
            await write_location(context, location, revision, after)
            return
        except Refused:
            if context.clock.boottime() > end:
                raise
            await context.clock.sleep(0.05)


@registry.command("Mount-Database")
async def mount_database(
    context: CommandContext,
    identity: str,
    accept_data_loss: bool = False,
    mount_dial_override: str = "",
    force: bool = False,
) -> list[Row]:
    """Open a dismounted database where it was, or on another complete copy if that server is gone.

    When no complete copy can be had, -AcceptDataLoss with a mount dial (named, or set on the server) opens the copy
    that lacks least; it also says that the old active is switched off. Without it you are shown what would be lost.
    """
    del force  # there are no prompts to suppress
    one = database(context, identity)
    location, revision = context.organization.locations[one.name]
    if location.dismount:
        await write_location(context, location, revision, transitions.dismount_taken_back(location))
        location, revision = context.organization.locations[one.name]
    if location.state is LocationState.OPEN and context.live.holds_tenure(location.active):
        return []
    dial = lossy.dial_named(mount_dial_override)
    if await lossy.needs_word(context, one):
        return [await lossy.activate(context, one, None, dial, accepted=accept_data_loss, comment="")]
    if location.state is LocationState.DISMOUNTED:
        view = await view_of(context, location.active)
        no_room = bestcopy.full(
            view.servers[location.active], row_of(view, one.name).database.name, bestcopy.load_of(view)
        )
        if no_room is not None:
            raise Refused(
                f"{one.name} is not mounted: {no_room}.",
                remedy="Move a database away, or raise the limit: Set-MailboxServer -MaximumActiveDatabases.",
            )
        await write_location(
            context, location, revision, transitions.mount_asked(location, reason=f"{context.operator} mounts it")
        )
    elif location.lossy:
        # A complete copy is there again: the order to lose something is taken back.
        view = await view_of(context, location.active)
        await lossy.take_back(context, row_of(view, one.name), view)
    await wait_open(context, one.name, None)
    return []
