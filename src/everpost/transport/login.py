"""Commands that change who the client is and who else can listen: STARTTLS (RFC 3207), AUTH (RFC 4954)."""

from __future__ import annotations

import base64
import logging

from everpost.log import fact
from everpost.transport.session import SIZE_LIMIT, Leave, Refusal, Session
from everpost.wire.smtp import SmtpReader

log = logging.getLogger(__name__)

MOST_FAILURES = 5
"""Wrong passwords on one connection."""


def tls_offered(session: Session) -> bool:
    """Whether STARTTLS is possible now."""
    return session.services.context is not None and not session.connection.encrypted


def login_offered(session: Session) -> bool:
    """Whether AUTH is possible now: on the submission port, and never in plain text over a network."""
    return session.services.settings.submission and _secure(session)


def _secure(session: Session) -> bool:
    return session.connection.encrypted or session.connection.local


async def on_starttls(session: Session, argument: str) -> None:
    """What was said before counts no more (RFC 3207 4.2). Commands behind STARTTLS in one packet would count as said
    under TLS: the conversation ends."""
    context = session.services.context
    if context is None or session.connection.encrypted:
        raise Refusal(503, "5.5.1 TLS is not available now")
    if session.reader.pending():
        raise Leave(521, "5.5.1 Commands behind STARTTLS in one packet are not taken")
    session.say(220, "2.0.0 Go ahead")
    await session.flush()
    await session.connection.start_tls(context)
    session.reader = SmtpReader(SIZE_LIMIT)
    session.helo, session.extended, session.user = None, False, None
    session.reset()


async def on_auth(session: Session, argument: str) -> None:
    """PLAIN and LOGIN."""
    if not session.services.settings.submission:
        raise Refusal(503, "5.5.1 Log in on the submission port")
    if not _secure(session):
        raise Refusal(538, "5.7.11 Encryption is required: STARTTLS first")
    if session.user is not None:
        raise Refusal(503, "5.5.1 You are logged in")
    mechanism, _, initial = argument.partition(" ")
    match mechanism.upper():
        case "PLAIN":
            name, password = _plain(await _response(session, initial.strip(), ""))
        case "LOGIN":
            name = await _response(session, initial.strip(), "Username:")
            password = await _response(session, "", "Password:")
        case _:
            raise Refusal(504, "5.5.4 Unknown mechanism")
    await _log_in(session, name, password)


async def _response(session: Session, initial: str, challenge: str) -> str:
    """The initial response (`=` stands for an empty one), or the answer to the challenge. Raises Refusal."""
    if not initial:
        session.say(334, base64.b64encode(challenge.encode()).decode())
        given = await session.line()
        if given == "*":
            raise Refusal(501, "5.7.0 Cancelled")
    else:
        given = "" if initial == "=" else initial
    try:
        return base64.b64decode(given, validate=True).decode()
    except ValueError:
        raise Refusal(501, "5.5.2 The response cannot be decoded") from None


def _plain(response: str) -> tuple[str, str]:
    """User and password (RFC 4616). Raises Refusal."""
    words = response.split("\0")
    if len(words) != 3:
        raise Refusal(501, "5.5.2 That is no response to PLAIN")
    authorize, name, password = words
    if authorize not in ("", name):
        raise Refusal(535, "5.7.8 Nobody may act for another user")
    return name, password


async def _log_in(session: Session, name: str, password: str) -> None:
    services = session.services
    mailbox = services.recipients.mailbox_by_address(name) or services.recipients.mailbox_by_alias(name)
    right = await services.passwords.verify(mailbox.password_hash if mailbox is not None else None, password)
    if mailbox is None or not right or not mailbox.enabled:
        session.failures += 1
        fact(log, "log-in refused", peer=session.connection.peer)
        if session.failures >= MOST_FAILURES:
            raise Leave(421, "4.7.0 Too many wrong passwords")
        raise Refusal(535, "5.7.8 User or password is wrong")
    session.user = mailbox
    session.say(235, "2.7.0 Welcome")
