"""The duty of a passive copy: follow the active, and first become able to: attach, rewind or seed (architecture 3.5).

Before files are rewound or wiped the incarnation is out of the set and of `eligible` by a confirmed change, made while
no instance runs on them that could be asked in again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from msgspec.structs import replace

from everpost.activemanager import lag, seeding, transitions
from everpost.activemanager.history import History
from everpost.activemanager.lag import LagManager
from everpost.activemanager.record import Held
from everpost.activemanager.relation import QUARANTINED, Remedy, Verdict, relate
from everpost.activemanager.seeding import Seeding
from everpost.databases.interface import Engine, Failure, NoStream, StandbyPositions, Upstream
from everpost.errors import EverpostError
from everpost.log import fact
from everpost.model.database import CopySettings, CopyState, CopyStatus, Location, LocationState, Token

if TYPE_CHECKING:
    from everpost.activemanager.copy import Host

log = logging.getLogger(__name__)

GENERATION = 1024 * 1024
NOT_STREAMING = 20.0
"""Seconds an attached copy may fail to stream from a living active before a stronger remedy is taken."""
Outcome = tuple[CopyState, str]
"""A copy's state, and what hinders it."""


def _disabled(settings: CopySettings, before: str, reason: str) -> CopySettings:
    """Whoever changed it meanwhile wins."""
    return replace(settings, lag_disabled=reason) if settings.lag_disabled == before else settings


