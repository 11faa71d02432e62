"""How conversations end: too many errors, silence, a stop of the server, and who must not be cut off by that."""

from __future__ import annotations

import asyncio

import pytest

from everpost.transport.session import (
    MOST_ERRORS,
    MOST_UNKNOWN_COMMANDS,
    MOST_UNKNOWN_RECIPIENTS,
    SILENCE_LIMIT,
)

from .world import GREET, OPEN, Client, HandClock, World, codes, talk


async def test_too_many_errors(world: World) -> None:
    port = await world.listen()
    answer = await talk(port, GREET + b"DATA\r\n" * (MOST_ERRORS + 5))
    assert codes(answer) == [220, 250, *[503] * MOST_ERRORS, 421]


async def test_refusals_that_are_not_the_clients_fault_are_no_errors(world: World) -> None:
    port = await world.listen()
    sent = OPEN + b"RCPT TO:<ben@contoso.com>\r\n" * (MOST_ERRORS + 5) + b"QUIT\r\n"
    assert codes(await talk(port, sent))[-2:] == [452, 221]


async def test_too_many_unknown_commands(world: World) -> None:
    port = await world.listen()
    answer = await talk(port, GREET + b"XYZZY\r\n" * (MOST_UNKNOWN_COMMANDS + 5))
    assert codes(answer) == [220, 250, *[500] * MOST_UNKNOWN_COMMANDS, 421]


async def test_too_many_unknown_recipients(world: World) -> None:
    port = await world.listen()
    guesses = b"".join(b"RCPT TO:<guess%d@contoso.com>\r\n" % number for number in range(MOST_UNKNOWN_RECIPIENTS + 5))
    answer = await talk(port, OPEN + guesses)
    assert codes(answer) == [220, 250, 250, 250, *[550] * MOST_UNKNOWN_RECIPIENTS, 421]


async def test_a_browser_is_sent_away_at_once(world: World) -> None:
    port = await world.listen()
    answer = await talk(port, b"POST / HTTP/1.1\r\nHost: mail\r\n\r\nMAIL FROM:<a@b.c>\r\n")
    assert codes(answer) == [220, 521]


async def until_silent(world: World) -> None:
    """Every conversation waits for its client, and the look for silent ones is asleep."""
    async with asyncio.timeout(5):
        while any(one.session.silent_since is None for one in world.receiver._conversations):
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("said", "answers"),
    [(b"", 0), (GREET, 1), (OPEN + b"DATA\r\nhalf a mess", 4), (OPEN + b"BDAT 10\r\nhalf", 3), (b"NOO", 0)],
)
async def test_a_silent_client_is_told_and_dropped(world: World, said: bytes, answers: int) -> None:
    clock = world.clock = HandClock()
    port = await world.listen()
    client = await Client.connect(port)
    await client.say(said, answers)
    await asyncio.sleep(0.05)
    await until_silent(world)
    clock.advance(SILENCE_LIMIT - 1)
    await until_silent(world)
    assert await client.silent()
    clock.advance(11)
    assert [await client.reply(), await client.reply()] == [421, 0]
    assert world.store.delivered == []


async def test_silence_in_the_middle_of_auth(world: World) -> None:
    clock = world.clock = HandClock()
    port = await world.listen(submission=True)
    client = await Client.connect(port)
    assert await client.say(GREET + b"AUTH LOGIN\r\n", 2) == [250, 334]
    await until_silent(world)
    clock.advance(SILENCE_LIMIT + 1)
    assert [await client.reply(), await client.reply()] == [421, 0]


async def test_each_sign_of_life_counts(world: World) -> None:
    clock = world.clock = HandClock()
    port = await world.listen()
    client = await Client.connect(port)
    for _ in range(5):
        await until_silent(world)
        clock.advance(SILENCE_LIMIT - 20)
        assert await client.say(b"NOOP\r\n") == [250]
    client.close()


