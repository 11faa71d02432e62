"""An event loop in simulated time whose callbacks belong to processes that can be frozen and killed between any two.

Nothing waits: when nobody is ready, time leaps to the next timer. A callback belongs to the process in whose context it
was scheduled. Those of a frozen process are kept and run when it is resumed, as after SIGSTOP and SIGCONT; those of a
killed one never run, so that not even a `finally` runs, as after SIGKILL.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import selectors
from collections import deque
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

PROCESS: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)

NOBODY = contextvars.Context()
"""The context of what belongs to no process: the directory, what travels in the network, the nemesis."""


class Process:
    """Something that can be killed, frozen and resumed: agent, warden, postmaster, role."""

    __slots__ = ("alive", "context", "frozen", "fuse", "loop", "name", "on_end", "parked", "pending")

    def __init__(self, loop: SimulatedLoop, name: str) -> None:
        self.loop = loop
        self.name = name
        self.alive = True
        self.frozen = 0
        self.parked: deque[asyncio.Handle] = deque()
        self.pending: dict[asyncio.Future[Any], float] = {}
        self.fuse = 0
        """Callbacks that it may still run before `on_end` is called instead of the next one; 0: no end is set."""
        self.on_end: Callable[[], None] = lambda: None
        self.context = contextvars.copy_context()
        self.context.run(PROCESS.set, self)
        loop.processes.append(self)

    def create_task(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """A task of this process."""
        return self.loop.create_task(coroutine, context=self.context)

    def call_later(self, delay: float, callback: Callable[..., object], *arguments: object) -> asyncio.TimerHandle:
        """A callback of this process."""
        return self.loop.call_later(delay, callback, *arguments, context=self.context)

    def kill(self) -> None:
        """Nothing of it runs any more."""
        self.alive = False
        self.fuse = 0

    def freeze(self) -> None:
        """Nothing of it runs until it is resumed as often as it was frozen. Whoever waits for its answer gives up
        after the limit that goes with the question."""
        self.frozen += 1
        if self.frozen == 1:
            for future, limit in self.pending.items():
                self.loop.call_later(limit, expire, future)

    def resume(self) -> None:
        """Go on where it stopped."""
        self.frozen -= 1
        if not self.frozen:
            self.loop.admit(self.parked)
            self.parked = deque()


def expire(future: asyncio.Future[Any]) -> None:
    """Nobody answered."""
    if not future.done():
        future.set_exception(TimeoutError())


class _NoFiles(selectors.DefaultSelector):
    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return []


BUSY = 100_000
"""Callbacks without any time passing that mean that somebody goes round in circles."""


class BusyForEver(RuntimeError):
    """Time stands still, as somebody always has something to do."""


class EverybodyWaits(RuntimeError):
    """Nothing is ready and no timer is set."""


class SimulatedLoop(asyncio.SelectorEventLoop):
    """Timers fire in order, at once; ties in the order in which they were set."""

    def __init__(self) -> None:
        self.now = 0.0
        self.processes: list[Process] = []
        self.ending = False
        self.callbacks = 0
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._order = 0
        self._since = 0
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        super().__init__(_NoFiles())
        self.faults: list[str] = []
        self.set_exception_handler(self._unhandled)

    def time(self) -> float:
        return self.now

    def _unhandled(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        # A question whose asker was killed is nobody's fault; a task that ended by an error is.
        if not self.ending and "task" in context:
            self.faults.append(f"{context.get('message')}: {context.get('exception')!r}")

    def admit(self, handles: deque[asyncio.Handle]) -> None:
        """Let callbacks that were kept run."""
        self._ready.extend(handles)  # type: ignore[attr-defined]

    def create_task(self, coroutine: Any, *, name: Any = None, context: Any = None) -> asyncio.Task[Any]:
        # Kept: a task of a killed process must not be collected, as that would run its `finally`.
        task = super().create_task(coroutine, name=name, context=context)
        self._tasks[task] = None
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)

    def call_at(self, when: float, callback: Any, *arguments: Any, context: Any = None) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, arguments, self, context)
        self._order += 1
        heapq.heappush(self._timers, (when, self._order, timer))
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass  # passed over when its time comes

    def _run_once(self) -> None:
        ready = self._ready  # type: ignore[attr-defined]
        timers = self._timers
        while not ready:
            if not timers:
                raise EverybodyWaits
            when, _, timer = heapq.heappop(timers)
            if not timer._cancelled:  # type: ignore[attr-defined]
                if when > self.now:
                    self.now, self._since = when, self.callbacks
                ready.append(timer)
        for _ in range(len(ready)):
            handle = ready.popleft()
            if handle._cancelled:
                continue
            process = handle._context.get(PROCESS)
            if process is not None and not self.ending:
                if not process.alive or process.frozen:
                    process.parked.append(handle)
                    continue
                if process.fuse:
                    process.fuse -= 1
                    if not process.fuse:
                        process.parked.append(handle)
                        process.on_end()
                        continue
            self.callbacks += 1
            if self.callbacks - self._since > BUSY:
                raise BusyForEver(f"{BUSY} callbacks at {self.now:.6f} s, such as {handle!r}")
            try:
                handle._run()
            except SystemExit:
                if process is None:
                    raise
                if not self.ending:
                    process.on_end()  # it ends itself, and whoever supervises it learns as of any other end

    def end(self) -> None:
        """Cancel what is left of all processes, the killed ones too, and close."""
        self.ending = True
        for _ in range(50):
            for process in self.processes:
                self._ready.extend(process.parked)  # type: ignore[attr-defined]
                process.parked.clear()
            if not self._tasks:
                break
            for task in list(self._tasks):
                task.cancel()
            for _ in range(5):
                try:
                    self.run_until_complete(asyncio.sleep(0))
                except SystemExit:
                    pass
        for task in self._tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        self.run_until_complete(self.shutdown_asyncgens())
        self.close()


class HostClock:
    """A host's clock: its own start and its own rate; it stands still while the whole (virtual) machine is paused."""

    def __init__(self, loop: SimulatedLoop, start: float, rate: float) -> None:
        self._loop = loop
        self._start = start
        self.rate = rate
        self._begun = loop.now
        self._paused_at: float | None = None

    def pause(self) -> None:
        """It stands still."""
        self._paused_at = self._loop.now

    def go_on(self) -> None:
        """It goes on from where it stood."""
        assert self._paused_at is not None
        self._begun += self._loop.now - self._paused_at
        self._paused_at = None

    def boottime(self) -> float:
        now = self._loop.now if self._paused_at is None else self._paused_at
        return self._start + (now - self._begun) * self.rate

    def until(self, boottime: float) -> float:
        """Simulated seconds until this clock shows `boottime`."""
        return (boottime - self.boottime()) / self.rate

    def wall(self) -> datetime:
        return datetime.fromtimestamp(self.boottime(), UTC)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / self.rate)
