"""The duty of a passive copy: follow the active, and first become able to: attach, rewind or reseed (architecture 3.5).

Before files are rewound or wiped the incarnation is out of the set and of `eligible` by a confirmed change.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from everpost.activemanager import transitions
from everpost.activemanager.record import Held
from everpost.activemanager.relation import Remedy, Verdict, relate
from everpost.databases.interface import Engine, StandbyPositions, Upstream
from everpost.errors import EverpostError
from everpost.log import fact
from everpost.model.database import CopyState, CopyStatus, Location, LocationState, Token

if TYPE_CHECKING:
    from everpost.activemanager.copy import Host

log = logging.getLogger(__name__)

GENERATION = 1024 * 1024
NOT_STREAMING = 20.0
"""Seconds an attached copy may fail to stream from a living active before a stronger remedy is taken."""


class PassiveDuty:
    """One copy that is not the active."""

    def __init__(self, database: str, engine: Engine, host: Host) -> None:
        self._database = database
        self._engine = engine
        self._host = host
        self._following: tuple[Token, str] | None = None
        self._positions: StandbyPositions | None = None
        self._token: Token | None = None
        self._streaming_at = 0.0
        self._remedies = 0

    async def step(self, held: Held) -> tuple[CopyState, str]:
        """Bring the copy one step nearer to following the active; its state and what hinders it."""
        location = held.location
        running = await self._engine.running()
        if running is False:
            self._following = None
        if location.state not in (LocationState.OPEN, LocationState.MOVING):
            if running is not False:
                await self._look()
            healthy = self._following is not None
            return (CopyState.DISCONNECTED_AND_HEALTHY if healthy else CopyState.INITIALIZING), ""
        upstream = self._host.upstream(location.active, self._database, location.token)
        if upstream is None:
            return CopyState.FAILED, f"nothing is known about {location.active}"
        if self._following != (location.token, location.active):
            return await self._attach(held, upstream)
        return await self._follow(held, upstream)

    async def _attach(self, held: Held, upstream: Upstream) -> tuple[CopyState, str]:
        location = held.location
        verdict = relate(await self._engine.files(), location)
        if verdict.remedy is Remedy.QUARANTINE:
            return CopyState.FAILED_AND_SUSPENDED, verdict.reason
        if verdict.remedy is not Remedy.ATTACH:
            return await self._mend(held, upstream, verdict)
        if await self._engine.running() is False or not await self._engine.alive():
            await self._engine.kill()
            await self._engine.start(upstream)
        else:
            await self._engine.follow(upstream)
        self._began_following(location)
        fact(log, "following", database=self._database, active=location.active, token=str(location.token))
        return CopyState.INITIALIZING, ""

    def _began_following(self, location: Location) -> None:
        self._following = (location.token, location.active)
        self._token = location.token
        self._streaming_at = self._host.clock.boottime()

    async def _mend(self, held: Held, upstream: Upstream, verdict: Verdict) -> tuple[CopyState, str]:
        """Rewind or reseed; a rewind that does not succeed leaves spoilt files, which the next step reseeds."""
        location = held.location
        fact(
            log,
            str(verdict.remedy),
            level=logging.WARNING,
            database=self._database,
            active=location.active,
            why=verdict.reason,
        )
        me = self._host.me
        if any(member.server == me for member in (*location.set, *location.eligible)):
            await self._host.writer.change(
                held,
                lambda before: transitions.shrunk(before, me, reason=f"{me}: {verdict.remedy}: {verdict.reason}"),
            )
        if verdict.remedy is Remedy.REWIND:
            await self._engine.kill()
            await self._engine.rewind(upstream)
            await self._engine.start(upstream)
        else:
            await self._engine.seed(upstream)
            await self._engine.start(upstream)
        self._began_following(location)
        return CopyState.RESYNCHRONIZING, ""

    async def _look(self) -> None:
        try:
            self._positions = await self._engine.standby_positions()
        except EverpostError:
            self._positions = None

    async def _follow(self, held: Held, upstream: Upstream) -> tuple[CopyState, str]:
        now = self._host.clock.boottime()
        if not await self._engine.alive():
            self._following = None
            return CopyState.FAILED, "its postmaster does not answer"
        await self._look()
        if self._positions is None:
            return CopyState.FAILED, "it does not answer"
        if self._positions.streaming:
            self._streaming_at = now
            self._remedies = 0
            return CopyState.HEALTHY, ""
        if upstream.server in self._host.peers.lost() or now - self._streaming_at < NOT_STREAMING:
            return CopyState.DISCONNECTED_AND_HEALTHY, ""
        self._remedies += 1
        remedy = Remedy.REWIND if self._remedies == 1 else Remedy.RESEED
        return await self._mend(held, upstream, Verdict(remedy, f"no stream for {NOT_STREAMING:.0f} s"))

    def status(self, state: CopyState, error: str) -> CopyStatus:
        """This copy's line of Get-MailboxDatabaseCopyStatus."""
        positions = self._positions
        if positions is None:
            return CopyStatus(
                database=self._database,
                server=self._host.me,
                state=state,
                incarnation=self._engine.incarnation,
                token=self._token,
                error=error,
            )
        generated = positions.known_generated_lsn
        return CopyStatus(
            database=self._database,
            server=self._host.me,
            state=state,
            incarnation=self._engine.incarnation,
            token=self._token,
            timeline=positions.timeline,
            received_lsn=positions.received_lsn,
            replayed_lsn=positions.replayed_lsn,
            generated_lsn=generated,
            copy_queue=None
            if generated is None
            else max(generated // GENERATION - positions.received_lsn // GENERATION, 0),
            replay_queue=max(positions.received_lsn // GENERATION - positions.replayed_lsn // GENERATION, 0),
            error=error,
        )
