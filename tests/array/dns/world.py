"""Two servers that may update, a directory and a DNS server in one process, in simulated time, under one seed: the real
updaters over bad lines, with frozen processes and servers that die and come back."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection
from pathlib import Path
from typing import Any

from everpost.array.dns.client import DnsTrouble, Outdated, Taken
from everpost.array.dns.plan import Change, Seen
from everpost.array.dns.records import RecordSet
from everpost.array.dns.service import Updater
from everpost.clock import Clock
from everpost.directory import keys
from everpost.directory.memory import MemoryDirectory
from everpost.directory.schema import GenerationDocument, OrganizationDocument, encode
from everpost.model.array import ClientAccessArray
from everpost.model.dns import DnsMode, DnsZone
from everpost.model.server import Role, Server
from everpost.model.tenure import FencingRecord, TenureState, Timing
from tests.array.dns.servers import KEY
from tests.array.world import Frozen, Host, HostLine

NAME = "a.contoso.com"
HOSTS = {"EX01": "192.0.2.11", "EX02": "192.0.2.12"}
THEIRS = "_imaps._tcp.contoso.com"
_NOTHING = Seen(None, frozenset())


class FakeZone:
    """What `Change` says, on a dictionary. `marks_count` False: the sabotage of a server without conditions."""

    def __init__(self) -> None:
        self.names: dict[str, Seen] = {
            THEIRS: Seen(None, frozenset({RecordSet(THEIRS, "SRV", 300, ("5 1 993 other.contoso.com.",))}))
        }
        self.violations: list[str] = []
        self.marks_count = True
        self.silent = False
        self.updates = 0
        self._highest: dict[str, tuple[int, int]] = {}

    def update(self, change: Change, sent_under: tuple[int, int]) -> None:
        seen = self.names.get(change.name, _NOTHING)
        if self.marks_count and change.mark != seen.mark:
            raise Taken("") if change.mark is None else Outdated("")
        kinds = {one.kind for one in seen.records}
        if (None in change.absent and kinds) or kinds & set(change.absent):
            raise Taken("")
        self.updates += 1
        if sent_under < self._highest.get(change.name, (0, 0)):
            self.violations.append(f"{change.name} changed under {sent_under} after {self._highest[change.name]}")
        self._highest[change.name] = max(sent_under, self._highest.get(change.name, (0, 0)))
        kept = frozenset(one for one in seen.records if one.kind not in change.kinds)
        self.names[change.name] = Seen(change.new_mark, kept | frozenset(change.records))
        if change.name == NAME and not change.records:
            self.violations.append(f"{NAME} resolves to nothing")


class FakeClient:
    """The line to the server: slow, and what is lost may have happened, at once or later."""

    def __init__(self, zone: FakeZone, chance: random.Random, frozen: Frozen, bad: list[float]) -> None:
        self._zone, self._chance, self._frozen, self._bad = zone, chance, frozen, bad

    async def see(self, name: str, kinds: tuple[str, ...]) -> Seen:
        await self._travel()
        seen = self._zone.names.get(name, _NOTHING)
        await self._travel()
        return Seen(seen.mark, frozenset(one for one in seen.records if one.kind in kinds))

    async def update(self, change: Change) -> None:
        assert change.new_mark is not None, "nothing is removed in this world"
        token = change.new_mark.token
        if self._chance.random() < self._bad[0] / 2:
            later = self._chance.uniform(0.0, 10.0)
            asyncio.get_running_loop().call_later(later, self._late, change, token)
            await self._lost()
        await self._travel()
        self._zone.update(change, token)
        await self._travel()

    def _late(self, change: Change, token: tuple[int, int]) -> None:
        try:
            self._zone.update(change, token)
        except (Taken, Outdated):
            pass

    async def _travel(self) -> None:
        await asyncio.sleep(self._chance.uniform(0.001, 0.05))
        await self._frozen.thaw()
        if self._zone.silent or self._chance.random() < self._bad[0]:
            await self._lost()

    async def _lost(self) -> None:
        await asyncio.sleep(2.0)
        await self._frozen.thaw()
        raise DnsTrouble("no answer", retry=True)


class FakeProbe:
    def __init__(self, server: Server, dead: dict[str, str]) -> None:
        self.server = server
        self._dead = dead

    @property
    def dead(self) -> str:
        return self._dead[self.server.name]

    async def run(self) -> None:
        await asyncio.Event().wait()


class World:
    """`calm` ends all trouble. `able`: the hosts that have the TSIG key."""

    def __init__(self, seed: int, folder: Path, able: Collection[str] = HOSTS) -> None:
        self._able = able
        self._chance = random.Random(seed)
        self._folder = folder
        self._directory = MemoryDirectory()
        self._tasks: list[asyncio.Task[Any]] = []
        self._wild: list[asyncio.Task[None]] = []
        self._lines: list[tuple[HostLine, Frozen, list[float]]] = []
        self.zone = FakeZone()
        self.dead = dict.fromkeys(HOSTS, "")
        self.updaters: list[Updater] = []
        (folder / "dns.key").write_text(KEY)
        (folder / "dns.key").chmod(0o600)

    async def start(self) -> None:
        array = ClientAccessArray(name="A", fqdn=NAME, site="S", dns_mode=DnsMode.ROUND_ROBIN)
        puts: dict[str, bytes | None] = {
            keys.client_access_array("A"): encode(array),
            keys.ORGANIZATION: encode(OrganizationDocument(name="C", domain="contoso.com")),
            keys.GENERATION: encode(GenerationDocument(generation=1, identity="4711")),
            keys.dns_zone("contoso.com"): encode(DnsZone(zone="contoso.com", servers=("192.0.2.53",))),
        }
        for name, address in HOSTS.items():
            server = Server(name=name, address=address, replication_address="", roles=(Role.CLIENT_ACCESS,), site="S")
            puts[keys.server(name)] = encode(server)
            fence = FencingRecord(server=name, instance="w", epoch=1, state=TenureState.UP)
            puts[keys.fence(name)] = encode(fence)
        await self._directory.txn({}, puts)
        for name in HOSTS:
            await self._host(name)

    async def _host(self, name: str) -> None:
        host, bad = Host(name, self._directory, self._chance, Timing()), [0.0]
        host.line.bad = 0.0
        self._lines.append((host.line, host.frozen, bad))

        def client(server: str, zone: str, key: object) -> FakeClient:
            return FakeClient(self.zone, self._chance, host.frozen, bad)

        def probe(server: Server, _: Clock) -> FakeProbe:
            return FakeProbe(server, self.dead)

        updater = Updater(
            host.around,
            self._folder if name in self._able else self._folder / "no key here",
            probe=probe,  # type: ignore[arg-type]
            client=client,  # type: ignore[arg-type]
        )
        host.changed = updater.changed
        self.updaters.append(updater)
        self._tasks += [asyncio.create_task(host.cache.run()), asyncio.create_task(updater.run())]
        await host.cache.wait_synced()
        self._wild.append(asyncio.create_task(self._trouble(name, host.line, host.frozen, bad)))

    async def _trouble(self, name: str, line: HostLine, frozen: Frozen, bad: list[float]) -> None:
        while True:
            line.bad = self._chance.choice((0.0, 0.02, 0.4))
            bad[0] = self._chance.choice((0.0, 0.1, 0.5))
            await asyncio.sleep(self._chance.uniform(0.5, 8.0))
            what = self._chance.random()
            if what < 0.35:
                frozen.until = asyncio.get_running_loop().time() + self._chance.uniform(0.1, 8.0)
            elif what < 0.6:
                self.dead[name] = "" if self.dead[name] else "IMAP does not answer"

    async def calm(self) -> None:
        for task in self._wild:
            task.cancel()
        for line, frozen, bad in self._lines:
            line.bad, frozen.until, bad[0] = 0.0, 0.0, 0.0
        self.dead.update(dict.fromkeys(HOSTS, ""))

    def well(self) -> list[str]:
        """What is not as it should be."""
        found = list(self.zone.violations)
        for task in self._tasks:
            if task.done():
                found.append(f"ended: {task}")
        return found

    def published(self) -> tuple[str, ...]:
        return tuple(data for one in self.zone.names.get(NAME, _NOTHING).records for data in one.data)
