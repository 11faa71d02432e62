"""A ledger: one JSON line per fact. An acknowledgement counts only after its line is fsynced.

The order is always: the line of the attempt, the attempt, the line of its answer on disk, and only then it is counted.
"""

from __future__ import annotations

import json
import os
import threading
import time
from typing import Any


def boottime() -> float:
    """CLOCK_BOOTTIME in seconds: one clock for all processes of a lab, whatever happens to the wall clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Ledger:
    """Append-only, shared by the threads of one process; threads that wait for the disk share one fdatasync."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._write = threading.Lock()
        self._sync = threading.Lock()
        self._written = 0
        self._synced = 0
        self.path = path

    def stopping(self) -> bool:
        """Whether the lab asked this writer to finish."""
        return os.path.exists(self.path + ".stop")

    def note(self, kind: str, *, sync: bool = False, **facts: Any) -> None:
        """Write a line; with `sync` it is on disk when this returns. `at`: CLOCK_BOOTTIME seconds."""
        with self._write:
            # Inside the lock, so that the lines of one file are in the order of their times.
            line = {"kind": kind, "at": round(boottime(), 6), **facts}
            data = json.dumps(line).encode() + b"\n"
            if os.write(self._fd, data) != len(data):
                raise OSError("a line of the ledger was cut off")
            self._written += 1
            mine = self._written
        if sync:
            self._flush(mine)

    def _flush(self, mine: int) -> None:
        with self._sync:
            if self._synced < mine:
                with self._write:
                    upto = self._written
                os.fdatasync(self._fd)
                self._synced = upto
