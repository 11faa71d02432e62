"""Folder names in modified UTF-7 (RFC 3501 5.1.3)."""

from __future__ import annotations

import base64
import binascii


def decode(text: bytes) -> str:
    """The name. What is no modified UTF-7 is taken as UTF-8 or Latin-1, as clients send both."""
    if b"&" not in text:
        return _plain(text)
    out: list[str] = []
    at = 0
    while at < len(text):
        amp = text.find(b"&", at)
        if amp < 0:
            out.append(_plain(text[at:]))
            break
        out.append(_plain(text[at:amp]))
        dash = text.find(b"-", amp)
        if dash < 0:
            return _plain(text)
        shifted = text[amp + 1 : dash]
        if not shifted:
            out.append("&")
        else:
            padded = shifted.replace(b",", b"/") + b"=" * (-len(shifted) % 4)
            try:
                out.append(base64.b64decode(padded, validate=True).decode("utf-16-be"))
            except (binascii.Error, UnicodeDecodeError):
                return _plain(text)
        at = dash + 1
    return "".join(out)


def _plain(text: bytes) -> str:
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError:
        return text.decode("latin-1")


def encode(name: str) -> bytes:
    """The inverse of `decode`."""
    out = bytearray()
    shifted: list[str] = []

    def flush() -> None:
        if shifted:
            data = base64.b64encode("".join(shifted).encode("utf-16-be")).rstrip(b"=").replace(b"/", b",")
            out.extend(b"&" + data + b"-")
            shifted.clear()

    for ch in name:
        if " " <= ch <= "~":
            flush()
            out.extend(b"&-" if ch == "&" else ch.encode())
        else:
            shifted.append(ch)
    flush()
    return bytes(out)
