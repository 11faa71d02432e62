"""The store in memory with one mailbox, and what goes wrong with it: it stalls, forgets, and counts what is asked."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime

from everpost.model.recipient import MailboxRef
from everpost.store.interface import MessageData, Part
from everpost.store.memory import MemoryStore, _Folder, _Message

ARRIVED = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)


class FaultyStore(MemoryStore):
    """`changes_made` counts operations that were done, `batches` what FETCH and SEARCH loaded."""

    def __init__(self, box: MailboxRef) -> None:
        super().__init__()
        self.box = box
        self.batches = 0

    def folder(self, name: str) -> _Folder:
        return self._named(self.box, name)

    def mails(self, name: str) -> dict[int, _Message]:
        return self.folder(name).messages

    @property
    def changes_made(self) -> int:
        return len(self._answers)

    def add(self, name: str, *raws: bytes, flags: frozenset[str] = frozenset()) -> None:
        """Mail arrives."""
        for raw in raws:
            self._add(self.folder(name), raw, flags, ARRIVED)

    def remove(self, name: str, uid: int) -> None:
        """Another session's EXPUNGE."""
        self._remove(self.folder(name), [uid])

    def forget(self, name: str, uid: int) -> None:
        """Gone without a trace, as after a lossy activation."""
        del self.mails(name)[uid]

    async def fetch(
        self,
        mailbox: MailboxRef,
        folder_id: int,
        uids: Sequence[int],
        parts: Part,
        *,
        deadline: float | None = None,
    ) -> AsyncIterator[Sequence[MessageData]]:
        async for batch in super().fetch(mailbox, folder_id, uids, parts, deadline=deadline):
            self.batches += 1
            yield batch
