"""Best copy selection (spec 3.5): ten sets as a table, refusals as sentences.

Under rule 3.4 only an eligible copy may be activated without loss, so eligibility comes before every other question;
among eligible copies all are complete and the sets choose the one that is ready soonest.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Set
from typing import NamedTuple

from everpost.activemanager.view import DatabaseView, ServerView, View
from everpost.model.database import ACTIVATABLE, CopyState, LocationState
from everpost.model.server import ActivationPolicy, MountDial


class Index(enum.StrEnum):
    """State of a content index (spec 3.5). Here the index is part of the database: always HEALTHY where the copy is."""

    HEALTHY = "Healthy"
    CRAWLING = "Crawling"
    FAILED = "Failed"


class SelectionSet(NamedTuple):
    """One row: the index it asks for, both queues in generations; None = any."""

    number: int
    content_index: Index | None
    copy_queue_below: int | None
    replay_queue_below: int | None


SETS: tuple[SelectionSet, ...] = (
    SelectionSet(1, Index.HEALTHY, 10, 50),
    SelectionSet(2, Index.CRAWLING, 10, 50),
    SelectionSet(3, Index.HEALTHY, None, 50),
    SelectionSet(4, Index.CRAWLING, None, 50),
    SelectionSet(5, None, None, 50),
    SelectionSet(6, Index.HEALTHY, 10, None),
    SelectionSet(7, Index.CRAWLING, 10, None),
    SelectionSet(8, Index.HEALTHY, None, None),
    SelectionSet(9, Index.CRAWLING, None, None),
    SelectionSet(10, None, None, None),
)
"""Spec 3.5. The index of a copy is written by the same log as its mail, so rows 2, 4, 5, 7, 9 and 10 are never the
first that a copy of ours meets; they stand here because the table is what an administrator knows."""


class Standing(NamedTuple):
    """What the selection knows of one copy. Queues in generations, None = unknown; `last_log`: the last generation
    that the copy has."""

    server: str
    preference: int
    copy_queue: int | None = None
    replay_queue: int | None = None
    content_index: Index = Index.HEALTHY
    last_log: int = -1


class Candidate(NamedTuple):
    """A copy in the order of trial, with the set that it met."""

    server: str
    selection_set: int


class Ranking(NamedTuple):
    """`candidates` in order of trial; `refusals`: why each other copy is none."""

    candidates: tuple[Candidate, ...]
    refusals: dict[str, str]

    def explain(self) -> str:
        """The refusals as one text."""
        return "; ".join(self.refusals.values())


Load = Mapping[str, Set[str]]
"""Which databases are active, or are on their way to be, on each server."""

READY = ACTIVATABLE | {CopyState.INITIALIZING, CopyState.MOUNTED, CopyState.DISMOUNTED, CopyState.MOUNTING}
"""States in which an eligible copy may be told to activate; its agent checks again under rule 3.3. A former active
(Mounted, Dismounted) is eligible too while nothing was opened after it."""


def meets(row: SelectionSet, copy: Standing) -> bool:
    """Whether the copy satisfies the row. An unknown queue satisfies no bound."""
    if row.content_index is not None and copy.content_index is not row.content_index:
        return False
    if row.copy_queue_below is not None and (copy.copy_queue is None or copy.copy_queue >= row.copy_queue_below):
        return False
    return row.replay_queue_below is None or (
        copy.replay_queue is not None and copy.replay_queue < row.replay_queue_below
    )


def order(copies: Iterable[Standing], *, by_preference: bool) -> tuple[Candidate, ...]:
    """The documented order: the first set that each meets, and within a set by activation preference alone
    (`by_preference`: some server has the dial Lossless), or else by the last log, newest first."""

    def key(copy: Standing) -> tuple[int, int]:
        return (0 if by_preference else -copy.last_log, copy.preference)

    found = [(next(row.number for row in SETS if meets(row, copy)), copy.server) for copy in sorted(copies, key=key)]
    found.sort(key=lambda one: one[0])
    return tuple(Candidate(server, number) for number, server in found)


def load_of(view: View) -> dict[str, set[str]]:
    """Active databases by server. One that moves counts where it goes."""
    load: dict[str, set[str]] = {name: set() for name in view.servers}
    for row in view.databases:
        location = row.location
        if location.state in (LocationState.DISMOUNTED, LocationState.UNKNOWN):
            continue
        going = location.state in (LocationState.MOVING, LocationState.CLOSED) and location.target is not None
        server = location.target if going and location.target is not None else location.active
        load.setdefault(server, set()).add(location.database)
    return load


def administrative_refusal(view: View, database: DatabaseView, server: str, load: Load) -> str | None:
    """What an administrator set against an activation on `server` that nobody names as the target (spec 3.5, 3.6)."""
    host = view.servers[server]
    if host.maintenance:
        return f"{server} is in maintenance"
    if database.database.copy(server).activation_suspended:
        return f"activation of its copy on {server} is suspended"
    if host.activation_policy is ActivationPolicy.BLOCKED:
        return f"the DatabaseCopyAutoActivationPolicy of {server} is Blocked"
    home = view.servers.get(database.location.active)
    if host.activation_policy is ActivationPolicy.INTRASITE_ONLY and home is not None and host.site != home.site:
        return f"the policy of {server} is IntrasiteOnly, and {database.location.active} is in {home.site}"
    return full(host, database.database.name, load)


def full(host: ServerView, database: str, load: Load) -> str | None:
    """Whether the server's hard limit leaves no room for one more."""
    active = len(load.get(host.name, frozenset()) - {database})
    if host.maximum_active is not None and active >= host.maximum_active:
        return f"{host.name} has {active} active databases, and its MaximumActiveDatabases is {host.maximum_active}"
    return None


