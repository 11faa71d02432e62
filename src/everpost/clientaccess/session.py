"""One IMAP conversation: input, dispatch, answers. The commands are in modules by subject.

A command stalls while its database moves and then answers; it is never answered NO for that (some clients throw their
copy of a folder away on a NO). Every answer is written under the tenure that was held when its command began.
"""

from __future__ import annotations

import logging
import ssl
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from everpost.clientaccess.selected import Selected
from everpost.clock import Clock
from everpost.errors import EverpostError
from everpost.model.recipient import Mailbox, MailboxRef
from everpost.net.conn import Connection, Permit
from everpost.store.interface import FolderExists, NoSuchFolder, Store, StoreUnavailable
from everpost.wire.imap.grammar import BadSyntax, Words
from everpost.wire.imap.reader import Command, CommandReader, Continue, Fault

log = logging.getLogger(__name__)

STALL_LIMIT = 600.0
"""Seconds a command waits for its database; then BYE."""
IDLE_LIMIT = 1860.0
"""RFC 3501 5.4: at least 30 minutes."""
LOGIN_LIMIT = 180.0
LITERAL_BEFORE_LOGIN = 8192
LITERAL_LIMIT = 64 * 1024 * 1024
BAD_BEFORE_LOGIN = 3
BAD_AFTER_LOGIN = 20


class Recipients(Protocol):
    """Who there is (`directory.schema.OrganizationView`)."""

    def mailbox_by_address(self, address: str) -> Mailbox | None: ...
    def mailbox_by_alias(self, alias: str) -> Mailbox | None: ...


class Passwords(Protocol):
    """`directory.passwords.Verifier`."""

    async def verify(self, password_hash: str | None, password: str) -> bool: ...


@dataclass(frozen=True)
class Services:
    """What all sessions of a process share. `context` None: no TLS is offered (tests)."""

    store: Store
    recipients: Recipients
    passwords: Passwords
    clock: Clock
    context: ssl.SSLContext | None


class No(Exception):
    """The command fails: NO with this text, response code included."""


class Bye(Exception):
    """The conversation ends with this text."""


Handler = Callable[["Session", Words], Awaitable[str]]


