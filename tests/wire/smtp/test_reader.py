"""The sans-IO reader: the same bytes give the same events however they are cut, and nothing hides in a message."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everpost.wire.smtp import Chunk, Command, Data, Dropped, Fault, SmtpReader
from everpost.wire.smtp.server import ENDLESS, LONGEST_AUTH, LONGEST_LINE


def events(pieces: list[bytes], limit: int = 1_000_000) -> list[object]:
    """A session that says yes to everything: DATA, BDAT (kept unless it says NO), AUTH for one line."""
    reader = SmtpReader(limit)
    found: list[object] = []
    for piece in pieces:
        reader.feed(piece)
        while (event := reader.next_event()) is not None:
            found.append(event)
            reader.expect_auth(False)
            match event:
                case Command("DATA", _):
                    reader.expect_data()
                case Command("BDAT", argument):
                    size = argument.partition(" ")[0]
                    reader.expect_chunk(
                        int(size) if size.isascii() and size.isdigit() else 0, keep="NO" not in argument
                    )
                case Command("AUTH", _):
                    reader.expect_auth(True)
                case _:
                    pass
    return found


def cut(data: bytes, places: list[int]) -> list[bytes]:
    return [data[begin:end] for begin, end in itertools.pairwise([0, *sorted({*places}), len(data)])]


CONVERSATION = (
    b"EHLO x\r\nMAIL FROM:<a@b.c>\r\nDATA\r\nSubject: x\r\n\r\n..\r\n...\r\nend\r\n.\r\nAUTH PLAIN\r\nAGEAYg==\r\n"
    b"BDAT 9\r\nab\r\n.\r\n\nQBDAT 6 NO\r\nNOOP\r\nDATA\r\n.\r\nNOOP\r\n"
)


@given(st.lists(st.integers(1, len(CONVERSATION) - 1), max_size=20))
def test_cutting_changes_nothing(places: list[int]) -> None:
    assert events(cut(CONVERSATION, places)) == events([CONVERSATION])


TOKENS = [b"DATA\r\n", b"BDAT 5\r\n", b"BDAT 7 NO\r\n", b"\r\n.\r\n", b"AUTH x\r\n", b"NOOP\r\n"]
TOKENS += [b"\r", b"\n", b"\r\n", b".", b"\0", b"a" * 9, b"b"]


@settings(max_examples=500)
@given(st.lists(st.sampled_from(TOKENS), max_size=40), st.lists(st.integers(1, 300), max_size=30), st.integers(1, 40))
def test_cutting_changes_nothing_of_any_conversation(tokens: list[bytes], places: list[int], limit: int) -> None:
    """Messages that are too long or without end, bare CR and LF, refused chunks: never does a packet's end matter."""
    data = b"".join(tokens)
    whole = events([data], limit)
    assert events(cut(data, [place for place in places if place < len(data)]), limit) == whole
    assert events([bytes([byte]) for byte in data], limit) == whole


@given(st.binary(max_size=300))
def test_any_bytes_are_survived(data: bytes) -> None:
    events([data])


@given(st.lists(st.sampled_from([b".", b"..", b"a", b".a", b"", b"\xff"]), max_size=12))
def test_dots_come_and_go(lines: list[bytes]) -> None:
    content = b"".join(line + b"\r\n" for line in lines)
    sent = b"".join((b"." + line if line.startswith(b".") else line) + b"\r\n" for line in lines)
    data = b"DATA\r\n" + sent + b".\r\nNOOP\r\n"
    expected = [Command("DATA", ""), Data(content), Command("NOOP", "")]
    assert events([data]) == expected
    assert events([bytes([byte]) for byte in data]) == expected


@pytest.mark.parametrize("place", range(len(b"\r\n.\r\n") + 1))
def test_the_end_of_data_may_be_cut_anywhere(place: int) -> None:
    start, end = b"DATA\r\n..one", b"\r\n.\r\n"
    assert events([start + end[:place], end[place:] + b"QUIT\r\n"]) == [
        Command("DATA", ""), Data(b".one\r\n"), Command("QUIT", ""),
    ]  # fmt: skip


FALSE_ENDS = [
    b"\n.\n",
    b"\n.\r\n",
    b"\r\n.\n",
    b"\r.\r",
    b"\r.\r\n",
    b"\r\n.\r",
    b"\r\n.\r\0\n",
    b"\n\r.\r\n",
    b"\r\r\n.\r\n",
]


@pytest.mark.parametrize("end", FALSE_ENDS, ids=repr)
@pytest.mark.parametrize("before", [b"", b"x", b"x\r\n"])
def test_a_false_end_of_data_is_a_fault_and_nothing_comes_after_it(before: bytes, end: bytes) -> None:
    data = b"DATA\r\n" + before + end + b"MAIL FROM:<evil@b.c>\r\n.\r\nNOOP\r\n"
    for found in (events([data]), events([bytes([byte]) for byte in data])):
        assert [type(event) for event in found] == [Command, Fault]


@pytest.mark.parametrize("line", [b"NOOP\n", b"NO\rOP\r\n", b"NOOP\r\r\n", b"NO\0OP\r\n", b"NOOP\n\r\n"], ids=repr)
def test_a_command_line_ends_in_cr_lf_and_holds_no_nul(line: bytes) -> None:
    assert events([line + b"QUIT\r\n"]) == [Fault("Lines end in CR LF")]


def test_lines_are_bounded_also_before_they_end() -> None:
    assert events([b"x" * LONGEST_LINE]) == []
    assert events([b"x" * (LONGEST_LINE + 1)]) == [Fault("Line too long")]
    assert len(events([b"AUTH x\r\n" + b"x" * (LONGEST_AUTH - 2) + b"\r\n"])) == 2
    assert events([b"AUTH x\r\n" + b"x" * (LONGEST_AUTH + 1)])[1:] == [Fault("Line too long")]


def test_a_message_that_is_too_long_is_read_to_its_end_in_little_memory() -> None:
    reader = SmtpReader(1000)
    reader.expect_data()
    for _ in range(30):
        reader.feed(b"x" * 98 + b"\r\n")
        assert reader.next_event() is None
        assert reader.held <= 1100
    reader.feed(b".\r\nNOOP\r\n")
    assert reader.next_event() == Dropped(3000)
    assert reader.next_event() == Command("NOOP", "")


def test_a_message_of_exactly_the_limit_is_taken() -> None:
    assert events([b"DATA\r\n" + b"x" * 98 + b"\r\n.\r\n"], 100)[1:] == [Data(b"x" * 98 + b"\r\n")]
    assert events([b"DATA\r\n" + b"x" * 99 + b"\r\n.\r\n"], 100)[1:] == [Dropped(101)]


def test_a_message_without_end_is_given_up() -> None:
    assert events([b"DATA\r\n", b"x" * (ENDLESS * 100), b"xxx"], 100)[1:] == [Fault("Message without end")]


def test_a_message_may_be_discarded_on_the_way_and_commands_may_not() -> None:
    reader = SmtpReader(1000)
    reader.feed(b"NOOP")
    assert not reader.discard()
    reader.feed(b"\r\nab\r\n")
    assert reader.next_event() == Command("NOOP", "")
    reader.expect_data()
    assert reader.next_event() is None
    assert reader.discard()
    reader.feed(b"cd\r\n.\r\n")
    assert reader.next_event() == Dropped(8)


def test_bytes_of_a_refused_chunk_are_no_commands() -> None:
    assert events([b"BDAT 6 NO\r\nQUIT\r\nNOOP\r\n"]) == [
        Command("BDAT", "6 NO"), Chunk(b""), Command("NOOP", ""),
    ]  # fmt: skip
