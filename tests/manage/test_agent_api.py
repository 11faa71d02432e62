"""The agent's listeners end in time, whatever their handlers do."""

from __future__ import annotations

import asyncio
import contextlib

import aiohttp
import pytest
from aiohttp import web

from everpost.cli import agent_api


async def test_a_handler_that_does_not_end_delays_no_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_api, "SHUTDOWN", 0.3)
    released = asyncio.Event()

    async def never(request: web.Request) -> web.Response:
        while not released.is_set():  # as in a library that swallows a cancellation
            with contextlib.suppress(asyncio.CancelledError):
                await released.wait()
        return web.Response()

    api = agent_api.AgentApi(None)  # type: ignore[arg-type]
    urls = []
    for _ in range(3):
        app = web.Application()
        app.router.add_get("/", never)
        runner = await api._runner(app)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        urls.append("http://{}:{}/".format(*runner.addresses[0]))
    async with aiohttp.ClientSession() as session:
        asked = [asyncio.ensure_future(session.get(url)) for url in urls]
        await asyncio.sleep(0.3)
        began = asyncio.get_running_loop().time()
        await api.stop()
        assert asyncio.get_running_loop().time() - began < 1.5, "0.6 s: two waits, all listeners at the same time"
        released.set()
        for one in asked:
            one.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
