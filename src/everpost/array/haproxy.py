"""HAProxy as a child of this process: master and worker, reloaded without a lost connection, ended with us."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import shutil
import signal
from pathlib import Path

from everpost.array import balancer
from everpost.log import fact

log = logging.getLogger(__name__)

STOP_LIMIT = 0.3
RESTART = 0.2
_libc = ctypes.CDLL(None)


def find() -> str | None:
    """The program, None if it is not installed."""
    return shutil.which("haproxy", path=os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin")


def _die_with_parent() -> None:
    _libc.prctl(1, signal.SIGTERM, 0, 0, 0)


class Haproxy:
    """Runs while `configure` was given a configuration; started again when it dies."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = folder / "haproxy.cfg"
        self.socket = folder / "haproxy.sock"
        self._log = folder / "haproxy.log"
        self._text = ""
        self._process: asyncio.subprocess.Process | None = None
        self._changed = asyncio.Event()

    def configure(self, text: str) -> None:
        """What it shall run with; "" ends it. Sessions that are under way go on with the former configuration."""
        if text == self._text:
            return
        self._text = text
        if text:
            fresh = self._file.with_suffix(".new")
            fresh.write_text(text)
            fresh.replace(self._file)
        if self.running and self._process is not None:
            self._process.send_signal(signal.SIGUSR2 if text else signal.SIGTERM)
        self._changed.set()

    @property
    def running(self) -> bool:
        """Whether the master lives."""
        return self._process is not None and self._process.returncode is None

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                self._changed.clear()
                if not self._text:
                    await self._changed.wait()
                    continue
                program = find()
                if program is None:
                    fact(log, "haproxy is not installed", level=logging.ERROR)
                    await asyncio.sleep(10.0)
                    continue
                await self._start(program)
                assert self._process is not None
                code = await self._process.wait()
                fact(log, "haproxy ended", level=logging.WARNING, code=code)
                await asyncio.sleep(0.0 if code in (0, 130, 143, -15) else RESTART)
        finally:
            self.reset()

    async def _start(self, program: str) -> None:
        with self._log.open("ab") as output:
            if output.tell() > 1 << 20:
                output.truncate(0)
            self._process = await asyncio.create_subprocess_exec(
                program, "-W", "-f", str(self._file),
                stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output,
                preexec_fn=_die_with_parent, start_new_session=True, cwd="/",
            )  # fmt: skip

    def reset(self) -> None:
        """End all connections at once: clients hear of it and connect anew. It is started again by `run`."""
        if self.running and self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGTERM)

    async def reset_and_wait(self) -> None:
        """The same; returns when the connections are ended, which is within STOP_LIMIT."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        self.reset()
        try:
            async with asyncio.timeout(STOP_LIMIT):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    async def services(self) -> dict[str, tuple[str, int, int]]:
        """`balancer.services` now; empty when it does not answer."""
        try:
            async with asyncio.timeout(1.0):
                reader, writer = await asyncio.open_unix_connection(str(self.socket))
                try:
                    writer.write(b"show stat\n")
                    return balancer.services((await reader.read(1 << 20)).decode())
                finally:
                    writer.close()
        except (OSError, TimeoutError, ValueError, KeyError, IndexError):
            return {}
