"""A directory in memory, under the same contract as etcd, with seams to lose answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import NamedTuple

from everpost.directory.interface import Entry, Event, EventKind, TxnResult
from everpost.errors import OutcomeUnknown, Unavailable


class _Late(NamedTuple):
    guards: Mapping[str, int]
    puts: Mapping[str, bytes | None]
    told: Callable[[TxnResult], object] | None


class MemoryDirectory:
    """One process's directory. All methods are atomic: nothing is awaited inside them."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._revision = 1
        self._watchers: list[tuple[str, asyncio.Queue[Event]]] = []
        self._lose: list[bool | None] = []
        self._late: list[_Late] = []
        self.available = True
        """False: reads and transactions raise Unavailable."""

    def lose_answers(self, count: int, *, effect: bool) -> None:
        """The next `count` transactions end as OutcomeUnknown, having had their effect or never having it."""
        self._lose.extend([effect] * count)

    def delay_effects(self, count: int) -> None:
        """The next `count` transactions end as OutcomeUnknown and take effect only at `deliver_late`, if their guards
        hold then: a request that waits somewhere on its way."""
        self._lose.extend([None] * count)

    def deliver_late(self) -> list[TxnResult]:
        """What waited on its way arrives now."""
        late, self._late = self._late, []
        results = []
        for one in late:
            results.append(self._apply(one.guards, one.puts, ()))
            if one.told is not None:
                one.told(results[-1])
        return results

    def _ask(self) -> None:
        if not self.available:
            raise Unavailable("The directory does not answer.")

    async def get(self, key: str) -> Entry | None:
        self._ask()
        return self._entries.get(key)

    def _list(self, prefix: str) -> list[Entry]:
        return [self._entries[key] for key in sorted(self._entries) if key.startswith(prefix)]

    async def list(self, prefix: str) -> tuple[list[Entry], int]:
        self._ask()
        return self._list(prefix), self._revision

    async def txn(
        self,
        guards: Mapping[str, int],
        puts: Mapping[str, bytes | None],
        *,
        read_on_failure: tuple[str, ...] = (),
        attempt: float | None = None,
        late: Callable[[TxnResult], object] | None = None,
    ) -> TxnResult:
        self._ask()
        if not self._lose:
            return self._apply(guards, puts, read_on_failure)
        effect = self._lose.pop(0)
        if effect is None:
            self._late.append(_Late(dict(guards), dict(puts), late))
        elif effect:
            self._apply(guards, puts, ())
        raise OutcomeUnknown("The answer was lost.", retry=True)

    def _apply(self, guards: Mapping[str, int], puts: Mapping[str, bytes | None], read: tuple[str, ...]) -> TxnResult:
        for key, revision in guards.items():
            entry = self._entries.get(key)
            if (entry.revision if entry is not None else 0) != revision:
                return TxnResult(False, self._revision, {one: self._entries.get(one) for one in read})
        changes = {key: value for key, value in puts.items() if value is not None or key in self._entries}
        if changes:
            self._revision += 1
        for key, value in changes.items():
            if value is None:
                del self._entries[key]
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
            snapshot, revision = self._list(prefix), self._revision
            yield Event(EventKind.RESET, Entry(prefix, b"", revision))
            for entry in snapshot:
                yield Event(EventKind.PUT, entry)
            yield Event(EventKind.SYNCED, Entry(prefix, b"", revision))
            while True:
                yield await queue.get()
        finally:
            if watcher in self._watchers:
                self._watchers.remove(watcher)

    async def close(self) -> None:
        self._watchers.clear()
