"""Folder names on the wire, and the patterns of LIST."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everpost.wire.imap import listing, mutf7

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(NAMES)
def test_names_survive(name: str) -> None:
    wire = mutf7.encode(name)
    assert mutf7.decode(wire) == name
    assert all(32 <= byte < 127 for byte in wire)


@pytest.mark.parametrize(
    ("wire", "name"),
    [
        (b"~peter/mail/&U,BTFw-/&ZeVnLIqe-", "~peter/mail/台北/日本語"),  # RFC 3501 5.1.3
        (b"A&-B", "A&B"),
        (b"R&D", "R&D"),  # clients send it raw (findings: C23, C34)
        (b"Entw\xc3\xbcrfe", "Entwürfe"),
        (b"\xfc", "ü"),
        (b"&!!-", "&!!-"),
        (b"&2AA-", "&2AA-"),  # half a surrogate pair
    ],
)
def test_what_clients_send(wire: bytes, name: str) -> None:
    assert mutf7.decode(wire) == name


@given(st.binary(max_size=30))
def test_any_bytes_are_a_name(wire: bytes) -> None:
    mutf7.decode(wire)


PATTERNS = st.text(st.sampled_from("ab/*%"), max_size=8)
PLAIN = st.text(st.sampled_from("ab/"), max_size=10)


@given(PATTERNS, PLAIN)
def test_patterns_mean_what_the_expression_says(pattern: str, name: str) -> None:
    expression = "".join({"*": ".*", "%": "[^/]*"}.get(ch, re.escape(ch)) for ch in pattern)
    assert listing.matches(pattern, name) == (re.fullmatch(expression, name, re.S) is not None)


def test_a_hostile_pattern_takes_no_longer_than_others() -> None:
    assert not listing.matches("*a" * 200 + "b", "a" * 500)


@pytest.mark.parametrize(
    ("pattern", "name", "wanted"),
    [("inbox", "INBOX", True), ("iNb%", "INBOX", True), ("in%x", "INBOX", True), ("in%", "Inbound", False),
     ("inbox/x", "INBOX/x", True), ("sent", "Sent", False)],
)  # fmt: skip
def test_inbox_in_any_case(pattern: str, name: str, wanted: bool) -> None:
    assert listing.matches(pattern, name) is wanted
