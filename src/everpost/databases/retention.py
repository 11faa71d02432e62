"""How much log a copy keeps behind its replay: by number, and on a copy with a TruncationLagTime by time too."""

from __future__ import annotations

import re
from pathlib import Path

from everpost.databases.files import write_durably
from everpost.databases.wal import lies_there

STEP = 16
"""Generations by which the setting must differ before PostgreSQL is told."""


def younger(pgdata: Path, since: float) -> int:
    """How many files of the log, from the newest that is in use backwards, were written after `since` (Unix seconds).
    Those that are made ready for later are passed over."""
    names = [path.name for path in (pgdata / "pg_wal").iterdir() if re.fullmatch("[0-9A-F]{24}", path.name)]
    count = 0
    for name in sorted(names, key=lambda name: (name[8:], name[:8]), reverse=True):
        path = pgdata / "pg_wal" / name
        if count == 0 and not lies_there(path):
            continue
        try:
            if path.stat().st_mtime < since:
                break
        except FileNotFoundError:
            break  # removed meanwhile: so is what is older
        count += 1
    return count


class Retention:
    """wal_keep_size of one copy, in a file of its own. `keep_logs`: generations that are kept in any case."""

    def __init__(self, file: Path, keep_logs: int) -> None:
        self._file = file
        self._keep_logs = keep_logs

    def _now(self) -> int:
        try:
            found = re.search(r"wal_keep_size = (\d+)MB", self._file.read_text())
        except OSError:
            return 0
        return int(found[1]) if found else 0

    def by_number(self) -> bool:
        """Only what every copy keeps, as an active does too; whether it changed."""
        changed = self._now() != self._keep_logs
        if changed:
            self._write(self._keep_logs)
        return changed

    def _write(self, generations: int) -> None:
        write_durably(self._file, f"wal_keep_size = {generations}MB\n")

    def by_time(self, pgdata: Path, since: float) -> bool:
        """What was written after `since` too, with room for what comes until the next look; whether it changed."""
        wanted = self._keep_logs + younger(pgdata, since)
        if abs(wanted - self._now()) < STEP:
            return False
        self._write(wanted)
        return True
