"""What PostgreSQL writes about itself: LSNs, pg_controldata, timeline histories. Parsing, and histories looked up."""

from __future__ import annotations

import calendar
import re
import time
from pathlib import Path

import msgspec

from everpost.errors import EverpostError

SEGMENT = 1024 * 1024
"""Bytes of a WAL segment: one log generation."""

PRIMARY_STATES = frozenset({"in production", "shut down", "shutting down", "starting up", "in crash recovery"})
"""pg_controldata's cluster states of something that was a primary, or is recovering from having been one."""


class ControlData(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of pg_controldata that matter here; LSNs in bytes. `checkpoint_at`: Unix seconds, whole ones."""

    state: str
    system_identifier: str
    checkpoint_lsn: int
    checkpoint_at: int
    timeline: int
    min_recovery_lsn: int
    min_recovery_timeline: int

    @property
    def was_primary(self) -> bool:
        """Whether it last ran as a primary."""
        return self.state in PRIMARY_STATES


class Fork(msgspec.Struct, frozen=True, array_like=True):
    """One line of a history file: `timeline` ended at `lsn`."""

    timeline: int
    lsn: int


def parse_lsn(text: str) -> int:
    """`16/B374D848` in bytes."""
    high, _, low = text.strip().partition("/")
    return (int(high, 16) << 32) | int(low, 16)


def format_lsn(lsn: int) -> str:
    """Bytes as PostgreSQL writes them."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def segment_name(timeline: int, lsn: int) -> str:
    """The WAL file (1 MB segments) that holds the byte at `lsn`."""
    number = lsn // SEGMENT
    per_id = (1 << 32) // SEGMENT
    return f"{timeline:08X}{number // per_id:08X}{number % per_id:08X}"


def parse_controldata(text: str) -> ControlData:
    """The output of pg_controldata in the C locale and UTC. Raises EverpostError if a field is missing."""
    fields = dict(re.findall(r"^([^:\n]+):\s*(.*)$", text, re.MULTILINE))
    try:
        return ControlData(
            state=fields["Database cluster state"],
            system_identifier=fields["Database system identifier"],
            checkpoint_lsn=parse_lsn(fields["Latest checkpoint location"]),
            checkpoint_at=calendar.timegm(time.strptime(fields["Time of latest checkpoint"], "%a %b %d %H:%M:%S %Y")),
            timeline=int(fields["Latest checkpoint's TimeLineID"]),
            min_recovery_lsn=parse_lsn(fields["Minimum recovery ending location"]),
            min_recovery_timeline=int(fields["Min recovery ending loc's timeline"]),
        )
    except (KeyError, ValueError) as error:
        raise EverpostError(
            f"pg_controldata said nothing about {error}.", remedy="The copy is not whole; it will be reseeded."
        ) from error


def parse_history(text: str) -> list[Fork]:
    """A timeline history file, oldest fork first."""
    forks = []
    for line in text.splitlines():
        words = line.split("#")[0].split()
        if len(words) >= 2 and words[0].isdigit():
            forks.append(Fork(int(words[0]), parse_lsn(words[1])))
    return forks


def began(pgdata: Path, timeline: int) -> int | None:
    """Where a timeline began, by the history that came with its log; None for the first, or if it is not here."""
    try:
        text = (pgdata / "pg_wal" / f"{timeline:08X}.history").read_text()
    except OSError:
        return None
    forks = parse_history(text)
    return forks[-1].lsn if forks else None


def newest_timeline(pgdata: Path) -> int:
    """The newest timeline whose history is there, which is `latest` at a start. 1: none was ever promoted."""
    return max((int(path.stem, 16) for path in (pgdata / "pg_wal").glob("*.history")), default=1)
