"""The sans-IO reader: the same bytes give the same events however they are cut."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from everpost.wire.smtp import Command, Data, SmtpReader


def events(pieces: list[bytes]) -> list[object]:
    reader = SmtpReader(1_000_000)
    found: list[object] = []
    for piece in pieces:
        reader.feed(piece)
        while (event := reader.next_event()) is not None:
            found.append(event)
            if isinstance(event, Command) and event.verb == "DATA":
                reader.expect_data()
    return found


CONVERSATION = (
    b"EHLO x\r\nMAIL FROM:<a@b.c>\r\nDATA\r\nSubject: x\r\n\r\n..\r\n...\r\nend\r\n.\r\nQUIT\r\nDATA\r\n.\r\nNOOP\r\n"
)


@given(st.lists(st.integers(1, len(CONVERSATION) - 1), max_size=20))
def test_cutting_changes_nothing(cuts: list[int]) -> None:
    places = [0, *sorted(set(cuts)), len(CONVERSATION)]
    pieces = [CONVERSATION[begin:end] for begin, end in itertools.pairwise(places)]
    assert events(pieces) == events([CONVERSATION])


def test_a_byte_at_a_time() -> None:
    found = events([bytes([byte]) for byte in CONVERSATION])
    assert [event.verb for event in found if isinstance(event, Command)] == [
        "EHLO", "MAIL", "DATA", "QUIT", "DATA", "NOOP",
    ]  # fmt: skip
    assert [event.content for event in found if isinstance(event, Data)] == [
        b"Subject: x\r\n\r\n.\r\n..\r\nend\r\n",
        b"",
    ]


@given(st.binary(max_size=300))
def test_any_bytes_are_survived(data: bytes) -> None:
    events([data])