def refusal(
    view: View, database: DatabaseView, server: str, *, named: bool = False, load: Load | None = None
) -> str | None:
    """Why `server` may not be made active now without loss, or None. What an administrator set is passed over for a
    named target, and for the copy that was active last: it is a mount there, no activation."""
    location = database.location
    host = view.servers.get(server)
    if server not in database.database.servers:
        return f"{server} has no copy of {location.database}"
    if host is None or not host.holds_tenure:
        return f"{server} does not hold its tenure"
    for refused in location.refused:
        if refused.server == server:
            return f"refused in this round: {refused.reason}"
    if location.lossy and server != location.active:
        return f"only {location.active} was named for an activation with loss"
    if location.openings and not location.lossy and not any(member.server == server for member in location.eligible):
        return f"{server} is not known to have every acknowledged change"
    if not location.openings and server != (location.target or location.active):
        return f"{location.database} was never opened, and is to be created on {location.target or location.active}"
    status = database.copies.get(server)
    if status is not None and status.state not in READY:
        return f"its copy on {server} is {status.state}" + (f" ({status.error})" if status.error else "")
    if server == location.active:
        return None
    if database.database.copy(server).suspended:
        return f"its copy on {server} is suspended"
    if named:
        return None
    return administrative_refusal(view, database, server, load_of(view) if load is None else load)


def standing(database: DatabaseView, server: str) -> Standing:
    """The copy on `server` as the selection sees it."""
    preference = database.database.servers.index(server) + 1
    status = database.copies.get(server)
    if status is None:
        return Standing(server, preference)
    last_log = status.received_lsn >> 20 if status.received_lsn is not None else -1
    return Standing(server, preference, status.copy_queue, status.replay_queue, last_log=last_log)


def by_preference(view: View, database: DatabaseView) -> bool:
    """The sort order of spec 3.5: activation preference as soon as one server with a copy has the dial Lossless."""
    hosts = (view.servers.get(server) for server in database.database.servers)
    return any(host is not None and host.mount_dial is MountDial.LOSSLESS for host in hosts)


def rank(
    view: View,
    database: DatabaseView,
    *,
    prefer: str | None = None,
    avoid: str | None = None,
    leave: str | None = None,
    load: Load | None = None,
) -> Ranking:
    """Order the copies for activation. `prefer` (a named target) comes first if it may be activated at all; `avoid`
    (the copy that just failed) comes last; `leave` is no candidate, as the database is to leave it. Servers over
    their preferred limit, and lagged copies, come after the others."""
    load = load_of(view) if load is None else load
    refusals: dict[str, str] = {}
    able: list[Standing] = []
    for server in database.database.servers:
        why = refusal(view, database, server, named=server == prefer, load=load)
        if server == leave:
            why = f"{server} is to be left"
        if why is not None:
            refusals[server] = why
        else:
            able.append(standing(database, server))

    def last(candidate: Candidate) -> tuple[bool, bool, bool, bool]:
        server = candidate.server
        lagged = database.database.copy(server).lag > 0
        over = _over_preferred(view.servers[server], database.database.name, load)
        return (server != prefer, server == avoid, lagged, over)

    ordered = order(able, by_preference=by_preference(view, database))
    return Ranking(tuple(sorted(ordered, key=last)), refusals)


def _over_preferred(host: ServerView, database: str, load: Load) -> bool:
    limit = host.maximum_preferred
    return limit is not None and len(load.get(host.name, frozenset()) - {database}) >= limit
