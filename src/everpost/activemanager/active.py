"""The duty of an open active copy: keep the set, record progress, notice that this host cannot write any more."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from everpost.activemanager import transitions
from everpost.activemanager.record import Held
from everpost.activemanager.synchronous import SetKeeper
from everpost.databases.interface import Engine
from everpost.errors import EverpostError
from everpost.model.database import CopyState, CopyStatus, Member, Progress, Token

if TYPE_CHECKING:
    from everpost.activemanager.copy import Host

log = logging.getLogger(__name__)

Upkeep = Callable[[object, bool], Awaitable[None]]
"""The store's daily work, given a connection to an open active, and whether no other copy lacks anything of it: then
what it counts while the set is empty (3.4: UIDs) begins anew."""
GENERATION = 1024 * 1024
LOCAL_PROBE_EVERY = 1.0
COVER_EVERY = 10.0
UPKEEP_EVERY = 3600.0
"""Seconds between offers to the store to do its daily work; the store knows when it did it last."""
CANNOT_WRITE = 5.0
"""Seconds without a local commit after which the database is handed over (3.7)."""


class ActiveDuty:
    """One open copy at one token. `tick` is called five times a second and at each change of the record."""

    def __init__(self, database: str, engine: Engine, host: Host, held: Held, now: float, upkeep: Upkeep) -> None:
        self.token: Token = held.location.token
        self.tenure_epoch = host.own_tenure()
        self._database = database
        self._engine = engine
        self._host = host
        self._keeper = SetKeeper(
            engine,
            host.writer,
            host.clock,
            host.peers,
            held,
            copies=lambda: host.copies(database),
            publish=self._publish,
            move=self._move,
            kept_out=self._kept_out,
        )
        self._local_commit: asyncio.Task[None] | None = None
        self._local_begun = now
        self._local_done = now
        self._upkeep = upkeep
        self._upkeep_at = now
        self._upkeep_task: asyncio.Task[None] | None = None
        self._covered = False
        """Whether the store was told of the set's present stretch with a member."""
        self._generated: tuple[int, float] = (0, 0.0)

    @property
    def held(self) -> Held:
        """The record as last confirmed or seen."""
        return self._keeper.held

    def _publish(self, single: bool) -> None:
        self._host.publish(self._database, epoch=self.token.epoch, single=single)

    def _kept_out(self) -> dict[str, str]:
        reasons = {
            server: self._host.copy_settings(self._database, server).kept_out
            for server in self._host.copies(self._database)
        }
        return {server: why for server, why in reasons.items() if why}

    async def _move(self, target: str) -> None:
        self._keeper.held = await self._host.writer.change(
            self._keeper.held,
            lambda location: transitions.moving(
                location, target, reason=f"PAM: {target} is reached, the active is not"
            ),
        )

    async def resume(self) -> None:
        """After the agent was restarted: names and page as the record says."""
        await self._engine.set_names(self._keeper.names())
        self._publish(self.held.location.single)

    async def adopt(self, held: Held) -> None:
        """Take over a newer record of the same activation."""
        await self._keeper.adopt(held)

    async def tick(self) -> None:
        """Look at the set, then at the host's own disk, then note progress."""
        self._watch_own_disk()
        self._keep_up()
        await self._keeper.tick()
        positions = self._keeper.positions
        if positions is not None:
            self._host.note_progress(
                self._database,
                Progress(
                    token=self.token,
                    timeline=self.held.location.openings[-1].timeline,
                    acknowledged_lsn=self._keeper.acknowledged_lsn(),
                    generated_lsn=positions.flush_lsn,
                ),
            )

    async def followed_by(self, server: str) -> bool:
        """Whether that member of the set streams now. A planned move to one that does not would only come home again,
        with an outage for nothing: a member that is away stays recorded until a commit waits for it (3.7)."""
        names = {self._keeper.name(member) for member in self.held.location.set if member.server == server}
        positions = await self._engine.positions()
        return any(row.name in names and row.state == "streaming" for row in positions.senders)

    def _watch_own_disk(self) -> None:
        now = self._host.clock.boottime()
        if self._local_commit is None:
            if now - self._local_begun >= LOCAL_PROBE_EVERY:
                self._local_begun = now
                self._local_commit = asyncio.create_task(self._engine.commit_locally())
        elif self._local_commit.done():
            error = self._local_commit.exception()
            self._local_commit = None
            if error is None:
                self._local_done = now
            elif isinstance(error, EverpostError):
                log.warning("%s: cannot commit locally: %s", self._database, error)

    def _keep_up(self) -> None:
        """Beside everything else: its COMMIT may wait for a member that this tick is about to shrink."""
        now = self._host.clock.boottime()
        if self._upkeep_task is not None:
            if not self._upkeep_task.done():
                return
            error = self._upkeep_task.exception()
            self._upkeep_task = None
            if error is not None:
                log.warning("%s: upkeep: %s", self._database, error)
                self._covered = False
                return
        self._covered = self._covered and not self.held.location.single
        due = not self._covered and self._complete() and now - self._upkeep_at >= COVER_EVERY
        if due or now - self._upkeep_at >= UPKEEP_EVERY:
            self._upkeep_at = now
            self._covered = self._complete()
            self._upkeep_task = asyncio.create_task(self._engine.upkeep(self._keep_store))

    def _complete(self) -> bool:
        """Whether what is acknowledged is on another copy too, or there is none that could lack it. Names always
        contain the recorded set, so while it has a member nothing is given on one copy alone."""
        return not self.held.location.single or len(self._host.copies(self._database)) == 1

    async def _keep_store(self, connection: object) -> None:
        await self._upkeep(connection, self._complete())

    def cannot_write(self) -> bool:
        """Whether no local commit has returned for too long, though one was asked for."""
        pending = self._local_begun > self._local_done
        return pending and self._host.clock.boottime() - self._local_done > CANNOT_WRITE + LOCAL_PROBE_EVERY

    def status(self, state: CopyState, error: str) -> CopyStatus:
        """The active's own line of Get-MailboxDatabaseCopyStatus: its queues are 0."""
        positions = self._keeper.positions
        location = self.held.location
        flushed = positions.flush_lsn if positions is not None else None
        if flushed is not None and flushed != self._generated[0]:
            self._generated = flushed, self._host.clock.wall().timestamp()
        return CopyStatus(
            database=self._database,
            server=location.active,
            state=state,
            incarnation=self._engine.incarnation,
            token=self.token,
            timeline=location.openings[-1].timeline if location.openings else None,
            received_lsn=flushed,
            replayed_lsn=flushed,
            generated_lsn=flushed,
            copy_queue=0,
            replay_queue=0,
            resilience="single" if location.single else ",".join(sorted(m.server for m in location.set)),
            error=error,
            generated_at=self._generated[1] or None,
        )


def own_member(server: str, engine: Engine) -> Member:
    """This copy as it stands in a record."""
    return Member(server, engine.incarnation)
