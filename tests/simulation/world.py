"""A whole DAG under one seed: built, disturbed step by step, healed, and looked at."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import random
from collections.abc import Iterator
from typing import NamedTuple
from unittest import mock

from msgspec.structs import replace

from everpost.activemanager import activation, transitions
from everpost.directory import keys
from everpost.directory.schema import decode, encode
from everpost.model.database import CopySettings, CopyState, Location, LocationState, MailboxDatabase, Token
from everpost.model.server import DatabaseAvailabilityGroup, Role, Server
from everpost.model.tenure import PamRecord, Timing
from tests.simulation.clients import Clients
from tests.simulation.directory import Etcd
from tests.simulation.host import Host
from tests.simulation.loop import BusyForEver, SimulatedLoop
from tests.simulation.monitor import Monitor
from tests.simulation.nemesis import Nemesis
from tests.simulation.network import Network
from tests.simulation.postgres import Instance

DAG = "DAG"
LAG = 8.0
"""Simulated seconds by which the replay of a lagged copy stays behind."""
SETTLE = 30.0
"""Simulated seconds within which a new organisation is open."""
RECOVER = 120.0
"""Simulated seconds within which every database is open again, and every copy follows, once all faults ended."""


class Shape(NamedTuple):
    """How large the DAG is."""

    servers: int
    databases: int
    copies: int


class Setting(NamedTuple):
    """What the seed does not choose. `favour`: names of faults that are to strike more often;
    "administrator" makes them busy, "loss" lets them activate with loss, "past" at a point in time."""

    shape: Shape | None = None
    timing: Timing = Timing()
    favour: tuple[str, ...] = ()


class Report(NamedTuple):
    """One run. `steps` were taken, `seconds` simulated; `healed` seconds after the last fault all was well."""

    seed: int
    shape: Shape
    steps: int
    seconds: float
    healed: float
    violation: str | None
    trace: str
    counts: dict[str, int]
    callbacks: int
    lines: list[str]


def shape_of(seed: int) -> Shape:
    """Mostly small DAGs, where faults meet; one run in a hundred has 16 servers and 32 databases."""
    chance = random.Random(seed ^ 0x5EED)
    if seed % 100 == 99:
        return Shape(16, 32, 2)
    servers = chance.choices((2, 3, 4, 5, 8), (40, 35, 12, 8, 5))[0]
    databases = chance.randint(1, 2 if servers < 4 else servers)
    return Shape(servers, databases, chance.randint(2, min(servers, 3)))


class World:
    """Hosts, directory and network of one run."""

    def __init__(self, seed: int, setting: Setting) -> None:
        self.seed = seed
        self.shape = setting.shape or shape_of(seed)
        self.timing = setting.timing
        self.favour = setting.favour
        self.chance = random.Random(seed)
        self.loop = SimulatedLoop()
        self.over = False
        self.healing = False
        self.lossy = seed % 5 == 4 or "loss" in setting.favour
        """Whether administrators activate with loss in this run."""
        self.past = self.shape.copies >= 3 and (seed % 5 == 3 or "past" in setting.favour)
        """Whether the last copy of each database lags, and administrators open it as it was at a point in time."""
        self.batch = {2: 0.001, 3: 0.001, 4: 0.005, 5: 0.01, 8: 0.02}.get(self.shape.servers, 0.08)
        self.bad_lines: dict[str, float] = {}
        self.network = Network(self.loop, self.chance)
        self.monitor = Monitor(self)
        self.etcd = Etcd(self.network)
        self.etcd.on_change = self.monitor.on_change
        self.numbers: dict[str, int] = {}
        self.hosts = {name: Host(self, name, self.chance) for name in self._names()}
        self.nemesis = Nemesis(self)
        self.clients = Clients(self)
        self._organise()

    def _names(self) -> list[str]:
        return [f"EX{number:02}" for number in range(1, self.shape.servers + 1)]

    def _organise(self) -> None:
        names = self._names()
        puts: dict[str, bytes | None] = {}
        for number, name in enumerate(names, 1):
            address = f"10.0.0.{number}"
            puts[keys.server(name)] = encode(
                Server(name=name, address=address, replication_address=address, roles=(Role.MAILBOX,))
            )
        puts[keys.dag(DAG)] = encode(DatabaseAvailabilityGroup(name=DAG, members=tuple(names)))
        for number in range(self.shape.databases):
            name = f"MB{number + 1:02}"
            self.numbers[name] = number
            servers = tuple(names[(number + place) % len(names)] for place in range(self.shape.copies))
            row = MailboxDatabase(name=name, guid=name, number=number, servers=servers, dag=DAG)
            if self.past:
                row = row.with_copy(servers[-1], CopySettings(replay_lag=LAG))
            puts[keys.database(name)] = encode(row)
            location = Location(
                database=name,
                active=servers[0],
                token=Token(1, 0),
                state=LocationState.CLOSED,
                target=servers[0],
                reason="created",
            )
            puts[keys.location(name)] = encode(location)
        self.etcd.apply({}, puts)

    # -- what is true --------------------------------------------------------------------------------------------

    def instance(self, server: str, database: str) -> Instance | None:
        """The running postmaster of a copy."""
        host = self.hosts.get(server)
        return None if host is None else host.instance(database)

    def location(self, database: str) -> Location:
        """The record."""
        found = self.monitor.databases[database].location
        assert found is not None
        return found

    def database(self, name: str) -> MailboxDatabase:
        """Its settings."""
        entry = self.etcd.entry(keys.database(name))
        assert entry is not None
        return decode(MailboxDatabase, entry.value)

    def set_copy(self, database: MailboxDatabase, settings: CopySettings) -> None:
        """Change those of its last copy."""
        after = database.with_copy(database.servers[-1], settings)
        if self.etcd.quorum:
            self.monitor.note("administrator", f"{database.name} {database.servers[-1]} {settings.replay_to}")
            self.etcd.apply({}, {keys.database(database.name): encode(after)})

    def pam(self) -> str | None:
        """Who is PAM."""
        entry = self.etcd.entry(keys.pam(DAG))
        return None if entry is None else decode(PamRecord, entry.value).holder

    def set_bad_line(self, host: Host, share: float) -> None:
        """The line of a host to the directory."""
        self.bad_lines[host.name] = share
        if host.agent is not None:
            host.agent.line.bad = share

    # -- a run ---------------------------------------------------------------------------------------------------

    async def run(self, steps: int) -> tuple[int, float]:
        """Steps taken until the end or the first violation, and the seconds that healing took."""
        for host in self.hosts.values():
            host.start_agent()
        await self._until(self._all_open, SETTLE, "the new organisation is not open")
        taken = 0
        while taken < steps and self.monitor.violation is None:
            taken += 1
            self._step()
            await asyncio.sleep(self._pause())
            self.monitor.check()
        if self.monitor.violation is not None:
            return taken, 0.0
        return taken, await self._heal()

    def _pause(self) -> float:
        if self.chance.random() < 0.05:
            return self.chance.uniform(0.5, 3.0)
        return self.chance.expovariate(1 / 0.08)

    def _step(self) -> None:
        """One event: a client begins something (three of four), a fault, a command of an administrator, or a pause."""
        commands = 15 if "administrator" in self.favour else 3
        kind = self.chance.choices(("write", "read", "fault", "administrator", "time"), (52, 22, 14, commands, 9))[0]
        if kind in ("write", "read"):
            host = self.chance.choice(list(self.hosts.values()))
            database = self.chance.choice(list(self.numbers))
            (self.clients.write if kind == "write" else self.clients.read)(host, database)
        elif kind == "fault":
            self.nemesis.strike()
        elif kind == "administrator":
            self.nemesis.administer()

    async def _until(self, condition: object, limit: float, complaint: str) -> float:
        assert callable(condition)
        began = self.loop.now
        while (missing := condition()) and self.monitor.violation is None:
            if self.loop.now - began > limit:
                self.monitor.fault(f"{complaint} after {limit:.0f} s: {missing}")
                break
            await asyncio.sleep(0.1)
            self.monitor.check()
        return self.loop.now - began

    def _all_open(self) -> str:
        for name, number in self.numbers.items():
            location = self.location(name)
            if location.state is LocationState.DISMOUNTED and self.healing:
                mounted = transitions.mount_asked(location, reason="an administrator mounts it")
                self.nemesis.write(location, mounted)
            elif location.lossy and location.refused and self.healing:
                # The copy named for a loss cannot be opened; a complete one is there again (Mount-Database says so).
                complete = location.eligible[0].server
                after = transitions.begin_activation(location, complete, reason="the loss is taken back")
                self.nemesis.write(location, after)
            if location.state is not LocationState.OPEN:
                return f"{name} is {location.state} on {location.active} ({location.reason})"
            instance = self.instance(location.active, name)
            epoch, _ = self.hosts[location.active].page.database(number)
            if instance is None or not instance.admitted or epoch != location.token.epoch:
                return f"{name} is recorded as open on {location.active} and is not"
        return ""

    def _all_follow(self) -> str:
        """Every stopped sequence came to the same end: one active, and all others follow it with the same history."""
        if missing := self._all_open():
            return missing
        for name in self.numbers:
            location = self.location(name)
            active = self.instance(location.active, name)
            assert active is not None
            followers = {one.receiver.host.name for one in active.streams if one.streaming}
            for host in self.hosts.values():
                storage, instance = host.storages.get(name), host.instance(name)
                if storage is None or host.name == location.active:
                    continue
                if instance is not None and not instance.standby:
                    return f"{name} is a primary on {host.name} too"
                if self._quarantined(host, name):
                    continue
                if storage.spoilt or host.name not in followers:
                    return f"{host.name} does not follow {name} on {location.active}"
                shared = storage.wal[: storage.flushed]
                if any(ours is not theirs for ours, theirs in zip(shared, active.storage.wal, strict=False)):
                    return f"{host.name}'s copy of {name} is not the active's history"
        return ""

    def _quarantined(self, host: Host, database: str) -> bool:
        """The losing copy of an activation with loss is kept for a person (3.4)."""
        manager = host.agent.manager if host.agent is not None else None
        if not (self.lossy or self.past) or manager is None:
            return False
        rows = [row for row in manager.statuses() if row.database == database]
        return bool(rows) and rows[0].state is CopyState.FAILED_AND_SUSPENDED

    async def _heal(self) -> float:
        self.nemesis.heal()
        self.healing = True
        for name in self.numbers if self.past else ():
            found = self.database(name)
            self.set_copy(found, replace(found.copy(found.servers[-1]), suspended=False, replay_to=None))
        seconds = await self._until(self._all_follow, RECOVER, "not well")
        if self.monitor.violation is None:
            await self._acknowledge_everywhere()
        return seconds

    async def _acknowledge_everywhere(self) -> None:
        """Each database takes a change again."""
        before = {name: len(watched.acknowledged) for name, watched in self.monitor.databases.items()}

        def missing() -> str:
            left = [name for name, count in before.items() if len(self.monitor.databases[name].acknowledged) == count]
            for name in left:
                self.clients.write(self.hosts[self.location(name).active], name)
            return f"no change of {left[0]} is acknowledged" if left else ""

        await self._until(missing, SETTLE, "not well")


class _Unexpected(logging.Handler):
    """An error that production code caught only so that its loop survives is a fault all the same."""

    def __init__(self, monitor: Monitor) -> None:
        super().__init__(logging.ERROR)
        self._monitor = monitor

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info is not None and record.exc_info[1] is not None:
            self._monitor.fault(f"{record.getMessage()}: {record.exc_info[1]!r}")


@contextlib.contextmanager
def _quiet(world: World, verbose: bool) -> Iterator[None]:
    log = logging.getLogger("everpost")
    handler = _Unexpected(world.monitor)
    before = log.level, log.propagate
    log.addHandler(handler)
    log.propagate = verbose
    log.setLevel(logging.INFO if verbose else logging.ERROR)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.level, log.propagate = before
        log.setLevel(before[0])


def run(
    seed: int,
    steps: int,
    setting: Setting = Setting(),  # noqa: B008
    *,
    lines: bool = False,
    verbose: bool = False,
) -> Report:
    """One run under one seed; the same arguments give the same trace."""
    world = World(seed, setting)
    world.monitor.keep_lines = lines
    nonces = random.Random(seed + 1)
    collecting = gc.isenabled()
    gc.disable()
    asyncio.set_event_loop(world.loop)
    try:
        with (
            _quiet(world, verbose),
            mock.patch.object(activation.secrets, "token_hex", lambda count: f"{nonces.getrandbits(8 * count):x}"),
        ):
            try:
                taken, healed = world.loop.run_until_complete(world.run(steps))
            except BusyForEver as error:
                world.monitor.fault(str(error))
                taken, healed = 0, 0.0
            world.over = True
            seconds, callbacks = world.loop.now, world.loop.callbacks
            violation, trace = world.monitor.violation, world.monitor.trace.hexdigest()
            counts = dict(world.monitor.counts)
            world.loop.end()
    finally:
        asyncio.set_event_loop(None)
        if collecting:
            gc.enable()
        gc.collect()
    return Report(seed, world.shape, taken, seconds, healed, violation, trace, counts, callbacks, world.monitor.lines)
