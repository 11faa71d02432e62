"""ENVELOPE, BODY and BODYSTRUCTURE of the corpus: what stands there, and that any client can read it."""

from __future__ import annotations

import email
import email.message
from typing import Any

import pytest

from everpost.wire.mime import summarize
from everpost.wire.mime.headers import content_type, fields, value_and_parameters
from tests import corpus
from tests.corpus import make

from . import grammar

CORPUS = corpus.messages()


def read_envelope(raw: bytes) -> Any:
    return grammar.read(summarize(raw).envelope)


def read_body(raw: bytes) -> Any:
    return grammar.read(summarize(raw).bodystructure)


def test_the_files_are_what_the_maker_makes() -> None:
    assert make.all_messages() == CORPUS


@pytest.mark.parametrize("name", CORPUS)
def test_what_is_written_can_be_read(name: str) -> None:
    summary = summarize(CORPUS[name])
    grammar.envelope(grammar.read(summary.envelope))
    grammar.body(grammar.read(summary.body), extended=False)
    grammar.body(grammar.read(summary.bodystructure), extended=True)
    assert summary.size == len(CORPUS[name])


ODD = {
    *("boundary-missing", "boundary-never", "empty-multipart", "deep", "broken-content-types"),  # we show text
    *("all-part-fields", "empty-parts", "partial", "external-body", "bounce"),  # it keeps comments, skips empty parts
}
"""Where the library sees something else: tested one by one below."""


@pytest.mark.parametrize("name", [name for name in CORPUS if name not in ODD])
def test_parts_are_those_that_the_standard_library_finds(name: str) -> None:
    def tree(value: Any) -> Any:
        if isinstance(value[0], list):
            children = [word for word in value if isinstance(word, list)]
            count = next(at for at, word in enumerate(value) if not isinstance(word, list))
            return ["multipart/" + value[count].decode(), [tree(child) for child in children[:count]]]
        kind = f"{value[0].decode()}/{value[1].decode()}"
        return [kind, [tree(value[8])]] if kind == "message/rfc822" else kind

    def other(message: email.message.Message) -> Any:
        kind = message.get_content_type()
        if message.is_multipart():
            return [kind, [other(part) for part in message.get_payload()]]  # type: ignore[union-attr,arg-type]
        return kind

    assert tree(read_body(CORPUS[name])) == other(email.message_from_bytes(CORPUS[name]))


# -- envelopes ----------------------------------------------------------------------------------------------------


def test_an_envelope() -> None:
    raw = (
        b"Date: Tue, 1 Sep 2026 09:00:00 +0200\r\nSubject: IMAP4rev1 WG\r\n minutes\r\n"
        b"From: Terry Gray <gray@cac.example>\r\nTo: imap@cac.example\r\nCc: minutes@example.com,\r\n"
        b' "John \\"K\\" Klensin" <KLENSIN@MIT.example>\r\nIn-Reply-To: <0@x>\r\nMessage-Id: <B2@cac.example>\r\n\r\n'
    )
    gray = b'(("Terry Gray" NIL "gray" "cac.example"))'
    assert summarize(raw).envelope == (
        b'("Tue, 1 Sep 2026 09:00:00 +0200" "IMAP4rev1 WG minutes" %b %b %b ((NIL NIL "imap" "cac.example"))'
        b' ((NIL NIL "minutes" "example.com")("John \\"K\\" Klensin" NIL "KLENSIN" "MIT.example")) NIL "<0@x>"'
        b' "<B2@cac.example>")' % (gray, gray, gray)
    )


def test_what_is_missing_is_nil_and_what_is_empty_is_empty() -> None:
    assert summarize(b"").envelope == b"(NIL NIL NIL NIL NIL NIL NIL NIL NIL NIL)"
    assert summarize(b"Subject:\r\nTo:\r\nFrom: \r\n\r\n").envelope == b'(NIL "" NIL NIL NIL NIL NIL NIL NIL NIL)'


def test_sender_and_reply_to_are_from_unless_they_are_given() -> None:
    found = read_envelope(b"From: a@x\r\nSender:\r\nReply-To: b@x\r\n\r\n")
    assert found[2] == found[3] == [[None, None, b"a", b"x"]]
    assert found[4] == [[None, None, b"b", b"x"]]


