"""The shared page: one mapped file by which the agent tells the host's other processes its deadline.

Written by the agent alone, read by every role immediately before it answers a client (architecture 3.8) and after
each COMMIT (3.1). All words are 8 bytes, native order, written one at a time, so a reader never sees half a word.

    word 0       magic
    word 1       deadline of the server's tenure, CLOCK_BOOTTIME nanoseconds (0 = none)
    word 2       epoch of the tenure
    word 8+2n    epoch of database number n while its active copy on this host is open, else 0
    word 9+2n    flags of database number n: 1 = single (the set is or may be empty)
"""

from __future__ import annotations

import mmap
import os
import time
from pathlib import Path

_MAGIC = 0x45564552504F5331
_WORDS = 8 + 2 * 1024
SINGLE = 1


class SharedPage:
    """One process's view of the page. `writable` is for the agent; readers map it read-only."""

    def __init__(self, path: Path, *, writable: bool = False) -> None:
        flags = os.O_RDWR | os.O_CREAT if writable else os.O_RDONLY
        fd = os.open(path, flags, 0o644)
        try:
            if writable and os.fstat(fd).st_size < _WORDS * 8:
                os.ftruncate(fd, _WORDS * 8)
            access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
            self._map = mmap.mmap(fd, _WORDS * 8, access=access)
        finally:
            os.close(fd)
        self._words = memoryview(self._map).cast("Q")
        if writable:
            self._words[0] = _MAGIC
        elif self._words[0] != _MAGIC:
            raise ValueError(f"{path} is not a shared page")

    @property
    def deadline(self) -> float:
        """Until when this server may serve, in CLOCK_BOOTTIME seconds."""
        return self._words[1] / 1e9

    def set_deadline(self, boottime: float, epoch: int) -> None:
        """Publish a confirmed deadline; the warden has accepted it before."""
        self._words[2] = epoch
        self._words[1] = int(boottime * 1e9)

    @property
    def epoch(self) -> int:
        """The epoch of the server's tenure."""
        return self._words[2]

    def serving(self) -> bool:
        """Whether this server still holds its tenure, by this host's clock, now."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) < self._words[1]

    def set_database(self, number: int, *, epoch: int, single: bool) -> None:
        """Publish an open active copy (`epoch` 0: not open here). `single` is raised before names lose their last
        member and lowered only after a grow was confirmed."""
        if single:
            self._words[9 + 2 * number] = SINGLE
            self._words[8 + 2 * number] = epoch
        else:
            self._words[8 + 2 * number] = epoch
            self._words[9 + 2 * number] = 0

    def database(self, number: int) -> tuple[int, bool]:
        """(epoch, single) of a database whose active copy is open on this host; epoch 0 if it is not."""
        epoch = self._words[8 + 2 * number]
        return epoch, bool(self._words[9 + 2 * number] & SINGLE)

    def close(self) -> None:
        """Unmap."""
        self._words.release()
        self._map.close()
