"""How much log is kept by time."""

from __future__ import annotations

import os
from pathlib import Path

from everpost.databases.retention import STEP, Retention

NOW = 1_800_000_000.0


def _log(pgdata: Path, count: int, *, timeline: int = 2, ready: int = 3, every: float = 60.0) -> None:
    """Files of the log, one a minute up to now; behind them some that wait, with the address of their former life."""
    folder = pgdata / "pg_wal"
    folder.mkdir(exist_ok=True)
    for number in range(1, count + ready + 1):
        path = folder / f"{timeline:08X}{0:08X}{number:08X}"
        lsn = number << 20 if number <= count else 1 << 20
        path.write_bytes(b"\0" * 8 + lsn.to_bytes(8, "little") + b"\0" * 24)
        age = (count - number) * every if number <= count else 1e6
        os.utime(path, (NOW - age, NOW - age))


def test_the_log_of_the_last_hour_is_kept_besides_what_every_copy_keeps(tmp_path: Path) -> None:
    _log(tmp_path, 300)
    retention = Retention(tmp_path / "keep.conf", 64)
    assert retention.by_number() and not retention.by_number()
    assert retention.by_time(tmp_path, NOW - 3600.0)
    assert (tmp_path / "keep.conf").read_text() == f"wal_keep_size = {64 + 61}MB\n"
    assert not retention.by_time(tmp_path, NOW - 3600.0 - (STEP - 2) * 60.0), "a small difference is not worth a signal"
    assert retention.by_time(tmp_path, NOW - 7200.0)
    assert retention.by_number()
    assert (tmp_path / "keep.conf").read_text() == "wal_keep_size = 64MB\n"
