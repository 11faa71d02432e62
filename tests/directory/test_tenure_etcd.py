"""Tenure on three real voters: the death or the freezing of any one of them costs no tenure (3.8)."""

from __future__ import annotations

import asyncio
import signal
import time

import pytest

from everpost.clock import SystemClock
from everpost.directory import keys
from everpost.directory.cache import DirectoryCache
from everpost.directory.etcd import EtcdDirectory
from everpost.directory.tenure import Challengers, Tenure, TenureLost
from everpost.errors import EverpostError, OutcomeUnknown, Unavailable
from everpost.model.tenure import Timing
from tests.directory.members import Members

TIMING = Timing()


class Holder:
    """A server that renews on its own client, and notes when it was not valid."""

    def __init__(self, directory: EtcdDirectory, name: str) -> None:
        self.directory = directory
        self.clock = SystemClock()
        self.tenure = Tenure(directory, self.clock, name, f"warden of {name}", TIMING)
        self.lapses = 0
        self.least_left = TIMING.hold
        self._task: asyncio.Task[None] | None = None

    async def _ready(self) -> bool:
        return True

    async def _confirmed(self, until: float, epoch: int) -> None:
        left = self.tenure.valid_until - self.clock.boottime()
        if self.tenure.valid_until > 0:
            self.least_left = min(self.least_left, left)
            self.lapses += left <= 0

    async def begin(self) -> None:
        end = time.monotonic() + 30
        while not self.tenure.fence_revision:
            try:
                await self.tenure.acquire()
            except EverpostError:
                assert time.monotonic() < end
                await asyncio.sleep(0.05)
        self._task = asyncio.create_task(self.tenure.renew_forever(self._ready, self._confirmed))
        while not self.tenure.valid():
            assert time.monotonic() < end and not self._task.done()
            await asyncio.sleep(0.01)

    async def end(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.directory.close()


@pytest.mark.fault
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("whose", ["own", "another's"])
async def test_the_loss_of_the_leader_costs_no_tenure(members: Members, how: signal.Signals, whose: str) -> None:
    members.found("EX01", "EX02", "W")
    client = members.directory("EX01", "EX02", "W")
    leader = await members.leader(client)
    others = [name for name in members.specs if name != leader]
    order = [leader, *others] if whose == "own" else [others[0], leader, others[1]]
    holder = Holder(members.directory(*order), "EX01")
    try:
        await holder.begin()
        await asyncio.sleep(1.5)
        steady, holder.tenure.longest_gap = holder.tenure.longest_gap, 0.0
        members.signal(leader, how)
        await asyncio.sleep(4.0)
        assert holder.tenure.valid()
        print(
            f"{how.name} of {whose} member, the leader: longest gap between confirmed renewals "
            f"{holder.tenure.longest_gap:.2f} s (before {steady:.2f} s), least validity left {holder.least_left:.2f} s"
        )
        assert not holder.lapses
        assert holder.tenure.epoch == 1
    finally:
        members.resume(leader)
        await holder.end()
        await client.close()


@pytest.mark.fault
async def test_a_silent_server_is_taken_and_finds_out(members: Members) -> None:
    members.found("EX01", "EX02", "W")
    holder = Holder(members.directory("EX01", "EX02", "W"), "EX01")
    rival = Holder(members.directory("EX02", "EX01", "W"), "EX02")
    cache = DirectoryCache(rival.directory, keys.ROOT, on_change=lambda key, entry: challengers.on_change(key, entry))
    challengers = Challengers(
        rival.directory,
        rival.clock,
        "EX02",
        TIMING,
        fence=lambda server: cache.get(keys.fence(server)),
        own_guard=lambda: {keys.fence("EX02"): rival.tenure.fence_revision},
        learn=cache.learn,
    )
    following = asyncio.create_task(cache.run())
    try:
        await asyncio.gather(holder.begin(), rival.begin(), cache.wait_synced())
        await asyncio.sleep(TIMING.take + 0.5)
        assert not challengers.expired("EX01")
        assert not await challengers.take("EX01", {}, {})
        assert holder._task is not None
        holder._task.cancel()
        stopped = holder.tenure.valid_until
        won = False
        async with asyncio.timeout(20):
            while not won:
                await asyncio.sleep(0.02)
                try:
                    won = await challengers.take("EX01", {}, {})
                except (OutcomeUnknown, Unavailable):
                    pass
        now = holder.clock.boottime()
        print(f"taken {now - stopped + TIMING.hold:.2f} s after the last renewal was sent")
        assert now > stopped + TIMING.stop
        with pytest.raises(TenureLost):
            await asyncio.wait_for(holder.tenure.renew_forever(holder._ready, holder._confirmed), 20)
        assert not holder.tenure.valid()
        await holder.tenure.acquire()
        assert holder.tenure.epoch == 3
    finally:
        following.cancel()
        await asyncio.gather(holder.end(), rival.end())


@pytest.mark.fault
async def test_a_confirmation_costs_about_a_round_trip(single: Members) -> None:
    holder = Holder(single.directory("EX01"), "EX09")
    try:
        await holder.begin()
        took = []
        for _ in range(50):
            began = time.monotonic()
            await holder.tenure.confirmed_after(holder.clock.boottime())
            took.append(time.monotonic() - began)
        print(f"confirmed_after: median {sorted(took)[25] * 1000:.1f} ms, longest {max(took) * 1000:.1f} ms")
        assert sorted(took)[25] < TIMING.renew / 2, "it waits for the next renewal instead of asking for one"
    finally:
        await holder.end()
