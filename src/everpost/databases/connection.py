"""The agent's own connections to its PostgreSQL: over the Unix socket, bounded in time, never cancelling a COMMIT."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import asyncpg

from everpost.databases.config import SUPERUSER
from everpost.errors import Unavailable

T = TypeVar("T")
if TYPE_CHECKING:
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection  # subscriptable in its stubs only

_LOST = (OSError, asyncpg.InterfaceError, asyncpg.PostgresConnectionError, asyncpg.InternalClientError)
POLL, POLL_MOST = 0.003, 0.02
ANSWER = 1.5
"""Seconds after which a question to the own PostgreSQL counts as unanswered."""


async def connect(sockets: Path, port: int, database: str) -> Connection:
    """A superuser connection over the Unix socket. Raises Unavailable."""
    try:
        connection: Connection = await asyncpg.connect(
            host=str(sockets), port=port, user=SUPERUSER, database=database, timeout=ANSWER
        )
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise Unavailable(f"PostgreSQL on port {port} does not answer: {error or type(error).__name__}.") from error
    return connection


class Line:
    """One kept connection to one database of the instance; a question at a time."""

    def __init__(self, sockets: Path, port: int, database: str) -> None:
        self._sockets = sockets
        self._port = port
        self._database = database
        self._connection: Connection | None = None
        self._lock = asyncio.Lock()
        self.on_lost: Callable[[], None] = lambda: None
        """Called when the server ended the connection."""

    @property
    def up(self) -> bool:
        """Whether it is connected, as far as is known without asking."""
        return self._connection is not None and not self._connection.is_closed()

    def drop(self) -> None:
        """Abort it; never asks the server to cancel anything."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    def _ended(self, connection: object) -> None:
        if connection is self._connection:
            self.on_lost()

    async def ask(self, question: Callable[[Connection], Awaitable[T]], limit: float | None = ANSWER) -> T:
        """The answer within `limit` seconds, or the connection is dropped and Unavailable raised. What the server had
        begun goes on there: the outcome is unknown, so `question` must be a read or harmless when repeated."""
        async with self._lock:
            if not self.up:
                self._connection = await connect(self._sockets, self._port, self._database)
                self._connection.add_termination_listener(self._ended)
            assert self._connection is not None
            task = asyncio.ensure_future(_finish(question(self._connection)))
            try:
                done, _ = await asyncio.wait({task}, timeout=limit)
            except asyncio.CancelledError:
                self.drop()
                raise
            if not done:
                self.drop()
                raise Unavailable(f"PostgreSQL on port {self._port} did not answer within {limit} s.")
            try:
                return task.result()
            except _LOST as error:
                self.drop()
                raise Unavailable(f"PostgreSQL on port {self._port} went away: {error}.") from error
            except asyncpg.PostgresError as error:
                raise Unavailable(f"PostgreSQL on port {self._port} says: {error}.") from error

    async def row(self, sql: str, *arguments: Any, limit: float | None = ANSWER) -> asyncpg.Record:
        """The only row of a query."""

        async def question(connection: Connection) -> asyncpg.Record:
            row = await connection.fetchrow(sql, *arguments)
            assert row is not None
            return row

        return await self.ask(question, limit)

    async def until(self, sql: str, limit: float) -> bool:
        """Ask until the only column is true; whether it came true within `limit` seconds. The longer it takes the less
        often it is asked: who asks a busy host all the time only delays what he waits for."""
        began = time.monotonic()
        while not (await self.row(sql))[0]:
            waited = time.monotonic() - began
            if waited > limit:
                return False
            await asyncio.sleep(min(max(waited / 8, POLL), POLL_MOST))
        return True


async def _finish(answer: Awaitable[T]) -> T:
    return await answer


class CommitProbe:
    """A commit of the agent's own that writes WAL and no row. Given up by aborting its connection, never cancelled."""

    _SQL = "select pg_logical_emit_message(true, 'everpost', 'probe')"

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._pid = connection.get_server_pid()
        self._task = asyncio.ensure_future(_finish(connection.execute(self._SQL)))
        self._task.add_done_callback(lambda task: task.cancelled() or task.exception())

    @property
    def waiter(self) -> str:
        """Its backend, as `Positions.waiters` shows it."""
        return str(self._pid)

    @property
    def done(self) -> bool:
        """Whether COMMIT has returned, or the connection broke."""
        return self._task.done()

    def abandon(self) -> None:
        """Abort the connection."""
        self._connection.terminate()
