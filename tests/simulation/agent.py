"""One life of a host's agent: the production Active Manager and tenure, wired as `cli.agent` wires them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from everpost.activemanager.gather import Live
from everpost.activemanager.service import ActiveManager
from everpost.cli.agent import Agent
from everpost.directory import keys
from everpost.directory.cache import DirectoryCache
from everpost.directory.schema import OrganizationView
from everpost.directory.tenure import Challengers, Tenure
from everpost.errors import EverpostError, Unavailable
from everpost.model.database import MailboxDatabase
from everpost.model.server import Role
from tests.simulation.directory import Line
from tests.simulation.engine import SimulatedEngine, WardenLine
from tests.simulation.loop import Process

if TYPE_CHECKING:
    from tests.simulation.host import Host


class Agents:
    """`activemanager.peers.Agents`: what `cli.agent_api` answers, over the simulated network."""

    def __init__(self, host: Host) -> None:
        self._host = host

    async def call(
        self, server: str, method: str, path: str, json: Any = None, *, timeout: float = 2.0
    ) -> dict[str, Any]:
        world = self._host.world
        other = world.hosts[server].agent
        if other is None:
            raise Unavailable(f"The agent of {server} does not answer.")

        async def handle() -> dict[str, Any]:
            return await other.answer(path, json)

        answer: dict[str, Any] = await world.network.request(self._host.name, server, other.process, handle, timeout)
        return answer


def raise_exit(_: object) -> NoReturn:
    """As os._exit for one process of the simulation: the loop ends it and tells who supervises it."""
    raise SystemExit(3)


class SimulatedAgent:
    """Runs until its process is killed or ends itself."""

    _hold_tenure = Agent._hold_tenure
    _must_belong = Agent._must_belong
    _exit_now = raise_exit
    _on_live_change = Agent._on_live_change
    _wake_manager = Agent._wake_manager

    def __init__(self, host: Host) -> None:
        self._host = host
        world = host.world
        self.process = Process(host.loop, f"agent {host.name}")
        self.process.on_end = host.kill_agent
        self.settings = SimpleNamespace(name=host.name, roles=(Role.MAILBOX,))
        self.clock = host.clock
        self.line = Line(world.etcd, host.name, self.process, host.chance, world.batch)
        self.line.bad = world.bad_lines.get(host.name, 0.0)
        self.organization = OrganizationView()
        self.manager: ActiveManager | None = None
        self.tenure: Tenure | None = None
        self.challengers: Challengers | None = None
        self._warden = WardenLine(host)
        # Coordination of starts (DAC) has tests of its own: here every start is allowed at once.
        self.monitor = SimpleNamespace(location_changed=lambda location: None)
        self.coordination = SimpleNamespace(bit=True, wait_allowed=_nothing)

    def start(self) -> None:
        """In its own process."""
        self.process.create_task(self._work())

    def stop_running(self) -> None:
        """SIGKILL."""
        self.process.kill()
        etcd = self._host.world.etcd
        etcd.watches = [watch for watch in etcd.watches if watch.process is not self.process]

    async def _work(self) -> None:
        try:
            await self._run()
        except Exception as error:
            self._host.world.monitor.fault(f"the agent of {self._host.name} ended: {error!r}")
            self._host.kill_agent()

    async def _run(self) -> None:
        host = self._host
        cache = DirectoryCache(
            self.line,
            keys.ROOT,
            on_change=self._on_live_change,  # type: ignore[arg-type]
        )
        self.live = Live(cache.get)
        async with asyncio.TaskGroup() as group:
            group.create_task(cache.run())
            await cache.wait_synced()
            instance = await self._warden_identity()
            timing = host.world.timing
            tenure = self.tenure = Tenure(self.line, self.clock, host.name, instance, timing)

            def own_guard() -> Mapping[str, int]:
                return {keys.fence(host.name): tenure.fence_revision}

            self.challengers = Challengers(
                self.line,
                self.clock,
                host.name,
                timing,
                fence=lambda server: cache.get(keys.fence(server)),
                own_guard=own_guard,
                learn=cache.learn,
            )
            for entry in cache.list(keys.TENURES):
                self.challengers.on_change(entry.key, entry)
            self.manager = ActiveManager(
                host.name,
                clock=self.clock,
                directory=self.line,
                organization=self.organization,
                live=self.live,
                tenure=tenure,
                taker=self.challengers,
                expired=self.challengers.expired,
                page=host.page,  # type: ignore[arg-type]
                agents=Agents(host),  # type: ignore[arg-type]
                engines=self._engine,
                prepare=_nothing,
                upkeep=_nothing,
                learn=cache.learn,
            )
            group.create_task(self._hold_tenure(host.page))  # type: ignore[arg-type, misc]
            group.create_task(self.manager.run())

    def _engine(self, database: MailboxDatabase) -> SimulatedEngine:
        return SimulatedEngine(self._host, database.name, self._warden)

    async def _warden_identity(self) -> str:
        while True:
            try:
                return await self._warden.identity()
            except EverpostError:
                await self.clock.sleep(0.2)

    async def answer(self, path: str, body: Any) -> dict[str, Any]:
        """What `cli.agent_api` answers to other hosts."""
        manager = self.manager
        if manager is None:
            raise Unavailable("This agent begins only now.")
        match path.split("/")[2:]:
            case ["ping"]:
                return {}
            case ["confirm"]:
                if body["database"] not in self.organization.databases:
                    raise Unavailable("This agent begins only now.")
                return {"confirmed": await manager.confirm(body["database"], body["epoch"])}
            case ["stall"]:
                return {"verdict": await manager.judge_stall(body["database"], body["member"])}
            case ["copy", database, "openings"]:
                return {"openings": msgspec.to_builtins(await manager.own_openings(database))}
        raise AssertionError(path)


async def _nothing(*_: object) -> None:
    """The store's part: not of interest here."""
