"""The bit at work: who is asked, what is written before it is set, and that no peer's silence delays a clear answer."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec

from everpost.activemanager.coordination import Coordination
from everpost.activemanager.dac import Remembered
from everpost.clock import SystemClock
from everpost.directory import keys
from everpost.directory.memory import MemoryDirectory
from everpost.directory.schema import GenerationDocument, encode
from everpost.errors import Unavailable
from everpost.model.server import DatabaseAvailabilityGroup, Role, Server


class Clustered(MemoryDirectory):
    cluster_id: str | None = "c1"


class Peers:
    """Answers as told; None never answers."""

    def __init__(self, bits: dict[str, bool | None], boot: str = "") -> None:
        self.bits = bits
        self.boot = boot

    async def call(
        self, server: str, method: str, path: str, json: Any = None, *, timeout: float = 2.0
    ) -> dict[str, Any]:
        if path == "/v1/ping" and self.boot:
            return {"server": server, "boot_id": self.boot}
        if path == "/v1/dac" and self.bits.get(server) is not None:
            return {"server": server, "bit": self.bits[server], "generation": 1, "cluster": "c1"}
        await asyncio.sleep(timeout)
        raise Unavailable("silent")


async def coordination(path: Path, peers: Peers, members: tuple[str, ...], *, unbroken: bool = False) -> Coordination:
    directory = Clustered()
    dag = DatabaseAvailabilityGroup(name="DAG1", members=members, witness_server="WIT")
    documents = {
        keys.GENERATION: encode(GenerationDocument(generation=1, identity="x")),
        keys.dag("DAG1"): encode(dag),
    }
    await directory.txn({}, documents)
    servers = {
        name: Server(name=name, address="::1", replication_address="::1", roles=(Role.MAILBOX,))
        for name in (*members, "WIT")
    }

    async def was_unbroken() -> bool:
        return unbroken

    return Coordination(
        "MBX1",
        directory=directory,
        servers=lambda: servers,
        agents=peers,
        clock=SystemClock(),
        path=path,
        unbroken=was_unbroken,
    )


async def allowed_within(found: Coordination, seconds: float) -> bool:
    task = asyncio.create_task(found.wait_allowed())
    await asyncio.wait({task}, timeout=seconds)
    task.cancel()
    return found.bit


async def test_one_peer_that_may_mount_is_enough_at_once(tmp_path: Path) -> None:
    """The silent one would take half a second."""
    found = await coordination(tmp_path / "dac", Peers({"MBX2": None, "MBX3": True}), ("MBX1", "MBX2", "MBX3"))
    assert await allowed_within(found, 0.3)
    assert msgspec.json.decode((tmp_path / "dac").read_bytes(), type=Remembered).generation == 1


async def test_T_DAC_1_waits_and_goes_on_when_a_peer_comes(tmp_path: Path) -> None:
    peers = Peers({"MBX2": False, "MBX3": None, "MBX4": None}, boot="boot-1")
    found = await coordination(tmp_path / "dac", peers, ("MBX1", "MBX2", "MBX3", "MBX4"))
    assert not await allowed_within(found, 1.5)
    assert "MBX3" in found.reason and not (tmp_path / "dac").exists()
    peers.bits["MBX4"] = True
    assert await allowed_within(found, 1.5)


async def test_T_DAC_4_and_5_two_members_compare_boots_of_the_witness(tmp_path: Path) -> None:
    path = tmp_path / "dac"
    peers = Peers({"MBX2": True}, boot="boot-1")
    assert await allowed_within(await coordination(path, peers, ("MBX1", "MBX2")), 1.0)
    peers.bits["MBX2"] = None
    assert await allowed_within(await coordination(path, peers, ("MBX1", "MBX2")), 1.5)
    peers.boot = "boot-2"
    assert not await allowed_within(await coordination(path, peers, ("MBX1", "MBX2")), 1.5)


async def test_an_agent_whose_tenure_never_ended_asks_nobody(tmp_path: Path) -> None:
    found = await coordination(tmp_path / "dac", Peers({}), ("MBX1", "MBX2", "MBX3"), unbroken=True)
    assert await allowed_within(found, 0.3)


async def test_a_damaged_file_counts_as_nothing_remembered(tmp_path: Path) -> None:
    (tmp_path / "dac").write_text("{")
    found = await coordination(tmp_path / "dac", Peers({}, boot="boot-1"), ("MBX1", "MBX2"))
    assert not await allowed_within(found, 1.0)
