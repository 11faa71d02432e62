"""Connections to the active copies: found by location, given up when it moves, never asked to cancel anything.

An operation runs in a task of its own that nobody cancels. Whoever waits for it may stop waiting; the connection is
then aborted and the outcome unknown, and the operation is repeated by its id at the next location (3.9, 3.10).
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import asyncpg

from everpost.model.authority import Authority, NotConfirmed
from everpost.model.database import Location
from everpost.store.interface import FolderExists, NoSuchFolder, StoreUnavailable

if TYPE_CHECKING:
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection

T = TypeVar("T")
Work = Callable[[Connection], Awaitable[T]]

MOST_CONNECTIONS = 8
"""Per database and process: group commit makes more useless, and every process has its own."""
CONNECT_LIMIT = 1.0
RETRY = 0.02
"""Seconds between tries while the location is open but does not answer yet."""
SILENCE = 0.25
"""Seconds between looks whether the location moved while an operation is under way."""
_LOST = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.InternalClientError,  # what the driver says of a connection that broke between two statements
)
_AGAIN = (
    asyncpg.UniqueViolationError,  # the first try of this very operation was committed meanwhile
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InvalidAuthorizationSpecificationError,  # not admitted (any more)
    asyncpg.ForeignKeyViolationError,  # content expunged while it was being copied
)


class Moved(Exception):
    """The location changed or its server is gone; the outcome of what was asked is unknown."""


class Session:
    """One checked connection to one activation of a database."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.doubtful = False
        connection.add_log_listener(self._notice)

    def _notice(self, connection: object, message: Any) -> None:
        # WARNING 01000 "canceling wait for synchronous replication": committed here, perhaps nowhere else.
        if "synchronous replication" in str(getattr(message, "message", message)):
            self.doubtful = True


class Pool:
    """Connections to one database at one token."""

    def __init__(self, location: Location, endpoint: tuple[str, int], context: ssl.SSLContext) -> None:
        self.location = location
        self._endpoint = endpoint
        self._context = context
        self._idle: list[Session] = []
        self._all: set[Session] = set()
        self._slots = asyncio.Semaphore(MOST_CONNECTIONS)
        self.closed = False

    async def take(self) -> Session:
        """A free or new session. Raises Moved."""
        await self._slots.acquire()
        while self._idle:
            session = self._idle.pop()
            if not session.connection.is_closed():
                return session
            self._all.discard(session)
        try:
            return await self._connect()
        except BaseException:
            self._slots.release()
            raise

    async def _connect(self) -> Session:
        host, port = self._endpoint
        try:
            connection: Connection = await asyncpg.connect(
                host=host,
                port=port,
                user="everpost_store",
                database="mail",
                ssl=self._context,
                timeout=CONNECT_LIMIT,
                statement_cache_size=200,
            )
        except (*_LOST, asyncpg.PostgresError) as error:
            raise Moved(str(error)) from error
        if self.closed:
            connection.terminate()
            raise Moved("the location changed while connecting")
        session = Session(connection)
        self._all.add(session)
        try:
            row = await asyncio.wait_for(
                asyncio.shield(
                    asyncio.ensure_future(
                        connection.fetchrow(
                            "select current_setting('synchronous_commit') as commit,"
                            " (select max(epoch) from everpost.opening) as epoch"
                        )
                    )
                ),
                CONNECT_LIMIT,
            )
        except (*_LOST, asyncpg.PostgresError) as error:
            self._drop(session)
            raise Moved(str(error)) from error
        if row is None or row["commit"] != "on" or row["epoch"] != self.location.token.epoch:
            self._drop(session)
            raise Moved("another activation answered, or one that does not commit synchronously")
        return session

    def _drop(self, session: Session) -> None:
        session.connection.terminate()
        self._all.discard(session)

    def give(self, session: Session, *, broken: bool) -> None:
        """Back into the pool, or away."""
        if broken or self.closed or session.connection.is_closed():
            self._drop(session)
        else:
            self._idle.append(session)
        self._slots.release()

    def close(self) -> None:
        """Abort every connection: whoever waits on one learns at once."""
        self.closed = True
        for session in list(self._all):
            self._drop(session)
        self._idle.clear()


