"""State of one IMAP conversation, and how it reaches client and store. The loop is in `imap`, commands by subject.

A command stalls while its database moves and then answers; it is never answered NO for that (some clients throw their
copy of a folder away on a NO). Every answer is written under the tenure that was held when its command began.
"""

from __future__ import annotations

import ssl
import uuid
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from everpost.clientaccess.contents import Contents
from everpost.clientaccess.recent import Recents
from everpost.clientaccess.view import Diverged, FolderView, Update
from everpost.clock import Clock
from everpost.model.recipient import Mailbox, MailboxRef
from everpost.net.conn import Connection, Permit
from everpost.store.interface import NoSuchFolder, Store
from everpost.wire.imap import respond, verbs
from everpost.wire.imap.reader import CommandReader
from everpost.wire.imap.verbs import State

STALL_LIMIT = 600.0
"""Seconds a command waits for its database; then BYE."""
LOGIN_LIMIT = 180.0
"""Seconds of silence before log-in."""
QUIET_LIMIT = 1860.0
"""Seconds of silence afterwards (RFC 3501 5.4: at least 30 minutes)."""
LITERALS_BEFORE_LOGIN = 8192
LITERALS_AFTER_LOGIN = verbs.APPEND_LIMIT + 64 * 1024
MOST_SESSIONS = 100
"""Of one user: clients open one per folder and device, and come back before their old ones are gone (findings: H7)."""


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
class Services:
    """What all sessions of a process share. `context` None: no TLS is offered (tests)."""

    store: Store
    recipients: Recipients
    passwords: Passwords
    clock: Clock
    context: ssl.SSLContext | None
    recents: Recents = field(default_factory=Recents)
    contents: Contents = field(default_factory=Contents)
    users: Counter[str] = field(default_factory=Counter)


class No(Exception):
    """The command fails: NO, with a response code if it has one."""

    def __init__(self, words: str, code: str = "") -> None:
        super().__init__(words)
        self.answer = (f"[{code}] " if code else "").encode() + respond.text(words)


class Bye(Exception):
    """The conversation ends with these words."""

    def __init__(self, words: str, code: bytes = b"") -> None:
        super().__init__(words)
        self.words = words
        self.code = code


class Session:
    """One conversation."""

    def __init__(self, services: Services, connection: Connection) -> None:
        self.services = services
        self.connection = connection
        self.reader = CommandReader(LITERALS_BEFORE_LOGIN)
        self.permit: Permit = connection.permit()
        self.user: Mailbox | None = None
        self.view: FolderView | None = None
        self.condstore = False
        self.failures = 0
        self.ended = False
        self._out: list[bytes] = []
        self._synced_at = 0.0

    @property
    def state(self) -> State:
        """RFC 3501 3."""
        if self.user is None:
            return State.NOT_AUTHENTICATED
        return State.AUTHENTICATED if self.view is None else State.SELECTED

    @property
    def store(self) -> Store:
        return self.services.store

    @property
    def box(self) -> MailboxRef:
        """Where the user's mail is."""
        assert self.user is not None, "a command of an authenticated state"
        return MailboxRef(self.user.database, self.user.guid)

    @property
    def folder(self) -> FolderView:
        """The selected folder."""
        assert self.view is not None, "a command of the selected state"
        return self.view

    def writable_folder(self) -> FolderView:
        """The selected folder, if it was not opened by EXAMINE. Raises No."""
        if self.folder.read_only:
            raise No("The folder is open for reading only", "CANNOT")
        return self.folder

    def deadline(self) -> float:
        """Until when the command that begins now may stall."""
        return self.services.clock.boottime() + STALL_LIMIT

    @staticmethod
    def operation() -> str:
        """A fresh operation id: whatever repeats the operation, it is done once."""
        return str(uuid.uuid4())

    # -- the client -------------------------------------------------------------------------------------------------

    def say(self, *lines: bytes) -> None:
        """Add to what is written next."""
        self._out += lines

    async def flush(self) -> bool:
        """Write all that was said, at once, if the tenure under which it was computed still holds; False: nothing."""
        if not self._out:
            return False
        data = b"".join(self._out)
        self._out.clear()
        await self.connection.write(data, self.permit)
        return True

    async def begin(self) -> None:
        """A new answer begins: under the tenure that holds now."""
        self.permit = await self.connection.granted()

    async def line(self, limit: float | None) -> bytes:
        """A plain line from the client, apart from commands. Raises ConnectionResetError at the end, TimeoutError
        after `limit` seconds of silence, Bye when it is too long."""
        while (found := self.reader.take_line()) is None:
            if self.reader.overlong():
                raise Bye("The line is too long")
            data = await self.connection.read(limit)
            if not data:
                raise ConnectionResetError("the client left")
            self.reader.feed(data)
        return found

    # -- the selected folder ----------------------------------------------------------------------------------------

    async def sync(self, *, expunge: bool, older_than: float = 0.0) -> None:
        """Learn what happened in the selected folder and say it. `expunge` False where the client counts on its
        message numbers. Nothing is asked if that was done in the last `older_than` seconds. Raises Bye."""
        view = self.view
        now = self.services.clock.boottime()
        if view is None or (older_than and now - self._synced_at < older_than):
            return
        try:
            changes = await self.store.changes(
                self.box, view.folder_id, view.highest_modseq, deadline=now + STALL_LIMIT
            )
            self._tell(view, view.apply(changes, expunge=expunge))
            if not view.agrees(changes.folder):
                snapshot = await self.store.snapshot(self.box, view.folder_id, deadline=now + STALL_LIMIT)
                self._tell(view, view.apply(view.difference(snapshot), expunge=expunge))
        except NoSuchFolder:
            raise Bye("The selected folder was deleted") from None
        except Diverged as error:
            raise Bye(error.what) from None
        self._synced_at = now

    def _tell(self, view: FolderView, update: Update) -> None:
        if update.expunged:
            self.say(respond.expunges(update.expunged))
        if update.exists is not None:
            uids = list(view.uids)
            view.recent |= self.services.recents.claim(self.box.guid, view.folder_id, uids, keep=not view.read_only)
            self.say(b"* %d EXISTS\r\n* %d RECENT\r\n" % (update.exists, len(view.recent)))
        if update.keywords:
            self.tell_flags()
        self.tell_changed(update.changed, with_uid=False)

    def tell_flags(self) -> None:
        """FLAGS and PERMANENTFLAGS: at SELECT, and when a keyword is new."""
        view = self.folder
        self.say(respond.flags(view.keywords), respond.permanent_flags(view.keywords, read_only=view.read_only))

    def tell_changed(self, uids: Iterable[int], *, with_uid: bool, flags: bool = True) -> None:
        """An untagged FETCH for each; `flags` False says the MODSEQ alone."""
        view = self.folder
        for uid in uids:
            at = view.index(uid)
            if at is not None:
                modseq = view.modseqs[at] if self.condstore else None
                shown = view.shown_flags(at) if flags else None
                self.say(respond.fetch_changed(at + 1, uid if with_uid else None, shown, modseq))
