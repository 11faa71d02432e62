"""Suspend, resume and seed copies (spec 2.4, 2.5). What is ordered stands in the directory; the copy acts on it."""

from __future__ import annotations

import uuid

from msgspec.structs import replace

from everpost.activemanager.relation import QUARANTINED
from everpost.errors import Refused, Unavailable
from everpost.manage import registry
from everpost.manage.cmdlets import lagged
from everpost.manage.cmdlets.change import look_up
from everpost.manage.cmdlets.copies import (
    COLUMNS,
    SEED_WAIT,
    STATE_WAIT,
    change_copy,
    get_mailbox_database_copy_status,
    split,
    state_of,
    until_state,
)
from everpost.manage.context import CommandContext
from everpost.manage.render import Row
from everpost.model.database import (
    CopySettings,
    CopyState,
    CopyStatus,
    LocationState,
    MailboxDatabase,
    SeedOrder,
    Token,
)

LONGEST_COMMENT = 512
_NOT_FOLLOWING = (CopyState.SUSPENDED, CopyState.FAILED, CopyState.FAILED_AND_SUSPENDED)


def _one(context: CommandContext, identity: str) -> tuple[MailboxDatabase, str]:
    found, server = split(context, identity)
    if server is None:
        raise Refused(
            f"{found.name} has copies on {', '.join(found.servers)}; which one?",
            remedy=f"Name it as {found.name}\\{found.servers[-1]}.",
        )
    return found, server


def _must_be_passive(context: CommandContext, found: MailboxDatabase, server: str, verb: str, remedy: str) -> None:
    location = context.organization.locations[found.name][0]
    if server == location.active:
        raise Refused(f"{found.name}\\{server} is the active copy; it cannot be {verb}.", remedy=remedy)


def _must_not_be_needed(context: CommandContext, found: MailboxDatabase, server: str) -> None:
    """A copy that the record relies on goes only while the active serves and can take it out (3.2)."""
    location = context.organization.locations[found.name][0]
    counted = any(member.server == server for member in (*location.set, *location.eligible))
    serving = location.state is LocationState.OPEN and context.live.holds_tenure(location.active)
    if counted and not serving:
        raise Refused(
            f"{found.name} is not mounted; without the complete copy on {server} there may be none to mount.",
            remedy=f"Wait until {found.name} is mounted, or Mount-Database {found.name}, then repeat.",
        )


def _must_not_be_seeding(settings: CopySettings, name: str) -> None:
    if settings.seed is not None:
        raise Refused(f"{name} is being seeded.", remedy=f"Update-MailboxDatabaseCopy {name} -CancelSeed ends that.")


@registry.command("Suspend-MailboxDatabaseCopy", columns=COLUMNS)
async def suspend_mailbox_database_copy(
    context: CommandContext,
    identity: str,
    suspend_comment: str = "",
    activation_only: bool = False,
    enable_replay_lag: bool = False,
) -> list[Row]:
    """Stop copying and replaying to a passive copy (`MB01\\EX02`); with -ActivationOnly only bar it from automatic
    activation, which is possible for the active copy too. -EnableReplayLag only lets a lagged copy that was played down
    fall behind again."""
    found, server = _one(context, identity)
    name = f"{found.name}\\{server}"
    if len(suspend_comment) > LONGEST_COMMENT:
        raise Refused(
            f"The comment has {len(suspend_comment)} characters.", remedy=f"Use {LONGEST_COMMENT} at the most."
        )
    settings = found.copy(server)
    if enable_replay_lag:
        await lagged.lag_again(context, found, server)
        return await get_mailbox_database_copy_status(context, identity=name)
    comment = suspend_comment or settings.suspend_comment
    if activation_only:
        await change_copy(context, found, server, replace(settings, activation_suspended=True, suspend_comment=comment))
        return await get_mailbox_database_copy_status(context, identity=name)
    _must_be_passive(
        context, found, server, "suspended", f"Move-ActiveMailboxDatabase {found.name} first, or use -ActivationOnly."
    )
    _must_not_be_seeding(settings, name)
    _must_not_be_needed(context, found, server)
    await change_copy(
        context, found, server, replace(settings, suspended=True, suspend_comment=comment, replay_to=None)
    )
    others = [one for one in found.servers if one != server and not found.copy(one).suspended]
    if len(others) == 1:
        context.warning(f"{found.name} now has one copy only that takes new mail, on {others[0]}.")
    await until_state(context, found, server, CopyState.SUSPENDED, STATE_WAIT)
    return await get_mailbox_database_copy_status(context, identity=name)


