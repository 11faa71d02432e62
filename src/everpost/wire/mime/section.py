"""BODY[...] sections as byte ranges of the raw message (RFC 3501 6.4.5)."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from everpost.wire.mime.scan import Part

_decoder = msgspec.msgpack.Decoder(Part)


def decode(structure: bytes) -> Part:
    """The parts as packed by `summarize`."""
    return _decoder.decode(structure)


def part_at(root: Part, numbers: Sequence[int]) -> Part | None:
    """The part with that number, `(1, 2)` for 1.2. Part 1 of a message that is no multipart is its body."""
    part = root
    for place, number in enumerate(numbers):
        inner = part
        if place > 0 and part.message and part.children:
            inner = part.children[0]
        if inner.multipart:
            if not 1 <= number <= len(inner.children):
                return None
            part = inner.children[number - 1]
        elif number == 1 and (place == 0 or inner is not part):
            part = inner
        else:
            return None
    return part


def section(root: Part, numbers: Sequence[int], text: str) -> tuple[int, int] | None:
    """(start, end) of `BODY[numbers.text]`; text is "", HEADER, TEXT or MIME. None: there is no such part."""
    if not numbers:
        if text == "HEADER":
            return root.start, root.body
        if text == "TEXT":
            return root.body, root.end
        return root.start, root.end
    part = part_at(root, numbers)
    if part is None:
        return None
    if text == "MIME":
        return part.start, part.body
    if text in ("HEADER", "TEXT"):
        if not part.message or not part.children:
            return None
        child = part.children[0]
        return (child.start, child.body) if text == "HEADER" else (child.body, child.end)
    return part.body, part.end


def header_fields(header: bytes, names: frozenset[bytes], *, without: bool) -> bytes:
    """HEADER.FIELDS and HEADER.FIELDS.NOT: the fields as they stand, and the empty line. `names` in lower case."""
    out = bytearray()
    keep = False
    at = 0
    while at < len(header):
        stop = header.find(b"\n", at) + 1 or len(header)
        line = header[at:stop]
        at = stop
        if line in (b"\r\n", b"\n"):
            break
        if line[:1] not in (b" ", b"\t"):
            name, colon, _ = line.partition(b":")
            keep = bool(colon) and (name.strip().lower() in names) != without
        if keep:
            out += line
    if out and not out.endswith(b"\n"):
        out += b"\r\n"
    return bytes(out + b"\r\n")
