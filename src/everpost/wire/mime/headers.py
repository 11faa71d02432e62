"""Header fields and their parameters (RFC 5322 2.2, RFC 2045 5.1). Linear in the input, never raises."""

from __future__ import annotations

Fields = list[tuple[bytes, bytes]]

MOST_FIELDS = 5_000
MOST_PARAMETERS = 100


def split_header(raw: bytes, start: int, end: int) -> int:
    """Offset behind the empty line that ends the header at `start`; `end` if there is none. A message that begins
    with a line that is no field has no header at all."""
    at = start
    while at < end:
        stop = raw.find(b"\n", at, end)
        if stop < 0:
            return end
        if stop == at or (stop == at + 1 and raw[at] == 13):
            return stop + 1
        at = stop + 1
    return end


def fields(raw: bytes, start: int, end: int) -> Fields:
    """(name in lower case, unfolded value) of each field, in order; lines that are no field are passed over."""
    found: Fields = []
    name = b""
    parts: list[bytes] = []
    for line in raw[start:end].split(b"\n"):
        line = line.removesuffix(b"\r")
        if line[:1] in (b" ", b"\t"):
            parts.append(line)
            continue
        if name:
            found.append((name, b"".join(parts).strip()))
            name = b""
            if len(found) >= MOST_FIELDS:
                return found
        before, colon, after = line.partition(b":")
        if colon and before.strip():
            name = before.strip().lower()
            parts = [after]
    if name:
        found.append((name, b"".join(parts).strip()))
    return found


def first(found: Fields, name: bytes) -> bytes | None:
    """The first field of that name."""
    return next((value for key, value in found if key == name), None)


def _skip_comment(text: bytes, at: int) -> int:
    depth = 0
    while at < len(text):
        ch = text[at]
        if ch == 0x5C:
            at += 1
        elif ch == 0x28:
            depth += 1
        elif ch == 0x29:
            depth -= 1
            if depth == 0:
                return at + 1
        at += 1
    return at


def _quoted(text: bytes, at: int) -> tuple[bytes, int]:
    out = bytearray()
    at += 1
    while at < len(text):
        ch = text[at]
        if ch == 0x5C and at + 1 < len(text):
            at += 1
            out.append(text[at])
        elif ch == 0x22:
            return bytes(out), at + 1
        else:
            out.append(ch)
        at += 1
    return bytes(out), at


def value_and_parameters(text: bytes) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """`text/plain; charset=utf-8 (comment); name="a b"`: the value without comments, and parameters in order."""
    pieces: list[bytes] = []
    current = bytearray()
    at = 0
    while at < len(text):
        ch = text[at]
        if ch == 0x28:
            at = _skip_comment(text, at)
        elif ch == 0x22:
            word, at = _quoted(text, at)
            current += b'"' + word.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'
        elif ch == 0x3B:
            pieces.append(bytes(current))
            current.clear()
            at += 1
            if len(pieces) > MOST_PARAMETERS:
                break
        else:
            current.append(ch)
            at += 1
    pieces.append(bytes(current))
    parameters = []
    for piece in pieces[1:]:
        name, equals, value = piece.partition(b"=")
        name = name.strip()
        value = value.strip()
        if equals and name:
            parameters.append((name, _quoted(value, 0)[0] if value[:1] == b'"' else value))
    return pieces[0].strip(), parameters


def content_type(found: Fields) -> tuple[bytes, bytes, list[tuple[bytes, bytes]]]:
    """(type, subtype, parameters), `text/plain; charset=us-ascii` when missing or broken (RFC 2045 5.2)."""
    text = first(found, b"content-type")
    if text is not None:
        value, parameters = value_and_parameters(text)
        kind, slash, sub = value.partition(b"/")
        kind, sub = kind.strip().lower(), sub.strip().lower()
        if slash and kind and sub:
            return kind, sub, parameters
    return b"text", b"plain", [(b"charset", b"us-ascii")]


def parameter(parameters: list[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """A parameter by name in any case."""
    return next((value for key, value in parameters if key.lower() == name), None)
