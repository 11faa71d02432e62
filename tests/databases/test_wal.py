"""Does a received log end in the middle of a record? Judged on real WAL, with pg_waldump as the second opinion."""

from __future__ import annotations

import re
import subprocess
from typing import NamedTuple

import pytest

from everpost.databases import binaries, wal
from everpost.databases.control import SEGMENT
from everpost.databases.wal import Tail

from .conftest import Host
from .test_engine import client, first_active

RECORD = re.compile(r"len \(rec/tot\): +\d+/ *(\d+), .*?lsn: ([0-9A-F]+)/([0-9A-F]+), prev ([0-9A-F]+)/([0-9A-F]+)")


class Record(NamedTuple):
    begin: int
    length: int


class Log(NamedTuple):
    """The bytes of a log from a segment's beginning, and the records that pg_waldump sees in it."""

    start: int
    data: bytes
    records: list[Record]

    def until(self, received: int) -> Tail:
        return Tail(self.start, self.data[: received - self.start])


def lsn(high: str, low: str) -> int:
    return (int(high, 16) << 32) + int(low, 16)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Log]:
    """Filled by the first test: fixtures of the host live as long as one test."""
    return {}


async def real_log(hosts: list[Host], log: dict[str, Log]) -> Log:
    """Short records and records of many pages, over more than one segment."""
    if "log" in log:
        return log["log"]
    engine = await first_active(hosts[0])
    await engine.admit(True)
    connection = await client(hosts[0])
    # Stored as it is, so that a row is a record of several pages.
    await connection.execute("CREATE TABLE w(n int, b bytea)")
    await connection.execute("ALTER TABLE w ALTER b SET STORAGE PLAIN")
    for n in range(400):
        await connection.execute("INSERT INTO w VALUES ($1, $2)", n, b"x" * (n * 37 % 7000))
        if n == 200:
            await engine._line.row("select pg_switch_wal()")  # the next record stands behind a segment's header
    await connection.execute("CREATE INDEX ON w(n)")  # full page images
    await connection.close()
    received = await engine.close()
    end = received.lsn
    tail = wal.read_tail(engine.layout.pgdata, received.timeline, end)
    program = binaries.find().path("pg_waldump")
    argv = [program, "-p", str(engine.layout.pgdata / "pg_wal"), "-t", str(received.timeline)]
    argv += ["-s", f"{tail.start >> 32:X}/{tail.start & 0xFFFFFFFF:X}"]
    printed = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
    records = [Record(lsn(m[2], m[3]), int(m[1])) for m in RECORD.finditer(printed)]
    log["log"] = Log(tail.start, tail.data, [r for r in records if r.begin < end])
    return log["log"]


async def test_ends_of_records_are_where_the_next_begins(hosts: list[Host], log: dict[str, Log]) -> None:
    whole = await real_log(hosts, log)
    assert len(whole.records) > 500
    assert {r.begin // SEGMENT for r in whole.records} >= {whole.start // SEGMENT, whole.start // SEGMENT + 1}
    assert any(r.length > wal.PAGE for r in whole.records)
    for this, following in zip(whole.records, whole.records[1:], strict=False):
        end = wal.record_end(this.begin, this.length)
        aligned = (end + 7) // 8 * 8
        header = wal._header(aligned) if aligned % wal.PAGE == 0 else 0
        switched = this.length == wal.RECORD_HEADER  # a switch of segments leaves the rest of one empty
        behind = (end // SEGMENT + 1) * SEGMENT + wal.LONG_HEADER
        assert following.begin in (aligned, aligned + header, behind if switched else aligned), this


async def test_a_record_cut_anywhere_is_incomplete_a_whole_one_not(hosts: list[Host], log: dict[str, Log]) -> None:
    whole = await real_log(hosts, log)
    last = whole.records[-1]
    for record in whole.records[:: max(len(whole.records) // 60, 1)]:
        if record is last:
            continue
        end = wal.record_end(record.begin, record.length)
        step = max(record.length // 40, 1)
        for received in range(record.begin + 1, end, step):
            assert wal.ends_in_incomplete_record(whole.until(received), record.begin, received), (record, received)
        for received in (end, end + 1, end + 100):
            assert not wal.ends_in_incomplete_record(whole.until(received), record.begin, received), (record, received)


async def test_a_timeline_that_begins_at_a_page_header_is_judged_alike(hosts: list[Host], log: dict[str, Log]) -> None:
    """PostgreSQL names the page boundary, not the byte behind the header, when a record ended at the page's end."""
    whole = await real_log(hosts, log)
    behind_headers = [
        r for r in whole.records[:-1] if r.begin % wal.PAGE == wal._header(r.begin // wal.PAGE * wal.PAGE)
    ]
    assert behind_headers
    for record in behind_headers:
        begin = record.begin // wal.PAGE * wal.PAGE
        end = wal.record_end(record.begin, record.length)
        assert wal.ends_in_incomplete_record(whole.until(end - 1), begin, end - 1)
        assert not wal.ends_in_incomplete_record(whole.until(end), begin, end)


@pytest.mark.parametrize("damage", ["zeros", "long", "short", "previous"])
async def test_a_broken_record_is_no_excuse(hosts: list[Host], log: dict[str, Log], damage: str) -> None:
    """A record that was here from end to end and cannot be read may hide acknowledged ones: the copy is not opened."""
    whole = await real_log(hosts, log)
    record = next(r for r in whole.records if 100 < r.length < 4000 and wal.PAGE - r.begin % wal.PAGE > r.length)
    received = record.begin + record.length + 4000
    data = bytearray(whole.until(received).data)
    at = record.begin - whole.start
    match damage:
        case "zeros":
            data[at : at + record.length] = bytes(record.length)
        case "long":
            data[at : at + 4] = (wal.LONGEST_RECORD + 1).to_bytes(4, "little")
        case "short":
            data[at : at + 4] = (wal.RECORD_HEADER - 1).to_bytes(4, "little")
        case "previous":
            # A length that would reach behind the end, in a header that no record at this place has.
            data[at : at + 4] = (20000).to_bytes(4, "little")
            data[at + 8 : at + 16] = (record.begin + 8).to_bytes(8, "little")
    assert not wal.ends_in_incomplete_record(Tail(whole.start, bytes(data)), record.begin, received)


def test_what_is_not_here_is_not_judged() -> None:
    assert not wal.ends_in_incomplete_record(Tail(SEGMENT, bytes(100)), SEGMENT - 8, SEGMENT + 100)
    assert wal.ends_in_incomplete_record(Tail(SEGMENT, bytes(100)), SEGMENT + 100, SEGMENT + 100)