async def test_a_client_that_waits_for_its_delivery_is_not_silent(world: World) -> None:
    clock = world.clock = HandClock()
    port = await world.listen()
    world.store._clock = clock
    world.store.held = asyncio.Event()
    client = await Client.connect(port)
    assert await client.say(OPEN + b"DATA\r\n", 4) == [250, 250, 250, 354]
    client.send(b"x\r\n.\r\n")
    while not world.store.asked:
        await asyncio.sleep(0.01)
    clock.advance(SILENCE_LIMIT + 11)
    await asyncio.sleep(0.05)
    world.store.held.set()
    assert await client.reply() == 250
    assert await client.say(b"NOOP\r\n") == [250]
    client.close()


async def test_a_stop_lets_deliveries_end_and_sends_the_others_away(world: World) -> None:
    port = await world.listen()
    world.store.held = asyncio.Event()
    busy, idle, halfway = [await Client.connect(port) for _ in range(3)]
    assert await busy.say(OPEN + b"DATA\r\n", 4) == [250, 250, 250, 354]
    assert await halfway.say(OPEN + b"DATA\r\n", 4) == [250, 250, 250, 354]
    halfway.send(b"half a mess")
    busy.send(b"x\r\n.\r\nNOOP\r\n")
    while not world.store.asked:
        await asyncio.sleep(0.01)
    world.receiver.stop()
    ended = asyncio.ensure_future(world.listeners[0].stop(5.0))
    for client in (idle, halfway):
        assert [await client.reply(), await client.reply()] == [421, 0]
    assert await busy.silent()
    world.store.held.set()
    assert [await busy.reply(), await busy.reply(), await busy.reply()] == [250, 421, 0]
    await ended
    assert len(world.store.delivered) == 1


async def test_a_delivery_is_not_cancelled_when_the_time_for_a_stop_is_over(world: World) -> None:
    port = await world.listen()
    world.store.held = asyncio.Event()
    client = await Client.connect(port)
    assert await client.say(OPEN + b"DATA\r\n", 4) == [250, 250, 250, 354]
    client.send(b"x\r\n.\r\n")
    while not world.store.asked:
        await asyncio.sleep(0.01)
    world.receiver.stop()
    await world.listeners[0].stop(0.05)
    assert await client.reply() == 0
    world.store.held.set()
    while world.services.deliveries:
        await asyncio.sleep(0.01)
    assert len(world.store.delivered) == 1


async def test_who_comes_after_the_stop_is_sent_away(world: World) -> None:
    port = await world.listen()
    world.receiver.stop()
    assert codes(await talk(port, b"")) == [421]


async def test_nothing_is_left_when_the_last_client_left(world: World) -> None:
    port = await world.listen()
    for _ in range(3):
        assert codes(await talk(port, GREET + b"QUIT\r\n")) == [220, 250, 221]
    await asyncio.sleep(0.02)
    assert world.receiver._watch is None
    assert not world.receiver._conversations


async def test_maintenance_sends_clients_elsewhere_until_it_ends(world: World) -> None:
    """A delivery under way is acknowledged first; whoever comes meets 421 instead of a banner."""
    port = await world.listen()
    world.store.held = asyncio.Event()
    busy, idle = [await Client.connect(port) for _ in range(2)]
    assert await busy.say(OPEN + b"DATA\r\n", 4) == [250, 250, 250, 354]
    busy.send(b"x\r\n.\r\n")
    while not world.store.asked:
        await asyncio.sleep(0.01)
    world.receiver.drain(True)
    assert [await idle.reply(), await idle.reply()] == [421, 0]
    assert codes(await talk(port, b"")) == [421]
    assert await busy.silent()
    world.store.held.set()
    assert [await busy.reply(), await busy.reply(), await busy.reply()] == [250, 421, 0]
    world.receiver.drain(False)
    assert codes(await talk(port, GREET + b"QUIT\r\n")) == [220, 250, 221]
