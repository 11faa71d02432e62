"""PostgreSQL's programs, run as children that end with us."""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
from pathlib import Path

import asyncpg

from everpost.databases import config, control
from everpost.databases.binaries import Binaries
from everpost.databases.files import sync_tree
from everpost.errors import EverpostError, Unavailable


class Tools:
    """initdb, pg_basebackup, pg_rewind, pg_controldata; their output goes to the copy's log."""

    def __init__(self, binaries: Binaries, log: Path) -> None:
        self._binaries = binaries
        self._log = log

    async def _run(self, program: str, *arguments: str) -> str:
        process = await asyncio.create_subprocess_exec(
            self._binaries.path(program),
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd="/",
            env={"LC_ALL": "C", "PATH": os.environ.get("PATH", ""), "HOME": "/nonexistent"},
        )
        try:
            output, errors = await process.communicate()
        except asyncio.CancelledError:
            process.kill()
            await process.wait()
            raise
        if process.returncode != 0:
            said = errors.decode(errors="replace").strip()
            with self._log.open("a") as log:
                log.write(f"{program}: {said}\n")
            raise EverpostError(
                f"{program} failed: {said.splitlines()[-1] if said else process.returncode}", retry=True
            )
        return output.decode(errors="replace")

    async def controldata(self, pgdata: Path) -> control.ControlData:
        """pg_controldata."""
        return control.parse_controldata(await self._run("pg_controldata", "-D", str(pgdata)))

    async def initdb(self, folder: Path) -> None:
        """A new cluster with 1 MB segments and checksums; fsynced by initdb."""
        shutil.rmtree(folder, ignore_errors=True)
        await self._run(
            "initdb", "-D", str(folder), "--wal-segsize=1", "-k", "-E", "UTF8", "--locale=C.UTF-8",
            "-U", config.SUPERUSER, "--auth=reject",
        )  # fmt: skip

    async def basebackup(self, folder: Path, conninfo: str) -> None:
        """A seed, fsynced."""
        shutil.rmtree(folder, ignore_errors=True)
        await self._run(
            "pg_basebackup", "-D", str(folder), "-d", conninfo, "-X", "stream", "-c", "fast", "--no-manifest"
        )
        await asyncio.get_running_loop().run_in_executor(None, sync_tree, folder)

    async def rewind(self, pgdata: Path, conninfo: str, config_file: Path) -> None:
        """pg_rewind, which first recovers a crashed target by itself; with our settings, as that recovery would
        otherwise throw away the log behind the fork (wal_keep_size)."""
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
