"""Which active databases to move so that a DAG is balanced (spec 3.9). Pure: an assignment in, an assignment out."""

from __future__ import annotations

import enum
import math
from collections import deque
from collections.abc import Mapping, Sequence

import msgspec


class Mode(enum.StrEnum):
    """The three modes of RedistributeActiveDatabases.ps1."""

    BY_PREFERENCE = "BalanceDbsByActivationPreference"
    BY_SITE_AND_PREFERENCE = "BalanceDbsBySiteAndActivationPreference"
    IGNORING_PREFERENCE = "BalanceDbsIgnoringActivationPreference"


class Placed(msgspec.Struct, frozen=True, kw_only=True):
    """A database, where it is active, and where it may be (`active` included), most preferred first."""

    name: str
    active: str
    usable: tuple[str, ...]


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """A server; `limit`: the most active databases that it may be given, None = any number."""

    name: str
    site: str = ""
    limit: int | None = None


class BalanceMove(msgspec.Struct, frozen=True, kw_only=True):
    """One move of the plan; `preference` of the target, from 1."""

    database: str
    source: str
    target: str
    preference: int


def tolerance(databases: int, sites: int, deviation: float) -> int:
    """How far a site may be from the mean: half of `deviation` percent to either side, rounded up."""
    return math.ceil(databases / sites * deviation / 200) if sites else 0


def plan(
    databases: Sequence[Placed], hosts: Mapping[str, Host], mode: Mode, deviation: float = 20.0
) -> list[BalanceMove]:
    """The moves, by database; nothing is moved to a server beyond its limit."""
    board = _Board(databases, hosts)
    match mode:
        case Mode.BY_PREFERENCE:
            board.prefer()
        case Mode.BY_SITE_AND_PREFERENCE:
            board.prefer()
            board.even_sites(deviation)
        case Mode.IGNORING_PREFERENCE:
            board.even_servers()
    moves = []
    for one in sorted(databases, key=lambda one: one.name):
        target = board.at[one.name]
        if target != one.active:
            preference = one.usable.index(target) + 1
            moves.append(BalanceMove(database=one.name, source=one.active, target=target, preference=preference))
    return moves


class _Board:
    """Where each database would be, while the plan is made."""

    def __init__(self, databases: Sequence[Placed], hosts: Mapping[str, Host]) -> None:
        self.databases = sorted(databases, key=lambda one: one.name)
        self.hosts = hosts
        self.at = {one.name: one.active for one in databases}

    def count(self, server: str) -> int:
        return sum(1 for where in self.at.values() if where == server)

    def room(self, server: str) -> bool:
        limit = self.hosts[server].limit
        return limit is None or self.count(server) < limit

    def prefer(self) -> None:
        """Each database to its most preferred usable server with room. A move makes room for another: again until
        nothing changes; each pass moves databases to better places only, so it ends."""
        changed = True
        while changed:
            changed = False
            for one in self.databases:
                here = self.at[one.name]
                better = one.usable[: one.usable.index(here)] if here in one.usable else one.usable
                target = next((server for server in better if self.room(server)), None)
                if target is not None:
                    self.at[one.name] = target
                    changed = True

    def even_servers(self) -> None:
        """As even as the copies allow: while a chain of moves leads from a server to one with at least two databases
        less, it is made. Each chain lowers the sum of squares, so it ends."""
        while True:
            for source in sorted(self.hosts, key=lambda name: (-self.count(name), name)):
                chain = self._chain(source)
                if chain is not None:
                    for database, target in chain:
                        self.at[database] = target
                    break
            else:
                return

    def _chain(self, source: str) -> list[tuple[str, str]] | None:
        """Shortest chain of moves from `source` to the emptiest server that has at least two less."""
        reached: dict[str, list[tuple[str, str]]] = {source: []}
        queue = deque([source])
        while queue:
            server = queue.popleft()
            for one in self.databases:
                if self.at[one.name] != server:
                    continue
                for target in one.usable:
                    if target not in reached:
                        reached[target] = [*reached[server], (one.name, target)]
                        queue.append(target)
        ends = [one for one in reached if self.count(one) <= self.count(source) - 2 and self.room(one)]
        return reached[min(ends, key=lambda name: (self.count(name), len(reached[name]), name))] if ends else None

    def even_sites(self, deviation: float) -> None:
        """Databases leave sites above the mean for sites below it, the best preferred first, until every site is
        within the tolerance or nothing can go."""
        sites = sorted({host.site for host in self.hosts.values()})
        mean = len(self.databases) / len(sites) if sites else 0
        allowed = tolerance(len(self.databases), len(sites), deviation)

        def filled(site: str) -> int:
            return sum(1 for where in self.at.values() if self.hosts[where].site == site)

        while True:
            fullest, emptiest = max(sites, key=filled), min(sites, key=filled)
            even = filled(fullest) <= mean + allowed and filled(emptiest) >= mean - allowed
            if even or filled(fullest) - filled(emptiest) < 2:
                return
            moves = [
                (one.usable.index(target), self.count(target), one.name, target)
                for one in self.databases
                if self.hosts[self.at[one.name]].site == fullest
                for target in one.usable
                if filled(self.hosts[target].site) <= filled(fullest) - 2
                and self.room(target)
                and self.hosts[target].site != fullest
            ]
            if not moves:
                return
            _, _, database, target = min(moves)
            self.at[database] = target
