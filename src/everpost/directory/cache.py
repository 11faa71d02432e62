"""A prefix of the directory kept in memory by a watch. It survives the loss of quorum, read-only."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from everpost.directory.interface import Directory, Entry, EventKind

log = logging.getLogger(__name__)

Listener = Callable[[str, Entry | None], None]


class DirectoryCache:
    """`on_change(key, entry or None)` is called for each change in order; `wake()` once after each burst."""

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

    def get(self, key: str) -> Entry | None:
        """The entry as last seen."""
        return self._entries.get(key)

    def list(self, prefix: str) -> list[Entry]:
        """Entries under a narrower prefix, by key."""
        return [self._entries[key] for key in sorted(self._entries) if key.startswith(prefix)]

    def learn(self, entry: Entry) -> None:
        """An entry that this process wrote itself: seen at once, without waiting for the watch."""
        self._put(entry)
        if self._wake is not None:
            self._wake()

    async def wait_synced(self) -> None:
        """Until the first snapshot is complete."""
        await self._synced.wait()

    def _put(self, entry: Entry) -> None:
        known = self._entries.get(entry.key)
        if known is not None and known.revision >= entry.revision:
            return
        self._entries[entry.key] = entry
        if self._on_change is not None:
            self._on_change(entry.key, entry)

    def _drop(self, key: str) -> None:
        if self._entries.pop(key, None) is not None and self._on_change is not None:
            self._on_change(key, None)

    async def run(self) -> None:
        """Follow the watch until cancelled."""
        snapshot: set[str] | None = None
        async for event in self._directory.watch(self._prefix):
            match event.kind:
                case EventKind.RESET:
                    snapshot = set()
                case EventKind.SYNCED:
                    # What a new snapshot lacks was deleted while nobody watched.
                    for key in [key for key in self._entries if snapshot is not None and key not in snapshot]:
                        self._drop(key)
                    snapshot = None
                    self._synced.set()
                case EventKind.PUT:
                    if snapshot is not None:
                        snapshot.add(event.entry.key)
                    self._put(event.entry)
                case EventKind.DELETE:
                    self._drop(event.entry.key)
            if snapshot is None and self._wake is not None:
                self._wake()
