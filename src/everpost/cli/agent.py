"""The agent of a host: directory membership, tenure, Active Manager, and the ports for other agents and commands."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import asyncpg

from everpost import __version__
from everpost.activemanager.coordination import Coordination
from everpost.activemanager.gather import Live
from everpost.activemanager.peers import Agents
from everpost.activemanager.service import ActiveManager
from everpost.cli import wiring
from everpost.cli.agent_api import AgentApi
from everpost.cli.voters import VoterKeeper
from everpost.clock import SystemClock
from everpost.databases import binaries
from everpost.databases.engine import PostgresEngine
from everpost.databases.warden_client import WardenClient
from everpost.directory import keys
from everpost.directory.cache import DirectoryCache
from everpost.directory.page import SharedPage
from everpost.directory.schema import OrganizationView, decode
from everpost.directory.tenure import Challengers, Tenure, TenureLost
from everpost.errors import EverpostError
from everpost.log import configure, fact
from everpost.model.array import HolderRecord
from everpost.model.database import CopyStatus, MailboxDatabase, Opening
from everpost.model.dns import DnsUpdater
from everpost.model.server import Role
from everpost.model.tenure import FencingRecord, TenureState
from everpost.monitoring import metrics
from everpost.monitoring.catalogue import Kind
from everpost.monitoring.monitor import Monitor
from everpost.net import tls
from everpost.settings import DEFAULT_PATH, ServerSettings, load
from everpost.store.migrate import covered, migrate, upkeep

log = logging.getLogger(__name__)

CLIENT_ROLES = {Role.CLIENT_ACCESS, Role.HUB_TRANSPORT}
ENDS = 5.0
"""Seconds in which the tasks of an agent that stops must have ended."""
REMOVED_LOOK = 10.0
"""Seconds between looks whether a host that was removed belongs to the organisation again."""


class WardenChanged(EverpostError):
    """The warden that holds this agent's deadlines is not the one that this agent began with."""


class NotInOrganization(EverpostError):
    """This host's document is gone: it was removed."""


