"""Cuts a client's bytes into commands, literals included; the same bytes give the same commands however cut."""

from __future__ import annotations

import re
from typing import NamedTuple

LONGEST_LINE = 64 * 1024
LITERAL = re.compile(rb"\{(\d{1,10})(\+?)\}$")
MARK = b"\x00"
"""Stands for a literal in the text of a command; NUL itself is not allowed there."""


class Command(NamedTuple):
    """A whole command without its CRLF: each literal is a MARK in `text`, in the order of `literals`."""

    text: bytes
    literals: tuple[bytes, ...]


class Continue(NamedTuple):
    """A synchronising literal was announced: say `+ ` and its bytes come."""


class Fault(NamedTuple):
    """The input cannot be taken. `fatal`: it is not even known where the next command begins."""

    text: str
    fatal: bool
    tag: bytes = b""


Event = Command | Continue | Fault


class CommandReader:
    """`limit` bytes of literals are taken; small before log-in."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._buffer = bytearray()
        self._text = bytearray()
        self._literals: list[bytes] = []
        self._wanted: int | None = None
        self._taken = 0

    def feed(self, data: bytes) -> None:
        """Bytes from the client."""
        self._buffer += data

    def pending(self) -> bool:
        """Whether bytes wait: behind STARTTLS that is an attack."""
        return bool(self._buffer)

    def overlong(self) -> bool:
        """Whether what waits is no line and longer than any line may be."""
        return len(self._buffer) > LONGEST_LINE and b"\n" not in self._buffer

    def take_line(self) -> bytes | None:
        """A plain line outside the command syntax: the answer to a challenge, or DONE."""
        end = self._buffer.find(b"\n")
        if end < 0:
            return None
        line = bytes(self._buffer[:end]).removesuffix(b"\r")
        del self._buffer[: end + 1]
        return line

    def next_event(self) -> Event | None:
        """The next whole command, or what must happen before it can come."""
        while True:
            if self._wanted is not None:
                if len(self._buffer) < self._wanted:
                    return None
                self._literals.append(bytes(self._buffer[: self._wanted]))
                del self._buffer[: self._wanted]
                self._text += MARK
                self._wanted = None
            end = self._buffer.find(b"\n")
            if end < 0:
                if len(self._buffer) > LONGEST_LINE:
                    return Fault("the line is too long", True)
                return None
            line = bytes(self._buffer[:end]).removesuffix(b"\r")
            del self._buffer[: end + 1]
            if len(line) + len(self._text) > LONGEST_LINE or MARK in line or b"\r" in line:
                return Fault("the line is too long or holds a NUL or a bare CR", True)
            found = LITERAL.search(line)
            if found is None:
                command = Command(bytes(self._text + line), tuple(self._literals))
                self._text.clear()
                self._literals = []
                self._taken = 0
                return command
            self._text += line[: found.start()]
            size = int(found[1])
            self._taken += size
            if self._taken > self.limit:
                # A literal that was not asked for is on its way and cannot be told from commands.
                tag = bytes(self._text).split(b" ")[0]
                self._text.clear()
                self._literals, self._taken = [], 0
                return Fault("the literal is too large", bool(found[2]), tag)
            self._wanted = size
            if not found[2]:
                return Continue()