@registry.command("Resume-MailboxDatabaseCopy", columns=COLUMNS)
async def resume_mailbox_database_copy(
    context: CommandContext,
    identity: str,
    replication_only: bool = False,
    set_aside_diverged_logs: bool = False,
    disable_replay_lag: bool = False,
    disable_replay_lag_reason: str = "",
    replay_to_time: str = "",
) -> list[Row]:
    """Let a suspended copy follow again; the bar against activation goes too, unless -ReplicationOnly. A copy that an
    activation with loss left behind follows only with -SetAsideDivergedLogs: what it alone has is kept beside, in the
    folder that its DivergedLogs then names, and its pages are set back (or it is seeded, where that is impossible).
    -DisableReplayLag only plays a lagged copy down: it replays what it has and is a copy like any other, until
    Suspend-MailboxDatabaseCopy -EnableReplayLag. -ReplayToTime 2026-01-31T09:30:00Z lets a lagged copy replay up to
    then and stand there, suspended, to be read on its server; resumed without it, it goes on."""
    found, server = _one(context, identity)
    name = f"{found.name}\\{server}"
    settings = found.copy(server)
    if disable_replay_lag:
        await lagged.play_down(context, found, server, disable_replay_lag_reason or f"by {context.operator}")
        return await get_mailbox_database_copy_status(context, identity=name)
    _must_not_be_seeding(settings, name)
    if replay_to_time:
        await lagged.stand_at(context, found, server, replay_to_time)
        return await get_mailbox_database_copy_status(context, identity=name)
    status = state_of(context, found, server)
    failed = status is not None and status.state is CopyState.FAILED_AND_SUSPENDED
    word = _newest_loss(context, found, name, status) if set_aside_diverged_logs else settings.set_aside
    if not settings.suspended and not settings.activation_suspended and not failed:
        context.warning(f"{name} is not suspended.")
        return await get_mailbox_database_copy_status(context, identity=name)
    barred = settings.activation_suspended and replication_only
    after = replace(
        settings,
        suspended=False,
        activation_suspended=barred,
        suspend_comment=settings.suspend_comment if barred else "",
        resumes=settings.resumes + 1,
        set_aside=word,
        replay_to=None,
    )
    await change_copy(context, found, server, after)
    active = context.organization.locations[found.name][0].active
    if (settings.suspended or failed) and server != active:
        await _until_resumed(context, found, server, after.resumes)
    if set_aside_diverged_logs:
        await until_state(context, found, server, CopyState.HEALTHY, SEED_WAIT)
        status = state_of(context, found, server)
        if status is not None and status.diverged:
            context.warning(f"What {name} alone had is kept on {server} in {', '.join(status.diverged)}.")
    return await get_mailbox_database_copy_status(context, identity=name)


def _newest_loss(context: CommandContext, found: MailboxDatabase, name: str, status: CopyStatus | None) -> Token | None:
    """The word that -SetAsideDivergedLogs gives: about the losses up to now, and no later one."""
    losses = [one.token for one in context.organization.locations[found.name][0].openings if one.lossy]
    if not losses or status is None or QUARANTINED not in status.error:
        raise Refused(
            f"{name} has no diverged log.", remedy="Leave -SetAsideDivergedLogs out; see Get-MailboxDatabaseCopyStatus."
        )
    return losses[-1]


async def _until_resumed(context: CommandContext, found: MailboxDatabase, server: str, resumes: int) -> None:
    end = context.clock.boottime() + STATE_WAIT
    while True:
        status = state_of(context, found, server)
        answered = status is not None and status.resumes >= resumes
        if answered and status is not None and status.state is CopyState.FAILED_AND_SUSPENDED:
            remedy = f"Update-MailboxDatabaseCopy {found.name}\\{server} seeds it anew."
            if QUARANTINED in status.error:
                remedy = (
                    f"Resume-MailboxDatabaseCopy {found.name}\\{server} -SetAsideDivergedLogs keeps that mail's log"
                    " beside and lets the copy follow again; Update-MailboxDatabaseCopy with -DeleteExistingFiles gives"
                    " it up."
                )
            raise Refused(f"{found.name}\\{server} failed again: {status.error}.", remedy=remedy)
        if answered and status is not None and status.state is not CopyState.SUSPENDED:
            return
        if context.clock.boottime() > end:
            context.warning(f"{server} does not answer; {found.name}\\{server} is resumed when it does.")
            return
        await context.clock.sleep(0.05)


