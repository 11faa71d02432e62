"""The user's own mail as load: an mbox file, a Maildir, or a folder of .eml files."""

from __future__ import annotations

import mailbox
from pathlib import Path

MOST = 5000


def own_messages(path: str) -> list[bytes]:
    """Messages with CRLF line ends, at most MOST. Raises ValueError when there are none."""
    place = Path(path)
    found: list[bytes] = []
    if place.is_file():
        box = mailbox.mbox(str(place), create=False)
        found = [box.get_bytes(key) for key in list(box.keys())[:MOST]]
    elif (place / "cur").is_dir():
        files = [*(place / "cur").iterdir(), *(place / "new").iterdir()]
        found = [file.read_bytes() for file in files[:MOST]]
    elif place.is_dir():
        found = [file.read_bytes() for file in sorted(place.rglob("*.eml"))[:MOST]]
    if not found:
        raise ValueError(f"There is no mail at {path}: name an mbox file, a Maildir, or a folder of .eml files.")
    return [_crlf(raw) for raw in found]


def _crlf(raw: bytes) -> bytes:
    plain = raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\0", b"")
    return plain.replace(b"\n", b"\r\n").rstrip(b"\r\n") + b"\r\n"
