"""Maintenance of a DAG's server, begun and ended by one command each (spec 3.10, pains P1 to P8).

The whole plan is made and shown first; nothing is begun that cannot be finished. What has to be restored is written to
the directory in the transaction that changes the first setting, and each step is repeatable from that record: after
the death of the agent the same command goes on where it was, and the end restores exactly what the start changed.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

from msgspec.structs import replace

from everpost.activemanager import bestcopy
from everpost.activemanager.view import DatabaseView, View
from everpost.directory import keys
from everpost.directory.schema import encode
from everpost.errors import EverpostError, Refused
from everpost.log import fact
from everpost.manage import registry
from everpost.manage.cmdlets.change import seen, write
from everpost.manage.cmdlets.placement import FOLLOWING, Checks, rank, switch, view_of
from everpost.manage.cmdlets.servers import active_on, mailbox_server, move_manager, other_manager
from everpost.manage.context import CommandContext
from everpost.manage.render import Row
from everpost.model.database import CopySettings, CopyState, LocationState
from everpost.model.server import (
    ActivationPolicy,
    DatabaseAvailabilityGroup,
    MaintenancePhase,
    MaintenanceRecord,
    Role,
    Server,
)

log = logging.getLogger(__name__)

COLUMNS = ("Server", "Step", "Object", "Target", "Status", "Detail")
ANSWERS = 1.0
"""Seconds a voter without tenure (a witness) is given to answer."""
TRIES = 5
LEAST_COPIES = 2
"""Copies that must stay, unless -OverrideMinimumTwoCopies says that one is enough."""


class Plan(NamedTuple):
    """What a start would do. `refusals` always stand against it, `thin` unless overridden."""

    moves: list[tuple[str, str]]
    refusals: list[str]
    thin: list[str]


@registry.command("Start-DagServerMaintenance", columns=COLUMNS, aliases=("StartDagServerMaintenance.ps1",))
async def start_dag_server_maintenance(
    context: CommandContext,
    server_name: str,
    override_minimum_two_copies: bool = False,
    move_comment: str = "",
    pause_cluster_node: bool = False,
    force: bool = False,
    what_if: bool = False,
) -> list[Row]:
    """Move everything away from a server and keep it away, so that the server may be stopped.

    Refused, with a list, while a database would be left without a copy or the directory without quorum; and while one
    copy alone would be left, unless -OverrideMinimumTwoCopies. -WhatIf shows the plan.
    """
    del pause_cluster_node, force  # always done; never asked
    server = mailbox_server(context, server_name)
    dag = context.organization.dag_of(server.name)
    if dag is None:
        raise Refused(f"{server.name} is in no DAG.", remedy="Dismount-Database its databases, then stop it.")
    plan = await _plan(context, server.name)
    if what_if:
        return _shown(context, dag, server, plan)
    against = [*plan.refusals, *([] if override_minimum_two_copies else plan.thin)]
    if against:
        raise _refused(server.name, against, overridable=not plan.refusals)
    for sentence in plan.thin:
        context.warning(sentence)
    record = context.organization.maintenance.get(server.name)
    if record is not None and record.phase is MaintenancePhase.ACTIVE and not active_on(context, server.name):
        return [_row(server.name, "Maintenance", server.name, status="NotNeeded", detail="it is in maintenance")]
    if record is None:
        record = await _begin(context, server.name, move_comment)
    rows = [_row(server.name, "Block activation", server.name), *_drained(context, server)]
    await _set_activation(context, server.name, record.suspended, suspended=True)
    moved, failed = await _move_all(context, server.name, move_comment)
    rows += moved
    if failed:
        await _restore(context, record)
        raise Refused(
            f"{server.name} is not in maintenance: {'; '.join(failed)}.",
            remedy="Its settings are as they were, and what was moved stays where it is. See to these, then repeat.",
        )
    if context.live.pam(dag.name) == server.name:
        target = other_manager(context, dag)
        await move_manager(context, dag, target)
        rows.append(_row(server.name, "Move Primary Active Manager", dag.name, target))
    await _phase(context, server.name, MaintenancePhase.ACTIVE)
    fact(log, "maintenance started", server=server.name, operator=context.operator, comment=move_comment)
    rows.append(_row(server.name, "Maintenance", server.name, detail="the server may be stopped"))
    return rows


@registry.command("Stop-DagServerMaintenance", columns=COLUMNS, aliases=("StopDagServerMaintenance.ps1",))
async def stop_dag_server_maintenance(context: CommandContext, server_name: str, what_if: bool = False) -> list[Row]:
    """End a server's maintenance: restore exactly what its start changed. Databases are not moved back."""
    server = mailbox_server(context, server_name)
    record = context.organization.maintenance.get(server.name)
    if record is None:
        return [_row(server.name, "Maintenance", server.name, status="NotNeeded", detail="it is not in maintenance")]
    status = "Planned" if what_if else "Succeeded"
    policy = f"DatabaseCopyAutoActivationPolicy {record.previous_policy}"
    rows = [_row(server.name, "Allow activation", server.name, status=status, detail=policy)]
    for name in record.suspended:
        rows.append(_row(server.name, "Resume activation", f"{name}\\{server.name}", status=status))
    if what_if:
        return rows
    await _restore(context, record)
    fact(log, "maintenance ended", server=server.name, operator=context.operator)
    if record.moved:
        context.warning(
            f"{', '.join(record.moved)} stay where they are; Redistribute-ActiveDatabases, or"
            f" Move-ActiveMailboxDatabase -ActivatePreferredOnServer {server.name}, moves them back."
        )
    return rows


