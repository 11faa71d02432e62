"""Every command by the standard library's client, over plain text, STARTTLS and TLS."""

from __future__ import annotations

import email.policy
import imaplib
import socket
import ssl
from email import message_from_bytes
from email.message import EmailMessage

import msgspec
import pytest

from everpost.clientaccess import login
from everpost.clientaccess import session as session_module
from everpost.clientaccess.session import Passwords
from everpost.directory import passwords as passwords_module
from everpost.directory.passwords import Verifier, hash_password
from everpost.net.conn import Connection

from .conftest import ANNA, PASSWORD, People, Serving


def message(subject: str, text: str = "Hello") -> bytes:
    mail = EmailMessage(policy=email.policy.SMTP)
    mail["From"] = "Bob <bob@contoso.com>"
    mail["To"] = "anna@contoso.com"
    mail["Subject"] = subject
    mail["Message-ID"] = f"<{len(subject)}@contoso.com>"
    mail.set_content(text)
    return mail.as_bytes()


def ok(answer: tuple[str, list[bytes | None]]) -> list[bytes | None]:
    assert answer[0] == "OK", answer
    return answer[1]


def test_a_day_of_a_mailbox(serving: Serving) -> None:
    client = serving.client()
    assert "CONDSTORE" in client.capabilities
    ok(client.noop())
    assert ok(client.namespace()) == [b'(("" "/")) NIL NIL']
    ok(client.create("Work/2026"))
    ok(client.subscribe("Work/2026"))
    assert b'() "/" "Work/2026"' in ok(client.lsub())
    assert len(ok(client.list())) == 8
    ok(client.rename("Work/2026", "Work/Old"))
    ok(client.unsubscribe("Work/2026"))
    raw = message("first")
    code = ok(client.append("Work/Old", r"(\Flagged)", None, raw))[0] or b""
    assert b"APPENDUID" in code
    assert ok(client.status("Work/Old", "(MESSAGES UNSEEN)")) == [b'"Work/Old" (MESSAGES 1 UNSEEN 1)']
    assert ok(client.select("Work/Old")) == [b"1"]
    assert ok(client.search(None, "FLAGGED")) == [b"1"]
    assert ok(client.search("UTF-8", "SUBJECT", '"first"')) == [b"1"]
    data = ok(client.fetch("1", "(RFC822)"))
    assert data[0][1] == raw  # type: ignore[index]
    assert b"\\Seen" in (ok(client.fetch("1", "(FLAGS)"))[0] or b"")
    ok(client.store("1", "-FLAGS.SILENT", r"(\Seen)"))
    ok(client.copy("1", "INBOX"))
    ok(client.uid("MOVE", "1", "Trash"))
    assert ok(client.search(None, "ALL")) == [b""]
    ok(client.check())
    ok(client.unselect())
    ok(client.select("INBOX"))
    ok(client.store("1", "+FLAGS", r"(\Deleted)"))
    assert ok(client.expunge()) == [b"1"]
    ok(client.close())
    ok(client.select("Trash", readonly=True))
    assert client.store("1", "+FLAGS", r"(\Seen)")[0] == "NO"
    ok(client.close())
    ok(client.delete("Work/Old"))
    assert client.select("Work/Old")[0] == "NO"
    ok(client.enable("CONDSTORE"))
    assert client.logout()[0] == "BYE"


PARTS = (
    b"Subject: parts\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=x\r\n\r\npreamble\r\n"
    b"--x\r\nContent-Type: text/plain\r\nX-One: 1\r\n\r\nfirst\r\n"
    b"--x\r\nContent-Type: message/rfc822\r\n\r\n"
    b"Subject: inner\r\nTo: a@b.c\r\nMIME-Version: 1.0\r\nContent-Type: multipart/alternative; boundary=y\r\n\r\n"
    b"--y\r\n\r\nplain\r\n--y\r\nContent-Type: text/html\r\n\r\n<p>html</p>\r\n--y--\r\n\r\n--x--\r\n"
)


