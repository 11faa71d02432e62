"""One copy of one database on this server: does what the location record says, again and again.

The record says who is active; the copy's files and the warden say what is; each step brings the one to the other and
may be repeated after a crash at any point. Nothing that must survive is kept here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable
from typing import Protocol

from everpost.activemanager import transitions
from everpost.activemanager.activation import Activation, NotComplete, Prepare
from everpost.activemanager.active import ActiveDuty, Upkeep
from everpost.activemanager.decide import RESTART
from everpost.activemanager.passive import PassiveDuty
from everpost.activemanager.record import Held, LocationWriter, Superseded
from everpost.activemanager.synchronous import Peers
from everpost.activemanager.trouble import Trouble
from everpost.clock import Clock
from everpost.databases.interface import Engine, Upstream
from everpost.errors import EverpostError
from everpost.log import fact
from everpost.model import copystate
from everpost.model.database import (
    CopySettings,
    CopyState,
    CopyStatus,
    Location,
    LocationState,
    Progress,
    Refusal,
    Token,
)

log = logging.getLogger(__name__)

TICK = 0.2
"""Seconds between looks when nothing happens (3.7)."""
CRASH_WINDOW = 60.0
"""A second crash of the postmaster within this many seconds is a failover (decisions: Engines)."""


class Host(Protocol):
    """What a copy needs from its agent."""

    me: str
    clock: Clock
    writer: LocationWriter
    peers: Peers
    scrub_every: float
    lag_low_space: int

    def held(self, database: str) -> Held | None:
        """The newest location record known."""

    def tenure_valid(self) -> bool:
        """Whether this server holds its tenure now."""

    def own_tenure(self) -> int:
        """The epoch of this server's tenure."""

    def copies(self, database: str) -> tuple[str, ...]:
        """Servers with a copy, by activation preference."""

    def copy_settings(self, database: str, server: str) -> CopySettings:
        """What an administrator set for that server's copy."""

    async def change_copy(self, database: str, change: Callable[[CopySettings], CopySettings]) -> None:
        """Change the settings of this server's copy by compare-and-swap. Raises Unavailable."""

    def seeding_from_me(self, database: str) -> bool:
        """Whether another copy says that it is being seeded from this one."""

    def good_copies(self, database: str) -> tuple[int, int]:
        """How many copies without a lag of their own could serve, and how many there are."""

    def shown_state(self, database: str) -> CopyState | None:
        """The state of this server's copy that was last published."""

    def copy_event(self, database: str, failed: bool, why: str) -> None:
        """Note in the journal that this server's copy failed, or is well again."""

    def upstream(self, server: str, database: str, token: Token) -> Upstream | None:
        """Where that server's copy is followed."""

    async def floor(self, database: str) -> Progress | None:
        """The recorded progress, linearizable."""

    def note_progress(self, database: str, progress: Progress) -> None:
        """Have progress recorded within a second, guarded by this server's fence."""

    def publish(self, database: str, *, epoch: int, single: bool) -> None:
        """Write the shared page (epoch 0: not open here)."""


