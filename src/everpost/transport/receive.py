"""One SMTP conversation (RFC 5321; extensions as announced). 250 after DATA means: committed and acknowledged.

The order, for each message: read whole -> delivered (one replicated transaction, or part of a group) -> the host's
tenure still holds -> 250. Anything else that can be waited for is 451; a lost answer is settled by the client, which
repeats the message; its copy is then counted as resubmitted, never dropped for looking alike.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import ssl
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from email.utils import format_datetime
from typing import Protocol

from everpost.clock import Clock
from everpost.errors import EverpostError, Refused
from everpost.log import fact
from everpost.model.recipient import Mailbox, MailboxRef
from everpost.net.conn import Connection
from everpost.store.interface import Delivery, Store
from everpost.wire.smtp.grammar import parse_path, reply
from everpost.wire.smtp.server import Command, Data, Fault, SmtpReader, TooBig

log = logging.getLogger(__name__)

SIZE_LIMIT = 64 * 1024 * 1024
MOST_RECIPIENTS = 100
IDLE_LIMIT = 300.0
DATA_LIMIT = 600.0
MOST_ERRORS = 20
KNOWN_PARAMETERS = {"SIZE", "BODY", "SMTPUTF8", "AUTH", "RET", "ENVID", "NOTIFY", "ORCPT"}


class Recipients(Protocol):
    """Who there is."""

    def mailbox_by_address(self, address: str) -> Mailbox | None:
        """By SMTP address, in any case."""


class Passwords(Protocol):
    """`directory.passwords.Verifier`."""

    async def verify(self, password_hash: str | None, password: str) -> bool: ...


@dataclass(frozen=True)
class ReceiveSettings:
    """`hostname` for banner and Received; `submission`: who sends must log in; `wait` seconds for a database."""

    hostname: str
    submission: bool = False
    wait: float = 30.0


@dataclass
class Transaction:
    """MAIL to the end of DATA."""

    sender: str | None = None
    recipients: list[tuple[str, Mailbox]] = field(default_factory=list)
    chunks: list[bytes] = field(default_factory=list)


class Receiver:
    """Makes a conversation of each connection."""

    def __init__(
        self,
        settings: ReceiveSettings,
        store: Store,
        recipients: Recipients,
        passwords: Passwords,
        clock: Clock,
        context: ssl.SSLContext | None,
    ) -> None:
        self.settings = settings
        self.store = store
        self.recipients = recipients
        self.passwords = passwords
        self.clock = clock
        self.context = context

    async def handle(self, connection: Connection) -> None:
        """Until the client leaves."""
        await _Conversation(self, connection).run()


Reply = bytes


class _Conversation:
    def __init__(self, receiver: Receiver, connection: Connection) -> None:
        self._r = receiver
        self._c = connection
        self._reader = SmtpReader(SIZE_LIMIT)
        self._helo: str | None = None
        self._esmtp = False
        self._user: Mailbox | None = None
        self._transaction = Transaction()
        self._errors = 0
        self._ended = False
        self._verbs: dict[str, tuple[Callable[[str], Awaitable[Reply]], str]] = {
            "HELO": (self._on_helo, "always"),
            "EHLO": (self._on_ehlo, "always"),
            "STARTTLS": (self._on_starttls, "greeted"),
            "AUTH": (self._on_auth, "greeted"),
            "MAIL": (self._on_mail, "greeted"),
            "RCPT": (self._on_rcpt, "mail"),
            "DATA": (self._on_data, "rcpt"),
            "BDAT": (self._on_bdat, "rcpt"),
            "RSET": (self._on_rset, "always"),
            "NOOP": (self._on_noop, "always"),
            "VRFY": (self._on_vrfy, "greeted"),
            "HELP": (self._on_help, "always"),
            "QUIT": (self._on_quit, "always"),
        }
        """Each verb with the state it needs; EHLO and HELP are derived from it."""

    async def run(self) -> None:
        permit = self._c.permit()
        await self._c.write(reply(220, f"{self._r.settings.hostname} ESMTP Everpost"), permit)
        while not self._ended:
            event = self._reader.next_event()
            if event is None:
                data = await self._c.read(DATA_LIMIT if self._transaction.recipients else IDLE_LIMIT)
                if not data:
                    return
                self._reader.feed(data)
                continue
            permit = self._c.permit()
            answer = await self._answer(event)
            if answer:
                await self._c.write(answer, permit)

    async def _answer(self, event: Command | Data | TooBig | Fault) -> Reply:
        match event:
            case Fault(text, fatal):
                self._ended = fatal
                return reply(500 if not fatal else 521, f"5.5.2 {text}")
            case TooBig():
                self._transaction = Transaction()
                return reply(552, "5.3.4 Message is larger than allowed")
            case Data(content):
                return await self._delivered(content)
            case Command("AUTH-DATA", _):
                return reply(503, "5.5.1 Nothing was asked")
            case Command(verb, argument):
                return await self._command(verb, argument)

    def _state_refusal(self, need: str) -> str | None:
        if need != "always" and self._helo is None:
            return "5.5.1 Say EHLO first"
        if need in ("mail", "rcpt") and self._transaction.sender is None:
            return "5.5.1 Say MAIL first"
        if need == "rcpt" and not self._transaction.recipients:
            return "5.5.1 No valid recipients"
        return None

    async def _command(self, verb: str, argument: str) -> Reply:
        found = self._verbs.get(verb)
        if found is None:
            return self._wrong(500, "5.5.1 Unknown command")
        refusal = self._state_refusal(found[1])
        if refusal is not None:
            return self._wrong(503, refusal)
        try:
            return await found[0](argument)
        except Refused as error:
            return self._wrong(501, f"5.5.4 {error.what}")

    def _wrong(self, code: int, text: str) -> Reply:
        self._errors += 1
        if self._errors > MOST_ERRORS:
            self._ended = True
            return reply(421, "4.7.0 Too many errors")
        return reply(code, text)

    async def _on_helo(self, argument: str) -> Reply:
        if not argument:
            raise Refused("Syntax: HELO name")
        self._helo, self._esmtp, self._transaction = argument, False, Transaction()
        return reply(250, self._r.settings.hostname)

    async def _on_ehlo(self, argument: str) -> Reply:
        if not argument:
            raise Refused("Syntax: EHLO name")
        self._helo, self._esmtp, self._transaction = argument, True, Transaction()
        lines = [self._r.settings.hostname, "PIPELINING", f"SIZE {SIZE_LIMIT}", "8BITMIME", "SMTPUTF8"]
        lines += ["ENHANCEDSTATUSCODES", "CHUNKING"]
        if self._r.context is not None and not self._c.encrypted:
            lines.append("STARTTLS")
        if self._r.settings.submission and self._may_log_in():
            lines.append("AUTH PLAIN LOGIN")
        return reply(250, *lines, "HELP")

    def _may_log_in(self) -> bool:
        return self._c.encrypted or self._c.local

    async def _on_starttls(self, argument: str) -> Reply:
        if self._r.context is None or self._c.encrypted:
            return self._wrong(503, "5.5.1 TLS is not available now")
        if self._reader.pending():
            self._ended = True
            return reply(521, "5.5.1 Commands behind STARTTLS in one packet are not taken")
        permit = self._c.permit()
        await self._c.write(reply(220, "2.0.0 Go ahead"), permit)
        await self._c.start_tls(self._r.context)
        self._reader = SmtpReader(SIZE_LIMIT)
        self._helo, self._user, self._transaction = None, None, Transaction()
        return b""

    async def _on_auth(self, argument: str) -> Reply:
        if not self._r.settings.submission:
            return self._wrong(503, "5.5.1 Log in on the submission port")
        if not self._may_log_in():
            return self._wrong(538, "5.7.11 Encryption is required: STARTTLS first")
        if self._user is not None:
            return self._wrong(503, "5.5.1 You are logged in")
        mechanism, _, initial = argument.partition(" ")
        try:
            match mechanism.upper():
                case "PLAIN":
                    text = await self._response(initial, "")
                    _, name, password = text.split("\0")
                case "LOGIN":
                    name = await self._response(initial, "VXNlcm5hbWU6")
                    password = await self._response("", "UGFzc3dvcmQ6")
                case _:
                    return self._wrong(504, "5.5.4 Unknown mechanism")
        except (binascii.Error, UnicodeDecodeError, ValueError):
            return self._wrong(501, "5.5.2 The response cannot be decoded")
        mailbox = self._r.recipients.mailbox_by_address(name)
        right = await self._r.passwords.verify(mailbox.password_hash if mailbox is not None else None, password)
        if mailbox is None or not right or not mailbox.enabled:
            fact(log, "log-in refused", peer=self._c.peer)
            return self._wrong(535, "5.7.8 User or password is wrong")
        self._user = mailbox
        return reply(235, "2.7.0 Welcome")

    async def _response(self, initial: str, challenge: str) -> str:
        if not initial:
            permit = self._c.permit()
            await self._c.write(reply(334, challenge), permit)
            self._reader.expect_auth(True)
            try:
                while (event := self._reader.next_event()) is None:
                    data = await self._c.read(IDLE_LIMIT)
                    if not data:
                        raise ConnectionResetError("closed")
                    self._reader.feed(data)
            finally:
                self._reader.expect_auth(False)
            if not isinstance(event, Command) or event.argument == "*":
                raise ValueError("cancelled")
            initial = event.argument
        return base64.b64decode("" if initial == "=" else initial, validate=True).decode()

    async def _on_mail(self, argument: str) -> Reply:
        if self._transaction.sender is not None:
            return self._wrong(503, "5.5.1 A message is begun already")
        if self._r.settings.submission and self._user is None:
            return self._wrong(530, "5.7.0 Log in first")
        path = parse_path(argument, "FROM")
        unknown = set(path.parameters) - KNOWN_PARAMETERS
        if unknown or (path.parameters and not self._esmtp):
            return self._wrong(555, "5.5.4 Unknown parameter")
        size = path.parameters.get("SIZE", "0")
        if not size.isdigit() or int(size) > SIZE_LIMIT:
            return self._wrong(552, "5.3.4 Message is larger than allowed")
        self._transaction = Transaction(sender=path.address)
        return reply(250, "2.1.0 Sender is fine")

    async def _on_rcpt(self, argument: str) -> Reply:
        path = parse_path(argument, "TO")
        if set(path.parameters) - KNOWN_PARAMETERS:
            return self._wrong(555, "5.5.4 Unknown parameter")
        mailbox = self._find(path.address)
        if mailbox is None:
            if self._r.settings.submission and "@" in path.address:
                return reply(550, "5.7.1 Mail to others is not relayed by this release")
            return reply(550, "5.1.1 There is no such mailbox here")
        if len(self._transaction.recipients) >= MOST_RECIPIENTS:
            return reply(452, "4.5.3 Too many recipients; send the others in another message")
        if any(other.database != mailbox.database for _, other in self._transaction.recipients):
            return reply(452, "4.5.3 Send to this recipient in another message")
        self._transaction.recipients.append((path.address, mailbox))
        return reply(250, "2.1.5 Recipient is fine")

    def _find(self, address: str) -> Mailbox | None:
        local, _, domain = address.rpartition("@")
        mailbox = self._r.recipients.mailbox_by_address(address)
        if mailbox is None and "+" in local:
            mailbox = self._r.recipients.mailbox_by_address(f"{local.partition('+')[0]}@{domain}")
        return mailbox if mailbox is not None and mailbox.enabled else None

    async def _on_data(self, argument: str) -> Reply:
        if self._transaction.chunks:
            return self._wrong(503, "5.5.1 BDAT was begun")
        self._reader.expect_data()
        return reply(354, "End with a line of one dot")

    async def _on_bdat(self, argument: str) -> Reply:
        words = argument.split()
        if not words or not words[0].isdigit() or (len(words) > 1 and words[1].upper() != "LAST"):
            raise Refused("Syntax: BDAT size [LAST]")
        size = int(words[0])
        if size + sum(map(len, self._transaction.chunks)) > SIZE_LIMIT:
            self._ended = True
            return reply(552, "5.3.4 Message is larger than allowed")
        self._reader.expect_chunk(size)
        while (event := self._reader.next_event()) is None:
            data = await self._c.read(DATA_LIMIT)
            if not data:
                raise ConnectionResetError("closed")
            self._reader.feed(data)
        assert isinstance(event, Data)
        self._transaction.chunks.append(event.content)
        if len(words) == 1:
            return reply(250, f"2.0.0 {size} bytes taken")
        return await self._delivered(b"".join(self._transaction.chunks))

    async def _delivered(self, content: bytes) -> Reply:
        """The heart: 250 only after the store acknowledged."""
        transaction, self._transaction = self._transaction, Transaction()
        message = uuid.uuid4().hex
        raw = self._trace(transaction, message) + content
        unique = {mailbox.guid: mailbox for _, mailbox in transaction.recipients}
        deliveries = [
            Delivery(
                mailbox=MailboxRef(mailbox.database, mailbox.guid),
                operation_id=f"{message}:{mailbox.guid}",
                raw=raw,
                internal_date=self._r.clock.wall(),
            )
            for mailbox in unique.values()
        ]
        deadline = self._r.clock.boottime() + self._r.settings.wait
        began = time.monotonic()
        # Not cancelled when the client leaves: the delivery goes on, only its answer is lost.
        work = asyncio.ensure_future(self._r.store.deliver(deliveries, deadline=deadline))
        try:
            await asyncio.shield(work)
        except EverpostError as error:
            fact(log, "delivery put off", message=message, why=error.what, waited=round(time.monotonic() - began, 1))
            return reply(451, "4.3.2 The mailbox is not available just now, try again later")
        except asyncio.CancelledError:
            work.add_done_callback(lambda done: done.cancelled() or done.exception())
            raise
        return reply(250, f"2.0.0 Delivered as {message}")

    def _trace(self, transaction: Transaction, message: str) -> bytes:
        """Return-Path and Received (RFC 5321 4.4)."""
        kind = "ESMTP" if self._esmtp else "SMTP"
        kind += ("S" if self._c.encrypted and self._esmtp else "") + ("A" if self._user is not None else "")
        helo = "".join(ch for ch in self._helo or "unknown" if ch.isprintable() and ch not in "()<>;")[:200]
        lines = [
            f"Return-Path: <{transaction.sender}>",
            f"Received: from {helo} ([{self._c.peer}])",
            f"\tby {self._r.settings.hostname} with {kind} id {message};",
            f"\t{format_datetime(self._r.clock.wall())}",
        ]
        return "".join(line + "\r\n" for line in lines).encode("utf-8", "replace")

    async def _on_rset(self, argument: str) -> Reply:
        self._transaction = Transaction()
        return reply(250, "2.0.0 Forgotten")

    async def _on_noop(self, argument: str) -> Reply:
        return reply(250, "2.0.0 Fine")

    async def _on_vrfy(self, argument: str) -> Reply:
        return reply(252, "2.1.5 Send it and see")

    async def _on_help(self, argument: str) -> Reply:
        return reply(214, "2.0.0 " + " ".join(self._verbs))

    async def _on_quit(self, argument: str) -> Reply:
        self._ended = True
        return reply(221, "2.0.0 Goodbye")
