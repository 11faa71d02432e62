"""A strict reader of ENVELOPE, BODY and BODYSTRUCTURE as RFC 3501 chapter 9 has them, independent of what writes them.

`Wrong` says where a client's parser would stumble.
"""

from __future__ import annotations

from typing import TypeAlias

Value: TypeAlias = "bytes | int | list[Value] | None"


class Wrong(AssertionError):
    """It is not what the grammar says."""


def read(text: bytes) -> Value:
    """Parenthesised lists, strings, literals, numbers and NIL, with exactly one space where one belongs."""
    stack: list[list[Value]] = [[]]
    at = 0
    while at < len(text):
        ch = text[at : at + 1]
        if ch == b"(":
            stack.append([])
            at += 1
            continue
        if ch == b")":
            done = stack.pop()
            at += 1
            value: Value = done
        elif ch == b'"':
            value, at = _quoted(text, at)
        elif ch == b"{":
            end = text.index(b"}\r\n", at)
            size = int(text[at + 1 : end])
            value = text[end + 3 : end + 3 + size]
            at = end + 3 + size
            if len(value) != size or b"\0" in value:
                raise Wrong("a literal")
        elif text.startswith(b"NIL", at):
            value, at = None, at + 3
        else:
            end = at
            while text[end : end + 1].isdigit():
                end += 1
            if end == at:
                raise Wrong(f"{text[at : at + 20]!r}")
            value, at = int(text[at:end]), end
        stack[-1].append(value)
        if at < len(text) and text[at : at + 1] == b" ":
            at += 1
            if text[at : at + 1] in (b"", b")", b" "):
                raise Wrong("a space too much")
        elif at < len(text) and text[at : at + 1] not in (b")", b"("):
            raise Wrong("a space is missing")
    if len(stack) != 1 or len(stack[0]) != 1:
        raise Wrong("brackets")
    return stack[0][0]


def _quoted(text: bytes, at: int) -> tuple[bytes, int]:
    out = bytearray()
    at += 1
    while text[at] != 0x22:
        if text[at] == 0x5C:
            at += 1
            if text[at] not in b'"\\':
                raise Wrong("an escape")
        elif text[at] < 32 or text[at] > 126:
            raise Wrong("a quoted string is 7-bit text")
        out.append(text[at])
        at += 1
    return bytes(out), at + 1


def _listed(value: Value) -> list[Value]:
    if not isinstance(value, list):
        raise Wrong(f"{value!r} is no list")
    return value


def _nstring(value: Value) -> bytes | None:
    if not (value is None or isinstance(value, bytes)):
        raise Wrong(f"{value!r} is no nstring")
    return value


def _string(value: Value) -> bytes:
    if not isinstance(value, bytes):
        raise Wrong(f"{value!r} is no string")
    return value


def _number(value: Value) -> int:
    if not isinstance(value, int):
        raise Wrong(f"{value!r} is no number")
    return value


def envelope(value: Value) -> None:
    """Raises Wrong."""
    words = _listed(value)
    if len(words) != 10:
        raise Wrong("an envelope has ten fields")
    for word in (words[0], words[1], words[8], words[9]):
        _nstring(word)
    for addresses in words[2:8]:
        if addresses is not None:
            if not _listed(addresses):
                raise Wrong("an empty list of addresses")
            depth = 0
            for one in _listed(addresses):
                name, route, mailbox, host = (_nstring(word) for word in _listed(one))
                if host is None:
                    depth += 1 if mailbox is not None else -1
                    if name is not None or route is not None or depth not in (0, 1):
                        raise Wrong("a group")
                elif mailbox is None:
                    raise Wrong("an address without a mailbox")
            if depth:
                raise Wrong("a group without an end")


def _parameters(value: Value) -> None:
    if value is not None:
        words = [_string(word) for word in _listed(value)]
        if not words or len(words) % 2:
            raise Wrong("parameters come in pairs")


def body(value: Value, *, extended: bool) -> None:
    """Raises Wrong."""
    todo = [value]
    while todo:
        words = _listed(todo.pop())
        if not words:
            raise Wrong("an empty body")
        if isinstance(words[0], list):
            at = 0
            while at < len(words) and isinstance(words[at], list):
                todo.append(words[at])
                at += 1
            _string(words[at])
            rest = words[at + 1 :]
            if extended:
                _parameters(rest[0])
                rest = rest[1:]
        else:
            kind, subtype = _string(words[0]).lower(), _string(words[1]).lower()
            _parameters(words[2])
            _nstring(words[3])
            _nstring(words[4])
            _string(words[5])
            _number(words[6])
            rest = words[7:]
            if (kind, subtype) in ((b"message", b"rfc822"), (b"message", b"global")):
                envelope(rest[0])
                todo.append(rest[1])
                _number(rest[2])
                rest = rest[3:]
            elif kind == b"text":
                _number(rest[0])
                rest = rest[1:]
            elif kind == b"multipart":
                raise Wrong("a multipart without parts")
            if extended:
                _nstring(rest[0])
                rest = rest[1:]
        if len(rest) != (3 if extended else 0):
            raise Wrong("extension data")
        if extended:
            disposition, language, location = rest
            if disposition is not None:
                name, parameters = _listed(disposition)
                _string(name)
                _parameters(parameters)
            if isinstance(language, list):
                if not [_string(word) for word in language]:
                    raise Wrong("no language")
            else:
                _nstring(language)
            _nstring(location)
