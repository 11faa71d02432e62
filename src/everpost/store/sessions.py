"""Connections to the active copies: found by location, given up when it moves, never asked to cancel anything.

An operation runs in a task of its own that nobody cancels. Whoever waits for it may stop waiting; the connection is
then aborted and the outcome unknown, and the operation is repeated by its id at the next location (3.9, 3.10).
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import asyncpg

from everpost.clock import Clock, SystemClock
from everpost.errors import EverpostError, Refused
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
"""Seconds for a connection and its check; nothing was asked yet, so this may be cut short."""
RETRY = 0.03
"""Seconds between tries while the location is open but does not answer yet."""
SLOW_RETRY = 0.5
"""Seconds between tries when the server says itself that it cannot just now (full disk, no memory)."""
FOLLOW = 1.0
"""Seconds after which a location is looked at again without having been told of a change."""

_LOST = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InternalClientError,  # what the driver says of a connection that broke between two statements
)
_AGAIN = (
    asyncpg.UniqueViolationError,  # the first try of this very operation was committed meanwhile
    asyncpg.TransactionRollbackError,  # deadlock, serialization
    asyncpg.OperatorInterventionError,  # shut down, starting, cancelled
    asyncpg.TooManyConnectionsError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InvalidAuthorizationSpecificationError,  # not admitted (any more)
    asyncpg.InvalidCatalogNameError,  # the database `mail` is not made yet
)
_LATER = (asyncpg.InsufficientResourcesError, asyncpg.PostgresSystemError)

_CHECK = """
select current_setting('synchronous_commit') as commit, generation, epoch
  from everpost.opening order by generation desc, epoch desc limit 1
"""
_clock: Clock = SystemClock()


class Moved(Exception):
    """The location changed or its server is gone; the outcome of what was asked is unknown."""

    def __init__(self, why: str, pause: float = RETRY) -> None:
        super().__init__(why)
        self.pause = pause


def remaining(deadline: float | None) -> float | None:
    """Seconds until a deadline (CLOCK_BOOTTIME), not below 0."""
    return None if deadline is None else max(deadline - _clock.boottime(), 0.0)


class Session:
    """One checked connection to one activation of a database."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.doubtful = False
        connection.add_log_listener(self._notice)

    def _notice(self, connection: object, message: Any) -> None:
        # WARNING 01000 "canceling wait for synchronous replication": committed here, perhaps nowhere else. It comes
        # before the answer does, so whoever reads the answer finds `doubtful` set. Nothing else warns with 01000.
        if getattr(message, "sqlstate", "") == "01000":
            self.doubtful = True


