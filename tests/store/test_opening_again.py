"""An activation whose agent died between the opening transaction and its record is repeated, and leaves no trace: a row
that nobody recorded would keep every other copy out of the set for good (3.2 compares the lists of openings)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from everpost.activemanager.activation import Activation
from everpost.activemanager.record import Held, LocationWriter
from everpost.clock import SystemClock
from everpost.model.database import Location, LocationState, Member, Opening, Token

from .conftest import OneServer, prepare


class Died(Exception):
    """The agent was killed."""


class Writer:
    """The location record, which the agent may not live to write."""

    def __init__(self) -> None:
        self.alive = False

    async def change(self, held: Held, move: Callable[[Location], Location], **_: Any) -> Held:
        if not self.alive:
            raise Died
        return Held(move(held.location), held.revision + 1)


async def nothing(_: object) -> None:
    return None


@pytest.mark.parametrize("again_at", [0, 1], ids=["the same epoch", "the next epoch"])
async def test_an_opening_that_was_not_recorded_is_forgotten(server: OneServer, again_at: int) -> None:
    [(token, nonce)] = await server.engine.openings()
    recorded = Opening(token, "EX01", 1, 0, nonce)
    await server.crash()
    writer = Writer()

    async def activate(epoch: int) -> Held:
        location = Location(
            database="MB01",
            active="EX01",
            token=Token(server.generation, epoch),
            state=LocationState.ACTIVATING,
            eligible=(Member("EX01", server.engine.incarnation),),
            openings=(recorded,),
        )
        activation = Activation(
            server.engine,
            cast(LocationWriter, writer),
            SystemClock(),
            me="EX01",
            floor=cast(Any, nothing),
            prepare=prepare,
            still_mine=lambda: True,
        )
        async with asyncio.timeout(60):
            return await activation.run(Held(location, 1))

    with pytest.raises(Died):
        await activate(2)
    assert len(await server.engine.openings()) == 2, "written, and nowhere recorded"
    writer.alive = True
    held = await activate(2 + again_at)
    ours = [(one.token, one.nonce) for one in held.location.openings]
    assert await server.engine.openings() == ours, "no member could show the same list"
