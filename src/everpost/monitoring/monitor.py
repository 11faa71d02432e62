"""The monitor of one server: looks at voters, witness and copies, raises alarms, and writes the journal.

Every server looks, so that each shows the alarms; what belongs in the journal is written by the Primary Active Manager.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any

from everpost.clock import Clock
from everpost.directory.interface import Directory, Entry
from everpost.directory.schema import OrganizationView
from everpost.errors import EverpostError
from everpost.model import quorum
from everpost.model.array import HolderRecord, HolderState
from everpost.model.database import CopyStatus, Location
from everpost.model.dns import DnsUpdater
from everpost.model.server import DatabaseAvailabilityGroup
from everpost.monitoring import catalogue
from everpost.monitoring.alarms import REDUNDANCY_RED, VOTER_RED, Alarms, Change, Move, Movements, good_copies
from everpost.monitoring.catalogue import Kind
from everpost.monitoring.dns import DnsAlarms
from everpost.monitoring.journal import Journal
from everpost.monitoring.mail import Mailer
from everpost.monitoring.observe import witness_error

log = logging.getLogger(__name__)

LOOK_EVERY = 2.0
WITNESS_EVERY = 10.0
"""Seconds between durable writes in the witness directory (P9)."""
_MOVES = {"failover": catalogue.FAILOVER, "switchover": catalogue.SWITCHOVER, "remount": catalogue.REMOUNTED}


class Monitor:
    """`entries(prefix)` lists cached documents; `live` says who holds tenure, who is PAM, and what copies say."""

    def __init__(
        self,
        me: str,
        *,
        directory: Directory,
        clock: Clock,
        organization: OrganizationView,
        entries: Callable[[], Iterable[Entry]],
        live: Any,
        agents: Any,
        voters: Any,
    ) -> None:
        self.me = me
        self.organization = organization
        self.live = live
        self.agents = agents
        self.voters = voters
        self._clock = clock
        self.journal = Journal(directory, me, clock, entries)
        self._mailer = Mailer(
            me,
            directory,
            clock,
            known=entries,
            organization=lambda: organization.organization,
            servers=lambda: organization.servers.values(),
            responsible=self.writes,
        )
        self._movements = Movements()
        self._array_epochs: dict[str, tuple[int, HolderState]] = {}
        self._voter_alarms = Alarms(VOTER_RED)
        self._witness_alarms = Alarms(0.0)
        self._copy_alarms = Alarms(REDUNDANCY_RED)
        self._dns = DnsAlarms()
        self._servers = Alarms(0.0, repeat=float("inf"))
        self._witness_at = 0.0
        self._pam: str | None = None
        self.voter_health: dict[str, bool] = {}

    @property
    def dag(self) -> DatabaseAvailabilityGroup | None:
        """This server's DAG."""
        return self.organization.dag_of(self.me)

    def writes(self) -> bool:
        """Whether this server writes what concerns the whole DAG: the PAM, or a server without a DAG."""
        dag = self.dag
        return dag is None or self.live.pam(dag.name) == self.me

    def standing(self) -> dict[str, str]:
        """Alarms that stand, for the banner of every command."""
        alarms = (self._voter_alarms, self._witness_alarms, self._copy_alarms, self._dns)
        return {name: text for one in alarms for name, text in one.standing.items()}

    # -- what happened ------------------------------------------------------------------------------------------

    def location_changed(self, location: Location) -> None:
        """To be told of each location record, in order."""
        move = self._movements.saw(location)
        if move is not None and self._concerns(move):
            self.journal.record(
                _MOVES[move.kind],
                self._sentence(move),
                database=move.database,
                server_before=move.before,
                server=move.after,
                epoch=move.epoch,
                reason=move.reason,
            )

    def copy_changed(self, database: str, failed: bool, why: str) -> None:
        """To be told, once for each change, that this server's copy of a database failed or is well again. Every server
        writes of its own copies: nobody else sees each of their states."""
        name = f"{database}\\{self.me}"
        if failed:
            self.journal.record(
                catalogue.COPY_FAILED, f"The copy {name} failed: {why}", database=database, server=self.me, reason=why
            )
        else:
            self.journal.record(
                catalogue.COPY_WELL, f"The copy {name} is well again", database=database, server=self.me
            )

    def array_changed(self, record: HolderRecord) -> None:
        """To be told of each holder record of an array, in order. The server that it names writes the event; when a
        server begins, what it sees first is no news."""
        known = self._array_epochs.get(record.array)
        now = (record.epoch, record.state)
        if known is not None and (now == known or now[0] < known[0]):
            return
        self._array_epochs[record.array] = now
        if record.holder != self.me or (known is None and record.epoch > 1):
            return
        array = self.organization.arrays.get(record.array)
        name = array.name if array is not None else record.array
        held = record.state is HolderState.HELD
        if not held and record.target:
            return  # a move: its arrival is the event
        where = f"from {record.before} to {record.holder}" if record.before else f"to {record.holder}"
        text = f"was moved {where}" if held else f"was given up by {record.holder}"
        self.journal.record(
            catalogue.ARRAY_MOVED if held else catalogue.ARRAY_OFFLINE,
            f"The address of {name} {text}: {record.reason}",
            mail_to=array.mail_to if array is not None else "",
            mail_from=array.mail_from if array is not None else "",
            array=name,
            address=array.ip if array is not None else "",
            server_before=record.before,
            server=record.holder,
            epoch=record.epoch,
            reason=record.reason,
        )

    def dns_changed(self, record: DnsUpdater) -> None:
        """To be told of each record of the server that keeps the DNS records."""
        self._dns.saw(record, self._clock.boottime())

    def _concerns(self, move: Move) -> bool:
        dag = self.organization.dag_of(move.after)
        return move.after == self.me if dag is None else dag == self.dag and self.writes()

    @staticmethod
    def _sentence(move: Move) -> str:
        if move.kind == "remount":
            return f"{move.database} was mounted anew on {move.after}: {move.reason}"
        what = "failed over" if move.kind == "failover" else "was moved"
        return f"{move.database} {what} from {move.before} to {move.after}: {move.reason}"

    # -- looks --------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.journal.run())
            group.create_task(self._mailer.run())
            group.create_task(self._look_forever())

    async def _look_forever(self) -> None:
        while True:
            try:
                await self._look()
            except EverpostError as error:
                log.debug("monitor: %s", error)
            except Exception:  # a monitor that ends by a fault of its own would be the quietest alarm of all
                log.exception("monitor")
            await self._clock.sleep(LOOK_EVERY)

    async def _look(self) -> None:
        now = self._clock.boottime()
        self._tell(self._copy_alarms.look(now, self._thin_databases()), catalogue.REDUNDANCY_RED,
                   catalogue.REDUNDANCY_GREEN, "{} has two or more good copies again")  # fmt: skip
        self._dns.look(now, self.organization.dns_zones, self._tell_dns)
        dag = self.dag
        if dag is None:
            return
        gone = {name: f"{name} lost its tenure" for name in dag.members if not self.live.holds_tenure(name)}
        self._tell(self._servers.look(now, gone), catalogue.SERVER_LOST, catalogue.SERVER_BACK,
                   "{} holds its tenure again")  # fmt: skip
        pam = self.live.pam(dag.name)
        if pam == self.me != self._pam:
            self.journal.record(catalogue.PAM_CHANGED, f"{self.me} is the Primary Active Manager", dag=dag.name)
        self._pam = pam
        await self._look_at_voters(dag, now)
        if now - self._witness_at >= WITNESS_EVERY:
            self._witness_at = now
            await self._look_at_witness(dag, now)

    def _thin_databases(self) -> dict[str, str]:
        """Replicated databases of this DAG, or server, with fewer than two copies that could serve."""
        faults = {}
        for name, good in self.good_copies().items():
            database = self.organization.databases[name]
            if len(good) < 2:
                where = f"only {good[0]}" if good else "no server"
                faults[name] = f"{name} has {len(good)} of {len(database.servers)} good copies: {where} could serve it"
        return faults

    def good_copies(self) -> dict[str, list[str]]:
        """Servers with a good copy, of each replicated database of this DAG."""
        dag = self.dag
        members = set(dag.members) if dag is not None else {self.me}
        alive = {name for name in members if self.live.holds_tenure(name)}
        found = {}
        for name, database in self.organization.databases.items():
            if len(database.servers) < 2 or not members & set(database.servers):
                continue
            held = self.organization.locations.get(name)
            statuses: dict[str, CopyStatus] = {}
            for server in database.servers:
                status = self.live.statuses(server).get(name)
                if status is not None:
                    statuses[server] = status
            found[name] = good_copies(database, held[0] if held is not None else None, alive, statuses)
        return found

    async def _look_at_voters(self, dag: DatabaseAvailabilityGroup, now: float) -> None:
        """Raises Unavailable without quorum: then nothing can be written either."""
        found = self.voter_health = await self.voters.health()
        servers = self.organization.servers
        wanted = quorum.wanted_voters(dag, lambda name: servers[name].site if name in servers else "")
        left = quorum.tolerance(list(found), [name for name in found if found[name]])
        outlook = "the next loss stops every database" if left <= 0 else f"{left} more may be lost"
        faults = {}
        for name in wanted:
            what = "witness" if name == dag.witness_server else "voter"
            if name not in found:
                faults[f"voter {name}"] = f"{name} should vote as a {what} of {dag.name} and does not; {outlook}"
            elif not found[name]:
                faults[f"voter {name}"] = f"{name}, a {what} of {dag.name}, does not answer; {outlook}"
        if len(wanted) % 2 == 0 and wanted:
            faults["no witness"] = f"{dag.name} has an even number of members and no witness; {outlook}"
        self._tell(self._voter_alarms.look(now, faults), catalogue.VOTER_MISSING, catalogue.VOTER_BACK,
                   "{} answers again")  # fmt: skip

    async def _look_at_witness(self, dag: DatabaseAvailabilityGroup, now: float) -> None:
        votes = quorum.model_of(dag) is quorum.QuorumModel.NODE_AND_FILE_SHARE_MAJORITY
        error = await witness_error(self.agents, dag) if votes else ""
        faults = {"witness directory": f"the witness of {dag.name} does not work: {error}"} if error else {}
        self._tell(self._witness_alarms.look(now, faults), catalogue.WITNESS_FAILED, catalogue.WITNESS_WORKS,
                   "the {} takes writes again")  # fmt: skip

    def _tell_dns(self, changes: dict[str, Change], red: Kind, green: Kind, over: str) -> None:
        writer = self._dns.writer(self._clock.boottime())
        if writer == self.me or (writer is None and self.writes()):
            self._record(changes, red, green, over)

    def _tell(self, changes: dict[str, Change], red: Kind, green: Kind, over: str) -> None:
        if self.writes():
            self._record(changes, red, green, over)

    def _record(self, changes: dict[str, Change], red: Kind, green: Kind, over: str) -> None:
        for name, change in changes.items():
            kind, text = (red, change.text) if change.red else (green, over.format(name.removeprefix("voter ")))
            self.journal.record(kind, text, subject=name)
