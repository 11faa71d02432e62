"""Waking sessions that idle: at once for changes made by this process, within a second for all others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg

from everpost.errors import EverpostError
from everpost.store.sessions import Connection, Databases

POLL = 1.0
"""Seconds between looks at the MODSEQs of watched folders: one query per database and process."""


class Wakers:
    """Who waits for which folder."""

    def __init__(self, databases: Databases) -> None:
        self._databases = databases
        self._events: dict[tuple[str, int], set[asyncio.Event]] = {}
        self._modseqs: dict[tuple[str, int], int] = {}
        self._pollers: dict[str, asyncio.Task[None]] = {}

    def touch(self, database: str, folder: int) -> None:
        """The folder was changed here."""
        for event in self._events.get((database, folder), ()):
            event.set()

    async def wait(self, database: str, folder: int) -> AsyncIterator[None]:
        """Yields whenever the folder may have changed."""
        key = (database, folder)
        event = asyncio.Event()
        self._events.setdefault(key, set()).add(event)
        if database not in self._pollers:
            self._pollers[database] = asyncio.create_task(self._poll(database))
        try:
            while True:
                await event.wait()
                event.clear()
                yield
        finally:
            self._events[key].discard(event)
            if not self._events[key]:
                del self._events[key]
                self._modseqs.pop(key, None)

    async def _poll(self, database: str) -> None:
        while folders := [folder for name, folder in self._events if name == database]:

            async def work(connection: Connection, folders: list[int] = folders) -> list[asyncpg.Record]:
                return await connection.fetch("select id, modseq from everpost_mail.folder where id = any($1)", folders)

            try:
                rows = await self._databases.run(database, work, write=False, deadline=None)
            except (EverpostError, asyncpg.PostgresError):
                rows = []
            for row in rows:
                key = (database, row["id"])
                known = self._modseqs.get(key)
                self._modseqs[key] = row["modseq"]
                if known is not None and known != row["modseq"]:
                    self.touch(*key)
            await asyncio.sleep(POLL)
        self._pollers.pop(database, None)

    async def close(self) -> None:
        """Stop looking."""
        for task in list(self._pollers.values()):
            task.cancel()
        await asyncio.gather(*self._pollers.values(), return_exceptions=True)
