"""A ledger: one JSON line per fact. An acknowledgement counts only after its line is fsynced."""

from __future__ import annotations

import json
import os
import threading
import time
from typing import Any


class Ledger:
    """Append-only, shared by the threads of one process."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._lock = threading.Lock()

    def note(self, kind: str, *, sync: bool = False, **facts: Any) -> None:
        """Write a line; with `sync` it is on disk when this returns. `at`: CLOCK_BOOTTIME seconds."""
        line = {"kind": kind, "at": time.clock_gettime(time.CLOCK_BOOTTIME), **facts}
        data = json.dumps(line).encode() + b"\n"
        with self._lock:
            os.write(self._fd, data)
            if sync:
                os.fdatasync(self._fd)
