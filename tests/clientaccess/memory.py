"""A small store in memory under the store's contract, with faults: it can stall, and lose its answer once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

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
)
from everpost.wire.mime import summarize

FOLDERS = (
    ("INBOX", ""), ("Drafts", "\\Drafts"), ("Sent", "\\Sent"), ("Trash", "\\Trash"), ("Junk", "\\Junk"),
    ("Archive", "\\Archive"),
)  # fmt: skip
EPOCH = 1 << 40


@dataclass
class Mail:
    state: MessageState
    date: datetime
    data: MessageData


@dataclass
class Box:
    id: int
    name: str
    special_use: str = ""
    uid_validity: int = 1000
    uid_next: int = 1
    modseq: int = EPOCH + 1
    selectable: bool = True
    mails: dict[int, Mail] = field(default_factory=dict)
    gone: dict[int, int] = field(default_factory=dict)

    def tick(self) -> int:
        self.modseq += 1
        return self.modseq


class MemoryStore:
    """`store.interface.Store` for one mailbox database; `calls` counts operations by name."""

    def __init__(self) -> None:
        self.boxes: dict[str, Box] = {}
        self.subscribed: set[str] = set()
        self.open = asyncio.Event()
        self.open.set()
        self.calls: list[str] = []
        self._next_id = 1
        self._woken: set[asyncio.Event] = set()
        for name, use in FOLDERS:
            self._make(name, use)
            self.subscribed.add(name)

    def stall(self) -> None:
        """The database moves."""
        self.open.clear()

    def recover(self) -> None:
        """It is open again, elsewhere: those who idle look anew."""
        self.open.set()
        self._tell()

    def _make(self, name: str, use: str = "") -> Box:
        box = self.boxes[name] = Box(self._next_id, name, use, uid_validity=1000 + self._next_id)
        self._next_id += 1
        return box

    def _tell(self) -> None:
        for event in self._woken:
            event.set()

    async def _ready(self, name: str, deadline: float | None) -> None:
        self.calls.append(name)
        if not self.open.is_set():
            left = None if deadline is None else deadline - time.clock_gettime(time.CLOCK_BOOTTIME)
            try:
                async with asyncio.timeout(left):
                    await self.open.wait()
            except TimeoutError:
                raise StoreUnavailable("MB01 is not available just now.") from None

    def _named(self, name: str) -> Box:
        if name not in self.boxes:
            raise NoSuchFolder(f"There is no folder {name}.")
        return self.boxes[name]

    def _by_id(self, folder_id: int) -> Box:
        for box in self.boxes.values():
            if box.id == folder_id and box.selectable:
                return box
        raise NoSuchFolder("There is no such folder.")

    def _folder(self, box: Box) -> Folder:
        mails = box.mails.values()
        return Folder(
            id=box.id,
            name=box.name,
            uid_validity=box.uid_validity,
            uid_next=box.uid_next,
            highest_modseq=box.modseq,
            exists=len(box.mails),
            unseen=sum("\\Seen" not in mail.state.flags for mail in mails),
            deleted=sum("\\Deleted" in mail.state.flags for mail in mails),
            size=sum(mail.data.size or 0 for mail in mails),
            subscribed=box.name in self.subscribed,
            special_use=box.special_use,
            selectable=box.selectable,
        )

    async def list_folders(self, mailbox: MailboxRef, *, deadline: float | None = None) -> list[Folder]:
        await self._ready("list_folders", deadline)
        return [self._folder(self.boxes[name]) for name in sorted(self.boxes)]

    async def get_folder(self, mailbox: MailboxRef, name: str, *, deadline: float | None = None) -> Folder:
        await self._ready("get_folder", deadline)
        return self._folder(self._named(name))

    async def create_folder(
        self, mailbox: MailboxRef, name: str, *, op: str, special_use: str = "", deadline: float | None = None
    ) -> Folder:
        await self._ready("create_folder", deadline)
        if name in self.boxes and self.boxes[name].selectable:
            raise FolderExists("There is a folder of that name.")
        parts = name.split("/")
        for count in range(1, len(parts)):
            if "/".join(parts[:count]) not in self.boxes:
                self._make("/".join(parts[:count]))
        return self._folder(self._make(name, special_use))

    async def delete_folder(self, mailbox: MailboxRef, name: str, *, op: str, deadline: float | None = None) -> None:
        await self._ready("delete_folder", deadline)
        box = self._named(name)
        if not box.selectable:
            raise NoSuchFolder("There is no such folder.")
        if any(other.startswith(name + "/") for other in self.boxes):
            box.selectable = False
            box.mails.clear()
        else:
            del self.boxes[name]

    async def rename_folder(
        self, mailbox: MailboxRef, name: str, new_name: str, *, op: str, deadline: float | None = None
    ) -> None:
        await self._ready("rename_folder", deadline)
        box = self._named(name)
        if new_name in self.boxes:
            raise FolderExists("There is a folder of that name.")
        await self.create_folder(mailbox, new_name, op=op + "p")
        if name == "INBOX":
            await self.copy(mailbox, box.id, list(box.mails), new_name, op=op + "m", move=True)
            return
        for old in [one for one in self.boxes if one == name or one.startswith(name + "/")]:
            moved = self.boxes.pop(old)
            moved.name = new_name + old[len(name) :]
            self.boxes[moved.name] = moved

    async def subscribe(
        self, mailbox: MailboxRef, name: str, subscribed: bool, *, op: str, deadline: float | None = None
    ) -> None:
        await self._ready("subscribe", deadline)
        (self.subscribed.add if subscribed else self.subscribed.discard)(name)

    async def list_subscriptions(self, mailbox: MailboxRef, *, deadline: float | None = None) -> list[str]:
        await self._ready("list_subscriptions", deadline)
        return sorted(self.subscribed)

    async def snapshot(self, mailbox: MailboxRef, folder_id: int, *, deadline: float | None = None) -> FolderSnapshot:
        await self._ready("snapshot", deadline)
        box = self._by_id(folder_id)
        return FolderSnapshot(folder=self._folder(box), messages=[mail.state for mail in box.mails.values()])

    async def changes(
        self, mailbox: MailboxRef, folder_id: int, since_modseq: int, *, deadline: float | None = None
    ) -> FolderChanges:
        await self._ready("changes", deadline)
        box = self._by_id(folder_id)
        return FolderChanges(
            folder=self._folder(box),
            messages=[mail.state for mail in box.mails.values() if mail.state.modseq > since_modseq],
            vanished=sorted(uid for uid, modseq in box.gone.items() if modseq > since_modseq),
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
        for start in range(0, len(uids), 1000):
            await self._ready("fetch", deadline)
            box = self._by_id(folder_id)
            yield [box.mails[uid].data for uid in uids[start : start + 1000] if uid in box.mails]

    def _add(self, box: Box, raw: bytes, flags: frozenset[str], date: datetime, like: MessageData | None) -> int:
        uid = box.uid_next
        box.uid_next += 1
        if like is None:
            found = summarize(raw)
            like = MessageData(
                uid=uid, size=found.size, envelope=found.envelope, bodystructure=found.bodystructure, body=found.body,
                structure=found.structure, header=raw[: found.header_size], raw=raw,
            )  # fmt: skip
        data = MessageData(
            uid=uid, internal_date=date, size=like.size, envelope=like.envelope, bodystructure=like.bodystructure,
            body=like.body, structure=like.structure, header=like.header, raw=like.raw,
        )  # fmt: skip
        box.mails[uid] = Mail(MessageState(uid, box.tick(), flags), date, data)
        return uid

    def add(self, folder: str, *raws: bytes, flags: frozenset[str] = frozenset()) -> None:
        """Mail arrives."""
        for raw in raws:
            self._add(self.boxes[folder], raw, flags, datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC), None)
        self._tell()

    async def append(
        self,
        mailbox: MailboxRef,
        folder_name: str,
        messages: Sequence[Append],
        *,
        op: str,
        deadline: float | None = None,
    ) -> Added:
        await self._ready("append", deadline)
        box = self._named(folder_name)
        now = datetime.now(UTC)
        uids = [self._add(box, one.raw, one.flags, one.internal_date or now, None) for one in messages]
        self._tell()
        return Added(uid_validity=box.uid_validity, uids=uids)

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
        await self._ready("store_flags", deadline)
        box = self._by_id(folder_id)
        stamp = box.tick()
        there = [box.mails[uid] for uid in uids if uid in box.mails]
        modified = [m.state.uid for m in there if unchanged_since is not None and m.state.modseq > unchanged_since]
        states = []
        for mail in there:
            if mail.state.uid in modified:
                continue
            old = mail.state.flags
            match mode:
                case FlagMode.REPLACE:
                    new = flags
                case FlagMode.ADD:
                    new = old | flags
                case FlagMode.REMOVE:
                    new = old - flags
            if new != old:
                mail.state = MessageState(mail.state.uid, stamp, new)
            states.append(mail.state)
        self._tell()
        return FlagsChanged(messages=states, modified=modified, highest_modseq=stamp)

    def _remove(self, box: Box, uids: Sequence[int]) -> None:
        stamp = box.tick()
        for uid in uids:
            del box.mails[uid]
            box.gone[uid] = stamp
        self._tell()

    async def expunge(
        self, mailbox: MailboxRef, folder_id: int, uids: Sequence[int] | None, *, op: str, deadline: float | None = None
    ) -> FolderChanges:
        await self._ready("expunge", deadline)
        box = self._by_id(folder_id)
        gone = [u for u, m in box.mails.items() if "\\Deleted" in m.state.flags and (uids is None or u in uids)]
        self._remove(box, gone)
        return FolderChanges(folder=self._folder(box), messages=[], vanished=gone)

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
        await self._ready("copy", deadline)
        box, to = self._by_id(folder_id), self._named(target)
        sources = [uid for uid in uids if uid in box.mails]
        mails = [box.mails[uid] for uid in sources]
        made = [self._add(to, b"", mail.state.flags, mail.date, mail.data) for mail in mails]
        if move:
            self._remove(box, sources)
        self._tell()
        return Added(uid_validity=to.uid_validity, uids=made, source_uids=sources)

    async def deliver(self, deliveries: Sequence[Delivery], *, deadline: float | None = None) -> None:
        await self._ready("deliver", deadline)
        self.add("INBOX", *[delivery.raw for delivery in deliveries])

    async def wake(self, mailbox: MailboxRef, folder_id: int) -> AsyncIterator[None]:
        event = asyncio.Event()
        self._woken.add(event)
        try:
            while True:
                await event.wait()
                event.clear()
                yield
        finally:
            self._woken.discard(event)