def test_8_bit_and_long_values_are_literals_without_nul() -> None:
    assert b" {5}\r\nGr\xfc\xdfe " in summarize(CORPUS["8-bit-header"]).envelope
    assert read_envelope(CORPUS["8-bit-header"])[1] == "Grüße".encode("latin-1")
    assert read_envelope(CORPUS["utf-8-header"])[2][0][2:] == ["用户".encode(), "例え.example".encode()]
    assert read_envelope(CORPUS["nul-bytes"])[1] == b"ab"
    assert len(read_envelope(CORPUS["long-subject"])[1]) == 19_999


def test_folded_values_lose_the_line_ends_only() -> None:
    assert read_envelope(CORPUS["folded"])[1] == b"a subject that goes\ton and  on"


def test_addresses_in_all_their_forms() -> None:
    found = read_envelope(CORPUS["address-forms"])
    assert found[2] == [[b"Ines (the elder) Falk", None, b"ines", b"example.org"]]
    assert found[3] == [[b'The "List" \\ owner', None, b"owner", b"example.org"]]
    assert found[4] == [[None, b"@relay.example,@other.example", b"ines", b"example.org"]]
    assert found[5][:3] == [
        [None, None, b"odd @ local", b"example.net"],
        [b"J. R. Smith", None, b"jr.smith", b"example.net"],
        [None, None, b"root", b""],
    ]
    groups = read_envelope(CORPUS["address-groups"])
    start, ole, ines, end, last = groups[5]
    assert (start, end) == ([None, None, b"Friends", None], [None] * 4)
    assert (ole[2], ines[0], last[2]) == (b"ole", b"Falk, Ines", b"last")
    assert groups[6] == [[None, None, b"undisclosed-recipients", None], [None] * 4]
    assert len(read_envelope(CORPUS["many-recipients"])[5]) == 200


def test_the_first_of_two_fields_counts() -> None:
    found = read_envelope(CORPUS["twice"])
    assert (found[1], found[2][0][2]) == (b"first", b"a")


# -- bodies -------------------------------------------------------------------------------------------------------


def test_a_plain_text() -> None:
    summary = summarize(b"Content-Type: TEXT/Plain; charset=x\r\n\r\none\r\ntwo\r\n")
    assert summary.body == b'("text" "plain" ("charset" "x") NIL NIL "7bit" 10 2)'
    assert summary.bodystructure == b'("text" "plain" ("charset" "x") NIL NIL "7bit" 10 2 NIL NIL NIL NIL)'
    assert summarize(b"").body == b'("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 0 0)'


def test_a_multipart() -> None:
    raw = CORPUS["mixed"]
    assert summarize(raw).bodystructure == (
        b'(("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 13 1 NIL NIL NIL NIL)'
        b'("image" "png" ("name" "dot.png") "<dot@example.org>" NIL "base64" 96 NIL'
        b' ("inline" ("filename" "dot.png" "size" "68")) NIL NIL) "mixed" ("boundary" "b1") NIL NIL NIL)'
    )


def test_every_field_of_a_part() -> None:
    part, subtype, *_, language, _ = read_body(CORPUS["all-part-fields"])
    assert (subtype, language) == (b"mixed", [b"de", b"en"])
    assert part == [
        b"text", b"plain", [b"CharSet", b"UTF-8"], b"<part@example.org>",
        make.word("Beschreibung ß", "utf-8").encode(), b"quoted-printable", 9, 1, b"Q2hlY2sgSW50ZWdyaXR5IQ==",
        None, b"de", b"https://example.org/a%20b",
    ]  # fmt: skip


def test_a_message_inside_has_its_envelope_and_its_lines() -> None:
    attached = read_body(CORPUS["forward"])[1]
    assert attached[:6] == [b"message", b"rfc822", None, None, None, b"7bit"]
    assert attached[7][1] == b"inside"
    assert attached[8][2] == b"mixed"
    assert attached[9] == CORPUS["message-in-message"].split(b"\r\n\r\n", 1)[1].count(b"\n")


def test_a_digest_has_messages_where_nothing_is_said() -> None:
    one, two, three, subtype, *_ = read_body(CORPUS["digest"])
    assert subtype == b"digest"
    assert [part[:3] for part in (one, two, three)] == [[b"message", b"rfc822", None]] * 3
    assert one[7][1] == two[7][1] == b"inside"


