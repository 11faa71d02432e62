"""What counts as a dead server: two greetings in a row that did not come."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from everpost.array.dns import probe as module
from everpost.array.dns.probe import Probe, greets
from everpost.clock import SystemClock
from everpost.model.server import Ports, Role, Server
from tests.array.dns.servers import free_port

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def _serve(answer: Answer) -> tuple[asyncio.Server, int]:
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    return server, int(server.sockets[0].getsockname()[1])


def says(text: bytes, heard: list[bytes] | None = None) -> Answer:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(text)
        if heard is not None:
            heard.append(await reader.readline())
        writer.close()

    return answer


async def _silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (says(b"* OK ready\r\n"), ""),
        (says(b"* BYE no tenure\r\n"), "IMAP gives no greeting"),
        (says(b""), "IMAP gives no greeting"),
        (_silent, "IMAP does not answer"),
    ],
)
async def test_a_greeting_or_why_there_is_none(answer: Answer, error: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if error.endswith("does not answer"):
        monkeypatch.setattr(module, "LIMIT", 0.2)
    server, port = await _serve(answer)
    async with server:
        assert await greets("127.0.0.1", port, b"* OK", b"z LOGOUT\r\n", "IMAP") == error


async def test_it_says_goodbye_and_names_what_cannot_be_reached() -> None:
    heard: list[bytes] = []
    server, port = await _serve(says(b"220 ex01\r\n", heard))
    async with server:
        assert await greets("127.0.0.1", port, b"220", b"QUIT\r\n", "SMTP") == ""
        async with asyncio.timeout(5):
            while not heard:
                await asyncio.sleep(0.01)
    assert heard == [b"QUIT\r\n"]
    assert "SMTP cannot be reached" in await greets("127.0.0.1", free_port(), b"220", b"", "SMTP")


async def test_one_failure_is_none_and_a_hub_must_take_mail_too() -> None:
    greeting = [b"220 ex01\r\n"]

    async def smtp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting[0])
        writer.close()

    (imap, imap_port), (hub, smtp_port) = await _serve(says(b"* OK\r\n")), await _serve(smtp)
    one = Server(
        name="EX01",
        address="127.0.0.1",
        replication_address="",
        roles=(Role.CLIENT_ACCESS, Role.HUB_TRANSPORT),
        ports=Ports(imap=imap_port, smtp=smtp_port),
    )
    probe = Probe(one, SystemClock())
    assert probe.dead is None, "nothing is known yet"
    async with imap, hub:
        assert await probe.once() and probe.dead == ""
        greeting[0] = b"554 no\r\n"
        assert not await probe.once() and probe.dead == "", "one failure is none"
        assert not await probe.once() and probe.dead == "SMTP gives no greeting"
        greeting[0] = b"220 ex01\r\n"
        assert await probe.once() and probe.dead == ""
