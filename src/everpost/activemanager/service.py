"""The Active Manager of one server, SAM always and PAM when the record says so: its loops."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Protocol

import msgspec

from everpost.activemanager import bestcopy, setpolicy, transitions
from everpost.activemanager.activation import Prepare
from everpost.activemanager.active import Upkeep
from everpost.activemanager.copy import CopyController
from everpost.activemanager.decide import decide, stuck
from everpost.activemanager.gather import Gatherer, Live
from everpost.activemanager.lag import LOW_SPACE
from everpost.activemanager.peers import Agents
from everpost.activemanager.perform import Performer, Taker
from everpost.activemanager.publishing import Publisher
from everpost.activemanager.record import Held, LocationWriter
from everpost.activemanager.synchronous import Peers
from everpost.activemanager.view import View
from everpost.clock import Clock
from everpost.databases.interface import Engine, Upstream
from everpost.directory import keys
from everpost.directory.interface import Directory, Entry
from everpost.directory.page import SharedPage
from everpost.directory.schema import decode, encode
from everpost.errors import EverpostError, OutcomeUnknown, Unavailable
from everpost.log import fact
from everpost.model.database import CopySettings, CopyState, CopyStatus, Location, MailboxDatabase, Progress, Token
from everpost.model.network import compressed_seed, replication_addresses
from everpost.model.server import DatabaseAvailabilityGroup, MaintenanceRecord, Server
from everpost.model.tenure import TenureState

log = logging.getLogger(__name__)

DECIDE_EVERY = 0.1
SCRUB_EVERY = 7 * 86400.0
"""Seconds between two readings of all pages of a passive copy."""
CHANGE_TRIES = 20
QUIET = (
    keys.TENURES,
    keys.PROGRESS,
    keys.JOURNAL,
    keys.ARRAYS,
    keys.TOKENS,
    keys.MAILBOXES,
    keys.ADDRESSES,
    keys.HEALTH_MAILBOXES,
)
"""What changes all the time, or concerns no copy: it is read at the next look, and nobody is woken for it."""
REACH = 0.5
"""Seconds PAM gives an agent to answer when it must say who is out of reach."""


class Organization(Protocol):
    """The organisation's documents as this server last saw them."""

    @property
    def servers(self) -> Mapping[str, Server]: ...
    @property
    def maintenance(self) -> Mapping[str, MaintenanceRecord]: ...
    @property
    def dags(self) -> Mapping[str, DatabaseAvailabilityGroup]: ...
    @property
    def databases(self) -> Mapping[str, MailboxDatabase]: ...
    @property
    def locations(self) -> Mapping[str, tuple[Location, int]]: ...


class Holder(Protocol):
    """This server's tenure."""

    epoch: int
    fence_revision: int

    def valid(self) -> bool: ...
    async def confirmed_after(self, boottime: float) -> None: ...


