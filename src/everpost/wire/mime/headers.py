"""Header fields and their parameters (RFC 5322 2.2, RFC 2045 5.1). Linear in the input, never raises."""

from __future__ import annotations

import re

Fields = list[tuple[bytes, bytes]]
Parameters = list[tuple[bytes, bytes]]

MOST_FIELDS = 5_000
MOST_HEADER = 1024 * 1024
"""Bytes of one header that are looked at; what follows is kept, and told by FETCH, but means nothing."""
MOST_PARAMETERS = 100
_ASCII: Parameters = [(b"charset", b"us-ascii")]
_MARK = re.compile(rb'[(";]')
_IN_QUOTES = re.compile(rb'["\\]')


def split_header(raw: bytes, start: int, end: int) -> int:
    """Offset behind the empty line that ends the header at `start`; `end` if there is none."""
    if raw.startswith((b"\n", b"\r\n"), start, end):
        return raw.index(b"\n", start) + 1
    crlf = raw.find(b"\n\r\n", start, end)
    lf = raw.find(b"\n\n", start, end if crlf < 0 else crlf)
    if lf >= 0:
        return lf + 2
    return end if crlf < 0 else crlf + 3


def fields(raw: bytes, start: int, end: int) -> Fields:
    """(name in lower case, unfolded value) of each field, in order; lines that are no field are passed over."""
    found: Fields = []
    name = b""
    parts: list[bytes] = []
    for line in raw[start : min(end, start + MOST_HEADER)].split(b"\n"):
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
    for key, value in found:
        if key == name:
            return value
    return None


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
    """The content of the quoted string at `at`, and the offset behind it."""
    out = bytearray()
    at += 1
    while (mark := _IN_QUOTES.search(text, at)) is not None:
        out += text[at : mark.start()]
        at = mark.end()
        if mark[0] == b'"':
            return bytes(out), at
        out += text[at : at + 1] or b"\\"
        at += 1
    out += text[at:]
    return bytes(out), len(text)


def value_and_parameters(text: bytes) -> tuple[bytes, Parameters]:
    """`text/plain; charset=utf-8 (comment); name="a b"`: the value without comments, and parameters in order."""
    pieces: list[tuple[bytes, bytes | None]] = []
    current = bytearray()
    quoted: bytes | None = None
    expected = False
    at = 0
    while (mark := _MARK.search(text, at)) is not None and len(pieces) <= MOST_PARAMETERS:
        before = text[at : mark.start()]
        current += before
        if stripped := before.rstrip():
            expected = stripped.endswith(b"=")
        at = mark.end()
        if mark[0] == b"(":
            at = _skip_comment(text, mark.start())
        elif mark[0] == b'"':
            word, at = _quoted(text, mark.start())
            if expected and quoted is None:
                quoted = word
            else:
                current += word
        else:
            pieces.append((bytes(current), quoted))
            current.clear()
            quoted, expected = None, False
    pieces.append((bytes(current) + text[at:], quoted))
    parameters = []
    for piece, content in pieces[1 : MOST_PARAMETERS + 1]:
        name, equals, value = piece.partition(b"=")
        name = name.strip()
        if equals and name:
            parameters.append((name, value.strip() if content is None else content))
    return pieces[0][0].strip(), parameters


def content_type(found: Fields) -> tuple[bytes, bytes, Parameters]:
    """(type, subtype, parameters), `text/plain; charset=us-ascii` when missing or broken (RFC 2045 5.2)."""
    text = first(found, b"content-type")
    if text is not None:
        value, parameters = value_and_parameters(text)
        kind, slash, sub = value.partition(b"/")
        kind, sub = kind.strip().lower(), sub.strip().lower()
        if slash and kind and sub:
            return kind, sub, parameters
    return b"text", b"plain", _ASCII


def parameter(parameters: Parameters, name: bytes) -> bytes | None:
    """A parameter by name in any case."""
    return next((value for key, value in parameters if key.lower() == name), None)
