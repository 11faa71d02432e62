"""SMTP conversations over a real listener: 250 only after delivery, 451 when it must wait, nothing smuggled."""

from __future__ import annotations

import asyncio
import smtplib
import subprocess

import pytest

from everpost.net.conn import Connection, Permit
from everpost.net.listen import Handler

from .world import OPEN, Client, World, codes, talk


async def test_a_message_arrives_byte_for_byte_below_its_trace(world: World) -> None:
    port = await world.listen()
    raw = b"Subject: x\r\n\r\n.\r\n..two\r\nline \xff\xfe\r\n"

    def send() -> None:
        with smtplib.SMTP("127.0.0.1", port, timeout=5) as client:
            client.sendmail("a@b.c", ["anna@contoso.com", "ANNA@contoso.com"], raw)

    await asyncio.to_thread(send)
    [delivery] = world.store.delivered
    assert delivery.raw.endswith(raw)
    trace = delivery.raw[: -len(raw)].decode()
    assert trace.startswith("Return-Path: <a@b.c>\r\nReceived: from ")
    assert delivery.operation_id.endswith(":g1")


async def test_pipelined_commands_and_two_messages(world: World) -> None:
    port = await world.listen()
    body = b"Subject: one\r\n\r\nhello\r\n.\r\n"
    again = b"MAIL FROM: <a@b.c>\r\nRCPT TO: <anna+tag@contoso.com>\r\nDATA\r\n"
    answer = await talk(port, OPEN + b"DATA\r\n" + body + again + body + b"QUIT\r\n")
    assert codes(answer) == [220, 250, 250, 250, 354, 250, 250, 250, 354, 250, 221]
    assert len(world.store.delivered) == 2


async def test_250_never_comes_before_the_delivery_is_acknowledged(world: World) -> None:
    port = await world.listen()
    world.store.held = asyncio.Event()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(OPEN + b"DATA\r\n")
    while b"354" not in await reader.readline():
        pass
    writer.write(b"x\r\n.\r\n")
    early = asyncio.ensure_future(reader.readline())
    await asyncio.sleep(0.4)
    assert not early.done()
    assert world.store.delivered == []
    world.store.held.set()
    assert (await early).startswith(b"250")
    writer.close()


async def test_while_the_database_is_away_it_is_451_and_the_client_keeps_the_message(world: World) -> None:
    port = await world.listen()
    world.store.away = True
    assert codes(await talk(port, OPEN + b"DATA\r\nx\r\n.\r\nQUIT\r\n"))[-2:] == [451, 221]


async def test_a_host_without_tenure_answers_nothing(world: World) -> None:
    """250 was computed under a tenure that another one replaced before the answer was written."""
    port = await world.listen()
    world.store.held = asyncio.Event()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(OPEN + b"DATA\r\n")
    while b"354" not in await reader.readline():
        pass
    writer.write(b"x\r\n.\r\n")
    await asyncio.sleep(0.2)
    world.authority.epoch = 2
    world.store.held.set()
    async with asyncio.timeout(5):
        assert await reader.read() == b""
    assert len(world.store.delivered) == 1
    writer.close()


async def test_recipients_are_checked_and_of_one_database(world: World) -> None:
    port = await world.listen()
    others = b"RCPT TO:<nobody@contoso.com>\r\nRCPT TO:<ben@contoso.com>\r\nRCPT TO:<x@elsewhere.org>\r\nQUIT\r\n"
    assert codes(await talk(port, OPEN + others))[-4:] == [550, 452, 550, 221]


