"""A store on a real PostgreSQL, opened as an activation opens it, and the authority that says where it is."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from everpost.databases.engine import PostgresEngine
from everpost.model.authority import NotConfirmed
from everpost.model.database import Location, LocationState, Member, Opening, Token
from everpost.model.recipient import MailboxRef
from everpost.net import tls
from everpost.store.interface import Store
from everpost.store.memory import MemoryStore
from everpost.store.migrate import migrate, scripts
from everpost.store.postgres import PostgresStore
from tests.databases.conftest import Host, not_root

__all__ = ["not_root"]


@contextmanager
def as_user() -> Iterator[None]:
    """PostgreSQL refuses root: as root, act as user `everpost`."""
    if os.geteuid() != 0:
        yield
        return
    user = pwd.getpwnam("everpost")
    os.setresgid(user.pw_gid, user.pw_gid, 0)
    os.setresuid(user.pw_uid, user.pw_uid, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)


async def prepare(connection: object, opening: Opening) -> None:
    await migrate(connection, lossy=opening.lossy, anew=opening.until is not None)  # type: ignore[arg-type]


class OneServer:
    """An engine that can be activated again. `port` is where clients are sent: a test may put a proxy there."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.engine: PostgresEngine = host.engine()
        self.port = host.port
        self.generation = 1
        self.epoch = 0
        self.state = LocationState.CLOSED
        self.unconfirmed = 0
        self.confirmed = 0
        self._changed = asyncio.Event()

    async def open(self, *, lossy: bool = False, until: float | None = None) -> None:
        self.epoch += 1
        token = Token(self.generation, self.epoch)
        await self.host.client.deadline(time.clock_gettime(time.CLOCK_BOOTTIME) + 600)
        if self.epoch == 1:
            await self.engine.create()
        await self.engine.start(None)
        await self.engine.follow(None)
        received = await self.engine.received()
        nonce = uuid.uuid4().hex
        await self.engine.mark(token, nonce)
        promoted = await self.engine.promote(token, received)
        opening = Opening(token, "EX01", promoted.timeline, promoted.begin_lsn, nonce, lossy, until=until)
        await self.engine.record_opening(opening, prepare)
        await self.engine.admit(True)
        self.say(LocationState.OPEN)

    async def crash(self) -> None:
        self.say(LocationState.ACTIVATING)
        await self.engine.kill()

    def say(self, state: LocationState) -> None:
        """The location has that state now."""
        self.state = state
        self._changed.set()
        self._changed = asyncio.Event()

    # model.authority.Authority

    def serving(self) -> bool:
        return True

    def location(self, database: str) -> Location | None:
        token = Token(self.generation, self.epoch)
        return Location(database=database, active="EX01", token=token, state=self.state, set=(Member("EX02", "b"),))

    def endpoint(self, database: str) -> tuple[str, int] | None:
        return ("127.0.0.1", self.port) if self.state is LocationState.OPEN else None

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


@asynccontextmanager
async def one_server() -> AsyncIterator[OneServer]:
    root = Path(tempfile.mkdtemp(prefix="everpost-test-", dir="/var/tmp"))
    host = Host(root, "EX01", tls.create_authority("Test"))
    host.start_warden()
    try:
        one = OneServer(host)
        await one.open()
        yield one
    finally:
        host.stop()
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
async def server(not_root: None) -> AsyncIterator[OneServer]:
    """A server of one test alone."""
    async with one_server() as one:
        yield one


@pytest.fixture
async def store(server: OneServer) -> AsyncIterator[PostgresStore]:
    made = PostgresStore(server, tls.client_context(server.host.tls))
    yield made
    await made.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def module_server() -> AsyncIterator[OneServer]:
    with as_user():
        async with one_server() as one:
            yield one


async def empty(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """No mail, and the schema as it should be."""
    await connection.execute("alter role everpost_store reset all")
    for script in scripts():
        await connection.execute(script)
    for row in await connection.fetch("select tablename from pg_tables where schemaname = 'everpost_mail'"):
        await connection.execute(f"truncate everpost_mail.{row['tablename']}")


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["memory", "postgres"])
async def any_store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    """Each kind of store, shared by the tests of a module; each test takes a mailbox of its own."""
    if request.param == "memory":
        yield MemoryStore()
        return
    with as_user():
        async with one_server() as one:
            made = PostgresStore(one, tls.client_context(one.host.tls))
            yield made
            await made.close()


@pytest.fixture
def box() -> MailboxRef:
    """A new mailbox."""
    return MailboxRef("MB01", str(uuid.uuid4()))


async def until(condition: Callable[[], Awaitable[object]], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < end, "it did not come to that"
        await asyncio.sleep(0.02)


async def ask(server: OneServer, query: str) -> Any:
    """One value, as superuser, past the store."""
    return await server.engine._mail.ask(lambda connection: connection.fetchval(query))
