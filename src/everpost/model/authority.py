"""What lets a process answer: the host's tenure, the location of a database, and confirmation of a commit."""

from __future__ import annotations

from typing import Protocol

from everpost.errors import EverpostError
from everpost.model.database import Location


class NotConfirmed(EverpostError):
    """A commit cannot be acknowledged: its outcome is unknown; repeat the operation by its id at the next location."""


class Authority(Protocol):
    """A role's view of who may serve. Implemented in `directory.authority`, faked in tests."""

    def serving(self) -> bool:
        """Whether this host holds its tenure now; asked immediately before each write to a client's socket."""

    def location(self, database: str) -> Location | None:
        """The last location seen (a hint), or None if the database is unknown."""

    def endpoint(self, database: str) -> tuple[str, int] | None:
        """Address and port of the active copy if its last seen location is open."""

    async def location_changed(self, database: str, seen: Location | None, timeout: float) -> Location | None:
        """Wait until the location differs from `seen`, at most `timeout` seconds; the newest one."""

    async def confirm(self, database: str, location: Location) -> None:
        """Called after COMMIT returned from that location: returns if the commit counts as acknowledged (the set was
        not empty, or a tenure renewal sent after this call was confirmed). Raises NotConfirmed."""
