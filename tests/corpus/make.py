"""Writes the corpus: `python -m tests.corpus.make`. Each entry has the shape of a message in somebody's mailbox."""

from __future__ import annotations

import base64
import quopri
from collections.abc import Iterable

from tests.corpus import FOLDER

CRLF = b"\r\n"
Header = Iterable[tuple[str, str | bytes]]


def word(text: str, charset: str, form: str = "B") -> str:
    """An encoded word (RFC 2047)."""
    data = text.encode(charset)
    if form == "B":
        return f"=?{charset}?B?{base64.b64encode(data).decode()}?="
    quoted = "".join(chr(byte) if chr(byte).isalnum() and byte < 128 else f"={byte:02X}" for byte in data)
    return f"=?{charset}?Q?{quoted}?="


def lines(*rows: str | bytes, end: bytes = CRLF) -> bytes:
    """Each row with a line end."""
    return b"".join((row if isinstance(row, bytes) else row.encode()) + end for row in rows)


def entity(header: Header, body: bytes, end: bytes = CRLF) -> bytes:
    """A header, an empty line, a body."""
    rows = [name.encode() + b": " + (value if isinstance(value, bytes) else value.encode()) for name, value in header]
    return lines(*rows, b"", end=end) + body


COUNT = 0


def mail(header: Header, body: bytes, end: bytes = CRLF) -> bytes:
    """A message with the fields that every message has."""
    global COUNT
    COUNT += 1
    first = [
        ("From", "Ines Falk <ines@example.org>"),
        ("To", "Ole Brandt <ole@example.net>"),
        ("Date", f"Tue, {COUNT % 28 + 1:02} Sep 2026 09:{COUNT % 60:02}:00 +0200"),
        ("Message-ID", f"<corpus.{COUNT}@example.org>"),
    ]
    own = list(header)
    names = {name.lower() for name, _ in own}
    return entity([field for field in first if field[0].lower() not in names] + own, body, end)


def parts(boundary: str, *inner: bytes, preamble: bytes = b"", epilogue: bytes = b"", end: bytes = CRLF) -> bytes:
    """The body of a multipart."""
    mark = b"--" + boundary.encode()
    out = preamble
    for one in inner:
        out += mark + end + one + end
    return out + mark + b"--" + end + epilogue


def base64_lines(data: bytes) -> bytes:
    return base64.encodebytes(data).replace(b"\n", CRLF)


def text(content: str, charset: str = "utf-8", encoding: str = "8bit", kind: str = "plain") -> bytes:
    """A text part."""
    data = content.replace("\n", "\r\n").encode(charset)
    if encoding == "base64":
        data = base64_lines(data)
    elif encoding == "quoted-printable":
        data = quopri.encodestring(data.replace(CRLF, b"\n")).replace(b"\n", CRLF)
    header = [("Content-Type", f"text/{kind}; charset={charset}"), ("Content-Transfer-Encoding", encoding)]
    return entity(header, data)


PLAIN = text("Just words.\n", "us-ascii", "7bit")
HTML = text("<p>Just <b>words</b>.</p>\n", "us-ascii", "7bit", "html")
PNG = entity(
    [
        ("Content-Type", 'image/png; name="dot.png"'),
        ("Content-Transfer-Encoding", "base64"),
        ("Content-ID", "<dot@example.org>"),
        ("Content-Disposition", 'inline; filename="dot.png"; size=68'),
    ],
    base64_lines(bytes(range(68))),
)