def _drained(context: CommandContext, server: Server, *, status: str = "Succeeded") -> list[Row]:
    """What its clients are told from now on; the processes that serve them follow the record."""
    rows: list[Row] = []
    for role in (Role.CLIENT_ACCESS, Role.HUB_TRANSPORT):
        if role not in server.roles:
            continue
        others = context.organization.relieved_by(server.name, role)
        if others:
            rows.append(_row(server.name, "Send clients elsewhere", str(role), ", ".join(others), status=status))
        else:
            context.warning(f"No other server has the role {role}: clients stay on {server.name} until it stops.")
    return rows


def _refused(server: str, against: list[str], *, overridable: bool) -> Refused:
    remedy = "-WhatIf shows the whole plan; nothing was changed."
    if overridable:
        remedy = "If one copy is enough for that time, add -OverrideMinimumTwoCopies. Nothing was changed."
    return Refused(f"{server} cannot go into maintenance: {'; '.join(against)}.", remedy=remedy)


# -- the plan ----------------------------------------------------------------------------------------------------


async def _plan(context: CommandContext, server: str) -> Plan:
    view = await view_of(context, server)
    moves: list[tuple[str, str]] = []
    refusals: list[str] = []
    thin: list[str] = []
    load = bestcopy.load_of(view)
    for row in view.databases:
        name = row.database.name
        if server not in row.database.servers or row.location.state is LocationState.DISMOUNTED:
            continue
        left = [one for one in row.database.servers if one != server and _stays(view, row, one)]
        if not left:
            refusals.append(_nothing_left(view, row, server))
            continue
        if len(left) < LEAST_COPIES:
            thin.append(f"{name} would have one copy left, on {left[0]}")
        if row.location.active == server:
            # Limits count what this very plan brings to a server.
            ranking = rank(view, row, Checks())
            target = next((one for one in left if bestcopy.full(view.servers[one], name, load) is None), None)
            ranked = [
                one.server for one in ranking.candidates if bestcopy.full(view.servers[one.server], name, load) is None
            ]
            if ranked:
                target = ranked[0]
            elif row.location.state is LocationState.OPEN:
                refusals.append(f"{name} cannot be moved away: {_others(ranking, server)}")
                continue
            moves.append((name, target or left[0]))
            load.setdefault(target or left[0], set()).add(name)
    quorum = await _quorum_refusal(context, server)
    if quorum is not None:
        refusals.append(quorum)
    return Plan(moves, refusals, thin)


