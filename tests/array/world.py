"""Two servers, a client access array and a directory in one process, in simulated time, under one seed: the real
keepers on a fake network whose kernel ends an address's life by itself."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

from everpost.array import hold
from everpost.array.link import Address
from everpost.array.service import Equipment, Keeper
from everpost.array.surroundings import Surroundings
from everpost.directory import keys
from everpost.directory.cache import DirectoryCache
from everpost.directory.interface import Entry, Event, TxnResult
from everpost.directory.memory import MemoryDirectory
from everpost.directory.schema import OrganizationView, decode, encode
from everpost.errors import EverpostError
from everpost.model.array import ClientAccessArray, HolderRecord, MoveOrder
from everpost.model.server import Role, Server
from everpost.model.tenure import FencingRecord, TenureState, Timing
from tests.directory.world import DriftingClock, Line

ARRAY = ClientAccessArray(name="A", fqdn="a.contoso.com", site="S", ip="10.77.0.50")
HOSTS = ("EX01", "EX02")
LATE = 0.55
"""Seconds by which the kernel ends a life late, each time."""


def now() -> float:
    return asyncio.get_running_loop().time()


class Network:
    """Who has the address, by the kernels of all hosts."""

    def __init__(self) -> None:
        self.until: dict[str, float] = {}
        self.violations: list[str] = []
        self.holders: list[str] = []

    def put(self, host: str, seconds: int) -> None:
        for other, until in self.until.items():
            if other != host and until > now() + 1e-9:
                self.violations.append(f"{now():.3f}: {host} adds the address, {other} has it until {until:.3f}")
        if self.until.get(host, 0.0) <= now():
            self.holders.append(host)
        self.until[host] = now() + seconds + LATE

    def remove(self, host: str) -> None:
        self.until[host] = 0.0


class Frozen:
    """When a host's process stands still."""

    def __init__(self) -> None:
        self.until = 0.0

    async def thaw(self) -> None:
        while (left := self.until - now()) > 0:
            await asyncio.sleep(left)


class HostClock(DriftingClock):
    def __init__(self, start: float, rate: float, frozen: Frozen) -> None:
        super().__init__(start, rate)
        self._frozen = frozen

    async def sleep(self, seconds: float) -> None:
        await super().sleep(seconds)
        await self._frozen.thaw()


class HostLine(Line):
    """What a frozen process sent arrives; it sees the answer when it is awake again."""

    def __init__(self, directory: MemoryDirectory, chance: random.Random, frozen: Frozen) -> None:
        super().__init__(directory, chance)
        self._frozen = frozen

    async def txn(self, guards: Mapping[str, int], puts: Mapping[str, bytes | None], **rest: Any) -> TxnResult:
        try:
            return await super().txn(guards, puts, **rest)
        finally:
            await self._frozen.thaw()

    async def watch(self, prefix: str) -> AsyncIterator[Event]:
        async for event in super().watch(prefix):
            await self._frozen.thaw()
            yield event


class FakeLinks:
    def __init__(self, host: str, network: Network) -> None:
        self._host, self._network = host, network

    def put(self, address: Address, index: int, seconds: int) -> None:
        self._network.put(self._host, seconds)

    def remove(self, address: Address, index: int) -> bool:
        self._network.remove(self._host)
        return True

    def link_of(self, address: Address) -> int | None:
        return 1

    def close(self) -> None:
        pass


class FakeAnnouncer:
    def __init__(self, clock: HostClock) -> None:
        self._clock = clock

    def announce(self, address: Address) -> None:
        pass

    async def conflict(self, address: Address, seconds: float, probes: int = 1) -> str | None:
        await self._clock.sleep(seconds)
        return None  # never a help: what is tested must hold without it


class FakeBalancer:
    running = True
    socket = Path("/run/haproxy.sock")

    def configure(self, text: str) -> None:
        pass

    async def run(self) -> None:
        await asyncio.Event().wait()

    def reset(self) -> None:
        pass

    async def reset_and_wait(self) -> None:
        pass

    async def services(self) -> dict[str, tuple[str, int, int]]:
        return {"imap/EX01": ("UP", 0, 0)}


class Host:
    """A server's process: its clock, its line to the directory, what it knows of the organisation. `page` is the
    deadline and the epoch of the server's tenure."""

    def __init__(self, name: str, directory: MemoryDirectory, chance: random.Random, timing: Timing) -> None:
        self.frozen = Frozen()
        self.line = HostLine(directory, chance, self.frozen)
        self.clock = HostClock(chance.uniform(1, 1e6), chance.uniform(1 - timing.drift, 1 + timing.drift), self.frozen)
        self.organization = OrganizationView()
        self.page = [self.clock.boottime() + 1e9, 1.0]
        self.cache = DirectoryCache(self.line, keys.ROOT, on_change=self._on_change)
        self.changed: Callable[[str, Entry | None], None] = lambda key, entry: None
        """Told of every change, once somebody wants to be."""
        self.around = Surroundings(
            me=name,
            instance=f"one life of {name}",
            directory=self.line,
            clock=self.clock,
            organization=self.organization,
            timing=timing,
            entry=self.cache.get,
            learn=self.cache.learn,
            page=lambda: (self.page[0], int(self.page[1])),
        )

    def _on_change(self, key: str, entry: Entry | None) -> None:
        self.organization.apply(key, entry)
        self.changed(key, entry)