def test_a_boundary_that_begins_another_one() -> None:
    alternative, png, *_ = read_body(CORPUS["boundary-prefix"])
    assert (alternative[2], png[1]) == (b"alternative", b"png")
    assert [part[1] for part in alternative[:2]] == [b"plain", b"html"]


def test_lines_that_look_like_boundaries_are_text() -> None:
    text, png, *_ = read_body(CORPUS["boundary-in-text"])
    assert (text[0], png[1]) == (b"text", b"png")
    assert text[7] == 4


@pytest.mark.parametrize("name", ["boundary-missing", "boundary-never", "empty-multipart"])
def test_a_multipart_without_parts_is_shown_as_text(name: str) -> None:
    found = read_body(CORPUS[name])
    assert found[:3] == [b"text", b"plain", [b"charset", b"us-ascii"]]
    assert found[6] == len(CORPUS[name].split(b"\r\n\r\n", 1)[1])


def test_a_bounce_has_a_status_that_is_no_message() -> None:
    text, status, headers, subtype, parameters, *_ = read_body(CORPUS["bounce"])
    assert (subtype, parameters) == (b"report", [b"report-type", b"delivery-status", b"boundary", b"r"])
    assert [part[:2] for part in (text, status, headers)] == [
        [b"text", b"plain"],
        [b"message", b"delivery-status"],
        [b"text", b"rfc822-headers"],
    ]


def test_what_is_not_ended_goes_to_the_end() -> None:
    text, png, *_ = read_body(CORPUS["unterminated"])
    assert (text[0], png[0]) == (b"text", b"image")
    inner, png, *_ = read_body(CORPUS["unterminated-inner"])
    assert (inner[1], png[0]) == (b"mixed", b"image")


def test_nesting_ends_somewhere() -> None:
    depth, found = 0, read_body(CORPUS["deep"])
    while isinstance(found[0], list):
        depth, found = depth + 1, found[0]
    assert depth == 30
    assert found[:2] == [b"text", b"plain"]
    raw = b"x: y\r\nContent-Type: message/rfc822\r\n\r\n" * 50
    depth, found = 0, read_body(raw)
    while found[0] == b"message":
        depth, found = depth + 1, found[8]
    assert depth == 30
    assert found[:3] == [b"application", b"octet-stream", None]


def test_broken_content_types_are_text() -> None:
    *parts, _, _, _, _, _ = read_body(CORPUS["broken-content-types"])
    kinds = [part[0] + b"/" + part[1] for part in parts]
    assert kinds == [b"text/plain"] * 6 + [b"a/b/c"]


# -- fields and parameters ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value", "parameters"),
    [
        (b"a/b", b"a/b", []),
        (b' a/b ; c = d ;e="f;\\"g\\\\" (h) ; i', b"a/b", [(b"c", b"d"), (b"e", b'f;"g\\')]),
        (b"a/b (x (y) \\) z); c=(no)d", b"a/b", [(b"c", b"d")]),
        (b'a/b; c="', b"a/b", [(b"c", b"")]),
        (b'a/b; c="unclosed; d=e', b"a/b", [(b"c", b"unclosed; d=e")]),
        (b'a/b; c="x\\', b"a/b", [(b"c", b"x\\")]),
        (b'"a/b"; c= "d" "e"', b"a/b", [(b"c", b"d")]),
        (b"a/b; c=d=e; =f; g=", b"a/b", [(b"c", b"d=e"), (b"g", b"")]),
        (b"a/b; c=(unclosed", b"a/b", [(b"c", b"")]),
        (b"", b"", []),
    ],
)
def test_parameters(text: bytes, value: bytes, parameters: list[tuple[bytes, bytes]]) -> None:
    assert value_and_parameters(text) == (value, parameters)


def test_fields_are_unfolded_and_what_is_none_is_passed_over() -> None:
    raw = b" early\r\nA: 1\r\n\t2\nB:3\nnothing\n more\nc : \r\n\r\nD: body"
    found = fields(raw, 0, len(raw) - 7)
    assert found == [(b"a", b"1\t2"), (b"b", b"3"), (b"c", b"")]
    assert content_type(found) == (b"text", b"plain", [(b"charset", b"us-ascii")])
