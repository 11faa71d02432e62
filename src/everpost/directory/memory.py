"""A directory in memory, under the same contract as etcd, with seams to lose answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

from everpost.directory.interface import Entry, Event, EventKind, TxnResult
from everpost.errors import OutcomeUnknown


class MemoryDirectory:
    """One process's directory. All methods are atomic: nothing is awaited inside them."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._revision = 1
        self._watchers: list[tuple[str, asyncio.Queue[Event]]] = []
        self._lose: list[bool] = []

    def lose_answers(self, count: int, *, effect: bool) -> None:
        """The next `count` transactions end as OutcomeUnknown, having had their effect or not."""
        self._lose.extend([effect] * count)

    async def get(self, key: str) -> Entry | None:
        return self._entries.get(key)

    async def list(self, prefix: str) -> tuple[list[Entry], int]:
        return [self._entries[key] for key in sorted(self._entries) if key.startswith(prefix)], self._revision

    async def txn(
        self,
        guards: Mapping[str, int],
        puts: Mapping[str, bytes | None],
        *,
        read_on_failure: tuple[str, ...] = (),
        attempt: float | None = None,
    ) -> TxnResult:
        lost = self._lose.pop(0) if self._lose else None
        if lost is False:
            raise OutcomeUnknown("The answer was lost.", retry=True)
        result = self._apply(guards, puts, read_on_failure)
        if lost is True:
            raise OutcomeUnknown("The answer was lost.", retry=True)
        return result

    def _apply(self, guards: Mapping[str, int], puts: Mapping[str, bytes | None], read: tuple[str, ...]) -> TxnResult:
        for key, revision in guards.items():
            entry = self._entries.get(key)
            if (entry.revision if entry is not None else 0) != revision:
                return TxnResult(False, self._revision, {one: self._entries.get(one) for one in read})
        self._revision += 1
        for key, value in puts.items():
            if value is None:
                if self._entries.pop(key, None) is not None:
                    self._tell(Event(EventKind.DELETE, Entry(key, b"", self._revision)))
            else:
                self._entries[key] = Entry(key, value, self._revision)
                self._tell(Event(EventKind.PUT, self._entries[key]))
        return TxnResult(True, self._revision, {})

    def _tell(self, event: Event) -> None:
        for prefix, queue in self._watchers:
            if event.entry.key.startswith(prefix):
                queue.put_nowait(event)

    async def watch(self, prefix: str) -> AsyncIterator[Event]:
        queue: asyncio.Queue[Event] = asyncio.Queue()
        watcher = (prefix, queue)
        self._watchers.append(watcher)
        try:
            snapshot, revision = await self.list(prefix)
            yield Event(EventKind.RESET, Entry(prefix, b"", revision))
            for entry in snapshot:
                yield Event(EventKind.PUT, entry)
            yield Event(EventKind.SYNCED, Entry(prefix, b"", revision))
            while True:
                event = await queue.get()
                if event.entry.revision > revision:
                    yield event
        finally:
            self._watchers.remove(watcher)

    async def close(self) -> None:
        self._watchers.clear()
