"""ENVELOPE, BODY and BODYSTRUCTURE as response bytes, made once at delivery (RFC 3501 7.4.2)."""

from __future__ import annotations

import msgspec

from everpost.wire.mime import address, headers
from everpost.wire.mime.headers import Fields, Parameters
from everpost.wire.mime.scan import Scanner

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


def _parameters(parameters: Parameters) -> bytes:
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


def _extension(found: Fields) -> bytes:
    return b" ".join((_disposition(found), _language(found), string(headers.first(found, b"content-location"))))


def _bodies(scanner: Scanner) -> tuple[bytes, bytes]:
    """BODY and BODYSTRUCTURE: children before parents, in one loop over the parts in reverse order, no recursion."""
    order = [scanner.root]
    for part in order:
        order += part.children
    done: dict[int, tuple[bytes, bytes]] = {}
    for part in reversed(order):
        found = scanner.fields[id(part)]
        parameters = _parameters(scanner.parameters[id(part)])
        inner = [done.pop(id(child)) for child in part.children]
        if part.multipart:
            subtype = string(part.subtype)
            body = b"".join(one for one, _ in inner) + b" " + subtype
            full = b"".join(one for _, one in inner) + b" " + subtype + b" " + parameters + b" " + _extension(found)
        else:
            encoding = headers.first(found, b"content-transfer-encoding")
            head = b" ".join(
                (
                    string(part.kind),
                    string(part.subtype),
                    parameters,
                    string(headers.first(found, b"content-id")),
                    string(headers.first(found, b"content-description")),
                    b'"7bit"' if encoding is None else _encoding(encoding),
                    b"%d" % (part.end - part.body),
                )
            )
            tail = b" %d" % part.lines if inner or part.kind == b"text" else b""
            body = full = head + tail
            if inner:
                inside = b" " + envelope(scanner.fields[id(part.children[0])]) + b" "
                body, full = (head + inside + one + tail for one in inner[0])
            full += b" " + string(headers.first(found, b"content-md5")) + b" " + _extension(found)
        done[id(part)] = (b"(" + body + b")", b"(" + full + b")")
    return done[id(scanner.root)]


def _encoding(text: bytes) -> bytes:
    return string(headers.value_and_parameters(text)[0].lower() or b"7bit")


def summarize(raw: bytes) -> Summary:
    """Scan and render; never raises, whatever the bytes."""
    scanner = Scanner(raw)
    body, bodystructure = _bodies(scanner)
    return Summary(
        size=len(raw),
        envelope=envelope(scanner.fields[id(scanner.root)]),
        body=body,
        bodystructure=bodystructure,
        structure=msgspec.msgpack.encode(scanner.root),
        header_size=scanner.root.body,
    )