def _others(ranking: bestcopy.Ranking, server: str) -> str:
    return "; ".join(why for name, why in ranking.refusals.items() if name != server) or "the others are full"


def _stays(view: View, row: DatabaseView, server: str) -> bool:
    """Whether the copy on `server` is there for the database while another server is away."""
    host, status = view.servers.get(server), row.copies.get(server)
    settings = row.database.copy(server)
    if host is None or not host.holds_tenure or host.maintenance or status is None:
        return False
    if settings.suspended or settings.activation_suspended or settings.lag > 0:
        return False
    if row.location.active == server:
        return status.state in (CopyState.MOUNTED, CopyState.MOUNTING)
    return status.state in FOLLOWING and any(member.server == server for member in row.location.set)


def _nothing_left(view: View, row: DatabaseView, server: str) -> str:
    name = row.database.name
    others = [one for one in row.database.servers if one != server]
    if not others:
        return f"{name} has no other copy (add one, or Dismount-Database {name})"
    reasons = []
    for one in others:
        host, status = view.servers.get(one), row.copies.get(one)
        settings = row.database.copy(one)
        if host is None or not host.holds_tenure:
            reasons.append(f"{one} does not answer")
        elif host.maintenance:
            reasons.append(f"{one} is in maintenance")
        elif settings.suspended or settings.activation_suspended:
            reasons.append(f"its copy on {one} is suspended")
        elif settings.lag > 0:
            reasons.append(f"its copy on {one} is lagged")
        elif status is not None and status.state not in FOLLOWING:
            reasons.append(f"its copy on {one} is {status.state}")
        else:
            reasons.append(f"its copy on {one} is not in the synchronous set")
    return f"{name} would have no copy left ({', '.join(reasons)})"


async def _quorum_refusal(context: CommandContext, server: str) -> str | None:
    """Whether the directory keeps its majority without this server, and without those in maintenance."""
    voters = await context.voters.names()
    if server not in voters:
        return None
    away = set(context.organization.maintenance) | {server}
    left = [name for name in voters if name not in away and await _lives(context, name)]
    needed = len(voters) // 2 + 1
    if len(left) >= needed:
        return None
    return (
        f"the directory would lose its quorum ({len(left)} of {len(voters)} voters left:"
        f" {', '.join(left) or 'none'}; {needed} are needed)"
    )


async def _lives(context: CommandContext, name: str) -> bool:
    if context.live.holds_tenure(name):
        return True
    try:
        await context.agents.call(name, "GET", "/v1/ping", timeout=ANSWERS)
    except EverpostError:
        return False
    return True


def _shown(context: CommandContext, dag: DatabaseAvailabilityGroup, document: Server, plan: Plan) -> list[Row]:
    server = document.name
    rows = [_row(server, "Refusal", server, status="Refused", detail=why) for why in plan.refusals]
    for why in plan.thin:
        rows.append(
            _row(server, "Warning", server, status="NeedsOverride", detail=f"{why} (-OverrideMinimumTwoCopies)")
        )
    rows.append(_row(server, "Block activation", server, status="Planned"))
    rows += _drained(context, document, status="Planned")
    rows += [_row(server, "Move", name, target, status="Planned") for name, target in plan.moves]
    if context.live.pam(dag.name) == server:
        rows.append(_row(server, "Move Primary Active Manager", dag.name, status="Planned"))
    return rows


def _row(
    server: str, step: str, what: str, target: str | None = None, *, status: str = "Succeeded", detail: str = ""
) -> Row:
    return {"Server": server, "Step": step, "Object": what, "Target": target, "Status": status, "Detail": detail}


# -- the steps, each repeatable ----------------------------------------------------------------------------------


