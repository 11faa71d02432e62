"""PostgreSQL's programs, run as children that end with us."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import ssl
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import asyncpg

from everpost.databases import config, control, processes, wal
from everpost.databases.binaries import Binaries
from everpost.databases.files import FileSystem, file_system, syncfs_tells
from everpost.databases.interface import Interrupted
from everpost.errors import EverpostError, Unavailable

_SOURCE_LOST = (
    "could not connect",
    "connection to server",
    "could not receive",
    "could not read COPY data",
    "server closed the connection",
    "terminating connection",
    "could not send",
    "the database system is",
)
"""What pg_basebackup says when its source is gone, cut off or starting, and nothing is wrong with any file."""


_PHASES = {
    "checkpoint completed": "checkpoint_s",
    "write-ahead log end point": "files_s",
    "base backup completed": "log_s",
}
"""What pg_basebackup -v says at the end of each part of its work, in this order."""


COMPRESSION = "server-zstd:1"
"""The source compresses, the target unpacks: every PostgreSQL of Debian since 15 has it."""
SYNC_PAUSE = 0.2
"""Seconds between two syncs while a seed is written: the last one has little left to do."""


class Tools:
    """initdb, pg_basebackup, pg_rewind, pg_controldata, pg_waldump; their output goes to the copy's log."""

    def __init__(self, binaries: Binaries, log: Path) -> None:
        self._binaries = binaries
        self._log = log

    async def _run(self, program: str, *arguments: str, may_fail: bool = False) -> str:
        process = await asyncio.create_subprocess_exec(
            self._binaries.path(program),
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd="/",
            env={"LC_ALL": "C", "TZ": "UTC", "PATH": os.environ.get("PATH", ""), "HOME": "/nonexistent"},
            start_new_session=True,
        )
        try:
            output, errors = await process.communicate()
        except BaseException:
            # pg_rewind and initdb have children that write too.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            raise
        if process.returncode != 0 and not may_fail:
            said = errors.decode(errors="replace").strip()
            with self._log.open("a") as log:
                log.write(f"{program}: {said}\n")
            raise EverpostError(
                f"{program} failed: {said.splitlines()[-1] if said else process.returncode}", retry=True
            )
        return output.decode(errors="replace")

    @staticmethod
    def end_orphans(root: Path) -> None:
        """What an agent that was killed left running below a copy's folder must not write beside what comes next."""
        if not processes.kill_tools(root):
            raise EverpostError(f"A program of a former agent still writes below {root}.", retry=True)

    async def _watched(self, argv: Sequence[str], line: Callable[[str], None]) -> None:
        """A long run whose lines on standard error are shown to `line` as they come; its output goes nowhere."""
        program, *arguments = argv
        process = await asyncio.create_subprocess_exec(
            self._binaries.path(program),
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            cwd="/",
            env={"LC_ALL": "C", "PATH": os.environ.get("PATH", ""), "HOME": "/nonexistent"},
            start_new_session=True,
        )
        assert process.stderr is not None
        said: deque[str] = deque(maxlen=20)
        rest = b""
        try:
            while chunk := await process.stderr.read(4096):
                *lines, rest = re.split(rb"[\r\n]+", rest + chunk)
                for text in (one.decode(errors="replace").strip() for one in lines):
                    line(text)
                    if text and "%)" not in text:
                        said.append(text)
            await process.wait()
        except BaseException:
            # pg_basebackup has a child that receives the log, and that does not notice when its parent is killed.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            raise
        if process.returncode == 0:
            return
        if rest:
            said.append(rest.decode(errors="replace").strip())
        with self._log.open("a") as log:
            log.writelines(f"{program}: {text}\n" for text in said)
        errors = [text.partition("error: ")[2] for text in said if "error: " in text]
        why = f"{program} failed: {[*errors, *said, str(process.returncode)][0]}"
        if any(words in text for text in said for words in _SOURCE_LOST):
            raise Interrupted(why, retry=True)
        raise EverpostError(why, retry=True)

    async def controldata(self, pgdata: Path) -> control.ControlData:
        """pg_controldata."""
        return control.parse_controldata(await self._run("pg_controldata", "-D", str(pgdata)))

    async def log_end(self, pgdata: Path) -> tuple[int, int]:
        """The newest timeline of the log that lies there, and where its last whole record ends (pg_waldump, which
        checks each record); (0, 0) when there is no log."""
        names = wal.segments(pgdata)
        for name in reversed(names[-wal.TAIL_SEGMENTS :]):
            begin = control.format_lsn(wal.segment_lsn(name))
            timeline = int(name[:8], 16)
            arguments = ("-p", str(pgdata / "pg_wal"), "-t", str(timeline), "-s", begin)
            # It ends with an error in any case, as the log ends somewhere.
            found = wal.end_of_dump(await self._run("pg_waldump", *arguments, may_fail=True))
            if found is not None:
                return timeline, found
        return (int(names[-1][:8], 16), wal.segment_lsn(names[-1])) if names else (0, 0)

    async def initdb(self, folder: Path) -> None:
        """A new cluster with 1 MB segments and checksums; fsynced by initdb."""
        self.end_orphans(folder.parent)
        shutil.rmtree(folder, ignore_errors=True)
        await self._run(
            "initdb", "-D", str(folder), "--wal-segsize=1", "-k", "-E", "UTF8", "--locale=C.UTF-8",
            "-U", config.SUPERUSER, "--auth=reject",
        )  # fmt: skip

    async def basebackup(
        self, folder: Path, conninfo: str, percent: Callable[[int], None], *, compress: bool
    ) -> dict[str, float]:
        """A seed, durable on return, if wanted compressed on its way (decision 014). Raises Interrupted if the source
        was lost on the way. Returns the seconds after which each of _PHASES was over, and the seed was durable."""
        began = time.monotonic()
        ends: dict[str, float] = {}

        def line(text: str) -> None:
            found = re.search(r"\((\d+)%\)", text)
            if found:
                percent(min(int(found[1]), 100))
            for words, phase in _PHASES.items():
                if words in text:
                    ends[phase] = round(time.monotonic() - began, 3)

        argv = ["pg_basebackup", "-D", str(folder), "-d", conninfo, "-X", "stream", "-c", "fast", "--no-manifest"]
        argv += ["-P", "-v"]
        if compress:
            argv.append(f"--compress={COMPRESSION}")
        if syncfs_tells():
            await self._synced_meanwhile(folder.parent, lambda: self._watched((*argv, "--no-sync"), line))
        else:
            await self._watched(argv, line)
        ends["durable_s"] = round(time.monotonic() - began, 3)
        return ends

    @staticmethod
    async def _synced_meanwhile(place: Path, work: Callable[[], Awaitable[None]]) -> None:
        """What `work` writes at that place is durable on return (decision 013). The disk writes while the network
        brings more; otherwise it would begin when all has come. Nothing is left running if the work fails."""
        ended = asyncio.Event()

        async def keep_writing(system: FileSystem) -> None:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(SYNC_PAUSE):
                        await ended.wait()
                if ended.is_set():
                    return
                await asyncio.to_thread(system.sync)

        try:
            with file_system(place) as system:
                writing = asyncio.create_task(keep_writing(system))
                try:
                    await work()
                finally:
                    ended.set()
                    await asyncio.wait((writing,))
                writing.result()
                await asyncio.to_thread(system.sync)  # anew: one that was under way may have missed the end
        except OSError as error:
            raise EverpostError(f"The seed cannot be written: {error}.", retry=True) from error

    async def read_pages(self, root: Path, sockets: Path, port: int, rate: str) -> str:
        """Read every page through the running instance, which checks them: PostgreSQL's own reader of base backups,
        whose output goes nowhere. It reads a page twice before it calls it damaged, as it may be half written, and
        passes over pages newer than its beginning. What it found, "" if nothing. Its label names the copy's folder, by
        which it is known if its agent is killed: two readings would load the disk twice."""
        self.end_orphans(root)
        damaged: list[str] = []

        def line(text: str) -> None:
            if "checksum verification failed" in text:
                damaged.append(text.partition("checksum verification failed in ")[2] or text)

        try:
            await self._watched(
                (
                    "pg_basebackup", "-D", "-", "-F", "tar", "-X", "none", "-c", "fast", "--no-manifest",
                    "-l", str(root / "scrub"), "-r", rate, "-h", str(sockets), "-p", str(port), "-U", config.SUPERUSER,
                ),
                line,
            )  # fmt: skip
        except EverpostError:
            if not damaged:
                raise
        return damaged[0] if damaged else ""

    async def rewind(self, pgdata: Path, conninfo: str, config_file: Path) -> None:
        """pg_rewind, which first recovers a crashed target by itself; with our settings, as that recovery would
        otherwise throw away the log behind the fork (wal_keep_size)."""
        self.end_orphans(pgdata.parent)
        await self._run("pg_rewind", "-D", str(pgdata), f"--config-file={config_file}", f"--source-server={conninfo}")

    async def checkpoint_remote(self, host: str, port: int, tls: Path) -> None:
        """CHECKPOINT on the source: before PostgreSQL 16 pg_rewind reads its timeline from the control file."""
        context = ssl.create_default_context(cafile=str(tls / "ca.crt"))
        context.load_cert_chain(tls / "host.crt", tls / "host.key")
        try:
            hosts = host.split(",")
            connection = await asyncpg.connect(
                host=hosts,
                port=[port] * len(hosts),
                user=config.REPLICATION,
                database="postgres",
                ssl=context,
                timeout=3.0,
            )
            try:
                await connection.execute("checkpoint")
            finally:
                connection.terminate()
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise Unavailable(f"The active at {host}:{port} could not be asked for a checkpoint: {error}.") from error
