"""Address lists of a header, as IMAP shows them (RFC 5322 3.4, RFC 3501 7.4.2). No recursion, never raises."""

from __future__ import annotations

from typing import NamedTuple

MOST_ADDRESSES = 10_000


class Address(NamedTuple):
    """name, route, mailbox, host; group start: host None; group end: all None."""

    name: bytes | None
    route: bytes | None
    mailbox: bytes | None
    host: bytes | None


class _Token(NamedTuple):
    text: bytes
    quoted: bool


_SPECIAL = frozenset(b'<>,;:()"\\')


def _tokens(text: bytes) -> list[_Token | int]:
    """Words and special bytes; comments are kept as one quoted word behind a 0x28."""
    found: list[_Token | int] = []
    at = 0
    size = len(text)
    while at < size:
        ch = text[at]
        if ch in b" \t\r\n":
            at += 1
        elif ch == 0x22:
            out = bytearray()
            at += 1
            while at < size and text[at] != 0x22:
                if text[at] == 0x5C and at + 1 < size:
                    at += 1
                out.append(text[at])
                at += 1
            at += 1
            found.append(_Token(bytes(out), True))
        elif ch == 0x28:
            depth, begin = 0, at + 1
            while at < size:
                if text[at] == 0x5C:
                    at += 1
                elif text[at] == 0x28:
                    depth += 1
                elif text[at] == 0x29:
                    depth -= 1
                    if depth == 0:
                        break
                at += 1
            found.append(0x28)
            found.append(_Token(text[begin:at], True))
            at += 1
        elif ch in b"<>,;:":
            found.append(ch)
            at += 1
        else:
            begin = at
            while at < size and text[at] not in b' \t\r\n<>,;:("':
                at += 1
            at = max(at, begin + 1)
            found.append(_Token(text[begin:at], False))
    return found


def _split(spec: bytes) -> tuple[bytes | None, bytes, bytes]:
    """Route, mailbox and host of an address without its angle brackets."""
    route: bytes | None = None
    if spec.startswith(b"@") and b":" in spec:
        route, _, spec = spec.partition(b":")
    mailbox, at, host = spec.rpartition(b"@")
    if not at:
        return route, spec, b""
    return route, mailbox, host


def parse(text: bytes) -> list[Address]:
    """All addresses, with groups."""
    found: list[Address] = []
    words: list[_Token] = []
    spec: bytearray | None = None
    angle: bytes | None = None
    comment: bytes | None = None
    in_group = False
    tokens = _tokens(text)
    at = 0

    def end() -> None:
        nonlocal words, angle, comment
        if angle is not None:
            name = b" ".join(word.text for word in words) or comment
            route, mailbox, host = _split(angle)
            found.append(Address(name or None, route, mailbox, host))
        elif words:
            joined = b"".join(word.text for word in words)
            if b"@" in joined:
                route, mailbox, host = _split(joined)
                found.append(Address(comment, route, mailbox, host))
            else:
                found.append(Address(comment, None, b" ".join(word.text for word in words), b""))
        words, angle, comment = [], None, None

    while at < len(tokens) and len(found) < MOST_ADDRESSES:
        token = tokens[at]
        at += 1
        if spec is not None:
            if token == 0x3E:
                angle, spec = bytes(spec), None
            elif isinstance(token, _Token):
                spec += token.text
            elif token == 0x28:
                at += 1
            else:
                spec.append(token)
        elif isinstance(token, _Token):
            words.append(token)
        elif token == 0x28:
            inner = tokens[at]
            at += 1
            comment = inner.text if isinstance(inner, _Token) else None
        elif token == 0x3C:
            spec = bytearray()
        elif token == 0x2C:
            end()
        elif token == 0x3A and not in_group:
            found.append(Address(None, None, b" ".join(word.text for word in words), None))
            words, in_group = [], True
        elif token == 0x3B:
            end()
            if in_group:
                found.append(Address(None, None, None, None))
                in_group = False
    if spec is not None:
        angle = bytes(spec)
    end()
    if in_group:
        found.append(Address(None, None, None, None))
    return found
