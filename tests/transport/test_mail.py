"""Mail transactions: recipients, SIZE, BDAT, the common room, and what is read without being kept."""

from __future__ import annotations

import asyncio

import pytest

from everpost.transport import mail
from everpost.transport.session import SIZE_LIMIT

from .world import GREET, OPEN, Client, World, codes, talk


async def test_disabled_and_external_recipients_are_refused(world: World) -> None:
    port = await world.listen()
    sent = b"RCPT TO:<gone@contoso.com>\r\nRCPT TO:<carl+news@contoso.com>\r\nRCPT TO:<>\r\nRCPT TO:<anna>\r\nQUIT\r\n"
    assert codes(await talk(port, OPEN + sent))[-5:] == [550, 250, 501, 550, 221]


async def test_recipients_of_one_message_are_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mail, "MOST_RECIPIENTS", 2)
    port = await world.listen()
    sent = b"RCPT TO:<carl@contoso.com>\r\nRCPT TO:<anna@contoso.com>\r\nDATA\r\n.\r\nQUIT\r\n"
    assert codes(await talk(port, OPEN + sent))[-5:] == [250, 452, 354, 250, 221]
    assert len(world.store.delivered) == 2


async def test_size_is_announced_and_looked_at_before_the_message_comes(world: World) -> None:
    port = await world.listen()
    client = await Client.connect(port)
    client.send(GREET)
    assert f"250-SIZE {SIZE_LIMIT}" in await client.lines()
    assert await client.say(f"MAIL FROM:<a@b.c> SIZE={SIZE_LIMIT + 1}\r\n".encode()) == [552]
    assert await client.say(b"MAIL FROM:<a@b.c> SIZE=99999999999999999999\r\n") == [552]
    assert await client.say(b"MAIL FROM:<a@b.c> SIZE=big\r\n") == [501]
    assert await client.say(f"MAIL FROM:<a@b.c> SIZE={SIZE_LIMIT}\r\n".encode()) == [250]
    client.close()


async def test_a_message_that_is_too_large_is_read_to_its_end_and_refused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("session", "mail"):
        monkeypatch.setattr(f"everpost.transport.{module}.SIZE_LIMIT", 1000)
    port = await world.listen()
    sent = OPEN + b"DATA\r\n" + b"QUIT\r\n" * 300 + b".\r\n" + OPEN[len(GREET) :] + b"DATA\r\nx\r\n.\r\nQUIT\r\n"
    assert codes(await talk(port, sent)) == [220, 250, 250, 250, 354, 552, 250, 250, 354, 250, 221]
    assert len(world.store.delivered) == 1


async def test_without_room_in_memory_it_is_452_and_the_room_comes_back(world: World) -> None:
    port = await world.listen()
    world.services.room = 3000
    client = await Client.connect(port)
    assert await client.say(GREET + b"MAIL FROM:<a@b.c> SIZE=4000\r\n", 2) == [250, 452]
    assert await client.say(OPEN + b"DATA\r\n", 4) == [250, 250, 250, 354]
    client.send(b"x" * 2000 + b"\r\n" + b"QUIT\r\n" * 300)
    assert await client.say(b".\r\nNOOP\r\n", 2) == [452, 250]
    assert world.store.delivered == []
    assert await client.say(OPEN + b"DATA\r\n", 4) == [250, 250, 250, 354]
    assert await client.say(b"small\r\n.\r\n") == [250]
    client.close()
    await settled(world)
    assert world.services.room == 3000


async def test_a_message_keeps_its_room_until_it_is_delivered_and_others_wait(world: World) -> None:
    port = await world.listen()
    world.services.room = 1000
    world.store.held = asyncio.Event()
    first, second = await Client.connect(port), await Client.connect(port)
    assert await first.say(OPEN + b"DATA\r\n", 4) == [250, 250, 250, 354]
    assert await second.say(OPEN + b"DATA\r\n", 4) == [250, 250, 250, 354]
    first.send(b"x" * 700 + b"\r\n.\r\n")
    while not world.store.asked:
        await asyncio.sleep(0.01)
    assert await second.say(b"x" * 700 + b"\r\n.\r\n") == [452]
    world.store.held.set()
    assert await first.reply() == 250
    assert await second.say(OPEN + b"DATA\r\n", 4) == [250, 250, 250, 354]
    assert await second.say(b"x" * 700 + b"\r\n.\r\n") == [250]
    first.close()
    second.close()
    await settled(world)
    assert world.services.room == 1000


