"""When the store is told that no copy lacks anything, so that it may count UIDs given while single anew (3.4)."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec.structs import replace

from everpost.activemanager.active import COVER_EVERY, UPKEEP_EVERY, ActiveDuty
from everpost.activemanager.record import Held
from everpost.model.database import Location, LocationState, Member, Token

from .fakes import FakePeers, StepClock

SINGLE = Location(database="MB01", active="EX01", token=Token(1, 2), state=LocationState.OPEN)
WHOLE = replace(SINGLE, set=(Member("EX02", "b1"),))


class Duty:
    """An active's duty beside a store that notes what it is told."""

    def __init__(self, copies: tuple[str, ...]) -> None:
        self.clock = StepClock()
        self.told: list[bool] = []
        self.fails = False

        async def store(_: object, complete: bool) -> None:
            if self.fails:
                raise RuntimeError("no")
            self.told.append(complete)

        class Engine:
            async def upkeep(self, work: Any) -> None:
                await work(object())

        host = SimpleNamespace(
            own_tenure=lambda: 1,
            writer=None,
            clock=self.clock,
            peers=FakePeers({}, []),
            copies=lambda _: copies,
        )
        self.duty = ActiveDuty("MB01", cast(Any, Engine()), cast(Any, host), Held(SINGLE, 1), self.clock.now, store)

    async def after(self, seconds: float, location: Location) -> list[bool]:
        """What the store is told in that time."""
        self.told.clear()
        self.duty._keeper.held = Held(location, 1)
        for _ in range(int(seconds)):
            self.clock.now += 1.0
            self.duty._keep_up()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        return list(self.told)


async def test_once_for_each_time_that_the_set_gets_a_member() -> None:
    world = Duty(("EX01", "EX02"))
    assert await world.after(2 * COVER_EVERY, SINGLE) == []
    assert await world.after(3 * COVER_EVERY, WHOLE) == [True]
    assert await world.after(2 * COVER_EVERY, SINGLE) == []
    assert await world.after(3 * COVER_EVERY, WHOLE) == [True]


async def test_daily_work_on_a_single_copy_says_that_another_one_lacks_something() -> None:
    assert await Duty(("EX01", "EX02")).after(UPKEEP_EVERY + 1, SINGLE) == [False]


async def test_a_database_with_one_copy_is_always_complete() -> None:
    told = await Duty(("EX01",)).after(3 * COVER_EVERY, SINGLE)
    assert told and all(told)


async def test_it_is_told_again_when_that_failed(caplog: pytest.LogCaptureFixture) -> None:
    world = Duty(("EX01", "EX02"))
    world.fails = True
    assert await world.after(2 * COVER_EVERY, WHOLE) == []
    world.fails = False
    assert await world.after(2 * COVER_EVERY, WHOLE) == [True]
