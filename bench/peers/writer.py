"""The SQL client of the side-by-side measurement: one program for Everpost's PostgreSQL and for Patroni's.

    python writer.py --ledger F --user U --database D [--password P] [--tls DIR] [--confirm MB01] HOST:PORT[:AGENT] ...

Tries all hosts at once and takes the one that allows writing (target_session_attrs=read-write), inserts numbered rows
on several connections, and notes an acknowledgement only when it is fsynced in the ledger. A row of unknown outcome is
written again under the same number. A statement is never cancelled: a hung one is left by aborting its connection.

`--confirm`: Everpost acknowledges a row only after the active's agent confirmed the epoch under which it was written,
so its client asks for that too; it is part of what is measured.

Ledger lines: `writer n boottime`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import ssl
import time
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg

SCHEMA = "create table if not exists public.numbered (writer text, n bigint, primary key (writer, n))"
INSERT = "insert into public.numbered values ($1, $2) on conflict do nothing"
CONNECT = 1.0
HANGS = 1.5
"""Seconds without an answer after which a connection is given up."""
AGAIN = 0.02
LOST = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, aiohttp.ClientError)


class Target:
    """The hosts, and how to log in."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.hosts: list[tuple[str, int, int]] = []
        for word in arguments.hosts:
            host, port, *agent = word.split(":")
            self.hosts.append((host, int(port), int(agent[0]) if agent else 0))
        self.confirm: str | None = arguments.confirm
        self.tls: ssl.SSLContext | None = None
        self._login: dict[str, Any] = {"user": arguments.user, "database": arguments.database}
        if arguments.password:
            self._login["password"] = arguments.password
        if arguments.tls:
            folder = Path(arguments.tls)
            self.tls = ssl.create_default_context(cafile=str(folder / "ca.crt"))
            self.tls.load_cert_chain(folder / "host.crt", folder / "host.key")

    async def connect(self) -> tuple[asyncpg.Connection, tuple[str, int, int]] | None:
        """The first that allows writing; None when nobody does."""
        tries = {asyncio.ensure_future(self._one(host)): host for host in self.hosts}
        waiting = set(tries)
        found = None
        while waiting and found is None:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for one in done:
                if one.exception() is None:
                    found = (one.result(), tries[one])
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        return found

    async def _one(self, host: tuple[str, int, int]) -> asyncpg.Connection:
        return await asyncpg.connect(
            host=host[0], port=host[1], ssl=self.tls or False, timeout=CONNECT, command_timeout=None,
            target_session_attrs="read-write", **self._login,
        )  # fmt: skip


class Ledger:
    """Acknowledgements; each is on disk when `note` returns."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def note(self, writer: str, n: int) -> None:
        """One more."""
        os.write(self._fd, f"{writer} {n} {time.clock_gettime(time.CLOCK_BOOTTIME):.4f}\n".encode())
        os.fdatasync(self._fd)


class Writer:
    """One connection that writes one row after the other."""

    def __init__(self, name: str, target: Target, session: aiohttp.ClientSession) -> None:
        self.name = name
        self._target = target
        self._session = session
        self._connection: asyncpg.Connection | None = None
        self._host = ("", 0, 0)
        self._epoch = 0

    async def write(self, n: int) -> bool:
        """One try; True when it is acknowledged."""
        if self._connection is None and not await self._connect():
            return False
        assert self._connection is not None
        insert = asyncio.ensure_future(self._connection.execute(INSERT, self.name, n))
        done, _ = await asyncio.wait({insert}, timeout=HANGS)
        good = bool(done) and insert.exception() is None and await self._confirmed()
        if not good:
            self._connection.terminate()
            self._connection = None
            await asyncio.gather(insert, return_exceptions=True)
        return good

    async def _connect(self) -> bool:
        found = await self._target.connect()
        if found is None:
            return False
        connection, self._host = found
        try:
            if self._target.confirm:
                self._epoch = await connection.fetchval("select max(epoch) from everpost.opening", timeout=CONNECT)
            if await connection.fetchval("select to_regclass('public.numbered')", timeout=CONNECT) is None:
                await connection.execute(SCHEMA)
        except LOST:
            connection.terminate()
            return False
        self._connection = connection
        return True

    async def _confirmed(self) -> bool:
        if self._target.confirm is None:
            return True
        try:
            async with self._session.post(
                f"https://{self._host[0]}:{self._host[2]}/v1/confirm",
                json={"database": self._target.confirm, "epoch": self._epoch},
                ssl=self._target.tls,
                timeout=aiohttp.ClientTimeout(total=HANGS),
            ) as answer:
                return answer.status == 200 and (await answer.json()).get("confirmed") is True
        except LOST:
            return False


async def run(arguments: argparse.Namespace) -> None:
    """Until the file LEDGER.stop appears."""
    ledger = Ledger(arguments.ledger)
    target = Target(arguments)
    stop = Path(arguments.ledger + ".stop")

    async def stream(name: str, session: aiohttp.ClientSession) -> None:
        writer = Writer(name, target, session)
        n = 1
        while not stop.exists():
            if await writer.write(n):
                ledger.note(name, n)
                n += 1
                await asyncio.sleep(arguments.pause)
            else:
                await asyncio.sleep(AGAIN)

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(stream(f"w{number}", session) for number in range(arguments.writers)))


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("ledger", "user", "database"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("password", "tls", "confirm"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--writers", type=int, default=4)
    parser.add_argument("--pause", type=float, default=0.02)
    parser.add_argument("hosts", nargs="+")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