@pytest.mark.parametrize(
    ("item", "wanted"),
    [
        ("BODY.PEEK[]", PARTS),
        ("RFC822.HEADER", PARTS[: PARTS.index(b"preamble")]),
        ("BODY.PEEK[HEADER]", PARTS[: PARTS.index(b"preamble")]),
        ("BODY.PEEK[TEXT]", PARTS[PARTS.index(b"preamble") :]),
        ("BODY.PEEK[1]", b"first"),
        ("BODY.PEEK[1.MIME]", b"Content-Type: text/plain\r\nX-One: 1\r\n\r\n"),
        ("BODY.PEEK[2.HEADER.FIELDS (SUBJECT)]", b"Subject: inner\r\n\r\n"),
        ("BODY.PEEK[2.1]", b"plain"),
        ("BODY.PEEK[2.2]", b"<p>html</p>"),
        ("BODY.PEEK[HEADER.FIELDS.NOT (Subject MIME-Version)]", b"Content-Type: multipart/mixed; boundary=x\r\n\r\n"),
        ("BODY.PEEK[]<9.5>", b"parts"),
        ("BODY.PEEK[1]<3.100>", b"st"),
        ("BODY.PEEK[1]<0.2>", b"fi"),
        ("BODY.PEEK[1]<99.5>", b""),
        ("BODY.PEEK[3]", None),
        ("BODY.PEEK[2.1.HEADER]", None),
    ],
)
def test_sections(serving: Serving, item: str, wanted: bytes | None) -> None:
    serving.call(serving.store.add, "INBOX", PARTS)
    client = serving.client()
    client.select()
    for _ in range(2):  # partial ones are cut from memory the second time
        answer = ok(client.fetch("1", f"({item} UID)"))[0]
        if wanted is None:
            assert isinstance(answer, bytes)
            assert b"] NIL" in answer
        else:
            assert answer[1] == wanted  # type: ignore[index]
    assert b"FLAGS ()" in (ok(client.fetch("1", "(FLAGS)"))[0] or b"")


def test_structures_are_those_of_delivery(serving: Serving) -> None:
    serving.call(serving.store.add, "INBOX", message("one"))
    client = serving.client()
    client.select()
    answer = ok(client.fetch("1", "FULL"))[0] or b""
    for text in (b'ENVELOPE (NIL "one" (("Bob" NIL "bob" "contoso.com"))', b"RFC822.SIZE ", b'BODY ("text" "plain"'):
        assert text in answer
    assert b'BODYSTRUCTURE ("text" "plain"' in (ok(client.fetch("1", "BODYSTRUCTURE"))[0] or b"")


def test_bytes_come_back_as_they_went(serving: Serving) -> None:
    raw = b"Subject: \xff\xfe\r\nX: " + b"long " * 3000 + b"\r\n\r\nbare\nLF, bare\rCR, NUL \0, no end"
    client = serving.client()
    imaplib_mapping, imaplib.MapCRLF = imaplib.MapCRLF, imaplib.re.compile(rb"(?!x)x")  # type: ignore[attr-defined]
    try:
        ok(client.append("INBOX", "", None, raw))
    finally:
        imaplib.MapCRLF = imaplib_mapping  # type: ignore[attr-defined]
    client.select()
    assert ok(client.fetch("1", "(BODY.PEEK[])"))[0][1] == raw  # type: ignore[index]


def test_an_empty_message_is_refused_and_an_unknown_charset_named(serving: Serving) -> None:
    client = serving.client()
    assert client.append("INBOX", "", None, b"")[0] == "NO"
    client.select()
    kind, words = client.search("KOI8-R", "SUBJECT", "x")
    assert kind == "NO"
    assert b"BADCHARSET" in words[0]


def test_starttls_and_tls_offer_the_same(serving: Serving, client_tls: ssl.SSLContext) -> None:
    upgraded = serving.client(login=False)
    assert {"STARTTLS", "AUTH=PLAIN"} <= set(upgraded.capabilities)
    upgraded.starttls(client_tls)
    assert "STARTTLS" not in upgraded.capabilities
    direct = imaplib.IMAP4_SSL("127.0.0.1", serving.tls_port, ssl_context=client_tls, timeout=20)
    assert direct.capabilities == upgraded.capabilities
    for client in (upgraded, direct):
        client.authenticate("PLAIN", lambda _: f"\0anna@contoso.com\0{PASSWORD}".encode())
        ok(client.select())
        client.logout()


