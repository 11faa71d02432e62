"""Clients: roles on the hosts that commit and read by the rules, led by hints that may be out of date."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import TYPE_CHECKING

from everpost.errors import EverpostError, Unavailable
from everpost.model.database import Location
from tests.simulation.engine import tell
from tests.simulation.monitor import SHOWN, Operation, Read
from tests.simulation.postgres import Instance

if TYPE_CHECKING:
    from tests.simulation.host import Host
    from tests.simulation.world import World

CONNECT = 1.0
PATIENCE = 8.0
"""Seconds after which a client gives up; the COMMIT goes on."""
CONFIRM = 2.0
SHOWN_AT_ONCE = 5


class Clients:
    """Each operation is one task of the role's process on its host."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._numbers = 0

    def write(self, host: Host, database: str) -> None:
        """Begin a change."""
        location = self._hint(host, database)
        if location is not None and host.role.alive:
            self._numbers += 1
            host.role.create_task(self._write(host, location, self._numbers))

    def read(self, host: Host, database: str) -> None:
        """Begin a look at the newest changes."""
        location = self._hint(host, database)
        if location is not None and host.role.alive:
            host.role.create_task(self._read(host, location))

    def _hint(self, host: Host, database: str) -> Location | None:
        """A location as this host saw it last, or as it was: a watch is only a hint."""
        chance = self._world.chance
        seen = host.agent.organization.locations.get(database) if host.agent is not None else None
        if seen is not None and chance.random() < 0.8:
            location = seen[0]
        else:
            location = chance.choice(self._world.monitor.databases[database].past[-6:])
        return location if location.state in SHOWN else None

    def _instance(self, host: Host, location: Location) -> Instance:
        instance = self._world.instance(location.active, location.database)
        if instance is None or not host.network.passes(host.name, location.active):
            raise Unavailable("no connection")
        return instance

    @staticmethod
    def _must_be(instance: Instance, location: Location) -> None:
        """What the store checks at each new connection."""
        if not instance.accepting or not instance.admitted or instance.closing:
            raise Unavailable("not admitted")
        openings = instance.storage.openings()
        if not openings or openings[-1][0] != location.token:
            raise Unavailable("another activation answered")

    async def _write(self, host: Host, location: Location, number: int) -> None:
        world = self._world
        operation = Operation(number, location.database, location.token, world.loop.now)

        async def commit() -> None:
            self._must_be(instance, location)
            ended: asyncio.Future[Exception | None] = world.loop.create_future()
            operation.record = instance.commit("op", operation, partial(tell, ended)).record
            error = await ended
            if error is not None:
                raise error

        with contextlib.suppress(EverpostError):
            instance = self._instance(host, location)
            await world.network.request(host.name, location.active, instance.process, commit, PATIENCE)
            if await self._confirmed(host, location) and host.page.serving():
                world.monitor.acknowledged(operation)

    async def _confirmed(self, host: Host, location: Location) -> bool:
        """As `directory.authority.RoleAuthority.confirm`."""
        server, epoch = location.active, location.token.epoch
        if server == host.name:
            open_epoch, single = host.page.database(self._world.numbers[location.database])
            if open_epoch != epoch or not host.page.serving():
                return False
            if not single:
                return True
        agent = self._world.hosts[server].agent
        if agent is None:
            return False
        question = {"database": location.database, "epoch": epoch}
        answer = await self._world.network.request(
            host.name, server, agent.process, partial(agent.answer, "/v1/confirm", question), CONFIRM
        )
        return bool(answer["confirmed"])

    async def _read(self, host: Host, location: Location) -> None:
        world = self._world
        begun = world.loop.now

        async def look() -> list[Operation]:
            self._must_be(instance, location)
            newest = list(instance.visible)[-SHOWN_AT_ONCE:]
            return [one for one in newest if isinstance(one, Operation)]

        with contextlib.suppress(EverpostError):
            instance = self._instance(host, location)
            found = await world.network.request(host.name, location.active, instance.process, look, CONNECT)
            if host.page.serving():
                read = Read(location.database, location.token, location.active, host.name, begun, found)
                world.monitor.saw(read)
