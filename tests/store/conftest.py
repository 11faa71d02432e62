"""A store on a real PostgreSQL, opened as an activation opens it."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from everpost.databases.engine import PostgresEngine
from everpost.model.authority import NotConfirmed
from everpost.model.database import Location, LocationState, Member, Opening, Token
from everpost.net import tls
from everpost.store.migrate import migrate
from everpost.store.postgres import PostgresStore
from tests.databases.conftest import Host, not_root

__all__ = ["not_root"]


async def prepare(connection: object, lossy: bool) -> None:
    await migrate(connection, lossy=lossy)  # type: ignore[arg-type]


class OneServer:
    """An engine that can be activated again, and the authority that says where it is."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.engine: PostgresEngine = host.engine()
        self.epoch = 0
        self.state = LocationState.CLOSED
        self.unconfirmed = 0
        self.confirmed = 0
        self._changed = asyncio.Event()

    async def open(self, *, lossy: bool = False) -> None:
        self.epoch += 1
        token = Token(1, self.epoch)
        await self.host.client.deadline(time.clock_gettime(time.CLOCK_BOOTTIME) + 120)
        if self.epoch == 1:
            await self.engine.create()
        await self.engine.start(None)
        await self.engine.follow(None)
        received = await self.engine.received()
        await self.engine.mark(token, f"n{self.epoch}")
        promoted = await self.engine.promote(token, received)
        opening = Opening(token, "EX01", promoted.timeline, promoted.begin_lsn, f"n{self.epoch}", lossy)
        await self.engine.record_opening(opening, prepare)
        await self.engine.admit(True)
        self.state = LocationState.OPEN
        self._tell()

    async def crash(self) -> None:
        self.state = LocationState.ACTIVATING
        self._tell()
        await self.engine.kill()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    # model.authority.Authority

    def serving(self) -> bool:
        return True

    def location(self, database: str) -> Location | None:
        return Location(
            database=database, active="EX01", token=Token(1, self.epoch), state=self.state, set=(Member("EX02", "b"),)
        )

    def endpoint(self, database: str) -> tuple[str, int] | None:
        return ("127.0.0.1", self.host.port) if self.state is LocationState.OPEN else None

    async def location_changed(self, database: str, seen: Location | None, timeout: float) -> Location | None:
        changed = self._changed
        if self.location(database) == seen:
            try:
                async with asyncio.timeout(timeout):
                    await changed.wait()
            except TimeoutError:
                pass
        return self.location(database)

    async def confirm(self, database: str, location: Location) -> None:
        if self.unconfirmed > 0:
            self.unconfirmed -= 1
            raise NotConfirmed("not confirmed")
        self.confirmed += 1


@pytest.fixture
async def server(not_root: None) -> AsyncIterator[OneServer]:
    root = Path(tempfile.mkdtemp(prefix="everpost-test-", dir="/var/tmp"))
    host = Host(root, "EX01", tls.create_authority("Test"))
    host.start_warden()
    one = OneServer(host)
    try:
        await one.open()
        yield one
    finally:
        host.stop()
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
async def store(server: OneServer) -> AsyncIterator[PostgresStore]:
    made = PostgresStore(server, tls.client_context(server.host.tls))
    yield made
    await made.close()
