"""What the mail roles ask of the store. The PostgreSQL store and the in-memory one pass one contract suite.

Every call finds the mailbox's database by its location, waits while it moves, and repeats itself by its operation id
when an answer was lost (architecture 3.9, 3.10). A call raises `StoreUnavailable` only when `deadline` passed first.
An acknowledged change was flushed on every member of the set, or, with an empty set, covered by a tenure renewal.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Protocol

import msgspec

from everpost.errors import Refused, Unavailable
from everpost.model.recipient import MailboxRef


class StoreUnavailable(Unavailable):
    """The database did not come back before the deadline; a change that was asked for may have happened."""


class NoSuchFolder(Refused):
    """No folder of that name or id (RFC 5530 NONEXISTENT / TRYCREATE)."""


class FolderExists(Refused):
    """A folder of that name exists (RFC 5530 ALREADYEXISTS)."""


def first_folders() -> tuple[tuple[str, str], ...]:
    """Name and special use (RFC 6154) of the folders that every mailbox has from the start, all subscribed."""
    return (
        ("INBOX", ""),
        ("Drafts", "\\Drafts"),
        ("Sent", "\\Sent"),
        ("Trash", "\\Trash"),
        ("Junk", "\\Junk"),
        ("Archive", "\\Archive"),
    )


class Folder(msgspec.Struct, frozen=True, kw_only=True):
    """A folder. `id` never changes; `name` is Unicode, hierarchy separator "/", INBOX upper case.

    `special_use`: "\\Sent" and the like (RFC 6154), "" for none. `selectable` False: a name only, kept for its
    children. The counts are exact at `highest_modseq`.
    """

    id: int
    name: str
    uid_validity: int
    uid_next: int
    highest_modseq: int
    exists: int = 0
    unseen: int = 0
    deleted: int = 0
    size: int = 0
    subscribed: bool = False
    special_use: str = ""
    selectable: bool = True


class MessageState(msgspec.Struct, frozen=True, array_like=True):
    """What a session keeps of a message: UID, MODSEQ, and its flags ("\\Seen", "$Forwarded"; never "\\Recent")."""

    uid: int
    modseq: int
    flags: frozenset[str]


class FolderSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A folder and its messages in UID order at one moment."""

    folder: Folder
    messages: Sequence[MessageState]


class FolderChanges(msgspec.Struct, frozen=True, kw_only=True):
    """What changed after a MODSEQ: new and changed messages in UID order, and UIDs that are gone."""

    folder: Folder
    messages: Sequence[MessageState]
    vanished: Sequence[int]


class MessageData(msgspec.Struct, frozen=True, kw_only=True):
    """A message's content as asked for; fields not asked for are None. `envelope` and `bodystructure`, `body` are
    ready response bytes (RFC 3501 7.4.2), computed at delivery; `structure` is `wire.mime` part index, encoded."""

    uid: int
    modseq: int = 0
    flags: frozenset[str] = frozenset()
    internal_date: datetime | None = None
    size: int | None = None
    envelope: bytes | None = None
    bodystructure: bytes | None = None
    body: bytes | None = None
    structure: bytes | None = None
    header: bytes | None = None
    raw: bytes | None = None


class Part(enum.Flag):
    """What `fetch` loads."""

    FLAGS = enum.auto()
    DATE = enum.auto()
    SIZE = enum.auto()
    ENVELOPE = enum.auto()
    BODYSTRUCTURE = enum.auto()
    BODY = enum.auto()
    STRUCTURE = enum.auto()
    HEADER = enum.auto()
    RAW = enum.auto()


class Append(msgspec.Struct, frozen=True, kw_only=True):
    """A message to be added; `raw` is kept byte for byte. `internal_date` None: now."""

    raw: bytes
    flags: frozenset[str] = frozenset()
    internal_date: datetime | None = None


class Added(msgspec.Struct, frozen=True, kw_only=True):
    """Where appended, copied or moved messages went (RFC 4315); `source_uids[i]` became `uids[i]`."""

    uid_validity: int
    uids: Sequence[int]
    source_uids: Sequence[int] = ()


class FlagMode(enum.StrEnum):
    """STORE FLAGS, +FLAGS, -FLAGS."""

    REPLACE = "replace"
    ADD = "add"
    REMOVE = "remove"


class FlagsChanged(msgspec.Struct, frozen=True, kw_only=True):
    """The messages after a STORE, and those left alone as their MODSEQ was above UNCHANGEDSINCE (RFC 7162)."""

    messages: Sequence[MessageState]
    modified: Sequence[int]
    highest_modseq: int


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """One message for one mailbox's INBOX, from transport. `operation_id` makes a repetition harmless."""

    mailbox: MailboxRef
    operation_id: str
    raw: bytes
    internal_date: datetime | None = None