@registry.command("Update-MailboxDatabaseCopy", columns=COLUMNS)
async def update_mailbox_database_copy(
    context: CommandContext,
    identity: str,
    source_server: str = "",
    delete_existing_files: bool = False,
    manual_resume: bool = False,
    begin_seed: bool = False,
    cancel_seed: bool = False,
    force: bool = False,
    database_only: bool = False,
    catalog_only: bool = False,
) -> list[Row]:
    """Seed a suspended copy anew, from the active or from the passive copy on -SourceServer, and resume it unless
    -ManualResume. -BeginSeed does not wait; -CancelSeed ends a seed; -Force suspends the copy first if need be."""
    found, server = _one(context, identity)
    name = f"{found.name}\\{server}"
    settings = found.copy(server)
    if cancel_seed:
        return await _cancel(context, found, server)
    if catalog_only:
        raise Refused("The content index is a part of the database.", remedy="Leave -CatalogOnly out.")
    _must_be_passive(
        context, found, server, "seeded", f"Move-ActiveMailboxDatabase {found.name} to another server first."
    )
    _must_not_be_seeding(settings, name)
    status = state_of(context, found, server)
    state = status.state if status is not None else CopyState.INITIALIZING
    if not settings.suspended and state not in _NOT_FOLLOWING and not force:
        raise Refused(
            f"{name} is {state}, not suspended.", remedy=f"Suspend-MailboxDatabaseCopy {name} first, or use -Force."
        )
    if status is not None and QUARANTINED in status.error and not delete_existing_files:
        raise Refused(
            f"{name}: {status.error}.",
            remedy=f"Resume-MailboxDatabaseCopy {name} -SetAsideDivergedLogs keeps its log beside and lets it follow"
            " again; -DeleteExistingFiles gives it up.",
        )
    _must_not_be_needed(context, found, server)
    source = _source(context, found, server, source_server)
    order = SeedOrder(
        id=uuid.uuid4().hex, source=source, delete_existing=delete_existing_files, manual_resume=manual_resume
    )
    await change_copy(
        context, found, server, replace(settings, suspended=True, seed=order, resumes=settings.resumes + 1)
    )
    if not begin_seed:
        await _until_seeded(context, found.name, server, order)
    return await get_mailbox_database_copy_status(context, identity=name)


def _source(context: CommandContext, found: MailboxDatabase, server: str, named: str) -> str:
    """ "" for the active, wherever it is; a passive copy by name."""
    if not named:
        return ""
    source = look_up({one: one for one in found.servers}, named, f"copy of {found.name} on", "Get-MailboxDatabase")
    if source == server:
        raise Refused(f"{server} cannot be seeded from itself.", remedy="Name another server, or none for the active.")
    if source == context.organization.locations[found.name][0].active:
        return ""
    status = state_of(context, found, source)
    state = status.state if status is not None and context.live.holds_tenure(source) else CopyState.SERVICE_DOWN
    if state not in (CopyState.HEALTHY, CopyState.SEEDING_SOURCE):
        raise Refused(
            f"{found.name}\\{source} is {state}; a source must be Healthy.", remedy="Leave -SourceServer out."
        )
    return source


async def _cancel(context: CommandContext, found: MailboxDatabase, server: str) -> list[Row]:
    name = f"{found.name}\\{server}"
    settings = found.copy(server)
    status = state_of(context, found, server)
    if settings.seed is None and (status is None or status.state is not CopyState.SEEDING):
        raise Refused(f"{name} is not being seeded.", remedy="Get-MailboxDatabaseCopyStatus shows what it does.")
    comment = "The seed was cancelled; the copy may not be whole."
    await change_copy(context, found, server, replace(settings, seed=None, suspended=True, suspend_comment=comment))
    await until_state(context, found, server, CopyState.SUSPENDED, STATE_WAIT)
    return await get_mailbox_database_copy_status(context, identity=name)


async def _until_seeded(context: CommandContext, database: str, server: str, order: SeedOrder) -> None:
    """Until the order is struck out by the copy's agent."""
    name = f"{database}\\{server}"
    end = context.clock.boottime() + SEED_WAIT
    said = -1
    while True:
        found = context.organization.databases.get(database)
        settings = found.copy(server) if found is not None else CopySettings()
        if settings.seed is None or settings.seed.id != order.id:
            break
        status = context.live.statuses(server).get(database)
        if status is not None and status.seed_percent is not None and status.seed_percent // 10 > said:
            said = status.seed_percent // 10
            context.verbose(f"{name}: {status.seed_percent} % from {status.seed_source}.")
        if context.clock.boottime() > end:
            raise Unavailable(f"{name} is being seeded for {SEED_WAIT:.0f} s.", remedy="It goes on by itself.")
        await context.clock.sleep(0.05)
    status = context.live.statuses(server).get(database)
    if status is not None and status.state is CopyState.FAILED_AND_SUSPENDED:
        raise Refused(f"{name} could not be seeded: {status.error}.", remedy="Remove the cause, then repeat.")
    if settings.suspended and not order.manual_resume:
        raise Refused(f"The seed of {name} was cancelled.", remedy="Repeat the command when it is wanted.")
