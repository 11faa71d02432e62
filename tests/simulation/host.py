"""A host: its clock, disk and page, its warden, and the agent that a supervisor starts again."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from everpost.databases.warden_client import WardenError
from everpost.model.database import Token
from tests.simulation.loop import NOBODY, HostClock, Process, SimulatedLoop
from tests.simulation.network import Network, reset
from tests.simulation.postgres import Instance
from tests.simulation.storage import Storage

if TYPE_CHECKING:
    from tests.simulation.agent import SimulatedAgent
    from tests.simulation.world import World

QUIT = 0.2
"""Seconds after SIGQUIT until a postmaster that does not end gets SIGKILL."""
SUPERVISE = 0.3
"""Seconds until a program that ended is started again."""


class Page:
    """`directory.page.SharedPage` in memory."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.deadline = 0.0
        self.epoch = 0
        self.databases: dict[int, tuple[int, bool]] = {}

    def set_deadline(self, boottime: float, epoch: int) -> None:
        self.epoch, self.deadline = epoch, boottime

    def serving(self) -> bool:
        """By this host's clock, now."""
        return self._host.clock.boottime() < self.deadline

    def set_database(self, number: int, *, epoch: int, single: bool) -> None:
        self.databases[number] = (epoch, single)

    def database(self, number: int) -> tuple[int, bool]:
        return self.databases.get(number, (0, False))


class Warden:
    """Parent of the postmasters; kills the guarded ones at the deadline (3.8)."""

    def __init__(self, host: Host, identity: str) -> None:
        self._host = host
        self.identity = identity
        self.process = Process(host.loop, f"warden {host.name}")
        self.instances: dict[str, Instance] = {}
        self.boottime = 0.0
        self._watching = False

    def start(self, database: str, storage: Storage) -> Instance:
        """Start a postmaster, as a standby; it accepts connections when recovery is over."""
        if database in self.instances:
            raise WardenError(f"{database} runs already")
        instance = self.instances[database] = Instance(self._host, database, storage)
        instance.process.call_later(0.02 + 0.08 * self._host.chance.random(), instance.begin)
        return instance

    def guard(self, database: str, label: Token) -> None:
        """From now on it is killed at the deadline."""
        instance = self.instances.get(database)
        if instance is None:
            raise WardenError(f"{database} does not run")
        instance.label = label
        self._watch()

    def deadline(self, boottime: float) -> None:
        """Only ever forward."""
        self.boottime = max(self.boottime, boottime)

    def _watch(self) -> None:
        if not self._watching:
            self._watching = True
            left = self._host.clock.until(self.boottime)
            self.process.call_later(max(left, 0.0) + 0.0005, self._look)

    def _look(self) -> None:
        self._watching = False
        guarded = [name for name, one in self.instances.items() if one.label is not None]
        if self._host.clock.boottime() >= self.boottime:
            for name in guarded:
                self.kill(name)
        elif guarded:
            self._watch()

    def kill(self, database: str) -> float:
        """Fence; the seconds until nothing of it is left."""
        instance = self.instances.get(database)
        if instance is None:
            return 0.0
        seconds = QUIT if instance.process.frozen else 0.002 + 0.02 * self._host.chance.random()
        self.process.call_later(seconds, instance.die)
        return seconds + 0.001


