"""Commands before and around log-in: CAPABILITY, ID, STARTTLS, LOGIN, AUTHENTICATE, ENABLE, NAMESPACE, LOGOUT."""

from __future__ import annotations

import base64
import binascii

from everpost import __version__
from everpost.clientaccess.session import LOGIN_LIMIT, Bye, No, Session
from everpost.log import fact
from everpost.model.recipient import Mailbox
from everpost.wire.imap.grammar import BadSyntax, Words, quote
from everpost.wire.imap.reader import CommandReader

from . import session as session_module

ALWAYS = ("IMAP4rev1", "LITERAL+", "ID", "ENABLE", "SASL-IR")
AFTER = (
    "IDLE", "NAMESPACE", "UIDPLUS", "MOVE", "UNSELECT", "CONDSTORE", "SPECIAL-USE", "LIST-EXTENDED", "CHILDREN",
)  # fmt: skip


def capability(session: Session) -> str:
    """The same on every server, so that a client that moves sees no other dialect (findings: H5)."""
    words = list(ALWAYS)
    if session.user is None:
        if session.services.context is not None and not session.connection.encrypted:
            words.append("STARTTLS")
        words.append("AUTH=PLAIN" if may_log_in(session) else "LOGINDISABLED")
    return " ".join([*words, *AFTER])


def may_log_in(session: Session) -> bool:
    """Passwords travel encrypted, or on this very host."""
    return session.connection.encrypted or session.connection.local


async def on_capability(session: Session, words: Words) -> str:
    words.end()
    session.out += f"* CAPABILITY {capability(session)}\r\n".encode()
    return "OK CAPABILITY done"


async def on_noop(session: Session, words: Words) -> str:
    words.end()
    await session.catch_up(expunge=True)
    return "OK NOOP done"


async def on_logout(session: Session, words: Words) -> str:
    session.out += b"* BYE goodbye\r\n"
    session.ended = True
    return "OK LOGOUT done"


async def on_id(session: Session, words: Words) -> str:
    words.space()
    if not words.accept(b"NIL"):
        words.expect(b"(")
        for _ in range(61):
            if words.accept(b")"):
                break
            words.nstring()
            words.accept(b" ")
        else:
            raise BadSyntax("ID takes 30 pairs at most")
    session.out += b'* ID ("name" "Everpost" "version" %b)\r\n' % quote(__version__.encode())
    return "OK ID done"


async def on_starttls(session: Session, words: Words) -> str:
    words.end()
    context = session.services.context
    if context is None or session.connection.encrypted:
        raise BadSyntax("TLS is not available now")
    if session.reader.pending():
        raise Bye("commands behind STARTTLS in one packet are not taken")
    tag = Words(words.command).tag()
    session.out += tag + b" OK begin TLS\r\n"
    await session.flush()
    await session.connection.start_tls(context)
    session.reader = CommandReader(session_module.LITERAL_BEFORE_LOGIN)
    return ""


async def on_login(session: Session, words: Words) -> str:
    words.space()
    name = words.astring()
    words.space()
    password = words.astring()
    words.end()
    return await _log_in(session, name, password)


async def on_authenticate(session: Session, words: Words) -> str:
    words.space()
    mechanism = words.word()
    if mechanism != "PLAIN":
        raise No("[CANNOT] that mechanism is not known")
    if words.at_end():
        session.out += b"+ \r\n"
        await session.flush()
        response = await session.line(LOGIN_LIMIT)
        session.renew_permit()
    else:
        words.space()
        response = words.rest.strip()
        if response == b"=":
            response = b""
    if response == b"*":
        raise BadSyntax("cancelled")
    try:
        _, name, password = base64.b64decode(response, validate=True).split(b"\0")
    except (binascii.Error, ValueError):
        raise BadSyntax("the response cannot be decoded") from None
    return await _log_in(session, name, password)


async def _log_in(session: Session, name: bytes, password: bytes) -> str:
    if not may_log_in(session):
        raise No("[PRIVACYREQUIRED] STARTTLS first")
    text = name.decode("utf-8", "replace")
    recipients = session.services.recipients
    mailbox: Mailbox | None = recipients.mailbox_by_address(text) or recipients.mailbox_by_alias(text)
    right = await session.services.passwords.verify(
        mailbox.password_hash if mailbox is not None else None, password.decode("utf-8", "replace")
    )
    if mailbox is None or not right or not mailbox.enabled:
        fact(session_module.log, "log-in refused", peer=session.connection.peer)
        raise No("[AUTHENTICATIONFAILED] user or password is wrong")
    session.logged_in(mailbox)
    return f"OK [CAPABILITY {capability(session)}] welcome"


async def on_enable(session: Session, words: Words) -> str:
    enabled = []
    while not words.at_end():
        words.space()
        name = words.word()
        if name == "CONDSTORE":
            session.condstore = True
            enabled.append(name)
    session.out += b"* ENABLED" + b"".join(b" " + name.encode() for name in enabled) + b"\r\n"
    return "OK ENABLE done"


async def on_namespace(session: Session, words: Words) -> str:
    words.end()
    session.out += b'* NAMESPACE (("" "/")) NIL NIL\r\n'
    return "OK NAMESPACE done"
