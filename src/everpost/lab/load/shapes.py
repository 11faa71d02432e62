"""Messages of real-world shapes, made from a number: the same number gives the same bytes."""

from __future__ import annotations

import base64
import random

_TEXTS = (
    ("utf-8", "Grüße aus Köln – 日本語のテスト, Привет, שלום, emoji 🎉"),
    ("iso-8859-1", "Größe: naïve café, señor, ¿qué?"),
    ("koi8-r", "Съешь же ещё этих мягких французских булок"),
    ("iso-2022-jp", "これは日本語の本文です。"),
    ("gb18030", "这是一封测试邮件，内容是中文。"),
    ("windows-1252", "“Curly quotes” and an em—dash, €100"),
)


def _plain(chance: random.Random) -> list[bytes]:
    charset, text = chance.choice(_TEXTS)
    lines = [f"Content-Type: text/plain; charset={charset}".encode(), b"Content-Transfer-Encoding: 8bit", b""]
    return [*lines, *[text.encode(charset, "replace")] * chance.randint(1, 30), b".leading dot", b"..two dots"]


def _alternative(chance: random.Random, depth: int = 0) -> list[bytes]:
    mark = f"b{chance.getrandbits(60):x}".encode()
    kind = chance.choice((b"alternative", b"mixed", b"related"))
    lines = [b'Content-Type: multipart/%b; boundary="%b"' % (kind, mark), b"", b"This is a message in parts."]
    for _ in range(chance.randint(1, 3)):
        lines += [b"--" + mark]
        nested = depth < 4 and chance.random() < 0.4
        lines += _alternative(chance, depth + 1) if nested else _plain(chance)
    return [*lines, b"--" + mark + b"--", b"epilogue"]


def _attachment(chance: random.Random, size: int) -> list[bytes]:
    mark = b"attachment-boundary"
    data = base64.encodebytes(chance.randbytes(size)).splitlines()
    lines = [b"Content-Type: multipart/mixed; boundary=" + mark, b"", b"--" + mark, *_plain(chance), b"--" + mark]
    lines += [b'Content-Type: application/octet-stream; name="data.bin"', b"Content-Transfer-Encoding: base64"]
    lines += [b'Content-Disposition: attachment; filename="data.bin"', b"", *data]
    return [*lines, b"--" + mark + b"--"]


def _forwarded(chance: random.Random) -> list[bytes]:
    lines = [b"Content-Type: message/rfc822", b"", b"From: inner@example.org", b"Subject: the inner one"]
    return [*lines, *_plain(chance)]


def _empty(chance: random.Random) -> list[bytes]:
    return [b""]


def message(number: int, identity: str, *, large: bool = False) -> bytes:
    """One message with CRLF line ends; `identity` is its first header, by which the audit finds it."""
    chance = random.Random(number)
    kinds = (_plain, _plain, _alternative, _forwarded, _empty, lambda c: _attachment(c, c.randint(1000, 20000)))
    body = _attachment(chance, 14_800_000) if large else chance.choice(kinds)(chance)
    charset, text = chance.choice(_TEXTS)
    encoded = base64.b64encode(text.encode("utf-8")).decode()
    lines = [
        b"X-Ledger-Id: " + identity.encode(),
        b'From: "Load, generator" <load@example.org>',
        b"To: undisclosed-recipients:;",
        f"Subject: =?utf-8?B?{encoded}?= {number}".encode(),
        b"Message-ID: <" + identity.encode() + b"@load.example.org>",
        b"Date: Sat, 21 Nov 2026 10:00:00 +0100",
        b"MIME-Version: 1.0",
    ]
    if chance.random() < 0.2:
        lines.append(b"X-Raw: 8-bit header " + text.encode(charset, "replace").replace(b"\r", b"").replace(b"\n", b""))
    if chance.random() < 0.2:
        lines += [b"X-Folded: one", b"\ttwo", b" three"]
    raw = b"\r\n".join([*lines, *body]) + b"\r\n"
    return raw.replace(b"\0", b"")