def test_commands_behind_starttls_are_not_taken(serving: Serving) -> None:
    with socket.create_connection(("127.0.0.1", serving.port), 20) as plain:
        file = plain.makefile("rb")
        file.readline()
        plain.sendall(b"a STARTTLS\r\nb LOGIN anna x\r\n")
        assert file.readline().startswith(b"* BYE")
        assert file.readline() == b""


def test_no_password_travels_in_plain_text(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection, "local", property(lambda self: False))
    client = serving.client(login=False)
    assert "LOGINDISABLED" in client.capabilities
    assert "AUTH=PLAIN" not in client.capabilities
    with pytest.raises(imaplib.IMAP4.error, match="PRIVACYREQUIRED"):
        client.login("anna", "x")


class TestPasswords:
    """With argon2."""

    @pytest.fixture
    def passwords(self) -> Passwords:
        return Verifier()

    def test_right_wrong_and_unknown(self, serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
        hashed = serving.run(hash_password(PASSWORD))
        monkeypatch.setattr(People, "mailbox", msgspec.structs.replace(ANNA, password_hash=hashed))
        hashes = []
        real = passwords_module._verify
        monkeypatch.setattr(passwords_module, "_verify", lambda *given: (hashes.append(given[0]), real(*given))[1])
        for _ in range(2):
            serving.client().logout()
        assert len(hashes) == 1  # the second time it was remembered
        for user, password in (("anna", "wrong"), ("nobody", PASSWORD), ("", "")):
            client = serving.client(login=False)
            with pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"):
                client.login(user or '""', password)
        assert len(hashes) == 4  # an unknown user costs as much as a wrong password

    def test_guessing_ends_the_conversation(self, serving: Serving) -> None:
        client = serving.client(login=False)
        for _ in range(4):
            with pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"):
                client.login("anna", "guess")
        with pytest.raises(imaplib.IMAP4.abort):
            client.login("anna", "guess")


def test_sessions_of_one_user_are_bounded(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(login, "MOST_SESSIONS", 2)
    first, second = serving.client(), serving.client()
    with pytest.raises(imaplib.IMAP4.error, match="LIMIT"):
        serving.client()
    first.logout()
    second.logout()
    serving.client().logout()


def test_literals_before_login_are_small(serving: Serving) -> None:
    client = serving.client(login=False)
    client.literal = b"x" * (session_module.LITERALS_BEFORE_LOGIN + 1)  # type: ignore[attr-defined]
    kind, words = client._simple_command("LOGIN", "anna")  # type: ignore[attr-defined]
    assert kind == "NO"
    assert b"TOOBIG" in words[0]


def test_answers_can_be_parsed(serving: Serving) -> None:
    """A message read by the standard library is the message that was sent."""
    serving.call(serving.store.add, "INBOX", message("grüße", "Straße\n"))
    client = serving.client()
    client.select()
    raw = ok(client.fetch("1", "(BODY.PEEK[])"))[0][1]  # type: ignore[index]
    assert isinstance(raw, bytes)
    parsed = message_from_bytes(raw, policy=email.policy.default)
    assert parsed["Subject"] == "grüße"
    assert parsed.get_content().splitlines() == ["Straße"]  # type: ignore[attr-defined]


def test_a_large_message_read_in_pieces_is_loaded_once(serving: Serving) -> None:
    raw = b"Subject: big\r\n\r\n" + bytes(range(32, 127)) * 4000
    serving.call(serving.store.add, "INBOX", raw)
    client = serving.client()
    client.select()
    got = b""
    while len(got) < len(raw):
        answer = ok(client.fetch("1", f"(UID RFC822.SIZE BODY.PEEK[]<{len(got)}.50000>)"))
        got += answer[0][1]  # type: ignore[index,operator]
    assert got == raw
    assert serving.store.batches == 1
