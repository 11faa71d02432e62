"""Links between hosts, and to the directory: each direction may be cut or slow. Requests, and what they wait for."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import random
from collections.abc import Awaitable, Callable
from typing import Any

from everpost.errors import EverpostError, Unavailable
from tests.simulation.loop import Process, SimulatedLoop, expire

ETCD = "etcd"
"""The directory's majority, as an end of links."""


class Network:
    """All links. `cut` holds (from, to) pairs."""

    def __init__(self, loop: SimulatedLoop, chance: random.Random) -> None:
        self.loop = loop
        self._chance = chance
        self.cut: set[tuple[str, str]] = set()
        self.slow: dict[str, float] = {}

    def passes(self, source: str, target: str) -> bool:
        """Whether a packet sent now arrives."""
        return source == target or (source, target) not in self.cut

    def delay(self, source: str, target: str) -> float:
        """Seconds that a packet travels."""
        if source == target:
            return 0.0001
        seconds = 0.0005 + 0.002 * self._chance.random()
        if self.slow:
            seconds += self.slow.get(source, 0.0) * self._chance.random()
            seconds += self.slow.get(target, 0.0) * self._chance.random()
        return seconds

    async def request(
        self,
        source: str,
        target: str,
        process: Process | None,
        handler: Callable[[], Awaitable[Any]],
        timeout: float,
    ) -> Any:
        """Ask a process on another host; `handler` runs there. Raises Unavailable, or what the handler refuses."""
        answer: asyncio.Future[Any] = self.loop.create_future()
        context = contextvars.copy_context()

        def arrive() -> None:
            if self.passes(source, target) and process is not None:
                self.loop.create_task(work(), context=process.context)

        async def work() -> None:
            try:
                value, error = await handler(), None
            except EverpostError as raised:
                value, error = None, raised
            self.loop.call_later(self.delay(target, source), come_back, value, error, context=context)

        def come_back(value: object, error: EverpostError | None) -> None:
            if not self.passes(target, source) or answer.done():
                return
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(value)

        if process is not None and self.passes(source, target):
            if process.alive:
                process.call_later(self.delay(source, target), arrive)
            elif self.passes(target, source):
                await asyncio.sleep(self.delay(source, target))
                raise Unavailable("connection refused")
        giving_up = self.loop.call_later(timeout, expire, answer)
        try:
            return await answer
        except TimeoutError:
            raise Unavailable("no answer") from None
        finally:
            giving_up.cancel()


async def ask(process: Process, delay: float, work: Callable[[], Any], limit: float) -> Any:
    """Ask a process of the same host; `work` runs there. Raises Unavailable when it is gone, or frozen for `limit`.

    No timer is set while the process runs: it answers at once or is frozen, and `freeze` sets the timer then.
    """
    if not process.alive:
        raise Unavailable(f"{process.name} is gone")
    loop = process.loop
    answer: asyncio.Future[Any] = loop.create_future()
    process.pending[answer] = limit

    def run() -> None:
        if answer.done():
            with contextlib.suppress(EverpostError):
                work()  # the asker gave up; what it sent is done all the same
            return
        try:
            value = work()
        except EverpostError as error:
            answer.set_exception(error)
            return
        answer.set_result(value)

    process.call_later(delay, run)
    if process.frozen:
        loop.call_later(limit, expire, answer)
    try:
        return await answer
    except TimeoutError:
        raise Unavailable(f"{process.name} does not answer") from None
    finally:
        process.pending.pop(answer, None)


def reset(process: Process) -> None:
    """Whoever waits for a process that died learns at once: its sockets are closed."""
    for future in list(process.pending):
        if not future.done():
            future.set_exception(Unavailable(f"{process.name} is gone"))
