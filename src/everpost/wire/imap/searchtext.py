"""The text that SEARCH looks at: headers and text parts, decoded and folded (RFC 3501 6.4.4). Never raises."""

from __future__ import annotations

import binascii
import codecs
import quopri
from datetime import date
from email.header import decode_header
from email.utils import parsedate_to_datetime

from everpost.wire.mime import scan
from everpost.wire.mime.headers import Fields, content_type, fields, first, parameter, split_header

LONGEST_VALUE = 10_000
"""Characters of one header field that are decoded: decoding takes quadratic time on hostile input."""
_REFUSED = frozenset(("punycode", "idna", "unicode_escape", "raw_unicode_escape", "undefined", "mbcs", "oem"))
"""Codecs that are no charsets of mail, some of them slow."""


def fold(text: str) -> str:
    """For comparison in any case."""
    return text.casefold()


def decode(data: bytes, charset: str) -> str:
    """In that charset, or as UTF-8 if it is unknown."""
    try:
        name = codecs.lookup(charset).name.replace("-", "_") if charset.isascii() and charset.isprintable() else ""
        if name and name not in _REFUSED:
            return data.decode(name, "replace")
    except (LookupError, ValueError):
        pass
    return data.decode("utf-8", "replace")


def decoded(value: bytes) -> str:
    """A header's value with its encoded words decoded (RFC 2047)."""
    text = value[:LONGEST_VALUE].decode("utf-8", "replace")
    if "=?" not in text:
        return text
    try:
        parts = decode_header(text)
    except (ValueError, binascii.Error, LookupError):
        return text
    return "".join(part if isinstance(part, str) else decode(part, charset or "utf-8") for part, charset in parts)


def _all_fields(raw: bytes) -> Fields:
    return fields(raw, 0, split_header(raw, 0, len(raw)))


def header_text(raw: bytes) -> str:
    """All fields of the message's header."""
    return _lines(_all_fields(raw))


def _lines(found: Fields) -> str:
    return fold("\n".join(f"{name.decode('latin-1')}: {decoded(value)}" for name, value in found))


def header_values(header: bytes, field: bytes) -> list[str]:
    """The values of a field, named in lower case."""
    return [fold(decoded(value)) for name, value in _all_fields(header) if name == field]


def sent(header: bytes) -> date | None:
    """The day of the Date field, whatever its time and zone."""
    value = first(_all_fields(header), b"date")
    if value is None:
        return None
    try:
        return parsedate_to_datetime(value[:200].decode("ascii", "replace")).date()
    except (ValueError, IndexError, TypeError, OverflowError):
        return None


def body_text(raw: bytes) -> str:
    """All text parts, and the headers of messages inside."""
    root, found = scan(raw)
    texts: list[str] = []
    todo = [root]
    while todo:
        part = todo.pop(0)
        if part.message and part.children:
            texts.append(_lines(found[id(part.children[0])]))
        todo[:0] = part.children
        if not part.children and (part.kind == b"text" or part.message):
            texts.append(_decoded_body(raw[part.body : part.end], found[id(part)]))
    return "\n".join(texts)


def _decoded_body(data: bytes, found: Fields) -> str:
    encoding = (first(found, b"content-transfer-encoding") or b"").strip().lower()
    if encoding == b"base64":
        alphabet = bytes(ch for ch in data if ch in _BASE64) if data.translate(None, _BASE64_AND_SPACE) else data
        try:
            data = binascii.a2b_base64(alphabet + b"==")
        except binascii.Error:
            pass
    elif encoding == b"quoted-printable":
        data = quopri.decodestring(data)
    charset = parameter(content_type(found)[2], b"charset") or b"utf-8"
    return fold(decode(data, "utf-8" if charset.lower() == b"us-ascii" else charset.decode("latin-1")))


_BASE64 = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")
_BASE64_AND_SPACE = bytes(_BASE64) + b"=\r\n \t"
