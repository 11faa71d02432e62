"""Nothing leaves a host that does not hold its tenure; listeners bound what comes in."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from everpost.net import conn, listen
from everpost.net.conn import Connection, Permit
from everpost.net.listen import Listener


class Tenure:
    """What the shared page says."""

    def __init__(self) -> None:
        self.held = True
        self.epoch = 7
        self.covered = True

    def serving(self) -> bool:
        return self.held

    def tenure_epoch(self) -> int:
        return self.epoch

    async def cover(self) -> bool:
        return self.covered


@pytest.fixture
def tenure() -> Tenure:
    return Tenure()


Start = Callable[[Callable[[Connection], Awaitable[None]]], Awaitable[int]]


@pytest.fixture
async def start(tenure: Tenure, free_ports: Callable[[int], list[int]]) -> AsyncIterator[Start]:
    made: list[Listener] = []

    async def begin(handler: Callable[[Connection], Awaitable[None]]) -> int:
        listener = Listener(handler, tenure)
        [port] = free_ports(1)
        await listener.start("127.0.0.1", port)
        made.append(listener)
        return port

    yield begin
    for listener in made:
        await listener.stop(1)


async def test_a_lapsed_tenure_holds_the_answer_until_it_is_back(tenure: Tenure, start: Start) -> None:
    ready = asyncio.Event()

    async def handler(connection: Connection) -> None:
        permit = connection.permit()
        tenure.held = False
        ready.set()
        await connection.write(b"answer", permit)

    reader, writer = await asyncio.open_connection("127.0.0.1", await start(handler))
    await ready.wait()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(1), 0.3)
    tenure.held = True
    assert await asyncio.wait_for(reader.read(100), 5) == b"answer"
    writer.close()


@pytest.mark.parametrize("back", [True, False])
async def test_a_later_tenure_drops_the_answer_of_an_earlier_one(tenure: Tenure, start: Start, back: bool) -> None:
    async def handler(connection: Connection) -> None:
        permit = connection.permit()
        tenure.epoch += 1
        tenure.held = back
        await connection.write(b"answer", permit)

    reader, writer = await asyncio.open_connection("127.0.0.1", await start(handler))
    try:
        assert await asyncio.wait_for(reader.read(100), 5) == b""
    except ConnectionResetError:
        pass
    writer.close()


async def test_a_tenure_that_stays_lost_ends_the_connection(
    tenure: Tenure, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conn, "HOLD_LIMIT", 0.2)

    async def handler(connection: Connection) -> None:
        permit = connection.permit()
        tenure.held = False
        await connection.write(b"answer", permit)

    reader, writer = await asyncio.open_connection("127.0.0.1", await start(handler))
    with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
        await asyncio.wait_for(reader.readexactly(1), 5)
    writer.close()


async def test_a_slow_client_gets_nothing_more_once_the_tenure_is_over(tenure: Tenure, start: Start) -> None:
    size = 64 * 1024 * 1024

    async def handler(connection: Connection) -> None:
        await connection.write(b"x" * size, connection.permit())

    reader, writer = await asyncio.open_connection("127.0.0.1", await start(handler), limit=65536)
    got = len(await reader.readexactly(100_000))
    tenure.epoch += 1
    try:
        while data := await asyncio.wait_for(reader.read(1 << 20), 5):
            got += len(data)
    except ConnectionResetError:
        pass
    assert got < size
    writer.close()


def test_the_epoch_is_looked_at_after_the_deadline(tenure: Tenure) -> None:
    """The page is written epoch first: a deadline of the next tenure must not vouch for an answer of this one."""
    permit = Permit(tenure)

    def taken_meanwhile() -> bool:
        tenure.epoch += 1
        return True

    tenure.serving = taken_meanwhile  # type: ignore[method-assign]
    assert not permit.valid()


async def test_connections_are_bounded_by_address(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen, "MOST_PER_ADDRESS", 2)

    async def handler(connection: Connection) -> None:
        await connection.write(b"hello", connection.permit())
        await connection.read(10)

    port = await start(handler)
    pairs = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
    for reader, _ in pairs:
        assert await asyncio.wait_for(reader.readexactly(5), 5) == b"hello"
    third, writer = await asyncio.open_connection("127.0.0.1", port)
    with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
        await asyncio.wait_for(third.readexactly(5), 5)
    for _, one in [*pairs, (third, writer)]:
        one.close()


async def test_a_client_that_writes_in_pieces_is_not_kept_waiting(start: Start) -> None:
    """imaplib writes a literal and its line end apart; the kernel holds the second until the first is acknowledged."""

    async def handler(connection: Connection) -> None:
        got = b""
        while data := await connection.read(5.0):
            got += data
            if got.endswith(b"\r\n"):
                got = b""
                await connection.write(b"ok", connection.permit())

    port = await start(handler)

    def talk() -> float:
        with socket.create_connection(("127.0.0.1", port), 5) as client:
            began = time.monotonic()
            for _ in range(50):
                client.sendall(b"a literal")
                client.sendall(b"\r\n")
                assert client.recv(10) == b"ok"
            return time.monotonic() - began

    assert await asyncio.to_thread(talk) < 1.0  # 50 times 40 ms if the acknowledgement is delayed


async def test_what_no_renewal_covers_is_not_sent(tenure: Tenure, start: Start) -> None:
    tried = asyncio.Event()

    async def handler(connection: Connection) -> None:
        tenure.covered = False
        tried.set()
        await connection.write(b"stale", connection.permit())

    port = await start(handler)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await tried.wait()
    with contextlib.suppress(ConnectionError):
        assert await reader.read() == b""
    writer.close()
