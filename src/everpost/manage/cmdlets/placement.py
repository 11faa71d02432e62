"""What commands that place active copies share: the view, the choice of a target, and a switchover carried out."""

from __future__ import annotations

import logging

import msgspec

from everpost.activemanager import bestcopy, transitions
from everpost.activemanager.bestcopy import Ranking
from everpost.activemanager.gather import settled
from everpost.activemanager.view import DatabaseView, ServerView, View
from everpost.directory import keys
from everpost.directory.schema import decode
from everpost.errors import Refused
from everpost.log import fact
from everpost.manage.cmdlets.databases import write_location
from everpost.manage.context import CommandContext
from everpost.manage.render import Row
from everpost.model.database import CopyState, Location, LocationState, MailboxDatabase, Progress
from everpost.model.tenure import TenureState

log = logging.getLogger(__name__)

MOVE_WAIT = 30.0
"""Seconds a command waits for a move; the record finishes it by itself afterwards."""
GROW_WAIT = 10.0
"""Seconds a healthy copy outside the synchronous set is given to be taken in."""
FOLLOWING = frozenset({CopyState.HEALTHY, CopyState.SEEDING_SOURCE})
"""States of a copy that has its active: a planned move asks for more than a failover, whose active is gone."""
COMING = FOLLOWING | {
    CopyState.INITIALIZING,
    CopyState.RESYNCHRONIZING,
    CopyState.DISCONNECTED_AND_HEALTHY,
    CopyState.MOUNTED,
    CopyState.DISMOUNTED,
}
"""States that a copy passes through on its way there; the last two are a former active's last words."""
TRIES = 8
"""How often a switchover is begun anew because the record changed (a member grew or shrank) at that moment."""


class Checks(msgspec.Struct, frozen=True, kw_only=True):
    """Which checks of the target an administrator leaves out (spec 3.7). Membership of the synchronous set is not
    among them: it is what makes a move lossless."""

    skip_health: bool = False
    skip_lag: bool = False
    skip_active_copy: bool = False
    skip_maximum: bool = False
    terminate_on_warning: bool = False


def members_of(context: CommandContext, server: str) -> tuple[str, ...]:
    """The members of the server's DAG; a server without one is a DAG of itself."""
    dag = context.organization.dag_of(server)
    return (server,) if dag is None else dag.members


async def view_of(context: CommandContext, server: str, *, progress: bool = False) -> View:
    """The DAG of `server` as this host sees it now, for ranking. `progress`: with the recorded progress too."""
    organization = context.organization
    members = members_of(context, server)
    rows: list[DatabaseView] = []
    for name, found in sorted(organization.databases.items()):
        held = organization.locations.get(name)
        if held is None or held[0].active not in members:
            continue
        recorded = await context.directory.get(keys.progress(name)) if progress else None
        rows.append(
            DatabaseView(
                database=found,
                location=held[0],
                revision=held[1],
                seen_for=0.0,
                progress=decode(Progress, recorded.value) if recorded is not None else None,
                copies={
                    one: statuses[name] for one in found.servers if name in (statuses := context.live.statuses(one))
                },
            )
        )
    dag = organization.dag_of(server)
    return View(
        me=server,
        dag=dag.name if dag is not None else None,
        pam=context.live.pam(dag.name) if dag is not None else None,
        pam_revision=0,
        servers={name: _server(context, name) for name in members},
        databases=tuple(rows),
    )


def _server(context: CommandContext, name: str) -> ServerView:
    state = TenureState.UP if context.live.holds_tenure(name) else TenureState.TAKEN
    document = context.organization.servers.get(name)
    return settled(ServerView(name=name, tenure=state), document, name in context.organization.maintenance)


def row_of(view: View, database: str) -> DatabaseView:
    """The database in the view. Raises Refused when its location is not known."""
    for row in view.databases:
        if row.database.name == database:
            return row
    raise Refused(f"Nobody knows where {database} is.", remedy="Repeat in a moment; see Get-MailboxDatabase -Status.")


def rank(view: View, row: DatabaseView, checks: Checks, *, prefer: str | None = None) -> Ranking:
    """The copies that a planned switchover of an open database may go to, best first."""
    load: bestcopy.Load = {} if checks.skip_maximum else bestcopy.load_of(view)
    ranking = bestcopy.rank(view, row, prefer=prefer, leave=row.location.active, load=load)
    refusals = dict(ranking.refusals)
    candidates = []
    for candidate in ranking.candidates:
        why = _target_refusal(row, candidate.server, checks)
        if why is None and candidate.server == prefer:
            why = bestcopy.full(view.servers[candidate.server], row.database.name, load)
        if why is None:
            candidates.append(candidate)
        else:
            refusals[candidate.server] = why
    return Ranking(tuple(candidates), refusals)


