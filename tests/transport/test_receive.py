"""SMTP conversations over a real listener: 250 only after delivery, 451 when it must wait, nothing smuggled."""

from __future__ import annotations

import asyncio
import smtplib
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from everpost.clock import SystemClock
from everpost.model.recipient import Mailbox
from everpost.net import tls
from everpost.net.listen import Listener
from everpost.store.interface import Delivery, StoreUnavailable
from everpost.transport.receive import Receiver, ReceiveSettings

ANNA = Mailbox(
    guid="g1", name="Anna", alias="anna", addresses=("anna@contoso.com",), database="MB01", password_hash="h"
)
BEN = Mailbox(guid="g2", name="Ben", alias="ben", addresses=("ben@contoso.com",), database="MB02")


class FakeStore:
    """Keeps deliveries; may be away, or hold every delivery back until it is told."""

    def __init__(self) -> None:
        self.delivered: list[Delivery] = []
        self.away = False
        self.held: asyncio.Event | None = None

    async def deliver(self, deliveries: Sequence[Delivery], *, deadline: float | None = None) -> None:
        if self.held is not None:
            await self.held.wait()
        if self.away:
            raise StoreUnavailable("MB01 is not available just now.")
        self.delivered += deliveries


class FakeAuthority:
    """The host's tenure."""

    def __init__(self) -> None:
        self.holds = True
        self.epoch = 1

    def serving(self) -> bool:
        return self.holds

    def tenure_epoch(self) -> int:
        return self.epoch


class FakePeople:
    def mailbox_by_address(self, address: str) -> Mailbox | None:
        return {"anna@contoso.com": ANNA, "ben@contoso.com": BEN}.get(address.lower())


class FakePasswords:
    async def verify(self, password_hash: str | None, password: str) -> bool:
        return password_hash is not None and password == "right password"


class World:
    def __init__(self, folder: Path) -> None:
        self.store = FakeStore()
        self.authority = FakeAuthority()
        self.folder = folder
        self.listeners: list[Listener] = []
        authority = tls.create_authority("Test")
        key = tls.new_key()
        certificate = authority.sign(key.public_key(), "EX01", ["127.0.0.1"], ["localhost"])
        tls.save_host(folder, key, certificate, authority.pem)

    async def listen(self, *, submission: bool = False) -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        receiver = Receiver(
            ReceiveSettings(hostname="EX01", submission=submission, wait=1.0),
            self.store,  # type: ignore[arg-type]
            FakePeople(),
            FakePasswords(),
            SystemClock(),
            tls.server_context(self.folder),
        )
        listener = Listener(receiver.handle, self.authority)
        await listener.start("127.0.0.1", port)
        self.listeners.append(listener)
        return port

    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.folder / "ca.crt"))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    yield made
    for listener in made.listeners:
        await listener.stop(1.0)


async def talk(port: int, data: bytes, *, seconds: float = 5.0) -> bytes:
    """Send everything at once, read until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    async with asyncio.timeout(seconds):
        answer = await reader.read()
    writer.close()
    return answer


def codes(answer: bytes) -> list[int]:
    return [int(line[:3]) for line in answer.splitlines() if line[3:4] == b" "]


OPEN = b"EHLO client\r\nMAIL FROM:<a@b.c>\r\nRCPT TO:<anna@contoso.com>\r\n"


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


async def test_submission_needs_encryption_and_a_password(world: World) -> None:
    port = await world.listen(submission=True)
    assert codes(await talk(port, b"EHLO x\r\nMAIL FROM:<a@b.c>\r\nQUIT\r\n")) == [220, 250, 530, 221]

    def send(password: str) -> None:
        with smtplib.SMTP("localhost", port, timeout=5) as client:
            client.starttls(context=world.trust())
            client.login("anna@contoso.com", password)
            client.sendmail("anna@contoso.com", ["anna@contoso.com"], b"Subject: x\r\n\r\ny\r\n")

    with pytest.raises(smtplib.SMTPAuthenticationError):
        await asyncio.to_thread(send, "wrong password")
    assert world.store.delivered == []
    await asyncio.to_thread(send, "right password")
    assert len(world.store.delivered) == 1
    assert b"with ESMTPSA" in world.store.delivered[0].raw


async def test_commands_behind_starttls_in_one_packet_end_the_conversation(world: World) -> None:
    port = await world.listen()
    answer = await talk(port, b"EHLO x\r\nSTARTTLS\r\nMAIL FROM:<evil@b.c>\r\n")
    assert codes(answer) == [220, 250, 521]


async def test_swaks_delivers(world: World) -> None:
    port = await world.listen()
    argv = ["swaks", "--server", f"127.0.0.1:{port}", "--to", "anna@contoso.com", "--from", "a@b.c", "--tls"]
    done = await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stdout
    assert len(world.store.delivered) == 1