class Store(Protocol):
    """Mailbox operations. `op` is a fresh operation id (a UUID string) chosen by the caller for each command.

    `deadline` is CLOCK_BOOTTIME seconds; None waits for as long as the caller does.
    """

    async def list_folders(self, mailbox: MailboxRef, *, deadline: float | None = None) -> list[Folder]:
        """All folders with exact counts, ordered by name. A new mailbox has `first_folders`."""

    async def get_folder(self, mailbox: MailboxRef, name: str, *, deadline: float | None = None) -> Folder:
        """One folder with counts (STATUS). Raises NoSuchFolder."""

    async def create_folder(
        self, mailbox: MailboxRef, name: str, *, op: str, special_use: str = "", deadline: float | None = None
    ) -> Folder:
        """Create it and its missing parents. Raises FolderExists."""

    async def delete_folder(self, mailbox: MailboxRef, name: str, *, op: str, deadline: float | None = None) -> None:
        """Delete its messages; with children it stays as a name that cannot be selected (RFC 3501 6.3.4). Raises
        NoSuchFolder, and Refused for INBOX or a name that has only children."""

    async def rename_folder(
        self, mailbox: MailboxRef, name: str, new_name: str, *, op: str, deadline: float | None = None
    ) -> None:
        """Rename it with its children; renaming INBOX moves its messages to a new folder (RFC 3501 6.3.5). Raises
        NoSuchFolder, FolderExists, and Refused for a place below itself."""

    async def subscribe(
        self, mailbox: MailboxRef, name: str, subscribed: bool, *, op: str, deadline: float | None = None
    ) -> None:
        """SUBSCRIBE and UNSUBSCRIBE; a name may be subscribed that does not exist (yet)."""

    async def list_subscriptions(self, mailbox: MailboxRef, *, deadline: float | None = None) -> list[str]:
        """Subscribed names, existing or not."""

    async def snapshot(self, mailbox: MailboxRef, folder_id: int, *, deadline: float | None = None) -> FolderSnapshot:
        """The folder and all its messages' states, at one moment. Raises NoSuchFolder."""

    async def changes(
        self, mailbox: MailboxRef, folder_id: int, since_modseq: int, *, deadline: float | None = None
    ) -> FolderChanges:
        """What happened after `since_modseq`; one cheap query when nothing did. Raises NoSuchFolder."""

    def fetch(
        self,
        mailbox: MailboxRef,
        folder_id: int,
        uids: Sequence[int],
        parts: Part,
        *,
        deadline: float | None = None,
    ) -> AsyncIterator[Sequence[MessageData]]:
        """Batches of messages in the order of `uids` (ascending), missing ones left out; bounded memory. Begins again
        behind the last batch handed out when the database moves."""

    async def append(
        self,
        mailbox: MailboxRef,
        folder_name: str,
        messages: Sequence[Append],
        *,
        op: str,
        deadline: float | None = None,
    ) -> Added:
        """All or none. Raises NoSuchFolder."""

    async def store_flags(
        self,
        mailbox: MailboxRef,
        folder_id: int,
        uids: Sequence[int],
        mode: FlagMode,
        flags: frozenset[str],
        *,
        op: str,
        unchanged_since: int | None = None,
        deadline: float | None = None,
    ) -> FlagsChanged:
        """STORE. Messages that already have these flags keep their MODSEQ."""

    async def expunge(
        self, mailbox: MailboxRef, folder_id: int, uids: Sequence[int] | None, *, op: str, deadline: float | None = None
    ) -> FolderChanges:
        """Remove messages that carry \\Deleted, all or those among `uids`; `vanished` has the removed ones."""

    async def copy(
        self,
        mailbox: MailboxRef,
        folder_id: int,
        uids: Sequence[int],
        target: str,
        *,
        op: str,
        move: bool = False,
        deadline: float | None = None,
    ) -> Added:
        """COPY or MOVE (RFC 6851), all or none, contents shared. Raises NoSuchFolder for the target."""

    async def deliver(self, deliveries: Sequence[Delivery], *, deadline: float | None = None) -> None:
        """Deliver a group for mailboxes of ONE database in one replicated transaction; a delivery whose operation id
        was done before is left out. Returns when all are acknowledged."""

    def wake(self, mailbox: MailboxRef, folder_id: int) -> AsyncIterator[None]:
        """Yields whenever the folder may have changed (IDLE): once to begin with, at once for changes made through
        this process, within a second or so for others. Never a promise: ask `changes`."""
