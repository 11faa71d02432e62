"""What every directory keeps: the same tests for etcd and for the one in memory."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator

import pytest

from everpost.directory.interface import Directory, Entry, Event, EventKind
from everpost.directory.memory import MemoryDirectory
from tests.directory.members import Members

_numbers = itertools.count()


@pytest.fixture(params=["memory", "etcd"])
async def directory(request: pytest.FixtureRequest) -> AsyncIterator[Directory]:
    if request.param == "memory":
        found: Directory = MemoryDirectory()
    else:
        single: Members = request.getfixturevalue("single")
        found = single.directory("EX01")
    yield found
    await found.close()


@pytest.fixture
def prefix() -> str:
    return f"/contract/{next(_numbers)}/"


async def put(directory: Directory, key: str, value: bytes) -> int:
    """A change without a guard; its revision. Slow machines may need longer than an attempt."""
    return (await directory.txn({}, {key: value}, attempt=5.0)).revision


async def test_what_was_put_is_got_with_its_revision(directory: Directory, prefix: str) -> None:
    assert await directory.get(prefix + "a") is None
    revision = await put(directory, prefix + "a", b"\x00one\xff")
    assert await directory.get(prefix + "a") == Entry(prefix + "a", b"\x00one\xff", revision)


async def test_an_empty_value_is_a_value(directory: Directory, prefix: str) -> None:
    revision = await put(directory, prefix + "a", b"")
    assert await directory.get(prefix + "a") == Entry(prefix + "a", b"", revision)


async def test_a_list_is_ordered_and_holds_the_prefix_alone(directory: Directory, prefix: str) -> None:
    for name in ("b/2", "a", "b/1"):
        await put(directory, prefix + name, name.encode())
    await put(directory, prefix[:-1] + "0", b"the neighbour")  # '0' follows '/'
    entries, revision = await directory.list(prefix)
    assert [entry.key for entry in entries] == [prefix + "a", prefix + "b/1", prefix + "b/2"]
    assert revision >= max(entry.revision for entry in entries)


async def test_all_guards_hold_or_nothing_happens(directory: Directory, prefix: str) -> None:
    first = await put(directory, prefix + "a", b"1")
    lost = await directory.txn(
        {prefix + "a": first, prefix + "b": 7},
        {prefix + "a": b"2", prefix + "c": b"2"},
        read_on_failure=(prefix + "a", prefix + "b"),
        attempt=5.0,
    )
    assert not lost.succeeded
    assert lost.current == {prefix + "a": Entry(prefix + "a", b"1", first), prefix + "b": None}
    assert await directory.get(prefix + "c") is None
    won = await directory.txn(
        {prefix + "a": first, prefix + "b": 0}, {prefix + "a": b"2", prefix + "b": b"2"}, attempt=5.0
    )
    assert won.succeeded and won.revision > first
    entries, _ = await directory.list(prefix)
    assert {entry.revision for entry in entries} == {won.revision}


async def test_a_deleted_key_is_absent_to_guards(directory: Directory, prefix: str) -> None:
    revision = await put(directory, prefix + "a", b"1")
    gone = await directory.txn({prefix + "a": revision}, {prefix + "a": None}, attempt=5.0)
    assert gone.succeeded and await directory.get(prefix + "a") is None
    assert not (await directory.txn({prefix + "a": revision}, {prefix + "a": b"2"}, attempt=5.0)).succeeded
    assert (await directory.txn({prefix + "a": 0}, {prefix + "a": b"3"}, attempt=5.0)).succeeded


async def test_of_two_with_one_guard_one_wins(directory: Directory, prefix: str) -> None:
    revision = await put(directory, prefix + "a", b"0")
    results = await asyncio.gather(
        *(
            directory.txn({prefix + "a": revision}, {prefix + "a": str(number).encode()}, attempt=5.0)
            for number in range(8)
        )
    )
    assert sum(result.succeeded for result in results) == 1


async def take(events: AsyncIterator[Event], count: int) -> list[Event]:
    """The next `count` events."""
    async with asyncio.timeout(20):
        return [await anext(events) for _ in range(count)]


async def test_a_watch_begins_with_a_snapshot_and_goes_on(directory: Directory, prefix: str) -> None:
    one = await put(directory, prefix + "a", b"1")
    events = directory.watch(prefix)
    snapshot = await take(events, 3)
    assert [event.kind for event in snapshot] == [EventKind.RESET, EventKind.PUT, EventKind.SYNCED]
    assert snapshot[1].entry == Entry(prefix + "a", b"1", one)
    assert snapshot[2].entry.revision >= one
    two = await put(directory, prefix + "a", b"2")
    await put(directory, prefix[:-1] + "0", b"the neighbour")
    three = (await directory.txn({}, {prefix + "a": None, prefix + "b": b"3"}, attempt=5.0)).revision
    changes = await take(events, 3)
    assert changes[0] == Event(EventKind.PUT, Entry(prefix + "a", b"2", two))
    assert sorted(changes[1:]) == sorted(
        [
            Event(EventKind.DELETE, Entry(prefix + "a", b"", three)),
            Event(EventKind.PUT, Entry(prefix + "b", b"3", three)),
        ]
    )
    await events.aclose()  # type: ignore[attr-defined]


async def test_a_watch_of_nothing_is_synced_too(directory: Directory, prefix: str) -> None:
    events = directory.watch(prefix)
    assert [event.kind for event in await take(events, 2)] == [EventKind.RESET, EventKind.SYNCED]
    await events.aclose()  # type: ignore[attr-defined]


async def test_deleting_what_is_absent_changes_nothing(directory: Directory, prefix: str) -> None:
    before = await put(directory, prefix + "a", b"1")
    result = await directory.txn({}, {prefix + "b": None}, attempt=5.0)
    assert result.succeeded and result.revision == before
