"""The ports of the array's balancers: who may connect, what a header must be, and that nothing is smuggled by it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everpost.net import listen, proxy
from everpost.net.conn import Connection
from everpost.net.listen import ProxiedListener

from .test_conn import Tenure


def header(client: str = "192.0.2.7", *, command: int = 0x21, family: int = 0x11, extra: bytes = b"") -> bytes:
    addresses = socket.inet_aton(client) + socket.inet_aton("10.77.0.50") + struct.pack("!HH", 40000, 143)
    return proxy.SIGNATURE + bytes([command, family]) + struct.pack("!H", len(addresses + extra)) + addresses + extra


Start = Callable[..., Awaitable[int]]
seen: list[tuple[str, bytes]] = []


async def _echo(connection: Connection) -> None:
    data = await connection.read(5)
    seen.append((connection.peer, data))
    await connection.write(connection.peer.encode() + b" " + data, connection.permit())


@pytest.fixture
async def start(free_ports: Callable[[int], list[int]]) -> AsyncIterator[Start]:
    made: list[ProxiedListener] = []
    seen.clear()

    async def begin(trusted: tuple[str, ...] = ("127.0.0.1",)) -> int:
        listener = ProxiedListener(_echo, Tenure(), lambda: trusted)
        [port] = free_ports(1)
        await listener.start("127.0.0.1", port)
        made.append(listener)
        return port

    yield begin
    for listener in made:
        await listener.stop(1)


async def _say(port: int, *parts: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with contextlib.suppress(ConnectionError):
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0.01)
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(5):
            answer = await reader.read()
            writer.close()
            return answer
    return b""


async def test_the_client_is_whom_the_balancer_names(start: Start) -> None:
    port = await start()
    assert await _say(port, header() + b"hello") == b"192.0.2.7 hello"
    assert await _say(port, header(extra=b"\x04\x00\x01\x00"), b"hello") == b"192.0.2.7 hello"
    assert await _say(port, *(bytes([one]) for one in header()), b"hello") == b"192.0.2.7 hello"


async def test_the_balancers_own_check_is_the_balancers(start: Start) -> None:
    assert await _say(await start(), header(command=0x20) + b"hello") == b"127.0.0.1 hello"


async def test_a_second_header_is_what_the_client_says(start: Start) -> None:
    second = header("198.51.100.1")
    assert await _say(await start(), header() + second) == b"192.0.2.7 " + second


@pytest.mark.parametrize(
    "first",
    [
        b"a LOGIN user password\r\n",
        b"PROXY TCP4 192.0.2.7 10.77.0.50 40000 143\r\nhello",
        header("127.0.0.1") + b"hello",
        header("0.0.0.0") + b"hello",
        header(family=0x12) + b"hello",
        header(family=0x31) + b"hello",
        header(command=0x22) + b"hello",
        header(extra=bytes(proxy.LARGEST)) + b"hello",
        header()[:-1],
    ],
    ids=["none", "version 1", "loopback", "nobody", "datagram", "unix", "command", "long", "short"],
)
async def test_anything_else_is_closed_unanswered(start: Start, first: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen, "HEADER_LIMIT", 0.2)
    assert await _say(await start(), first) == b""
    assert seen == [], "no handler saw it"


async def test_a_stranger_is_closed_before_it_is_read(start: Start) -> None:
    assert await _say(await start(trusted=("10.77.0.12",)), header() + b"hello") == b""
    assert seen == []


@given(st.binary(max_size=40), st.binary(max_size=60))
def test_no_bytes_make_a_client_of_a_loopback_address(fixed: bytes, rest: bytes) -> None:
    fixed = (proxy.SIGNATURE + fixed)[: proxy.FIXED]
    with contextlib.suppress(proxy.NotProxied):
        assert proxy.length(fixed) <= proxy.LARGEST
        found = proxy.source(fixed, rest)
        assert found is None or not found.startswith("127.")