class Host:
    """One server."""

    def __init__(self, world: World, name: str, chance: random.Random) -> None:
        self.world = world
        self.name = name
        self.chance = chance
        self.loop: SimulatedLoop = world.loop
        self.network: Network = world.network
        self.rate = chance.uniform(1 - world.timing.drift, 1 + world.timing.drift)
        self.clock = HostClock(self.loop, chance.uniform(5.0, 1e5), self.rate)
        self.page = Page(self)
        self.up = True
        self.paused = False
        self._standing: list[Process] = []
        self.went_on_at = self.warden_stood_at = -1e9
        self.slow_disk = 0.0
        self.disk_stuck_until = 0.0
        self.checkpointer_stuck_until = 0.0
        self.storages: dict[str, Storage] = {}
        self.warden = Warden(self, self._identity())
        self.role = Process(self.loop, f"role {name}")
        self.agent: SimulatedAgent | None = None
        self.starts = 0

    def _identity(self) -> str:
        return f"{self.name}-{self.chance.getrandbits(32):08x}"

    # -- disk ----------------------------------------------------------------------------------------------------

    def storage(self, database: str) -> Storage:
        """What lies on this host's disk of that copy."""
        found = self.storages.get(database)
        if found is None:
            found = self.storages[database] = Storage()
        return found

    def flush_delay(self) -> float:
        """Seconds of an fsync."""
        stuck = max(0.0, self.disk_stuck_until - self.loop.now)
        return stuck + 0.0005 + (0.002 + self.slow_disk) * self.chance.random()

    def disk_stuck(self) -> bool:
        """Whether a flush that should end now does not."""
        return self.loop.now < self.disk_stuck_until

    def checkpointer_delay(self) -> float:
        """Seconds until the checkpointer has read its configuration."""
        return 0.0005 + 0.02 * self.chance.random()

    def checkpointer_stuck(self) -> bool:
        """Whether the checkpointer is busy with something else."""
        return self.loop.now < self.checkpointer_stuck_until

    # -- processes -----------------------------------------------------------------------------------------------

    def instance(self, database: str) -> Instance | None:
        """The running postmaster of a copy."""
        return self.warden.instances.get(database)

    def instance_ended(self, instance: Instance) -> None:
        """The warden reaps it."""
        if self.warden.instances.get(instance.database) is instance:
            del self.warden.instances[instance.database]

    def start_agent(self) -> None:
        """By the supervisor."""
        from tests.simulation.agent import SimulatedAgent

        if self.paused:
            self.loop.call_later(SUPERVISE, self.start_agent, context=NOBODY)
        elif self.up and not self.world.over and (self.agent is None or not self.agent.process.alive):
            self.starts += 1
            self.agent = SimulatedAgent(self)
            self.agent.start()

    def kill_agent(self) -> None:
        """SIGKILL; the supervisor starts it again."""
        if self.agent is not None and self.agent.process.alive:
            self.agent.stop_running()
            self.loop.call_later(SUPERVISE + 0.5 * self.chance.random(), self.start_agent, context=NOBODY)

    def kill_warden(self) -> None:
        """Its postmasters go with it; a new one has another identity, which ends the agent."""
        if self.up and not self.paused:
            self._end_warden()
            self.warden = Warden(self, self._identity())

    def _end_warden(self) -> None:
        self.warden.process.kill()
        reset(self.warden.process)
        for instance in list(self.warden.instances.values()):
            instance.die()

    def lose_power(self) -> None:
        """Everything ends, what was not flushed is gone."""
        if not self.up:
            return
        self.up = False
        if self.agent is not None:
            self.agent.stop_running()
        self._end_warden()
        self.role.kill()
        self.page = Page(self)
        self.paused = False

    def boot(self) -> None:
        """The clock begins anew."""
        if self.up:
            return
        self.up = True
        self.clock = HostClock(self.loop, self.chance.uniform(5.0, 30.0), self.rate)
        self.warden = Warden(self, self._identity())
        self.role = Process(self.loop, f"role {self.name}")
        self.start_agent()

    def pause(self) -> None:
        """The whole machine stands still, its clock too."""
        if self.up and not self.paused:
            self.paused = True
            self.clock.pause()
            self._standing = self.processes()
            for process in self._standing:
                process.freeze()

    def go_on(self) -> None:
        """The machine goes on where it stood."""
        if self.up and self.paused:
            self.paused = False
            self.went_on_at = self.loop.now
            self.clock.go_on()
            for process in self._standing:
                process.resume()

    def processes(self) -> list[Process]:
        """All that run here."""
        found = [self.role, self.warden.process, *(one.process for one in self.warden.instances.values())]
        if self.agent is not None:
            found.append(self.agent.process)
        return found
