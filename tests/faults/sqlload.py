"""A numbered-row writer with a ledger: SQL load that knows nothing of Everpost's own client code.

    python sqlload.py --ledger FILE --name w1 --tls DIR --number 0 --seconds 30 HOST:PGPORT:AGENTPORT ...

It finds the active by trying every host (a copy that is not open refuses clients), inserts rows (writer, n), and counts
a row as acknowledged only after COMMIT returned, the active's agent confirmed it for the epoch under which it was
written, and the ledger line is fsynced. A row of unknown outcome is written again under the same number.

Ledger lines: `ack N epoch boottime`, `try N`, `gap seconds`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import ssl
import sys
import time
from pathlib import Path

import aiohttp
import asyncpg

SCHEMA = "create table if not exists public.numbered (writer text, n bigint, epoch bigint, primary key (writer, n))"


def tls(directory: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(directory / "ca.crt"))
    context.load_cert_chain(directory / "host.crt", directory / "host.key")
    return context


class Ledger:
    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, line: str) -> None:
        os.write(self._fd, line.encode() + b"\n")
        os.fsync(self._fd)


class Writer:
    def __init__(self, name: str, database: str, hosts: list[tuple[str, int, int]], context: ssl.SSLContext) -> None:
        self.name = name
        self.database = database
        self.hosts = hosts
        self.context = context
        self.connection: asyncpg.Connection | None = None
        self.host: tuple[str, int, int] | None = None
        self.epoch = 0

    async def connect(self, session: aiohttp.ClientSession) -> None:
        for host in self.hosts:
            try:
                connection = await asyncpg.connect(
                    host=host[0], port=host[1], user="everpost_store", database="mail", ssl=self.context, timeout=1.0
                )
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                continue
            try:
                self.epoch = await connection.fetchval("select max(epoch) from everpost.opening", timeout=1.0)
                if await connection.fetchval("select to_regclass('public.numbered')", timeout=1.0) is None:
                    await connection.execute(SCHEMA)
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                connection.terminate()
                continue
            self.connection, self.host = connection, host
            return
        await asyncio.sleep(0.02)

    def drop(self) -> None:
        if self.connection is not None:
            self.connection.terminate()
        self.connection = None

    async def write(self, session: aiohttp.ClientSession, n: int) -> bool:
        """One try; True when acknowledged. The insert is never cancelled: a hung one is left by aborting its TCP."""
        if self.connection is None:
            await self.connect(session)
        if self.connection is None or self.host is None:
            return False
        insert = asyncio.ensure_future(
            self.connection.execute(
                "insert into public.numbered values ($1, $2, $3) on conflict do nothing", self.name, n, self.epoch
            )
        )
        done, _ = await asyncio.wait({insert}, timeout=1.5)
        if not done:
            self.drop()
            await asyncio.wait({insert}, timeout=1.0)
            return False
        if insert.exception() is not None:
            self.drop()
            return False
        try:
            async with session.post(
                f"https://{self.host[0]}:{self.host[2]}/v1/confirm",
                json={"database": self.database, "epoch": self.epoch},
                ssl=self.context,
                timeout=aiohttp.ClientTimeout(total=1.5),
            ) as answer:
                if answer.status == 200 and (await answer.json()).get("confirmed") is True:
                    return True
        except (aiohttp.ClientError, TimeoutError, OSError):
            pass
        self.drop()
        return False


async def run(arguments: argparse.Namespace) -> None:
    hosts = []
    for word in arguments.hosts:
        host, pg, agent = word.rsplit(":", 2)
        hosts.append((host, int(pg), int(agent)))
    ledger = Ledger(Path(arguments.ledger))
    writer = Writer(arguments.name, arguments.database, hosts, tls(Path(arguments.tls)))
    end = time.monotonic() + arguments.seconds
    n = arguments.start
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < end and not Path(arguments.ledger + ".stop").exists():
            ledger_line = f"try {n}"
            ledger.write(ledger_line)
            while not await writer.write(session, n):
                if time.monotonic() > end:
                    return
                await asyncio.sleep(0.01)
            ledger.write(f"ack {n} {writer.epoch} {time.clock_gettime(time.CLOCK_BOOTTIME):.4f}")
            n += 1
            if arguments.pause:
                await asyncio.sleep(arguments.pause)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--ledger", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--database", required=True)
    parser.add_argument("--tls", required=True)
    parser.add_argument("--start", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("hosts", nargs="+")
    arguments = parser.parse_args()
    asyncio.run(run(arguments))
    print("end", file=sys.stderr)


if __name__ == "__main__":
    main()
