"""The synchronous set on real PostgreSQL: a stopped checkpointer (F1), a second walsender of one name (F8), a member
that is killed while commits wait, and the record that is written before any of them returns."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from pathlib import Path

from everpost.activemanager.record import Held, LocationWriter
from everpost.activemanager.synchronous import SetKeeper
from everpost.clock import SystemClock
from everpost.databases import config, processes
from everpost.databases.engine import PostgresEngine
from everpost.directory import keys
from everpost.directory.memory import MemoryDirectory
from everpost.directory.schema import decode, encode
from everpost.model.database import Location, LocationState, Member, Opening, Token
from tests.activemanager.fakes import FakePeers
from tests.databases.conftest import Host, hosts, not_root
from tests.databases.test_engine import first_active, seed, streaming, until, upstream

__all__ = ["hosts", "not_root"]

TOKEN = Token(1, 1)


class World:
    """A real active and its real standby, with the record in a directory of the test's own."""

    def __init__(self, hosts: list[Host]) -> None:
        self.hosts = hosts
        self.directory = MemoryDirectory()
        self.pages: list[bool] = []
        self.active: PostgresEngine
        self.passive: PostgresEngine
        self.keeper: SetKeeper
        self.peers: FakePeers

    async def build(self) -> None:
        self.active = await first_active(self.hosts[0])
        self.passive = self.hosts[1].engine()
        await seed(self.passive, upstream(self.hosts[0], 1))
        await self.passive.start(upstream(self.hosts[0], 1))
        await until(lambda: streaming(self.passive))
        self.peers = FakePeers({"EX02": self.passive.incarnation}, await self.active.openings())
        location = Location(
            database="MB01",
            active="EX01",
            token=TOKEN,
            state=LocationState.OPEN,
            eligible=(Member("EX01", self.active.incarnation),),
            openings=(Opening(TOKEN, "x", 2, 0, "n1"),),
        )
        result = await self.directory.txn({}, {keys.location("MB01"): encode(location)})
        self.keeper = SetKeeper(
            self.active,
            LocationWriter(self.directory, SystemClock(), dict),
            SystemClock(),
            self.peers,
            Held(location, result.revision),
            copies=lambda: ("EX01", "EX02"),
            publish=self.pages.append,
            move=self._move,
        )

    async def _move(self, target: str) -> None:
        raise AssertionError("nobody asked for a move")

    async def members(self) -> list[str]:
        entry = await self.directory.get(keys.location("MB01"))
        assert entry is not None
        return [member.server for member in decode(Location, entry.value).set]

    async def grown(self) -> None:
        async def tried() -> bool:
            await self.keeper.tick()
            return await self.members() == ["EX02"]

        await until(tried, 20.0)

    async def process(self, title: bytes) -> int:
        """A child of the active's postmaster by its title."""
        pid = (await self.hosts[0].client.children())["MB01"].pid
        for child in processes.children(pid):
            if title in Path(f"/proc/{child}/cmdline").read_bytes():
                return child
        raise AssertionError(f"no {title!r}")


async def test_a_grow_waits_for_the_checkpointer(hosts: list[Host]) -> None:
    world = World(hosts)
    await world.build()
    checkpointer = await world.process(b"checkpointer")
    os.kill(checkpointer, signal.SIGSTOP)
    try:
        for _ in range(3):
            await world.keeper.tick()
            await asyncio.sleep(0.1)
        assert await world.members() == []
        assert world.pages == []
    finally:
        os.kill(checkpointer, signal.SIGCONT)
    await world.grown()
    assert world.pages == [False]
    # From here on a commit really waits for the member.
    await world.passive.kill()
    probe = await world.active.probe()
    await asyncio.sleep(0.5)
    assert not probe.done
    probe.abandon()


async def test_a_second_walsender_of_the_name_is_shrunk_with_an_alarm(hosts: list[Host]) -> None:
    world = World(hosts)
    await world.build()
    await world.grown()
    name = world.keeper.names()[0]
    info = config.conninfo("127.0.0.1", hosts[0].port, tls=hosts[1].tls, application_name=name)
    folder = hosts[1].data / "stolen"
    folder.mkdir()
    thief = subprocess.Popen(
        ["/usr/lib/postgresql/15/bin/pg_receivewal", "-D", str(folder), "-d", info, "--synchronous"], cwd="/"
    )
    try:

        async def shrunk() -> bool:
            await world.keeper.tick()
            return await world.members() == []

        await until(shrunk, 20.0)
        assert "walsenders" in world.keeper.location.reason
        assert world.pages[-1] is True
    finally:
        thief.kill()
        thief.wait()


async def test_a_dead_member_is_shrunk_and_the_waiting_commit_returns_only_then(hosts: list[Host]) -> None:
    world = World(hosts)
    await world.build()
    await world.grown()
    await world.passive.kill()
    probe = await world.active.probe()
    end = time.monotonic() + 0.8
    while time.monotonic() < end:
        await world.keeper.tick()
        assert not probe.done
        await asyncio.sleep(0.1)
    assert await world.members() == ["EX02"]
    world.peers.gone = frozenset({"EX02"})

    async def returned() -> bool:
        await world.keeper.tick()
        if probe.done:
            assert await world.members() == []
        return probe.done

    await until(returned, 10.0)
    assert world.pages[-1] is True


async def test_on_an_idle_database_a_frozen_member_is_noticed(hosts: list[Host]) -> None:
    """No client writes: the keeper's own commit waits, so that `Resilience` does not speak of a copy that is none."""
    world = World(hosts)
    await world.build()
    await world.grown()
    pid = (await world.hosts[1].client.children())["MB01"].pid
    tree = processes.tree(pid)
    for one in tree:
        os.kill(one, signal.SIGSTOP)
    try:

        async def alone() -> bool:
            await world.keeper.tick()
            return await world.members() == []

        await until(alone, 15.0)
    finally:
        for one in tree:
            os.kill(one, signal.SIGCONT)