class CopyController:
    """Drives one copy. `run` never ends by itself; cancelling it leaves the instance to the warden."""

    def __init__(self, database: str, engine: Engine, host: Host, prepare: Prepare, upkeep: Upkeep) -> None:
        self.database = database
        self.engine = engine
        self._host = host
        self._prepare = prepare
        self._upkeep = upkeep
        self._changed = asyncio.Event()
        self._crashes: deque[float] = deque(maxlen=4)
        self.held: Held | None = None
        self.active: ActiveDuty | None = None
        engine.on_lost(self.wake)
        self._passive = PassiveDuty(database, engine, host, self.wake)
        self._trouble = Trouble()
        self.state = CopyState.INITIALIZING
        self.error = ""

    def wake(self) -> None:
        """Something that this copy looks at has changed."""
        self._changed.set()

    def open_at(self) -> Token | None:
        """The token at which this copy is open here."""
        return self.active.token if self.active is not None else None

    async def run(self) -> None:
        """Look and act until cancelled. An unexpected error makes the copy Failed and is tried again."""
        try:
            await self._run()
        finally:
            await self._passive.stop()

    async def _run(self) -> None:
        while True:
            self._changed.clear()
            try:
                await self._step()
                pause = self._until_tick()
            except Superseded:
                await self._reread()
                pause = 0.0
            except EverpostError as error:
                self._note(CopyState.FAILED, str(error))
                pause = 1.0
            except Exception as error:  # the loop must survive whatever an engine does
                log.exception("copy %s", self.database)
                self._note(CopyState.FAILED, f"{type(error).__name__}: {error}")
                pause = 1.0
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._changed.wait()

    def _until_tick(self) -> float:
        """All copies of a server look at the same moments: they share one question to the warden, and the processes of
        the host sleep in between."""
        return TICK - self._host.clock.boottime() % TICK

    def _note(self, state: CopyState, error: str = "") -> None:
        if (state, error) != (self.state, self.error):
            level = logging.WARNING if error else logging.INFO
            if not copystate.legal(self.state, state):
                fact(log, "copy state out of order", level=logging.ERROR, before=str(self.state), after=str(state))
            fact(log, "copy", level=level, database=self.database, state=str(state), error=error)
        self.state, self.error = state, error
        change = self._trouble.saw(self._host.clock.boottime(), state)
        if change is not None:
            self._host.copy_event(self.database, change, error)

    async def _reread(self) -> None:
        try:
            held = await self._host.writer.read(self.database)
        except EverpostError:
            return
        if held is not None and (self.held is None or held.revision > self.held.revision):
            self.held = held

    async def _step(self) -> None:
        seen = self._host.held(self.database)
        if seen is not None and (self.held is None or seen.revision > self.held.revision):
            self.held = seen
        if self.held is None:
            return
        location = self.held.location
        if not self._host.tenure_valid():
            await self._stand_down("this server does not hold its tenure")
            return
        if location.active != self._host.me:
            await self._stand_down(f"{location.active} is the active")
            self._note(*await self._passive.step(self.held))
            return
        await self._passive.stop()
        match location.state:
            case LocationState.OPEN:
                await self._serve(self.held)
            case LocationState.ACTIVATING:
                await self._activate(self.held)
            case LocationState.MOVING:
                await self._close(self.held)
            case LocationState.CLOSED | LocationState.DISMOUNTED | LocationState.UNKNOWN:
                await self._stand_down(f"the database is {location.state}")
                self._note(CopyState.DISMOUNTED)

    async def _stand_down(self, why: str) -> None:
        """Whatever was open here as the active is open no more; a guarded instance is killed."""
        if self.active is not None:
            fact(log, "no longer active", database=self.database, why=why)
        self.active = None
        self._host.publish(self.database, epoch=0, single=True)
        running = await self.engine.running()
        if running is not False and running is not None:
            await self.engine.kill()

    async def _serve(self, held: Held) -> None:
        location = held.location
        if self.active is None or self.active.token != location.token:
            if await self.engine.running() == location.token and await self.engine.alive():
                await self._take_up(held)  # the agent was restarted; the warden kept the instance
            else:
                await self._restart(held)
                return
        assert self.active is not None
        if self.active.tenure_epoch != self._host.own_tenure():
            await self._again(held, f"{RESTART}: this server lost its tenure and acquired a new one")
            return
        await self.active.adopt(held)
        if not await self.engine.alive():
            self.active = None
            await self._restart(held)
            return
        if await self.engine.waits_were_cancelled():
            await self._again(held, f"{RESTART}: a wait for the set was cancelled")
            return
        if self.active.cannot_write():
            await self._hand_over(held, "it cannot commit on its own disk")
            return
        await self.active.tick()
        self.held = self.active.held
        self._note(CopyState.MOUNTED)

    async def _take_up(self, held: Held) -> None:
        ours = await self.engine.openings()
        recorded = [(opening.token, opening.nonce) for opening in held.location.openings]
        if ours != recorded:
            await self._again(held, f"{RESTART}: its openings are not the recorded ones")
            raise Superseded("The copy is activated anew.")
        self._begin_duty(held)
        assert self.active is not None
        await self.active.resume()
        await self.engine.admit(True)

    def _begin_duty(self, held: Held) -> None:
        now = self._host.clock.boottime()
        self.active = ActiveDuty(self.database, self.engine, self._host, held, now, self._upkeep)

    async def _restart(self, held: Held) -> None:
        """The postmaster died, or the whole server did: activate the own copy again (3.6), or, the second time within
        a minute, leave it to PAM to choose another one."""
        now = self._host.clock.boottime()
        self._host.publish(self.database, epoch=0, single=True)
        await self.engine.kill()
        recent = [when for when in self._crashes if now - when < CRASH_WINDOW]
        self._crashes.append(now)
        if recent and held.location.set:
            await self._hand_over(held, "its postmaster died twice within a minute")
        else:
            await self._again(held, f"{RESTART}: the postmaster was gone")

    async def _again(self, held: Held, reason: str) -> None:
        self.active = None
        self._host.publish(self.database, epoch=0, single=True)
        await self.engine.kill()
        me = self._host.me
        self.held = await self._host.writer.change(
            held, lambda location: transitions.begin_activation(location, me, reason=reason)
        )
        self.wake()

    async def _hand_over(self, held: Held, why: str) -> None:
        """Nothing is lost by it: every member of the set has what was acknowledged, and the instance is dead."""
        self.active = None
        self._host.publish(self.database, epoch=0, single=True)
        await self.engine.kill()
        me = self._host.me
        self.held = await self._host.writer.change(
            held,
            lambda location: transitions.begin_activation(
                location, me, reason=f"handed over: {why}", refused=(Refusal(me, why),)
            ),
        )

    async def _activate(self, held: Held) -> None:
        me = self._host.me
        if any(refusal.server == me for refusal in held.location.refused):
            await self._stand_down("it refused to be activated")
            self._note(CopyState.FAILED, held.location.refused[-1].reason)
            return
        if self.active is not None:
            await self._stand_down("it is activated anew")
        if self.state is CopyState.SUSPENDED:
            self._note(CopyState.INITIALIZING)  # it stood at a point in time: being chosen resumes it
        self._note(CopyState.MOUNTING)
        activation = Activation(
            self.engine,
            self._host.writer,
            self._host.clock,
            me=me,
            floor=self._host.floor,
            prepare=self._prepare,
            still_mine=self._host.tenure_valid,
        )
        try:
            self.held = await activation.run(held)
        except NotComplete as refused:
            why = str(refused)
            fact(log, "refused to open", level=logging.ERROR, database=self.database, why=why)
            await self.engine.kill()
            self.held = await self._host.writer.change(
                held, lambda location: transitions.refuse(location, me, why), give_up=self._without_tenure
            )
            return
        self.engine.fail(None)
        self._begin_duty(self.held)
        self._host.publish(self.database, epoch=self.held.location.token.epoch, single=True)
        await self.engine.admit(True)
        self._note(CopyState.MOUNTED)
        self.wake()

    def _without_tenure(self) -> bool:
        return not self._host.tenure_valid()

    async def _close(self, held: Held) -> None:
        """Shut down cleanly for a planned move or a dismount (3.13)."""
        location = held.location
        target = location.target
        duty = self.active
        if duty is not None and (duty.token != location.token or not await self.engine.alive()):
            duty = None
        if target is None and duty is None:
            # An administrator's dismount is kept also when the instance or its agent died on the way.
            await self._stand_down("it is being dismounted")
            self.held = await self._host.writer.change(
                held, lambda before: transitions.dismounted_without_closing(before, reason="dismounted after a crash")
            )
            return
        if duty is None:
            # The agent was restarted, or the postmaster died, in the middle; a fresh activation finds out what the
            # files are.
            await self._again(held, f"{RESTART}: it was not open when a move was asked for")
            return
        if target is not None and not any(member.server == target for member in location.set):
            self.held = await self._host.writer.change(
                held, lambda before: transitions.move_abandoned(before, reason=f"{target} left the synchronous set")
            )
            return
        if target is not None and not await duty.followed_by(target):
            self.held = await self._host.writer.change(
                held, lambda before: transitions.move_abandoned(before, reason=f"{target} does not follow just now")
            )
            return
        self._note(CopyState.DISMOUNTING)
        await self.engine.checkpoint()
        self._host.publish(self.database, epoch=0, single=True)
        self.active = None
        await self.engine.admit(False)
        end = await self.engine.close()
        fact(log, "closed", database=self.database, lsn=f"{end.lsn:X}", at=self._host.clock.boottime())

        def move(before: Location) -> Location:
            shut = transitions.closed(before, end.lsn, end.timeline)
            return shut if target is not None else transitions.dismounted(shut, reason="dismounted")

        self.held = await self._host.writer.change(held, move)

    def facts(self) -> tuple[object, ...]:
        """What other servers wait for, of all that `status` says."""
        token = self.active.token if self.active is not None else self._passive.token
        return self.database, self.state, self.engine.incarnation, token

    def status(self) -> CopyStatus:
        """What Get-MailboxDatabaseCopyStatus shows of this copy."""
        if self.active is not None:
            return self.active.status(self.state, self.error)
        return self._passive.status(self.state, self.error)
