"""The only seam to time. Everything that decides gets its time as an argument; services own a `Clock`."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """A source of time. Liveness uses `boottime`; `wall` is for people and for INTERNALDATE only."""

    def boottime(self) -> float:
        """Seconds since boot, counting suspend (CLOCK_BOOTTIME). Compare only with the same host's."""

    def wall(self) -> datetime:
        """The wall clock, aware, in UTC. May jump; never compared for safety."""

    async def sleep(self, seconds: float) -> None:
        """Suspend the calling task."""


class SystemClock:
    """The host's own clocks."""

    def boottime(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def wall(self) -> datetime:
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
