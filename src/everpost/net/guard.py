"""Sockets that look at the tenure immediately before each system call that sends (architecture 3.8).

What a slow client has not taken yet waits in the process, behind `write`. A process that was frozen resumes by sending
exactly that, so the look belongs here, under the event loop's transports and under TLS. What waits when the tenure ends
is dropped with its connection.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakValueDictionary

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class Valid(Protocol):
    """`net.conn.Permit`."""

    def valid(self) -> bool:
        """Whether what was computed under it may be sent."""


class GuardedSocket(socket.socket):
    """`permit`: under which what is sent from now on was computed; None before anything was (a TLS handshake)."""

    permit: Valid | None = None

    def acknowledge(self) -> None:
        """Tell the client now that its bytes have come. One that writes a literal and its line end apart (imaplib does)
        has the second held back by its own kernel until then, and ours would say it 40 ms later, with an answer that
        nobody can give before the rest is here."""
        if self.fileno() >= 0:
            self.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def _look(self) -> None:
        if self.permit is not None and not self.permit.valid():
            raise ConnectionAbortedError("the tenure under which this was computed is over")

    def send(self, data: ReadableBuffer, flags: int = 0, /) -> int:
        """Raises ConnectionAbortedError instead of sending without a tenure."""
        self._look()
        return super().send(data, flags)

    def sendmsg(
        self,
        buffers: Iterable[ReadableBuffer],
        ancdata: Iterable[Any] = (),
        flags: int = 0,
        address: Any = None,
        /,
    ) -> int:
        """As `send`."""
        self._look()
        return super().sendmsg(buffers, ancdata, flags, address)


class GuardedListener(socket.socket):
    """Accepts guarded sockets; `accepted` has them by descriptor."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        self.accepted: WeakValueDictionary[int, GuardedSocket] = WeakValueDictionary()
        try:
            self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.bind((host, port))
        except OSError:
            self.close()
            raise

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection."""
        plain, address = super().accept()
        guarded = GuardedSocket(plain.family, plain.type, plain.proto, fileno=plain.detach())
        self.accepted[guarded.fileno()] = guarded
        return guarded, address
