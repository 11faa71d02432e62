"""What a command works with. Everything it changes goes through the directory by compare-and-swap."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from everpost.clock import Clock
from everpost.directory.interface import Directory
from everpost.directory.schema import OrganizationView
from everpost.model.database import CopyStatus
from everpost.model.server import Server
from everpost.monitoring.catalogue import Kind
from everpost.settings import ServerSettings

Say = Callable[[str], None]


class AgentCalls(Protocol):
    """Calls to other hosts' agents (`activemanager.peers.Agents`)."""

    async def call(
        self, server: str, method: str, path: str, json: Any = None, *, timeout: float = 2.0
    ) -> dict[str, Any]: ...


class LiveState(Protocol):
    """What changes by itself: tenures and what the copies say."""

    def holds_tenure(self, server: str) -> bool:
        """Whether it renews, as far as this host saw."""

    def pam(self, dag: str) -> str | None:
        """Which member is PAM."""

    def statuses(self, server: str) -> Mapping[str, CopyStatus]:
        """By database, as last published."""

    def record(self, kind: Kind, text: str, **facts: str) -> None:
        """Note an event in the journal."""


class Voters(Protocol):
    """Who votes in the directory."""

    async def reconcile(self, said: Say, warn: Say) -> None:
        """Make the voters those that the DAGs ask for."""

    async def names(self) -> list[str]:
        """Hosts that vote now."""

    async def health(self) -> dict[str, bool]:
        """Who votes, and whether it answers."""

    async def expel(self, server: Server) -> None:
        """The host is no voter, whatever was."""


class CommandContext(Protocol):
    """Given to every command."""

    clock: Clock
    settings: ServerSettings
    directory: Directory
    organization: OrganizationView
    live: LiveState
    agents: AgentCalls
    voters: Voters
    operator: str
    """Who typed the command: the name of the account at the other end of the admin socket."""

    def verbose(self, text: str) -> None:
        """Shown with -Verbose."""

    def warning(self, text: str) -> None:
        """Shown always."""

    def failed(self) -> None:
        """What was tested failed: the exit status is 1, though rows are shown."""
