"""A prefix of the directory kept in memory by a watch. It survives the loss of quorum, read-only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from everpost.directory.interface import Directory, Entry, EventKind

Listener = Callable[[str, Entry | None], None]


class DirectoryCache:
    """`on_change(key, entry or None)` is called for each change in order; `wake()` after each event or snapshot."""

    def __init__(
        self,
        directory: Directory,
        prefix: str,
        *,
        on_change: Listener | None = None,
        wake: Callable[[], None] | None = None,
    ) -> None:
        self._directory = directory
        self._prefix = prefix
        self._on_change = on_change
        self._wake = wake
        self._entries: dict[str, Entry] = {}
        self._synced = asyncio.Event()
        self._changed = asyncio.Event()
        self.revision = 0
        """Every change under the prefix up to this revision was seen."""

    def get(self, key: str) -> Entry | None:
        """The entry as last seen."""
        return self._entries.get(key)

    def list(self, prefix: str) -> list[Entry]:
        """Entries under a narrower prefix, by key."""
        return [self._entries[key] for key in sorted(key for key in self._entries if key.startswith(prefix))]

    def learn(self, entry: Entry) -> None:
        """An entry that this process wrote or read itself: seen at once, ahead of the watch. What the watch is past
        already is not learned: it may have been deleted since."""
        if entry.revision >= self.revision:
            self._put(entry)
            self._tell()

    async def wait_synced(self) -> None:
        """Until the first snapshot is complete."""
        await self._synced.wait()

    async def changed(self) -> None:
        """Until the next change after this call."""
        await self._changed.wait()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
        if self._wake is not None:
            self._wake()

    def _put(self, entry: Entry) -> None:
        known = self._entries.get(entry.key)
        if known is not None and known.revision >= entry.revision:
            return
        self._entries[entry.key] = entry
        if self._on_change is not None:
            self._on_change(entry.key, entry)

    def _drop(self, key: str, revision: int) -> None:
        """It was gone at `revision`; an entry learned since then stays."""
        known = self._entries.get(key)
        if known is None or known.revision > revision:
            return
        del self._entries[key]
        if self._on_change is not None:
            self._on_change(key, None)

    async def run(self) -> None:
        """Follow the watch until cancelled."""
        snapshot: set[str] | None = None
        async for kind, entry in self._directory.watch(self._prefix):
            match kind:
                case EventKind.RESET:
                    snapshot = set()
                    continue
                case EventKind.SYNCED:
                    # What a new snapshot lacks was deleted while nobody watched.
                    for key in [key for key in self._entries if snapshot is not None and key not in snapshot]:
                        self._drop(key, entry.revision)
                    snapshot = None
                    self._synced.set()
                case EventKind.PUT:
                    if snapshot is not None:
                        snapshot.add(entry.key)
                    self._put(entry)
                case EventKind.DELETE:
                    self._drop(entry.key, entry.revision)
            if snapshot is None:
                self.revision = max(self.revision, entry.revision)
                self._tell()
