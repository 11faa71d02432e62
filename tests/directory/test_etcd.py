"""What is etcd's own: lost answers, members that freeze or vanish, compaction, foreign clusters."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import ssl
import time

import msgspec
import pytest

from everpost.directory.etcd import LATE, Declined, EtcdDirectory, WrongCluster, _b64, _Order
from everpost.directory.gateway import Gateway
from everpost.directory.interface import Entry, Event, EventKind, TxnResult
from everpost.errors import OutcomeUnknown, Unavailable
from tests.directory.members import Members


async def until(wanted: EventKind, key: str, watch: asyncio.Queue[Event], seconds: float = 30) -> Event:
    """The next such event."""
    async with asyncio.timeout(seconds):
        while True:
            event = await watch.get()
            if event.kind is wanted and event.entry.key == key:
                return event


async def follow(directory: EtcdDirectory, prefix: str, into: asyncio.Queue[Event]) -> None:
    async for event in directory.watch(prefix):
        into.put_nowait(event)


async def settled(directory: EtcdDirectory, key: str, value: bytes) -> int:
    """Put until an answer comes: elections take their time."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            return (await directory.txn({}, {key: value}, attempt=1.0)).revision
        except (OutcomeUnknown, Unavailable):
            await asyncio.sleep(0.02)
    raise AssertionError("nothing could be written within 30 s")


async def test_who_cannot_be_reached_got_nothing(members: Members) -> None:
    directory = members.directory("EX01")
    with pytest.raises(Unavailable):
        await directory.txn({}, {"/a": b"1"})
    with pytest.raises(Unavailable):
        await directory.get("/a")
    await directory.close()


async def test_without_a_member_nobody_can_be_asked(single: Members) -> None:
    directory = EtcdDirectory([], single.context())
    with pytest.raises(Unavailable):
        await directory.get("/a")
    directory.set_endpoints([single.url("EX01")])
    assert await directory.get("/none") is None
    await directory.close()


@pytest.mark.fault
async def test_an_answer_that_comes_after_it_was_given_up_is_told_and_its_member_asked_again(single: Members) -> None:
    directory = single.directory("EX01")
    told: list[TxnResult] = []
    try:
        await settled(directory, "/a", b"1")
        single.freeze("EX01")
        with pytest.raises(OutcomeUnknown):
            await directory.txn({}, {"/a": b"2"}, late=told.append)
        assert not told
        single.resume("EX01")
        end = time.monotonic() + LATE
        while not told and time.monotonic() < end:
            await asyncio.sleep(0.01)
        assert [one.succeeded for one in told] == [True]
        found = await directory.get("/a")
        assert found is not None and (found.value, found.revision) == (b"2", told[0].revision)
    finally:
        single.resume("EX01")
        await directory.close()


@pytest.mark.fault
async def test_a_frozen_member_leaves_the_outcome_unknown_and_another_is_asked_next(members: Members) -> None:
    members.found("EX01", "EX02", "W")
    lone = members.directory("EX02")  # its connection is open and used last, however slow this machine is
    directory = members.directory("EX02", "EX01", "W")
    try:
        first = await settled(lone, "/a", b"1")
        members.freeze("EX02")
        with pytest.raises(OutcomeUnknown):
            await lone.txn({"/a": first}, {"/a": b"2"})
        end = time.monotonic() + 20
        while True:  # the same compare-and-swap, until it is answered
            try:
                result = await directory.txn({"/a": first}, {"/a": b"2"}, read_on_failure=("/a",), attempt=1.0)
                break
            except (OutcomeUnknown, Unavailable):
                assert time.monotonic() < end
        found = result.current.get("/a")
        assert result.succeeded or (found is not None and found.value == b"2")
        assert await directory.get("/a") is not None
    finally:
        members.resume("EX02")
        await lone.close()
        await directory.close()


async def test_a_request_that_is_refused_is_not_unknown(single: Members) -> None:
    directory = single.directory("EX01")
    many: dict[str, bytes | None] = {f"/refused/{number}": b"" for number in range(1025)}
    with pytest.raises(Declined):
        await directory.txn({}, many, attempt=5.0)
    with pytest.raises(Declined):
        await directory.txn({}, {"/refused/large": b"x" * 2_000_000}, attempt=5.0)
    assert (await directory.list("/refused/"))[0] == []
    await directory.close()


async def test_a_large_list_is_of_one_revision(single: Members) -> None:
    directory = single.directory("EX01")
    count = 4500
    for start in range(0, count, 900):
        await directory.txn(
            {}, {f"/many/{number:05d}": b"v" * 300 for number in range(start, start + 900)}, attempt=10.0
        )

    async def change() -> None:
        for number in range(30):
            await directory.txn({}, {"/many/99999": str(number).encode()}, attempt=5.0)

    changing = asyncio.create_task(change())
    entries, revision = await directory.list("/many/")
    await changing
    keys = [entry.key for entry in entries if entry.key != "/many/99999"]
    assert len(keys) == count and keys == sorted(keys)
    assert max(entry.revision for entry in entries) <= revision
    await directory.txn({}, {"/many/99999": None}, attempt=5.0)
    await directory.close()


