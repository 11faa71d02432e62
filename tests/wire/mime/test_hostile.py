"""Any bytes at all: no exception, no long time, and an answer that clients can read."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everpost.wire.mime import section, summarize
from everpost.wire.mime.section import decode, header_fields
from tests import corpus

from . import grammar

CORPUS = corpus.messages()
SMALL = [raw for raw in CORPUS.values() if len(raw) < 8000]
MEGABYTE = 1024 * 1024
LONG = 60.0
"""Seconds. What is linear takes one or two even on a busy machine, what is quadratic takes hours."""


def check(raw: bytes) -> None:
    """All that may be asked of a message."""
    summary = summarize(raw)
    grammar.envelope(grammar.read(summary.envelope))
    grammar.body(grammar.read(summary.body), extended=False)
    grammar.body(grammar.read(summary.bodystructure), extended=True)
    root = decode(summary.structure)
    assert summary.header_size == root.body
    for numbers in ((), (1,), (2,), (1, 1), (1, 2, 1)):
        for text in ("", "HEADER", "TEXT", "MIME"):
            found = section(root, numbers, text)
            assert found is None or 0 <= found[0] <= found[1] <= len(raw)
    header_fields(raw[: root.body], frozenset((b"subject",)), without=True)


words = st.sampled_from(
    [b"--b", b"--b--", b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"--", b"Content-Type: multipart/mixed; boundary=b\r\n",
     b"\0", b"Content-Type: message/rfc822\r\n", b"Content-Type: multipart/digest; boundary=b\r\n", b"From: ", b"To: ",
     b"<", b">", b"(", b")", b'"', b"\\", b";", b":", b",", b"@", b"=", b" ", b"\t", b"a", b"\xff", b"=?utf-8?q?",
     b"Content-Disposition: ", b"Content-Language: ", b"Content-Transfer-Encoding: ", b"name", b"text/plain"]
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.lists(words, max_size=60).map(b"".join))
def test_pieces_of_messages_in_any_order(raw: bytes) -> None:
    check(raw)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes(raw: bytes) -> None:
    check(raw)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(SMALL), st.randoms(use_true_random=False))
def test_the_corpus_with_damages(raw: bytes, chance: random.Random) -> None:
    damaged = bytearray(raw)
    for _ in range(chance.randint(1, 6)):
        at = chance.randint(0, len(damaged))
        match chance.randint(0, 3):
            case 0:
                del damaged[at : at + chance.randint(1, 40)]
            case 1:
                damaged[at:at] = chance.choice(SMALL)[: chance.randint(1, 200)]
            case 2:
                damaged[at : at + 1] = bytes([chance.randint(0, 255)])
            case _:
                damaged[at:at] = damaged[:at][-chance.randint(1, 100) :]
    check(bytes(damaged))


MIXED = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"
HOSTILE = {
    "boundaries-in-one-line": MIXED + b"--b " * MEGABYTE,
    "boundaries-that-go-on": MIXED + b"--bb\n" * MEGABYTE,
    "boundary-then-spaces": MIXED + b"\n--b" + b" " * 4 * MEGABYTE + b"x",
    "parts-without-end": MIXED + b"--b\r\n" * MEGABYTE,
    "parts-with-headers": MIXED + b"--b\r\nContent-Type: text/plain; a=b\r\n\r\nx\r\n" * 50_000,
    "multiparts-in-multiparts": b"".join(
        b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n) for n in range(20_000)
    ),
    "the-same-boundary-again": (MIXED + b"--b\r\n") * 20_000,
    "messages-in-messages": b"Content-Type: message/rfc822\r\n\r\n" * 50_000,
    "messages-with-long-headers": (b"Content-Type: message/rfc822\r\nX: " + b"y" * 100_000 + b"\r\n\r\n") * 30,
    "lines-without-a-field": b"a\n" * 2 * MEGABYTE,
    "fields": b"a: b\r\n" * MEGABYTE,
    "one-folded-field": b"Subject: a" + b"\r\n b" * MEGABYTE,
    "addresses": b"To: " + b"a@b," * MEGABYTE,
    "groups": b"To: " + b"a:" * MEGABYTE,
    "angles": b"To: " + b"<" * 4 * MEGABYTE,
    "comments": b"From: " + b"(" * 4 * MEGABYTE,
    "comments-closed": b"From: " + b"()" * 2 * MEGABYTE,
    "quotes": b"From: " + b'"' * 4 * MEGABYTE,
    "backslashes": b"Cc: " + b"\\" * 4 * MEGABYTE,
    "parameters": b"Content-Type: a/b" + b";c=d" * MEGABYTE,
    "parameter-quotes": b"Content-Type: a/b;c" + b'""' * 2 * MEGABYTE,
    "parameter-quotes-after-text": b"Content-Type: a/b;" + b"c" * 500_000 + b'""' * MEGABYTE,
    "parameter-spaces": b"Content-Type: a/b;c=" + b' "" ' * MEGABYTE,
    "parameter-comments": b"Content-Type: a/b;c=" + b"(" * 4 * MEGABYTE,
    "languages": b"Content-Language: " + b"a," * 2 * MEGABYTE,
    "zeros": bytes(4 * MEGABYTE),
    "line-ends": b"\n" * 4 * MEGABYTE,
    "returns": b"\r" * 4 * MEGABYTE,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_time_grows_with_size_only(name: str) -> None:
    began = time.monotonic()
    check(HOSTILE[name])
    assert time.monotonic() - began < LONG


def test_numbers_of_parts_are_bounded() -> None:
    root = decode(summarize(HOSTILE["parts-with-headers"]).structure)
    assert 9_000 < len(root.children) <= 10_001


def test_large_messages_are_one_scan() -> None:
    raw = corpus.with_attachment(20 * MEGABYTE)
    assert abs(len(raw) - 20 * MEGABYTE) < MEGABYTE
    assert raw == corpus.with_attachment(20 * MEGABYTE)
    root = decode(summarize(raw).structure)
    assert [part.kind for part in root.children] == [b"text", b"application"]
    assert raw[root.children[1].end :] == b"\r\n--scans--\r\n"
