"""Several hosts, their tenures and a directory in one process, in time that is only simulated, under one seed.

Each host has a clock of its own rate and a line to the directory that delays, loses and repeats nothing but what the
directory's contract allows: a request may be lost, its answer may be, it may arrive after its sender gave up, and a
host may be frozen between any two steps.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from datetime import UTC, datetime
from typing import Any

from everpost.directory import keys
from everpost.directory.cache import DirectoryCache
from everpost.directory.interface import Entry, Event, TxnResult
from everpost.directory.memory import MemoryDirectory
from everpost.directory.schema import decode
from everpost.directory.tenure import Challengers, Tenure, TenureLost
from everpost.errors import EverpostError, OutcomeUnknown, Unavailable
from everpost.model.tenure import FencingRecord, TenureState, Timing


class _Leap(selectors.DefaultSelector):
    """Instead of waiting, time goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("everybody waits for ever")
        self.now += max(0.0, timeout)
        return super().select(0)


class SimulatedLoop(asyncio.SelectorEventLoop):
    """Timers fire in order, at once."""

    def __init__(self) -> None:
        self._leap = _Leap()
        super().__init__(self._leap)
        self._clock_resolution = 1e-9

    def time(self) -> float:
        return self._leap.now


def simulate(work: Coroutine[Any, Any, None]) -> None:
    """Run `work` in simulated time."""
    loop = SimulatedLoop()
    try:
        loop.run_until_complete(work)
        for _ in range(10):  # what a task awaits while it is being cancelled is cancelled the next time
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.run_until_complete(asyncio.sleep(0))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


class DriftingClock:
    """A host's clock: its own start and its own rate."""

    def __init__(self, start: float, rate: float) -> None:
        self.start = start
        self.rate = rate

    def boottime(self) -> float:
        return self.start + asyncio.get_running_loop().time() * self.rate

    def true_time(self, boottime: float) -> float:
        return (boottime - self.start) / self.rate

    def wall(self) -> datetime:
        return datetime.fromtimestamp(self.boottime(), UTC)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / self.rate)


class Line:
    """A host's line to the directory. `bad`: the share of requests to which something happens."""

    def __init__(self, directory: MemoryDirectory, chance: random.Random) -> None:
        self._directory = directory
        self._chance = chance
        self.bad = 0.05
        self.answers_late = 0

    async def get(self, key: str) -> Entry | None:
        await asyncio.sleep(self._chance.uniform(0.0, 0.05))
        return await self._directory.get(key)

    async def list(self, prefix: str) -> tuple[list[Entry], int]:
        await asyncio.sleep(self._chance.uniform(0.0, 0.05))
        return await self._directory.list(prefix)

    async def txn(
        self,
        guards: Mapping[str, int],
        puts: Mapping[str, bytes | None],
        *,
        read_on_failure: tuple[str, ...] = (),
        attempt: float | None = None,
        late: Callable[[TxnResult], object] | None = None,
    ) -> TxnResult:
        chance = self._chance
        ill = chance.random() < self.bad
        fate = chance.choice(("refused", "request lost", "answer lost", "late", "frozen")) if ill else "well"
        if fate == "refused":
            raise Unavailable("refused")
        if fate == "frozen":  # before it was sent, and before its answer was read
            await asyncio.sleep(chance.uniform(0.0, 5.0))
        there = chance.uniform(0.0, 0.05) if fate != "late" else chance.uniform(0.2, 4.0)
        arrived = asyncio.create_task(self._arrive(there, guards, puts, read_on_failure))
        if fate == "request lost":
            arrived.cancel()
        if fate in ("well", "frozen"):
            result = await arrived
            await asyncio.sleep(chance.uniform(0.0, 0.05) if fate == "well" else chance.uniform(0.0, 5.0))
            return result
        await asyncio.sleep(attempt or 0.2)
        if late is not None and fate == "late":
            self._back(arrived, late)
        raise OutcomeUnknown("no answer")

    def _back(self, arrived: asyncio.Task[TxnResult], late: Callable[[TxnResult], object]) -> None:
        """Its answer comes after it was given up, if at all."""
        delay = self._chance.uniform(0.0, 3.0)
        self.answers_late += 1

        def tell(task: asyncio.Task[TxnResult]) -> None:
            task.get_loop().call_later(delay, lambda: late(task.result()))

        arrived.add_done_callback(tell)

    async def _arrive(
        self, there: float, guards: Mapping[str, int], puts: Mapping[str, bytes | None], read: tuple[str, ...]
    ) -> TxnResult:
        await asyncio.sleep(there)
        return await self._directory.txn(guards, puts, read_on_failure=read)

    async def watch(self, prefix: str) -> AsyncIterator[Event]:
        async for event in self._directory.watch(prefix):
            await asyncio.sleep(self._chance.uniform(0.0, 0.02 if self._chance.random() > self.bad else 2.0))
            yield event

    async def close(self) -> None:
        pass