def _target_refusal(row: DatabaseView, server: str, checks: Checks) -> str | None:
    """What a planned move asks of its target besides completeness (spec 3.7), in the documented order."""
    status = row.copies.get(server)
    if status is None:
        return f"nothing is known of the copy on {server}"
    if not checks.skip_health and status.state not in FOLLOWING:
        return f"its copy on {server} is {status.state}" + (f" ({status.error})" if status.error else "")
    # A member of the set has every acknowledged change, so a queue that it does not know yet refuses nothing.
    if not checks.skip_lag:
        if status.copy_queue is not None and status.copy_queue >= 10:
            return f"the copy queue on {server} is {status.copy_queue} generations"
        if status.replay_queue is not None and status.replay_queue >= 50:
            return f"the replay queue on {server} is {status.replay_queue} generations"
    return None


def _seeding_from_active(row: DatabaseView) -> str | None:
    """The server whose copy is being seeded from the active, if any."""
    copies = row.copies.items()
    active = row.location.active
    return next((name for name, one in copies if one.state is CopyState.SEEDING and one.seed_source == active), None)


def _coming(view: View, row: DatabaseView, only: str | None) -> list[str]:
    """Copies that will soon be in the set and follow: they were just started, seeded or moved away from."""
    inside = {member.server for member in row.location.set}
    found = []
    for server, status in row.copies.items():
        settings = row.database.copy(server)
        if only not in (None, server) or server == row.location.active or not view.servers[server].holds_tenure:
            continue
        if settings.suspended or settings.lag > 0 or (server in inside and status.state in FOLLOWING):
            continue
        if status.state in COMING:
            found.append(server)
    return found


async def choose(context: CommandContext, found: MailboxDatabase, target: str | None, checks: Checks) -> str:
    """The server to move an open database to. Raises Refused with the reason for each copy."""
    end = context.clock.boottime() + GROW_WAIT
    said = False
    while True:
        view = await view_of(context, context.organization.locations[found.name][0].active)
        row = row_of(view, found.name)
        _movable(view, row, checks)
        ranking = rank(view, row, checks, prefer=target)
        if ranking.candidates and target in (None, ranking.candidates[0].server):
            chosen = ranking.candidates[0].server
            break
        coming = _coming(view, row, target)
        if not coming or context.clock.boottime() > end:
            raise _no_target(row, ranking, target, coming)
        if not said:
            context.verbose(f"Waiting until {', '.join(coming)} is in the synchronous set of {found.name}.")
            said = True
        await context.clock.sleep(0.1)
    warning = bestcopy.administrative_refusal(view, row, chosen, {})
    if warning is not None:
        if checks.terminate_on_warning:
            raise Refused(f"{found.name}: {warning}.", remedy="Leave -TerminateOnWarning out to move it all the same.")
        context.warning(f"{found.name}: {warning}; it goes there because it was named.")
    return chosen


def _movable(view: View, row: DatabaseView, checks: Checks) -> None:
    location, name = row.location, row.database.name
    if location.state is LocationState.DISMOUNTED:
        raise Refused(f"{name} is dismounted.", remedy=f"Mount-Database {name} first.")
    if not view.servers[location.active].holds_tenure:
        raise Refused(
            f"{location.active}, where {name} is active, does not answer.",
            remedy="A complete copy is activated by itself within seconds; see Get-MailboxDatabaseCopyStatus.",
        )
    if location.state is not LocationState.OPEN:
        raise Refused(f"{name} is {location.state} just now.", remedy="Wait until it is mounted, then repeat.")
    seeding = _seeding_from_active(row)
    if seeding is not None and not checks.skip_active_copy:
        raise Refused(
            f"The active copy of {name} is the seeding source of the copy on {seeding}.",
            remedy="Wait for the seed, or add -SkipActiveCopyChecks: it is then begun anew from the new active.",
        )


