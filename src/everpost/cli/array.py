"""The array process of a host: holds the virtual address of its site's client access array, and balances behind it."""

from __future__ import annotations

import argparse
import asyncio
import logging
import uuid
from pathlib import Path

from everpost.array import gateway
from everpost.array.checks import Around, LoginChecks
from everpost.array.dns.service import Updater
from everpost.array.link import Links
from everpost.array.service import Equipment, Keeper
from everpost.array.surroundings import Surroundings
from everpost.cli import wiring
from everpost.cli.role import shared_page
from everpost.clock import SystemClock
from everpost.directory import keys
from everpost.directory.cache import DirectoryCache
from everpost.directory.interface import Entry
from everpost.directory.page import SharedPage
from everpost.directory.schema import OrganizationView
from everpost.log import configure, fact
from everpost.settings import DEFAULT_PATH, ServerSettings, load

log = logging.getLogger(__name__)


FOLLOW_EVERY = 0.2
"""Seconds between looks which arrays this server's site has."""
WATCHED = (keys.CONFIG, keys.LOCATIONS, keys.FENCES, keys.TENURES, keys.ARRAYS)


class Arrays:
    """One keeper for each array of this server's site."""

    def __init__(self, settings: ServerSettings, page: SharedPage) -> None:
        self._settings = settings
        self.directory = wiring.open_directory(settings)
        # Watching has connections of its own: which members it found silent must not delay a beat.
        self.watching = wiring.open_directory(settings)
        self._organization = OrganizationView()
        self._keepers: dict[str, Keeper] = {}
        clock = SystemClock()
        self._around = Surroundings(
            me=settings.name,
            instance=uuid.uuid4().hex,
            directory=self.directory,
            clock=clock,
            organization=self._organization,
            timing=settings.timing,
            entry=self._entry,
            learn=self._learn,
            page=lambda: (page.deadline, page.epoch),
        )
        self.dns = Updater(self._around, settings.data_dir)
        self.caches = [DirectoryCache(self.watching, prefix, on_change=self._on_change) for prefix in WATCHED]
        # Connections of their own as well: a log-in check that makes a mailbox delays no beat.
        checked = Around(self.watching, self._organization, clock)
        self._equipment = Equipment(
            folder=settings.data_dir / "array", checks=lambda members: LoginChecks(checked, members)
        )

    def _cache(self, key: str) -> DirectoryCache:
        return next(cache for cache, prefix in zip(self.caches, WATCHED, strict=True) if key.startswith(prefix))

    def _entry(self, key: str) -> Entry | None:
        return self._cache(key).get(key)

    def _learn(self, entry: Entry) -> None:
        self._cache(entry.key).learn(entry)

    def _on_change(self, key: str, entry: Entry | None) -> None:
        self._organization.apply(key, entry)
        self.dns.changed(key, entry)
        for keeper in self._keepers.values():
            keeper.changed(key, entry)

    async def run(self) -> None:
        """Until cancelled. Raises what ended a keeper."""
        for cache in self.caches:
            await cache.wait_synced()
        self._remove_leftovers()
        async with asyncio.TaskGroup() as group:
            group.create_task(self.dns.run())
            group.create_task(self._follow_forever())

    async def _follow_forever(self) -> None:
        while True:
            await self._follow()
            for keeper in self._keepers.values():
                error = keeper.failed()
                if error is not None:
                    raise error
            await asyncio.sleep(FOLLOW_EVERY)

    def _remove_leftovers(self) -> None:
        """What a killed process left: the kernel would end it within a second, but it need not wait."""
        links = Links()
        for array in self._organization.arrays.values():
            address = gateway.parse(array.ip)
            for index, one in links.addresses():
                if address is not None and one.ip == address:
                    links.remove(address, index)
                    fact(log, "leftover address removed", array=array.name, address=array.ip)
        links.close()

    async def _follow(self) -> None:
        own = self._organization.servers.get(self._settings.name)
        wanted = {
            array.key
            for array in self._organization.arrays.values()
            if own is not None and array.site.lower() == own.site.lower()
        }
        for name in [name for name in self._keepers if name not in wanted]:
            await self._keepers.pop(name).stop()
        for name in wanted - self._keepers.keys():
            keeper = Keeper(name, self._around, self._equipment)
            self._keepers[name] = keeper
            for prefix in (keys.ARRAYS + name + "/", keys.TENURES):
                for entry in self._cache(prefix).list(prefix):
                    keeper.changed(entry.key, entry)
            keeper.start()
            fact(log, "array begins", array=name, server=self._settings.name)

    async def stop(self) -> None:
        """Give back what is held."""
        for keeper in self._keepers.values():
            await keeper.stop()
        await self.dns.stop()
        await self.directory.close()
        await self.watching.close()


async def _wait(stop: asyncio.Event) -> None:
    await stop.wait()


async def run(settings: ServerSettings) -> None:
    """Until SIGTERM."""
    stop = wiring.stop_event()
    page = await shared_page(settings)
    arrays = Arrays(settings, page)
    tasks: list[asyncio.Task[None]] = [asyncio.create_task(cache.run()) for cache in arrays.caches]
    tasks.append(asyncio.create_task(wiring.follow_voters(settings, arrays.directory)))
    tasks.append(asyncio.create_task(wiring.follow_voters(settings, arrays.watching)))
    work = asyncio.create_task(arrays.run())
    stopping = asyncio.create_task(_wait(stop))
    try:
        await asyncio.wait({work, stopping, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        for task in (work, *tasks):
            if task.done():
                task.result()
    finally:
        work.cancel()
        await asyncio.wait({work}, timeout=1.0)
        await arrays.stop()
        for task in (stopping, *tasks):
            task.cancel()
        await asyncio.wait({stopping, *tasks}, timeout=1.0)


def main() -> None:
    """`python -m everpost.cli.array --config PATH`."""
    parser = argparse.ArgumentParser(prog="everpost-array")
    parser.add_argument("--config", type=Path, default=DEFAULT_PATH)
    settings = load(parser.parse_args().config)
    configure(settings.log_format)
    asyncio.run(run(settings))


if __name__ == "__main__":
    main()
