"""Bytes in, commands out: the same whatever the packets; limits; literals of both kinds."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everpost.wire.imap.reader import LONGEST_LINE, Command, CommandReader, Continue, Event, Fault

INPUTS = st.lists(
    st.one_of(
        st.sampled_from(
            [b"a NOOP\r\n", b"b LOGIN {4}\r\n", b"anna", b" {3+}\r\n", b"xyz", b"\r\n", b"\n", b"{", b"}", b"{0}\r\n",
             b'c SELECT "in box"\r\n', b"d APPEND x {40}\r\n", b"e X {99+}\r\n", b"\0", b"\r", b"DONE\r\n"]
        ),
        st.binary(max_size=12),
    ),
    max_size=20,
).map(b"".join)  # fmt: skip


def events(reader: CommandReader, chunks: list[bytes]) -> list[Event]:
    """All events, up to what ends a conversation."""
    found: list[Event] = []
    for chunk in chunks:
        reader.feed(chunk)
        while (event := reader.next_event()) is not None:
            found.append(event)
            if isinstance(event, Fault) and event.fatal:
                return found
    return found


@given(INPUTS, st.lists(st.integers(0, 60), max_size=10))
def test_the_cuts_between_packets_do_not_matter(data: bytes, cuts: list[int]) -> None:
    whole = events(CommandReader(50), [data])
    assert events(CommandReader(50), [data[at : at + 1] for at in range(len(data))]) == whole
    places = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    chunks = [data[low:high] for low, high in pairwise(places)]
    assert events(CommandReader(50), chunks) == whole


def test_literals_stand_as_marks() -> None:
    reader = CommandReader(100)
    reader.feed(b"a LOGIN {4}\r\n")
    assert reader.next_event() == Continue()
    reader.feed(b"an\r\n {2+}\r\nhi\r\nb NOOP\r\n")
    assert reader.next_event() == Command(b"a LOGIN \0 \0", (b"an\r\n", b"hi"))
    assert reader.next_event() == Command(b"b NOOP", ())
    assert reader.next_event() is None


def test_a_literal_too_large_is_refused_before_it_comes() -> None:
    reader = CommandReader(10)
    reader.feed(b"a LOGIN {11}\r\nb NOOP\r\n")
    fault = reader.next_event()
    assert isinstance(fault, Fault)
    assert (fault.fatal, fault.tag) == (False, b"a")
    assert reader.next_event() == Command(b"b NOOP", ())


def test_many_literals_count_together() -> None:
    reader = CommandReader(10)
    reader.feed(b"a LOGIN {6+}\r\n123456 {6+}\r\n")
    fault = reader.next_event()
    assert isinstance(fault, Fault)
    assert fault.fatal


@pytest.mark.parametrize("data", [b"x" * (LONGEST_LINE + 1), b"a NO\0OP\r\n", b"a NO\rOP\r\n"])
def test_what_cannot_be_followed_is_fatal(data: bytes) -> None:
    reader = CommandReader(10)
    reader.feed(data)
    fault = reader.next_event()
    assert isinstance(fault, Fault)
    assert fault.fatal


def test_a_line_made_long_by_literals_is_fatal_too() -> None:
    reader = CommandReader(1 << 20)
    reader.feed(b"a X" + b" " * 60_000 + b"{1+}\r\nx" + b" " * 60_000 + b"\r\n")
    fault = reader.next_event()
    assert isinstance(fault, Fault)
    assert fault.fatal


def test_done_and_what_is_behind_it() -> None:
    reader = CommandReader(10)
    reader.feed(b"DONE\r\na NOOP\r\n")
    assert reader.take_line() == b"DONE"
    assert reader.next_event() == Command(b"a NOOP", ())