def _no_target(row: DatabaseView, ranking: Ranking, target: str | None, coming: list[str]) -> Refused:
    name = row.database.name
    if target is None:
        why = "; ".join(why for server, why in ranking.refusals.items() if server != row.location.active)
        return Refused(
            f"No other copy of {name} can be made active: {why or 'there is none'}.",
            remedy=f"It stays mounted on {row.location.active}."
            + (f" Add-MailboxDatabaseCopy {name} -MailboxServer SERVER makes another copy." if not why else ""),
        )
    why = ranking.refusals.get(target, f"{target} is not known")
    if row.database.copy(target).suspended:
        return Refused(f"{name}: {why}.", remedy=f"Resume-MailboxDatabaseCopy {name}\\{target}, then repeat.")
    if target in coming:
        return Refused(
            f"The copy on {target} is not in the synchronous set of {name} yet, so it may lack acknowledged mail.",
            remedy="A member that was slow is asked in again after a quiet minute or more;"
            f" repeat when Get-MailboxDatabaseCopyStatus {name} shows it as the active's Resilience.",
        )
    if row.database.copy(target).lag > 0:
        return Refused(
            f"{name} cannot be moved to {target}: its copy there is lagged, and lacks what it keeps back.",
            remedy="Add -SkipLagChecks: it then replays all that it has first, which may take a while.",
        )
    remedy = "See Get-MailboxDatabaseCopyStatus for its state."
    if "queue" in why:
        remedy = "Wait, or add -SkipLagChecks: clients then wait for the replay."
    elif "MaximumActiveDatabases" in why:
        remedy = "Name another server, raise the limit by Set-MailboxServer, or -SkipMaximumActiveDatabasesChecks."
    return Refused(f"{name} cannot be moved to {target}: {why}.", remedy=remedy)


def move_row(context: CommandContext, location: Location) -> Row:
    """A row of Move-ActiveMailboxDatabase before anything happened (columns of spec 3.7)."""
    mounted = "Mounted" if location.state is LocationState.OPEN else "Dismounted"
    return {
        "Identity": location.database,
        "ActiveServerAtStart": location.active,
        "ActiveServerAtEnd": location.active,
        "Status": "NotNeeded",
        "NumberOfLogsLost": 0,
        "RecoveryPointObjective": context.clock.wall().isoformat(timespec="seconds"),
        "MountStatusAtMoveStart": mounted,
        "MountStatusAtMoveEnd": mounted,
        "ErrorMessage": "",
    }


async def switch(
    context: CommandContext, found: MailboxDatabase, target: str | None, checks: Checks, reason: str
) -> Row:
    """One lossless switchover, waited for. Raises Refused when nothing was begun; a row with Failed afterwards."""
    row = move_row(context, context.organization.locations[found.name][0])
    end = context.clock.boottime() + GROW_WAIT
    for attempt in range(TRIES):
        location, revision = context.organization.locations[found.name]
        if target == location.active and location.state is LocationState.OPEN:
            return row
        chosen = await choose(context, found, target, checks)
        location, revision = context.organization.locations[found.name]
        try:
            after = transitions.moving(location, chosen, reason=reason or f"moved to {chosen} by {context.operator}")
            await write_location(context, location, revision, after)
        except (Refused, transitions.IllegalMove):
            if attempt == TRIES - 1:
                raise
            continue
        fact(
            log,
            "switchover ordered",
            database=found.name,
            from_server=location.active,
            target=chosen,
            operator=context.operator,
            comment=reason,
        )
        context.verbose(f"{found.name} is being closed on {location.active} for {chosen}.")
        await ended(context, row, location, revision, chosen)
        # The active gave it up before it closed anything, as its target was not following yet: no harm in repeating.
        given_up = row["Status"] == "Failed" and context.organization.locations[found.name][0].token == location.token
        if not given_up or row["MountStatusAtMoveEnd"] != "Mounted" or context.clock.boottime() > end:
            return row
        await context.clock.sleep(1.0)
    return row


async def ended(context: CommandContext, row: Row, before: Location, revision: int, target: str) -> Row:
    """Wait for the opening behind a record written at `revision`, and fill the row in."""
    end = context.clock.boottime() + MOVE_WAIT
    while True:
        location, now = context.organization.locations[before.database]
        moved = location.state is LocationState.OPEN and now > revision
        if moved or context.clock.boottime() > end:
            break
        if location.lossy and any(refusal.server == target for refusal in location.refused):
            break
        await context.clock.sleep(0.02)
    row["ActiveServerAtEnd"] = location.active
    row["MountStatusAtMoveEnd"] = "Mounted" if location.state is LocationState.OPEN else "Dismounted"
    if moved and location.active == target and location.token != before.token:
        row.update(Status="Succeeded", ErrorMessage="")
        return row
    row.update(Status="Failed", ErrorMessage="")
    refused = "; ".join(f"{one.server}: {one.reason}" for one in location.refused)
    if moved:
        row["ErrorMessage"] = f"It is mounted on {location.active}: {location.reason}."
    else:
        row["ErrorMessage"] = f"It is {location.state} on {location.active}: {refused or location.reason}."
    return row
