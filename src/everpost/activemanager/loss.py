"""What an activation with loss would lose, and which mount dial allows that (spec 3.4, architecture 3.4). Pure.

A copy that is not eligible may lack acknowledged mail however small the difference looks: the figures are lower bounds,
as the recorded progress is up to a second old.
"""

from __future__ import annotations

from everpost.activemanager.view import DatabaseView
from everpost.model.database import CopyState
from everpost.model.server import MountDial

GENERATION_BITS = 20
"""A generation is 1 MB of log."""

ALLOWED: dict[MountDial, int | None] = {
    MountDial.LOSSLESS: 0,
    MountDial.GOOD_AVAILABILITY: 6,
    MountDial.BEST_AVAILABILITY: 12,
    MountDial.BEST_EFFORT: None,
}
"""Generations that may be missing under each dial; None: any number, also an unknown one."""


def missing(database: DatabaseView, server: str) -> int | None:
    """At least how many generations the copy lacks; None when nobody knows."""
    location = database.location
    status = database.copies.get(server)
    if status is None or status.received_lsn is None or not location.openings:
        return None
    if status.timeline != location.openings[-1].timeline:
        return None  # its log ends before the newest opening: positions cannot be compared
    newest = _newest(database)
    if newest is None:
        return None
    return max((newest >> GENERATION_BITS) - (status.received_lsn >> GENERATION_BITS), 0)


def _newest(database: DatabaseView) -> int | None:
    """The end of the newest opening's log as far as anybody was told."""
    location, progress = database.location, database.progress
    told = [location.closed_lsn]
    if progress is not None:
        told.append(location.kept(progress.token, progress.generated_lsn))
    active = database.copies.get(location.openings[-1].server)
    if active is not None and active.timeline == location.openings[-1].timeline:
        told.append(active.generated_lsn)
    return max((lsn for lsn in told if lsn is not None), default=None)


def behind(database: DatabaseView, server: str) -> int | None:
    """At least how many bytes of log lie behind the point where a copy stands; None if nobody knows."""
    status = database.copies.get(server)
    newest = _newest(database)
    if status is None or status.replayed_lsn is None or newest is None:
        return None
    return max(newest - status.replayed_lsn, 0)


def refusal(database: DatabaseView, server: str, dial: MountDial) -> str | None:
    """Why the copy on `server` may not be activated with loss under that dial, or None. A fork is never activated:
    its timeline would carry a number that another one has (architecture 3.5)."""
    name = f"{database.database.name}\\{server}"
    status = database.copies.get(server)
    if server not in database.database.servers:
        return f"{server} has no copy of {database.database.name}"
    if database.database.copy(server).suspended:
        return f"{name} is suspended"
    if status is None:
        return f"nothing is known of {name}"
    if status.state in (CopyState.SEEDING, CopyState.FAILED_AND_SUSPENDED):
        return f"{name} is {status.state}" + (f" ({status.error})" if status.error else "")
    openings = database.location.openings
    if openings and status.timeline and status.timeline < openings[-1].timeline:
        return f"{name} has no log of the last opening (timeline {openings[-1].timeline})"
    if dial is MountDial.LOSSLESS:
        return f"{name} is not known to have every acknowledged change, and the mount dial is Lossless"
    lacks = missing(database, server)
    limit = ALLOWED[dial]
    if limit is None:
        return None
    if lacks is None:
        return f"nobody knows how much {name} lacks, and {dial} allows {limit} generations"
    if lacks > limit:
        return f"{name} lacks at least {lacks} generations, and {dial} allows {limit}"
    return None


def sentence(database: DatabaseView, server: str) -> str:
    """What would be lost, for people."""
    lacks = missing(database, server)
    status = database.copies.get(server)
    has = (status.received_lsn or 0) >> GENERATION_BITS if status is not None else 0
    if lacks is None:
        return f"{server} has log up to generation {has}; what it lacks is unknown"
    return f"{server} has log up to generation {has} and lacks at least {lacks} generations of 1 MB"
