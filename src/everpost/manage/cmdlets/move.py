"""Move-ActiveMailboxDatabase: switchovers of a database, of a server, and activation with loss (spec 3.3, 3.7, 3.8)."""

from __future__ import annotations

from typing import NamedTuple

from everpost.activemanager.view import View
from everpost.errors import EverpostError, NotFound, Refused
from everpost.manage import registry
from everpost.manage.cmdlets import lagged, lossy, pointintime
from everpost.manage.cmdlets.change import look_up
from everpost.manage.cmdlets.databases import database
from everpost.manage.cmdlets.placement import Checks, move_row, rank, row_of, switch, view_of
from everpost.manage.context import CommandContext
from everpost.manage.render import Row
from everpost.model.database import LocationState, MailboxDatabase
from everpost.model.server import MountDial

COLUMNS = (
    "Identity",
    "ActiveServerAtStart",
    "ActiveServerAtEnd",
    "Status",
    "NumberOfLogsLost",
    "RecoveryPointObjective",
    "MountStatusAtMoveStart",
    "MountStatusAtMoveEnd",
    "ErrorMessage",
)


@registry.command("Move-ActiveMailboxDatabase", positional=2, columns=COLUMNS)
async def move_active_mailbox_database(
    context: CommandContext,
    identity: str = "",
    activate_on_server: str | None = None,
    server: str | None = None,
    activate_preferred_on_server: str | None = None,
    mount_dial_override: str = "Lossless",
    move_comment: str = "",
    skip_health_checks: bool = False,
    skip_lag_checks: bool = False,
    skip_client_experience_checks: bool = False,
    skip_active_copy_checks: bool = False,
    skip_maximum_active_databases_checks: bool = False,
    skip_all_checks: bool = False,
    terminate_on_warning: bool = False,
    move_all_databases_or_none: bool = False,
    accept_data_loss: bool = False,
    replay_to_time: str = "",
    what_if: bool = False,
) -> list[Row]:
    """Make another copy the active one, without loss; without -ActivateOnServer the best copy is chosen.

    -Server moves every active database of a server, each to its own best copy. -ActivatePreferredOnServer moves back
    what prefers that server. A database whose complete copies are all gone is activated with loss only with a
    -MountDialOverride other than Lossless (None: the one set on the target) and -AcceptDataLoss. -ReplayToTime
    2026-01-31T09:30:00Z with -ActivateOnServer and -AcceptDataLoss opens a lagged copy as it was then and gives up all
    mail accepted since; the copies that have it are kept aside. -WhatIf shows the ranking with the reason for each
    refusal, or what would be given up.
    """
    del skip_client_experience_checks  # the content index is part of the database: there is nothing to leave out
    checks = Checks(
        skip_health=skip_health_checks or skip_all_checks,
        skip_lag=skip_lag_checks or skip_all_checks,
        skip_active_copy=skip_active_copy_checks or skip_all_checks,
        skip_maximum=skip_maximum_active_databases_checks or skip_all_checks,
        terminate_on_warning=terminate_on_warning,
    )
    dial = lossy.dial_named(mount_dial_override)
    target = None if activate_on_server is None else _server(context, activate_on_server)
    if activate_preferred_on_server is not None:
        target = _server(context, activate_preferred_on_server)
    chosen = _chosen(context, identity, server, activate_preferred_on_server)
    for found in chosen:
        if target is not None and target not in found.servers and len(chosen) == 1:
            raise NotFound(
                f"{target} has no copy of {found.name}.", remedy=f"Its copies are on {', '.join(found.servers)}."
            )
    word = _Word(dial, accept_data_loss, move_comment)
    if replay_to_time:
        if not identity:
            raise Refused("-ReplayToTime is about one database.", remedy="Name it, as in MB01.")
        return await _in_the_past(context, chosen[0], target, replay_to_time, word, what_if=what_if)
    if what_if:
        return [row for found in chosen for row in await _ranking(context, found, target, checks, dial)]
    if move_all_databases_or_none:
        await _all_or_none(context, chosen, target, checks)
    rows: list[Row] = []
    for found in chosen:
        try:
            row = await _move(context, found, target, checks, word)
        except EverpostError as error:
            if server is None and activate_preferred_on_server is None:
                raise
            row = move_row(context, context.organization.locations[found.name][0])
            row.update(Status="Failed", ErrorMessage=str(error))
        rows.append(row)
    return rows


class _Word(NamedTuple):
    """What the operator said of a loss: `dial` None is the one that is set on the target."""

    dial: MountDial | None
    accepted: bool
    comment: str


