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
        folders = [place / name for name in ("cur", "new") if (place / name).is_dir()]
        found = [file.read_bytes() for file in [file for one in folders for file in sorted(one.iterdir())][:MOST]]
    elif place.is_dir():
        found = [file.read_bytes() for file in sorted(place.rglob("*.eml"))[:MOST]]
    if not found:
        raise ValueError(f"There is no mail at {path}: name an mbox file, a Maildir, or a folder of .eml files.")
    return [as_sent(raw) for raw in found]


def as_sent(raw: bytes) -> bytes:
    """As a client sends it: CRLF line ends, no NUL, an end of line at the end."""
    plain = raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\0", b"")
    return plain.replace(b"\n", b"\r\n").rstrip(b"\r\n") + b"\r\n"