class PassiveDuty:
    """One copy that is not the active. `wake` asks for a step at once."""

    def __init__(self, database: str, engine: Engine, host: Host, wake: Callable[[], None] = lambda: None) -> None:
        self._database = database
        self._engine = engine
        self._host = host
        self._wake = wake
        self._following: tuple[Token, str, float] | None = None
        self._positions: StandbyPositions | None = None
        self._generated: tuple[int, float] | None = None
        self.token: Token | None = None
        """At which the copy follows, or followed last."""
        self._streaming_at = 0.0
        self._remedies = 0
        self._announced: Verdict | None = None
        self._seeding: Seeding | None = None
        self._seed_not_before = 0.0
        self._seed_failures = 0
        self._seed_error = ""
        self._resumes = 0
        self._scrub: asyncio.Task[str] | None = None
        self._lag = LagManager(host.lag_low_space)
        self._logs_at = 0.0
        self._history = History(engine)
        self._standing: tuple[float, Token] | None = None
        self._sound = True

    async def step(self, held: Held) -> Outcome:
        """Bring the copy one step nearer to following the active; its state and what hinders it."""
        settings = self._host.copy_settings(self._database, self._host.me)
        outcome = await self._step(held, settings)
        self._resumes = settings.resumes
        return outcome

    async def _step(self, held: Held, settings: CopySettings) -> Outcome:
        running = await self._engine.running()
        if running is False:
            self._following = None
        await self._manage_logs(settings, running=running is not False)
        opened = held.location.state in (LocationState.OPEN, LocationState.MOVING)
        if self._seeding is not None:
            return await self._go_on_seeding(held, settings, self._seeding)
        if opened and settings.seed is not None:
            return await self._ordered_seed(held, settings)
        failure = self._engine.failure()
        if (
            settings.suspended
            and settings.replay_to is not None
            and failure is None
            and not self._counted(held.location)
        ):
            return await self._stand(held.location, settings.replay_to)
        self._standing = None
        if settings.suspended and not self._counted(held.location):
            return await self._rest(CopyState.SUSPENDED, failure.reason if failure is not None else "")
        if failure is not None and settings.resumes > failure.resumes:
            self._engine.fail(None)  # an administrator says that the cause is removed; if not, it is found again
        elif failure is not None:
            return await self._failed(held, failure)
        if not opened:
            if running is not False:
                await self._look()
            healthy = self._following is not None
            return (CopyState.DISCONNECTED_AND_HEALTHY if healthy else CopyState.INITIALIZING), ""
        upstream = self._host.upstream(held.location.active, self._database, held.location.token)
        if upstream is None:
            return CopyState.FAILED, f"nothing is known about {held.location.active}"
        # A member does not lag: its delay begins when the active's agent has taken it out of the set.
        delay = 0.0 if self._counted(held.location) else settings.lag
        upstream = upstream._replace(delay=delay)
        if self._following != (upstream.token, upstream.server, delay):
            return await self._attach(held, upstream, settings)
        return await self._follow(held, upstream, settings)

    async def _manage_logs(self, settings: CopySettings, *, running: bool) -> None:
        """From time to time: does the copy give its lag up, or take it up again? And how much log does it keep?"""
        now = self._host.clock.boottime()
        if now < self._logs_at:
            return
        self._logs_at = now + lag.EVERY
        free = self._engine.free_space()
        if settings.replay_lag > 0:
            good, others = self._host.good_copies(self._database)
            before = settings.lag_disabled
            reason = self._lag.reason(now, before, free=free, good=good, others=others)
            if reason != before:
                fact(log, "replay lag", level=logging.WARNING, database=self._database, disabled=reason, before=before)
                await self._host.change_copy(self._database, partial(_disabled, before=before, reason=reason))
        if running and self._following is not None:
            kept = settings.truncation_lag > 0 and free >= self._host.lag_low_space
            await self._engine.keep_log(settings.truncation_lag + settings.lag if kept else None)

    async def stop(self) -> None:
        """End what runs beside the steps: the copy becomes the active, or is removed."""
        if self._seeding is not None:
            await self._seeding.cancel()
            self._seeding = None
        if self._scrub is not None:
            self._scrub.cancel()
            self._scrub = None

    def _counted(self, location: Location) -> bool:
        """Whether the record relies on this copy: then it goes on, until the active's agent took it out (3.2)."""
        return any(member.server == self._host.me for member in (*location.set, *location.eligible))

    async def _rest(self, state: CopyState, error: str) -> Outcome:
        """Neither copy nor replay."""
        await self.stop()
        self._following = None
        if await self._engine.running() is not False:
            await self._engine.kill()
        return state, error

    async def _stand(self, location: Location, until: float) -> Outcome:
        """A lagged copy at a point in time, for its administrator to read. It fetches what it lacks up to then: with a
        backlog it asks for no stream (docs/copies.md). One whose files are of another history can be read too, but says
        nothing of where it stands, so that nobody activates it."""
        if self._standing != (until, location.token) or not await self._engine.alive():
            await self._rest(CopyState.SUSPENDED, "")
            self._standing = self._positions = None  # what a start that fails leaves unsaid was true of the last one
            verdict = relate(await self._engine.files(), location)
            self._sound = verdict.follows
            upstream = None
            if location.state is LocationState.OPEN and verdict.follows:
                upstream = self._host.upstream(location.active, self._database, location.token)
            await self._engine.start(upstream, until)
            self._standing = until, location.token
            fact(log, "stands at a point in time", database=self._database, until=until)
        await self._look()
        return CopyState.SUSPENDED, ""

    async def _leave(self, held: Held, why: str) -> None:
        """Out of the set and of `eligible`, confirmed; also when it is not in there, so that a grow which is under way
        elsewhere fails on this revision."""
        me = self._host.me
        await self._host.writer.change(held, lambda before: transitions.shrunk(before, me, reason=f"{me}: {why}"))

    # -- a copy that suspended itself ---------------------------------------------------------------------------

    async def _fail(self, held: Held, reason: str, *, heal: bool) -> Outcome:
        settings = self._host.copy_settings(self._database, self._host.me)
        failure = Failure(reason=reason, resumes=settings.resumes, heal=heal)
        self._engine.fail(failure)
        self._host.copy_event(self._database, True, f"it suspended itself: {reason}")
        fact(log, "copy suspended itself", level=logging.ERROR, database=self._database, why=reason, heal=heal)
        return await self._failed(held, failure)

    async def _failed(self, held: Held, failure: Failure) -> Outcome:
        state, error = CopyState.FAILED_AND_SUSPENDED, failure.reason
        location = held.location
        if location.state is not LocationState.OPEN or location.active in self._host.peers.lost():
            return state, error  # where it is counted it may be the last whole copy: it is kept as it is
        if failure.heal and self.state_was_shown(state):
            return await self._seed_from_active(held, failure.reason)
        if self._counted(location):
            await self._leave(held, error)
        return await self._rest(state, error)

    def state_was_shown(self, state: CopyState) -> bool:
        """Whether others could see that state: a copy is not healed so fast that nobody learns why."""
        return self._host.shown_state(self._database) is state

    # -- following ----------------------------------------------------------------------------------------------

    async def _attach(self, held: Held, upstream: Upstream, settings: CopySettings) -> Outcome:
        location = held.location
        verdict = relate(await self._engine.files(), location)
        if not verdict.follows:
            return await self._cure(held, upstream, settings, verdict)
        if await self._engine.running() is False or not await self._engine.alive():
            await self._engine.kill()
            await self._engine.start(upstream)
        else:
            await self._engine.follow(upstream)
        self._began_following(upstream)
        fact(log, "following", database=self._database, active=location.active, token=str(location.token))
        return CopyState.INITIALIZING, ""

    async def _cure(self, held: Held, upstream: Upstream, settings: CopySettings, verdict: Verdict) -> Outcome:
        """What these files need before they can follow."""
        if verdict.remedy is Remedy.RESEED:
            return await self._seed_from_active(held, verdict.reason)
        if verdict.remedy is Remedy.REWIND:
            return await self._rewind(held, upstream, verdict)
        word = settings.set_aside
        if verdict.left_by is None or word is None or word < verdict.left_by:
            return await self._fail(held, verdict.reason, heal=False)
        return await self._resynchronize(held, upstream, verdict)

    async def _apart(self, held: Held, upstream: Upstream, settings: CopySettings) -> Outcome:
        """PostgreSQL has replayed what the active's history does not hold. It asks again and again, and looks as if it
        streamed each time."""
        verdict = relate(await self._engine.files(), held.location)
        if verdict.follows:
            lossy = [opening.token for opening in held.location.openings if opening.lossy]
            why = "PostgreSQL says that the active's timeline begins before what was replayed here"
            verdict = Verdict(Remedy.REWIND, why)
            if lossy:
                verdict = Verdict(Remedy.QUARANTINE, QUARANTINED, left_by=lossy[-1])
        return await self._cure(held, upstream, settings, verdict)

    def _began_following(self, upstream: Upstream) -> None:
        self._following = (upstream.token, upstream.server, upstream.delay)
        self.token = upstream.token
        self._streaming_at = self._host.clock.boottime()
        self._history.begin(self._streaming_at)

    async def _rewind(self, held: Held, upstream: Upstream, verdict: Verdict) -> Outcome:
        """A rewind that does not succeed leaves spoilt files, for which the next step fetches a seed."""
        if self._announced != verdict:
            self._announced = verdict
            return CopyState.RESYNCHRONIZING, ""
        self._announced = None
        why = f"{verdict.remedy}: {verdict.reason}"
        fact(log, "rewind", level=logging.WARNING, database=self._database, active=upstream.server, why=why)
        await self._engine.kill()
        await self._leave(held, why)
        await self._engine.rewind(upstream)
        await self._engine.start(upstream)
        self._began_following(upstream)
        return CopyState.RESYNCHRONIZING, ""

    async def _resynchronize(self, held: Held, upstream: Upstream, verdict: Verdict) -> Outcome:
        """By an administrator's word: what this copy alone has is kept beside, and the copy made to follow again. The
        word is struck out only afterwards, and is good for no later loss."""
        if self._announced != verdict:
            self._announced = verdict
            return CopyState.RESYNCHRONIZING, ""
        assert verdict.left_by is not None
        await self._engine.kill()
        folder = await self._engine.set_aside(verdict.left_by, verdict.fork_lsn)
        fact(log, "diverged log set aside", level=logging.WARNING, database=self._database, folder=folder)
        if verdict.fork_lsn is None:
            why = f"its history does not allow a rewind; its former files are kept in {folder}"
            return await self._seed_from_active(held, why)
        outcome = await self._rewind(held, upstream, verdict)
        await self._word_done()
        return outcome

    async def _word_done(self) -> None:
        await self._host.change_copy(self._database, lambda before: replace(before, set_aside=None))

    async def _look(self) -> None:
        try:
            self._positions = await self._engine.standby_positions()
        except EverpostError:
            self._positions = None
            return
        newest = self._positions.known_generated_lsn
        if newest is not None and (self._generated is None or newest != self._generated[0]):
            self._generated = newest, self._host.clock.wall().timestamp()

    async def _follow(self, held: Held, upstream: Upstream, settings: CopySettings) -> Outcome:
        now = self._host.clock.boottime()
        await self._look()
        if self._positions is None:
            if not await self._engine.alive():
                self._following = None
            return CopyState.FAILED, "its postmaster does not answer"
        if self._positions.streaming:
            self._streaming_at = now
            self._remedies = 0
            damage = await self._pages()
            if damage:
                return await self._fail(held, damage, heal=True)
            missing = await self._history.missing(now, held.location, self._positions)
            if missing:
                why = f"it has replayed more, and the opening at {missing[0].token} is not in its history"
                return await self._fail(held, why, heal=not any(opening.lossy for opening in missing))
            source = self._host.seeding_from_me(self._database)
            return (CopyState.SEEDING_SOURCE if source else CopyState.HEALTHY), ""
        hindrance = self._engine.no_stream()
        if hindrance is NoStream.FORKED:
            return await self._apart(held, upstream, settings)
        if hindrance is NoStream.LOG_IS_GONE:
            return await self._seed_from_active(held, f"{upstream.server} does not have the log any more")
        # A lagged copy that was restarted asks for a stream only after it has replayed what it has.
        patience = NOT_STREAMING + upstream.delay
        if upstream.server in self._host.peers.lost() or now - self._streaming_at < patience:
            return CopyState.DISCONNECTED_AND_HEALTHY, ""
        self._remedies += 1
        why = f"no stream for {patience:.0f} s"
        if self._remedies == 1:
            self._announced = verdict = Verdict(Remedy.REWIND, why)
            return await self._rewind(held, upstream, verdict)
        return await self._seed_from_active(held, why)

    async def _pages(self) -> str:
        """Read through the pages from time to time, beside the steps; what was found damaged."""
        if self._scrub is None:
            now = self._host.clock.wall().timestamp()
            if now - self._engine.scrubbed_at() >= self._host.scrub_every:
                self._scrub = asyncio.create_task(self._engine.scrub(now))
            return ""
        if not self._scrub.done():
            return ""
        task, self._scrub = self._scrub, None
        error = task.exception()
        if error is not None:
            log.warning("%s: scrub: %s", self._database, error)
            return ""
        return f"damaged pages: {task.result()}" if task.result() else ""

    # -- seeding ------------------------------------------------------------------------------------------------

    async def _ordered_seed(self, held: Held, settings: CopySettings) -> Outcome:
        order = settings.seed
        assert order is not None
        if self._engine.seeded() == order.id:
            await self._order_done(order.id)
            return CopyState.INITIALIZING, ""
        source = order.source or held.location.active
        upstream = self._host.upstream(source, self._database, held.location.token)
        if upstream is None:
            return CopyState.FAILED, f"nothing is known about {source}"
        if self._counted(held.location):
            return CopyState.INITIALIZING, ""  # the active's agent takes it out first
        files = await self._engine.files()
        if not order.delete_existing and relate(files, held.location).remedy is Remedy.QUARANTINE:
            outcome = await self._fail(held, QUARANTINED, heal=False)
            await self._order_done(order.id, failed=True)
            return outcome
        if order.delete_existing and files.present:
            await self._rest(CopyState.SEEDING, "")
            await self._leave(held, "its files are deleted")
            await self._engine.drop_files()
        return await self._seed(held, upstream, order.id, "an administrator ordered it")

    async def _seed_from_active(self, held: Held, why: str) -> Outcome:
        active = held.location.active
        upstream = self._host.upstream(active, self._database, held.location.token)
        if upstream is None:
            return CopyState.FAILED, f"nothing is known about {active}"
        return await self._seed(held, upstream, "", why)

    async def _seed(self, held: Held, upstream: Upstream, order: str, why: str) -> Outcome:
        if self._host.clock.boottime() < self._seed_not_before:
            return CopyState.FAILED, self._seed_error
        if self._scrub is not None:
            self._scrub.cancel()
            self._scrub = None
        if self._counted(held.location):
            await self._leave(held, f"seed: {why}")
        self._seeding = Seeding(self._engine, upstream, order, self._wake)
        seeding.told(self._database, self._seeding, "seeding", why)
        return CopyState.SEEDING, ""

    async def _go_on_seeding(self, held: Held, settings: CopySettings, seed: Seeding) -> Outcome:
        location = held.location
        if seeding.wanted(settings) != seed.order:
            await self.stop()
            seeding.told(self._database, seed, "seed cancelled")
            return (CopyState.SUSPENDED if settings.suspended else CopyState.INITIALIZING), ""
        if seed.upstream.token != location.token:
            await self.stop()  # whatever is in there may belong to a history that ended
            seeding.told(self._database, seed, "seed given up", "the database was activated anew")
            return CopyState.FAILED, "the database was activated anew; the seed begins again"
        if not seed.done or location.state not in (LocationState.OPEN, LocationState.MOVING):
            return CopyState.SEEDING, ""
        if seed.error is not None:
            return await self._seed_broke_off(held, seed)
        await self._engine.kill()
        await self._leave(held, "a seed takes the place of its files")
        await self._engine.adopt_seed(seed.order)
        self._seeding = None
        self._following = None
        self._seed_failures = 0
        seeding.told(self._database, seed, "seeded")
        if settings.set_aside is not None:
            await self._word_done()
        self._wake()  # to follow at once
        return CopyState.INITIALIZING, ""

    async def _seed_broke_off(self, held: Held, seed: Seeding) -> Outcome:
        why = str(seed.error)
        seeding.told(self._database, seed, "seed broke off", why)
        self._seeding = None
        self._seed_not_before = self._host.clock.boottime() + seeding.AGAIN
        self._seed_failures += not seed.interrupted
        if self._seed_failures < seeding.MOST_FAILURES:
            self._seed_error = f"the seed broke off and begins again: {why}"
            return CopyState.FAILED, self._seed_error
        self._seed_failures = 0
        outcome = await self._fail(held, f"seeding failed {seeding.MOST_FAILURES} times: {why}", heal=False)
        if seed.order:
            await self._order_done(seed.order, failed=True)
        return outcome

    async def _order_done(self, order: str, *, failed: bool = False) -> None:
        """Strike the order out of the directory; whoever changed it meanwhile wins."""

        def done(before: CopySettings) -> CopySettings:
            if before.seed is None or before.seed.id != order:
                return before
            manual = before.seed.manual_resume and not failed
            comment = "It was seeded; resume it by hand." if manual else ""
            return replace(before, seed=None, suspended=manual, suspend_comment=comment, replay_to=None)

        await self._host.change_copy(self._database, done)

    # -- what is shown ------------------------------------------------------------------------------------------

    def status(self, state: CopyState, error: str) -> CopyStatus:
        """This copy's line of Get-MailboxDatabaseCopyStatus."""
        bare = CopyStatus(
            database=self._database,
            server=self._host.me,
            state=state,
            incarnation=self._engine.incarnation,
            token=self.token,
            error=error,
            resumes=self._resumes,
            generated_lsn=self._generated[0] if self._generated is not None else None,
            generated_at=self._generated[1] if self._generated is not None else None,
            seed_percent=self._seeding.percent if self._seeding is not None else None,
            seed_source=self._seeding.upstream.server if self._seeding is not None else "",
            diverged=self._engine.diverged(),
        )
        positions = self._positions
        if positions is None:
            return bare
        generated = positions.known_generated_lsn
        behind = None if generated is None else generated // GENERATION - positions.received_lsn // GENERATION
        return replace(
            bare,
            timeline=positions.timeline,
            received_lsn=positions.received_lsn,
            replayed_lsn=positions.replayed_lsn,
            copy_queue=None if behind is None else max(behind, 0),
            replay_queue=max(positions.received_lsn // GENERATION - positions.replayed_lsn // GENERATION, 0),
            stands_at=positions.stands_at if self._standing is not None and self._sound else None,
        )
