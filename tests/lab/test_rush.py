"""The generator of connections: its schedule waits for nobody, and what comes late or not at all is counted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from everpost.lab.load.rush import LATE, Rush

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
async def rushed() -> AsyncIterator[Callable[..., Awaitable[dict[str, Any]]]]:
    """What a run against such a server finds."""
    servers = []

    async def run(handler: Handler, **how: float) -> dict[str, Any]:
        server = await asyncio.start_server(handler, "127.0.0.1", 0, backlog=1000)
        servers.append(server)
        port = server.sockets[0].getsockname()[1]
        return await asyncio.to_thread(Rush("127.0.0.1", port, **how).run)  # type: ignore[arg-type]

    yield run
    for server in servers:
        server.close()


def greets(after: float = 0.0, text: bytes = b"* OK here\r\n") -> Handler:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(after)
        writer.write(text)

    return handle


async def test_slow_answers_do_not_slow_the_schedule(rushed: Callable[..., Awaitable[dict[str, Any]]]) -> None:
    found = await rushed(greets(LATE + 0.2), seconds=1.0, rate=200.0)
    assert found["begun"] == 200 == found["late"], "all of them were begun before the first one was answered"
    assert not found["failures"] and found["median_s"] > LATE


async def test_the_closed_loop_keeps_so_many_open(rushed: Callable[..., Awaitable[dict[str, Any]]]) -> None:
    found = await rushed(greets(0.1), seconds=0.5, at_once=3)
    assert 3 <= found["begun"] <= 18 and not found["failures"] and not found["late"]


async def test_what_fails_is_named(rushed: Callable[..., Awaitable[dict[str, Any]]]) -> None:
    async def hangs_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    assert (await rushed(hangs_up, seconds=0.2, rate=50.0))["failures"] == {"closed": 10}
    refusal = greets(text=b"* BYE too many\r\n")
    assert (await rushed(refusal, seconds=0.2, rate=50.0))["failures"] == {"* BYE too many": 10}


def test_a_closed_port_is_a_failure_each_time() -> None:
    found: Any = Rush("127.0.0.1", 9, seconds=0.2, rate=50.0).run()
    assert found["failures"] == {"ConnectionRefusedError": 10} and found["begun"] == 10


async def test_a_server_that_says_nothing_is_given_up(
    rushed: Callable[..., Awaitable[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("everpost.lab.load.rush.PATIENCE", 0.3)

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    assert (await rushed(silent, seconds=0.2, rate=50.0))["failures"] == {"TimeoutError": 10}
