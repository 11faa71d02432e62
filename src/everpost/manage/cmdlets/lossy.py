"""Activation with loss, by an administrator's command only (spec 3.4, architecture 3.4).

Three things are asked: a mount dial other than Lossless, named here or set on the target; no copy that is known to be
complete can be had; and the administrator's word that the old active is off. A server that merely lost its tenure may
still run with the rest of its set, and nobody else can see that.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

from msgspec.structs import replace

from everpost.activemanager import bestcopy, loss, transitions
from everpost.activemanager.view import DatabaseView, View
from everpost.directory import keys
from everpost.directory.schema import decode, encode
from everpost.errors import EverpostError, Refused
from everpost.log import fact
from everpost.manage.cmdlets.change import seen, write
from everpost.manage.cmdlets.placement import ended, move_row, row_of, view_of
from everpost.manage.context import CommandContext
from everpost.manage.render import Row
from everpost.model.database import Location, LocationState, MailboxDatabase
from everpost.model.server import MountDial
from everpost.model.tenure import FencingRecord, TenureState

log = logging.getLogger(__name__)

ANSWERS = 1.0
"""Seconds a server that may be off is given to answer."""


class LossyPlan(NamedTuple):
    """What would be done. `guards`: revisions on which it relies."""

    row: DatabaseView
    target: str
    dial: MountDial
    lacks: int | None
    sentence: str
    guards: dict[str, int]


def dial_named(text: str) -> MountDial | None:
    """A value of -MountDialOverride; None: the dial of the target. Raises Refused."""
    if text.lower() in ("", "none"):
        return None
    for dial in MountDial:
        if dial.lower() == text.lower():
            return dial
    raise Refused(f"{text} is no mount dial.", remedy=f"Use None, {', '.join(MountDial)}.")


async def needs_word(context: CommandContext, found: MailboxDatabase) -> bool:
    """Whether the database is down and nothing will bring it back by itself: every complete copy is gone or blocked."""
    location, _ = context.organization.locations[found.name]
    alive = context.live.holds_tenure(location.active)
    if not location.openings or location.state is LocationState.UNKNOWN:
        return False
    if location.state in (LocationState.OPEN, LocationState.MOVING) and alive:
        return False
    view = await view_of(context, location.active)
    row = row_of(view, found.name)
    if location.state is LocationState.ACTIVATING and alive and not _refused(location, location.active):
        return False
    return not bestcopy.rank(view, _asked(row), prefer=location.target or location.active).candidates


async def activate_complete(context: CommandContext, found: MailboxDatabase, target: str, comment: str) -> Row | None:
    """Activate a named copy that has everything, though a policy keeps it from being activated by itself (T-AM-4).
    None: the copy is not complete. Guarded as PAM's own activation is."""
    location, revision = context.organization.locations[found.name]
    view = await view_of(context, location.active)
    row = _asked(row_of(view, found.name))
    if location.state is LocationState.DISMOUNTED or bestcopy.refusal(view, row, target, named=True) is not None:
        return None
    key = keys.location(found.name)
    guards = {key: revision, **await _off(context, location)}
    reason = comment or f"activated on {target} by {context.operator}"
    after = transitions.begin_activation(location, target, reason=reason)
    await write(context, guards, {key: encode(after)}, what=f"The location of {found.name}")
    fact(log, "activation ordered", database=found.name, target=target, operator=context.operator, comment=comment)
    await seen(context, key, revision + 1)
    return await ended(context, move_row(context, location), location, revision, target)


def _refused(location: Location, server: str) -> bool:
    return any(refusal.server == server for refusal in location.refused)


def _asked(row: DatabaseView) -> DatabaseView:
    """The row as a lossless activation would see it: an earlier order with loss does not bind this one."""
    return replace(row, location=replace(row.location, lossy=False))


async def plan(
    context: CommandContext, found: MailboxDatabase, target: str | None, dial: MountDial | None
) -> LossyPlan:
    """Choose the copy that lacks least (or judge the named one). Raises Refused with what stands against it."""
    location, revision = context.organization.locations[found.name]
    view = await view_of(context, location.active, progress=True)
    row = row_of(view, found.name)
    guards = {keys.location(found.name): revision, **await _off(context, location)}
    _must_be_named(view, row)
    await _none_answers(context, found, location)
    able: list[tuple[bool, int, int, str]] = []
    refusals: list[str] = []
    for preference, server in enumerate(found.servers):
        if target not in (None, server):
            continue
        why = _refusal(view, row, server, dial)
        if why is not None:
            refusals.append(why)
            continue
        lacks = loss.missing(row, server)
        able.append((lacks is None, lacks or 0, preference, server))
    if not able:
        remedy = f"Start {location.active}: with it the database comes back whole."
        if any("is Lossless" in why for why in refusals):
            remedy += (
                " If it is lost for good, name what may be missing by -MountDialOverride: GoodAvailability"
                " (6 generations), BestAvailability (12) or BestEffort; and add -AcceptDataLoss."
            )
        raise Refused(f"{found.name} cannot be activated: {'; '.join(refusals)}.", remedy=remedy)
    server = min(able)[3]
    used = dial or view.servers[server].mount_dial
    return LossyPlan(row, server, used, loss.missing(row, server), loss.sentence(row, server), guards)


