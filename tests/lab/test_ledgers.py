"""Ledgers: on disk before it is counted, read once while they grow, a torn last line waits."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from everpost.lab.ledgers import LedgerFile, Ledgers
from everpost.lab.load.ledger import Ledger


def test_a_line_is_on_disk_when_note_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ledger"
    synced: list[int] = []
    real = os.fdatasync

    def fdatasync(fd: int) -> None:
        synced.append(path.read_bytes().count(b"\n"))
        real(fd)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    ledger = Ledger(str(path))
    ledger.note("try", id="a")
    assert synced == []
    ledger.note("ack", sync=True, id="a", user="anna")
    assert synced == [2]


def test_threads_share_a_sync_and_each_line_is_covered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ledger"
    covered = 0
    calls = 0
    real = os.fdatasync

    def fdatasync(fd: int) -> None:
        nonlocal covered, calls
        before = path.read_bytes()
        real(fd)
        covered, calls = before.count(b"\n"), calls + 1

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    ledger = Ledger(str(path))
    missed: list[str] = []

    def write(name: int) -> None:
        for number in range(50):
            ledger.note("ack", sync=True, id=f"{name}-{number}", user="anna")
            mine = [line for line in path.read_text().splitlines() if f'"{name}-{number}"' in line]
            place = path.read_text().splitlines().index(mine[0]) + 1
            if covered < place:
                missed.append(f"{name}-{number}")

    threads = [threading.Thread(target=write, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert missed == []
    assert 0 < calls <= 400
    file = LedgerFile(path)
    file.read()
    assert len(file.facts) == 400


def test_a_torn_last_line_is_read_when_it_is_whole(tmp_path: Path) -> None:
    ledgers = Ledgers()
    ledgers.add("hub-EX02-MB01", tmp_path / "ledger")
    assert ledgers.count() == 0
    path = tmp_path / "ledger"
    path.write_text('{"kind": "ack", "id": "a", "user": "anna", "at": 1.0}\n{"kind": "ack", "id": "b", "us')
    assert ledgers.acknowledged() == [1.0]
    with path.open("a") as file:
        file.write('er": "ben", "at": 2.0}\n')
    assert ledgers.acknowledged("EX02", "MB01") == [1.0, 2.0]
    assert ledgers.acknowledged("EX01") == []
    assert len(ledgers.facts()) == 2


def test_a_writer_is_asked_to_stop_by_a_file(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path / "ledger"))
    assert not ledger.stopping()
    (tmp_path / "ledger.stop").touch()
    assert ledger.stopping()
