"""The store in memory: for tests of what stands on it. It passes the contract suite of the PostgreSQL store."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from everpost.errors import Refused
from everpost.model.recipient import MailboxRef
from everpost.store.interface import (
    Added,
    Append,
    Delivery,
    FlagMode,
    FlagsChanged,
    Folder,
    FolderChanges,
    FolderExists,
    FolderSnapshot,
    MessageData,
    MessageState,
    NoSuchFolder,
    Part,
    StoreUnavailable,
    first_folders,
)
from everpost.wire.mime import Summary, summarize

T = TypeVar("T")
LAST_UID = 2**32 - 2
JUMP = 1_000_000


@dataclass
class _Message:
    state: MessageState
    internal_date: datetime
    raw: bytes
    summary: Summary


@dataclass
class _Folder:
    id: int
    name: str
    uid_validity: int
    modseq: int
    special_use: str = ""
    selectable: bool = True
    uid_next: int = 1
    single_from: int | None = None
    messages: dict[int, _Message] = field(default_factory=dict)
    vanished: dict[int, int] = field(default_factory=dict)


@dataclass
class _Mailbox:
    folders: dict[str, _Folder] = field(default_factory=dict)
    subscribed: set[str] = field(default_factory=set)
    last_uid_validity: int = 0


class MemoryStore:
    """`store.interface.Store`. `reopen` is another activation; between `away` and `reopen` nothing is answered."""

    def __init__(self) -> None:
        self.epoch = 1
        self.single = False
        """While the set is empty no folder is given more than JUMP UIDs; PostgreSQL's store knows it by itself."""
        self._open = asyncio.Event()
        self._open.set()
        self._mailboxes: dict[MailboxRef, _Mailbox] = {}
        self._answers: dict[str, Any] = {}
        self._ids = itertools.count(1)
        self._events: dict[int, set[asyncio.Event]] = {}

    # -- what a location does -----------------------------------------------------------------------------------

    def away(self) -> None:
        """The database moves: calls wait."""
        self._open.clear()

    def reopen(self, *, lossy: bool = False) -> None:
        """It is open again, at the next epoch; after a lossy activation UIDs jump (architecture 3.4)."""
        self.epoch += 1
        if lossy:
            for folder in (one for box in self._mailboxes.values() for one in box.folders.values()):
                folder.uid_next += JUMP
                folder.single_from = None
                self._stamp(folder)
        self._open.set()

    async def _ready(self, deadline: float | None) -> None:
        limit = None if deadline is None else deadline - time.clock_gettime(time.CLOCK_BOOTTIME)
        try:
            async with asyncio.timeout(limit):
                await self._open.wait()
        except TimeoutError:
            raise StoreUnavailable("The database is not available just now.", remedy="Try again in a moment.") from None

    async def _once(self, op: str, deadline: float | None, change: Callable[[], T]) -> T:
        """The stored answer of that operation, or the answer of `change`, which then was the only one."""
        await self._ready(deadline)
        if op not in self._answers:
            self._answers[op] = change()
        found: T = self._answers[op]
        return found

    # -- finding ------------------------------------------------------------------------------------------------

    def _box(self, mailbox: MailboxRef) -> _Mailbox:
        box = self._mailboxes.get(mailbox)
        if box is None:
            box = self._mailboxes[mailbox] = _Mailbox()
            for name, use in first_folders():
                self._new_folder(box, name, use)
                box.subscribed.add(name)
        return box

    def _new_folder(self, box: _Mailbox, name: str, use: str = "") -> _Folder:
        box.last_uid_validity = max(box.last_uid_validity + 1, int(time.time()))
        made = _Folder(next(self._ids), name, box.last_uid_validity, (self.epoch << 40) + 1, use)
        box.folders[name] = made
        return made

    def _named(self, mailbox: MailboxRef, name: str) -> _Folder:
        folder = self._box(mailbox).folders.get(name)
        if folder is None or not folder.selectable:
            raise NoSuchFolder(f"There is no folder {name}.")
        return folder

    def _numbered(self, mailbox: MailboxRef, folder_id: int) -> _Folder:
        for folder in self._box(mailbox).folders.values():
            if folder.id == folder_id and folder.selectable:
                return folder
        raise NoSuchFolder("There is no such folder.")

    def _stamp(self, folder: _Folder) -> int:
        folder.modseq = max(folder.modseq, self.epoch << 40) + 1
        for event in self._events.get(folder.id, ()):
            event.set()
        return folder.modseq

    def _shown(self, mailbox: MailboxRef, folder: _Folder) -> Folder:
        flags = [message.state.flags for message in folder.messages.values()]
        return Folder(
            id=folder.id,
            name=folder.name,
            uid_validity=folder.uid_validity,
            uid_next=folder.uid_next,
            highest_modseq=folder.modseq,
            exists=len(flags),
            unseen=sum("\\Seen" not in one for one in flags),
            deleted=sum("\\Deleted" in one for one in flags),
            size=sum(len(message.raw) for message in folder.messages.values()),
            subscribed=folder.name in self._box(mailbox).subscribed,
            special_use=folder.special_use,
            selectable=folder.selectable,
        )

    # -- folders ------------------------------------------------------------------------------------------------

    async def list_folders(self, mailbox: MailboxRef, *, deadline: float | None = None) -> list[Folder]:
        await self._ready(deadline)
        folders = self._box(mailbox).folders
        return [self._shown(mailbox, folders[name]) for name in sorted(folders)]

    async def get_folder(self, mailbox: MailboxRef, name: str, *, deadline: float | None = None) -> Folder:
        await self._ready(deadline)
        folder = self._box(mailbox).folders.get(name)
        if folder is None:
            raise NoSuchFolder(f"There is no folder {name}.")
        return self._shown(mailbox, folder)

    async def create_folder(
        self, mailbox: MailboxRef, name: str, *, op: str, special_use: str = "", deadline: float | None = None
    ) -> Folder:
        def change() -> None:
            box = self._box(mailbox)
            known = box.folders.get(name)
            if known is not None and known.selectable:
                raise FolderExists(f"There is a folder {name}.")
            self._parents(box, name)
            self._new_folder(box, name, special_use)

        await self._once(op, deadline, change)
        return await self.get_folder(mailbox, name, deadline=deadline)

    def _parents(self, box: _Mailbox, name: str) -> None:
        words = name.split("/")
        for count in range(1, len(words)):
            parent = "/".join(words[:count])
            if parent not in box.folders:
                self._new_folder(box, parent)

    async def delete_folder(self, mailbox: MailboxRef, name: str, *, op: str, deadline: float | None = None) -> None:
        def change() -> None:
            folders = self._box(mailbox).folders
            folder = folders.get(name)
            if name == "INBOX":
                raise Refused("INBOX cannot be deleted.")
            if folder is None:
                raise NoSuchFolder(f"There is no folder {name}.")
            if not any(other.startswith(name + "/") for other in folders):
                del folders[name]
                self._stamp(folder)
            elif folder.selectable:
                self._remove(folder, list(folder.messages))
                folder.selectable = False
                self._stamp(folder)
            else:
                raise Refused(f"{name} holds other folders.")

        await self._once(op, deadline, change)

    async def rename_folder(
        self, mailbox: MailboxRef, name: str, new_name: str, *, op: str, deadline: float | None = None
    ) -> None:
        def change() -> None:
            box = self._box(mailbox)
            if name not in box.folders:
                raise NoSuchFolder(f"There is no folder {name}.")
            if new_name in box.folders:
                raise FolderExists(f"There is a folder {new_name}.")
            if name != "INBOX" and new_name.startswith(name + "/"):
                raise Refused("A folder cannot be moved into itself.")
            self._parents(box, new_name)
            if name == "INBOX":
                target = self._new_folder(box, new_name)
                self._copy(box.folders[name], list(box.folders[name].messages), target, move=True)
                return
            for old in [old for old in box.folders if old == name or old.startswith(name + "/")]:
                folder = box.folders.pop(old)
                folder.name = new_name + old[len(name) :]
                box.folders[folder.name] = folder

        await self._once(op, deadline, change)

    async def subscribe(
        self, mailbox: MailboxRef, name: str, subscribed: bool, *, op: str, deadline: float | None = None
    ) -> None:
        def change() -> None:
            names = self._box(mailbox).subscribed
            (names.add if subscribed else names.discard)(name)

        await self._once(op, deadline, change)

    async def list_subscriptions(self, mailbox: MailboxRef, *, deadline: float | None = None) -> list[str]:
        await self._ready(deadline)
        return sorted(self._box(mailbox).subscribed)

    # -- reading ------------------------------------------------------------------------------------------------

    async def snapshot(self, mailbox: MailboxRef, folder_id: int, *, deadline: float | None = None) -> FolderSnapshot:
        changes = await self.changes(mailbox, folder_id, 0, deadline=deadline)
        return FolderSnapshot(folder=changes.folder, messages=changes.messages)

    async def changes(
        self, mailbox: MailboxRef, folder_id: int, since_modseq: int, *, deadline: float | None = None
    ) -> FolderChanges:
        await self._ready(deadline)
        folder = self._numbered(mailbox, folder_id)
        states = [folder.messages[uid].state for uid in sorted(folder.messages)]
        return FolderChanges(
            folder=self._shown(mailbox, folder),
            messages=[state for state in states if state.modseq > since_modseq],
            vanished=sorted(uid for uid, modseq in folder.vanished.items() if modseq > since_modseq),
        )

    async def fetch(
        self,
        mailbox: MailboxRef,
        folder_id: int,
        uids: Sequence[int],
        parts: Part,
        *,
        deadline: float | None = None,
    ) -> AsyncIterator[Sequence[MessageData]]:
        wanted = sorted(set(uids))
        for begin in range(0, len(wanted), 100):
            await self._ready(deadline)
            try:
                messages = self._numbered(mailbox, folder_id).messages
            except NoSuchFolder:
                return
            found = [messages[uid] for uid in wanted[begin : begin + 100] if uid in messages]
            if found:
                yield [_data(message, parts) for message in found]

    # -- changing -----------------------------------------------------------------------------------------------

    def _add(self, folder: _Folder, raw: bytes, flags: Iterable[str], when: datetime | None) -> int:
        uid = folder.uid_next
        if uid > LAST_UID:
            raise Refused("The folder has no UIDs left.")
        folder.single_from = (folder.single_from or uid) if self.single else None
        if folder.single_from is not None and uid - folder.single_from >= JUMP:
            raise Refused(
                "The folder took a million messages while its database has no second copy that is whole; "
                "it takes more as soon as it has one."
            )
        folder.uid_next += 1
        state = MessageState(uid, self._stamp(folder), frozenset(flags))
        folder.messages[uid] = _Message(state, when or datetime.now(UTC), raw, summarize(raw))
        return uid

    def _remove(self, folder: _Folder, uids: Sequence[int]) -> None:
        if uids:
            stamp = self._stamp(folder)
            for uid in uids:
                del folder.messages[uid]
                folder.vanished[uid] = stamp

    async def append(
        self,
        mailbox: MailboxRef,
        folder_name: str,
        messages: Sequence[Append],
        *,
        op: str,
        deadline: float | None = None,
    ) -> Added:
        def change() -> Added:
            folder = self._named(mailbox, folder_name)
            uids = [self._add(folder, one.raw, one.flags, one.internal_date) for one in messages]
            return Added(uid_validity=folder.uid_validity, uids=uids)

        return await self._once(op, deadline, change)

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
        def change() -> FlagsChanged:
            folder = self._numbered(mailbox, folder_id)
            there = [folder.messages[uid] for uid in sorted(set(uids)) if uid in folder.messages]
            late = {
                one.state.uid for one in there if unchanged_since is not None and one.state.modseq > unchanged_since
            }
            stamp: int | None = None
            for message in there:
                old = message.state
                fresh = {
                    FlagMode.REPLACE: flags,
                    FlagMode.ADD: old.flags | flags,
                    FlagMode.REMOVE: old.flags - flags,
                }[mode]
                if old.uid not in late and fresh != old.flags:
                    stamp = stamp or self._stamp(folder)
                    message.state = MessageState(old.uid, stamp, fresh)
            states = [one.state for one in there if one.state.uid not in late]
            return FlagsChanged(messages=states, modified=sorted(late), highest_modseq=folder.modseq)

        return await self._once(op, deadline, change)

    async def expunge(
        self, mailbox: MailboxRef, folder_id: int, uids: Sequence[int] | None, *, op: str, deadline: float | None = None
    ) -> FolderChanges:
        def change() -> list[int]:
            folder = self._numbered(mailbox, folder_id)
            among = folder.messages.keys() if uids is None else set(uids) & folder.messages.keys()
            gone = sorted(uid for uid in among if "\\Deleted" in folder.messages[uid].state.flags)
            self._remove(folder, gone)
            return gone

        gone = await self._once(op, deadline, change)
        shown = self._shown(mailbox, self._numbered(mailbox, folder_id))
        return FolderChanges(folder=shown, messages=[], vanished=gone)

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
        def change() -> Added:
            into = self._named(mailbox, target)
            return self._copy(self._numbered(mailbox, folder_id), uids, into, move=move)

        return await self._once(op, deadline, change)

    def _copy(self, source: _Folder, uids: Sequence[int], target: _Folder, *, move: bool) -> Added:
        found = [source.messages[uid] for uid in sorted(set(uids)) if uid in source.messages]
        made = [self._add(target, one.raw, one.state.flags, one.internal_date) for one in found]
        sources = [one.state.uid for one in found]
        if move:
            self._remove(source, sources)
        return Added(uid_validity=target.uid_validity, uids=made, source_uids=sources)

    async def deliver(self, deliveries: Sequence[Delivery], *, deadline: float | None = None) -> None:
        if len({delivery.mailbox.database for delivery in deliveries}) > 1:
            raise ValueError("one group is for mailboxes of one database")
        await self._ready(deadline)
        for one in deliveries:
            if one.operation_id not in self._answers:
                self._answers[one.operation_id] = None
                self._add(self._named(one.mailbox, "INBOX"), one.raw, (), one.internal_date)

    async def wake(self, mailbox: MailboxRef, folder_id: int) -> AsyncIterator[None]:
        event = asyncio.Event()
        event.set()
        self._events.setdefault(folder_id, set()).add(event)
        try:
            while True:
                await event.wait()
                event.clear()
                yield
        finally:
            self._events[folder_id].discard(event)


def _data(message: _Message, parts: Part) -> MessageData:
    summary = message.summary
    values = {
        Part.DATE: ("internal_date", message.internal_date),
        Part.SIZE: ("size", summary.size),
        Part.ENVELOPE: ("envelope", summary.envelope),
        Part.BODYSTRUCTURE: ("bodystructure", summary.bodystructure),
        Part.BODY: ("body", summary.body),
        Part.STRUCTURE: ("structure", summary.structure),
        Part.HEADER: ("header", message.raw[: summary.header_size]),
        Part.RAW: ("raw", message.raw),
    }
    asked: dict[str, Any] = dict(value for part, value in values.items() if part in parts)
    return MessageData(uid=message.state.uid, modseq=message.state.modseq, flags=message.state.flags, **asked)