class Databases:
    """Runs work on the active copy of a database, wherever it is."""

    def __init__(self, authority: Authority, context: ssl.SSLContext) -> None:
        self._authority = authority
        self._context = context
        self._pools: dict[str, Pool] = {}

    async def run(self, database: str, work: Work[T], *, write: bool, deadline: float | None) -> T:
        """The result, acknowledged if `write`. Repeats `work` while locations move; it must be harmless to repeat.
        Raises NoSuchFolder, FolderExists, and StoreUnavailable when `deadline` (CLOCK_BOOTTIME) passed first."""
        while True:
            pool = await self._pool(database, deadline)
            try:
                return await self._once(pool, database, work, write=write, deadline=deadline)
            except (Moved, NotConfirmed):
                self._expire(deadline, database)
                await asyncio.sleep(RETRY)

    def _expire(self, deadline: float | None, database: str) -> None:
        if deadline is not None and time.clock_gettime(time.CLOCK_BOOTTIME) >= deadline:
            raise StoreUnavailable(f"{database} is not available just now.", remedy="Try again in a moment.")

    async def _pool(self, database: str, deadline: float | None) -> Pool:
        while True:
            location = self._authority.location(database)
            endpoint = self._authority.endpoint(database)
            pool = self._pools.get(database)
            if pool is not None and (location is None or location.token != pool.location.token or endpoint is None):
                del self._pools[database]
                pool.close()
                pool = None
            if location is not None and endpoint is not None:
                if pool is None:
                    pool = self._pools[database] = Pool(location, endpoint, self._context)
                return pool
            self._expire(deadline, database)
            left = 1.0 if deadline is None else deadline - time.clock_gettime(time.CLOCK_BOOTTIME)
            await self._authority.location_changed(database, location, min(max(left, 0.01), 1.0))

    async def _once(self, pool: Pool, database: str, work: Work[T], *, write: bool, deadline: float | None) -> T:
        task = asyncio.ensure_future(self._work(pool, database, work, write=write))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        while True:
            done, _ = await asyncio.wait({task}, timeout=SILENCE)
            if done:
                return task.result()
            location = self._authority.location(database)
            if location is None or location.token != pool.location.token:
                # The task ends by itself as its connection is aborted; its outcome is settled by the repetition.
                if self._pools.get(database) is pool:
                    del self._pools[database]
                pool.close()
                raise Moved("the location changed")
            self._expire(deadline, database)

    async def _work(self, pool: Pool, database: str, work: Work[T], *, write: bool) -> T:
        session = await pool.take()
        broken = True
        try:
            result = await work(session.connection)
            if session.doubtful:
                raise Moved("the wait for the set was cancelled")
            broken = False
        except asyncpg.PostgresError as error:
            broken = isinstance(error, asyncpg.PostgresConnectionError)
            state = getattr(error, "sqlstate", "")
            if state == "EP001":
                raise NoSuchFolder("There is no such folder.") from error
            if state == "EP002":
                raise FolderExists("There is a folder of that name.") from error
            if isinstance(error, (*_AGAIN, asyncpg.PostgresConnectionError)):
                raise Moved(str(error)) from error
            raise
        except _LOST as error:
            raise Moved(str(error)) from error
        except Exception as error:
            if session.connection.is_closed():
                raise Moved(f"{type(error).__name__} on a lost connection: {error}") from error
            raise
        finally:
            pool.give(session, broken=broken)
        if write:
            await self._authority.confirm(database, self._newest(database, pool))
        return result

    def _newest(self, database: str, pool: Pool) -> Location:
        location = self._authority.location(database)
        return location if location is not None and location.token == pool.location.token else pool.location

    def close(self) -> None:
        """Abort all connections."""
        for pool in self._pools.values():
            pool.close()
        self._pools.clear()
