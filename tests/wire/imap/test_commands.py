"""Commands as values: what each means, and that any input whatever is parsed or refused, never worse."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everpost.clientaccess.imap import HANDLERS
from everpost.wire.imap import commands, fetch, verbs
from everpost.wire.imap.grammar import STAR, BadSyntax, Words, format_set, in_order
from everpost.wire.imap.reader import Command, CommandReader
from everpost.wire.imap.search import Key


def parse(line: bytes) -> commands.Request:
    reader = CommandReader(10_000)
    reader.feed(b"a " + line + b"\r\n")
    event = reader.next_event()
    assert isinstance(event, Command)
    begun = verbs.begin(event)
    assert begun.verb
    return verbs.VERBS[begun.verb].parse(begun.words)


def test_each_verb_has_its_handler() -> None:
    assert set(HANDLERS) | {"STARTTLS"} == set(verbs.VERBS)


def test_capabilities_come_from_the_table() -> None:
    plain = verbs.capabilities(authenticated=False, tls_offered=True, login_allowed=False).split()
    assert plain[0] == b"IMAP4rev1"
    assert {b"STARTTLS", b"LOGINDISABLED"} <= set(plain)
    known = verbs.capabilities(authenticated=True, tls_offered=False, login_allowed=True).split()
    assert not {b"STARTTLS", b"LOGINDISABLED", b"AUTH=PLAIN"} & set(known)
    needed = b"""IDLE UIDPLUS MOVE UNSELECT NAMESPACE ID ENABLE CONDSTORE SPECIAL-USE LIST-EXTENDED SASL-IR LITERAL+"""
    assert set(needed.split()) <= set(known)
    assert len(known) == len(set(known))


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        (b"NOOP", commands.Simple()),
        (b"noop ", commands.Simple()),
        (b'LOGIN anna "p\\"w"', commands.Login("anna", 'p"w')),
        (b"LOGIN {4+}\r\nanna {2+}\r\np ", commands.Login("anna", "p ")),
        (b"AUTHENTICATE plain", commands.Authenticate("PLAIN", None)),
        (b"AUTHENTICATE PLAIN AGE=", commands.Authenticate("PLAIN", b"AGE=")),
        (b"AUTHENTICATE PLAIN =", commands.Authenticate("PLAIN", b"")),
        (b"ID NIL", commands.Identify({})),
        (b'ID ("name" "Mail" "version" NIL)', commands.Identify({"name": "Mail", "version": ""})),
        (b"ENABLE CONDSTORE X", commands.Enable(("CONDSTORE", "X"))),
        (b"SELECT inbox", commands.Select("INBOX", False)),
        (b'EXAMINE "Inbox/a" (CONDSTORE)', commands.Select("INBOX/a", True)),
        (b"CREATE a/b/", commands.Create("a/b", "")),
        (b"CREATE a (USE (\\sent))", commands.Create("a", "\\Sent")),
        (b"RENAME a {1+}\r\nb", commands.Rename("a", "b")),
        (b"DELETE &AOQ-", commands.Name("ä")),
        (b"STATUS a (MESSAGES UNSEEN)", commands.Status("a", ("MESSAGES", "UNSEEN"))),
        (b"UID EXPUNGE 1:3,7", commands.Expunge([(1, 3), (7, 7)])),
        (b"STORE 1:* +FLAGS.SILENT (\\seen $X)",
         commands.StoreFlags([(1, STAR)], "add", True, frozenset({"\\Seen", "$X"}), None)),
        (b"UID STORE * (UNCHANGEDSINCE 7) -FLAGS \\Seen X",
         commands.StoreFlags([(STAR, STAR)], "remove", False, frozenset({"\\Seen", "X"}), 7)),
        (b"STORE 2 FLAGS ()", commands.StoreFlags([(2, 2)], "replace", False, frozenset(), None)),
        (b"COPY 2,4 Sent", commands.Copy([(2, 2), (4, 4)], "Sent")),
        (b"SEARCH CHARSET utf-8 SUBJECT {2+}\r\n\xc3\xa4",
         commands.Search(Key("AND", None, (Key("HEADER", (b"subject", "ä")),)), "UTF-8")),
    ],
)  # fmt: skip
def test_arguments(line: bytes, wanted: commands.Request) -> None:
    assert parse(line) == wanted


def test_append_of_several_messages() -> None:
    found = parse(b'APPEND x (\\Seen \\Recent) " 1-Jan-2026 01:02:03 +0100" {2+}\r\nhi {1+}\r\nx')
    when = datetime(2026, 1, 1, 0, 2, 3, tzinfo=UTC)
    first = commands.Message(frozenset({"\\Seen"}), when, b"hi")
    assert found == commands.Append("x", (first, commands.Message(frozenset(), None, b"x")))


def test_fetch_items() -> None:
    found = parse(b"FETCH 1 (FLAGS BODY.PEEK[1.2.HEADER.FIELDS (To Cc)]<5.10> RFC822.SIZE RFC822 BODY)")
    assert isinstance(found, commands.Fetch)
    flags, section, size, whole, body = found.request.items
    assert [item.name for item in (flags, size, body)] == ["FLAGS", "RFC822.SIZE", "BODY"]
    assert section == fetch.Item(
        "SECTION", b"BODY[1.2.HEADER.FIELDS (TO CC)]<5>", (1, 2), "HEADER.FIELDS",
        frozenset({b"to", b"cc"}), (5, 10), True,
    )  # fmt: skip
    assert (whole.label, whole.text, whole.peek) == (b"RFC822", "", False)
    macro = parse(b"FETCH 1 all")
    assert isinstance(macro, commands.Fetch)
    assert tuple(item.name for item in macro.request.items) == fetch.MACROS["ALL"]


@pytest.mark.parametrize(
    "line",
    [
        b"NOOP x", b"LOGIN a", b"LOGIN a b c", b"SELECT", b"SELECT a (X)", b"FETCH 0 FLAGS", b"FETCH 1 ()",
        b"FETCH 1 (FLAGS", b"FETCH 1 BODY[1.MIME.2]", b"FETCH 1 BODY[MIME]", b"FETCH 1 BODY[]<1.0>", b"FETCH x FLAGS",
        b"FETCH 1 FLAGSX", b"FETCH 1 FLAGS (CHANGEDSINCE)", b"FETCH 1 BODY[HEADER.FIELDS ()]", b"STORE 1 FLAGS",
        b"STORE 1 FLAGS (\\Foo)", b"STORE 1 X (a)", b"STORE 1,, FLAGS (a)", b"SEARCH", b"SEARCH FROB",
        b"SEARCH ON 31-Feb-2026", b"SEARCH LARGER x", b"SEARCH (ALL", b"SEARCH OR ALL",
        b"SEARCH " + b"NOT " * 60 + b"ALL",
        b"STATUS a ()", b"STATUS a (X)", b"LIST x", b'LIST (X) "" *', b'LIST (RECURSIVEMATCH) "" *',
        b'LIST "" * RETURN (X)', b"APPEND x hi", b"APPEND x", b'APPEND x "yesterday" {1+}\r\nx', b"ENABLE",
        b"ID x", b"COPY 1", b"UID EXPUNGE", b"CREATE a (USE (\\Sent)", b"SEARCH MODSEQ 99999999999999999999",
        b'LOGIN "a b', b"SEARCH $",
    ],
)  # fmt: skip
def test_refused(line: bytes) -> None:
    with pytest.raises(BadSyntax):
        parse(line)


WORDS = [
    b" ", b"(", b")", b"[", b"]", b"<", b">", b"*", b"%", b'"', b"\\", b"1", b"1:*", b"0", b"NIL", b"FLAGS", b"BODY[",
    b"HEADER.FIELDS", b"CHARSET", b"UTF-8", b"OR", b"NOT", b"SUBJECT", b"BEFORE", b"1-Jan-2020", b"\\Seen", b"RETURN",
    b"STATUS", b"UNCHANGEDSINCE", b"CHANGEDSINCE", b"+FLAGS", b"\0", b"x", b"&AOQ-", b"&", b"\xff", b".", b"-",
    b'" 1-Feb-2020 03:04:05 +9999"', b"(USE (", b"PLAIN", b"=",
]  # fmt: skip
ARGUMENTS = st.lists(st.one_of(st.sampled_from(WORDS), st.binary(max_size=4)), max_size=25).map(b"".join)


@given(st.sampled_from(sorted(verbs.VERBS)), ARGUMENTS)
def test_any_argument_is_parsed_or_refused(verb: str, arguments: bytes) -> None:
    text = arguments.replace(b"\r", b"").replace(b"\n", b"")
    words = Words(Command(text, (b"literal",) * text.count(b"\0")))
    try:
        verbs.VERBS[verb].parse(words)
    except BadSyntax:
        pass


@given(st.binary(max_size=40))
def test_any_line_begins_or_is_refused(line: bytes) -> None:
    text = line.replace(b"\0", b"")
    try:
        begun = verbs.begin(Command(text, ()))
    except BadSyntax:
        return
    assert begun.tag
    assert begun.verb in verbs.VERBS or not begun.verb


@given(st.sets(st.integers(1, 60)))
def test_sets_are_inverse(numbers: set[int]) -> None:
    ordered = sorted(numbers)
    if ordered:
        pairs = Words(Command(format_set(ordered), ())).number_set()
        assert [number for low, high in pairs for number in range(low, high + 1)] == ordered


def test_a_mapped_set_keeps_its_order() -> None:
    assert in_order([5, 6, 7]) == b"5:7"
    assert in_order([7, 5, 6]) == b"7,5,6"
