"""A real listener in front of a store that may be away or slow, and clients that say what they like."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from everpost.clock import Clock, SystemClock
from everpost.model.recipient import Mailbox
from everpost.net import tls
from everpost.net.listen import Listener
from everpost.store.interface import Delivery, StoreUnavailable
from everpost.transport.receive import Receiver
from everpost.transport.session import ReceiveSettings, Services

PASSWORD = "right password"
ANNA = Mailbox(
    guid="g1", name="Anna", alias="anna", addresses=("anna@contoso.com",), database="MB01", password_hash="h"
)
BEN = Mailbox(guid="g2", name="Ben", alias="ben", addresses=("ben@contoso.com",), database="MB02")
GONE = Mailbox(
    guid="g3", name="Gone", alias="gone", addresses=("gone@contoso.com",), database="MB01", password_hash="h",
    enabled=False,
)  # fmt: skip
CARL = Mailbox(guid="g4", name="Carl", alias="carl", addresses=("carl@contoso.com",), database="MB01")

GREET = b"EHLO client\r\n"
OPEN = GREET + b"MAIL FROM:<a@b.c>\r\nRCPT TO:<anna@contoso.com>\r\n"


class FakeStore:
    """Keeps deliveries; may be away, or hold every delivery back until it is told."""

    def __init__(self, clock: Clock) -> None:
        self.delivered: list[Delivery] = []
        self.asked = 0
        self.away = False
        self.held: asyncio.Event | None = None
        self._clock = clock

    async def deliver(self, deliveries: Sequence[Delivery], *, deadline: float | None = None) -> None:
        self.asked += 1
        if self.held is not None:
            limit = None if deadline is None else deadline - self._clock.boottime()
            try:
                await asyncio.wait_for(self.held.wait(), limit)
            except TimeoutError:
                raise StoreUnavailable("MB01 did not answer in time.") from None
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

    async def cover(self) -> bool:
        return True


class FakePeople:
    def mailbox_by_address(self, address: str) -> Mailbox | None:
        return {one.addresses[0]: one for one in (ANNA, BEN, CARL, GONE)}.get(address.lower())

    def mailbox_by_alias(self, alias: str) -> Mailbox | None:
        return {one.alias: one for one in (ANNA, BEN, CARL, GONE)}.get(alias.lower())


class FakePasswords:
    async def verify(self, password_hash: str | None, password: str) -> bool:
        return password_hash is not None and password == PASSWORD


class HandClock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self._now = 1000.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def boottime(self) -> float:
        return self._now

    def wall(self) -> datetime:
        return datetime.fromtimestamp(self._now, UTC)

    async def sleep(self, seconds: float) -> None:
        woken = asyncio.get_running_loop().create_future()
        self._sleepers.append((self._now + seconds, woken))
        await woken

    def advance(self, seconds: float) -> None:
        self._now += seconds
        for until, woken in self._sleepers:
            if until <= self._now and not woken.done():
                woken.set_result(None)
        self._sleepers = [one for one in self._sleepers if not one[1].done()]


class World:
    """`listen` as often as needed; the last receiver is `receiver`."""

    def __init__(self, certificates: Path) -> None:
        self.clock: SystemClock | HandClock = SystemClock()
        self.store = FakeStore(SystemClock())
        self.authority = FakeAuthority()
        self.folder = certificates
        self.listeners: list[Listener] = []
        self.receiver: Receiver

    @property
    def services(self) -> Services:
        return self.receiver.services

    async def listen(self, *, submission: bool = False) -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        services = Services(
            ReceiveSettings(hostname="EX01", submission=submission, wait=1.0),
            self.store,  # type: ignore[arg-type]
            FakePeople(),
            FakePasswords(),
            self.clock,
            tls.server_context(self.folder),
        )
        self.receiver = Receiver(services)
        listener = Listener(self.receiver.handle, self.authority)
        await listener.start("127.0.0.1", port)
        self.listeners.append(listener)
        return port

    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.folder / "ca.crt"))


class Client:
    """One connection; answers are read reply by reply."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connect(cls, port: int) -> Client:
        client = cls(*await asyncio.open_connection("127.0.0.1", port))
        assert await client.reply() == 220
        return client

    async def lines(self) -> list[str]:
        """The lines of the next reply; none at the end."""
        found: list[str] = []
        async with asyncio.timeout(5):
            while line := await self._reader.readline():
                found.append(line.decode().rstrip("\r\n"))
                if line[3:4] == b" ":
                    break
        return found

    async def reply(self) -> int:
        """The code of the next reply; 0 at the end."""
        lines = await self.lines()
        return int(lines[-1][:3]) if lines else 0

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def say(self, data: bytes, replies: int = 1) -> list[int]:
        """Send, and the codes of that many replies."""
        self.send(data)
        return [await self.reply() for _ in range(replies)]

    async def silent(self, seconds: float = 0.1) -> bool:
        """Whether nothing comes."""
        try:
            async with asyncio.timeout(seconds):
                await self._reader.readexactly(1)
        except TimeoutError:
            return True
        return False

    async def rest(self) -> bytes:
        """Whatever comes until the server closes."""
        async with asyncio.timeout(5):
            try:
                return await self._reader.read()
            except ConnectionResetError:
                return b""

    async def start_tls(self, context: ssl.SSLContext) -> None:
        assert await self.say(b"STARTTLS\r\n") == [220]
        await self._writer.start_tls(context, server_hostname="localhost")

    def close(self) -> None:
        self._writer.close()


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
