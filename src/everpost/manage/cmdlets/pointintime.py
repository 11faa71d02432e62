"""A lagged copy made the active as it was at a point in time, by an administrator's command only (spec 2.9, LAG-6).

    the copy stands at the time  ->  the database is dismounted  ->  the order is recorded  ->  the copy is opened

Each step is durable and the command may be repeated after any of them. What was accepted later is given up by intent,
not for want of a better copy; the copies that have it are kept as they are (docs/copies.md).
"""

from __future__ import annotations

import logging
from typing import NamedTuple

from msgspec.structs import replace

from everpost.activemanager import loss, transitions
from everpost.directory import keys
from everpost.directory.schema import encode
from everpost.errors import Refused, Unavailable
from everpost.log import fact
from everpost.manage import timespan
from everpost.manage.cmdlets import lagged
from everpost.manage.cmdlets.change import seen, write
from everpost.manage.cmdlets.mount import dismount_database
from everpost.manage.cmdlets.placement import ended, move_row, row_of, view_of
from everpost.manage.context import CommandContext
from everpost.manage.render import Row
from everpost.model.database import CopyState, Location, LocationState, MailboxDatabase
from everpost.monitoring.catalogue import POINT_IN_TIME

log = logging.getLogger(__name__)

STAND_WAIT = 3600.0
"""Seconds the command waits until the copy has replayed what was committed by then: up to 14 days of mail."""


class Preview(NamedTuple):
    """What would be done. `lost`: bytes of log behind the point, None while the copy does not stand there."""

    sentence: str
    lost: int | None


def _is_open_so(location: Location, target: str, until: float) -> bool:
    if location.state is not LocationState.OPEN or not location.openings:
        return False
    newest = location.openings[-1]
    return location.active == newest.server == target and newest.until == until


def _is_ordered(location: Location, target: str, until: float) -> bool:
    return location.state is LocationState.ACTIVATING and location.active == target and location.until == until


def _stands(context: CommandContext, found: MailboxDatabase, target: str, until: float) -> bool:
    """By the word of the copy itself."""
    status = context.live.statuses(target).get(found.name)
    return status is not None and status.stands_at == until and found.copy(target).replay_to == until


async def preview(context: CommandContext, found: MailboxDatabase, target: str | None, text: str) -> Preview:
    """What would be given up. Raises Refused with what stands against it; changes nothing."""
    until = lagged.moment(text)
    if target is None:
        raise Refused(
            f"Which copy of {found.name}?", remedy="Name a lagged one: -ActivateOnServer SERVER with -ReplayToTime."
        )
    location, _ = context.organization.locations[found.name]
    name = f"{found.name}\\{target}"
    if target == location.active:
        raise Refused(f"{name} is the active copy: it has replayed all.", remedy="Name a lagged copy that is passive.")
    if not context.live.holds_tenure(target):
        raise Refused(f"{target} does not hold its tenure.", remedy=f"Start {target}, then repeat.")
    _can_be_closed(context, location)
    stands = _stands(context, found, target, until)
    if not stands:
        lagged.may_stand(context, found, target, until)
    row = row_of(await view_of(context, location.active, progress=True), found.name)
    lost = loss.behind(row, target) if stands else None
    status = row.copies.get(target)
    if stands and status is not None and (status.replayed_lsn or 0) <= location.openings[-1].begin_lsn:
        raise _opened_since(found.name, text)
    span = timespan.text(max(context.clock.wall().timestamp() - until, 0.0))
    much = "how much log that is will be known when the copy stands there"
    if lost is not None:
        much = f"at least {lost >> loss.GENERATION_BITS} generations of 1 MB ({lost} bytes of log)"
    others = ", ".join(one for one in found.servers if one != target)
    return Preview(
        f"{found.name} would be opened on {target} as it was at {text}. All that was accepted since then, for"
        f" {span}, is given up: {much}. The copies that have it ({others}) are kept as they are, FailedAndSuspended,"
        " until Resume-MailboxDatabaseCopy -SetAsideDivergedLogs",
        lost,
    )


def _opened_since(name: str, text: str) -> Refused:
    return Refused(
        f"{name} was opened again after {text}, and a copy can be activated only as it was after the last opening.",
        remedy="Name a later time; or let the copy stand there, and take what is wanted by psql or pg_dump.",
    )


def _can_be_closed(context: CommandContext, location: Location) -> None:
    """Nobody may be writing at the end, and the end must be known: the active closes the database cleanly, or did."""
    name, active = location.database, location.active
    closing = location.state is LocationState.MOVING and location.target is None
    if location.state is LocationState.OPEN or closing:
        if not context.live.holds_tenure(active):
            raise Refused(
                f"{active} does not hold its tenure, and may still be writing to {name}.",
                remedy="A complete copy is activated by itself within seconds; repeat then.",
            )
    elif location.state is not LocationState.DISMOUNTED:
        raise Refused(f"{name} is {location.state} just now.", remedy="Wait until it is mounted, then repeat.")
    elif location.closed_lsn is None:
        raise Refused(
            f"{name} was dismounted without being closed cleanly, so nobody knows what it accepted.",
            remedy=f"Mount-Database {name}, then repeat: the command closes it.",
        )


