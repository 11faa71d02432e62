"""The real updaters of two servers through seeded, simulated rounds: bad lines, frozen processes, dying servers."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from everpost.array.dns.rotation import BACK_AT_MOST
from tests.array.dns.world import HOSTS, NAME, THEIRS, World
from tests.directory.world import simulate

ROUNDS = int(os.environ.get("EVERPOST_DNS_ROUNDS", "6"))


async def _round(world: World) -> None:
    await world.start()
    await asyncio.sleep(60.0)
    await world.calm()
    await _until(world, set(HOSTS.values()), BACK_AT_MOST + 60.0)


async def _until(world: World, wanted: set[str], seconds: float) -> None:
    async with asyncio.timeout(seconds):
        while set(world.published()) != wanted:
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_names_follow_one_updater_at_a_time_and_end_as_they_should(seed: int, tmp_path: Path) -> None:
    world = World(seed, tmp_path)

    async def check() -> None:
        await _round(world)
        assert world.well() == []
        await asyncio.sleep(35.0)
        assert sorted(world.published()) == sorted(HOSTS.values())
        marks = {seen.mark.token for name, seen in world.zone.names.items() if seen.mark is not None}
        assert len(marks) == 1, "the last updater has claimed every name"
        assert sum(one.working for one in world.updaters) == 1
        [theirs] = world.zone.names[THEIRS].records
        assert theirs.data == ("5 1 993 other.contoso.com.",) and world.zone.names[THEIRS].mark is None
        before = world.zone.updates
        await asyncio.sleep(35.0)
        assert world.zone.updates == before, "nothing is written when all is as it should be"

    simulate(check())


def test_sabotage_without_marks_a_replaced_updater_writes(tmp_path: Path) -> None:
    violations = []
    for seed in range(200):
        world = World(seed, tmp_path)
        world.zone.marks_count = False
        simulate(_round(world))
        violations += world.zone.violations
        if violations:
            break
    assert any("after" in one for one in violations)


def test_a_dead_server_leaves_and_comes_back_within_seconds(tmp_path: Path) -> None:
    world = World(1, tmp_path)

    async def check() -> None:
        await world.start()
        await world.calm()
        await _until(world, set(HOSTS.values()), 15.0)
        await asyncio.sleep(10.0)  # the other names are made, too
        world.dead["EX01"] = "IMAP does not answer"
        await _until(world, {HOSTS["EX02"]}, 1.0)
        world.dead["EX02"] = "IMAP does not answer"
        await asyncio.sleep(30.0)
        assert world.published() == (HOSTS["EX02"],), "the last one stays"
        world.dead.update(dict.fromkeys(HOSTS, ""))
        await _until(world, set(HOSTS.values()), 11.0)
        assert world.well() == [] and NAME in world.zone.names

    simulate(check())


@pytest.mark.parametrize("able", [("EX01", "EX02"), ("EX01",)], ids=" or ".join)
@pytest.mark.parametrize("outage", [1.0, 6.0, 14.0, 16.5, 40.0])
def test_what_changed_is_there_soon_after_the_DNS_server_is_back(
    outage: float, able: tuple[str, ...], tmp_path: Path
) -> None:
    world = World(1, tmp_path, able)

    async def check() -> None:
        await world.start()
        await world.calm()
        await _until(world, set(HOSTS.values()), 15.0)
        await asyncio.sleep(10.0)
        world.zone.silent = True
        world.dead["EX02"] = "IMAP does not answer"
        await asyncio.sleep(outage)
        assert set(world.published()) == set(HOSTS.values())
        world.zone.silent = False
        await _until(world, {HOSTS["EX01"]}, 5.0)
        assert world.well() == []

    simulate(check())