async def _begin(context: CommandContext, server: str, comment: str) -> MaintenanceRecord:
    """The record and the policy in one transaction: from here on the start can be finished or undone by anybody."""
    organization = context.organization
    document = organization.servers[server]
    copies = [one for one in organization.databases.values() if server in one.servers]
    record = MaintenanceRecord(
        server=server,
        phase=MaintenancePhase.STARTING,
        operator=context.operator,
        began=context.clock.wall().isoformat(timespec="seconds"),
        comment=comment,
        previous_policy=document.activation_policy,
        suspended=tuple(sorted(one.name for one in copies if not one.copy(server).activation_suspended)),
        moved=tuple(active_on(context, server)),
    )
    blocked = replace(document, activation_policy=ActivationPolicy.BLOCKED)
    await write(
        context,
        {keys.maintenance(server): 0, keys.server(server): organization.revision(keys.server(server))},
        {keys.maintenance(server): encode(record), keys.server(server): encode(blocked)},
        what=f"The maintenance of {server}",
    )
    await seen(context, keys.maintenance(server))
    return record


async def _set_activation(context: CommandContext, server: str, names: tuple[str, ...], *, suspended: bool) -> None:
    """Suspend or resume the activation of the server's copies of these databases; what is so already stays."""
    for name in names:
        for attempt in range(TRIES):
            found = context.organization.databases.get(name)
            if found is None or server not in found.servers or found.copy(server).activation_suspended == suspended:
                break
            copies = {**found.copies, server: replace(found.copy(server), activation_suspended=suspended)}
            if copies[server] == CopySettings():
                del copies[server]
            key = keys.database(name)
            revision = context.organization.revision(key)
            try:
                await write(context, {key: revision}, {key: encode(replace(found, copies=copies))}, what=name)
            except Refused:
                if attempt == TRIES - 1:
                    raise
                await context.clock.sleep(0.1)
                continue
            await seen(context, key, revision + 1)


async def _move_all(context: CommandContext, server: str, comment: str) -> tuple[list[Row], list[str]]:
    """Rows of what was moved, and why the others were not; each is tried twice."""
    rows: list[Row] = []
    failed: dict[str, str] = {}
    for _ in range(2):
        failed = {}
        for name in active_on(context, server):
            found = context.organization.databases[name]
            try:
                moved = await switch(context, found, None, Checks(), comment or f"maintenance of {server}")
            except EverpostError as error:
                failed[name] = error.what
                continue
            if moved["Status"] == "Failed":
                failed[name] = f"{name}: {moved['ErrorMessage']}"
                continue
            context.verbose(f"{name} is on {moved['ActiveServerAtEnd']}.")
            rows.append(_row(server, "Move", name, str(moved["ActiveServerAtEnd"])))
        if not failed:
            break
    return rows, list(failed.values())


async def _phase(context: CommandContext, server: str, phase: MaintenancePhase) -> None:
    record = context.organization.maintenance[server]
    key = keys.maintenance(server)
    revision = context.organization.revision(key)
    if record.phase is not phase:
        await write(context, {key: revision}, {key: encode(replace(record, phase=phase))}, what=f"{server}")
        await seen(context, key, revision + 1)


async def _restore(context: CommandContext, record: MaintenanceRecord) -> None:
    """Exactly what the start changed, and only where it still is as the start left it; the record goes last."""
    server = record.server
    await _set_activation(context, server, record.suspended, suspended=False)
    for attempt in range(TRIES):
        document = context.organization.servers[server]
        if document.activation_policy is ActivationPolicy.BLOCKED:
            document = replace(document, activation_policy=record.previous_policy)
        key, own = keys.maintenance(server), keys.server(server)
        revisions = {one: context.organization.revision(one) for one in (key, own)}
        try:
            await write(context, revisions, {key: None, own: encode(document)}, what=f"The maintenance of {server}")
        except Refused:
            if attempt == TRIES - 1:
                raise
            await context.clock.sleep(0.1)
            continue
        await seen(context, own, revisions[own] + 1)
        return
