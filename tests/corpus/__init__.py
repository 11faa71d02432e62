"""Messages of the shapes that real mail has, made up by us: `*.eml` beside this file, written by `make.py`.

Also a mail folder like any other: `everpost demo --mail tests/corpus` sends them.
"""

from __future__ import annotations

import base64
import random
from pathlib import Path

FOLDER = Path(__file__).parent


def messages() -> dict[str, bytes]:
    """Name to bytes, ordered by name."""
    return {path.stem: path.read_bytes() for path in sorted(FOLDER.glob("*.eml"))}


def with_attachment(size: int, seed: int = 1) -> bytes:
    """A message of about `size` bytes with one base64 attachment; the same for the same arguments."""
    content = random.Random(seed).randbytes(size // 78 * 57)
    encoded = base64.encodebytes(content).replace(b"\n", b"\r\n")
    head = (
        b"From: Ines <ines@example.org>\r\nTo: ole@example.org\r\nSubject: the scans\r\nMIME-Version: 1.0\r\n"
        b"Message-ID: <scans-%d@example.org>\r\nContent-Type: multipart/mixed; boundary=scans\r\n\r\n"
        b"--scans\r\nContent-Type: text/plain\r\n\r\nHere they are.\r\n\r\n"
        b"--scans\r\nContent-Type: application/zip; name=scans.zip\r\nContent-Transfer-Encoding: base64\r\n"
        b"Content-Disposition: attachment; filename=scans.zip\r\n\r\n" % seed
    )
    return head + encoded + b"\r\n--scans--\r\n"
