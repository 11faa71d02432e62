"""SEARCH: every key on messages of many shapes; logic as a property; nothing a message holds can break it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everpost.wire.imap import search
from everpost.wire.imap.grammar import Words
from everpost.wire.imap.reader import Command
from everpost.wire.imap.search import Key, Subject

HEADER = (
    b"From: =?utf-8?q?Anna_Gr=C3=BCn?= <anna@contoso.com>\r\nTo: bob@contoso.com\r\nCc: team@contoso.com\r\n"
    b"Subject: Quarterly =?iso-8859-1?B?Z3L832U=?=\r\n continued\r\nDate: Sun, 15 Feb 2026 23:59:00 -0800\r\n"
    b"X-Empty:\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
)
BODY = (
    b"--b\r\nContent-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"
    b"Stra=DFe und sehr lan=\r\nge Zeile\r\n"
    b"--b\r\nContent-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    b"PGI+SMOkbnNlbDwvYj4=\r\n"
    b"--b\r\nContent-Type: message/rfc822\r\n\r\nSubject: inner words\r\n\r\ndeep text\r\n"
    b"--b\r\nContent-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n\r\nc2VjcmV0\r\n--b--\r\n"
)
MAIL = Subject(
    number=3,
    uid=30,
    modseq=300,
    flags=frozenset({"\\Seen", "$Forwarded"}),
    recent=True,
    internal_date=datetime(2026, 2, 16, 12, tzinfo=UTC),
    size=5000,
    header=HEADER,
    raw=HEADER + BODY,
)


def found(text: bytes, mail: Subject = MAIL, literals: tuple[bytes, ...] = ()) -> bool:
    key, _ = search.parse(Words(Command(text, literals)))
    light, heavy = search.split(key)
    whole = search.matches(key, mail, 9, 90)
    assert whole == (search.matches(light, mail, 9, 90) and search.matches(heavy, mail, 9, 90))
    return whole


@pytest.mark.parametrize(
    "text",
    [
        b"ALL", b"SEEN", b"UNANSWERED", b"UNDELETED", b"UNDRAFT", b"UNFLAGGED", b"RECENT", b"KEYWORD $forwarded",
        b"UNKEYWORD $Junk", b"3", b"1:4", b"2:*", b"UID 30", b"UID 25:*", b"LARGER 4999", b"SMALLER 5001",
        b"ON 16-Feb-2026", b"SINCE 16-Feb-2026", b'BEFORE "17-Feb-2026"', b"SENTON 15-Feb-2026",
        b"SENTSINCE 15-Feb-2026", b"SENTBEFORE 16-Feb-2026", b'FROM "anna gr\xc3\xbcn"', b"TO BOB", b"CC team",
        b'SUBJECT "gr\xc3\xbc\xc3\x9fe continued"', b'HEADER X-Empty ""', b'HEADER subject quarterly',
        b"BODY stra\xc3\x9fe", b'BODY "lange zeile"', b"BODY H\xc3\x84NSEL", b"BODY inner", b"BODY deep",
        b"TEXT quarterly", b"TEXT deep", b"NOT DELETED", b"OR DELETED SEEN", b"(SEEN 3) UID 30", b"MODSEQ 300",
        b'MODSEQ "/flags/\\\\Seen" all 1', b"NOT (SEEN DELETED)", b"CHARSET UTF-8 ALL",
    ],
)  # fmt: skip
def test_keys_that_match(text: bytes) -> None:
    assert found(text)
    assert not found(b"NOT (" + text.removeprefix(b"CHARSET UTF-8 ") + b")")


@pytest.mark.parametrize(
    "text",
    [
        b"UNSEEN", b"ANSWERED", b"NEW", b"OLD", b"4:*", b"UID 31", b"LARGER 5000", b"SMALLER 5000",
        b"BEFORE 16-Feb-2026", b"SENTBEFORE 15-Feb-2026", b"BCC x", b"SUBJECT anna", b'HEADER X-None ""',
        b"BODY quarterly", b"BODY secret", b"BODY contoso", b"TEXT nowhere", b"MODSEQ 301", b"OR DELETED DRAFT",
    ],
)  # fmt: skip
def test_keys_that_do_not(text: bytes) -> None:
    assert not found(text)


def test_what_must_be_loaded() -> None:
    key, _ = search.parse(Words(Command(b"SEEN (OR 1 UID 2) LARGER 5 NOT FROM x TEXT y ON 1-Jan-2020", ())))
    assert search.needs(key) == {"SIZE", "HEADER", "RAW", "DATE"}
    light, heavy = search.split(key)
    assert not search.needs(light)
    assert len(heavy.children) == 4


KEYS = st.recursive(
    st.sampled_from([Key("ALL"), Key("FLAG", "\\Seen"), Key("FLAG", "\\Draft"), Key("SET", [(1, 2)]), Key("RECENT")]),
    lambda inner: st.one_of(
        inner.map(lambda one: Key("NOT", None, (one,))),
        st.tuples(inner, inner).map(lambda two: Key("OR", None, two)),
        st.lists(inner, max_size=3).map(lambda some: Key("AND", None, tuple(some))),
    ),
    max_leaves=10,
)


@given(KEYS, KEYS)
def test_the_logic_is_logic(one: Key, other: Key) -> None:
    def holds(key: Key) -> bool:
        return search.matches(key, MAIL, 9, 90)

    assert holds(Key("NOT", None, (one,))) is not holds(one)
    assert holds(Key("OR", None, (one, other))) is (holds(one) or holds(other))
    assert holds(Key("AND", None, (one, other))) is (holds(one) and holds(other))


@given(st.lists(st.sampled_from([HEADER, BODY, b"\r\n", b"Content-Type: ", b"text/plain; charset=punycode\r\n",
                                 b"Content-Transfer-Encoding: base64\r\n", b"=?x?q?", b"?=", b"--b", b"Date: 99\r\n",
                                 b"Subject: =?utf-7?B?!!?=\r\n", b"\xff", b"\0", b"=3D=", b"A"]),
                max_size=12).map(b"".join))  # fmt: skip
def test_nothing_in_a_message_breaks_a_search(raw: bytes) -> None:
    mail = Subject(1, 1, 1, frozenset(), False, None, len(raw), raw, raw)
    for text in (b"BODY x", b"TEXT x", b"SUBJECT x", b"SENTON 1-Jan-2020", b"ON 1-Jan-2020"):
        found(text, mail)
