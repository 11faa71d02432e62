"""What a server says of its copies in the directory: their status, and the progress of those that are open here.

Both go in one transaction a second: each one costs the voters an fsync, and is read by every other server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from everpost.clock import Clock
from everpost.directory import keys
from everpost.directory.interface import Directory
from everpost.directory.schema import encode
from everpost.errors import OutcomeUnknown, Unavailable
from everpost.model.database import CopyStatus, Progress, Token

STATUS_EVERY = 1.0
STATUS_LOOK = 0.1

Facts = list[tuple[object, ...]]


class Copy(Protocol):
    """One copy of this server (`copy.CopyController`)."""

    database: str

    def facts(self) -> tuple[object, ...]:
        """What others wait for."""

    def status(self) -> CopyStatus:
        """What is shown of it, positions too."""

    def open_at(self) -> Token | None:
        """The token at which it is open here."""


class Publisher:
    """`copies` are this server's, `shown` is its status as the directory's watch shows it; `own_guard` is this
    server's fence at its revision."""

    def __init__(
        self,
        me: str,
        directory: Directory,
        clock: Clock,
        *,
        copies: Callable[[], Iterable[Copy]],
        shown: Callable[[], Iterable[CopyStatus]],
        own_guard: Callable[[], Mapping[str, int]],
    ) -> None:
        self._me = me
        self._directory = directory
        self._clock = clock
        self._copies = copies
        self._shown = shown
        self._own_guard = own_guard
        self._progress: dict[str, Progress] = {}

    def statuses(self) -> list[CopyStatus]:
        """This server's copies."""
        return [copy.status() for copy in self._copies()]

    def note_progress(self, database: str, progress: Progress) -> None:
        """The newest progress of an open copy, for the next second's transaction."""
        self._progress[database] = progress

    def _take_progress(self) -> dict[str, bytes | None]:
        """Of what is open still at the same token: nothing is said of an activation that has ended."""
        open_now = {copy.database: copy.open_at() for copy in self._copies()}
        taken, self._progress = self._progress, {}
        return {
            keys.progress(database): encode(progress)
            for database, progress in taken.items()
            if open_now.get(database) == progress.token
        }

    async def run(self) -> None:
        """Until cancelled."""
        told: Facts = []
        at = 0.0
        while True:
            # A new state or incarnation is told at once, as others wait for it; positions once a second.
            facts: Facts = [copy.facts() for copy in self._copies()]
            if facts != told or self._clock.boottime() - at >= STATUS_EVERY:
                rows = self.statuses()
                puts = self._take_progress()
                # Compared with what the watch shows, not with what was sent: without tenure a write is refused, and an
                # older one of unknown outcome may arrive after a newer one.
                if rows != list(self._shown()):
                    puts[keys.status(self._me)] = encode(rows)
                if puts and await self._write(puts):
                    told, at = facts, self._clock.boottime()
            await self._clock.sleep(STATUS_LOOK)

    async def _write(self, puts: Mapping[str, bytes | None]) -> bool:
        """A lost answer does not matter: the next one comes in a second."""
        try:
            await self._directory.txn(self._own_guard(), puts)
        except (OutcomeUnknown, Unavailable):
            return False
        return True