def simple() -> dict[str, bytes]:
    """One part, or hardly that."""
    return {
        "ascii": mail([("Subject", "lunch?")], lines("Noon at the harbour?", "", "Ines")),
        "bare-lf": mail([("Subject", "lunch?")], lines("Noon?", "", "Ines", end=b"\n"), end=b"\n"),
        "mixed-line-ends": mail([("Subject", "ends")], b"one\r\ntwo\nthree\r\n\nfour\r\r\nfive"),
        "bare-cr": mail([("Subject", "old\rmac")], b"one\rtwo\rthree\r"),
        "empty": b"",
        "empty-body": mail([("Subject", "nothing to say")], b""),
        "no-empty-line": lines("From: ines@example.org", "Subject: cut off here"),
        "no-end-of-line": mail([("Subject", "the end")], b"no line end here"),
        "no-header": b"\r\nOnly a body.\r\n",
        "no-fields": lines("Hello Ole,", "this never had a header", "", "and goes on."),
        "mbox-line": b"From ines@example.org Tue Sep  1 09:00:00 2026\n"
        + mail([("Subject", "from a file")], b"text\n", end=b"\n"),
        "flowed": mail(
            [("Subject", "f=f"), ("Content-Type", "text/plain; charset=utf-8; format=flowed; delsp=yes")],
            b"Ein sehr langer Satz, \r\nder weitergeht.\r\n> zitiert \r\n> weiter\r\n",
        ),
        "long-line": mail([("Subject", "one line")], b"x" * 100_000 + CRLF),
        "long-subject": mail([("Subject", "long " * 4000)], lines("short")),
        "nul-bytes": mail([("Subject", b"a\0b")], b"\0\0one\0two\r\n\0"),
        "uuencode": mail(
            [("Subject", "old friend")],
            lines("the file:", "", "begin 644 hi.txt", "#:&D*", "`", "end", "", "-- ", "Ines"),
        ),
        "pgp-inline": mail(
            [("Subject", "signed by hand")],
            lines(
                "-----BEGIN PGP SIGNED MESSAGE-----",
                "Hash: SHA256",
                "",
                "- -- ",
                "true",
                "-----BEGIN PGP SIGNATURE-----",
                "",
                "iHUEARYIAB0WIQ==",
                "=abcd",
                "-----END PGP SIGNATURE-----",
            ),
        ),
        "html-only": mail(
            [
                ("Subject", "SALE " + word("—", "utf-8") + " today"),
                ("MIME-Version", "1.0"),
                ("Content-Type", 'text/html; charset="UTF-8"'),
                ("Content-Transfer-Encoding", "8bit"),
            ],
            ("<html><style>" + "p{color:red} " * 3000 + "</style><p>günstig!</p></html>").encode() + CRLF,
        ),
    }


def charsets() -> dict[str, bytes]:
    """Text of many countries, labelled rightly and wrongly."""
    found = {}
    for charset, encoding, words in (
        ("iso-2022-jp", "7bit", "会議は三時からです。\n"),
        ("shift_jis", "base64", "資料を送ります。\n"),
        ("euc-kr", "8bit", "회의는 세 시입니다.\n"),
        ("gb18030", "base64", "会议三点开始，𠮷。\n"),
        ("big5", "quoted-printable", "會議三點開始。\n"),
        ("koi8-r", "8bit", "Встреча в три часа.\n"),
        ("windows-1251", "quoted-printable", "Зустріч о третій.\n"),
        ("windows-1255", "8bit", "הפגישה בשלוש.\n"),
        ("windows-1256", "base64", "الاجتماع في الثالثة.\n"),
        ("tis-620", "8bit", "ประชุมตอนบ่ายสาม\n"),
        ("iso-8859-2", "quoted-printable", "Zasedání je ve tři.\n"),
        ("iso-8859-7", "8bit", "Η σύσκεψη στις τρεις.\n"),
        ("iso-8859-15", "8bit", "Réunion à 3 h, 20 € l'entrée.\n"),
        ("utf-16le", "base64", "Zweimal zwei Byte.\n"),
        ("utf-7", "7bit", "Grüße aus Köln.\n"),
        ("utf-8", "quoted-printable", "Größe, naïve, 日本, 🚢.\n"),
    ):
        subject = word(words.strip(), charset)
        found[f"charset-{charset}"] = mail([("Subject", subject), ("MIME-Version", "1.0")], b"")[:-2] + text(
            words, charset, encoding
        )
    mislabelled = "“Quotes” – and 20 €".encode("windows-1252")
    header = [("Subject", mislabelled), ("Content-Type", "text/plain; charset=iso-8859-1")]
    found["charset-mislabelled"] = mail(header, mislabelled + CRLF)
    found["charset-unknown"] = mail(
        [("Subject", "=?x-klingon?B?f7iY?="), ("Content-Type", "text/plain; charset=x-klingon")], b"\xf8\xd0\r\n"
    )
    found["charset-none-8-bit"] = mail([("Subject", "8 bit, no label")], "Grüße\r\n".encode("latin-1"))
    return found


