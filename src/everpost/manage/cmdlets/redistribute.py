"""Redistribute-ActiveDatabases: reports and balancing (spec 3.9)."""

from __future__ import annotations

from everpost.activemanager import balance, bestcopy
from everpost.activemanager.balance import BalanceMove, Host, Mode, Placed
from everpost.activemanager.view import DatabaseView, View
from everpost.errors import EverpostError, Refused
from everpost.manage import registry
from everpost.manage.cmdlets.change import look_up
from everpost.manage.cmdlets.placement import Checks, rank, switch, view_of
from everpost.manage.context import CommandContext
from everpost.manage.render import Row
from everpost.model.database import LocationState
from everpost.model.server import DatabaseAvailabilityGroup
from everpost.monitoring.catalogue import REDISTRIBUTED


@registry.command("Redistribute-ActiveDatabases", positional=0, aliases=("RedistributeActiveDatabases.ps1",))
async def redistribute_active_databases(
    context: CommandContext,
    dag_name: str = "",
    balance_dbs_by_activation_preference: bool = False,
    balance_dbs_by_site_and_activation_preference: bool = False,
    balance_dbs_ignoring_activation_preference: bool = False,
    allowed_deviation_from_mean_percentage: int = 20,
    show_final_database_distribution: bool = False,
    show_database_current_actives: bool = False,
    show_database_distribution_by_server: bool = False,
    run_only_on_p_a_m: bool = False,
    log_events: bool = False,
    include_non_replicated_databases: bool = False,
    what_if: bool = False,
) -> list[Row]:
    """Balance the active databases of a DAG by lossless moves, one after the other; or show how they are spread."""
    dag = _dag(context, dag_name)
    holder = context.live.pam(dag.name)
    if run_only_on_p_a_m and holder != context.settings.name:
        context.warning(f"{context.settings.name} is not the Primary Active Manager ({holder} is): nothing is done.")
        return []
    modes = {
        Mode.BY_PREFERENCE: balance_dbs_by_activation_preference,
        Mode.BY_SITE_AND_PREFERENCE: balance_dbs_by_site_and_activation_preference,
        Mode.IGNORING_PREFERENCE: balance_dbs_ignoring_activation_preference,
    }
    asked = [mode for mode, wanted in modes.items() if wanted]
    shown = show_final_database_distribution or show_database_distribution_by_server or show_database_current_actives
    if len(asked) > 1 or not (asked or shown):
        raise Refused(
            "How are the databases to be balanced?",
            remedy=f"One of -{', -'.join(Mode)}; -ShowDatabaseDistributionByServer only shows.",
        )
    if not dag.members:
        return []
    view = await view_of(context, dag.members[0])
    rows: list[Row] = []
    if asked:
        moves = _plan(context, view, asked[0], allowed_deviation_from_mean_percentage)
        rows = [_planned(move) for move in moves] if what_if else await _carry_out(context, moves)
        if log_events:
            done = sum(row["Status"] == "Succeeded" for row in rows)
            text = f"{done} of {len(moves)} planned moves of databases were made in {dag.name}"
            context.live.record(REDISTRIBUTED, text, dag=dag.name, planned=str(len(moves)), moved=str(done))
    if not shown:
        return rows
    for row in rows:
        context.warning(
            f"{row['Identity']}: {row['Source']} to {row['Target']}: {row['Status']}. {row['Detail']}".rstrip()
        )
    if asked and not what_if:
        view = await view_of(context, dag.members[0])
    if show_database_current_actives:
        return _actives(view, include_non_replicated_databases)
    return _distribution(view, dag, include_non_replicated_databases)


def _dag(context: CommandContext, name: str) -> DatabaseAvailabilityGroup:
    if name:
        return look_up(context.organization.dags, name, "database availability group", "Get-DatabaseAvailabilityGroup")
    own = context.organization.dag_of(context.settings.name)
    if own is None:
        raise Refused(f"{context.settings.name} is in no DAG.", remedy="Name one with -DagName.")
    return own


def _plan(context: CommandContext, view: View, mode: Mode, deviation: int) -> list[BalanceMove]:
    hosts = {}
    for server in view.servers.values():
        limits = [one for one in (server.maximum_active, server.maximum_preferred) if one is not None]
        hosts[server.name] = Host(name=server.name, site=server.site, limit=min(limits) if limits else None)
    placed = []
    for row in view.databases:
        if row.location.state is not LocationState.OPEN:
            context.verbose(f"{row.database.name} is {row.location.state}: it is left where it is.")
            continue
        one = _placed(view, row)
        away = set(row.database.servers) - set(one.usable)
        if away:
            context.verbose(f"{one.name} cannot go to {', '.join(sorted(away))} now.")
        placed.append(one)
    return balance.plan([one for one in placed if len(one.usable) > 1], hosts, mode, float(deviation))


def _placed(view: View, row: DatabaseView) -> Placed:
    """Where the database may be now: where it is, and every copy that a move without a named target could go to.
    Limits are the plan's business, as it makes room."""
    able = {one.server for one in rank(view, row, Checks(skip_maximum=True)).candidates}
    able = {one for one in able if bestcopy.administrative_refusal(view, row, one, {}) is None} | {row.location.active}
    usable = tuple(one for one in row.database.servers if one in able)
    return Placed(name=row.database.name, active=row.location.active, usable=usable)


def _planned(move: BalanceMove) -> Row:
    return {
        "Identity": move.database,
        "Source": move.source,
        "Target": move.target,
        "ActivationPreference": move.preference,
        "Status": "Planned",
        "Detail": "",
    }


async def _carry_out(context: CommandContext, moves: list[BalanceMove]) -> list[Row]:
    rows = []
    for move in moves:
        row = _planned(move)
        try:
            done = await switch(
                context,
                context.organization.databases[move.database],
                move.target,
                Checks(terminate_on_warning=True),
                "redistributed",
            )
            row.update(Status=done["Status"], Detail=done["ErrorMessage"])
        except EverpostError as error:
            row.update(Status="Failed", Detail=str(error))
        context.verbose(f"{move.database} to {move.target}: {row['Status']}.")
        rows.append(row)
    return rows


def _counted(view: View, include_single: bool) -> list[DatabaseView]:
    return [row for row in view.databases if include_single or len(row.database.servers) > 1]


def _actives(view: View, include_single: bool) -> list[Row]:
    return [
        {
            "Identity": row.database.name,
            "ActiveServer": row.location.active,
            "ActivationPreference": row.database.servers.index(row.location.active) + 1,
            "Mounted": row.location.state is LocationState.OPEN,
        }
        for row in _counted(view, include_single)
    ]


def _distribution(view: View, dag: DatabaseAvailabilityGroup, include_single: bool) -> list[Row]:
    counted = _counted(view, include_single)
    most = max((len(row.database.servers) for row in counted), default=0)
    rows = []
    for name in sorted(dag.members):
        held = [row for row in counted if name in row.database.servers]
        active = [row for row in held if row.location.active == name]
        mounted = sum(row.location.state is LocationState.OPEN for row in active)
        places = [sum(row.database.servers.index(name) == place for row in held) for place in range(most)]
        rows.append(
            {
                "ServerName": name,
                "TotalDbs": len(held),
                "ActiveDbs": len(active),
                "PassiveDbs": len(held) - len(active),
                "PreferenceCountList": places,
                "MountedDbs": mounted,
                "DismountedDbs": len(active) - mounted,
                "DagName": dag.name,
            }
        )
    return rows
