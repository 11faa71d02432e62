"""A small organisation for commands: a directory in memory, servers that play their part of a location record at once,
and a command that can die behind any of its writes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from everpost.activemanager import transitions
from everpost.directory import keys
from everpost.directory.interface import Entry, TxnResult
from everpost.directory.memory import MemoryDirectory
from everpost.directory.schema import OrganizationView, decode, encode
from everpost.errors import NotFound, Unavailable
from everpost.manage import cmdlets
from everpost.manage.execute import run_line
from everpost.model.database import (
    CopyState,
    CopyStatus,
    Location,
    LocationState,
    MailboxDatabase,
    Member,
    Opening,
    Token,
)
from everpost.model.server import DatabaseAvailabilityGroup, Role, Server
from everpost.model.tenure import FencingRecord, PamRecord, TenureState
from everpost.monitoring.catalogue import Kind

DAG = "D"
cmdlets.load()


class Died(BaseException):
    """The agent that ran the command was killed."""


class Clock:
    """Advances by what is slept."""

    now = 0.0

    def boottime(self) -> float:
        return self.now

    def wall(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.now)

    async def sleep(self, seconds: float) -> None:
        self.now += max(seconds, 0.001)


class Organisation:
    """`die_after`: the command dies behind that many more writes of its own. `refusing`: servers whose copies refuse to
    be opened, so that what moves there goes home."""

    def __init__(self, servers: tuple[str, ...], databases: Mapping[str, tuple[str, ...]]) -> None:
        self.memory = MemoryDirectory()
        self.view = OrganizationView()
        self.alive = set(servers)
        self.answering = {"W"}
        self.refusing: set[str] = set()
        self.die_after: int | None = None
        self.writes = 0
        self.warnings: list[str] = []
        self.events: list[tuple[int, str]] = []
        self.data_dir = Path("/nonexistent")
        self.clock = Clock()
        self.voters = [*servers, *(["W"] if len(servers) % 2 == 0 else [])]
        self._first: dict[str, bytes] = {}
        self._document(keys.dag(DAG), DatabaseAvailabilityGroup(name=DAG, members=servers))
        self._document(keys.pam(DAG), PamRecord(dag=DAG, holder=servers[0], epoch=1))
        for name in servers:
            address = {"address": name, "replication_address": name}
            self._document(keys.server(name), Server(name=name, roles=(Role.MAILBOX,), **address))
            self._document(keys.fence(name), FencingRecord(server=name, instance="1", epoch=1, state=TenureState.UP))
        for number, (name, hosts) in enumerate(databases.items()):
            self._document(keys.database(name), MailboxDatabase(name=name, guid=name, number=number, servers=hosts))
            members = tuple(Member(host, "1") for host in hosts)
            location = Location(
                database=name,
                active=hosts[0],
                token=Token(1, 1),
                state=LocationState.OPEN,
                set=members[1:],
                eligible=members,
                openings=(Opening(Token(1, 1), hosts[0], 1, 0, "n"),),
            )
            self._document(keys.location(name), location)

    def _document(self, key: str, value: object) -> None:
        self._first[key] = encode(value)

    async def start(self) -> Organisation:
        await self._write({}, self._first)
        return self

    async def _write(self, guards: Mapping[str, int], puts: Mapping[str, bytes | None], **rest: Any) -> TxnResult:
        result = await self.memory.txn(guards, puts, **rest)
        if result.succeeded:
            for key in puts:
                self.view.apply(key, await self.memory.get(key))
        return result

    # -- what a command sees ---------------------------------------------------------------------------------------

    @property
    def directory(self) -> Any:
        return SimpleNamespace(get=self.memory.get, list=self.memory.list, txn=self._txn)

    async def _txn(self, guards: Mapping[str, int], puts: Mapping[str, bytes | None], **rest: Any) -> TxnResult:
        result = await self._write(guards, puts, **rest)
        self.writes += 1
        if self.die_after is not None:
            self.die_after -= 1
            if self.die_after < 0:
                raise Died
        await self._play()
        return result

    async def _play(self) -> None:
        """Agents and manager finish every move that was ordered."""
        for name, (location, revision) in list(self.view.locations.items()):
            if location.state is not LocationState.MOVING or location.target is None:
                continue
            home = location.target in self.refusing or location.target not in self.alive
            target = location.active if home else location.target
            after = transitions.begin_activation(transitions.closed(location, 9, 1), target, reason="played")
            opening = Opening(after.token, target, after.token.epoch, 9, "n")
            others = [member for member in location.eligible if member.server != target]
            after = transitions.opened(after, Member(target, "1"), opening, others)
            key = keys.location(name)
            await self._write({key: revision}, {key: encode(after)})

    async def settle(self) -> None:
        """What was left by a command that died goes on without it."""
        await self._play()

    def holds_tenure(self, server: str) -> bool:
        return server in self.alive

    def record(self, kind: Kind, text: str, **facts: str) -> None:
        self.events.append((kind.id, text))

    def pam(self, dag: str) -> str | None:
        entry: Entry | None = self.memory._entries.get(keys.pam(dag))
        return None if entry is None else decode(PamRecord, entry.value).holder

    def statuses(self, server: str) -> dict[str, CopyStatus]:
        found = {}
        for name, database in self.view.databases.items():
            if server in database.servers:
                active = self.view.locations[name][0].active == server
                state = CopyState.MOUNTED if active else CopyState.HEALTHY
                found[name] = CopyStatus(database=name, server=server, state=state, copy_queue=0, replay_queue=0)
        return found

    async def call(self, server: str, *_: Any, **__: Any) -> dict[str, Any]:
        if server not in self.answering | self.alive:
            raise Unavailable(f"The agent of {server} does not answer.")
        return {}

    async def names(self) -> list[str]:
        return self.voters

    async def reconcile(self, *_: Any) -> None:
        """The voters follow: not of interest here."""

    async def run(self, line: str) -> list[dict[str, Any]]:
        """Rows of a line of the shell."""
        context = SimpleNamespace(
            clock=self.clock,
            settings=SimpleNamespace(name=next(iter(self.view.servers)), data_dir=self.data_dir),
            directory=self.directory,
            organization=self.view,
            live=self,
            agents=self,
            voters=self,
            operator="anna",
            verbose=lambda text: None,
            warning=self.warnings.append,
        )
        results = await run_line(line, context, on_verbose=lambda asked: None)
        return [row for result in results for row in result.rows]

    # -- what a test looks at --------------------------------------------------------------------------------------

    def active(self) -> dict[str, str]:
        """Where each database is active."""
        return {name: location.active for name, (location, _) in self.view.locations.items()}

    def settings(self) -> dict[str, object]:
        """Everything that an administrator could have set."""
        return {**self.view.servers, **self.view.databases}

    def server(self, name: str) -> Server:
        """A server's document. Raises NotFound."""
        found = self.view.servers.get(name)
        if found is None:
            raise NotFound(f"There is no server {name}.")
        return found