def headers() -> dict[str, bytes]:
    """Fields as they come."""
    many = ", ".join(f'"Reader {number}" <r{number}@example.net>' for number in range(200))
    return {
        "8-bit-header": mail(
            [("From", "Jürgen Groß <jg@example.org>".encode("latin-1")), ("Subject", "Grüße".encode("latin-1"))], CRLF
        ),
        "utf-8-header": mail([("From", "用户 <用户@例え.example>"), ("Subject", "Δοκιμή 🚢")], lines("SMTPUTF8")),
        "folded": mail(
            [
                ("Subject", "a subject\r\n that goes\r\n\ton and\r\n  on"),
                ("References", "<1@example.org>\r\n <2@example.org>\r\n\t<3@example.org>"),
                ("X-Empty", ""),
                ("X-Blank-Fold", "a\r\n \r\n b"),
            ],
            lines("text"),
        ),
        "folded-encoded-words": mail(
            [
                (
                    "Subject",
                    f"{word('Ein sehr langer ', 'utf-8')}\r\n {word('Betreff über ', 'utf-8', 'Q')}\r\n and more",
                )
            ],
            lines("text"),
        ),
        "broken-encoded-words": mail([("Subject", "=?utf-8?B?!!!?= =?utf-8?X?abc?= =?utf-8?Q?=ZZ?= =?=?=")], CRLF),
        "many-recipients": mail([("To", many.replace(">, ", ">,\r\n ")), ("Subject", "all")], lines("hello all")),
        "address-groups": mail(
            [
                ("To", 'Friends: ole@example.net, "Falk, Ines" <ines@example.org>;, last@example.org'),
                ("Cc", "undisclosed-recipients:;"),
                ("Subject", "groups"),
            ],
            CRLF,
        ),
        "address-forms": mail(
            [
                ("From", "ines@example.org (Ines (the elder) Falk)"),
                ("Sender", '"The \\"List\\" \\\\ owner" <owner@example.org>'),
                ("Reply-To", "<@relay.example,@other.example:ines@example.org>"),
                ("To", '"odd @ local"@example.net, J. R. Smith <jr . smith @ example . net>, root, <>'),
                ("Cc", "broken <broken@example.net, next@example.net"),
                ("Bcc", ";;,,: <@>"),
                ("Subject", 'quotes "and" \\back\\slashes'),
            ],
            CRLF,
        ),
        "twice": mail(
            [("Subject", "first"), ("Subject", "second"), ("From", "a@example.org"), ("From", "b@example.org")], CRLF
        ),
        "odd-fields": b"Subject:no space\r\nFrom : space@example.org\r\n: no name\r\nX\r\nTo:\r\n\tfolded@example.net"
        b"\r\nDate: not a date\r\n\r\nbody\r\n",
        "list": mail(
            [
                ("List-Id", "Sailors <sailors.example.org>"),
                ("List-Unsubscribe", "<mailto:leave@example.org>, <https://example.org/leave>"),
                (
                    "DKIM-Signature",
                    "v=1; a=rsa-sha256; d=example.org; s=s1;\r\n\tbh=" + "A" * 44 + "=;\r\n\tb=" + "B" * 300,
                ),
                ("Precedence", "list"),
                ("Subject", "[Sailors] wind"),
            ],
            lines("West, 5.", "_______________________________________________"),
        ),
    }


