"""The directory grows from one voter to three and shrinks again, on real members, while it is written to."""

from __future__ import annotations

import asyncio
import time

import pytest

from everpost.directory.membership import JoinCluster
from everpost.errors import EverpostError, Unavailable
from tests.directory.members import Members


@pytest.mark.fault
async def test_one_voter_becomes_three_and_one_again_while_it_is_written_to(members: Members) -> None:
    members.found("EX01")
    directory = members.directory("EX01")
    membership = members.membership(directory)
    longest = 0.0
    writing = True

    async def write() -> int:
        nonlocal longest
        number, last = 0, time.monotonic()
        while writing:
            try:
                await directory.txn({}, {"/written": str(number).encode()})
            except EverpostError:
                pass
            else:
                longest, last = max(longest, time.monotonic() - last), time.monotonic()
                number += 1
            await asyncio.sleep(0.02)
        return number

    writer = asyncio.create_task(write())
    try:
        assert [member.name for member in await membership.members()] == ["EX01"]
        began = time.monotonic()
        await membership.grow([members.voter("EX02"), members.voter("W")], members.start_joining)
        print(f"one voter to three in {time.monotonic() - began:.1f} s, longest pause of writes {longest:.2f} s")
        found = await membership.members()
        assert sorted(member.name for member in found) == ["EX01", "EX02", "W"]
        assert not any(member.learner for member in found)
        own = members.url("EX02")
        assert next(iter(await membership.endpoints(own))) == own
        await membership.grow([members.voter("EX02")], members.start_joining)  # again: nothing to do

        directory.set_endpoints(await membership.endpoints(members.url("EX01")))
        await membership.remove(members.specs["W"].peer_url)
        await membership.remove(members.specs["W"].peer_url)
        assert await asyncio.to_thread(members.processes["W"].wait, 30) == 0, "a removed member ends with 0"
        await membership.remove(members.specs["EX02"].peer_url)
        assert [member.name for member in await membership.members()] == ["EX01"]
        before = (await directory.get("/written")) or None
        assert before is not None
    finally:
        writing = False
        count = await writer
        await directory.close()
    assert count > 0


@pytest.mark.fault
async def test_a_learner_that_never_started_is_not_promoted(members: Members, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("everpost.directory.membership.ADD_LIMIT", 2.0)
    members.found("EX01")
    directory = members.directory("EX01")
    membership = members.membership(directory)
    told: list[JoinCluster] = []

    async def forget(name: str, join: JoinCluster) -> None:
        told.append(join)

    voter = members.voter("EX02")
    try:
        with pytest.raises(Unavailable):
            await membership.add(voter.name, voter.peer_url, voter.client_url, forget)
        assert ("EX02", voter.peer_url) in told[0].initial_cluster  # in no order: etcd sorts by random identity
        assert [member.learner for member in await membership.members() if member.peer_url == voter.peer_url] == [True]
        assert (await directory.txn({}, {"/a": b"1"}, attempt=5.0)).succeeded  # and writes go on
        monkeypatch.setattr("everpost.directory.membership.ADD_LIMIT", 40.0)
        await membership.add(voter.name, voter.peer_url, voter.client_url, members.start_joining)
        assert not any(member.learner for member in await membership.members())
    finally:
        await directory.close()


@pytest.mark.fault
async def test_a_learner_that_stopped_is_not_promoted(members: Members, monkeypatch: pytest.MonkeyPatch) -> None:
    """With two voters of which one does not run, no write would be possible."""
    monkeypatch.setattr("everpost.directory.membership.ADD_LIMIT", 4.0)
    members.found("EX01")
    directory = members.directory("EX01")
    membership = members.membership(directory)
    voter = members.voter("EX02")

    async def start_and_freeze(name: str, join: JoinCluster) -> None:
        await members.start_joining(name, join)
        async with asyncio.timeout(20):
            while not any(member.name == name for member in await membership.members()):
                await asyncio.sleep(0.02)
        members.freeze(name)

    try:
        with pytest.raises(Unavailable):
            await membership.add(voter.name, voter.peer_url, voter.client_url, start_and_freeze)
        assert [member.learner for member in await membership.members() if member.name == "EX02"] == [True]
        assert (await directory.txn({}, {"/a": b"1"}, attempt=5.0)).succeeded
        members.resume("EX02")
        await membership.add(voter.name, voter.peer_url, voter.client_url, members.start_joining)
        assert not any(member.learner for member in await membership.members())
    finally:
        await directory.close()