class ActiveManager:
    """Runs the copies of this server, and decides for its DAG when it is PAM.

    `engines` makes the engine of a database's copy; `prepare` brings the store's schema up to date in the opening
    transaction, `upkeep` is its daily work; `expired(server)` says whether that server was silent for TAKE seconds.
    """

    def __init__(
        self,
        me: str,
        *,
        clock: Clock,
        directory: Directory,
        organization: Organization,
        live: Live,
        tenure: Holder,
        taker: Taker,
        expired: Callable[[str], bool],
        page: SharedPage,
        agents: Agents,
        engines: Callable[[MailboxDatabase], Engine],
        prepare: Prepare,
        upkeep: Upkeep,
        learn: Callable[[Entry], None] = lambda _: None,
        scrub_every: float = SCRUB_EVERY,
        lag_low_space: int = LOW_SPACE,
        copy_event: Callable[[str, bool, str], None] = lambda database, failed, why: None,
    ) -> None:
        self.me = me
        self.clock = clock
        self.peers: Peers = self
        self.scrub_every = scrub_every
        self.lag_low_space = lag_low_space
        self.copy_event = copy_event
        self._directory = directory
        self._organization = organization
        self._live = live
        self._tenure = tenure
        self._expired = expired
        self._page = page
        self._agents = agents
        self._engines = engines
        self._prepare = prepare
        self._upkeep = upkeep
        self._learn = learn
        self.writer = LocationWriter(directory, clock, self._own_guard, learn)
        self._gatherer = Gatherer(me, live)
        self._performer = Performer(me, directory, self.writer, taker, clock, self._own_guard)
        self._copies: dict[str, tuple[CopyController, asyncio.Task[None]]] = {}
        self._publisher = Publisher(
            me,
            directory,
            clock,
            copies=lambda: [controller for controller, _ in self._copies.values()],
            shown=lambda: live.status(me).values(),
            own_guard=self._own_guard,
        )
        self._changed = asyncio.Event()
        self._waiting: dict[str, str] = {}
        self._told: dict[str, dict[str, tuple[object, ...]]] = {}
        """What each server's status last said of its copies, without positions."""

    # -- what the copies ask (copy.Host, synchronous.Peers) -----------------------------------------------------

    def _own_guard(self) -> Mapping[str, int]:
        return {keys.fence(self.me): self._tenure.fence_revision}

    def held(self, database: str) -> Held | None:
        """The newest location record seen."""
        found = self._organization.locations.get(database)
        return None if found is None else Held(*found)

    def tenure_valid(self) -> bool:
        """Whether this server may act for its databases now."""
        return self._tenure.valid()

    def copies(self, database: str) -> tuple[str, ...]:
        """Servers with a copy."""
        found = self._organization.databases.get(database)
        return () if found is None else found.servers

    def upstream(self, server: str, database: str, token: Token) -> Upstream | None:
        """Where that server's PostgreSQL answers: on the replication network, else on the MAPI network (NET-9)."""
        host = self._organization.servers.get(server)
        row = self._organization.databases.get(database)
        if host is None or row is None:
            return None
        dag = next((dag for dag in self._organization.dags.values() if server in dag.members), None)
        me = self._organization.servers.get(self.me)
        return Upstream(
            server,
            ",".join(replication_addresses(dag, host)),
            host.ports.postgres + row.number,
            token,
            compress=me is not None and compressed_seed(dag, host, me),
        )

    def copy_settings(self, database: str, server: str) -> CopySettings:
        """By the organisation's documents."""
        found = self._organization.databases.get(database)
        return CopySettings() if found is None else found.copy(server)

    async def change_copy(self, database: str, change: Callable[[CopySettings], CopySettings]) -> None:
        """`change` may be applied more than once: a lost answer is settled by applying it to what is there then."""
        key = keys.database(database)
        for _ in range(CHANGE_TRIES):
            try:
                entry = await self._directory.get(key)
                if entry is None:
                    return
                row = decode(MailboxDatabase, entry.value)
                after = change(row.copy(self.me))
                if after == row.copy(self.me):
                    return
                value = encode(row.with_copy(self.me, after))
                result = await self._directory.txn({key: entry.revision, **self._own_guard()}, {key: value})
            except (OutcomeUnknown, Unavailable):
                await self.clock.sleep(0.1)
                continue
            if result.succeeded:
                self._learn(Entry(key, value, result.revision))
                return
        raise Unavailable(f"The settings of {database} could not be changed.", remedy="It is tried again.")

    def good_copies(self, database: str) -> tuple[int, int]:
        """The active and the members of its set whose servers hold their tenure."""
        row, held = self._organization.databases.get(database), self.held(database)
        if row is None or held is None:
            return 0, 0
        others = [one for one in row.servers if row.copy(one).replay_lag == 0]
        serving = {held.location.active, *(member.server for member in held.location.set)} - self.lost()
        return len(serving.intersection(others)), len(others)

    def seeding_from_me(self, database: str) -> bool:
        """By what the other copies say of themselves."""
        for server in self.copies(database):
            status = self._live.status(server).get(database) if server != self.me else None
            if status is not None and status.state is CopyState.SEEDING and status.seed_source == self.me:
                return True
        return False

    def shown_state(self, database: str) -> CopyState | None:
        """By our own status document."""
        status = self._live.status(self.me).get(database)
        return None if status is None else status.state

    async def floor(self, database: str) -> Progress | None:
        """The recorded progress, linearizable."""
        entry = await self._directory.get(keys.progress(database))
        return None if entry is None else decode(Progress, entry.value)

    def note_progress(self, database: str, progress: Progress) -> None:
        """Recorded each second, with the status."""
        self._publisher.note_progress(database, progress)

    def publish(self, database: str, *, epoch: int, single: bool) -> None:
        """Write the shared page of this host."""
        row = self._organization.databases.get(database)
        if row is not None:
            self._page.set_database(row.number, epoch=epoch, single=single)

    def incarnation(self, server: str, database: str) -> str | None:
        """What the server's agent last published."""
        status = self._live.status(server).get(database)
        return status.incarnation if status is not None and status.incarnation else None

    def lost(self) -> frozenset[str]:
        """Servers whose tenure was taken or given back."""
        gone = set()
        for name in self._organization.servers:
            fence = self._live.fence(name)
            if fence is not None and fence[0].state is not TenureState.UP:
                gone.add(name)
        return frozenset(gone)

    def tenure_epoch(self, server: str) -> int:
        """By the server's fence."""
        fence = self._live.fence(server)
        return fence[0].epoch if fence is not None else 0

    async def openings(self, server: str, database: str) -> list[tuple[Token, str]]:
        """Ask the server's agent for what its copy has replayed."""
        answer = await self._agents.call(server, "GET", f"/v1/copy/{database}/openings", timeout=0.5)
        return msgspec.convert(answer["openings"], list[tuple[Token, str]])

    async def stall_verdict(self, database: str, member: str, timeout: float) -> str | None:
        """Ask PAM (perhaps ourselves) about a living member that holds commits up."""
        view = self._view()
        if view.pam is None or view.pam == self.me:
            return await self.judge_stall(database, member)
        try:
            answer = await self._agents.call(
                view.pam, "POST", "/v1/stall", {"database": database, "member": member}, timeout=timeout
            )
        except EverpostError:
            return None
        verdict = answer.get("verdict")
        return verdict if isinstance(verdict, str) else None

    # -- what agents ask each other -----------------------------------------------------------------------------

    async def judge_stall(self, database: str, member: str) -> str | None:
        """PAM's word: whom can this host reach?"""
        held = self.held(database)
        if held is None:
            return None
        active, other = await asyncio.gather(self._reaches(held.location.active), self._reaches(member))
        complete = any(one.server == member for one in held.location.set)
        return setpolicy.stall_verdict(setpolicy.Reach(active=active, member=other), member_is_complete=complete)

    async def _reaches(self, server: str) -> bool:
        if server == self.me:
            return True
        try:
            await self._agents.call(server, "GET", "/v1/ping", timeout=REACH)
        except EverpostError:
            return False
        return True

    async def confirm(self, database: str, epoch: int) -> bool:
        """Whether a commit that had returned when this was asked counts as acknowledged (3.1): the copy is open here
        at that epoch, and its set was not empty or a renewal sent after now is confirmed."""
        asked = self.clock.boottime()
        number = self._organization.databases[database].number
        open_epoch, single = self._page.database(number)
        if open_epoch != epoch or not self._tenure.valid():
            return False
        if single:
            await self._tenure.confirmed_after(asked)
            open_epoch, _ = self._page.database(number)
        return open_epoch == epoch and self._tenure.valid()

    async def own_openings(self, database: str) -> list[tuple[Token, str]]:
        """The openings that our copy has replayed."""
        found = self._copies.get(database)
        return [] if found is None else await found[0].engine.openings()

    def statuses(self) -> list[CopyStatus]:
        """Our copies."""
        return self._publisher.statuses()

    async def shut_down(self, limit: float) -> None:
        """A clean stop: databases with another complete copy move there, each to the best of them; the others are
        simply closed by the warden and activated again at the next start."""
        end = self.clock.boottime() + limit
        going: list[str] = []
        view = self._view()
        load = bestcopy.load_of(view)
        rows = {row.database.name: row for row in view.databases}
        for name, (controller, _) in self._copies.items():
            held = controller.held
            if controller.open_at() is None or held is None or not held.location.set:
                continue
            row = rows.get(name)
            ranking = bestcopy.rank(view, row, leave=self.me, load=load) if row is not None else None
            if ranking is None or not ranking.candidates:
                why = ranking.explain() if ranking is not None else "its location is not known"
                fact(log, "not moved at stop", level=logging.WARNING, database=name, why=why)
                continue
            target = ranking.candidates[0].server
            load.setdefault(target, set()).add(name)
            try:
                await self.writer.change(
                    held,
                    partial(transitions.moving, target=target, reason=f"{self.me} stops"),
                    give_up=lambda: self.clock.boottime() > end,
                )
                going.append(name)
            except EverpostError as error:
                fact(log, "not moved at stop", database=name, why=str(error))
        while going and self.clock.boottime() < end:
            going = [
                name for name in going if (held := self.held(name)) is not None and held.location.active == self.me
            ]
            await self.clock.sleep(0.02)
        await self._leave_sets(end)

    async def _leave_sets(self, end: float) -> None:
        """Passive copies say that they go, so that nobody's commit waits a second for what is not coming back."""
        for name in self._copies:
            held = self.held(name)
            if held is None or not any(member.server == self.me for member in held.location.set):
                continue
            try:
                await self.writer.change(
                    held,
                    partial(transitions.shrunk, server=self.me, reason=f"{self.me} stops"),
                    give_up=lambda: self.clock.boottime() > end,
                )
            except EverpostError as error:
                fact(log, "did not leave the set at stop", database=name, why=str(error))

    def shut_page(self) -> None:
        """Nothing that was open here counts as open any more, and no role may answer."""
        self._page.set_deadline(0.0, 0)
        for database in self._organization.databases.values():
            self._page.set_database(database.number, epoch=0, single=True)

    def own_tenure(self) -> int:
        """Which tenure this server is in: what was opened in an earlier one is activated anew."""
        return self._tenure.epoch

    # -- loops --------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Something that concerns every copy changed."""
        self._changed.set()
        for controller, _ in self._copies.values():
            controller.wake()

    def saw(self, key: str) -> None:
        """A key of the directory changed: whom it concerns looks at once. Everybody else looks every TICK anyway, and
        dozens of keys change each second on an idle DAG."""
        if key.startswith(QUIET):
            return
        if key.startswith(keys.LOCATIONS):
            self._wake_copies({key.removeprefix(keys.LOCATIONS)})
        elif key.startswith(keys.STATUS):
            self._wake_copies(self._news(key.removeprefix(keys.STATUS)))
        else:
            self.wake()

    def _wake_copies(self, databases: Collection[str]) -> None:
        if databases:
            self._changed.set()
        for name in databases:
            found = self._copies.get(name)
            if found is not None:
                found[0].wake()

    def _news(self, server: str) -> set[str]:
        """The databases of which the server's status says more than new positions."""
        rows = self._live.status(server)
        facts: dict[str, tuple[object, ...]] = {
            name: (row.state, row.incarnation, row.token, row.seed_source, row.error) for name, row in rows.items()
        }
        before = self._told.get(server, {})
        self._told[server] = facts
        return {name for name in facts.keys() | before.keys() if facts.get(name) != before.get(name)}

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._decide_forever())
            group.create_task(self._publisher.run())
            group.create_task(self._manage_copies_forever(group))

    def _dag(self) -> DatabaseAvailabilityGroup | None:
        return next((dag for dag in self._organization.dags.values() if self.me in dag.members), None)

    def _view(self) -> View:
        return self._gatherer.view(
            self.clock.boottime(),
            self._dag(),
            self._organization.databases,
            self._organization.locations,
            self._expired,
            self._organization.servers,
            self._organization.maintenance,
        )

    async def _decide_forever(self) -> None:
        while True:
            self._changed.clear()
            if self._tenure.valid():
                view = self._view()
                await self._performer.perform_all(decide(view), view)
                self._say_who_waits(view)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DECIDE_EVERY):
                    await self._changed.wait()

    def _say_who_waits(self, view: View) -> None:
        waiting = stuck(view)
        for database, why in waiting.items():
            if self._waiting.get(database) != why:
                fact(log, "no copy can be activated", level=logging.ERROR, database=database, why=why)
        self._waiting = waiting

    async def _manage_copies_forever(self, group: asyncio.TaskGroup) -> None:
        while True:
            wanted = {
                name: database for name, database in self._organization.databases.items() if self.me in database.servers
            }
            for name, database in wanted.items():
                if name not in self._copies:
                    controller = CopyController(name, self._engines(database), self, self._prepare, self._upkeep)
                    self._copies[name] = (controller, group.create_task(controller.run()))
            for name in list(self._copies):
                if name not in wanted:
                    controller, task = self._copies.pop(name)
                    task.cancel()
                    await controller.engine.kill()
                    fact(log, "copy removed; its files stay", database=name)
            await self.clock.sleep(0.2)
