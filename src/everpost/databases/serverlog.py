"""Reading on in what PostgreSQL writes into its log."""

from __future__ import annotations

from pathlib import Path

_CANCELLED = (b"canceling wait for synchronous replication", b"canceling the wait for synchronous replication")
_OVERLAP = 100


class ServerLog:
    """The log of one instance; `begin` is where its present life begins."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.begin = self._read = self._size()

    def _size(self) -> int:
        try:
            return self._path.stat().st_size
        except OSError:
            return 0

    def started(self) -> None:
        """A new life begins."""
        self.begin = self._read = self._size()

    def tail(self) -> str:
        """The last lines, for people."""
        try:
            text = self._path.read_bytes()[-1500:].decode(errors="replace")
        except OSError:
            return "(no log)"
        return " | ".join(text.splitlines()[-4:])

    def waits_were_cancelled(self) -> bool:
        """Whether it says so since the last call."""
        size = self._size()
        if size <= self._read:
            return False
        with self._path.open("rb") as log:
            log.seek(max(self._read - _OVERLAP, 0))
            text = log.read(size - self._read + _OVERLAP)
        self._read = size
        return any(words in text for words in _CANCELLED)