class Pool:
    """Connections to one database at one token."""

    def __init__(self, location: Location, endpoint: tuple[str, int], context: ssl.SSLContext) -> None:
        self.location = location
        self.endpoint = endpoint
        self.closed = False
        self._context = context
        self._idle: list[Session] = []
        self._all: set[Session] = set()
        self._wanted: deque[asyncio.Future[Session]] = deque()
        self._connector: asyncio.Task[None] | None = None

    async def take(self, timeout: float | None) -> Session:
        """A free or new session. Raises Moved, also when `timeout` seconds passed: nothing was asked."""
        if self.closed:
            raise Moved("the location changed")
        while self._idle:
            session = self._idle.pop()
            if not session.connection.is_closed():
                return session
            self._all.discard(session)
        wanted: asyncio.Future[Session] = asyncio.get_running_loop().create_future()
        self._wanted.append(wanted)
        self._connect_more()
        try:
            await asyncio.wait({wanted}, timeout=timeout)
        except BaseException:
            self._want_no_more(wanted)
            raise
        if not wanted.done():
            self._want_no_more(wanted)
            raise Moved("no connection yet")
        return wanted.result()

    def _want_no_more(self, wanted: asyncio.Future[Session]) -> None:
        """Whoever waited went away; a session that came at the same moment is kept for the next one."""
        if wanted in self._wanted:
            self._wanted.remove(wanted)
        if wanted.done() and wanted.exception() is None:
            self.give(wanted.result(), broken=False)

    def _connect_more(self) -> None:
        """One connection at a time: a server that has just opened has better things to do than to fork and shake hands
        for every waiter of every process at once, and the first session serves them all soon enough."""
        if self._connector is None or self._connector.done():
            self._connector = asyncio.create_task(self._connect_while_wanted())

    async def _connect_while_wanted(self) -> None:
        while self._wanted and len(self._all) < MOST_CONNECTIONS and not self.closed:
            try:
                session = await self._connect()
            except Moved as error:
                self._fail(error)
                return
            except Exception as error:  # a fault of the driver; whoever waits must hear of it
                self._fail(Moved(f"{type(error).__name__}: {error}"))
                return
            self._hand_over(session)

    def _hand_over(self, session: Session) -> None:
        if self._wanted:
            self._wanted.popleft().set_result(session)
        else:
            self._idle.append(session)

    def _fail(self, error: Moved) -> None:
        while self._wanted:
            # One for each: an exception that is raised in several places collects all their tracebacks.
            self._wanted.popleft().set_exception(Moved(str(error), error.pause))

    async def _connect(self) -> Session:
        host, port = self.endpoint
        try:
            connection: Connection = await asyncpg.connect(
                host=host,
                port=port,
                user="everpost_store",
                database="mail",
                ssl=self._context,
                timeout=CONNECT_LIMIT,
                statement_cache_size=200,
                max_cached_statement_lifetime=0,
            )
        except (*_LOST, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise Moved(str(error)) from error
        try:
            await self._check(connection)
        except BaseException:
            connection.terminate()
            raise
        if self.closed:
            connection.terminate()
            raise Moved("the location changed")
        session = Session(connection)
        self._all.add(session)
        return session

    async def _check(self, connection: Connection) -> None:
        """Raises Moved unless this is the activation that was looked for."""
        question = asyncio.ensure_future(connection.fetchrow(_CHECK))
        question.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.wait({question}, timeout=CONNECT_LIMIT)
        if not question.done():
            raise Moved("the server accepts connections and does not answer")
        try:
            row = question.result()
        except (*_LOST, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise Moved(str(error)) from error
        token = self.location.token
        if row is None or row["commit"] != "on" or (row["generation"], row["epoch"]) != (token.generation, token.epoch):
            raise Moved("another activation answered, or one that does not commit synchronously")

    def give(self, session: Session, *, broken: bool) -> None:
        """Back into the pool, or away."""
        if broken or self.closed or session.connection.is_closed():
            session.connection.terminate()
            self._all.discard(session)
            if self._wanted and not self.closed:
                self._connect_more()
        else:
            self._hand_over(session)

    def close(self) -> None:
        """Abort every connection: whoever waits on one learns at once."""
        self.closed = True
        self._fail(Moved("the location changed"))
        for session in list(self._all):
            session.connection.terminate()
        self._all.clear()
        self._idle.clear()


def _translated(error: asyncpg.PostgresError) -> Exception:
    """What an error of the server means to the caller."""
    match getattr(error, "sqlstate", ""):
        case "EP001":
            return NoSuchFolder("There is no such folder.")
        case "EP002":
            return FolderExists("There is a folder of that name.")
        case "EP003":
            return Refused(str(error))
        case "22000" | "22021":  # the driver's own refusal to encode, and the server's
            return Refused("A name or a flag holds characters that cannot be stored.")
    if isinstance(error, (*_AGAIN, asyncpg.PostgresConnectionError)):
        return Moved(str(error))
    if isinstance(error, _LATER):
        return Moved(str(error), SLOW_RETRY)
    return EverpostError(f"The store failed: {error}.", remedy="This is a fault of the program; see the log.")


class Databases:
    """Runs work on the active copy of a database, wherever it is."""

    def __init__(self, authority: Authority, context: ssl.SSLContext) -> None:
        self._authority = authority
        self._context = context
        self._pools: dict[str, Pool] = {}
        self._followers: dict[str, asyncio.Task[None]] = {}
        self._operations: set[asyncio.Task[Any]] = set()

    async def run(self, database: str, work: Work[T], *, write: bool, deadline: float | None) -> T:
        """The result, acknowledged if `write`. Repeats `work` while locations move; it must be harmless to repeat.
        Raises what the schema's functions refuse; StoreUnavailable when `deadline` (CLOCK_BOOTTIME) passed first."""
        while True:
            pool = await self._pool(database, deadline)
            try:
                session = await pool.take(remaining(deadline))
                result = await self._wait(database, pool, session, work, deadline)
                if write:
                    # Only now, after COMMIT returned, may anybody be told (3.1).
                    await self._authority.confirm(database, self._newest(database, pool))
                return result
            except Moved as moved:
                pause = moved.pause
            except NotConfirmed:
                pause = RETRY
            self._expire(deadline, database)
            if not pool.closed:
                await asyncio.sleep(pause)

    @staticmethod
    def _expire(deadline: float | None, database: str) -> None:
        if remaining(deadline) == 0.0:
            raise StoreUnavailable(f"{database} is not available just now.", remedy="Try again in a moment.")

    async def _pool(self, database: str, deadline: float | None) -> Pool:
        """Connections to where the database is open, as soon as it is."""
        while True:
            pool = self._current(database)
            if pool is not None:
                return pool
            self._expire(deadline, database)
            left = remaining(deadline)
            seen = self._authority.location(database)
            await self._authority.location_changed(database, seen, FOLLOW if left is None else min(left, FOLLOW))

    def _current(self, database: str) -> Pool | None:
        location = self._authority.location(database)
        endpoint = self._authority.endpoint(database)
        pool = self._pools.get(database)
        if pool is not None:
            if location is not None and (location.token, endpoint) == (pool.location.token, pool.endpoint):
                return pool
            del self._pools[database]
            pool.close()
        if location is None or endpoint is None:
            return None
        pool = self._pools[database] = Pool(location, endpoint, self._context)
        if database not in self._followers:
            self._followers[database] = asyncio.create_task(self._follow(database))
        return pool

    async def _follow(self, database: str) -> None:
        """Abort the connections to a place as soon as the database is not there any more. What waited on them, on a
        host that does not answer for instance, is repeated at the next one."""
        while True:
            seen = self._authority.location(database)
            self._current(database)
            await self._authority.location_changed(database, seen, FOLLOW)

    async def _wait(self, database: str, pool: Pool, session: Session, work: Work[T], deadline: float | None) -> T:
        task = asyncio.create_task(self._operate(pool, session, work))
        self._operations.add(task)
        task.add_done_callback(self._operated)
        done, _ = await asyncio.wait({task}, timeout=remaining(deadline))
        if not done:
            # The wait is over, not the operation: its outcome is unknown. Aborted, never cancelled (3.9).
            session.connection.terminate()
            self._expire(deadline, database)
        return await asyncio.shield(task)

    def _operated(self, task: asyncio.Task[Any]) -> None:
        self._operations.discard(task)
        if not task.cancelled():
            task.exception()

    @staticmethod
    async def _operate(pool: Pool, session: Session, work: Work[T]) -> T:
        broken = True
        try:
            result = await work(session.connection)
            if session.doubtful:
                raise Moved("the wait for the set was cancelled")
            broken = False
            return result
        except asyncpg.PostgresError as error:
            translated = _translated(error)
            broken = isinstance(translated, Moved)
            raise translated from error
        except _LOST as error:
            raise Moved(str(error)) from error
        except Exception as error:
            if session.connection.is_closed():
                raise Moved(f"{type(error).__name__} on a lost connection: {error}") from error
            raise
        finally:
            pool.give(session, broken=broken)

    def _newest(self, database: str, pool: Pool) -> Location:
        location = self._authority.location(database)
        return location if location is not None and location.token == pool.location.token else pool.location

    async def close(self) -> None:
        """Abort all connections."""
        for follower in self._followers.values():
            follower.cancel()
        for pool in self._pools.values():
            pool.close()
        self._pools.clear()
        await asyncio.gather(*self._followers.values(), *self._operations, return_exceptions=True)
        self._followers.clear()
