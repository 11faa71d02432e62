"""State of one SMTP conversation, and how it reads and answers. The loop is in `receive`, commands by subject.

Answers to pipelined commands are collected and sent together (RFC 2920 3.1), under the tenure that was held when the
first of them was computed.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from everpost.clock import Clock
from everpost.model.recipient import Mailbox
from everpost.net.conn import Connection, Permit
from everpost.store.interface import Store
from everpost.wire.smtp import Command, Event, Fault, SmtpReader
from everpost.wire.smtp.grammar import reply
from everpost.wire.smtp.verbs import Stage

SIZE_LIMIT = 64 * 1024 * 1024
"""Bytes of a message, trace not counted."""
ROOM = 512 * 1024 * 1024
"""Bytes of messages that all conversations of a port hold in memory together; beyond it 452."""
SILENCE_LIMIT = 300.0
"""Seconds (RFC 5321 4.5.3.2.7)."""
MOST_ERRORS = 20
"""Commands that were refused, in one conversation."""
MOST_UNKNOWN_COMMANDS = 3
MOST_UNKNOWN_RECIPIENTS = 100
"""Then somebody tries names; a mailing list with so many stale addresses comes back for the rest."""
MOST_ANSWERS = 16 * 1024
"""Bytes of answers that are collected, and then others have their turn: a packet may hold thousands of commands."""


class Recipients(Protocol):
    """Who there is (`directory.schema.OrganizationView`)."""

    def mailbox_by_address(self, address: str) -> Mailbox | None:
        """By SMTP address, in any case."""

    def mailbox_by_alias(self, alias: str) -> Mailbox | None:
        """By alias, in any case."""


class Passwords(Protocol):
    """`directory.passwords.Verifier`."""

    async def verify(self, password_hash: str | None, password: str) -> bool:
        """Whether it is right; None, there is no such user, takes as long as a wrong one."""


@dataclass(frozen=True)
class ReceiveSettings:
    """`hostname` for banner and Received; `submission`: who sends must log in; `wait` seconds for a database."""

    hostname: str
    submission: bool = False
    wait: float = 30.0


@dataclass
class Services:
    """What all conversations of a port share. `context` None: no TLS is offered (tests); `room`: bytes left of it."""

    settings: ReceiveSettings
    store: Store
    recipients: Recipients
    passwords: Passwords
    clock: Clock
    context: ssl.SSLContext | None
    room: int = ROOM
    deliveries: set[asyncio.Task[None]] = field(default_factory=set)
    """Under way; they go on when their client leaves."""


@dataclass
class Transaction:
    """MAIL to the end of DATA. `recipients`: the address that was given, and whose it is; `chunks`: what BDAT brought,
    None before it."""

    sender: str | None = None
    utf8: bool = False
    recipients: list[tuple[str, Mailbox]] = field(default_factory=list)
    chunks: bytearray | None = None


class Refusal(Exception):
    """The command is refused with this reply."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class Leave(Exception):
    """The conversation ends with this reply."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class Announced(NamedTuple):
    """BDAT was read and its bytes follow. `refusal`: what to answer behind them instead of taking them."""

    size: int
    last: bool
    refusal: Refusal | None


class Session:
    """One conversation. `silent_since`: since when it does nothing but wait for the client, None when it works."""

    def __init__(self, services: Services, connection: Connection) -> None:
        self.services = services
        self.connection = connection
        self.reader = SmtpReader(SIZE_LIMIT)
        self.helo: str | None = None
        self.extended = False
        self.user: Mailbox | None = None
        self.transaction = Transaction()
        self.announced: Announced | None = None
        self.ended = False
        self.no_room = False
        self.failures = 0
        self.silent_since: float | None = None
        self._held = 0
        self._errors = 0
        self._unknown_commands = 0
        self._unknown_recipients = 0
        self._out = bytearray()
        self._permit: Permit = connection.permit()

    @property
    def stage(self) -> Stage:
        """How far it is."""
        if self.helo is None:
            return Stage.CONNECTED
        if self.transaction.sender is None:
            return Stage.GREETED
        if self.transaction.chunks is not None:
            return Stage.CHUNKS
        return Stage.RECIPIENTS if self.transaction.recipients else Stage.SENDER

    def reset(self) -> Transaction:
        """The transaction is over; what it was."""
        over, self.transaction = self.transaction, Transaction()
        return over

    # -- answers ----------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """An answer begins to be computed. Unless others wait to go with it, it is for the tenure that holds now."""
        if not self._out:
            self._permit = self.connection.permit()

    def say(self, code: int, *lines: str) -> None:
        """Add a reply to what is written next."""
        self._out += reply(code, *lines)

    async def flush(self) -> None:
        """Write all that was said, at once. Raises NotServing, and nothing is written, if its tenure is over."""
        if self._out:
            data = bytes(self._out)
            self._out.clear()
            await self.connection.write(data, self._permit)

    def refuse(self, code: int, text: str) -> None:
        """Say it, and count it if it is the client's fault. Raises Leave."""
        if code >= 500:
            self._errors += 1
            if self._errors > MOST_ERRORS:
                raise Leave(421, "4.7.0 Too many errors")
        self.say(code, text)

    def refuse_unknown_command(self) -> None:
        """Raises Leave."""
        self._unknown_commands += 1
        if self._unknown_commands > MOST_UNKNOWN_COMMANDS:
            raise Leave(421, "4.7.0 Too many unknown commands")
        self.refuse(500, "5.5.1 Unknown command")

    def refuse_unknown_recipient(self, text: str) -> None:
        """Not counted among the errors. Raises Leave."""
        self._unknown_recipients += 1
        if self._unknown_recipients > MOST_UNKNOWN_RECIPIENTS:
            raise Leave(421, "4.7.0 Too many unknown recipients")
        self.say(550, text)

    # -- input ------------------------------------------------------------------------------------------------------

    async def event(self) -> Event | None:
        """What the client says next; None when it left. Answers go out first if it has to be waited for."""
        while (event := self.reader.next_event()) is None:
            await self.flush()
            if not await self._read():
                return None
        if len(self._out) > MOST_ANSWERS:
            await self.flush()
            await asyncio.sleep(0)
        return event

    async def line(self) -> str:
        """The answer to a challenge of AUTH. Raises Leave, ConnectionResetError at the end."""
        self.reader.expect_auth(True)
        try:
            event = await self.event()
        finally:
            self.reader.expect_auth(False)
        self.begin()
        if isinstance(event, Fault):
            raise Leave(521, f"5.5.2 {event.text}")
        if not isinstance(event, Command):
            raise ConnectionResetError("the client left")
        return event.argument

    async def _read(self) -> bool:
        self.measure()
        self.silent_since = self.services.clock.boottime()
        try:
            data = await self.connection.read(None)
        finally:
            self.silent_since = None
        self.reader.feed(data)
        self.measure()
        return bool(data)

    def measure(self) -> None:
        """Take from the common room what this conversation holds; without room its message is no longer kept."""
        held = self.reader.held + len(self.transaction.chunks or b"")
        self.services.room += self._held - held
        self._held = held
        if self.services.room < 0 and self.reader.discard():
            self.no_room = True

    def close(self) -> None:
        """The conversation is over: its room is free."""
        self.services.room += self._held
        self._held = 0
