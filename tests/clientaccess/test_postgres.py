"""IMAP over the real store: a session goes on across a crash and a new activation of its database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from everpost.clientaccess.imap import ImapServer
from everpost.clientaccess.session import Services
from everpost.clock import SystemClock
from everpost.model.recipient import MailboxRef
from everpost.net.listen import Listener
from everpost.store.interface import Delivery
from everpost.store.postgres import PostgresStore
from tests.store.conftest import OneServer, not_root, server, store

from .conftest import ANNA, Anyone, People, Tenure

__all__ = ["not_root", "server", "store"]

BOX = MailboxRef(ANNA.database, ANNA.guid)
RAW = b"Subject: %d\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nbody %d \xc3\xa4 \x00\r\n"


class Client:
    """A client that waits for tagged answers."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._tag = 0

    def send(self, command: bytes) -> bytes:
        self._tag += 1
        tag = b"t%d" % self._tag
        self.writer.write(tag + b" " + command + b"\r\n")
        return tag

    async def answer(self, tag: bytes) -> bytes:
        found = b""
        while True:
            line = await asyncio.wait_for(self.reader.readline(), 60)
            assert line, found
            found += line
            if line.startswith(tag + b" "):
                assert line.startswith(tag + b" OK"), found
                return found

    async def ask(self, command: bytes) -> bytes:
        return await self.answer(self.send(command))


@pytest.fixture
async def port(store: PostgresStore, free_ports: Callable[[int], list[int]]) -> AsyncIterator[int]:
    imap = ImapServer(Services(store, People(), Anyone(), SystemClock(), None))
    listener = Listener(imap.handle, Tenure())
    [number] = free_ports(1)
    await listener.start("127.0.0.1", number)
    yield number
    imap.stop()
    await listener.stop(2)


async def connect(port: int) -> Client:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
    await reader.readline()
    client = Client(reader, writer)
    await client.ask(b'LOGIN anna "pass word \\\\ \\"quoted\\""')
    return client


async def test_a_session_lives_through_a_crash_of_its_database(
    server: OneServer, store: PostgresStore, port: int
) -> None:
    client, idler = await connect(port), await connect(port)
    raws = [RAW % (n, n) for n in range(30)]
    await store.deliver([Delivery(mailbox=BOX, operation_id=f"d{n}", raw=raw) for n, raw in enumerate(raws)])
    assert b"* 30 EXISTS" in await client.ask(b"SELECT INBOX (CONDSTORE)")
    assert b"* 30 EXISTS" in await idler.ask(b"SELECT INBOX")
    idle = idler.send(b"IDLE")
    assert await idler.reader.readline() == b"+ Idling\r\n"

    await server.crash()
    waiting = client.send(b"UID STORE 1:10 +FLAGS (\\Flagged $Kept)")
    behind = client.send(b"APPEND INBOX (\\Seen) {7+}\r\nA: b\r\n\r")  # pipelined
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(client.reader.readexactly(1), 0.5)
    await server.open()
    stored = await client.answer(waiting)
    assert stored.count(b" FETCH (UID ") == 10
    assert b"APPENDUID" in await client.answer(behind)
    heard = b""
    while b"* 31 EXISTS" not in heard or heard.count(b"\\Flagged") < 10:
        heard += await asyncio.wait_for(idler.reader.readline(), 30)
    idler.writer.write(b"DONE\r\n")
    await idler.answer(idle)

    fetched = await client.ask(b"UID FETCH 1:* (FLAGS BODY.PEEK[])")
    for raw in raws:
        assert b"BODY[] {%d}\r\n%b)" % (len(raw), raw) in fetched
    assert fetched.count(b"$Kept") == 10


async def test_commands_on_postgresql(store: PostgresStore, port: int) -> None:
    client, other = await connect(port), await connect(port)
    for command in (
        b"CREATE Work/2026", b"CREATE Sub (USE (\\Flagged))", b"RENAME Work Job", b"SUBSCRIBE Job/2026",
        b"APPEND Job/2026 (\\Draft) {15+}\r\nSubject: x\r\n\r\ny", b"SELECT Job/2026",
    ):  # fmt: skip
        await client.ask(command)
    assert b'LIST (\\HasNoChildren \\Subscribed) "/" "Job/2026"' in await client.ask(b'LIST (SUBSCRIBED) "" "Job/*"')
    await other.ask(b"SELECT Job/2026")
    assert b"COPYUID" in await client.ask(b"COPY 1 Job/2026")
    assert b"* 2 EXISTS" in await other.ask(b"NOOP")
    assert b"* SEARCH 1 2" in await client.ask(b"SEARCH DRAFT SUBJECT x BODY y LARGER 10")
    assert b"COPYUID" in await client.ask(b"UID MOVE 1 Trash")
    assert b"* 1 EXPUNGE" in await other.ask(b"NOOP")
    assert b"MODIFIED" not in await other.ask(b"STORE 1 FLAGS.SILENT (\\Deleted)")
    assert b"* 1 EXPUNGE" in await client.ask(b"EXPUNGE")
    await client.ask(b"CLOSE")
    await client.ask(b"DELETE Job/2026")
    assert b'* STATUS "Trash" (MESSAGES 1 UNSEEN 1)' in await client.ask(b"STATUS Trash (MESSAGES UNSEEN)")