async def test_another_cluster_is_not_believed(single: Members, members: Members) -> None:
    members.tls_dir, members.authority = single.tls_dir, single.authority
    for name, spec in list(members.specs.items()):
        members.specs[name] = msgspec.structs.replace(spec, tls_dir=str(single.tls_dir))
    members.found("EX01")
    stranger = members.directory("EX01")
    await members.leader(stranger)
    for _ in range(15):  # until its first entry is on disk it answers nothing, so nobody can tell whose it is
        with contextlib.suppress(Unavailable):
            await stranger.get("/a")
            break
    await stranger.close()
    directory = single.directory("EX01")
    await directory.get("/a")
    assert directory.cluster_id is not None
    directory.set_endpoints([members.url("EX01")])
    with pytest.raises(WrongCluster):
        await directory.get("/a")
    with pytest.raises(WrongCluster):
        await directory.txn({}, {"/a": b"1"}, attempt=5.0)
    directory.set_endpoints([members.url("EX01"), single.url("EX01")])
    assert await directory.get("/none") is None  # the other member is asked
    await directory.close()


async def test_without_our_certificate_nothing_is_answered(single: Members) -> None:
    stranger = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    stranger.load_verify_locations(single.tls_dir / "ca.crt")
    directory = single.directory("EX01", context=stranger)
    with pytest.raises(Unavailable):
        await directory.get("/a")
    await directory.close()


async def test_a_watch_survives_compaction(single: Members) -> None:
    directory = single.directory("EX01")
    seen: asyncio.Queue[Event] = asyncio.Queue()
    await settled(directory, "/compact/a", b"0")
    events = directory._events("/compact/", 1)  # a stream that begins in what is compacted away
    last = 0
    for number in range(10):
        last = await settled(directory, "/compact/a", str(number).encode())
    await directory.call("/v3/kv/compaction", {"revision": str(last), "physical": True})
    with pytest.raises(Declined):
        async for _ in events:
            pass
    watching = asyncio.create_task(follow(directory, "/compact/", seen))
    event = await until(EventKind.PUT, "/compact/a", seen)
    assert event.entry.value == b"9"
    watching.cancel()
    await directory.close()


async def test_a_watch_is_listed_again_even_when_quiet(single: Members) -> None:
    directory = single.directory("EX01")
    directory.relist = 0.5
    seen: asyncio.Queue[Event] = asyncio.Queue()
    revision = await settled(directory, "/quiet/a", b"1")
    watching = asyncio.create_task(follow(directory, "/quiet/", seen))
    for _ in range(3):
        await until(EventKind.RESET, "/quiet/", seen)
        assert (await until(EventKind.PUT, "/quiet/a", seen)).entry.revision == revision
        await until(EventKind.SYNCED, "/quiet/", seen)
    watching.cancel()
    await directory.close()


@pytest.mark.fault
@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL])
async def test_a_watch_leaves_a_member_that_is_frozen_or_dead(members: Members, how: signal.Signals) -> None:
    members.found("EX01", "EX02", "W")
    directory, other = members.directory("EX01", "EX02", "W"), members.directory("EX02", "W")
    seen: asyncio.Queue[Event] = asyncio.Queue()
    watching = asyncio.create_task(follow(directory, "/watched/", seen))
    try:
        await until(EventKind.SYNCED, "/watched/", seen)
        await settled(other, "/watched/a", b"1")
        await until(EventKind.PUT, "/watched/a", seen)
        began = time.monotonic()
        members.signal("EX01", how)
        revision = await settled(other, "/watched/a", b"2")
        while (await until(EventKind.PUT, "/watched/a", seen)).entry.revision != revision:
            pass
        print(f"{how.name}: seen elsewhere after {time.monotonic() - began:.2f} s")
    finally:
        members.resume("EX01")
        watching.cancel()
        await asyncio.gather(directory.close(), other.close())


@pytest.mark.fault
async def test_a_minority_does_not_answer_and_its_watch_ends(members: Members) -> None:
    members.found("EX01", "EX02", "W")
    directory = members.directory("EX01")
    seen: asyncio.Queue[Event] = asyncio.Queue()
    watching = asyncio.create_task(follow(directory, "/minority/", seen))
    try:
        await settled(directory, "/minority/a", b"1")
        await until(EventKind.PUT, "/minority/a", seen)
        members.freeze("EX02")
        members.freeze("W")
        await asyncio.sleep(0.5)
        with pytest.raises(Unavailable):
            await directory.get("/minority/a")
        with pytest.raises((OutcomeUnknown, Unavailable)):
            await directory.txn({}, {"/minority/a": b"2"})
        members.resume("EX02")
        members.resume("W")
        await until(EventKind.RESET, "/minority/", seen)
        assert await settled(directory, "/minority/b", b"3")
        await until(EventKind.PUT, "/minority/b", seen)
    finally:
        members.resume("EX02")
        members.resume("W")
        watching.cancel()
        await directory.close()


def test_the_preferred_member_is_asked_first_and_who_failed_last() -> None:
    gateway = Gateway(["a", "b", "c"], None, None)
    assert gateway.choose() == "a"
    gateway.failed("a")
    assert gateway.choose() == "b"
    gateway.failed("b")
    gateway.failed("c")
    assert gateway.choose() == "a"  # its failure is longest ago
    gateway.failed("a")
    assert gateway.choose() == "b"
    gateway.worked("c")
    assert gateway.choose() == "c"
    gateway.set_endpoints([])
    assert list(gateway.endpoints) == ["a", "b", "c"]
    gateway.set_endpoints(["d", "a", "d"])
    assert list(gateway.endpoints) == ["d", "a"]


def test_events_that_come_again_or_go_back_in_time_are_left_out() -> None:
    order = _Order(10)
    told = [("a", 9), ("a", 10), ("a", 11), ("b", 11), ("a", 11), ("a", 12), ("b", 11), ("b", 13)]
    kept = [one for one in told if order.new(Entry(one[0], b"", one[1]))]
    assert kept == [("a", 11), ("b", 11), ("a", 12), ("b", 13)]


def test_keys_are_bytes_for_the_gateway() -> None:
    assert _b64("/ä") == "L8Ok"
