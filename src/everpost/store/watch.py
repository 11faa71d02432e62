"""Waking sessions that idle: at once for changes made by this process, within a second for all others."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import asyncpg

from everpost.store.sessions import Connection, Databases

log = logging.getLogger(__name__)

POLL = 1.0
"""Seconds between looks at the MODSEQs of watched folders: one query per database and process."""


class Wakers:
    """Who waits for which folder."""

    def __init__(self, databases: Databases) -> None:
        self._databases = databases
        self._events: dict[str, dict[int, set[asyncio.Event]]] = {}
        self._pollers: dict[str, asyncio.Task[None]] = {}

    def touch(self, database: str, folder: int) -> None:
        """The folder was changed here."""
        for event in self._events.get(database, {}).get(folder, ()):
            event.set()

    async def wait(self, database: str, folder: int) -> AsyncIterator[None]:
        """Yields whenever the folder may have changed; first at once, as it may have since the caller last asked."""
        event = asyncio.Event()
        event.set()
        folders = self._events.setdefault(database, {})
        folders.setdefault(folder, set()).add(event)
        poller = self._pollers.get(database)
        if poller is None or poller.done():
            self._pollers[database] = asyncio.create_task(self._poll(database))
        try:
            while True:
                await event.wait()
                event.clear()
                yield
        finally:
            folders[folder].discard(event)
            if not folders[folder]:
                del folders[folder]

    async def _poll(self, database: str) -> None:
        """While anybody waits. A folder seen for the first time wakes too: it may have changed since its watcher
        looked."""
        known: dict[int, int] = {}
        while folders := list(self._events.get(database, ())):

            async def work(connection: Connection, folders: list[int] = folders) -> list[asyncpg.Record]:
                return await connection.fetch("select id, modseq from everpost_mail.folder where id = any($1)", folders)

            try:
                rows = await self._databases.run(database, work, write=False, deadline=None)
            except Exception:  # a loop that must survive: IDLE would be deaf
                log.exception("the folders of %s could not be watched", database)
                rows = []
            now = {row["id"]: row["modseq"] for row in rows}
            for folder in folders:
                if now.get(folder) != known.get(folder):
                    self.touch(database, folder)
            known = now
            await asyncio.sleep(POLL)

    async def close(self) -> None:
        """Stop looking."""
        pollers = list(self._pollers.values())
        for task in pollers:
            task.cancel()
        await asyncio.gather(*pollers, return_exceptions=True)