class Agent:
    """One host's agent. A witness host has one too, without tenure and databases; one that only serves clients has a
    tenure."""

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self.clock = SystemClock()
        self.directory = wiring.open_directory(settings)
        # Watching has connections of its own: which members it found silent must not delay a renewal of the tenure.
        self._watching = wiring.open_directory(settings)
        self.organization = OrganizationView()
        self.manager: ActiveManager | None = None
        self.tenure: Tenure | None = None
        self.challengers: Challengers | None = None
        self._live_cache = DirectoryCache(self.directory, keys.ROOT, on_change=self._on_live_change)
        self.live = Live(self._live_cache.get)
        self.agents = Agents(self.organization.servers.get, tls.client_context(settings.tls_dir))
        self.voters = VoterKeeper(settings, self._watching, self.organization, self.agents)
        self.monitor = Monitor(
            settings.name,
            directory=self._watching,
            clock=self.clock,
            organization=self.organization,
            entries=lambda: self._live_cache.list(keys.JOURNAL),
            live=self,
            agents=self.agents,
            voters=self.voters,
        )
        self._warden = WardenClient(settings.warden_socket)
        self.coordination = Coordination(
            settings.name,
            directory=self._watching,
            servers=lambda: self.organization.servers,
            agents=self.agents,
            clock=self.clock,
            path=wiring.dac_file(settings),
            unbroken=self._unbroken,
        )

    # -- what commands and other agents see (manage.context.LiveState) -------------------------------------------

    def holds_tenure(self, server: str) -> bool:
        """Whether it renews, as far as this host saw."""
        fence = self.live.fence(server)
        if fence is None or fence[0].state is not TenureState.UP:
            return False
        if server == self.settings.name and self.tenure is not None:
            return self.tenure.valid()
        return self.challengers is None or not self.challengers.expired(server)

    def pam(self, dag: str) -> str | None:
        """Which member is PAM."""
        found = self.live.pam(dag)
        return None if found is None else found[0].holder

    def statuses(self, server: str) -> Mapping[str, CopyStatus]:
        """A server's copies as last published."""
        return self.live.status(server)

    def record(self, kind: Kind, text: str, **facts: str) -> None:
        """Into the journal."""
        self.monitor.journal.record(kind, text, **facts)

    def reading(self) -> metrics.Reading:
        """What /metrics shows."""
        dag = self.organization.dag_of(self.settings.name)
        return metrics.Reading(
            server=self.settings.name,
            version=__version__,
            tenure=self.tenure.valid() if self.tenure is not None else None,
            longest_gap=self.tenure.longest_gap if self.tenure is not None else 0.0,
            may_mount=self.coordination.bit,
            pam=dag is not None and self.pam(dag.name) == self.settings.name,
            copies=tuple(self.manager.statuses()) if self.manager is not None else (),
            good={name: len(good) for name, good in self.monitor.good_copies().items()},
            voters=self.monitor.voter_health,
            alarms=tuple(self.monitor.standing()),
        )

    async def cover(self) -> bool:
        """Whether this host held its tenure at some moment after this was asked (3.8)."""
        if self.tenure is None:
            return False
        await self.tenure.confirmed_after(self.clock.boottime())
        return self.tenure.valid()

    async def _unbroken(self) -> bool:
        """Whether the tenure in the directory is still the one that our warden, which outlives the agent, guards."""
        if self.tenure is None:
            return False
        entry = await self.directory.get(keys.fence(self.settings.name))
        fence = decode(FencingRecord, entry.value) if entry is not None else None
        return fence is not None and fence.state is TenureState.UP and fence.instance == self.tenure.instance

    # -- changes -------------------------------------------------------------------------------------------------

    def _on_live_change(self, key: str, entry: object) -> None:
        from everpost.directory.interface import Entry

        found = entry if isinstance(entry, Entry) else None
        self.organization.apply(key, found)
        held = self.organization.locations.get(key.removeprefix(keys.LOCATIONS)) if found is not None else None
        if held is not None and key.startswith(keys.LOCATIONS):
            self.monitor.location_changed(held[0])
        if found is not None and key.startswith(keys.ARRAYS) and key.endswith("/holder"):
            self.monitor.array_changed(decode(HolderRecord, found.value))
        if found is not None and key == keys.DNS_UPDATER:
            self.monitor.dns_changed(decode(DnsUpdater, found.value))
        if self.challengers is not None:
            self.challengers.on_change(key, found)
        if self.manager is not None:
            self.manager.saw(key)

    def _wake_manager(self) -> None:
        if self.manager is not None:
            self.manager.wake()

    # -- life ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until SIGTERM."""
        stop = wiring.stop_event()
        api = AgentApi(self)
        await api.start()
        work = asyncio.create_task(self._work())
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
            await self._close_cleanly()
        finally:
            await self._end(work)
            await api.stop()
            await self.agents.close()
            await self.directory.close()
            await self._watching.close()

    async def _end(self, work: asyncio.Task[None]) -> None:
        """Cancel it until it ends. A library may swallow a cancellation at the moment of its own timeout, and a task
        group cancels its tasks once: such an agent would neither work nor be started again."""
        end = self.clock.boottime() + ENDS
        while not work.done():
            work.cancel()
            await asyncio.wait({work}, timeout=0.5)
            if not work.done() and self.clock.boottime() > end:
                fact(log, "the agent does not end and is ended", level=logging.ERROR, seconds=ENDS)
                os._exit(4)

    async def _work(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(wiring.follow_voters(self.settings, self.directory))
            group.create_task(wiring.follow_voters(self.settings, self._watching))
            await self.voters.write_first_documents()
            group.create_task(self._live_cache.run())
            await self._live_cache.wait_synced()
            group.create_task(self.voters.run())
            if Role.MAILBOX in self.settings.roles:
                await self._run_mailbox_role(group)
            elif CLIENT_ROLES & set(self.settings.roles):
                self._run_client_roles(group)

    def _run_client_roles(self, group: asyncio.TaskGroup) -> None:
        """A host that serves clients and has no databases holds a tenure as well: what its roles answer is covered by
        it (3.8), and they wait for the page. There is no warden, as nothing has to be killed at the deadline."""
        page = SharedPage(self.settings.shared_page, writable=True)
        instance = f"agent {uuid.uuid4().hex}"
        self.tenure = Tenure(self.directory, self.clock, self.settings.name, instance, self.settings.timing)
        group.create_task(self._hold_tenure(page))

    async def _run_mailbox_role(self, group: asyncio.TaskGroup) -> None:
        settings = self.settings
        page = SharedPage(settings.shared_page, writable=True)
        programs = binaries.find(settings.postgres_bin)
        instance = await self._warden_identity()
        self.tenure = Tenure(self.directory, self.clock, settings.name, instance, settings.timing)

        def own_guard() -> Mapping[str, int]:
            assert self.tenure is not None
            return {keys.fence(settings.name): self.tenure.fence_revision}

        self.challengers = Challengers(
            self.directory,
            self.clock,
            settings.name,
            settings.timing,
            fence=lambda server: self._live_cache.get(keys.fence(server)),
            own_guard=own_guard,
            learn=self._live_cache.learn,
        )
        for entry in self._live_cache.list(keys.TENURES):
            self.challengers.on_change(entry.key, entry)

        def engine(database: MailboxDatabase) -> PostgresEngine:
            return PostgresEngine(
                database=database.name,
                server=settings.name,
                data_dir=settings.data_dir,
                run_dir=settings.run_dir,
                tls_dir=settings.tls_dir,
                addresses=[settings.address, settings.replication_address],
                port=settings.ports.postgres + database.number,
                binaries=programs,
                warden=self._warden,
                keep_logs=settings.keep_logs,
            )

        self.manager = ActiveManager(
            settings.name,
            clock=self.clock,
            directory=self.directory,
            organization=self.organization,
            live=self.live,
            tenure=self.tenure,
            taker=self.challengers,
            expired=self.challengers.expired,
            page=page,
            agents=self.agents,
            engines=engine,
            prepare=prepare_store,
            upkeep=keep_store,
            learn=self._live_cache.learn,
            scrub_every=settings.scrub_days * 86400.0,
            lag_low_space=int(settings.low_space_gb * 1024**3),
            copy_event=self.monitor.copy_changed,
        )
        group.create_task(self._hold_tenure(page))
        group.create_task(self.coordination.remember_forever())
        group.create_task(self.monitor.run())
        group.create_task(self.manager.run())

    async def _warden_identity(self) -> str:
        while True:
            try:
                return await self._warden.identity()
            except EverpostError as error:
                fact(log, "waiting for the warden", why=str(error))
                await self.clock.sleep(0.2)

    async def _hold_tenure(self, page: SharedPage) -> None:
        """Acquire, renew until it is lost, and again; the databases follow by `tenure.valid()`."""
        assert self.tenure is not None
        tenure = self.tenure
        instance = tenure.instance
        guarded = Role.MAILBOX in self.settings.roles

        async def before_renew() -> bool:
            self._must_belong()
            if not guarded:
                return True
            try:
                found = await self._warden.identity()
            except EverpostError:
                return False
            if found != instance:
                raise WardenChanged(f"The warden was replaced; {self.settings.name} begins a new tenure.")
            return True

        async def on_confirmed(until: float, epoch: int) -> None:
            if guarded:
                await self._warden.deadline(until)
            page.set_deadline(until, epoch)
            if not tenure.valid():  # it is as soon as this returns
                asyncio.get_running_loop().call_soon(self._wake_manager)

        await self.coordination.wait_allowed()  # before any tenure: without one nothing is activated or served
        while True:
            try:
                self._must_belong()
                await tenure.acquire()
                await tenure.renew_forever(before_renew, on_confirmed)
            except TenureLost:
                fact(log, "tenure lost", level=logging.ERROR, server=self.settings.name, epoch=tenure.epoch)
                page.set_deadline(0.0, 0)
                if self.manager is not None:
                    self.manager.shut_page()  # before a new tenure could make old epochs look confirmed
                self._wake_manager()
            except WardenChanged as error:
                # The new warden killed every postmaster that the old one left; a new agent begins with its identity.
                # At once, as if it had been killed: what it has begun is looked at anew by the next one in any case.
                fact(log, "agent ends", level=logging.WARNING, why=str(error))
                self._exit_now()
            except NotInOrganization as error:
                fact(log, "tenure not held", level=logging.ERROR, why=str(error))
                self._wake_manager()
                await self.clock.sleep(REMOVED_LOOK)
            except EverpostError as error:
                fact(log, "tenure not held", level=logging.WARNING, why=str(error))
            await self.clock.sleep(0.2)

    def _exit_now(self) -> NoReturn:
        """Without a word to its tasks."""
        os._exit(3)

    def _must_belong(self) -> None:
        """A host that was removed leaves: it renews no more, so the warden closes what is open."""
        if self.settings.name not in self.organization.servers:
            raise NotInOrganization(
                f"{self.settings.name} was removed from the organisation.",
                remedy="Stop it here, or join it again in folders of their own.",
            )

    async def _close_cleanly(self) -> None:
        """SIGTERM: what is active here is handed over or closed, then the tenure is given back."""
        if self.manager is not None and self.tenure is not None and self.tenure.valid():
            await self.manager.shut_down(limit=15.0)
            await self.tenure.stop()  # no renewal may set the deadline again behind this
            self.manager.shut_page()
            await self.tenure.release()
        elif self.tenure is not None and self.manager is None:
            await self.tenure.release()


async def prepare_store(connection: object, opening: Opening) -> None:
    """Bring the store's schema up to date in the opening transaction."""
    assert isinstance(connection, asyncpg.Connection)
    await migrate(connection, lossy=opening.lossy, anew=opening.until is not None)


async def keep_store(connection: object, complete: bool) -> None:
    """The store's daily work. `complete`: no copy lacks anything."""
    assert isinstance(connection, asyncpg.Connection)
    if complete:
        await covered(connection)
    await upkeep(connection)


def main(argv: list[str] | None = None) -> None:
    """`python -m everpost.cli.agent --config PATH`."""
    parser = argparse.ArgumentParser(prog="everpost-agent")
    parser.add_argument("--config", type=Path, default=DEFAULT_PATH)
    settings = load(parser.parse_args(argv).config)
    configure(settings.log_format)
    asyncio.run(Agent(settings).run())


if __name__ == "__main__":
    main()
