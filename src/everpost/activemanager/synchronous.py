"""Keeping the synchronous set of an open copy: the names always contain the recorded set (architecture 3.1, 3.2).

Shrink: record confirmed, then the shared page, then the names. Grow: names first, with one name that nobody can meet;
a probe commit is seen waiting although every member flushed it; the extra name goes; the new member flushes what was
written by then and shows the same openings; then the record. A name leaves the names only after a confirmed record
without it, so whatever process dies between two steps, a commit is never acknowledged by fewer than the record says.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from everpost.activemanager import setpolicy, transitions
from everpost.activemanager.record import Held, LocationWriter
from everpost.clock import Clock
from everpost.databases.interface import Engine, Positions, Probe
from everpost.errors import EverpostError
from everpost.log import fact
from everpost.model.database import Location, Member, Token

log = logging.getLogger(__name__)

UNMEETABLE = "everpost_probe"
"""A name that no standby carries: while it stands in the names, no commit may return."""
GROW_LIMIT = 1.5
"""Seconds a grow may take before the names go back to the recorded set; commits may stall this long at most."""
BEAT_EVERY = 1.0
"""Seconds between commits of the keeper's own: on a database that nobody writes to, they show a dead member (3.7)."""
POLL = 0.005
ASK_POLL = 0.05


class Peers(Protocol):
    """What other servers say."""

    def incarnation(self, server: str, database: str) -> str | None:
        """The incarnation that a server last published of its copy."""

    def lost(self) -> frozenset[str]:
        """Servers whose tenure was taken or given back."""

    def tenure_epoch(self, server: str) -> int:
        """Which tenure the server is in: grows when it is acquired, taken or given back."""

    async def openings(self, server: str, database: str) -> list[tuple[Token, str]]:
        """The openings that the server's copy has replayed. Raises Unavailable."""

    async def stall_verdict(self, database: str, member: str, timeout: float) -> str | None:
        """PAM's word about a living member that holds commits up: "shrink", "move", or None for no answer."""