def _must_be_named(view: View, row: DatabaseView) -> None:
    """Nothing is lost while a complete copy can be had, if only by its name."""
    for server in row.database.servers:
        if bestcopy.refusal(view, _asked(row), server, named=True) is None:
            blocked = bestcopy.administrative_refusal(view, row, server, bestcopy.load_of(view))
            raise Refused(
                f"{server} has every acknowledged change of {row.database.name}, but {blocked or 'it was not named'}.",
                remedy=f"Move-ActiveMailboxDatabase {row.database.name} -ActivateOnServer {server} loses nothing.",
            )


def _refusal(view: View, row: DatabaseView, server: str, dial: MountDial | None) -> str | None:
    host = view.servers.get(server)
    if host is None or not host.holds_tenure:
        return f"{server} does not hold its tenure"
    why = loss.refusal(row, server, dial or host.mount_dial)
    if why is not None and dial is None and host.mount_dial is not MountDial.LOSSLESS:
        why += f" (AutoDatabaseMountDial of {server})"
    if why is not None and row.copies.get(server) is not None and loss.missing(row, server):
        why += f"; {loss.sentence(row, server)}"
    return why or bestcopy.full(host, row.database.name, bestcopy.load_of(view))


async def _off(context: CommandContext, location: Location) -> dict[str, int]:
    """The guard that the old active stays without tenure. Raises Refused while it has it."""
    if location.state not in (LocationState.OPEN, LocationState.MOVING):
        return {}
    entry = await context.directory.get(keys.fence(location.active))
    if entry is None or decode(FencingRecord, entry.value).state is TenureState.UP:
        raise Refused(
            f"{location.active} holds its tenure.", remedy="Wait a few seconds; if it is off, its tenure is taken."
        )
    return {keys.fence(location.active): entry.revision}


async def _none_answers(context: CommandContext, found: MailboxDatabase, location: Location) -> None:
    """Whoever has everything and still answers is the better way: nothing needs to be lost."""
    for member in location.eligible:
        if member.server not in found.servers or _refused(location, member.server):
            continue
        try:
            await context.agents.call(member.server, "GET", "/v1/ping", timeout=ANSWERS)
        except EverpostError:
            continue
        raise Refused(
            f"{member.server} has every acknowledged change of {found.name}, and its agent answers.",
            remedy=f"Wait until it holds its tenure again, or switch {member.server} off and repeat.",
        )


async def activate(
    context: CommandContext,
    found: MailboxDatabase,
    target: str | None,
    dial: MountDial | None,
    *,
    accepted: bool,
    comment: str,
) -> Row:
    """Activate with loss, recorded with its reason and operator from the first step. Raises Refused with a preview
    unless `accepted`."""
    chosen = await plan(context, found, target, dial)
    location = chosen.row.location
    others = ", ".join(sorted({one.server for one in location.eligible} - {chosen.target})) or location.active
    if not accepted:
        raise Refused(
            f"{found.name} would be activated with loss on {chosen.target}: {chosen.sentence}.",
            remedy=f"Start {others} to lose nothing. Only if it is switched off and lost, add -AcceptDataLoss: it says"
            f" both, that {others} is off and that this mail may be lost. Its copy is kept aside if it returns.",
        )
    reason = f"with loss by {context.operator}, dial {chosen.dial}: {chosen.sentence}"
    if comment:
        reason += f" ({comment})"
    before = location
    if location.state is LocationState.DISMOUNTED:
        before = transitions.mount_asked(location, reason=reason)
    after = transitions.begin_activation(before, chosen.target, reason=reason, lossy=True)
    after = transitions.dismount_taken_back(after)
    key = keys.location(found.name)
    await write(context, chosen.guards, {key: encode(after)}, what=f"The location of {found.name}")
    fact(
        log,
        "activation with loss ordered",
        level=logging.WARNING,
        database=found.name,
        from_server=location.active,
        target=chosen.target,
        operator=context.operator,
        dial=str(chosen.dial),
        missing_at_least=chosen.lacks,
        comment=comment,
    )
    context.warning(f"{found.name}: {chosen.sentence}. The figure is a lower bound.")
    await seen(context, key, chosen.guards[key] + 1)
    row = await ended(context, move_row(context, location), location, chosen.guards[key], chosen.target)
    row["NumberOfLogsLost"] = chosen.lacks
    return row


async def take_back(context: CommandContext, row: DatabaseView, view: View) -> None:
    """A complete copy came back before the one with loss was opened: activate that one instead."""
    location = row.location
    best = bestcopy.rank(view, _asked(row)).candidates[0].server
    reason = f"{best} has everything: {context.operator} takes the activation with loss back"
    after = transitions.begin_activation(location, best, reason=reason)
    key = keys.location(location.database)
    await write(context, {key: row.revision}, {key: encode(after)}, what=f"The location of {location.database}")
    await seen(context, key, row.revision + 1)
