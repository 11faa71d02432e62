"""Activating a copy: promoted, proven complete, recorded as open, and only then shown to anybody (architecture 3.3).

    mark (fsync)  ->  receiver stopped, R noted  ->  floors checked  ->  promoted  ->  begins at or after R
    ->  names loaded  ->  opening transaction  ->  record OPEN confirmed  ->  shared page  ->  clients let in

A crash between any two steps leaves a copy that is not open: another eligible copy, or this one at a higher epoch, is
activated, and a promotion whose opening was not recorded is recognised by its mark and reseeded.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable

from msgspec.structs import replace

from everpost.activemanager import transitions
from everpost.activemanager.record import Held, LocationWriter, Superseded
from everpost.clock import Clock
from everpost.databases.interface import Engine, Received
from everpost.errors import EverpostError
from everpost.log import fact
from everpost.model.database import Location, Member, Opening, Progress

log = logging.getLogger(__name__)

LOG_WAIT = 1.5
"""Seconds a copy may make no progress towards the log it must have before it refuses."""
STAND_WAIT = 5.0
"""Seconds it may make none towards the point in time at which it is to stand."""

Prepare = Callable[[object, Opening], Awaitable[None]]


class NotComplete(EverpostError):
    """This copy must not be opened under this record; PAM tries another one."""


class Activation:
    """One activation of one copy on this server, under one record."""

    def __init__(
        self,
        engine: Engine,
        writer: LocationWriter,
        clock: Clock,
        *,
        me: str,
        floor: Callable[[str], Awaitable[Progress | None]],
        prepare: Prepare,
        still_mine: Callable[[], bool],
    ) -> None:
        self._engine = engine
        self._writer = writer
        self._clock = clock
        self._me = me
        self._floor = floor
        self._prepare = prepare
        self._still_mine = still_mine

    async def run(self, held: Held) -> Held:
        """Open the copy under `held`; returns the record as OPEN. Raises NotComplete, with nobody let in."""
        location = held.location
        began = self._clock.boottime()
        if location.openings:
            self._must_be_eligible(location)
        fact(log, "activating", database=location.database, token=str(location.token), at=began, why=location.reason)
        nonce = secrets.token_hex(8)
        await self._ready_to_promote(location)
        member = Member(self._me, self._engine.incarnation)
        if location.until is None:
            received = await self._received(location)
            self._must_know_last_opening(location, received.timeline)
        else:
            received = await self._standing(location, location.until)
        await self._engine.mark(location.token, nonce, location.until)
        self._must_hold_tenure(location)
        promoted = await self._engine.promote(location.token, received)
        at_promotion = self._clock.boottime()
        if not promoted.complete:
            raise NotComplete(
                f"timeline {promoted.timeline} begins at {promoted.begin_lsn:X}, before the received log's end "
                f"{received.lsn:X}: a record there is unreadable"
            )
        if location.until is not None and promoted.begin_lsn != received.lsn:
            raise NotComplete(f"it was promoted at {promoted.begin_lsn:X}, and not where it stood, at {received.lsn:X}")
        floor = self._must_have(location, await self._floor(location.database))
        self._must_reach(location, promoted.begin_lsn, floor)
        comment = location.reason if location.lossy else ""
        opening = Opening(
            location.token,
            self._me,
            promoted.timeline,
            promoted.begin_lsn,
            nonce,
            location.lossy,
            comment,
            location.until,
        )
        await self._engine.set_names(())
        await self._forget_unrecorded(location)
        await self._engine.record_opening(opening, self._prepare)
        self._must_hold_tenure(location)
        now_open = await self._record_open(held, member, opening)
        fact(
            log,
            "opened",
            database=location.database,
            token=str(location.token),
            timeline=promoted.timeline,
            at=self._clock.boottime(),
            promotion_s=round(at_promotion - began, 3),
            total_s=round(self._clock.boottime() - began, 3),
        )
        return now_open

    async def _forget_unrecorded(self, location: Location) -> None:
        """An agent that died between the opening transaction and its record left a row that nobody recorded. Nobody was
        let in under it. Its epoch could not be opened again beside it, and a member that replays it would never show
        the recorded list, so it goes. Rows of an earlier generation are history that a restored directory lost."""
        try:
            written = await self._engine.openings()
        except EverpostError:
            if location.openings:
                raise
            return  # it is made by the first opening
        recorded = {(opening.token, opening.nonce) for opening in location.openings}
        ghosts = [
            token
            for token, nonce in written
            if (token, nonce) not in recorded and token.generation == location.token.generation
        ]
        if not ghosts:
            return
        fact(
            log, "openings that were never recorded go", database=location.database, tokens=[str(one) for one in ghosts]
        )
        await self._engine.forget_openings(ghosts)

    async def _record_open(self, held: Held, member: Member, opening: Opening) -> Held:
        """An order to dismount may come while the copy is activated: it changes nothing but how this ends, so it is
        no reason to leave an opening behind that was written and never recorded."""
        while True:
            try:
                return await self._writer.change(held, lambda before: transitions.opened(before, member, opening))
            except Superseded:
                newer = await self._reread(held)
                if newer is None or replace(newer.location, dismount=held.location.dismount) != held.location:
                    raise
                if newer.revision == held.revision:
                    raise  # it was a fence that changed
                held = newer

    async def _reread(self, held: Held) -> Held | None:
        while self._still_mine():
            try:
                return await self._writer.read(held.location.database)
            except EverpostError:
                await self._clock.sleep(0.05)
        return None

    def _must_be_eligible(self, location: Location) -> None:
        member = Member(self._me, self._engine.incarnation)
        if not location.lossy and member not in location.eligible:
            raise NotComplete(f"{self._me}'s files ({member.incarnation}) are not among those known to be complete")

    def _must_know_last_opening(self, location: Location, timeline: int) -> None:
        # Its promotion would take a timeline number that another opening has: a fork nobody could recognise (3.5).
        if location.lossy and location.openings and timeline < location.openings[-1].timeline:
            raise NotComplete(
                f"the log on {self._me} ends on timeline {timeline}, before timeline {location.openings[-1].timeline}"
                " was opened elsewhere"
            )

    def _must_hold_tenure(self, location: Location) -> None:
        if not self._still_mine():
            raise NotComplete(f"{self._me} lost its tenure while activating {location.database}")

    async def _ready_to_promote(self, location: Location) -> None:
        running = await self._engine.running()
        if running not in (None, False):
            # A primary of a former epoch, or a former try that got no further: nothing of it may live on.
            await self._engine.kill()
            running = False
        files = self._engine.outline()
        if not files.present and not location.openings:
            await self._engine.create()
            running = False
        elif files.spoilt or not files.present:
            raise NotComplete(f"the files on {self._me} are not whole")
        if location.until is None and (running is False or not await self._engine.alive()):
            await self._engine.kill()
            await self._engine.start(None)

    async def _standing(self, location: Location, until: float) -> Received:
        """Where the copy stands that is to be opened as it was at a point in time (LAG-6). Each start before its
        promotion has that time in its settings, and each one behind it finds the new timeline, on which there is
        nothing but what activations wrote: so what lies behind the point in its log is never replayed."""
        files = await self._engine.files()
        newest = location.openings[-1]
        if files.mark_token is not None and files.mark_token > newest.token:
            if files.mark_until != until:
                raise NotComplete(f"it was promoted at {files.mark_token} already, and not as it was at that time")
            if files.next_timeline > newest.timeline:
                # A former try died behind its promotion. PostgreSQL would not stop before the end of that log.
                await self._engine.kill()
                await self._engine.start(None)
                return await self._engine.received()
        if not await self._engine.alive() or (await self._engine.standby_positions()).stands_at != until:
            await self._engine.kill()
            try:
                await self._engine.start(None, until)
            except EverpostError as error:
                # No other copy is asked in its place, so whoever ordered it must hear of it.
                raise NotComplete(f"{self._me} cannot stand at that time: {error}") from error
        point = await self._until_it_stands(location, until)
        # With other openings than the recorded ones no copy could show that it has the same history, and a timeline
        # would begin on one that had ended by then.
        known = set(await self._engine.openings())
        if not known.issuperset((opening.token, opening.nonce) for opening in location.openings):
            raise NotComplete(f"{location.database} was opened again after that time")
        return Received(point, newest.timeline)

    async def _until_it_stands(self, location: Location, until: float) -> int:
        best = 0
        deadline = self._clock.boottime() + STAND_WAIT
        while (standby := await self._engine.standby_positions()).stands_at != until:
            if standby.replayed_lsn > best:
                best, deadline = standby.replayed_lsn, self._clock.boottime() + STAND_WAIT
            if self._clock.boottime() > deadline:
                raise NotComplete(f"{self._me} has no log of {location.database} beyond that time")
            await self._clock.sleep(0.02)
        return standby.replayed_lsn

    async def _received(self, location: Location) -> Received:
        """Stop the receiver and check the log's end against what must be there: the progress floor (F9) and, after a
        planned close, the shutdown checkpoint. A copy that still reads its log is given time while it advances."""
        floor = self._must_have(location, await self._floor(location.database))
        needed = floor
        if location.closed_lsn is not None:
            needed = max(needed, location.closed_lsn + 1)
        best = 0
        deadline = self._clock.boottime() + LOG_WAIT
        while True:
            standby = await self._engine.standby_positions()
            reached = max(standby.received_lsn, standby.replayed_lsn)
            if reached >= needed:
                break
            if reached > best:
                best, deadline = reached, self._clock.boottime() + LOG_WAIT
            if self._clock.boottime() > deadline:
                break
            await self._clock.sleep(0.005)
        await self._engine.follow(None)
        received = await self._engine.received()
        if location.closed_lsn is not None and received.lsn <= location.closed_lsn and not location.lossy:
            raise NotComplete(
                f"the last log of the closed active ({location.closed_lsn:X}) did not arrive ({received.lsn:X})"
            )
        self._must_reach(location, received.lsn, floor)
        return received

    @staticmethod
    def _must_have(location: Location, progress: Progress | None) -> int:
        """The floor (F9). What was recorded before an opening with loss speaks of log that was given up then, until the
        active that opened so has recorded its own."""
        return location.kept(progress.token, progress.acknowledged_lsn) if progress is not None else 0

    @staticmethod
    def _must_reach(location: Location, lsn: int, floor: int) -> None:
        if not location.lossy and lsn < floor:
            raise NotComplete(f"the log ends at {lsn:X}, but commits up to {floor:X} were acknowledged")
