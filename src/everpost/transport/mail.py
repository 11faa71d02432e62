"""The commands of a mail transaction: MAIL, RCPT, DATA, BDAT, RSET (RFC 5321 3.3, RFC 3030), and what they bring."""

from __future__ import annotations

from everpost.errors import Refused
from everpost.model.recipient import Mailbox
from everpost.transport import delivery
from everpost.transport.session import SIZE_LIMIT, Announced, Leave, Refusal, Session, Transaction
from everpost.wire.smtp.grammar import parse_chunk, parse_recipient, parse_sender
from everpost.wire.smtp.server import ENDLESS
from everpost.wire.smtp.verbs import refusal

MOST_RECIPIENTS = 100
"""Of one message (RFC 5321 4.5.3.1.8 asks for at least so many)."""

TOO_LARGE = (552, "5.3.4 Message is larger than allowed")
NO_ROOM = (452, "4.3.1 There is no room for it just now")


async def on_mail(session: Session, argument: str) -> None:
    """On the submission port only who logged in sends."""
    if session.services.settings.submission and session.user is None:
        raise Refusal(530, "5.7.0 Log in first")
    sender = parse_sender(argument, extended=session.extended)
    if sender.size > SIZE_LIMIT:
        raise Refusal(*TOO_LARGE)
    if sender.size > session.services.room:
        raise Refusal(*NO_ROOM)
    session.transaction = Transaction(sender=sender.address, utf8=sender.utf8)
    session.say(250, "2.1.0 Sender is fine")


async def on_rcpt(session: Session, argument: str) -> None:
    """All recipients of a message are of one database, as it is delivered in one transaction."""
    recipients = session.transaction.recipients
    address = parse_recipient(argument, utf8=session.transaction.utf8)
    mailbox = _find(session, address)
    if mailbox is None:
        if session.services.settings.submission and "@" in address:
            session.refuse_unknown_recipient("5.7.1 Mail to others is not relayed by this release")
        else:
            session.refuse_unknown_recipient("5.1.1 There is no such mailbox here")
        return
    if len(recipients) >= MOST_RECIPIENTS:
        raise Refusal(452, "4.5.3 Too many recipients; send the others in another message")
    if any(other.database != mailbox.database for _, other in recipients):
        raise Refusal(452, "4.5.3 Send to this recipient in another message")
    recipients.append((address, mailbox))
    session.say(250, "2.1.5 Recipient is fine")


def _find(session: Session, address: str) -> Mailbox | None:
    """By address, else without what follows a plus sign; None if it is not enabled."""
    known = session.services.recipients.mailbox_by_address
    local, _, domain = address.rpartition("@")
    mailbox = known(address)
    if mailbox is None and "+" in local:
        mailbox = known(f"{local.partition('+')[0]}@{domain}")
    return mailbox if mailbox is not None and mailbox.enabled else None


async def on_rset(session: Session, argument: str) -> None:
    session.reset()
    session.say(250, "2.0.0 Forgotten")


async def on_data(session: Session, argument: str) -> None:
    if session.services.room <= 0:
        raise Refusal(*NO_ROOM)
    session.no_room = False
    session.reader.expect_data()
    session.say(354, "End with a line of one dot")


async def on_bdat(session: Session, argument: str) -> None:
    """Its bytes follow whatever the answer is, so a refusal waits behind them. Nobody knows how many they are when the
    argument cannot be read, and too many are not worth waiting for: then the conversation ends."""
    try:
        size, last = parse_chunk(argument)
    except Refused as error:
        raise Leave(521, f"5.5.4 {error.what}") from None
    if size > ENDLESS * SIZE_LIMIT:
        raise Leave(*TOO_LARGE)
    refused = _refused_chunk(session, size)
    session.no_room = False
    session.announced = Announced(size, last, refused)
    session.reader.expect_chunk(size, keep=refused is None)


def _refused_chunk(session: Session, size: int) -> Refusal | None:
    wrong = refusal("BDAT", session.stage)
    if wrong is not None:
        return Refusal(503, f"5.5.1 {wrong}")
    if size + len(session.transaction.chunks or b"") > SIZE_LIMIT:
        return Refusal(*TOO_LARGE)
    return Refusal(*NO_ROOM) if size > session.services.room else None


async def chunk_came(session: Session, content: bytes) -> None:
    """The bytes of BDAT are there. A refused chunk ends the transaction; chunks that were sent before the client saw
    that are refused too (RFC 3030 2), and not counted as errors."""
    announced, session.announced = session.announced, None
    assert announced is not None, "the reader was told how many bytes come"
    refused = Refusal(*NO_ROOM) if session.no_room else announced.refusal
    if refused is not None:
        session.reset()
        session.say(refused.code, refused.text)
        return
    transaction = session.transaction
    if transaction.chunks is None:
        transaction.chunks = bytearray()
    transaction.chunks += content
    if announced.last:
        await delivery.deliver(session, session.reset(), transaction.chunks)
    else:
        session.say(250, f"2.0.0 {announced.size} bytes taken")


async def message_came(session: Session, content: bytes) -> None:
    """The dot behind DATA."""
    await delivery.deliver(session, session.reset(), content)


def message_dropped(session: Session, size: int) -> None:
    """The dot behind a message that was not kept."""
    session.reset()
    session.say(*(TOO_LARGE if size > SIZE_LIMIT else NO_ROOM))
