"""A small engine and small peers with which the duties of an active are tested one rule at a time.

`FakeActive` is one active with members: a commit waits exactly as PostgreSQL 15 was measured to make it wait, that is
when the checkpointer has taken the names up, and not merely when they stand in the file.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime

from everpost.databases.interface import Positions, SenderRow
from everpost.errors import Unavailable
from everpost.model.database import Token


class StepClock:
    """Time that passes only when somebody sleeps; each sleeper may be followed by a hook (the world moving on)."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.hook = lambda: None

    def boottime(self) -> float:
        return self.now

    def wall(self) -> datetime:
        return datetime.fromtimestamp(self.now, UTC)

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.hook()


class FakeProbe:
    """A commit at `lsn`; done when its wait is over or never began."""

    _numbers = itertools.count(1)

    def __init__(self, active: FakeActive, lsn: int) -> None:
        self._active = active
        self.lsn = lsn
        self.waiter = f"probe{next(self._numbers)}"
        self.abandoned = False

    @property
    def done(self) -> bool:
        return not self._active.holds_back(self.lsn)

    def abandon(self) -> None:
        self.abandoned = True


class FakeActive:
    """The engine of an open active: only what `SetKeeper` uses."""

    incarnation = "a1"

    def __init__(self, members: dict[str, str]) -> None:
        self.lsn = 1000
        self.flushed = {self.standby_name(server, inc, Token(1, 2)): 1000 for server, inc in members.items()}
        self.names_file: tuple[str, ...] = ()
        self.effective: tuple[str, ...] = ()
        self.checkpointer_runs = True
        self.names_history: list[tuple[str, ...]] = []
        self.probes: list[FakeProbe] = []
        self.extra_senders: list[SenderRow] = []

    def standby_name(self, server: str, incarnation: str, token: Token) -> str:
        return f"mb01_{server.lower()}_{incarnation}_e{token.epoch}"

    def holds_back(self, lsn: int) -> bool:
        return any(self.flushed.get(name, 0) < lsn for name in self.effective)

    async def set_names(self, names: Sequence[str]) -> None:
        self.names_file = tuple(names)
        self.names_history.append(self.names_file)
        self.take_up()

    def take_up(self) -> None:
        if self.checkpointer_runs:
            self.effective = self.names_file

    def stream(self) -> None:
        for name in self.flushed:
            self.flushed[name] = self.lsn

    async def positions(self) -> Positions:
        rows = [SenderRow(name, "streaming", lsn, lsn) for name, lsn in self.flushed.items()]
        waiting = [probe.waiter for probe in self.probes if not probe.done and not probe.abandoned]
        return Positions(self.lsn, self.lsn, (*rows, *self.extra_senders), waiting)

    async def probe(self) -> FakeProbe:
        self.lsn += 100
        probe = FakeProbe(self, self.lsn)
        self.probes.append(probe)
        return probe

    async def commit_locally(self) -> None:
        self.lsn += 10

    async def commit_with_set(self) -> None:
        """Nobody waits for it here; that it waits is tested on PostgreSQL."""


class FakePeers:
    """Other servers: what incarnation each says, who is lost, which openings each shows."""

    def __init__(self, incarnations: dict[str, str], openings: list[tuple[Token, str]]) -> None:
        self.incarnations = incarnations
        self.shown = {server: openings for server in incarnations}
        self.gone: frozenset[str] = frozenset()
        self.tenures = 1
        self.verdict: str | None = "shrink"
        self.asked: list[str] = []

    def incarnation(self, server: str, database: str) -> str | None:
        return self.incarnations.get(server)

    def lost(self) -> frozenset[str]:
        return self.gone

    def tenure_epoch(self, server: str) -> int:
        return self.tenures + (server in self.gone)

    async def openings(self, server: str, database: str) -> list[tuple[Token, str]]:
        if server in self.gone:
            raise Unavailable(f"{server} does not answer.")
        return self.shown[server]

    async def stall_verdict(self, database: str, member: str, timeout: float) -> str | None:
        self.asked.append(member)
        return self.verdict
