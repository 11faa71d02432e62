"""A copy that is opened as it was at a point in time (LAG-6): what lies behind that point in its log is never replayed,
whatever dies on the way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from everpost.activemanager.activation import Activation, NotComplete
from everpost.activemanager.record import Held, LocationWriter
from everpost.clock import SystemClock
from everpost.databases.engine import PostgresEngine
from everpost.databases.standing import CHECKPOINT_GRAIN
from everpost.model.database import Location, LocationState, Member, Opening, Token

from .conftest import Host
from .test_engine import first_active, nothing, seed, upstream

FIRST = Opening(Token(1, 1), "EX01", 2, 0, "n1")


class Died(Exception):
    """The agent was killed."""


class Writer:
    """The location record."""

    async def change(self, held: Held, move: Callable[[Location], Location], **_: Any) -> Held:
        return Held(move(held.location), held.revision + 1)


async def no_floor(_: object) -> None:
    return None


async def sql(engine: PostgresEngine, statement: str) -> list[int]:
    rows = await engine._mail.ask(lambda connection: connection.fetch(statement))
    return [row[0] for row in rows]


async def lagged(hosts: list[Host]) -> tuple[PostgresEngine, float]:
    """A lagged copy that has in its log what was committed after the time that is returned: rows 2 to 4."""
    first, second = hosts
    active = await first_active(first)
    await sql(active, "create table seen (n int primary key)")
    await sql(active, "insert into seen values (1)")
    passive = second.engine()
    await seed(passive, upstream(first, 1))
    await passive.start(upstream(first, 1)._replace(delay=3600.0))
    await asyncio.sleep(CHECKPOINT_GRAIN)  # the files are from a checkpoint just now
    then = datetime.now(UTC).timestamp()
    await asyncio.sleep(0.05)
    for n in (2, 3, 4):
        await sql(active, f"insert into seen values ({n})")
    end = (await active.positions()).flush_lsn
    async with asyncio.timeout(30):
        while (await passive.standby_positions()).received_lsn < end:
            await asyncio.sleep(0.02)
    await second.client.deadline(time.clock_gettime(time.CLOCK_BOOTTIME) + 120)
    return passive, then


async def activate(engine: PostgresEngine, epoch: int, then: float | None, openings: tuple[Opening, ...]) -> Held:
    location = Location(
        database="MB01",
        active="EX02",
        token=Token(1, epoch),
        state=LocationState.ACTIVATING,
        eligible=(Member("EX01", "a1"),) if then is not None else (Member("EX02", engine.incarnation),),
        lossy=then is not None,
        openings=openings,
        until=then,
    )
    activation = Activation(
        engine,
        cast(LocationWriter, Writer()),
        SystemClock(),
        me="EX02",
        floor=cast(Any, no_floor),
        prepare=nothing,
        still_mine=lambda: True,
    )
    async with asyncio.timeout(60):
        return await activation.run(Held(location, 1))


def dies_behind(engine: PostgresEngine, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """The agent dies when that step of an activation was done, and the instance with it."""
    whole = getattr(engine, step)

    async def done_and_dead(*arguments: Any) -> None:
        await whole(*arguments)
        if step != "mark":
            await engine.checkpoint()  # from here on PostgreSQL recovers to the end of this log, and stops nowhere
        await engine.kill()
        raise Died

    monkeypatch.setattr(engine, step, done_and_dead)


async def test_whatever_dies_on_the_way_the_copy_is_opened_as_it_was_at_that_time(
    hosts: list[Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, then = await lagged(hosts)
    for epoch, step in ((2, "mark"), (2, "promote"), (3, "record_opening")):
        with monkeypatch.context() as patch, pytest.raises(Died):
            dies_behind(engine, patch, step)
            await activate(engine, epoch, then, (FIRST,))
    with pytest.raises(NotComplete, match=r"promoted at 1\.3 already"):
        await activate(engine, 3, then + 1.0, (FIRST,))
    held = await activate(engine, 4, then, (FIRST,))
    assert await sql(engine, "select n from seen") == [1]
    ours = [(one.token, one.nonce) for one in held.location.openings]
    assert await engine.openings() == ours and len(ours) == 2
    opening = held.location.openings[-1]
    assert (opening.lossy, opening.until, held.location.until) == (True, then, None)

    # It is recorded: from here on it is activated as any other, with all that it took since.
    await sql(engine, "insert into seen values (10)")
    await engine.kill()
    await activate(engine, 5, None, held.location.openings)
    assert await sql(engine, "select n from seen order by n") == [1, 10]


async def test_a_copy_without_log_beyond_that_time_or_with_a_later_opening_is_refused(
    hosts: list[Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, then = await lagged(hosts)
    with pytest.raises(NotComplete, match="has no log of MB01 beyond"):
        await activate(engine, 2, then + 3600.0, (FIRST,))
    with pytest.raises(NotComplete, match="opened again after that time"):
        await activate(engine, 2, then, (FIRST, Opening(Token(1, 2), "EX01", 2, 0, "n2")))

    # Sabotage: a start that does not know the time replays all.
    with monkeypatch.context() as patch, pytest.raises(Died):
        dies_behind(engine, patch, "mark")
        await activate(engine, 2, then, (FIRST,))
    await engine.start(upstream(hosts[0], 1))
    async with asyncio.timeout(30):
        while await sql(engine, "select n from seen order by n") != [1, 2, 3, 4]:
            await asyncio.sleep(0.05)


async def test_a_copy_that_has_replayed_beyond_that_time_is_refused(hosts: list[Host]) -> None:
    """PostgreSQL would begin at its last restartpoint, stop at the next commit, and say that it stands at that time."""
    engine, then = await lagged(hosts)
    await engine.kill()
    await engine.start(upstream(hosts[0], 1))
    active = hosts[0].engine()
    await active.checkpoint()
    end = (await active.positions()).flush_lsn
    async with asyncio.timeout(30):
        while (await engine.standby_positions()).replayed_lsn < end:
            await asyncio.sleep(0.05)
    await engine.checkpoint()
    await sql(active, "insert into seen values (5)")
    end = (await active.positions()).flush_lsn
    async with asyncio.timeout(30):
        while (await engine.standby_positions()).received_lsn < end:
            await asyncio.sleep(0.05)
    with pytest.raises(NotComplete, match="cannot stand at that time"):
        await activate(engine, 2, then, (FIRST,))
