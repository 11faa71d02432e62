"""ENVELOPE, BODY and BODYSTRUCTURE as response bytes, made once at delivery (RFC 3501 7.4.2)."""

from __future__ import annotations

import msgspec

from everpost.wire.mime import address, headers
from everpost.wire.mime.headers import Fields
from everpost.wire.mime.scan import Part, scan

_ADDRESS_FIELDS = (b"from", b"sender", b"reply-to", b"to", b"cc", b"bcc")
_UNSAFE = bytes(range(32)) + bytes(range(127, 256))


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of a message beside its bytes. `structure`: the parts, packed by `msgspec.msgpack`."""

    size: int
    envelope: bytes
    body: bytes
    bodystructure: bytes
    structure: bytes
    header_size: int


def string(text: bytes | None) -> bytes:
    """An IMAP nstring: NIL, quoted, or a literal for what a quoted string cannot hold."""
    if text is None:
        return b"NIL"
    if text.translate(None, _UNSAFE) != text:
        text = text.replace(b"\0", b"")
        return b"{%d}\r\n%b" % (len(text), text)
    return b'"' + text.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'


def _addresses(value: bytes | None) -> bytes:
    if value is None:
        return b"NIL"
    found = address.parse(value)
    if not found:
        return b"NIL"
    rows = [
        b"(" + b" ".join((string(one.name), string(one.route), string(one.mailbox), string(one.host))) + b")"
        for one in found
    ]
    return b"(" + b"".join(rows) + b")"


def envelope(found: Fields) -> bytes:
    """Date, subject, from, sender, reply-to, to, cc, bcc, in-reply-to, message-id."""
    shown = {name: _addresses(headers.first(found, name)) for name in _ADDRESS_FIELDS}
    for name in (b"sender", b"reply-to"):
        if shown[name] == b"NIL":
            shown[name] = shown[b"from"]
    words = [string(headers.first(found, b"date")), string(headers.first(found, b"subject"))]
    words += [shown[name] for name in _ADDRESS_FIELDS]
    words += [string(headers.first(found, b"in-reply-to")), string(headers.first(found, b"message-id"))]
    return b"(" + b" ".join(words) + b")"


def _parameters(parameters: list[tuple[bytes, bytes]]) -> bytes:
    if not parameters:
        return b"NIL"
    return b"(" + b" ".join(string(name) + b" " + string(value) for name, value in parameters) + b")"


def _disposition(found: Fields) -> bytes:
    text = headers.first(found, b"content-disposition")
    if text is None:
        return b"NIL"
    value, parameters = headers.value_and_parameters(text)
    if not value:
        return b"NIL"
    return b"(" + string(value) + b" " + _parameters(parameters) + b")"


def _language(found: Fields) -> bytes:
    text = headers.first(found, b"content-language")
    if text is None:
        return b"NIL"
    words = [word.strip() for word in text.split(b",") if word.strip()]
    if len(words) == 1:
        return string(words[0])
    return b"(" + b" ".join(string(word) for word in words) + b")" if words else b"NIL"


def _content_parameters(found: Fields) -> list[tuple[bytes, bytes]]:
    return headers.content_type(found)[2]


def _extension(found: Fields) -> bytes:
    return b" ".join((_disposition(found), _language(found), string(headers.first(found, b"content-location"))))


class _Renderer:
    """Children before parents, in one loop over the parts in reverse order: no recursion."""

    def __init__(self, fields: dict[int, Fields], *, extended: bool) -> None:
        self._fields = fields
        self._extended = extended
        self._done: dict[int, bytes] = {}

    def render(self, root: Part) -> bytes:
        order = [root]
        for part in order:
            order += part.children
        for part in reversed(order):
            self._done[id(part)] = self._part(part)
        return self._done[id(root)]

    def _part(self, part: Part) -> bytes:
        found = self._fields[id(part)]
        if part.multipart:
            inner = b"".join(self._done[id(child)] for child in part.children)
            text = inner + b" " + string(part.subtype)
            if self._extended:
                text += b" " + _parameters(_content_parameters(found)) + b" " + _extension(found)
            return b"(" + text + b")"
        encoding = headers.first(found, b"content-transfer-encoding") or b"7bit"
        words = [
            string(part.kind),
            string(part.subtype),
            _parameters(_content_parameters(found)),
            string(headers.first(found, b"content-id")),
            string(headers.first(found, b"content-description")),
            string(headers.value_and_parameters(encoding)[0].lower() or b"7bit"),
            b"%d" % (part.end - part.body),
        ]
        if part.message and part.children:
            child = part.children[0]
            words += [envelope(self._fields[id(child)]), self._done[id(child)], b"%d" % part.lines]
        elif part.kind == b"text":
            words.append(b"%d" % part.lines)
        if self._extended:
            words += [string(headers.first(found, b"content-md5")), _extension(found)]
        return b"(" + b" ".join(words) + b")"


def summarize(raw: bytes) -> Summary:
    """Scan and render; never raises, whatever the bytes."""
    root, fields = scan(raw)
    return Summary(
        size=len(raw),
        envelope=envelope(fields[id(root)]),
        body=_Renderer(fields, extended=False).render(root),
        bodystructure=_Renderer(fields, extended=True).render(root),
        structure=msgspec.msgpack.encode(root),
        header_size=root.body,
    )