class SetKeeper:
    """Keeps one open active copy's names and set. `publish(single)` writes the shared page (and `confirm`'s state)."""

    def __init__(
        self,
        engine: Engine,
        writer: LocationWriter,
        clock: Clock,
        peers: Peers,
        held: Held,
        copies: Callable[[], tuple[str, ...]],
        publish: Callable[[bool], None],
        move: Callable[[str], Awaitable[None]],
        kept_out: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        self._engine = engine
        self._writer = writer
        self._clock = clock
        self._peers = peers
        self.held = held
        self._copies = copies
        self._publish = publish
        self._move = move
        self._kept_out = kept_out
        self._waits: dict[str, tuple[float, int]] = {}
        self._relapses: dict[str, int] = {}
        self._shrunk_in: dict[str, int] = {}
        self._quiet_until: dict[str, float] = {}
        self._followed_in: dict[str, int] = {}
        """In which of its tenures a member was last seen streaming."""
        self._beat: asyncio.Task[None] | None = None
        self._beat_at = 0.0
        self.positions: Positions | None = None

    @property
    def location(self) -> Location:
        """The record as last confirmed or seen."""
        return self.held.location

    def name(self, member: Member) -> str:
        """The standby name of a member at this epoch."""
        return self._engine.standby_name(member.server, member.incarnation, self.location.token)

    def names(self) -> tuple[str, ...]:
        """The names that stand for the recorded set."""
        return tuple(self.name(member) for member in self.location.set)

    def acknowledged_lsn(self) -> int:
        """A floor under what was acknowledged, from the last look: what every member of the set has flushed."""
        if self.positions is None:
            return 0
        flushed = {row.name: row.flush_lsn for row in self.positions.senders}
        return min([self.positions.flush_lsn, *(flushed.get(name, 0) for name in self.names())])

    async def adopt(self, held: Held) -> None:
        """Take over a newer record: somebody else (the member itself) may have taken a member out."""
        if held.revision <= self.held.revision:
            return
        before = self.location
        self.held = held
        if held.location.set != before.set and held.location.token == before.token:
            self._publish(held.location.single)
            await self._engine.set_names(self.names())

    async def tick(self) -> None:
        """Look once, and take one step if one is due."""
        for server, epoch in list(self._shrunk_in.items()):
            if self._peers.tenure_epoch(server) != epoch:
                # It was not slow but going down: its tenure ended. Back in a new one, it is asked in at once.
                del self._shrunk_in[server]
                self._quiet_until.pop(server, None)
                self._relapses[server] -= 1
        self._keep_beating()
        self.positions = await self._engine.positions()
        streaming = {row.name for row in self.positions.senders if row.state == "streaming"}
        for member in self.location.set:
            if self.name(member) in streaming:
                self._followed_in[member.server] = self._peers.tenure_epoch(member.server)
        step = setpolicy.next_step(self._view(self.positions))
        match step:
            case setpolicy.Shrink():
                await self._shrink(step)
            case setpolicy.Grow():
                await self._grow(step.member)
            case None:
                pass

    def _keep_beating(self) -> None:
        """One commit at a time that waits for the set; while it waits it is seen as a client's would be."""
        if self._beat is not None:
            if not self._beat.done():
                return
            if (error := self._beat.exception()) is not None:
                log.debug("%s: beat: %s", self.location.database, error)
            self._beat = None
        now = self._clock.boottime()
        if self.location.set and now - self._beat_at >= BEAT_EVERY:
            self._beat_at = now
            self._beat = asyncio.create_task(self._engine.commit_with_set())

    def _view(self, positions: Positions) -> setpolicy.SetView:
        now = self._clock.boottime()
        self._waits = {waiter: self._waits.get(waiter, (now, positions.flush_lsn)) for waiter in positions.waiters}
        oldest = min(self._waits.values(), default=(now, 0))
        senders: dict[str, setpolicy.Sender] = {}
        for row in positions.senders:
            before = senders.get(row.name)
            count = before.count + 1 if before is not None else 1
            senders[row.name] = setpolicy.Sender(
                streaming=row.state == "streaming", flush_lsn=row.flush_lsn, count=count
            )
        members = {member.server: self.name(member) for member in self.location.set}
        candidates: dict[Member, setpolicy.Sender] = {}
        for server in self._copies():
            incarnation = self._peers.incarnation(server, self.location.database)
            if server == self.location.active or server in members or incarnation is None:
                continue
            member = Member(server, incarnation)
            sender = senders.get(self.name(member))
            if sender is not None:
                candidates[member] = sender
        return setpolicy.SetView(
            now=now,
            location=self.location,
            own_flush_lsn=positions.flush_lsn,
            oldest_wait=now - oldest[0],
            wait_lsn=oldest[1],
            senders={server: senders[name] for server, name in members.items() if name in senders},
            candidates=candidates,
            lost=self._peers.lost(),
            quiet_until=self._quiet_until,
            kept_out=self._kept_out(),
        )

    async def _shrink(self, step: setpolicy.Shrink) -> None:
        database = self.location.database
        if step.ask:
            verdict = await self._verdict(database, step.server)
            if verdict == "move":
                await self._move(step.server)
                return
            epoch = self._peers.tenure_epoch(step.server)
            if self._followed_in.get(step.server, epoch) == epoch:
                self._blame(step.server, epoch)
            # Else it began a new tenure since it followed: it was not slow but restarted, and is asked in at once.
        self.held = await self._writer.change(
            self.held, lambda location: transitions.shrunk(location, step.server, reason=step.reason)
        )
        # Order matters: the record is confirmed; now the page says `single` before any commit can return alone.
        self._publish(self.location.single)
        await self._engine.set_names(self.names())
        self._waits.clear()
        fact(
            log,
            "synchronous set shrunk",
            level=logging.WARNING,
            database=database,
            without=step.server,
            set=[member.server for member in self.location.set],
            reason=step.reason,
        )

    def _blame(self, server: str, epoch: int) -> None:
        """It was slow: it has to keep quiet for a minute, and twice as long each time again (3.7)."""
        relapses = self._relapses[server] = self._relapses.get(server, 0) + 1
        self._quiet_until[server] = self._clock.boottime() + setpolicy.quiet_after(relapses)
        self._shrunk_in[server] = epoch

    async def _verdict(self, database: str, server: str) -> str | None:
        """PAM's word, waited for only until the member's server loses its tenure: then there is nothing to ask."""
        asking = asyncio.ensure_future(self._peers.stall_verdict(database, server, setpolicy.PAM_ANSWER))
        try:
            while not asking.done() and server not in self._peers.lost():
                await asyncio.wait({asking}, timeout=ASK_POLL)
            return asking.result() if asking.done() else None
        finally:
            asking.cancel()

    async def _grow(self, member: Member) -> None:
        began = self._clock.boottime()
        wanted = (*self.names(), self.name(member))
        try:
            proven = await self._prove(wanted, began + GROW_LIMIT)
        except EverpostError as error:
            fact(log, "grow given up", database=self.location.database, member=member.server, reason=str(error))
            proven = False
        if not proven:
            # Nothing was sent to the directory yet, so the recorded set is still what it was.
            await self._engine.set_names(self.names())
            self._quiet_until[member.server] = self._clock.boottime() + 2.0
            return
        before = self.location
        self.held = await self._writer.change(self.held, lambda location: transitions.grown(location, member))
        self._publish(self.location.single)
        fact(
            log,
            "synchronous set grown",
            database=before.database,
            member=member.server,
            set=[m.server for m in self.location.set],
            seconds=round(self._clock.boottime() - began, 3),
        )

    async def _prove(self, wanted: tuple[str, ...], deadline: float) -> bool:
        await self._engine.set_names((*wanted, UNMEETABLE))
        if not await self._see_a_wait(wanted, deadline):
            return False
        await self._engine.set_names(wanted)
        target = (await self._engine.positions()).insert_lsn
        await self._engine.commit_locally()  # flushes past the target; the WAL writer alone may take 10 s
        if not await self._flushed(wanted, target, deadline):
            return False
        server, incarnation_name = self._member_of(wanted[-1])
        theirs = await self._peers.openings(server, self.location.database)
        ours = [(opening.token, opening.nonce) for opening in self.location.openings]
        if theirs != ours:
            fact(log, "openings differ", level=logging.ERROR, member=incarnation_name, database=self.location.database)
            return False
        return True

    def _member_of(self, name: str) -> tuple[str, str]:
        for server in self._copies():
            incarnation = self._peers.incarnation(server, self.location.database)
            if incarnation is not None and self.name(Member(server, incarnation)) == name:
                return server, name
        raise EverpostError(f"No copy carries the name {name} any more.", remedy="It is tried again.")

    async def _see_a_wait(self, wanted: tuple[str, ...], deadline: float) -> bool:
        """Commit until one is seen waiting that every wanted member has flushed: then the wait is really on, in the
        checkpointer's flag and in every walsender (pg_stat_replication proves neither)."""
        probe: Probe | None = None
        written = 0
        try:
            while self._clock.boottime() < deadline:
                if probe is None or probe.done:
                    probe = await self._engine.probe()
                    written = 0
                positions = await self._engine.positions()
                waiting = {waiter.partition(":")[0] for waiter in positions.waiters}
                if probe.waiter in waiting and not probe.done:
                    if written == 0:
                        written = positions.flush_lsn  # covers the probe: it was flushed here before it waited
                    elif self._all_flushed(positions, wanted, written):
                        return True
                await self._clock.sleep(POLL)
            return False
        finally:
            if probe is not None:
                probe.abandon()

    @staticmethod
    def _all_flushed(positions: Positions, wanted: tuple[str, ...], lsn: int) -> bool:
        flushed = {row.name: row.flush_lsn for row in positions.senders if row.state == "streaming"}
        return all(flushed.get(name, 0) >= lsn for name in wanted)

    async def _flushed(self, wanted: tuple[str, ...], lsn: int, deadline: float) -> bool:
        while self._clock.boottime() < deadline:
            if self._all_flushed(await self._engine.positions(), wanted, lsn):
                return True
            await self._clock.sleep(POLL)
        return False
