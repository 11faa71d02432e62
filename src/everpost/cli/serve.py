"""`everpost serve`: one server with its roles. Starts one process per role, the warden and the directory's member,
starts again what dies, and stops all in order on SIGTERM.

Order of a clean stop: roles that answer clients, the agent (it hands its databases over), the warden (it closes what is
left), the directory's member last, as the agent still needs it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from everpost.cli import wiring
from everpost.databases import processes
from everpost.directory import etcdserver
from everpost.log import configure, fact
from everpost.model.server import Role
from everpost.settings import DEFAULT_PATH, ServerSettings, load

log = logging.getLogger(__name__)

LOG_LIMIT = 50 * 1024 * 1024
"""Bytes after which a child's log is set aside (one older one is kept)."""
BACKOFF = (0.0, 0.05, 0.2, 0.5, 1.0, 2.0)
PID_LENGTH = 60
STEADY = 10.0
"""Seconds a child must have run for its next restart to be at once again."""
_libc = ctypes.CDLL(None)


def _die_with_parent() -> None:
    _libc.prctl(1, signal.SIGTERM, 0, 0, 0)


class Child:
    """One supervised process. `argv` is asked at each start; None: nothing to run now. `stop_limit` seconds after
    SIGTERM it is killed."""

    def __init__(
        self,
        name: str,
        argv: Callable[[], list[str] | None],
        folder: Path,
        *,
        stop_limit: float,
        removed: int | None = None,
    ) -> None:
        self.name = name
        self._argv = argv
        self._log = folder / f"{name}.log"
        self._pid_file = folder / f"{name}.pid"
        self._stop_limit = stop_limit
        self._removed = removed
        self.process: asyncio.subprocess.Process | None = None
        self._stopping = False

    def end_leftover(self) -> None:
        """What a killed supervisor left: ended if it is surely that process."""
        try:
            pid, started = self._pid_file.read_text().split()
        except (OSError, ValueError):
            return
        if _start_time(int(pid)) == started:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGTERM)
            processes.wait_gone([int(pid)], 5.0)
            if processes.alive(int(pid)) and _start_time(int(pid)) == started:
                os.kill(int(pid), signal.SIGKILL)
                processes.wait_gone([int(pid)], 5.0)

    async def run(self) -> None:
        """Start, wait, start again; ends when told to stop."""
        failures = 0
        while not self._stopping:
            argv = self._argv()
            if argv is None:
                await asyncio.sleep(0.1)
                continue
            began = time.monotonic()
            await self._start(argv)
            assert self.process is not None
            code = await self.process.wait()
            if self._stopping:
                return
            fact(log, "child ended", level=logging.WARNING, child=self.name, code=code)
            if code == self._removed and time.monotonic() - began > 0.5 and self._argv() == argv:
                fact(log, "not started again: it was removed from the cluster", child=self.name)
                while self._argv() == argv and not self._stopping:
                    await asyncio.sleep(0.2)
                continue
            failures = 0 if time.monotonic() - began > STEADY else failures + 1
            await asyncio.sleep(BACKOFF[min(failures, len(BACKOFF) - 1)])

    async def _start(self, argv: list[str]) -> None:
        with contextlib.suppress(OSError):
            if self._log.stat().st_size > LOG_LIMIT:
                self._log.rename(self._log.with_suffix(".log.1"))
        with self._output() as output:
            self.process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=_die_with_parent,
                cwd="/",
                # etcd reads ETCD_* variables beside its flags and refuses to start when they differ.
                env={name: value for name, value in os.environ.items() if not name.startswith("ETCD_")},
            )
        self._note_pid(f"{self.process.pid} {_start_time(self.process.pid)}")
        fact(log, "child started", child=self.name, pid=self.process.pid)

    def _output(self) -> IO[bytes]:
        """The child's log; a disk that is full must not keep it from running."""
        try:
            return self._log.open("ab")
        except OSError as error:
            fact(log, "no log", level=logging.ERROR, child=self.name, why=str(error))
            return open(os.devnull, "wb")

    def _note_pid(self, text: str) -> None:
        """In place and never longer, so that a full disk has room for it once it was written."""
        try:
            number = os.open(self._pid_file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                os.pwrite(number, text.ljust(PID_LENGTH).encode(), 0)
            finally:
                os.close(number)
        except OSError as error:
            fact(log, "the pid was not noted", level=logging.ERROR, child=self.name, why=str(error))

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL after the limit."""
        self._stopping = True
        if self.process is None or self.process.returncode is not None:
            return
        self.process.terminate()
        try:
            async with asyncio.timeout(self._stop_limit):
                await self.process.wait()
        except TimeoutError:
            fact(log, "child did not stop in time", level=logging.WARNING, child=self.name)
            self.process.kill()
            await self.process.wait()


def _start_time(pid: int) -> str | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None


def _role_argv(module: str, config: Path) -> Callable[[], list[str]]:
    return lambda: [sys.executable, "-m", module, "--config", str(config)]


def children(settings: ServerSettings, config: Path) -> list[Child]:
    """In the order of start; stopped in the reverse order."""
    folder = settings.data_dir / "log"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def etcd() -> list[str] | None:
        spec = etcdserver.load(wiring.etcd_file(settings))
        return None if spec is None else etcdserver.argv(spec, etcdserver.find(settings.etcd_bin))

    found = [Child("etcd", etcd, folder, stop_limit=5.0, removed=0)]
    if Role.MAILBOX in settings.roles:
        warden = [
            sys.executable, "-m", "everpost.databases.warden",
            "--socket", str(settings.warden_socket), "--data-dir", str(settings.data_dir),
        ]  # fmt: skip
        found.append(Child("warden", lambda: warden, folder, stop_limit=15.0))
    found.append(Child("agent", _role_argv("everpost.cli.agent", config), folder, stop_limit=20.0))
    for role, module in ((Role.CLIENT_ACCESS, "clientaccess"), (Role.HUB_TRANSPORT, "transport")):
        if role in settings.roles:
            found.append(Child(module, _role_argv(f"everpost.cli.{module}", config), folder, stop_limit=10.0))
    if Role.CLIENT_ACCESS in settings.roles:  # the last one: it stops first, and clients go to another server
        found.append(Child("array", _role_argv("everpost.cli.array", config), folder, stop_limit=5.0))
    return found


async def serve(settings: ServerSettings, config: Path) -> None:
    """Until SIGTERM or SIGINT."""
    settings.run_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
    stop = wiring.stop_event()
    family = children(settings, config)
    for child in reversed(family):
        child.end_leftover()
    tasks = [asyncio.create_task(child.run()) for child in family]
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({stopping, *tasks}, return_when=asyncio.FIRST_COMPLETED)
    fact(log, "stopping", server=settings.name)
    for child in reversed(family):
        await child.stop()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def main(argv: list[str]) -> int:
    """`everpost serve --config PATH`."""
    parser = argparse.ArgumentParser(prog="everpost serve", description="Run this server with its roles.")
    parser.add_argument("--config", type=Path, default=DEFAULT_PATH)
    config = parser.parse_args(argv).config.resolve()
    settings = load(config)
    configure(settings.log_format)
    asyncio.run(serve(settings, config))
    return 0
