"""Cuts a client's bytes into commands and message data. No sockets; the same bytes give the same events however cut.

A bare CR or LF is refused wherever a line could end (RFC 5321 2.3.8): another server might see an end of data there
that we do not, and what it takes for the next command would have been smuggled past us.
"""

from __future__ import annotations

from typing import NamedTuple

LONGEST_LINE = 2048
"""Bytes of a command line (RFC 5321 4.5.3.1.4 asks for 512; parameters of extensions add to it)."""
LONGEST_AUTH = 12288
"""Bytes of a line while AUTH goes on (RFC 4954 4)."""


class Command(NamedTuple):
    """A command: verb in upper case, and the rest of the line."""

    verb: str
    argument: str


class Data(NamedTuple):
    """A message, dots taken away, lines ending in CRLF; or the bytes of a BDAT chunk."""

    content: bytes


class TooBig(NamedTuple):
    """The message was longer than allowed; it was read to its end and thrown away."""

    size: int


class Fault(NamedTuple):
    """What the client sent cannot be taken; `fatal`: the conversation must end."""

    text: str
    fatal: bool


Event = Command | Data | TooBig | Fault


class SmtpReader:
    """One conversation's input. `next_event` after `feed`; the session says what kind of input comes next."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._mode = "command"
        self._chunk_left = 0
        self._auth = False
        self._looked = 0
        self._size = 0

    def feed(self, data: bytes) -> None:
        """Bytes from the client."""
        self._buffer += data

    def pending(self) -> bool:
        """Whether bytes wait that were sent already: after STARTTLS that is an attack (RFC 3207 4.2)."""
        return bool(self._buffer)

    def expect_data(self) -> None:
        """354 was sent."""
        self._mode, self._looked = "data", 0

    def expect_chunk(self, size: int) -> None:
        """BDAT announced `size` bytes (RFC 3030)."""
        self._mode, self._chunk_left = "chunk", size

    def expect_auth(self, on: bool) -> None:
        """Lines are answers to a challenge, not commands (verb AUTH-DATA)."""
        self._auth = on

    def next_event(self) -> Event | None:
        """The next whole thing, or None."""
        if self._mode == "chunk":
            return self._chunk()
        if self._mode == "data":
            return self._data()
        return self._command()

    def _command(self) -> Event | None:
        end = self._buffer.find(b"\n")
        limit = LONGEST_AUTH if self._auth else LONGEST_LINE
        if end < 0:
            return Fault("line too long", True) if len(self._buffer) > limit else None
        line = bytes(self._buffer[: end + 1])
        del self._buffer[: end + 1]
        if len(line) > limit:
            return Fault("line too long", True)
        if not line.endswith(b"\r\n") or b"\r" in line[:-2] or b"\0" in line:
            return Fault("lines end in CR LF", True)
        text = line[:-2].decode("utf-8", "surrogateescape")
        if self._auth:
            return Command("AUTH-DATA", text)
        verb, _, argument = text.partition(" ")
        return Command(verb.upper(), argument.strip())

    def _data(self) -> Event | None:
        buffer = self._buffer
        if buffer[:3] == b".\r\n":
            end, skip = 0, 3
        else:
            end = buffer.find(b"\r\n.\r\n", max(self._looked - 5, 0))
            if end < 0:
                self._data_waits()
                return None
            end, skip = end + 2, 3
        content = bytes(buffer[:end])
        del buffer[: end + skip]
        self._mode, self._looked = "command", 0
        size, self._size = self._size + len(content), 0
        if size > self._limit:
            return TooBig(size)
        if content.count(b"\n") != content.count(b"\r\n") or content.count(b"\r") != content.count(b"\r\n"):
            return Fault("bare CR or LF in the message", True)
        if content.startswith(b".") or b"\r\n." in content:
            content = content.replace(b"\r\n.", b"\r\n").removeprefix(b".")
        return Data(content)

    def _data_waits(self) -> None:
        """Bound the memory of a message that is too long, and remember how far was looked."""
        if len(self._buffer) > self._limit + 1024:
            drop = len(self._buffer) - 8
            self._size += drop
            del self._buffer[:drop]
        self._looked = len(self._buffer)

    def _chunk(self) -> Event | None:
        if len(self._buffer) < self._chunk_left:
            return None
        content = bytes(self._buffer[: self._chunk_left])
        del self._buffer[: self._chunk_left]
        self._mode = "command"
        return Data(content)
