"""`databases.interface.Engine` on the small PostgreSQL, with the limits and repetitions of the real one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

from everpost.databases.connection import ANSWER
from everpost.databases.engine import CLOSE_LIMIT
from everpost.databases.interface import (
    Failure,
    Files,
    Interrupted,
    Positions,
    Promoted,
    Received,
    SenderRow,
    StandbyPositions,
    Upstream,
)
from everpost.databases.layout import TokenWentBack
from everpost.databases.warden_client import ANSWER as WARDEN_ANSWER
from everpost.databases.warden_client import KILL_ANSWER
from everpost.errors import EverpostError, Unavailable
from everpost.model.database import Opening, Token
from tests.simulation.host import Host
from tests.simulation.network import ask
from tests.simulation.postgres import Backend, Instance, standby_name
from tests.simulation.storage import BEGIN, Storage

T = TypeVar("T")
LOCAL = 0.0003
"""Seconds of a question to a process of the same host."""


class WardenLine:
    """The agent's connection to its warden: one request at a time (`databases.warden_client.WardenClient`)."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._lock = asyncio.Lock()

    async def ask(self, work: Callable[[], T], limit: float = WARDEN_ANSWER) -> T:
        """Raises Unavailable after `limit` seconds."""
        async with self._lock:
            found: T = await ask(self._host.warden.process, LOCAL, work, limit)
            return found

    async def identity(self) -> str:
        """Which life of the warden it is."""
        return await self.ask(lambda: self._host.warden.identity)

    async def deadline(self, boottime: float) -> None:
        """Move the deadline forward."""
        await self.ask(lambda: self._host.warden.deadline(boottime))

    async def kill(self, database: str) -> None:
        """Returns when nothing of the instance is left."""
        async with self._lock:
            seconds = await ask(self._host.warden.process, LOCAL, lambda: self._host.warden.kill(database), KILL_ANSWER)
            if seconds:
                await asyncio.sleep(seconds)
                await ask(self._host.warden.process, 0.0, lambda: None, KILL_ANSWER)


def tell(ended: asyncio.Future[Exception | None], error: Exception | None) -> None:
    """The outcome of a COMMIT, for whoever still waits for it."""
    if not ended.done():
        ended.set_result(error)


class Probe:
    """`interface.Probe`."""

    def __init__(self, instance: Instance) -> None:
        self._backend: Backend = instance.commit("note", "probe", lambda error: None)

    @property
    def waiter(self) -> str:
        return self._backend.name

    @property
    def done(self) -> bool:
        return self._backend.done

    def abandon(self) -> None:
        """The backend goes on waiting."""


