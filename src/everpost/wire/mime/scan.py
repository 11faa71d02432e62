"""One pass over a message: its parts, nested, with byte offsets. No recursion, bounded depth and number."""

from __future__ import annotations

import msgspec

from everpost.wire.mime import headers
from everpost.wire.mime.headers import Fields

MOST_DEPTH = 30
MOST_PARTS = 10_000


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


class _Scanner:
    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.fields: dict[int, Fields] = {}
        self.count = 0

    def part(self, start: int, end: int, default: tuple[bytes, bytes]) -> tuple[Part, list[tuple[bytes, bytes]]]:
        self.count += 1
        body = headers.split_header(self.raw, start, end)
        found = headers.fields(self.raw, start, body)
        kind, subtype, parameters = headers.content_type(found)
        if headers.first(found, b"content-type") is None:
            kind, subtype = default
        part = Part(start, body, end, kind, subtype)
        self.fields[id(part)] = found
        return part, parameters

    def boundaries(self, body: int, end: int, boundary: bytes) -> list[tuple[int, int]]:
        """(start, end) of each child. The line break before a delimiter belongs to the delimiter (RFC 2046 5.1.1)."""
        raw = self.raw
        mark = b"--" + boundary
        found: list[tuple[int, int]] = []
        begin = -1
        at = body
        while True:
            at = raw.find(mark, at, end)
            if at < 0:
                break
            line_end = raw.find(b"\n", at, end)
            stop = end if line_end < 0 else line_end + 1
            rest = raw[at + len(mark) : stop].rstrip(b" \t\r\n")
            if (at == body or raw[at - 1] == 10) and rest in (b"", b"--"):
                if begin >= 0:
                    last = at - 1 if at > begin and raw[at - 1] == 10 else at
                    if last > begin and raw[last - 1] == 13:
                        last -= 1
                    found.append((begin, max(last, begin)))
                if rest == b"--":
                    return found
                begin = stop
                if len(found) + self.count >= MOST_PARTS:
                    break
                at = stop
            else:
                at += len(mark)
        if begin >= 0:
            found.append((begin, end))
        return found


def scan(raw: bytes) -> tuple[Part, dict[int, Fields]]:
    """The root part, and the header fields of each part by `id(part)`, for as long as the parts live."""
    scanner = _Scanner(raw)
    root, parameters = scanner.part(0, len(raw), (b"text", b"plain"))
    todo = [(root, parameters, 0)]
    while todo:
        part, parameters, depth = todo.pop()
        if depth < MOST_DEPTH and scanner.count < MOST_PARTS:
            if part.multipart:
                boundary = headers.parameter(parameters, b"boundary")
                default = (b"message", b"rfc822") if part.subtype == b"digest" else (b"text", b"plain")
                if boundary:
                    children = []
                    for start, end in scanner.boundaries(part.body, part.end, boundary.rstrip()):
                        children.append(scanner.part(start, end, default))
                    part.children = [child for child, _ in children]
                    todo += [(child, found, depth + 1) for child, found in children]
            elif part.message:
                child, found = scanner.part(part.body, part.end, (b"text", b"plain"))
                part.children = [child]
                todo.append((child, found, depth + 1))
        if part.multipart and not part.children:
            # A multipart without parts cannot be described as one (RFC 3501 body-type-mpart needs at least one).
            part.kind, part.subtype = b"text", b"plain"
        part.lines = raw.count(b"\n", part.body, part.end)
    return root, scanner.fields
