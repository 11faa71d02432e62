"""An agent that stops is gone, whatever its libraries do with a cancellation: only then is it started again."""

from __future__ import annotations

import subprocess
import sys

STUBBORN = """
import asyncio, types
from everpost.cli import agent
from everpost.clock import SystemClock

agent.ENDS = 1.0

async def swallows():
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass

async def ends():
    await asyncio.sleep(3600)

async def main(work):
    task = asyncio.create_task(work())
    await asyncio.sleep(0.01)  # it runs
    await agent.Agent._end(types.SimpleNamespace(clock=SystemClock()), task)
    raise SystemExit(7)

asyncio.run(main({work}))
"""


def _status(work: str) -> int:
    return subprocess.run([sys.executable, "-c", STUBBORN.replace("{work}", work)], timeout=30).returncode


def test_an_agent_whose_task_swallows_its_cancellation_is_ended() -> None:
    assert _status("swallows") == 4
    assert _status("ends") == 7
