"""Listeners with a bound on connections, by client address and in all."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Container

from everpost.net import proxy
from everpost.net.conn import Connection, NotServing, Serving
from everpost.net.guard import GuardedListener, GuardedSocket

log = logging.getLogger(__name__)

MOST_CONNECTIONS = 2000
MOST_PER_ADDRESS = 1000
"""After a move of all clients to one server they all come at once, many behind one address (findings: H7)."""
STREAM_LIMIT = 256 * 1024
HEADER_LIMIT = 3.0
"""Seconds a balancer has for its PROXY header, which it sends first of all."""

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
        await self._serve(Connection(reader, writer, self._authority, guard, encrypted=self._context is not None))

    async def _serve(self, connection: Connection) -> None:
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


Begin = Callable[[GuardedSocket, str], Awaitable[None]]


class ProxiedSockets:
    """A port for the balancers of the client access array alone: a connection comes from a `trusted` address and begins
    with a PROXY header; anything else is closed unanswered. The header is read byte-exact from the bare socket, so
    nothing that follows it can be taken for a part of it, nor a part of it for what the client says; TLS begins behind
    it. `begin(socket, client)` goes on."""

    def __init__(self, begin: Begin, trusted: Callable[[], Container[str]]) -> None:
        self._begin = begin
        self._trusted = trusted
        self._listening: GuardedListener | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._heads: set[asyncio.Task[None]] = set()

    def start(self, host: str, port: int) -> None:
        """Listen on an address of this host."""
        self._listening = GuardedListener(host, port)
        self._listening.setblocking(False)
        self._listening.listen(512)
        self._accepting = asyncio.create_task(self._accept_forever(self._listening))

    async def _accept_forever(self, listening: GuardedListener) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, address = await loop.sock_accept(listening)
            except OSError as error:
                log.warning("no connection accepted: %s", error)
                await asyncio.sleep(0.1)
                continue
            if address[0] not in self._trusted() or len(self._heads) >= MOST_CONNECTIONS:
                accepted.close()
                continue
            assert isinstance(accepted, GuardedSocket)
            task = asyncio.create_task(self._head(accepted, str(address[0])))
            self._heads.add(task)
            task.add_done_callback(self._heads.discard)

    async def _head(self, accepted: GuardedSocket, balancer: str) -> None:
        try:
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            async with asyncio.timeout(HEADER_LIMIT):
                fixed = await _exactly(accepted, proxy.FIXED)
                client = proxy.source(fixed, await _exactly(accepted, proxy.length(fixed)))
            await self._begin(accepted, client or balancer)
        except (OSError, TimeoutError, EOFError) as error:
            log.info("a connection of the balancer at %s was dropped: %s", balancer, str(error) or type(error).__name__)
            accepted.close()

    def stop(self) -> None:
        """Take no more."""
        if self._accepting is not None:
            self._accepting.cancel()
        if self._listening is not None:
            self._listening.close()
        for task in list(self._heads):
            task.cancel()


class ProxiedListener(Listener):
    """The same conversations as a `Listener` has, on a port of `ProxiedSockets`."""

    def __init__(
        self,
        handler: Handler,
        authority: Serving,
        trusted: Callable[[], Container[str]],
        context: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(handler, authority, context)
        self._sockets = ProxiedSockets(self._begin, trusted)
        self._talks: set[asyncio.Task[None]] = set()

    async def start(self, host: str, port: int) -> None:
        self._sockets.start(host, port)

    async def _begin(self, accepted: GuardedSocket, client: str) -> None:
        loop = asyncio.get_running_loop()
        begun: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = loop.create_future()
        reader = asyncio.StreamReader(limit=STREAM_LIMIT)
        protocol = asyncio.StreamReaderProtocol(reader, lambda r, w: begun.set_result((r, w)))
        await loop.connect_accepted_socket(lambda: protocol, accepted, ssl=self._context)
        _, writer = await begun
        connection = Connection(reader, writer, self._authority, accepted, encrypted=self._context is not None)
        connection.peer = client
        talk = asyncio.create_task(self._serve(connection))  # a head counts only until the talk begins
        self._talks.add(talk)
        talk.add_done_callback(self._talks.discard)

    async def stop(self, seconds: float) -> None:
        """Take no more; what is under way has `seconds` to end."""
        self._sockets.stop()
        await super().stop(seconds)


async def _exactly(accepted: GuardedSocket, size: int) -> bytes:
    """That many bytes of the bare socket, and not one more. Raises EOFError."""
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < size:
        more = await loop.sock_recv(accepted, size - len(data))
        if not more:
            raise EOFError("closed within the PROXY header")
        data += more
    return data