class Session:
    """State of one conversation."""

    def __init__(self, services: Services, connection: Connection) -> None:
        self.services = services
        self.connection = connection
        self.reader = CommandReader(LITERAL_BEFORE_LOGIN)
        self.user: Mailbox | None = None
        self.selected: Selected | None = None
        self.condstore = False
        self.ended = False
        self.out = bytearray()
        self.uid_command = False
        self._permit: Permit = connection.permit()
        self._bad = 0

    # -- what commands use --------------------------------------------------------------------------------------

    @property
    def mailbox(self) -> MailboxRef:
        """Where the user's mail is."""
        assert self.user is not None
        return MailboxRef(self.user.database, self.user.guid)

    def deadline(self) -> float:
        """Until when this command may stall."""
        return self.services.clock.boottime() + STALL_LIMIT

    @staticmethod
    def operation() -> str:
        """A fresh operation id."""
        return uuid.uuid4().hex

    def folder(self, *, writable: bool = False) -> Selected:
        """The selected folder. Raises No."""
        assert self.selected is not None
        if writable and self.selected.read_only:
            raise No("[READ-ONLY] the folder was opened by EXAMINE")
        return self.selected

    def renew_permit(self) -> None:
        """A new answer begins (IDLE's news)."""
        self._permit = self.connection.permit()

    async def flush(self) -> None:
        """Write what has been collected."""
        if self.out:
            data = bytes(self.out)
            self.out.clear()
            await self.connection.write(data, self._permit)

    async def line(self, limit: float) -> bytes:
        """A plain line from the client."""
        while (found := self.reader.take_line()) is None:
            data = await self.connection.read(limit)
            if not data:
                raise ConnectionResetError("closed")
            self.reader.feed(data)
        return found

    async def catch_up(self, *, expunge: bool) -> None:
        """Tell what happened in the selected folder. EXPUNGE only where no sequence numbers are in use."""
        selected = self.selected
        if selected is None:
            return
        try:
            changes = await self.services.store.changes(
                self.mailbox, selected.folder.id, selected.modseq, deadline=self.deadline()
            )
        except NoSuchFolder:
            raise Bye("the selected folder was deleted") from None
        self.out += selected.apply(changes, condstore=self.condstore, with_uid=self.uid_command)
        if expunge:
            self.out += selected.expunge()

    # -- the conversation ---------------------------------------------------------------------------------------

    async def run(self, greeting: bytes, table: dict[str, tuple[Handler, str]]) -> None:
        """Until the client leaves or is told to."""
        self.out += greeting
        await self.flush()
        while not self.ended:
            event = self.reader.next_event()
            if event is None:
                try:
                    data = await self.connection.read(IDLE_LIMIT if self.user is not None else LOGIN_LIMIT)
                except TimeoutError:
                    self.renew_permit()
                    self.out += b"* BYE you were quiet for too long\r\n"
                    await self.flush()
                    return
                if not data:
                    return
                self.reader.feed(data)
                continue
            self.renew_permit()
            try:
                await self._on_event(event, table)
            except (Bye, StoreUnavailable) as error:
                self.out += b"* BYE " + _text(str(error)) + b"\r\n"
                self.ended = True
            await self.flush()

    async def _on_event(self, event: Command | Continue | Fault, table: dict[str, tuple[Handler, str]]) -> None:
        match event:
            case Continue():
                self.out += b"+ go ahead\r\n"
            case Fault(text, fatal, tag):
                self.out += (tag or b"*") + b" BAD " + _text(text) + b"\r\n"
                if fatal:
                    raise Bye("the input cannot be followed any more")
            case Command():
                await self._on_command(event, table)

    async def _on_command(self, command: Command, table: dict[str, tuple[Handler, str]]) -> None:
        words = Words(command)
        tag = b"*"
        try:
            tag = words.tag()
            words.space()
            verb = words.word()
            self.uid_command = verb == "UID"
            if self.uid_command:
                words.space()
                verb = "UID " + words.word()
            status = await self._dispatch(verb, words, table)
        except BadSyntax as error:
            status = f"BAD {error.what}"
            self._count_bad()
        except No as error:
            status = f"NO {error}"
        except NoSuchFolder as error:
            status = f"NO [NONEXISTENT] {error.what}"
        except FolderExists as error:
            status = f"NO [ALREADYEXISTS] {error.what}"
        except StoreUnavailable:
            raise
        except EverpostError as error:
            log.error("%s: %s", tag.decode("ascii", "replace"), error)
            status = "NO [SERVERBUG] see the server's log"
        if status:  # STARTTLS answered before the upgrade
            self.out += tag + b" " + _text(status) + b"\r\n"

    async def _dispatch(self, verb: str, words: Words, table: dict[str, tuple[Handler, str]]) -> str:
        found = table.get(verb)
        if found is None:
            raise BadSyntax(f"{verb} is not known")
        handler, state = found
        if state == "new" and self.user is not None:
            raise BadSyntax("you are logged in already")
        if state in ("user", "selected") and self.user is None:
            raise BadSyntax("log in first")
        if state == "selected" and self.selected is None:
            raise BadSyntax("select a folder first")
        return await handler(self, words)

    def _count_bad(self) -> None:
        self._bad += 1
        if self._bad >= (BAD_BEFORE_LOGIN if self.user is None else BAD_AFTER_LOGIN):
            raise Bye("too many commands that are not understood")

    def logged_in(self, mailbox: Mailbox) -> None:
        """From now on larger literals are taken."""
        self.user = mailbox
        self._bad = 0
        self.reader.limit = LITERAL_LIMIT


def _text(text: str) -> bytes:
    return text.replace("\r", " ").replace("\n", " ").encode("utf-8", "replace")
