"""Commands before and around log-in: CAPABILITY, ID, STARTTLS, LOGIN, AUTHENTICATE, ENABLE, NOOP, LOGOUT."""

from __future__ import annotations

import base64
import binascii
import logging

from everpost.clientaccess.session import LITERALS_AFTER_LOGIN, LOGIN_LIMIT, MOST_SESSIONS, Bye, No, Session
from everpost.log import fact
from everpost.wire.imap import commands, respond, verbs
from everpost.wire.imap.grammar import BadSyntax
from everpost.wire.imap.verbs import State

log = logging.getLogger(__name__)

MOST_FAILURES = 5
"""Wrong passwords on one connection."""
_MINIMUM = "Use TLS first: passwords do not travel in plain text"


def capability(session: Session) -> bytes:
    """What is announced in the session's state."""
    secure = session.connection.encrypted
    return verbs.capabilities(
        authenticated=session.state is not State.NOT_AUTHENTICATED,
        tls_offered=session.services.context is not None and not secure,
        login_allowed=_may_log_in(session),
    )


def _may_log_in(session: Session) -> bool:
    return session.connection.encrypted or session.connection.local


async def on_capability(session: Session, request: commands.Simple) -> bytes:
    session.say(respond.untagged(b"CAPABILITY " + capability(session)))
    return b"CAPABILITY done"


async def on_noop(session: Session, request: commands.Simple) -> bytes:
    await session.sync(expunge=True)
    return b"NOOP done"


async def on_logout(session: Session, request: commands.Simple) -> bytes:
    session.say(respond.bye("Goodbye"))
    session.ended = True
    return b"LOGOUT done"


async def on_id(session: Session, request: commands.Identify) -> bytes:
    session.say(respond.identity([("name", "Everpost"), ("vendor", "Everpost")]))
    return b"ID done"


async def on_starttls(session: Session, tag: bytes) -> None:
    """Answers by itself, as the answer goes before the upgrade. Commands behind STARTTLS in the same packet are an
    attack (they would count as said under TLS): the conversation ends."""
    context = session.services.context
    if context is None or session.connection.encrypted:
        raise BadSyntax("there is no TLS to begin")
    if session.reader.pending():
        raise Bye("Commands behind STARTTLS are not taken")
    session.say(respond.tagged(tag, "OK", b"Begin TLS"))
    await session.flush()
    await session.connection.start_tls(context)


async def on_login(session: Session, request: commands.Login) -> bytes:
    return await _log_in(session, request.user, request.password)


async def on_authenticate(session: Session, request: commands.Authenticate) -> bytes:
    if request.mechanism != "PLAIN":
        raise No("That mechanism is not known", "CANNOT")
    if not _may_log_in(session):
        raise No(_MINIMUM, "PRIVACYREQUIRED")
    response = request.initial
    if response is None:
        session.say(respond.continuation(b""))
        await session.flush()
        response = await session.line(LOGIN_LIMIT)
        await session.begin()
        if response == b"*":
            raise BadSyntax("cancelled")
    try:
        authorize, user, password = base64.b64decode(response, validate=True).decode().split("\0")
    except (binascii.Error, ValueError):
        raise BadSyntax("that is no response to PLAIN") from None
    if authorize not in ("", user):
        raise No("Nobody may act for another user", "AUTHORIZATIONFAILED")
    return await _log_in(session, user, password)


async def _log_in(session: Session, user: str, password: str) -> bytes:
    if not _may_log_in(session):
        raise No(_MINIMUM, "PRIVACYREQUIRED")
    services = session.services
    mailbox = services.recipients.mailbox_by_address(user) or services.recipients.mailbox_by_alias(user)
    right = await services.passwords.verify(mailbox.password_hash if mailbox is not None else None, password)
    if mailbox is None or not right or not mailbox.enabled:
        session.failures += 1
        fact(log, "log-in refused", peer=session.connection.peer)
        if session.failures >= MOST_FAILURES:
            raise Bye("Too many wrong passwords")
        raise No("User or password is wrong", "AUTHENTICATIONFAILED")
    if services.users[mailbox.guid] >= MOST_SESSIONS:
        raise No(f"There are {MOST_SESSIONS} sessions of this user already", "LIMIT")
    services.users[mailbox.guid] += 1
    session.user = mailbox
    session.failures = 0
    session.reader.limit = LITERALS_AFTER_LOGIN
    return b"[CAPABILITY " + capability(session) + b"] Welcome"


def left(session: Session) -> None:
    """The conversation is over."""
    if session.user is not None:
        users = session.services.users
        users[session.user.guid] -= 1
        if users[session.user.guid] <= 0:
            del users[session.user.guid]


async def on_enable(session: Session, request: commands.Enable) -> bytes:
    enabled = [name for name in request.names if name == "CONDSTORE"]
    session.condstore |= bool(enabled)
    session.say(respond.untagged(" ".join(["ENABLED", *enabled]).encode()))
    return b"ENABLE done"