def multiparts() -> dict[str, bytes]:
    """Parts in parts."""
    mixed = 'multipart/mixed; boundary="b1"'
    alternative = entity([("Content-Type", "multipart/alternative; boundary=b1-alt")], parts("b1-alt", PLAIN, HTML))
    related = entity(
        [("Content-Type", 'multipart/related; type="text/html"; boundary="b1_rel"')], parts("b1_rel", HTML, PNG)
    )
    inner = mail([("Subject", "inside"), ("Content-Type", "multipart/mixed; boundary=in")], parts("in", PLAIN, PNG))
    attached = entity([("Content-Type", "message/rfc822"), ("Content-Disposition", "attachment")], inner)
    rich = entity([("Content-Type", "multipart/alternative; boundary=b1_alt")], parts("b1_alt", PLAIN, related))
    return {
        "alternative": mail(
            [("Subject", "both"), ("Content-Type", "multipart/alternative; boundary=x")],
            parts("x", PLAIN, HTML, preamble=b"This is a multipart message.\r\n", epilogue=b"bye\r\n"),
        ),
        "mixed": mail([("Subject", "a dot"), ("Content-Type", mixed)], parts("b1", PLAIN, PNG)),
        "nested": mail([("Subject", "rich"), ("Content-Type", mixed)], parts("b1", rich, PNG)),
        "boundary-prefix": mail([("Subject", "b1, b1-alt"), ("Content-Type", mixed)], parts("b1", alternative, PNG)),
        "boundary-odd": mail(
            [("Subject", "odd"), ("Content-Type", 'multipart/mixed; boundary="=_ (a)+\'/?:.,="')],
            parts("=_ (a)+'/?:.,=", PLAIN, PNG),
        ),
        "boundary-spaces": mail(
            [("Subject", "spaces behind"), ("Content-Type", mixed)],
            b"--b1 \t \r\n" + PLAIN + b"\r\n--b1\t\r\n" + HTML + b"\r\n--b1-- \r\n",
        ),
        "boundary-missing": mail([("Subject", "none"), ("Content-Type", "multipart/mixed")], lines("--", "text")),
        "boundary-never": mail([("Subject", "never"), ("Content-Type", mixed)], lines("text", "--b2", "text")),
        "boundary-in-text": mail(
            [("Subject", "look alikes"), ("Content-Type", mixed)],
            parts("b1", text("x--b1\n --b1\n--b1x\n--b1--x\n", "us-ascii", "7bit"), PNG),
        ),
        "unterminated": mail([("Subject", "cut"), ("Content-Type", mixed)], parts("b1", PLAIN, PNG)[:-8]),
        "unterminated-inner": mail(
            [("Subject", "cut inside"), ("Content-Type", mixed)],
            parts("b1", entity([("Content-Type", "multipart/mixed; boundary=in")], b"--in\r\n" + PLAIN), PNG),
        ),
        "empty-multipart": mail([("Subject", "closed at once"), ("Content-Type", mixed)], lines("--b1--")),
        "empty-parts": mail([("Subject", "nothing"), ("Content-Type", mixed)], lines("--b1", "--b1", "", "--b1--")),
        "parts-without-header": mail(
            [("Subject", "bare parts"), ("Content-Type", mixed)], lines("--b1", "", "one", "--b1", "two", "--b1--")
        ),
        "multipart-lf": mail(
            [("Subject", "lf"), ("Content-Type", mixed)],
            parts("b1", PLAIN, PNG).replace(CRLF, b"\n"),
            end=b"\n",
        ),
        "forward": mail([("Subject", "Fwd: inside"), ("Content-Type", mixed)], parts("b1", PLAIN, attached)),
        "message-in-message": mail([("Subject", "only a message"), ("Content-Type", "message/rfc822")], inner),
        "forward-base64": mail(
            [("Subject", "wrongly encoded"), ("Content-Type", mixed)],
            parts(
                "b1",
                entity(
                    [("Content-Type", "message/rfc822"), ("Content-Transfer-Encoding", "base64")], base64_lines(inner)
                ),
            ),
        ),
        "digest": mail(
            [("Subject", "digest"), ("Content-Type", "multipart/digest; boundary=d")],
            parts("d", b"\r\n" + inner, entity([("Content-Type", "message/rfc822")], inner), b"\r\n"),
        ),
        "deep": deep(60),
    }


def deep(levels: int) -> bytes:
    """Multiparts in multiparts, more than anybody reads."""
    body = PLAIN
    for level in range(levels):
        body = entity([("Content-Type", f"multipart/mixed; boundary=level{level}.")], parts(f"level{level}.", body))
    return mail([("Subject", "deep")], b"")[:-2] + body


