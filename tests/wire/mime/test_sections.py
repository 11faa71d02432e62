"""BODY[...] sections: the bytes of parts, by number (RFC 3501 6.4.5)."""

from __future__ import annotations

import pytest

from everpost.wire.mime import part_at, section, summarize
from everpost.wire.mime.section import decode, header_fields
from tests import corpus
from tests.corpus import make

CORPUS = corpus.messages()


def cut(raw: bytes, numbers: tuple[int, ...], text: str = "") -> bytes | None:
    """From the structure as it is stored."""
    found = section(decode(summarize(raw).structure), numbers, text)
    return None if found is None else raw[found[0] : found[1]]


def test_a_message_without_parts() -> None:
    raw = b"A: b\r\n\r\ntext\r\n"
    assert cut(raw, ()) == raw
    assert cut(raw, (), "HEADER") == b"A: b\r\n\r\n"
    assert cut(raw, (), "TEXT") == b"text\r\n"
    assert cut(raw, (1,)) == b"text\r\n"
    assert cut(raw, (1,), "MIME") == b"A: b\r\n\r\n"
    for numbers in ((2,), (0,), (1, 1)):
        assert cut(raw, numbers) is None
    assert cut(raw, (1,), "HEADER") is None


def test_parts_of_parts() -> None:
    raw = CORPUS["nested"]
    assert cut(raw, (1, 1)) == b"Just words.\r\n"
    assert cut(raw, (1, 2, 1)) == b"<p>Just <b>words</b>.</p>\r\n"
    png = make.PNG.partition(b"\r\n\r\n")
    assert cut(raw, (2,)) == cut(raw, (1, 2, 2)) == png[2]
    assert cut(raw, (1, 2, 2), "MIME") == png[0] + png[1]
    assert cut(raw, (1, 2), "MIME") == b'Content-Type: multipart/related; type="text/html"; boundary="b1_rel"\r\n\r\n'
    assert cut(raw, (1, 3)) is None
    assert cut(raw, (1, 2, 1, 1)) is None
    assert cut(raw, (3,)) is None
    assert cut(raw, (1,), "TEXT") is None


def test_parts_of_a_message_inside() -> None:
    raw = CORPUS["forward"]
    inner = cut(raw, (2,))
    assert inner is not None
    header, empty, text = inner.partition(b"\r\n\r\n")
    assert cut(raw, (2,), "HEADER") == header + empty
    assert cut(raw, (2,), "TEXT") == text
    assert cut(raw, (2,), "MIME") == b"Content-Type: message/rfc822\r\nContent-Disposition: attachment\r\n\r\n"
    assert cut(raw, (2, 1)) == b"Just words.\r\n"
    assert cut(raw, (2, 2), "MIME") == make.PNG.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    assert cut(raw, (2, 3)) is None


def test_a_message_that_is_a_message() -> None:
    raw = CORPUS["message-in-message"]
    inner = raw.split(b"\r\n\r\n", 1)[1]
    assert cut(raw, (1,)) == inner
    assert cut(raw, (1,), "TEXT") == inner.split(b"\r\n\r\n", 1)[1]
    assert cut(raw, (1, 1)) == b"Just words.\r\n"


def test_a_digest_and_its_part_without_a_header() -> None:
    raw = CORPUS["digest"]
    assert cut(raw, (1,), "MIME") == b"\r\n"
    assert cut(raw, (1,)) == cut(raw, (2,))
    assert cut(raw, (1, 1)) == b"Just words.\r\n"
    assert cut(raw, (3,)) == b""


def test_line_ends_of_a_boundary_belong_to_it() -> None:
    assert cut(CORPUS["multipart-lf"], (1,)) == b"Just words.\n"
    assert cut(CORPUS["parts-without-header"], (1,)) == b"one"
    assert cut(CORPUS["empty-parts"], (1,)) == b""
    assert cut(CORPUS["unterminated"], (2,)) == make.PNG.partition(b"\r\n\r\n")[2] + b"\r\n"


@pytest.mark.parametrize("name", CORPUS)
def test_every_part_lies_in_its_parent(name: str) -> None:
    raw = CORPUS[name]
    root = decode(summarize(raw).structure)
    assert (root.start, root.end) == (0, len(raw))
    todo = [root]
    while todo:
        part = todo.pop()
        assert part.start <= part.body <= part.end
        assert part.lines == raw.count(b"\n", part.body, part.end)
        last = part.body
        for child in part.children:
            assert last <= child.start
            assert child.end <= part.end
            last = child.end
        todo += part.children
    assert part_at(root, ()) is root


HEADER = b"From: a\r\nTo: b,\r\n c\r\nno field\r\nX-A: 1\r\nx-a: 2\r\n\r\n"


@pytest.mark.parametrize(
    ("header", "names", "without", "wanted"),
    [
        (HEADER, {b"to", b"date"}, False, b"To: b,\r\n c\r\n\r\n"),
        (HEADER, {b"x-a"}, False, b"X-A: 1\r\nx-a: 2\r\n\r\n"),
        (HEADER, {b"x-a", b"to"}, True, b"From: a\r\n\r\n"),
        (HEADER, {b"none"}, False, b"\r\n"),
        (b"A: 1\nB: 2\n 3\n\n", {b"b"}, False, b"B: 2\n 3\n\r\n"),
        (b"A: 1\r\nB: cut", {b"b"}, False, b"B: cut\r\n\r\n"),
        (b"A: 1\rx\r\nB: 2\r\n\r\n", {b"a"}, False, b"A: 1\rx\r\n\r\n"),
        (b"", {b"a"}, True, b"\r\n"),
        (b"\r\nA: body", {b"a"}, False, b"\r\n"),
    ],
)
def test_header_fields(header: bytes, names: set[bytes], without: bool, wanted: bytes) -> None:
    assert header_fields(header, frozenset(names), without=without) == wanted