class World:
    """Both hosts keep the array as well as their lines allow. In `run`, frozen processes, lapsing and taken server
    tenures, bad lines and orders to move come as the seed has it."""

    def __init__(self, seed: int, timing: Timing, folder: Path) -> None:
        self._chance = random.Random(seed)
        self._timing = timing
        self._folder = folder
        self.network = Network()
        self.directory = MemoryDirectory()
        self.hosts: dict[str, Host] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._keepers: list[Keeper] = []

    async def run(self, seconds: float) -> None:
        await self.start()
        for name in HOSTS:
            self._tasks.append(asyncio.create_task(self._trouble(name)))
        self._tasks.append(asyncio.create_task(self._orders()))
        await asyncio.sleep(seconds)
        for keeper in self._keepers:
            error = keeper.failed()
            assert error is None, error
        for task in self._tasks:
            assert not task.done(), task.exception()

    async def start(self) -> None:
        """Both hosts keep the array, over lines that lose nothing."""
        await self._documents()
        for name in HOSTS:
            self.hosts[name] = Host(name, self.directory, self._chance, self._timing)
            await self._keep(self.hosts[name])

    async def _keep(self, host: Host) -> None:
        host.line.bad = 0.0
        self._tasks.append(asyncio.create_task(host.cache.run()))
        await host.cache.wait_synced()
        equipment = Equipment(
            folder=self._folder,
            links=lambda: FakeLinks(host.around.me, self.network),  # type: ignore[arg-type, return-value]
            announcer=lambda index: FakeAnnouncer(host.clock),  # type: ignore[arg-type, return-value]
            balancer=lambda folder: FakeBalancer(),  # type: ignore[arg-type, return-value]
        )
        keeper = Keeper("A", host.around, equipment)
        self._keepers.append(keeper)
        host.changed = keeper.changed
        for entry in host.cache.list(keys.ROOT):
            keeper.changed(entry.key, entry)
        keeper.start()

    async def _documents(self) -> None:
        puts: dict[str, bytes | None] = {keys.client_access_array("A"): encode(ARRAY)}
        for number, name in enumerate(HOSTS):
            server = Server(
                name=name,
                address=f"10.77.0.1{number}",
                replication_address=f"10.78.0.1{number}",
                roles=(Role.CLIENT_ACCESS,),
                site="S",
            )
            puts[keys.server(name)] = encode(server)
            puts[keys.fence(name)] = encode(self._fence(name, 1, TenureState.UP))
        await self.directory.txn({}, puts)

    @staticmethod
    def _fence(name: str, epoch: int, state: TenureState) -> FencingRecord:
        return FencingRecord(server=name, instance="w", epoch=epoch, state=state)

    async def _trouble(self, name: str) -> None:
        host = self.hosts[name]
        while True:
            host.line.bad = self._chance.choice((0.02, 0.05, 0.4, 0.97))
            await asyncio.sleep(self._chance.uniform(0.5, 6.0))
            what = self._chance.random()
            if what < 0.3:
                host.frozen.until = now() + self._chance.uniform(0.1, 6.0)
            elif what < 0.5:
                await self._lose_server_tenure(name, host)

    async def _lose_server_tenure(self, name: str, host: Host) -> None:
        """As an agent that was silent: the page runs out, the fence is taken TAKE after the last renewal, and later a
        new tenure begins."""
        host.page[0] = host.clock.boottime() + self._timing.hold
        await asyncio.sleep(self._timing.take * 1.01)
        key = keys.fence(name)
        entry = await self.directory.get(key)
        assert entry is not None
        epoch = decode(FencingRecord, entry.value).epoch
        await self.directory.txn({}, {key: encode(self._fence(name, epoch + 1, TenureState.TAKEN))})
        await asyncio.sleep(self._chance.uniform(0.0, 1.0))
        await self.directory.txn({}, {key: encode(self._fence(name, epoch + 2, TenureState.UP))})
        host.page[1] = epoch + 2
        host.page[0] = host.clock.boottime() + 1e9

    async def _orders(self) -> None:
        while True:
            await asyncio.sleep(self._chance.uniform(3.0, 20.0))
            entry = await self.directory.get(keys.array_holder("A"))
            if entry is not None:
                record = decode(HolderRecord, entry.value)
                order = MoveOrder(target=self._chance.choice(HOSTS), epoch=record.epoch)
                try:
                    await self.directory.txn({}, {keys.array_order("A"): encode(order)})
                except EverpostError:
                    continue


assert hold.ROUNDING >= LATE
