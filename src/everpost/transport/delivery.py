"""The heart: a message is delivered, and only then 250 is said.

The order, for each message: read whole -> delivered (one replicated transaction, or part of a group) -> the host's
tenure still holds -> 250. Anything else that can be waited for is 451; a lost answer is settled by the client, which
repeats the message; its copy is then counted as resubmitted, never dropped for looking alike.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from email.utils import format_datetime

from everpost.errors import EverpostError
from everpost.log import fact
from everpost.model.recipient import MailboxRef
from everpost.store.interface import Delivery
from everpost.transport.session import Services, Session, Transaction

log = logging.getLogger(__name__)


async def deliver(session: Session, transaction: Transaction, content: bytes | bytearray) -> None:
    """Answers 250 after the store acknowledged, 451 when it did not in time. Answers to earlier commands do not wait
    for that. The 250 is for the tenure that was held before the store was asked."""
    await session.flush()
    session.begin()
    services = session.services
    message = uuid.uuid4().hex
    raw = _trace(session, transaction, message) + content
    unique = {mailbox.guid: mailbox for _, mailbox in transaction.recipients}
    deliveries = [
        Delivery(
            mailbox=MailboxRef(mailbox.database, mailbox.guid),
            operation_id=f"{message}:{mailbox.guid}",
            raw=raw,
            internal_date=services.clock.wall(),
        )
        for mailbox in unique.values()
    ]
    began = services.clock.boottime()
    work = _start(services, deliveries, began + services.settings.wait)
    session.measure()
    try:
        # Not cancelled when the client leaves or the server stops: the delivery goes on, only its answer is lost.
        await asyncio.shield(work)
    except EverpostError as error:
        waited = round(services.clock.boottime() - began, 1)
        fact(log, "delivery put off", message=message, why=error.what, waited=waited)
        session.say(451, "4.3.2 The mailbox is not available just now, try again later")
    else:
        session.say(250, f"2.0.0 Delivered as {message}")


def _start(services: Services, deliveries: list[Delivery], deadline: float) -> asyncio.Task[None]:
    """A task that holds its room until it ends."""
    size = len(deliveries[0].raw)
    services.room -= size

    def ended(work: asyncio.Task[None]) -> None:
        services.room += size
        services.deliveries.discard(work)
        if not work.cancelled():
            work.exception()  # nobody else may be left to look at it

    work = asyncio.ensure_future(_work(services, deliveries, deadline))
    services.deliveries.add(work)
    work.add_done_callback(ended)
    return work


async def _work(services: Services, deliveries: list[Delivery], deadline: float) -> None:
    await services.store.deliver(deliveries, deadline=deadline)


def _trace(session: Session, transaction: Transaction, message: str) -> bytes:
    """Return-Path and Received (RFC 5321 4.4; RFC 3848, RFC 6531 4.3 for the protocol's name)."""
    services, connection = session.services, session.connection
    kind = "SMTP"
    if session.extended:
        kind = "UTF8SMTP" if transaction.utf8 else "ESMTP"
        kind += ("S" if connection.encrypted else "") + ("A" if session.user is not None else "")
    helo = "".join(ch for ch in session.helo or "unknown" if ch.isprintable() and ch not in "()<>;")[:200]
    now = services.clock.wall()
    lines = [
        f"Return-Path: <{transaction.sender}>",
        f"Received: from {helo} ([{connection.peer}])",
        f"\tby {services.settings.hostname} with {kind} id {message};",
        f"\t{format_datetime(now)}",
    ]
    return "".join(line + "\r\n" for line in lines).encode("utf-8", "replace")