def kinds() -> dict[str, bytes]:
    """What programs send."""
    signature = entity(
        [
            ("Content-Type", 'application/pkcs7-signature; name="smime.p7s"'),
            ("Content-Transfer-Encoding", "base64"),
            ("Content-Disposition", 'attachment; filename="smime.p7s"'),
        ],
        base64_lines(bytes(range(200))),
    )
    status = lines(
        "Reporting-MTA: dns; mx.example.net", "", "Final-Recipient: rfc822; ole@example.net", "Action: failed",
        "Status: 5.1.1", "Diagnostic-Code: smtp; 550 5.1.1 no such mailbox",
    )  # fmt: skip
    invite = (
        "BEGIN:VCALENDAR\nMETHOD:REQUEST\nBEGIN:VEVENT\nUID:7@example.org\nSUMMARY:Törn\nEND:VEVENT\nEND:VCALENDAR\n"
    )
    calendar = text(invite, "utf-8", "8bit", "calendar; method=REQUEST")
    return {
        "smime-signed": mail(
            [
                ("Subject", "signed"),
                (
                    "Content-Type",
                    'multipart/signed; protocol="application/pkcs7-signature";\r\n micalg=sha-256; boundary="s"',
                ),
            ],
            parts("s", text("Signed to the byte.  \n", "us-ascii", "7bit"), signature),
        ),
        "smime-enveloped": mail(
            [
                ("Subject", "sealed"),
                ("Content-Type", 'application/pkcs7-mime; smime-type=enveloped-data; name="smime.p7m"'),
                ("Content-Transfer-Encoding", "base64"),
            ],
            base64_lines(bytes(range(256))),
        ),
        "pgp-signed": mail(
            [
                ("Subject", "signed"),
                (
                    "Content-Type",
                    'multipart/signed; micalg=pgp-sha256; protocol="application/pgp-signature"; boundary=p',
                ),
            ],
            parts(
                "p",
                PLAIN,
                entity([("Content-Type", "application/pgp-signature")], lines("-----BEGIN PGP SIGNATURE-----", "")),
            ),
        ),
        "invite": mail(
            [("Subject", word("Törn", "utf-8")), ("Content-Type", "multipart/alternative; boundary=i")],
            parts("i", PLAIN, calendar),
        ),
        "bounce": mail(
            [
                ("From", "Mail Delivery <>"),
                ("Subject", "Undelivered"),
                ("Auto-Submitted", "auto-replied"),
                ("Content-Type", "multipart/report; report-type=delivery-status; boundary=r"),
            ],
            parts(
                "r",
                PLAIN,
                entity([("Content-Type", "message/delivery-status")], status),
                entity([("Content-Type", "text/rfc822-headers")], mail([("Subject", "what was sent")], b"")),
            ),
        ),
        "filenames": mail(
            [("Subject", "names"), ("Content-Type", "multipart/mixed; boundary=f")],
            parts(
                "f",
                entity(
                    [
                        ("Content-Type", "application/pdf; name*=utf-8''%C3%9Cbersicht.pdf"),
                        (
                            "Content-Disposition",
                            "attachment; filename*0*=utf-8''%C3%9Cber;\r\n filename*1*=sicht%20;"
                            '\r\n filename*2=2026.pdf; creation-date="Tue, 01 Sep 2026 09:00:00 +0200"',
                        ),
                    ],
                    CRLF,
                ),
                entity([("Content-Type", f'application/pdf; name="{word("Übersicht.pdf", "utf-8")}"')], CRLF),
                entity([("Content-Type", b'application/pdf; name="\xdcbersicht;.pdf"; x=(c) y')], CRLF),
                entity([("Content-Type", 'application/pdf; name="a \\"b\\" c'), ("Content-Disposition", "x;")], CRLF),
            ),
        ),
        "all-part-fields": mail(
            [("Subject", "fields"), ("Content-Type", "multipart/mixed; boundary=a"), ("Content-Language", "de, en")],
            parts(
                "a",
                entity(
                    [
                        ("Content-Type", "TEXT/Plain (a comment); CharSet=UTF-8"),
                        ("Content-ID", "<part@example.org>"),
                        ("Content-Description", word("Beschreibung ß", "utf-8")),
                        ("Content-MD5", "Q2hlY2sgSW50ZWdyaXR5IQ=="),
                        ("Content-Language", "de"),
                        ("Content-Location", "https://example.org/a%20b"),
                        ("Content-Transfer-Encoding", "Quoted-Printable (why not)"),
                    ],
                    lines("eins=20"),
                ),
            ),
        ),
        "broken-content-types": mail(
            [("Subject", "broken"), ("Content-Type", "multipart/mixed; boundary=c; boundary=d")],
            parts(
                "c",
                *(
                    entity([("Content-Type", value)], lines("text"))
                    for value in (
                        "text",
                        "text/",
                        "/plain",
                        "",
                        "; charset=utf-8",
                        "text/plain;;; ;charset",
                        "a/b/c; =x",
                    )
                ),
            ),
        ),
        "voice": mail(
            [("Subject", "Voice message (0:07)"), ("Content-Type", "multipart/voice-message; boundary=v")],
            parts("v", entity([("Content-Type", "audio/wav"), ("Content-Transfer-Encoding", "base64")], PNG)),
        ),
        "external-body": mail(
            [
                ("Subject", "elsewhere"),
                ("Content-Type", 'message/external-body; access-type=URL; URL="https://example.org/x"'),
            ],
            lines("Content-Type: text/plain", "", "phantom"),
        ),
        "partial": mail(
            [("Subject", "part 1"), ("Content-Type", 'message/partial; id="x@example.org"; number=1; total=2')],
            lines("Subject: whole", "", "first half"),
        ),
    }


def all_messages() -> dict[str, bytes]:
    """The whole corpus."""
    global COUNT
    COUNT = 0
    return {**simple(), **charsets(), **headers(), **multiparts(), **kinds()}


if __name__ == "__main__":
    for name, raw in all_messages().items():
        (FOLDER / f"{name}.eml").write_bytes(raw)
