"""Arguments of MAIL, RCPT and BDAT, and where each verb is legal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everpost.errors import Refused
from everpost.transport.receive import HANDLERS
from everpost.wire.smtp.grammar import (
    ChunkSize,
    NeedsUtf8,
    Sender,
    UnknownParameter,
    parse_chunk,
    parse_recipient,
    parse_sender,
)
from everpost.wire.smtp.verbs import VERBS, Stage, extensions, refusal, usage


@pytest.mark.parametrize(
    ("argument", "sender"),
    [
        ("FROM:<a@b.c>", Sender("a@b.c", 0, False)),
        ("from: <a@b.c>", Sender("a@b.c", 0, False)),
        ("FROM:<>", Sender("", 0, False)),
        ("FROM:<a@b.c> SIZE=10 BODY=8BITMIME", Sender("a@b.c", 10, False)),
        ("FROM:<a@b.c> body=7bit AUTH=<>", Sender("a@b.c", 0, False)),
        ("FROM:<ä@b.c> SMTPUTF8", Sender("ä@b.c", 0, True)),
        ("FROM:<@x,@y:a@b.c>", Sender("a@b.c", 0, False)),
        ('FROM:<"a b"@b.c>', Sender('"a b"@b.c', 0, False)),
    ],
)
def test_senders(argument: str, sender: Sender) -> None:
    assert parse_sender(argument, extended=True) == sender


@pytest.mark.parametrize(
    ("argument", "error"),
    [
        ("", Refused),
        ("a@b.c", Refused),
        ("TO:<a@b.c>", Refused),
        ("FROM:<a@b.c", Refused),
        ("FROM:<a@b.c>SIZE=1", Refused),
        ("FROM:<a b@b.c>", Refused),
        ("FROM:<a@b\x01.c>", Refused),
        ("FROM:<" + "a" * 320 + "@b.c>", Refused),
        ("FROM:<a@b.c> SIZE=x", Refused),
        ("FROM:<a@b.c> SIZE=1 SIZE=2", Refused),
        ("FROM:<a@b.c> RET=FULL", UnknownParameter),
        ("FROM:<a@b.c> BODY=BINARYMIME", UnknownParameter),
        ("FROM:<a@b.c> SMTPUTF8=x", UnknownParameter),
        ("FROM:<ä@b.c>", NeedsUtf8),
    ],
)
def test_refused_senders(argument: str, error: type[Refused]) -> None:
    with pytest.raises(Refused) as raised:
        parse_sender(argument, extended=True)
    assert type(raised.value) is error


def test_parameters_need_ehlo() -> None:
    with pytest.raises(UnknownParameter):
        parse_sender("FROM:<a@b.c> SIZE=1", extended=False)


def test_recipients() -> None:
    assert parse_recipient("TO: <a@b.c>", utf8=False) == "a@b.c"
    assert parse_recipient("TO:<ä@b.c>", utf8=True) == "ä@b.c"
    for argument, error in (("TO:<>", Refused), ("TO:<a@b.c> NOTIFY=NEVER", UnknownParameter), ("TO:<ä@b>", NeedsUtf8)):
        with pytest.raises(error):
            parse_recipient(argument, utf8=False)


def test_chunks() -> None:
    assert parse_chunk("0") == ChunkSize(0, False)
    assert parse_chunk("12 last") == ChunkSize(12, True)
    for argument in ("", "x", "-1", "1 LAST LAST", "1 FIRST", "1" * 21, "١"):
        with pytest.raises(Refused):
            parse_chunk(argument)


@given(st.text(max_size=60))
def test_any_argument_is_parsed_or_refused(text: str) -> None:
    for argument in (text, f"FROM:<{text}>", f"FROM:<a@b.c> {text}"):
        try:
            sender = parse_sender(argument, extended=True)
        except Refused:
            continue
        assert not any(ch in sender.address for ch in "\r\n\0<>")


def test_each_verb_has_a_handler_and_a_stage() -> None:
    assert HANDLERS.keys() == VERBS.keys()
    for verb in VERBS:
        assert any(refusal(verb, stage) is None for stage in Stage)


@pytest.mark.parametrize(
    ("verb", "legal"),
    [
        ("EHLO", set(Stage)),
        ("QUIT", set(Stage)),
        ("STARTTLS", {Stage.GREETED}),
        ("AUTH", {Stage.GREETED}),
        ("MAIL", {Stage.GREETED}),
        ("RCPT", {Stage.SENDER, Stage.RECIPIENTS}),
        ("DATA", {Stage.RECIPIENTS}),
        ("BDAT", {Stage.RECIPIENTS, Stage.CHUNKS}),
    ],
)
def test_where_verbs_are_legal(verb: str, legal: set[Stage]) -> None:
    assert {stage for stage in Stage if refusal(verb, stage) is None} == legal


def test_what_is_announced_follows_from_what_is_offered() -> None:
    bare = extensions(size=10, tls_offered=False, login_offered=False)
    assert bare == ["PIPELINING", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "SIZE 10", "CHUNKING", "HELP"]
    full = extensions(size=10, tls_offered=True, login_offered=True)
    assert set(full) - set(bare) == {"STARTTLS", "AUTH PLAIN LOGIN"}


def test_help() -> None:
    assert usage("rcpt") == "Syntax: RCPT TO:<address>"
    assert "BDAT" in usage("") and "BDAT" in usage("nonsense")
