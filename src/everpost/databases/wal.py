"""Does a log end in the middle of a record, or is a whole record unreadable? (architecture 3.3, F10)

A promoted copy's timeline begins where recovery stopped reading. That must be at or after the received LSN, with one
harmless exception: a receiver that is cut off keeps the first part of a record whose rest never came. Such a record was
not flushed here as a whole, so nothing in or behind it can have been acknowledged by this copy. A record that is here
from end to end and still was not replayed is a different matter: something behind it may have been acknowledged.

Layout: PostgreSQL 15 to 18, access/xlog_internal.h and xlogrecord.h. 8 KB pages; the first page of a segment has a
40 byte header, the others 24; records begin at multiples of 8 with their total length.
"""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from everpost.databases.control import SEGMENT, parse_lsn, segment_name

PAGE = 8192
LONG_HEADER = 40
SHORT_HEADER = 24
RECORD_HEADER = 24
LONGEST_RECORD = 2 * 1024 * 1024
"""No record of a mail store is longer (33 full pages and their headers); more is a broken length."""
TAIL_SEGMENTS = 4
"""How many segments are read back from the end: more than any record that a mail store writes."""


class Tail(msgspec.Struct, frozen=True):
    """The received log's last bytes: `data` begins at LSN `start` (a page boundary) and ends at the received LSN."""

    start: int
    data: bytes


def read_tail(pgdata: Path, timeline: int, received: int) -> Tail:
    """Read what is there of the last segments up to `received`; call before promotion, which recycles files."""
    chunks: list[bytes] = []
    first = received // SEGMENT * SEGMENT
    start = first
    for back in range(TAIL_SEGMENTS):
        lsn = first - back * SEGMENT
        if lsn < 0:
            break
        try:
            data = (pgdata / "pg_wal" / segment_name(timeline, lsn)).read_bytes()
        except FileNotFoundError:
            break
        chunks.append(data)
        start = lsn
    whole = b"".join(reversed(chunks))
    return Tail(start, whole[: received - start])


def _header(lsn: int) -> int:
    """Size of the page header at a page boundary."""
    return LONG_HEADER if lsn % SEGMENT == 0 else SHORT_HEADER


def record_end(begin: int, length: int) -> int:
    """Where a record of `length` bytes that begins at `begin` ends, page headers counted."""
    at = begin
    if at % PAGE == 0:
        at += _header(at)
    left = length
    while True:
        room = PAGE - at % PAGE
        if left <= room:
            return at + left
        left -= room
        at += room
        at += _header(at)


def ends_in_incomplete_record(tail: Tail, begin: int, received: int) -> bool:
    """Whether the record at `begin` was not yet whole at `received`, so that nothing behind it can be missing.

    `begin` is where the promoted timeline begins, at or before `received`. Zeros, an impossible length, or a record
    that was here from end to end give False: then the copy must not be opened.
    """
    if begin >= received:
        return True
    if begin < tail.start:
        return False
    at = begin
    if at % PAGE == 0:
        at += _header(at)
    if received - at < 4:
        return True  # not even the length arrived
    length = int.from_bytes(tail.data[at - tail.start : at - tail.start + 4], "little")
    if not RECORD_HEADER <= length <= LONGEST_RECORD or not _plausible_header(tail, at, begin):
        return False
    return record_end(begin, length) > received


LAST_LINES = 65536
"""Characters that surely hold a line of pg_waldump."""
_DUMPED = re.compile(r"len \(rec/tot\):\s*\d+/\s*(\d+),.*?lsn: ([0-9A-F]+/[0-9A-F]+)")


def end_of_dump(text: str) -> int | None:
    """Where the last whole record of pg_waldump's output ends; None when it shows none."""
    found = _DUMPED.findall(text[-LAST_LINES:])
    if not found:
        return None
    length, begin = found[-1]
    return (record_end(parse_lsn(begin), int(length)) + 7) & ~7


def segments(pgdata: Path) -> list[str]:
    """Names of the log's files on its newest timeline, oldest first, recycled ones that wait for use left out."""
    found = sorted(path.name for path in (pgdata / "pg_wal").glob("?" * 24) if re.fullmatch("[0-9A-F]{24}", path.name))
    newest = [name for name in found if name[:8] == found[-1][:8]]
    return [name for name in newest if lies_there(pgdata / "pg_wal" / name)]


def segment_lsn(name: str) -> int:
    """The first byte of a file of the log."""
    return (int(name[8:16], 16) << 32) + int(name[16:24], 16) * SEGMENT


def lies_there(path: Path) -> bool:
    """Whether the first page says that it lies there: a recycled file keeps the address of its former life."""
    with path.open("rb") as file:
        header = file.read(LONG_HEADER)
    return len(header) == LONG_HEADER and int.from_bytes(header[8:16], "little") == segment_lsn(path.name)


def _plausible_header(tail: Tail, at: int, begin: int) -> bool:
    """Whether xl_prev points a little way back, where the header lies on one page and is here."""
    if PAGE - at % PAGE < RECORD_HEADER or at + RECORD_HEADER > tail.start + len(tail.data):
        return True
    offset = at - tail.start
    previous = int.from_bytes(tail.data[offset + 8 : offset + 16], "little")
    return 0 < begin - previous <= LONGEST_RECORD + SEGMENT
