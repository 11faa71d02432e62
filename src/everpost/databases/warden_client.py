"""The agent's end of the warden's socket."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec

from everpost.errors import EverpostError, Unavailable

ANSWER = 0.5
"""Seconds within which the warden must answer, or the agent does not renew (3.8)."""
KILL_ANSWER = 3.0


class WardenError(EverpostError):
    """The warden declined: the instance is not what the caller thought."""


class Child(msgspec.Struct, frozen=True):
    """One postmaster as the warden sees it."""

    pid: int
    running: bool
    label: str | None
    exit: int | None


class WardenClient:
    """One connection, opened when needed; requests are answered in order."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._lock = asyncio.Lock()
        self._look: asyncio.Task[dict[str, Child]] | None = None
        """A question for all instances that was not sent yet: whoever asks meanwhile shares its answer."""

    async def _ask(self, request: dict[str, Any], limit: float = ANSWER) -> dict[str, Any]:
        async with self._lock:
            if asyncio.current_task() is self._look:
                self._look = None  # from here on an answer may be older than the question
            try:
                async with asyncio.timeout(limit):
                    if self._writer is None or self._reader is None:
                        self._reader, self._writer = await asyncio.open_unix_connection(str(self._path))
                    self._writer.write(json.dumps(request).encode() + b"\n")
                    await self._writer.drain()
                    line = await self._reader.readline()
                    if not line:
                        raise ConnectionResetError("closed")
            except (OSError, TimeoutError) as error:
                self.close()
                raise Unavailable(
                    f"The warden does not answer ({type(error).__name__}).", remedy="`everpost serve` restarts it."
                ) from error
            except asyncio.CancelledError:
                self.close()  # an answer may still come: it must not be taken for the next one's
                raise
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WardenError(f"The warden refused: {answer['error']}.", remedy="It is looked at again.")
        return answer

    def close(self) -> None:
        """Drop the connection."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None

    async def identity(self) -> str:
        """The warden's life: while it is the same, no guarded instance outlived its deadline."""
        return str((await self._ask({"do": "hello"}))["instance"])

    async def start(self, name: str, argv: list[str], log: Path) -> int:
        """Start a postmaster; its pid."""
        return int((await self._ask({"do": "start", "name": name, "argv": argv, "log": str(log)}, 2.0))["pid"])

    async def signal(self, name: str, signum: int) -> None:
        """Send a signal to the postmaster, if it runs."""
        await self._ask({"do": "signal", "name": name, "signal": int(signum)})

    async def kill(self, name: str) -> None:
        """Fence it: returns when no process of it is left."""
        await self._ask({"do": "kill", "name": name}, KILL_ANSWER)

    async def guard(self, name: str, label: str | None) -> None:
        """From now on it is killed at the deadline; `label` says at which activation."""
        await self._ask({"do": "guard", "name": name, "label": label})

    async def deadline(self, boottime: float) -> None:
        """Move the deadline forward (CLOCK_BOOTTIME seconds)."""
        await self._ask({"do": "deadline", "boottime_ns": int(boottime * 1e9)})

    async def children(self) -> dict[str, Child]:
        """Every postmaster it ever started, by name, as it was at this call or later."""
        if self._look is None or self._look.done():
            self._look = asyncio.create_task(self._status())
        return await asyncio.shield(self._look)

    async def _status(self) -> dict[str, Child]:
        answer = await self._ask({"do": "status"})
        return msgspec.convert(answer["instances"], dict[str, Child])