class World:
    """Host A holds a tenure as well as its line allows; B and C take it when they may."""

    def __init__(self, seed: int, timing: Timing) -> None:
        self._chance = random.Random(seed)
        self._timing = timing
        self._directory = MemoryDirectory()
        self._clock_a = self._clock()
        self._windows: dict[int, float] = {}
        self._taken: dict[int, float] = {}
        self.takes = 0
        self._line = Line(self._directory, self._chance)

    def _clock(self) -> DriftingClock:
        drift = self._timing.drift
        return DriftingClock(self._chance.uniform(1, 1e6), self._chance.uniform(1 - drift, 1 + drift))

    @property
    def violations(self) -> list[str]:
        """Epochs of A that were taken while A might still serve."""
        return [
            f"epoch {epoch} taken at {at:.3f}, A might serve until {self._windows[epoch]:.3f}"
            for epoch, at in self._taken.items()
            if self._windows.get(epoch, 0.0) > at + 1e-6
        ]

    @property
    def answers_late(self) -> int:
        """Answers to A that were on their way when A had given them up."""
        return self._line.answers_late

    async def run(self, seconds: float) -> None:
        """So many simulated seconds."""
        line = self._line
        jobs = [self._holder(line), self._weather(line), self._umpire(), self._challenger("B"), self._challenger("C")]
        tasks = [asyncio.create_task(job) for job in jobs]
        await asyncio.sleep(seconds)
        for task in tasks:
            assert not task.done(), task.exception()
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _weather(self, line: Line) -> None:
        while True:
            line.bad = self._chance.choice((0.05, 0.05, 0.5, 0.97))
            await asyncio.sleep(self._chance.uniform(0.5, 6.0))

    async def _umpire(self) -> None:
        """True times of takes: seen without a delay, as the directory in memory tells at once."""
        async for event in self._directory.watch(keys.fence("A")):
            if event.entry.value:
                fence = decode(FencingRecord, event.entry.value)
                if fence.state is TenureState.TAKEN:
                    self._taken[fence.epoch - 1] = asyncio.get_running_loop().time()
                    self.takes += 1

    async def _holder(self, line: Line) -> None:
        tenure = Tenure(line, self._clock_a, "A", "warden", self._timing)

        async def ready() -> bool:
            return True

        async def confirmed(until: float, epoch: int) -> None:
            end = self._clock_a.true_time(until + self._timing.stop)
            self._windows[epoch] = max(self._windows.get(epoch, 0.0), end)

        while True:
            try:
                await tenure.acquire()
                await tenure.renew_forever(ready, confirmed)
            except (TenureLost, EverpostError):
                await asyncio.sleep(0.2)

    async def _challenger(self, name: str) -> None:
        line = Line(self._directory, self._chance)
        clock = self._clock()
        own = Tenure(line, clock, name, f"warden of {name}", self._timing)
        while not own.fence_revision:
            try:
                await own.acquire()
            except EverpostError:
                await asyncio.sleep(0.1)
        cache = DirectoryCache(line, keys.ROOT, on_change=lambda key, entry: challengers.on_change(key, entry))
        challengers = Challengers(
            line,
            clock,
            name,
            self._timing,
            fence=lambda server: cache.get(keys.fence(server)),
            own_guard=lambda: {keys.fence(name): own.fence_revision},
            learn=cache.learn,
        )
        following = asyncio.create_task(cache.run())
        try:
            while True:
                if challengers.expired("A"):
                    await asyncio.sleep(self._chance.uniform(0.0, 0.6))  # other decisions come first
                    try:
                        await challengers.take("A", {}, {})
                    except (OutcomeUnknown, Unavailable):
                        pass
                await asyncio.sleep(0.1)
        finally:
            following.cancel()