class SimulatedEngine:
    """The copy of one database on one host, as one life of its agent sees it."""

    def __init__(self, host: Host, database: str, warden: WardenLine) -> None:
        self._host = host
        self._database = database
        self._warden = warden
        self._storage = host.storage(database)
        self._fetched: tuple[str, Storage] | None = None

    @property
    def incarnation(self) -> str:
        return self._storage.incarnation

    def standby_name(self, server: str, incarnation: str, token: Token) -> str:
        return standby_name(self._database, server, incarnation, token)

    async def _sql(self, work: Callable[[Instance], T], limit: float = ANSWER) -> T:
        instance = self._host.instance(self._database)
        if instance is None or not instance.accepting:
            raise Unavailable(f"PostgreSQL of {self._database} does not answer.")
        found: T = await ask(instance.process, LOCAL, lambda: work(instance), limit)
        return found

    async def _signal(self, work: Callable[[Instance], None]) -> None:
        def send() -> None:
            instance = self._host.instance(self._database)
            if instance is not None:
                instance.process.call_later(0.0001, work, instance)

        await self._warden.ask(send)

    async def _disk(self) -> None:
        """A small file written durably."""
        await asyncio.sleep(self._host.flush_delay())

    # -- what there is -------------------------------------------------------------------------------------------

    def on_lost(self, tell: Callable[[], None]) -> None:
        """A hint that never comes here: all must go well without it."""

    def outline(self) -> Files:
        return Files(present=self._storage.present, spoilt=self._storage.spoilt)

    async def files(self) -> Files:
        storage = self._storage
        if not storage.present or storage.spoilt:
            return self.outline()
        end = storage.shutdown
        if not storage.was_primary:
            end = storage.flushed_lsn
            if await self.running() is None and await self.alive():
                positions = await self.standby_positions()
                end = max(positions.received_lsn, positions.replayed_lsn)
        token, nonce, until = storage.mark if storage.mark is not None else (None, "", None)
        return Files(
            present=True,
            was_primary=storage.was_primary,
            timeline=storage.timeline,
            end_lsn=end,
            mark_token=token,
            mark_nonce=nonce,
            mark_until=until,
            begin_lsn=storage.history[-1][1],
            next_timeline=storage.timeline,
        )

    async def running(self) -> Token | bool | None:
        def look() -> Token | bool | None:
            instance = self._host.instance(self._database)
            return False if instance is None else instance.label

        return await self._warden.ask(look)

    async def alive(self) -> bool:
        try:
            await self._sql(lambda instance: None)
        except EverpostError:
            return False
        return True

    # -- life ----------------------------------------------------------------------------------------------------

    def _new_incarnation(self) -> str:
        return f"{self._host.chance.getrandbits(32):08x}"

    async def create(self) -> None:
        incarnation = self._new_incarnation()
        await asyncio.sleep(0.5)
        self._adopt(incarnation, None)

    def _adopt(self, incarnation: str, source: Storage | None) -> None:
        storage = self._storage
        self._host.world.monitor.files_go(self._host, self._database)
        if source is None:
            storage.cut(0)
            storage.was_primary, storage.shutdown = False, None
        else:
            storage.copy_from(source)
        storage.mark, storage.incarnation, storage.present, storage.spoilt = None, incarnation, True, False
        self._host.world.monitor.files_changed(self._host, self._database)

    async def start(self, upstream: Upstream | None, until: float | None = None) -> None:
        storage = self._storage
        storage.names, storage.admitted, storage.upstream, storage.until = (), False, upstream, until
        await self._disk()
        stop = storage.stop()
        if stop is not None and stop < storage.replayed:
            raise EverpostError(f"PostgreSQL of {self._database} did not start: it has replayed more than that")
        await self._warden.ask(lambda: self._host.warden.start(self._database, storage), 2.0)
        while (instance := self._host.instance(self._database)) is None or not instance.accepting:
            if await self.running() is False:
                raise EverpostError(f"PostgreSQL of {self._database} did not start")
            await asyncio.sleep(0.01)

    async def kill(self) -> None:
        await self._warden.kill(self._database)

    async def close(self) -> Received:
        await self._signal(Instance.shut_down)
        end = self._host.loop.now + CLOSE_LIMIT
        while await self.running() is not False:
            if self._host.loop.now > end:
                raise EverpostError(f"{self._database} did not shut down", retry=True)
            await asyncio.sleep(0.005)
        if self._storage.shutdown is None:
            raise EverpostError(f"{self._database} was not shut down cleanly", retry=True)
        return Received(self._storage.shutdown, self._storage.timeline)

    # -- a passive -----------------------------------------------------------------------------------------------

    async def follow(self, upstream: Upstream | None) -> None:
        if self._storage.until is not None:
            await self.kill()
            await self.start(upstream)
            return
        self._storage.upstream = upstream
        await self._disk()
        await self._signal(Instance.reload)
        if upstream is not None:
            return
        end = self._host.loop.now + 2.0
        while not await self._sql(lambda instance: instance.receiver is None):
            if self._host.loop.now > end:
                raise Unavailable("the receiver does not stop")
            await asyncio.sleep(0.003)

    @staticmethod
    def _standby(instance: Instance) -> StandbyPositions:
        storage, receiver = instance.storage, instance.receiver
        count = instance.replay()
        return StandbyPositions(
            received_lsn=storage.flushed_lsn,
            replayed_lsn=storage.wal[count - 1].lsn if count else BEGIN,
            timeline=storage.timeline,
            streaming=receiver is not None,
            known_generated_lsn=storage.end if receiver is not None else None,
            stands_at=storage.until if instance.stands() else None,
        )

    async def standby_positions(self) -> StandbyPositions:
        return await self._sql(self._standby)

    async def received(self) -> Received:
        positions = await self.standby_positions()
        return Received(positions.received_lsn, positions.timeline)

    async def openings(self) -> list[tuple[Token, str]]:
        return await self._sql(lambda instance: instance.storage.openings(instance.replay()))

    # -- becoming active -----------------------------------------------------------------------------------------

    async def mark(self, token: Token, nonce: str, until: float | None = None) -> None:
        storage = self._storage
        if token < storage.highest:
            raise TokenWentBack(f"{self._database} was activated at {storage.highest} before")
        await self._disk()
        storage.highest, storage.mark = token, (token, nonce, until)

    async def promote(self, token: Token, received: Received) -> Promoted:
        await self._warden.ask(lambda: self._host.warden.guard(self._database, token))
        begun: list[int] = []

        def promote(instance: Instance) -> None:
            if instance.process.alive and instance.standby:
                begun.append(instance.promote())

        await self._signal(lambda instance: instance.process.call_later(0.01, promote, instance))
        while await self._sql(lambda instance: instance.standby):
            await asyncio.sleep(0.003)
        begin = self._storage.history[-1][1]
        return Promoted(self._storage.timeline, begin, begin >= received.lsn)

    async def record_opening(self, opening: Opening, prepare: Callable[[object, Opening], Awaitable[None]]) -> None:
        if opening.token in {token for token, _ in await self.openings()}:
            raise Unavailable("duplicate key: that epoch was opened here before")
        await self._commit("opening", (opening.token, opening.nonce))

    async def _commit(self, kind: str, value: object, *, local: bool = False) -> None:
        ended: asyncio.Future[Exception | None] = self._host.loop.create_future()
        await self._sql(lambda instance: instance.commit(kind, value, partial(tell, ended), local=local))
        error = await ended
        if error is not None:
            raise error

    async def upkeep(self, work: Callable[[object], Awaitable[None]]) -> None:
        await work(None)
        await self._commit("note", "upkeep")

    async def forget_openings(self, tokens: Sequence[Token]) -> None:
        for token in tokens:
            await self._commit("forgotten", token)

    # -- an active -----------------------------------------------------------------------------------------------

    async def set_names(self, names: Sequence[str]) -> None:
        await self._disk()
        self._storage.names = tuple(names)
        await self._signal(Instance.reload)

    async def admit(self, open_to_clients: bool) -> None:
        await self._disk()
        self._storage.admitted = open_to_clients
        await self._signal(Instance.reload)

    @staticmethod
    def _active(instance: Instance) -> Positions:
        storage = instance.storage
        senders = [
            SenderRow(one.name, "streaming" if one.streaming else "catchup", one.flush_lsn, one.flush_lsn)
            for one in instance.streams
        ]
        return Positions(storage.flushed_lsn, storage.end, senders, [one.name for one in instance.waiters])

    async def positions(self) -> Positions:
        return await self._sql(self._active)

    async def probe(self) -> Probe:
        return await self._sql(Probe)

    async def commit_locally(self) -> None:
        await self._commit("note", "local", local=True)

    async def commit_with_set(self) -> None:
        await self._commit("note", "beat")

    async def checkpoint(self) -> None:
        await self._sql(lambda instance: None, 30.0)
        await self._disk()

    async def waits_were_cancelled(self) -> bool:
        return False

    # -- mending -------------------------------------------------------------------------------------------------

    async def _source(self, upstream: Upstream, seconds: float) -> Storage:
        """What is copied from an instance that is reachable when the copying begins and when it ends."""
        source: Instance | None = None
        for pause in (0.01, seconds):
            await asyncio.sleep(pause)
            found = self._host.world.instance(upstream.server, self._database)
            network, me = self._host.network, self._host.name
            reached = network.passes(me, upstream.server) and network.passes(upstream.server, me)
            if found is None or not found.accepting or found.process.frozen or not reached:
                raise Unavailable(f"{upstream.server} cannot be copied from")
            if source is not None and source is not found:
                raise Unavailable(f"{upstream.server} was started anew meanwhile")
            source = found
        assert source is not None
        copied = Storage()
        copied.copy_from(source.storage)
        return copied

    async def rewind(self, upstream: Upstream) -> None:
        storage = self._storage
        storage.spoilt, storage.incarnation = True, self._new_incarnation()
        self._host.world.monitor.files_changed(self._host, self._database)
        await self._disk()
        source = await self._source(upstream, 0.1 + 0.4 * self._host.chance.random())
        if source.history == storage.history:
            storage.mark, storage.spoilt = None, False  # pg_rewind: the same timeline, nothing to do
            return
        self._adopt(storage.incarnation, source)

    def free_space(self) -> int:
        return 1 << 40

    async def keep_log(self, seconds: float | None) -> None:
        return None

    async def set_aside(self, left_by: Token, fork_lsn: int | None) -> str:
        raise EverpostError("nobody in this world says so")

    def diverged(self) -> tuple[str, ...]:
        return ()

    async def fetch_seed(self, upstream: Upstream, percent: Callable[[int], None]) -> None:
        self._fetched = None
        incarnation = self._new_incarnation()
        try:
            source = await self._source(upstream, 0.2 + 0.8 * self._host.chance.random())
        except Unavailable as error:
            raise Interrupted(error.what) from error
        percent(100)
        self._fetched = incarnation, source

    async def adopt_seed(self, order: str) -> None:
        if self._fetched is None:
            raise EverpostError("There is no finished seed.")
        incarnation, source = self._fetched
        self._fetched = None
        await self.kill()
        self._adopt(incarnation, source)
        self._storage.order, self._storage.failure = order, None

    async def drop_files(self) -> None:
        self._storage.present = False

    def seeded(self) -> str:
        return self._storage.order

    def failure(self) -> Failure | None:
        return self._storage.failure

    def fail(self, failure: Failure | None) -> None:
        self._storage.failure = failure

    def no_stream(self) -> None:
        return None

    def scrubbed_at(self) -> float:
        return float("inf")

    async def scrub(self, now: float) -> str:
        raise AssertionError("pages do not rot here")