@pytest.mark.parametrize(
    "end",
    [b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r\n.\r\x00\n", b"\r.\r\n"],
    ids=["LF.LF", "LF.CRLF", "CRLF.LF", "CR.CR", "CRLF.CR NUL LF", "CR.CRLF"],
)
async def test_nothing_is_smuggled_behind_a_false_end_of_data(world: World, end: bytes) -> None:
    port = await world.listen()
    smuggled = b"MAIL FROM:<evil@b.c>\r\nRCPT TO:<anna@contoso.com>\r\nDATA\r\nevil\r\n.\r\nQUIT\r\n"
    answer = await talk(port, OPEN + b"DATA\r\nfirst" + end + smuggled)
    assert 521 in codes(answer)
    assert world.store.delivered == []


async def test_chunking_takes_bytes_as_they_are(world: World) -> None:
    port = await world.listen()
    answer = await talk(port, OPEN + b"BDAT 6\r\nab\r\n.\r" + b"BDAT 3 LAST\r\n\nx\n" + b"QUIT\r\n")
    assert codes(answer)[-3:] == [250, 250, 221]
    assert world.store.delivered[0].raw.endswith(b"ab\r\n.\r\nx\n")


async def test_swaks_delivers(world: World) -> None:
    port = await world.listen()
    argv = ["swaks", "--server", f"127.0.0.1:{port}", "--to", "anna@contoso.com", "--from", "a@b.c", "--tls"]
    done = await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stdout
    assert len(world.store.delivered) == 1


async def test_a_client_that_leaves_after_the_dot_does_not_cancel_the_delivery(world: World) -> None:
    port = await world.listen()
    world.store.held = asyncio.Event()
    client = await Client.connect(port)
    await client.say(OPEN + b"DATA\r\n", 4)
    client.send(b"x\r\n.\r\n")
    while not world.store.asked:
        await asyncio.sleep(0.01)
    client.close()
    await asyncio.sleep(0.1)
    world.store.held.set()
    while world.services.deliveries:
        await asyncio.sleep(0.01)
    assert len(world.store.delivered) == 1


async def test_the_wait_for_a_delivery_is_bounded_and_the_conversation_goes_on(world: World) -> None:
    port = await world.listen()
    world.store.held = asyncio.Event()
    client = await Client.connect(port)
    assert await client.say(OPEN + b"DATA\r\n", 4) == [250, 250, 250, 354]
    assert await client.say(b"x\r\n.\r\n") == [451]
    world.store.held = None
    assert await client.say(OPEN + b"DATA\r\nx\r\n.\r\n", 5) == [250, 250, 250, 354, 250]
    client.close()


async def test_answers_to_pipelined_commands_come_in_order_and_together(world: World) -> None:
    port = await world.listen()
    written: list[bytes] = []
    world.listeners[0]._handler = _recorded(world, written)
    client = await Client.connect(port)
    sent = OPEN + b"RCPT TO:<nobody@contoso.com>\r\nNOOP\r\nRCPT TO:<carl@contoso.com>\r\nDATA\r\n"
    assert await client.say(sent, 7) == [250, 250, 250, 550, 250, 250, 354]
    assert await client.say(b"x\r\n.\r\nRSET\r\nQUIT\r\n", 3) == [250, 250, 221]
    assert [codes(data) for data in written] == [[220], [250, 250, 250, 550, 250, 250, 354], [250, 250, 221]]
    assert {delivery.mailbox.guid for delivery in world.store.delivered} == {"g1", "g4"}


async def test_answers_before_a_message_do_not_wait_for_its_delivery(world: World) -> None:
    port = await world.listen()
    world.store.held = asyncio.Event()
    client = await Client.connect(port)
    assert await client.say(OPEN + b"BDAT 3 LAST\r\nx\r\nNOOP\r\n", 3) == [250, 250, 250]
    assert await client.silent()
    world.store.held.set()
    assert [await client.reply(), await client.reply()] == [250, 250]
    client.close()


async def test_a_packet_of_many_commands_is_answered_whole(world: World) -> None:
    port = await world.listen()
    client = await Client.connect(port)
    assert set(await client.say(b"NOOP\r\n" * 5000, 5000)) == {250}
    client.close()


async def test_an_answer_that_waited_with_others_is_not_sent_under_a_later_tenure(world: World) -> None:
    port = await world.listen()
    world.store.held = asyncio.Event()
    client = await Client.connect(port)
    assert await client.say(OPEN + b"DATA\r\nx\r\n.\r\nNOOP\r\nNOOP\r\n", 4) == [250, 250, 250, 354]
    while not world.store.asked:
        await asyncio.sleep(0.01)
    world.authority.epoch = 2
    world.store.held.set()
    assert await client.lines() == []


async def test_commands_out_of_order_are_refused(world: World) -> None:
    port = await world.listen()
    mail = b"MAIL FROM:<a@b.c>\r\n"
    sent = mail + b"EHLO x\r\nRCPT TO:<anna@contoso.com>\r\nDATA\r\n" + mail + mail + b"DATA\r\nSTARTTLS\r\nQUIT\r\n"
    assert codes(await talk(port, sent)) == [220, 503, 250, 503, 503, 250, 503, 503, 503, 221]


async def test_replies_to_commands_that_are_not_offered_or_malformed(world: World) -> None:
    port = await world.listen()
    sent = b"EHLO\r\nEHLO x\r\nEXPN list\r\nVRFY anna\r\nHELP\r\nHELP mail\r\nRSET now\r\nNOOP now\r\n"
    sent += b"MAIL FROM:a@b.c\r\nMAIL FROM:<a@b.c> RET=FULL\r\nMAIL FROM:<\xc3\xa4@b.c>\r\nAUTH PLAIN\r\nQUIT\r\n"
    expected = [220, 501, 250, 502, 252, 214, 214, 501, 250, 501, 555, 553, 503, 221]
    assert codes(await talk(port, sent)) == expected


async def test_the_trace_names_the_protocol_and_cannot_be_forged(world: World) -> None:
    port = await world.listen()
    rest = b"RCPT TO:<anna@contoso.com>\r\nDATA\r\n.\r\nQUIT\r\n"
    await talk(port, b"HELO x\t(evil);by\r\nMAIL FROM:<>\r\n" + rest)
    await talk(port, "EHLO x\r\nMAIL FROM:<ä@b.c> SMTPUTF8\r\n".encode() + rest)
    plain, international = (delivery.raw.decode() for delivery in world.store.delivered)
    assert plain.startswith("Return-Path: <>\r\nReceived: from xevilby ([127.0.0.1])\r\n\tby EX01 with SMTP id ")
    assert international.startswith("Return-Path: <ä@b.c>\r\n")
    assert "with UTF8SMTP id" in international


def _recorded(world: World, written: list[bytes]) -> Handler:
    """The receiver's handler, with a note of everything that is written at once."""

    async def handle(connection: Connection) -> None:
        write = connection.write

        async def noted(data: bytes, permit: Permit) -> None:
            written.append(data)
            await write(data, permit)

        connection.write = noted  # type: ignore[method-assign]
        await world.receiver.handle(connection)

    return handle
