"""What every client-facing role process has: directory, locations, the shared page, and the store."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from everpost.cli import wiring
from everpost.directory.authority import RoleAuthority
from everpost.directory.page import SharedPage
from everpost.directory.schema import OrganizationView
from everpost.log import fact
from everpost.model import server as model
from everpost.net import tls
from everpost.settings import ServerSettings
from everpost.store.postgres import PostgresStore

log = logging.getLogger(__name__)

MAINTENANCE_LOOK = 0.3


@dataclass(frozen=True)
class Role:
    """`stop` is set by SIGTERM."""

    organization: OrganizationView
    authority: RoleAuthority
    store: PostgresStore
    stop: asyncio.Event


@asynccontextmanager
async def run_role(settings: ServerSettings) -> AsyncIterator[Role]:
    """Set up, and take down at the end."""
    stop = wiring.stop_event()
    directory = wiring.open_directory(settings)
    organization = OrganizationView()
    page = await shared_page(settings)
    context = tls.client_context(settings.tls_dir)
    authority = RoleAuthority(settings.name, page, organization, context, strict_reads=settings.strict_reads)
    caches = wiring.configuration_cache(directory, organization, authority.wake)
    tasks = [asyncio.create_task(cache.run()) for cache in caches]
    tasks.append(asyncio.create_task(wiring.follow_voters(settings, directory)))
    for cache in caches:
        await cache.wait_synced()
    store = PostgresStore(authority, context)
    try:
        yield Role(organization, authority, store, stop)
    finally:
        await store.close()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=1.0)
        await authority.close()
        await directory.close()


class Drainable(Protocol):
    """Has conversations with clients."""

    def drain(self, draining: bool) -> None: ...


async def drain_in_maintenance(
    organization: OrganizationView, me: str, kind: model.Role, servers: Sequence[Drainable]
) -> None:
    """Send clients elsewhere while this server is in maintenance; by its record alone, so its end undoes it exactly."""
    draining = False
    while True:
        wanted = organization.drained(me, kind)
        if wanted != draining:
            draining = wanted
            fact(log, "clients are sent elsewhere" if draining else "clients are welcome again", role=str(kind))
            for server in servers:
                server.drain(draining)
        await asyncio.sleep(MAINTENANCE_LOOK)


async def shared_page(settings: ServerSettings) -> SharedPage:
    """The agent makes it; a role that starts first waits."""
    while True:
        try:
            return SharedPage(settings.shared_page)
        except (OSError, ValueError):
            await asyncio.sleep(0.1)
