"""A seed is durable when it is done: what is written while another sync is under way is synced anew."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from everpost.databases import tools
from everpost.databases.files import file_system, syncfs_tells
from everpost.databases.tools import Tools
from everpost.errors import EverpostError


class Disk:
    """Takes down what was written when a sync began; the first one that finds something waits until it is let go on."""

    def __init__(self, fails: bool = False) -> None:
        self.written: list[str] = []
        self.durable: list[str] = []
        self.under_way = threading.Event()
        self.go_on = threading.Event()
        self._fails = fails

    def sync(self) -> None:
        found = list(self.written)
        if found and not self.under_way.is_set():
            self.under_way.set()
            assert self.go_on.wait(20)
            if self._fails:
                raise OSError(errno.EIO, "Input/output error")
        self.durable = found

    @contextlib.contextmanager
    def opened(self, folder: Path) -> Iterator[Disk]:
        yield self


async def _work(disk: Disk) -> None:
    disk.written.append("first")
    assert await asyncio.to_thread(disk.under_way.wait, 20), "it is synced while it is written"
    disk.written.append("last")
    asyncio.get_running_loop().call_later(0.05, disk.go_on.set)


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Callable[[Disk], Disk]:
    def use(disk: Disk) -> Disk:
        monkeypatch.setattr(tools, "file_system", disk.opened)
        monkeypatch.setattr(tools, "SYNC_PAUSE", 0.01)
        return disk

    return use


async def test_the_last_sync_begins_after_the_last_write(on: Callable[[Disk], Disk], tmp_path: Path) -> None:
    disk = on(Disk())
    await Tools._synced_meanwhile(tmp_path, lambda: _work(disk))
    assert disk.durable == ["first", "last"]


async def test_a_write_that_failed_on_the_way_fails_the_seed(on: Callable[[Disk], Disk], tmp_path: Path) -> None:
    disk = on(Disk(fails=True))
    with pytest.raises(EverpostError, match="Input/output error"):
        await Tools._synced_meanwhile(tmp_path, lambda: _work(disk))


def test_the_file_system_itself_is_synced(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("something")
    with file_system(tmp_path) as system:
        system.sync()
    with pytest.raises(OSError, match="Bad file descriptor"):
        system.sync()
    assert syncfs_tells(), "Debian 12 has 6.1"


async def test_a_place_that_cannot_be_opened_fails_the_seed(tmp_path: Path) -> None:
    begun = []

    async def work() -> None:
        begun.append(True)

    with pytest.raises(EverpostError, match="No such file"):
        await Tools._synced_meanwhile(tmp_path / "gone", work)
    assert not begun
