"""FailoverMon's `peer silent, database not here`, by the real keepers in simulated time: what EX02 does about the
address depends on whether quorum has taken the silent server, and hardly on where the database is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from everpost.array.decide import DATABASE_WAIT
from everpost.directory import keys
from everpost.directory.schema import encode
from everpost.model.database import Location, LocationState, Token
from everpost.model.tenure import FencingRecord, TenureRecord, TenureState, Timing
from tests.array.world import World, now
from tests.directory.world import simulate

pytestmark = pytest.mark.usefixtures("quiet")

TIMING = Timing()
JITTER = 1.0
"""Seconds of renewals, looks, and duplicate address detection."""


async def dead_and_nobody_takes_it(world: World) -> None:
    pass


async def dead_and_taken_after_4_s(world: World) -> None:
    await asyncio.sleep(4.0)
    taken = FencingRecord(server="EX01", instance="w", epoch=2, state=TenureState.TAKEN)
    await world.directory.txn({}, {keys.fence("EX01"): encode(taken)})


async def alive_but_its_array_process_stands_still(world: World) -> None:
    for counter in range(1000, 2000):
        await renew(world, counter)
        await asyncio.sleep(TIMING.renew)


async def renew(world: World, counter: int) -> None:
    """EX01's own tenure."""
    record = TenureRecord(server="EX01", instance="w", epoch=1, counter=counter, state=TenureState.UP)
    await world.directory.txn({}, {keys.tenure("EX01"): encode(record)})


@pytest.mark.parametrize(
    ("server", "earliest", "latest"),
    [
        (dead_and_nobody_takes_it, DATABASE_WAIT, DATABASE_WAIT + TIMING.take + JITTER),
        (dead_and_taken_after_4_s, 4.0, 4.0 + JITTER),
        (alive_but_its_array_process_stands_still, TIMING.take - TIMING.renew, TIMING.take + JITTER),
    ],
    ids=lambda one: one.__name__ if callable(one) else "",
)
def test_peer_silent_database_not_here(
    server: Callable[[World], Awaitable[None]], earliest: float, latest: float, tmp_path: Path
) -> None:
    async def check() -> None:
        world = World(1, TIMING, tmp_path)
        await world.start()
        location = Location(
            database="MB01", active="EX01", token=Token(generation=1, epoch=1), state=LocationState.OPEN
        )
        await world.directory.txn({}, {keys.location("MB01"): encode(location)})
        for counter in range(40):  # until the new array is settled
            await renew(world, counter)
            await asyncio.sleep(TIMING.renew)
        assert world.network.holders == ["EX01"]
        began = now()
        world.hosts["EX01"].frozen.until = began + 1e6
        happens = asyncio.ensure_future(server(world))
        async with asyncio.timeout(latest):
            while world.network.holders == ["EX01"]:
                await asyncio.sleep(0.01)
        assert world.network.holders == ["EX01", "EX02"] and now() - began >= earliest
        assert world.network.violations == []
        happens.cancel()

    simulate(check())