async def test_data_is_refused_when_there_is_no_room_at_all(world: World) -> None:
    port = await world.listen()
    client = await Client.connect(port)
    assert await client.say(OPEN, 3) == [250, 250, 250]
    world.services.room = 0
    assert await client.say(b"DATA\r\n") == [452]
    client.close()


async def test_a_client_that_leaves_in_the_middle_gives_its_room_back(world: World) -> None:
    port = await world.listen()
    world.services.room = 10_000
    client = await Client.connect(port)
    await client.say(OPEN + b"BDAT 1000\r\n" + b"x" * 1000, 4)
    client.send(b"BDAT 1000\r\nxxx")
    await asyncio.sleep(0.05)
    assert world.services.room < 10_000
    client.close()
    await settled(world)
    assert world.services.room == 10_000
    assert world.store.delivered == []


CHUNK = b"QUIT\r\nMAIL FROM:<evil@b.c>\r\n"


async def test_a_refused_chunk_is_swallowed_and_gives_no_orders(world: World) -> None:
    port = await world.listen()
    bdat = b"BDAT %d LAST\r\n" % len(CHUNK) + CHUNK
    sent = bdat + GREET + bdat + b"MAIL FROM:<a@b.c>\r\n" + bdat + b"RCPT TO:<anna@contoso.com>\r\nNOOP\r\nQUIT\r\n"
    assert codes(await talk(port, sent)) == [220, 503, 250, 503, 250, 503, 503, 250, 221]
    assert world.store.delivered == []


async def test_chunks_behind_a_refused_one_are_refused_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mail, "SIZE_LIMIT", 100)
    port = await world.listen()
    sent = OPEN + b"BDAT 60\r\n" + b"x" * 60 + (b"BDAT 60\r\n" + b"QUIT\r\n" * 10) * 30 + b"BDAT 0 LAST\r\n"
    assert codes(await talk(port, sent + b"QUIT\r\n")) == [220, 250, 250, 250, 250, 552, *[503] * 30, 221]
    assert world.store.delivered == []


async def test_a_chunk_without_room_is_swallowed(world: World) -> None:
    port = await world.listen()
    client = await Client.connect(port)
    world.services.room = 1000
    assert await client.say(OPEN + b"BDAT 2000 LAST\r\n", 3) == [250, 250, 250]
    assert await client.say(b"QUIT\r\nxx" * 250) == [452]
    assert await client.say(OPEN + b"BDAT 800 LAST\r\n", 3) == [250, 250, 250]
    await asyncio.sleep(0.05)
    world.services.room = 0  # others came first
    assert await client.say(b"QUIT\r\nxx" * 100) == [452]
    assert await client.say(b"NOOP\r\n") == [250]
    assert world.store.delivered == []
    client.close()


@pytest.mark.parametrize("argument", [b"", b"ten", b"-1", b"1 FIRST", b"99999999999", b"9" * 30])
async def test_a_chunk_of_unknown_or_endless_size_ends_the_conversation(world: World, argument: bytes) -> None:
    port = await world.listen()
    answer = await talk(port, OPEN + b"BDAT " + argument + b"\r\nNOOP\r\n")
    assert codes(answer)[:4] == [220, 250, 250, 250]
    assert codes(answer)[4:] in ([521], [552])


async def test_chunks_and_data_do_not_mix(world: World) -> None:
    port = await world.listen()
    sent = b"BDAT 2\r\nab" + b"DATA\r\nRCPT TO:<carl@contoso.com>\r\nMAIL FROM:<a@b.c>\r\nBDAT 0 LAST\r\nQUIT\r\n"
    assert codes(await talk(port, OPEN + sent))[-6:] == [250, 503, 503, 503, 250, 221]
    assert world.store.delivered[0].raw.endswith(b"\r\nab")


async def test_rset_forgets_chunks(world: World) -> None:
    port = await world.listen()
    again = OPEN[len(GREET) :]
    sent = b"BDAT 3\r\nold" + b"RSET\r\n" + again + b"BDAT 3 LAST\r\nnewQUIT\r\n"
    assert codes(await talk(port, OPEN + sent))[-6:] == [250, 250, 250, 250, 250, 221]
    assert world.store.delivered[0].raw.endswith(b"\r\nnew")


async def settled(world: World) -> None:
    """No conversation and no delivery is left."""
    async with asyncio.timeout(5):
        while world.receiver._conversations or world.services.deliveries:
            await asyncio.sleep(0.01)
