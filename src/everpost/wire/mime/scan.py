"""One pass over a message: its parts, nested, with byte offsets. No recursion, bounded depth and number."""

from __future__ import annotations

import msgspec

from everpost.wire.mime import headers
from everpost.wire.mime.headers import Fields, Parameters

MOST_DEPTH = 30
MOST_PARTS = 10_000
MOST_HEADER_BYTES = 4 * 1024 * 1024
"""Of all parts together that are looked at: beyond it parts count as having no header. Bounds the time for a message
that is nothing but headers."""
MOST_PADDING = 1000
"""Bytes behind a boundary that may be spaces (RFC 2046 5.1.1: linear white space)."""


class Part(msgspec.Struct, array_like=True):
    """A part: `raw[start:body]` is its header with the empty line, `raw[body:end]` its body.

    `children`: of a multipart, or the one message inside a message/rfc822. `lines` of the body.
    """

    start: int
    body: int
    end: int
    kind: bytes
    subtype: bytes
    lines: int = 0
    children: list[Part] = []

    @property
    def multipart(self) -> bool:
        return self.kind == b"multipart"

    @property
    def message(self) -> bool:
        return self.kind == b"message" and self.subtype in (b"rfc822", b"global")


class Scanner:
    """The parts of a message, and what is known of each by `id(part)` for as long as the parts live."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.fields: dict[int, Fields] = {}
        self.parameters: dict[int, Parameters] = {}
        """Of the content types."""
        self._count = 0
        self._header_bytes = 0
        self.root = self._part(0, len(raw), digest=False)
        todo = [(self.root, 0)]
        while todo:
            part, depth = todo.pop()
            if depth < MOST_DEPTH and self._count < MOST_PARTS:
                part.children = self._children(part)
                todo += [(child, depth + 1) for child in part.children]
            if not part.children:
                self._plain(part)
            part.lines = raw.count(b"\n", part.body, part.end)

    def _part(self, start: int, end: int, *, digest: bool) -> Part:
        self._count += 1
        body = headers.split_header(self.raw, start, end)
        found: Fields = []
        if self._header_bytes < MOST_HEADER_BYTES:
            found = headers.fields(self.raw, start, body)
            self._header_bytes += body - start
        kind, subtype, parameters = headers.content_type(found)
        if digest and headers.first(found, b"content-type") is None:
            kind, subtype, parameters = b"message", b"rfc822", []
        part = Part(start, body, end, kind, subtype)
        self.fields[id(part)] = found
        self.parameters[id(part)] = parameters
        return part

    def _children(self, part: Part) -> list[Part]:
        if part.message:
            return [self._part(part.body, part.end, digest=False)]
        if part.multipart:
            boundary = (headers.parameter(self.parameters[id(part)], b"boundary") or b"").rstrip()
            if boundary:
                digest = part.subtype == b"digest"
                return [self._part(start, end, digest=digest) for start, end in self._between(part, boundary)]
        return []

    def _plain(self, part: Part) -> None:
        """What has parts by its type and none in fact is described as something that needs none: a multipart as the
        text it probably is, a message that is nested too deeply as data (RFC 3501: body-type-mpart, -msg)."""
        if part.multipart:
            part.kind, part.subtype, self.parameters[id(part)] = headers.content_type([])
        elif part.message:
            part.kind, part.subtype, self.parameters[id(part)] = b"application", b"octet-stream", []

    def _between(self, part: Part, boundary: bytes) -> list[tuple[int, int]]:
        """(start, end) of each child. The line break before a delimiter belongs to the delimiter (RFC 2046 5.1.1)."""
        raw, body, end = self.raw, part.body, part.end
        mark = b"--" + boundary
        found: list[tuple[int, int]] = []
        begin = -1
        at = body - len(mark)
        while (at := raw.find(mark, at + len(mark), end)) >= 0:
            if at > body and raw[at - 1] != 10:
                continue  # not at the beginning of a line
            line_end = raw.find(b"\n", at, end)
            stop = end if line_end < 0 else line_end + 1
            rest = raw[at + len(mark) : min(stop, at + len(mark) + MOST_PADDING)].rstrip(b" \t\r\n")
            if rest not in (b"", b"--"):
                continue  # another boundary, of which this one is the beginning
            if begin >= 0:
                last = at - 1 if at > begin else at
                if last > begin and raw[last - 1] == 13:
                    last -= 1
                found.append((begin, last))
            if rest == b"--":
                return found
            begin = stop
            if len(found) + self._count >= MOST_PARTS:
                break
        if begin >= 0:
            found.append((begin, end))
        return found


def scan(raw: bytes) -> tuple[Part, dict[int, Fields]]:
    """The root part, and the header fields of each part by `id(part)`, for as long as the parts live. Never raises."""
    scanner = Scanner(raw)
    return scanner.root, scanner.fields
