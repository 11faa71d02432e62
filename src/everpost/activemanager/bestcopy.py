"""Best copy selection (spec 3.5): ten sets as a table, refusals as sentences.

Under rule 3.4 only an eligible copy may be activated without loss, so eligibility comes before every other question;
among eligible copies all are complete and the sets choose the one that is ready soonest.
"""

from __future__ import annotations

from typing import NamedTuple

from everpost.activemanager.view import DatabaseView, View
from everpost.model.database import ACTIVATABLE, CopyState, CopyStatus


class SelectionSet(NamedTuple):
    """One row: both queues in generations, None = any length."""

    number: int
    copy_queue_below: int | None
    replay_queue_below: int | None


SETS: tuple[SelectionSet, ...] = (
    SelectionSet(1, 10, 50),
    SelectionSet(3, None, 50),
    SelectionSet(6, 10, None),
    SelectionSet(8, None, None),
)
"""Rows 1, 3, 6, 8 of spec 3.5. Rows 2, 4, 5, 7, 9, 10 differ by the content index, which here is part of the database
and therefore always as healthy as the copy."""


class Candidate(NamedTuple):
    """A copy in the order of trial, with the set that it met."""

    server: str
    selection_set: int


class Ranking(NamedTuple):
    """`candidates` in order of trial; `refusals`: why each other copy is none."""

    candidates: tuple[Candidate, ...]
    refusals: dict[str, str]


READY = ACTIVATABLE | {CopyState.INITIALIZING, CopyState.MOUNTED, CopyState.DISMOUNTED, CopyState.MOUNTING}
"""States in which an eligible copy may be told to activate; its agent checks again under rule 3.3. A former active
(Mounted, Dismounted) is eligible too while nothing was opened after it."""


def refusal(view: View, database: DatabaseView, server: str) -> str | None:
    """Why `server` may not be made active now without loss, or None."""
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
        return f"its copy is {status.state}" + (f" ({status.error})" if status.error else "")
    return None


def _meets(row: SelectionSet, status: CopyStatus | None) -> bool:
    copy_queue = status.copy_queue if status is not None else None
    replay_queue = status.replay_queue if status is not None else None
    if row.copy_queue_below is not None and (copy_queue is None or copy_queue >= row.copy_queue_below):
        return False
    return row.replay_queue_below is None or (replay_queue is not None and replay_queue < row.replay_queue_below)


def _least_set(status: CopyStatus | None) -> int:
    return next(row.number for row in SETS if _meets(row, status))


def rank(view: View, database: DatabaseView, *, prefer: str | None = None, avoid: str | None = None) -> Ranking:
    """Order the copies for activation. `prefer` (a named target) comes first if it may be activated at all; `avoid`
    (the copy that just failed) comes last. Ties are broken by activation preference (spec 3.5: Lossless)."""
    refusals: dict[str, str] = {}
    found: list[tuple[bool, bool, int, int, str]] = []
    for preference, server in enumerate(database.database.servers, 1):
        why = refusal(view, database, server)
        if why is not None:
            refusals[server] = why
            continue
        number = _least_set(database.copies.get(server))
        found.append((server != prefer, server == avoid, number, preference, server))
    found.sort()
    return Ranking(tuple(Candidate(server, number) for _, _, number, _, server in found), refusals)
