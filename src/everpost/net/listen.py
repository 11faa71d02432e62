"""Listeners with a bound on connections, by client address and in all."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable

from everpost.net.conn import Connection, NotServing, Serving
from everpost.net.guard import GuardedListener, GuardedSocket

log = logging.getLogger(__name__)

MOST_CONNECTIONS = 2000
MOST_PER_ADDRESS = 1000
"""After a move of all clients to one server they all come at once, many behind one address (findings: H7)."""
STREAM_LIMIT = 256 * 1024

Handler = Callable[[Connection], Awaitable[None]]


class Listener:
    """One port. `context` set: TLS from the first byte."""

    def __init__(self, handler: Handler, authority: Serving, context: ssl.SSLContext | None = None) -> None:
        self._handler = handler
        self._authority = authority
        self._context = context
        self._server: asyncio.Server | None = None
        self._socket: GuardedListener | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._addresses: Counter[str] = Counter()

    async def start(self, host: str, port: int) -> None:
        """Listen on an address of this host."""
        self._socket = GuardedListener(host, port)
        self._server = await asyncio.start_server(
            self._accept, sock=self._socket, ssl=self._context, limit=STREAM_LIMIT, backlog=512
        )

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        guard = self._guard(writer)
        if guard is None:
            writer.transport.abort()
            return
        connection = Connection(reader, writer, self._authority, guard, encrypted=self._context is not None)
        task = asyncio.current_task()
        assert task is not None
        full = len(self._tasks) >= MOST_CONNECTIONS or self._addresses[connection.peer] >= MOST_PER_ADDRESS
        if full:
            connection.abort()
            return
        self._tasks.add(task)
        self._addresses[connection.peer] += 1
        try:
            await self._handler(connection)
        except (ConnectionError, TimeoutError, ssl.SSLError, asyncio.IncompleteReadError) as error:
            if isinstance(error, NotServing):
                log.info("a client of %s was dropped: %s", connection.peer, error)
            connection.abort()
        except Exception:  # one client's conversation must not end the others
            log.exception("conversation with %s", connection.peer)
            connection.abort()
        finally:
            self._tasks.discard(task)
            self._addresses[connection.peer] -= 1
            if self._addresses[connection.peer] <= 0:
                del self._addresses[connection.peer]
            await connection.close()

    def _guard(self, writer: asyncio.StreamWriter) -> GuardedSocket | None:
        shown = writer.get_extra_info("socket")
        return self._socket.accepted.get(shown.fileno()) if self._socket is not None and shown is not None else None

    async def stop(self, seconds: float) -> None:
        """Take no more; what is under way has `seconds` to end."""
        if self._server is not None:
            self._server.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)
        for task in list(self._tasks):
            task.cancel()
