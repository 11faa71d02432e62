"""When an alarm is raised and when it is over, and what a location's history means. Pure: time is an argument."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from everpost.model.database import CopyState, CopyStatus, Location, LocationState, MailboxDatabase

REPEAT = 900.0
"""Seconds after which a standing alarm is recorded again (spec 3.11: every 15 minutes)."""
VOTER_RED = 5.0
REDUNDANCY_RED = 20.0
"""Seconds that a fault must last: a restart of a server is no alarm. With the looks in between well below 60 s."""


class Change(msgspec.Struct, frozen=True):
    """An alarm was raised (again), or is over."""

    red: bool
    text: str


class Alarms:
    """Standing faults by name, each with the sentence that describes it."""

    def __init__(self, red_after: float, repeat: float = REPEAT) -> None:
        self._red_after = red_after
        self._repeat = repeat
        self._since: dict[str, float] = {}
        self._told: dict[str, float] = {}
        self.standing: dict[str, str] = {}

    def look(self, now: float, faults: Mapping[str, str]) -> dict[str, Change]:
        """What changed: `faults` are all that there are now."""
        changes = {}
        for name, text in faults.items():
            since = self._since.setdefault(name, now)
            told = self._told.get(name)
            if now - since >= self._red_after and (told is None or now - told >= self._repeat):
                self._told[name] = now
                changes[name] = Change(True, text)
            if name in self._told:
                self.standing[name] = text
        for name in list(self._since):
            if name not in faults:
                del self._since[name]
                if self._told.pop(name, None) is not None:
                    changes[name] = Change(False, self.standing.pop(name, ""))
        return changes


def good_copies(
    database: MailboxDatabase, location: Location | None, alive: set[str], statuses: Mapping[str, CopyStatus]
) -> list[str]:
    """Servers whose copy of the database could serve without loss: the mounted one, and the members of its set whose
    server lives and whose copy is well."""
    if location is None:
        return []
    found = []
    for server in database.servers:
        status = statuses.get(server)
        if server not in alive or status is None:
            continue
        mounted = server == location.active and location.state in (LocationState.OPEN, LocationState.MOVING)
        follows = any(member.server == server for member in location.set) and status.state is CopyState.HEALTHY
        if mounted or follows:
            found.append(server)
    return found


class Move(msgspec.Struct, frozen=True, kw_only=True):
    """A database is open again, at another epoch: `kind` is failover, switchover or remount."""

    database: str
    kind: str
    before: str
    after: str
    epoch: int
    reason: str


class Movements:
    """Follows location records and says when a database was opened anew. A planned move passes through CLOSED, a clean
    shutdown of the active; what reaches another server otherwise is a failover."""

    def __init__(self) -> None:
        self._open: dict[str, Location] = {}
        self._planned: set[str] = set()
        self._reasons: dict[str, str] = {}

    def saw(self, location: Location) -> Move | None:
        """A newer record of a database."""
        name = location.database
        before = self._open.get(name)
        if location.state in (LocationState.CLOSED, LocationState.DISMOUNTED):
            self._planned.add(name)
        elif location.state is LocationState.ACTIVATING:
            self._reasons[name] = location.reason
        if location.state is not LocationState.OPEN:
            return None
        planned = name in self._planned
        self._planned.discard(name)
        self._open[name] = location
        reason = self._reasons.pop(name, location.reason)
        if before is None or before.token == location.token:
            return None
        moved = before.active != location.active
        kind = "switchover" if planned and moved else "failover" if moved else "remount"
        if planned and not moved:
            return None  # an administrator's dismount and mount
        return Move(
            database=name,
            kind=kind,
            before=before.active,
            after=location.active,
            epoch=location.token.epoch,
            reason=reason,
        )
