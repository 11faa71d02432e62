"""The cache follows its watch, runs ahead of it by what this process wrote, and never goes back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from everpost.directory.cache import DirectoryCache
from everpost.directory.interface import Entry, Event, EventKind
from everpost.directory.memory import MemoryDirectory


class Told(MemoryDirectory):
    """A directory whose watch says what the test tells it to."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: asyncio.Queue[Event] = asyncio.Queue()

    async def watch(self, prefix: str) -> AsyncIterator[Event]:
        while True:
            yield await self.queue.get()

    async def tell(self, *events: tuple[str, str, int]) -> None:
        for kind, key, revision in events:
            self.queue.put_nowait(Event(EventKind(kind), Entry(key, str(revision).encode(), revision)))
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def cached() -> AsyncIterator[tuple[Told, DirectoryCache, list[tuple[str, int | None]]]]:
    """A running cache and what its listener heard: (key, revision or None)."""
    directory, heard = Told(), []
    cache = DirectoryCache(
        directory, "/", on_change=lambda key, entry: heard.append((key, entry.revision if entry else None))
    )
    running = asyncio.create_task(cache.run())
    yield directory, cache, heard
    assert not running.done()
    running.cancel()


async def test_it_is_synced_when_the_snapshot_is_whole() -> None:
    async with cached() as (directory, cache, heard):
        await directory.tell(("reset", "/", 5), ("put", "/a", 3), ("put", "/b/1", 4))
        assert not cache._synced.is_set()
        await directory.tell(("synced", "/", 5))
        await cache.wait_synced()
        assert cache.revision == 5
        assert [entry.key for entry in cache.list("/b/")] == ["/b/1"]
        assert heard == [("/a", 3), ("/b/1", 4)]


async def test_what_a_new_snapshot_lacks_is_gone_and_what_it_repeats_is_no_change() -> None:
    async with cached() as (directory, cache, heard):
        await directory.tell(("reset", "/", 5), ("put", "/a", 3), ("put", "/b", 4), ("synced", "/", 5))
        heard.clear()
        await directory.tell(("reset", "/", 9), ("put", "/b", 4), ("put", "/c", 8))
        assert cache.get("/a") is not None, "until the snapshot is whole nothing is forgotten"
        await directory.tell(("synced", "/", 9))
        assert heard == [("/c", 8), ("/a", None)]


async def test_changes_wake_whoever_waits() -> None:
    async with cached() as (directory, cache, _):
        await directory.tell(("reset", "/", 1), ("synced", "/", 1))
        waiting = asyncio.create_task(cache.changed())
        await asyncio.sleep(0)
        assert not waiting.done()
        await directory.tell(("put", "/a", 2))
        await asyncio.wait_for(waiting, 5)
        await directory.tell(("delete", "/a", 3))
        assert cache.get("/a") is None and cache.revision == 3


async def test_what_was_learned_stays_against_an_older_delete_and_an_older_snapshot() -> None:
    async with cached() as (directory, cache, heard):
        await directory.tell(("reset", "/", 5), ("put", "/a", 3), ("synced", "/", 5))
        cache.learn(Entry("/a", b"ours", 8))  # deleted by another at 7, written again by us at 8
        cache.learn(Entry("/b", b"ours", 9))
        await directory.tell(("delete", "/a", 7))
        await directory.tell(("reset", "/", 7), ("synced", "/", 7))  # listed before our writes
        assert [(entry.key, entry.revision) for entry in cache.list("/")] == [("/a", 8), ("/b", 9)]
        heard.clear()
        await directory.tell(("put", "/a", 8), ("put", "/b", 9))
        assert heard == []


async def test_what_the_watch_is_past_is_not_learned() -> None:
    async with cached() as (directory, cache, _):
        await directory.tell(("reset", "/", 5), ("synced", "/", 5), ("put", "/a", 6), ("delete", "/a", 7))
        cache.learn(Entry("/a", b"ours", 6))  # the answer to our write comes after the watch told of its end
        assert cache.get("/a") is None


async def test_without_a_directory_it_still_answers() -> None:
    directory = MemoryDirectory()
    await directory.txn({}, {"/a": b"1"})
    cache = DirectoryCache(directory, "/")
    running = asyncio.create_task(cache.run())
    await cache.wait_synced()
    directory.available = False
    entry = cache.get("/a")
    assert entry is not None and entry.value == b"1"
    running.cancel()
