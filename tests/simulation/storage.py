"""What lies on the disk of one copy: WAL on its timelines, what is flushed of it, and a few small files."""

from __future__ import annotations

from typing import NamedTuple

from everpost.databases.interface import Failure, Upstream
from everpost.model.database import Token

BEGIN = 16 * 1024 * 1024
"""LSN at which every database begins."""
SIZE = 120
"""Bytes of a record."""


class Record(NamedTuple):
    """WAL from `start` to `lsn`, written at `at`. `kind`: op (a client's commit), opening, forgotten, note, or one
    that is no commit: promotion, shutdown."""

    lsn: int
    start: int
    timeline: int
    kind: str
    value: object
    at: float

    @property
    def commit(self) -> bool:
        """Whether it has a time by which replay may be kept back, or stopped."""
        return self.kind not in ("promotion", "shutdown")


def place(lsn: int) -> int:
    """How many records end at or before `lsn`: all are of one size."""
    return (lsn - BEGIN) // SIZE


class Storage:
    """What lies on the disk of one copy, and outlives its processes."""

    def __init__(self) -> None:
        self.incarnation = ""
        self.present = False
        self.spoilt = False
        self.highest = Token(0, 0)
        self.mark: tuple[Token, str, float | None] | None = None
        self.was_primary = False
        self.shutdown: int | None = None
        self.order = ""
        self.failure: Failure | None = None
        self.names: tuple[str, ...] = ()
        self.admitted = False
        self.upstream: Upstream | None = None
        self.until: float | None = None
        """A standby replays nothing that was committed later, and stands there."""
        self.replayed = 0
        """How many records, whatever the instance that did it."""
        self.wal: list[Record] = []
        self.flushed = 0
        self.history: list[tuple[int, int]] = [(1, BEGIN)]

    @property
    def end(self) -> int:
        """LSN behind the last record written."""
        return self.wal[-1].lsn if self.wal else BEGIN

    @property
    def flushed_lsn(self) -> int:
        """LSN behind the last record flushed."""
        return self.wal[self.flushed - 1].lsn if self.flushed else BEGIN

    @property
    def timeline(self) -> int:
        """Of the last record."""
        return self.history[-1][0]

    def append(self, record: Record) -> None:
        """Write, not flush."""
        if record.timeline != self.history[-1][0]:
            self.history.append((record.timeline, record.start))
        self.wal.append(record)

    def cut(self, count: int) -> None:
        """Only so many records are left."""
        del self.wal[count:]
        self.flushed = count
        self.replayed = min(self.replayed, count)
        end = self.end
        while len(self.history) > 1 and self.history[-1][1] >= end:
            self.history.pop()

    def copy_from(self, other: Storage) -> None:
        """Everything that the other has flushed."""
        self.wal = other.wal[: other.flushed]
        self.flushed = self.replayed = len(self.wal)
        self.history = [entry for entry in other.history if entry[1] < self.end or entry[0] == 1]
        self.was_primary, self.shutdown = False, None

    def contains(self, record: Record) -> bool:
        """Whether this very record is durable here."""
        at = place(record.lsn) - 1
        return at < self.flushed and self.wal[at] is record

    def stop(self) -> int | None:
        """How many records there are up to `until`, if the log is known to go beyond."""
        if self.until is None:
            return None
        found = (i for i, row in enumerate(self.wal[: self.flushed]) if row.commit and row.at > self.until)
        return next(found, None)

    def openings(self, count: int | None = None) -> list[tuple[Token, str]]:
        """Opening rows in the first `count` records, else in all that is flushed; oldest first."""
        found: list[tuple[Token, str]] = []
        for row in self.wal[: self.flushed if count is None else count]:
            if row.kind == "opening":
                found.append(row.value)  # type: ignore[arg-type]
            elif row.kind == "forgotten":
                found = [one for one in found if one[0] != row.value]
        return found
