"""Cuts a client's bytes into commands and message data. No sockets; the same bytes give the same events however cut.

A bare CR or LF is refused wherever a line could end (RFC 5321 2.3.8): another server might see an end of data there
that we do not, and what it takes for the next command would have been smuggled past us.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

LONGEST_LINE = 2048
"""Bytes of a command line (RFC 5321 4.5.3.1.4 asks for 512; parameters of extensions add to it)."""
LONGEST_AUTH = 12288
"""Bytes of a line while AUTH goes on (RFC 4954 4)."""
ENDLESS = 4
"""A message is read to its end, to be refused politely, up to so many times the limit; then the conversation ends."""

_END = b"\r\n.\r\n"


class Command(NamedTuple):
    """A command: verb in upper case, and the rest of the line. While AUTH goes on: verb AUTH-DATA."""

    verb: str
    argument: str


class Data(NamedTuple):
    """A message, dots taken away, lines ending in CRLF."""

    content: bytes


class Chunk(NamedTuple):
    """The bytes that BDAT announced; none if they were not to be kept."""

    content: bytes


class Dropped(NamedTuple):
    """A message of `size` bytes was read to its end and thrown away: longer than allowed, or `discard` was called."""

    size: int


class Fault(NamedTuple):
    """What the client sent cannot be taken. The conversation must end: where its next command begins is not certain."""

    text: str


Event = Command | Data | Chunk | Dropped | Fault


class _Mode(enum.Enum):
    COMMAND = enum.auto()
    DATA = enum.auto()
    CHUNK = enum.auto()
    OVER = enum.auto()


class SmtpReader:
    """One conversation's input. `next_event` after `feed`; the session says what kind of input comes next."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._mode = _Mode.COMMAND
        self._auth = False
        self._keep = True
        self._checked = 0
        self._dropped = 0
        self._chunk_left = 0

    @property
    def held(self) -> int:
        """Bytes in memory."""
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        """Bytes from the client."""
        self._buffer += data

    def pending(self) -> bool:
        """Whether bytes wait that were sent already: after STARTTLS that is an attack (RFC 3207 4.2)."""
        return bool(self._buffer)

    def expect_data(self) -> None:
        """354 was sent. The line end of DATA counts as the one before the first line, so every end of data is CRLF.CRLF
        (RFC 5321 4.1.1.4)."""
        self._buffer[:0] = b"\r\n"
        self._mode, self._keep, self._checked, self._dropped = _Mode.DATA, True, 0, 0

    def expect_chunk(self, size: int, *, keep: bool) -> None:
        """BDAT announced `size` bytes. They follow even if the command is refused (RFC 3030 2): read as commands, a
        message could give orders."""
        self._mode, self._keep, self._chunk_left = _Mode.CHUNK, keep, size

    def expect_auth(self, on: bool) -> None:
        """Lines are answers to a challenge, not commands."""
        self._auth = on

    def discard(self) -> bool:
        """Keep nothing of the message that is being read; False if none is."""
        if self._mode in (_Mode.DATA, _Mode.CHUNK):
            self._keep = False
            return True
        return False

    def next_event(self) -> Event | None:
        """The next whole thing, or None. Nothing comes after a Fault."""
        match self._mode:
            case _Mode.COMMAND:
                return self._command()
            case _Mode.DATA:
                return self._data()
            case _Mode.CHUNK:
                return self._chunk()
            case _Mode.OVER:
                return None

    def _fault(self, text: str) -> Fault:
        self._mode = _Mode.OVER
        self._buffer.clear()
        return Fault(text)

    def _take(self, end: int) -> bytes:
        with memoryview(self._buffer) as view:
            taken = bytes(view[:end])
        del self._buffer[:end]
        return taken

    def _command(self) -> Event | None:
        end = self._buffer.find(b"\n")
        limit = LONGEST_AUTH if self._auth else LONGEST_LINE
        if (len(self._buffer) if end < 0 else end + 1) > limit:
            return self._fault("Line too long")
        if end < 0:
            return None
        line = self._take(end + 1)
        if not line.endswith(b"\r\n") or b"\r" in line[:-2] or b"\0" in line:
            return self._fault("Lines end in CR LF")
        text = line[:-2].decode("utf-8", "surrogateescape")
        if self._auth:
            return Command("AUTH-DATA", text)
        verb, _, argument = text.partition(" ")
        return Command(verb.upper(), argument.strip(" \t"))

    def _data(self) -> Event | None:
        buffer = self._buffer
        end = buffer.find(_END, max(self._checked - len(_END), 0))
        # Of an end that is not there yet at most `\r\n.\r` is, and its first two bytes are the message's.
        until, over = (end + 2, end + 2) if end >= 0 else (len(buffer), len(buffer) - 2)
        endless = ENDLESS * self._limit + 2 - self._dropped
        # A CR at the very end may yet be followed by its LF.
        safe = min(until, endless)
        safe -= buffer.endswith(b"\r", 0, safe)
        if not self._lines_end_well(self._checked, safe):
            return self._fault("Bare CR or LF in the message")
        if over > endless:
            return self._fault("Message without end")
        self._checked = safe
        if end >= 0:
            return self._message(until)
        if len(buffer) > self._limit + len(_END):
            self._keep = False
        if not self._keep:
            self._forget(max(safe - len(_END), 0))
        return None

    def _lines_end_well(self, start: int, end: int) -> bool:
        """Whether each CR and each LF there is half of a CRLF; neither boundary may part one."""
        pairs = self._buffer.count(b"\r\n", start, end)
        return self._buffer.count(b"\n", start, end) == pairs == self._buffer.count(b"\r", start, end)

    def _forget(self, count: int) -> None:
        del self._buffer[:count]
        self._checked -= count
        self._dropped += count

    def _message(self, end: int) -> Event:
        content = self._take(end)
        del self._buffer[: len(_END) - 2]
        self._mode = _Mode.COMMAND
        size = self._dropped + len(content) - 2
        if not self._keep or size > self._limit:
            return Dropped(size)
        return Data(content.replace(b"\r\n.", b"\r\n")[2:])

    def _chunk(self) -> Event | None:
        if self._keep:
            if len(self._buffer) < self._chunk_left:
                return None
            content = self._take(self._chunk_left)
        else:
            have = min(self._chunk_left, len(self._buffer))
            del self._buffer[:have]
            self._chunk_left -= have
            if self._chunk_left:
                return None
            content = b""
        self._mode = _Mode.COMMAND
        return Chunk(content)
