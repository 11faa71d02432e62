"""Responses as bytes (RFC 3501 7). Whoever calls writes them; nothing here waits or sends."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from everpost.wire.imap.grammar import format_mailbox, quote

SYSTEM_FLAGS = ("\\Answered", "\\Flagged", "\\Deleted", "\\Seen", "\\Draft")
_UNSAFE = re.compile(r"[^ -~]")


def text(words: str) -> bytes:
    """Human words as resp-text: one line of ASCII."""
    return _UNSAFE.sub("?", words).encode() or b"Done"


def tagged(tag: bytes, kind: str, words: bytes) -> bytes:
    """`tag OK words`; `words` may begin with a response code."""
    return b"%b %b %b\r\n" % (tag, kind.encode(), words)


def untagged(words: bytes) -> bytes:
    """`* words`."""
    return b"* %b\r\n" % words


def ok(code: bytes, words: str = "Noted") -> bytes:
    """`* OK [code] words`."""
    return b"* OK [%b] %b\r\n" % (code, text(words))


def bye(words: str, code: bytes = b"") -> bytes:
    """The last word."""
    return b"* BYE " + (b"[%b] " % code if code else b"") + text(words) + b"\r\n"


def continuation(words: bytes = b"Go on") -> bytes:
    """`+ words`; empty words for a SASL challenge without data."""
    return b"+ %b\r\n" % words


def numbers(name: bytes, found: Sequence[int]) -> bytes:
    """`* SEARCH 1 2 3`, without an end, for MODSEQ may follow."""
    return b"* " + name + (b" " + " ".join(map(str, found)).encode() if found else b"")


def expunges(gone: Iterable[int]) -> bytes:
    """EXPUNGE for each message number, highest first, so that no number shifts another one."""
    return b"".join([b"* %d EXPUNGE\r\n" % number for number in sorted(gone, reverse=True)])


def flags(keywords: Iterable[str]) -> bytes:
    """FLAGS: what is in use in the folder."""
    words = [*SYSTEM_FLAGS, *sorted(keywords)]
    return b"* FLAGS (" + " ".join(words).encode("latin-1", "replace") + b")\r\n"


def permanent_flags(keywords: Iterable[str], *, read_only: bool) -> bytes:
    """PERMANENTFLAGS: what a client may change for good; `\\*`: new keywords too."""
    words = [] if read_only else [*SYSTEM_FLAGS, *sorted(keywords), "\\*"]
    return b"* OK [PERMANENTFLAGS (" + " ".join(words).encode("latin-1", "replace") + b")] Flags that stay\r\n"


def fetch_changed(number: int, uid: int | None, shown: bytes | None, modseq: int | None) -> bytes:
    """An untagged FETCH that tells of a change; `shown`: the flags' list in parentheses. None: not said."""
    words = [] if uid is None else [b"UID %d" % uid]
    words += [] if shown is None else [b"FLAGS " + shown]
    words += [] if modseq is None else [b"MODSEQ (%d)" % modseq]
    return b"* %d FETCH (%b)\r\n" % (number, b" ".join(words))


def listed(kind: bytes, attributes: Sequence[str], name: str, *, child_info: Sequence[str] = ()) -> bytes:
    """LIST or LSUB of a name; `child_info`: selections that only names below it meet (RFC 5258 CHILDINFO)."""
    line = b'* %b (%b) "/" %b' % (kind, " ".join(attributes).encode(), format_mailbox(name))
    if child_info:
        line += b' ("CHILDINFO" (' + b" ".join(quote(one.encode()) for one in child_info) + b"))"
    return line + b"\r\n"


def status(name: str, items: Sequence[tuple[str, int]]) -> bytes:
    """STATUS of a name."""
    words = " ".join(f"{item} {value}" for item, value in items).encode()
    return b"* STATUS %b (%b)\r\n" % (format_mailbox(name), words)


def identity(fields: Sequence[tuple[str, str]]) -> bytes:
    """ID."""
    words = b" ".join(quote(name.encode()) + b" " + quote(value.encode()) for name, value in fields)
    return b"* ID (" + words + b")\r\n"


def moved(uid_validity: int, sources: bytes, targets: bytes) -> bytes:
    """The COPYUID code (RFC 4315)."""
    return b"COPYUID %d %b %b" % (uid_validity, sources, targets)