async def _move(
    context: CommandContext, found: MailboxDatabase, target: str | None, checks: Checks, word: _Word
) -> Row:
    """Without loss if any copy can be; else by the operator's word."""
    if not await lossy.needs_word(context, found):
        return await _switch(context, found, target, checks, word.comment)
    if target is not None:
        row = await lossy.activate_complete(context, found, target, word.comment)
        if row is not None:
            return row
    return await lossy.activate(context, found, target, word.dial, accepted=word.accepted, comment=word.comment)


async def _switch(
    context: CommandContext, found: MailboxDatabase, target: str | None, checks: Checks, comment: str
) -> Row:
    """A switchover. With -SkipLagChecks a lagged copy that is named replays all first; passive again, it lags again."""
    location = context.organization.locations[found.name][0]
    lagging = target is not None and target != location.active and found.copy(target).lag > 0 and checks.skip_lag
    if target is None or not lagging or location.state is not LocationState.OPEN:
        return await switch(context, found, target, checks, comment)
    found = await lagged.replay_all(context, found, target)
    try:
        return await switch(context, found, target, checks, comment)
    finally:
        await lagged.lag_again(context, context.organization.databases[found.name], target)


def _server(context: CommandContext, name: str) -> str:
    return look_up(context.organization.servers, name, "server", "Get-ExchangeServer").name


def _chosen(context: CommandContext, identity: str, server: str | None, preferred: str | None) -> list[MailboxDatabase]:
    if sum((bool(identity), server is not None, preferred is not None)) != 1:
        raise Refused(
            "Which databases?", remedy="Name one, or -Server, or -ActivatePreferredOnServer; one of the three."
        )
    if identity:
        return [database(context, identity)]
    name = _server(context, server or preferred or "")
    found = []
    for one in sorted(context.organization.databases.values(), key=lambda one: one.name):
        held = context.organization.locations.get(one.name)
        if held is None or held[0].state in (LocationState.DISMOUNTED, LocationState.UNKNOWN):
            continue
        if (one.servers[0] if preferred is not None else held[0].active) == name:
            found.append(one)
    return found


async def _all_or_none(
    context: CommandContext, chosen: list[MailboxDatabase], target: str | None, checks: Checks
) -> None:
    refusals = []
    for found in chosen:
        view = await view_of(context, context.organization.locations[found.name][0].active)
        row = row_of(view, found.name)
        ranking = rank(view, row, checks, prefer=target)
        able = [one.server for one in ranking.candidates if target in (None, one.server)]
        if not able and row.location.active != target:
            refusals.append(f"{found.name} ({ranking.explain()})")
    if refusals:
        raise Refused(
            f"Not all of them can be moved, so none is: {'; '.join(refusals)}.",
            remedy="Leave -MoveAllDatabasesOrNone out to move the others.",
        )


async def _ranking(
    context: CommandContext, found: MailboxDatabase, target: str | None, checks: Checks, dial: MountDial | None
) -> list[Row]:
    """What -WhatIf shows: each copy, its place or the reason against it. Nothing is changed."""
    location = context.organization.locations[found.name][0]
    view: View = await view_of(context, location.active, progress=True)
    if await lossy.needs_word(context, found):
        try:
            plan = await lossy.plan(context, found, target, dial)
        except Refused as refused:
            return [_line(found.name, location.active, None, None, str(refused))]
        text = f"with loss (dial {plan.dial}, needs -AcceptDataLoss): {plan.sentence}"
        return [_line(found.name, plan.target, 1, None, text)]
    ranking = rank(view, row_of(view, found.name), checks, prefer=target)
    rows = []
    for place, candidate in enumerate(ranking.candidates, 1):
        if target not in (None, candidate.server):
            text = f"{target} was named"
            rows.append(_line(found.name, candidate.server, None, candidate.selection_set, text))
            continue
        text = f"would be activated: nothing is lost, it meets set {candidate.selection_set}"
        if place > 1:
            text = f"would be tried if those before it refuse; it meets set {candidate.selection_set}"
        rows.append(_line(found.name, candidate.server, place, candidate.selection_set, text))
    for server, why in ranking.refusals.items():
        text = "is the active now" if server == location.active else why
        rows.append(_line(found.name, server, None, None, text))
    return rows


async def _in_the_past(
    context: CommandContext, found: MailboxDatabase, target: str | None, text: str, word: _Word, *, what_if: bool
) -> list[Row]:
    """An activation at a point in time, or what -WhatIf shows of it."""
    if not what_if:
        return [await pointintime.activate(context, found, target, text, accepted=word.accepted, comment=word.comment)]
    try:
        plan = await pointintime.preview(context, found, target, text)
    except Refused as refused:
        return [_line(found.name, target or "", None, None, str(refused))]
    return [_line(found.name, target or "", 1, None, f"needs -AcceptDataLoss: {plan.sentence}")]


def _line(name: str, server: str, place: int | None, number: int | None, text: str) -> Row:
    return {"Identity": name, "Server": server, "Place": place, "SelectionSet": number, "Reason": text}