async def activate(
    context: CommandContext, found: MailboxDatabase, target: str | None, text: str, *, accepted: bool, comment: str
) -> Row:
    """Give up what was accepted after that time. Raises Refused with a preview unless `accepted`."""
    until = lagged.moment(text)
    location, revision = context.organization.locations[found.name]
    row = move_row(context, location)
    if target is not None and _is_open_so(location, target, until):
        context.warning(f"{found.name} was opened on {target} as it was at {text} already.")
        return row
    if target is None or not _is_ordered(location, target, until):
        plan = await preview(context, found, target, text)
        assert target is not None
        if not accepted:
            raise Refused(
                f"{plan.sentence}.",
                remedy=f"Resume-MailboxDatabaseCopy {found.name}\\{target} -ReplayToTime {text} lets you look at it"
                " first. Only if all mail since then may be given up, add -AcceptDataLoss.",
            )
        await _stand(context, found, target, text, until)
        plan = await preview(context, context.organization.databases[found.name], target, text)
        context.verbose(f"{found.name} is being dismounted.")
        await dismount_database(context, found.name)
        revision = await _order(context, found.name, target, until, text, comment)
        if plan.lost is not None:
            row["NumberOfLogsLost"] = plan.lost >> loss.GENERATION_BITS
    row["RecoveryPointObjective"] = text
    before = replace(location, token=location.openings[-1].token)
    return await ended(context, row, before, revision, target)


async def _stand(context: CommandContext, found: MailboxDatabase, target: str, text: str, until: float) -> None:
    """Until the copy stands at that time, with log behind it. The database is open meanwhile, if it was."""
    if found.copy(target).replay_to != until or not found.copy(target).suspended:
        await lagged.stand_at(context, found, target, text)
    end, best, moved = context.clock.boottime() + STAND_WAIT, 0, context.clock.boottime()
    while not _stands(context, context.organization.databases[found.name], target, until):
        status = context.live.statuses(target).get(found.name)
        now = context.clock.boottime()
        if status is not None and status.replayed_lsn is not None and status.replayed_lsn > best:
            best, moved = status.replayed_lsn, now
        failed = status is not None and status.state in (CopyState.FAILED, CopyState.FAILED_AND_SUSPENDED)
        if now > end or now - moved > lagged.IDLE_WAIT or not context.live.holds_tenure(target):
            why = f" ({status.error})" if status is not None and failed else ""
            raise Unavailable(
                f"{found.name}\\{target} does not come to stand at {text}{why}; nothing was given up.",
                remedy="It may have no log beyond that time. See Get-MailboxDatabaseCopyStatus, and repeat;"
                f" Resume-MailboxDatabaseCopy {found.name}\\{target} lets it go on.",
            )
        await context.clock.sleep(0.1)


async def _order(context: CommandContext, name: str, target: str, until: float, text: str, comment: str) -> int:
    """Record it with its reason and operator. The copy is suspended no more by the same change: what it does from here
    on stands in the location, and if the order is taken back it follows again. Returns the record's old revision."""
    found = context.organization.databases[name]
    location, revision = context.organization.locations[name]
    if location.state is not LocationState.DISMOUNTED or location.closed_lsn is None:
        _can_be_closed(context, location)
        raise Refused(f"{name} is {location.state}: somebody mounted it.", remedy="Repeat if it is still wanted.")
    if not _stands(context, found, target, until):
        raise Refused(f"{name}\\{target} does not stand at {text} any more.", remedy="Repeat if it is still wanted.")
    row = row_of(await view_of(context, location.active), name)
    lost = loss.behind(row, target)
    reason = f"as it was at {text}, by {context.operator}: {lost} bytes of log are given up"
    if comment:
        reason += f" ({comment})"
    after = transitions.activation_in_the_past(location, target, until, reason=reason)
    settings = replace(found.copy(target), suspended=False, suspend_comment="", replay_to=None)
    key, document = keys.location(name), keys.database(name)
    guards = {key: revision, document: context.organization.revision(document)}
    puts: dict[str, bytes | None] = {key: encode(after), document: encode(found.with_copy(target, settings))}
    await write(context, guards, puts, what=f"The location of {name}")
    fact(
        log,
        "activation at a point in time ordered",
        level=logging.WARNING,
        database=name,
        from_server=location.active,
        target=target,
        operator=context.operator,
        until=text,
        bytes_given_up=lost,
        comment=comment,
    )
    told = f"{name} is opened on {target} {reason}. {location.active} was the active copy."
    context.live.record(POINT_IN_TIME, told, database=name)
    await seen(context, key, revision + 1)
    return revision
