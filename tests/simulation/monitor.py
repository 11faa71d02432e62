"""What must always be true, looked at whenever something changes that it depends on, and after each step."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple

from everpost.directory import keys
from everpost.directory.interface import Event
from everpost.directory.schema import decode
from everpost.model.database import Location, LocationState, Token
from everpost.model.tenure import FencingRecord, TenureState
from tests.simulation.postgres import Instance, standby_name
from tests.simulation.storage import Record, Storage

if TYPE_CHECKING:
    from tests.simulation.host import Host
    from tests.simulation.world import World

SHOWN = (LocationState.OPEN, LocationState.MOVING)
EXCUSE = 15.0
"""Seconds for which a read may be out of date after its machine, or its warden, stood still."""
NEWEST = 8
"""Acknowledged operations that are looked for after each step; all of them at each change of a record."""


class Operation:
    """One change that a client asked for."""

    __slots__ = ("acknowledged_at", "begun", "database", "number", "record", "token")

    def __init__(self, number: int, database: str, token: Token, begun: float) -> None:
        self.number = number
        self.database = database
        self.token = token
        self.begun = begun
        self.record: Record | None = None
        self.acknowledged_at = 0.0


def _in(storage: Storage, operation: Operation) -> bool:
    assert operation.record is not None
    return storage.contains(operation.record)


class Read(NamedTuple):
    """What a client on `reader` was shown by the copy on `server`."""

    database: str
    token: Token
    server: str
    reader: str
    begun: float
    operations: list[Operation]


class Watched:
    """One database: its true record, and what clients were told of it."""

    def __init__(self) -> None:
        self.location: Location | None = None
        self.past: list[Location] = []
        self.acknowledged: list[Operation] = []
        self.seen: dict[Operation, None] = {}
        self.opened: list[tuple[Token, float]] = []
        self.lost_before: float | None = None
        """When an administrator accepted loss; None once that copy is open."""
        self.loss_at = Token(0, 0)
        """Token of the newest opening with loss."""
        self.lost: list[Operation] = []
        """Acknowledged, and left behind by an opening with loss."""


class Monitor:
    """Raises nothing itself: the first violation is kept, and `World` ends the run with it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.databases: dict[str, Watched] = {}
        self._fences: dict[str, int] = {}
        self._down: dict[str, float] = {}
        self.violation: str | None = None
        self.trace = hashlib.blake2b(digest_size=16)
        self.lines: list[str] = []
        self.keep_lines = False
        self.counts: dict[str, int] = {}

    # -- notes ---------------------------------------------------------------------------------------------------

    def note(self, kind: str, text: str = "") -> None:
        """Something happened: part of the trace by which two runs are compared."""
        line = f"{self._world.loop.now:.6f} {kind} {text}"
        self.trace.update(line.encode())
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if self.keep_lines:
            self.lines.append(line)

    def fault(self, what: str) -> None:
        """The first is kept."""
        self.note("VIOLATION", what)
        if self.violation is None:
            self.violation = f"at {self._world.loop.now:.3f} s: {what}"

    # -- the directory -------------------------------------------------------------------------------------------

    def on_change(self, event: Event) -> None:
        """Told by the directory at the moment of each change."""
        key = event.entry.key
        if key.startswith(keys.LOCATIONS):
            self._location(decode(Location, event.entry.value))
        elif key.startswith(keys.FENCES):
            fence = decode(FencingRecord, event.entry.value)
            self.note("fence", f"{fence.server} {fence.epoch} {fence.state}")
            if fence.epoch <= self._fences.get(fence.server, 0):
                self.fault(
                    f"the epoch of {fence.server}'s tenure went from {self._fences[fence.server]} to {fence.epoch}"
                )
            self._fences[fence.server] = fence.epoch
            if fence.state is TenureState.UP:
                self._down.pop(fence.server, None)
            else:
                self._down.setdefault(fence.server, self._world.loop.now)

    def _location(self, location: Location) -> None:
        name = location.database
        watched = self.databases.setdefault(name, Watched())
        before, watched.location = watched.location, location
        watched.past.append(location)
        members = ",".join(member.server for member in location.set)
        self.note("location", f"{name} {location.state} {location.active} {location.token} set {members}")
        if before is not None and location.token < before.token:
            self.fault(f"the token of {name} went back from {before.token} to {location.token}")
        if before is not None and location.active != before.active and location.token == before.token:
            self.fault(f"{name} changed its active at one token {location.token}")
        if location.lossy and watched.lost_before is None:
            watched.lost_before = self._world.loop.now
        # With a dismount ordered it is recorded as on its way to being closed, and is an opening all the same.
        opened = location.state in SHOWN and (before is None or before.state is LocationState.ACTIVATING)
        if opened:
            watched.opened.append((location.token, self._world.loop.now))
            self._look_at_opening(watched, location)
        self._look_at_eligible(watched, watched.acknowledged)
        instance = self._world.instance(location.active, name)
        if instance is not None:
            self.names_changed(instance)

    def _look_at_opening(self, watched: Watched, location: Location) -> None:
        storage = self._world.hosts[location.active].storage(location.database)
        if location.openings[-1].until is not None:
            self._look_at_point(watched, location, storage, location.openings[-1].until)
        if watched.lost_before is not None:
            # With an administrator's word: what is missing may be missing, if it was acknowledged before that word.
            before, watched.lost_before, watched.loss_at = watched.lost_before, None, location.token
            watched.lost += [one for one in watched.acknowledged if not _in(storage, one)]
            watched.acknowledged = [
                one for one in watched.acknowledged if one.acknowledged_at > before or _in(storage, one)
            ]
            watched.seen = {one: None for one in watched.seen if _in(storage, one)}
        for kind, operations in (("acknowledged", watched.acknowledged), ("read", list(watched.seen))):
            for operation in operations:
                if not _in(storage, operation):
                    self.fault(
                        f"{location.database} was opened at {location.token} on {location.active} without"
                        f" operation {operation.number}, which was {kind} at {operation.token}"
                    )
                    return

    def _look_at_point(self, watched: Watched, location: Location, storage: Storage, until: float) -> None:
        """Opened as it was at a point in time: all that was acknowledged and committed by then, nothing later."""
        self.note("in the past", location.database)
        for operation in watched.acknowledged:
            assert operation.record is not None
            committed, there = operation.record.at, _in(storage, operation)
            if there != (committed <= until):
                self.fault(
                    f"{location.database} was opened as it was at {until:.3f} s, and operation {operation.number},"
                    f" committed at {committed:.3f} s, is {'' if there else 'not '}there"
                )
                return
        for record in storage.wal:
            if record.kind == "op" and record.at > until:
                self.fault(f"{location.database} was opened as it was at {until:.3f} s with a change from {record.at}")
                return

    def _look_at_eligible(self, watched: Watched, operations: list[Operation]) -> None:
        """Every copy that may be activated without loss has everything acknowledged, durably (3.1, 3.2, 3.5)."""
        location = watched.location
        assert location is not None
        for member in location.eligible:
            storage = self._world.hosts[member.server].storage(location.database)
            if storage.incarnation != member.incarnation:
                self.fault(f"{member.server}'s files of {location.database} changed while they were eligible")
                return
            for operation in operations:
                if not _in(storage, operation):
                    self.fault(
                        f"{member.server}'s copy of {location.database} is eligible at {location.token} without"
                        f" operation {operation.number}, which was acknowledged at {operation.token}"
                    )
                    return

    def files_go(self, host: Host, database: str) -> None:
        """Files are about to be rewound, wiped or replaced: never those of a losing copy (3.4)."""
        storage = host.storage(database)
        for operation in self.databases[database].lost if database in self.databases else ():
            if _in(storage, operation):
                self.fault(
                    f"{host.name}'s files of {database} are given up, and operation {operation.number}, acknowledged"
                    f" at {operation.token} and left behind by an activation with loss, is in there"
                )
                return

    def files_changed(self, host: Host, database: str) -> None:
        """Files were rewound, wiped or replaced."""
        self.note("files", f"{host.name} {database}")
        watched = self.databases[database]
        self._look_at_eligible(watched, watched.acknowledged)

    # -- names ---------------------------------------------------------------------------------------------------

    def names_changed(self, instance: Instance) -> None:
        """The names that hold commits back always contain the recorded set (3.2)."""
        location = self.databases[instance.database].location
        host = instance.host
        if (
            location is None
            or location.state not in SHOWN
            or location.active != host.name
            or instance.label != location.token
            or instance.closing
            or not instance.process.alive
        ):
            return
        wanted = {
            standby_name(instance.database, member.server, member.incarnation, location.token)
            for member in location.set
        }
        number = self._world.numbers[instance.database]
        epoch, single = host.page.database(number)
        if epoch == location.token.epoch and not single and not instance.waiting_defined:
            self.fault(f"commits to {instance.database} on {host.name} return alone, and the page does not say so")
        if not wanted:
            return
        if not instance.waiting_defined:
            self.fault(f"{instance.database} has the set {sorted(wanted)} and its commits wait for nobody")
        elif not wanted <= set(instance.storage.names):
            self.fault(f"{instance.database} has the set {sorted(wanted)} and the names {instance.storage.names}")
        for stream in instance.streams:
            if stream.name in stream.names and not wanted <= set(stream.names):
                self.fault(
                    f"a walsender of {instance.database} releases by {stream.names} with the set {sorted(wanted)}"
                )

    # -- clients -------------------------------------------------------------------------------------------------

    def acknowledged(self, operation: Operation) -> None:
        """A client was told that its change is kept."""
        watched = self.databases[operation.database]
        self.note("acknowledged", f"{operation.database} {operation.number} {operation.token}")
        for token, at in watched.opened:
            if token > operation.token and at < operation.begun:
                self.fault(
                    f"operation {operation.number} on {operation.database} began after {token} was opened and was"
                    f" acknowledged at {operation.token}"
                )
        location = watched.location
        assert location is not None
        if location.token == operation.token and location.single:
            down = self._down.get(location.active)
            if down is not None and down < operation.begun:
                self.fault(
                    f"operation {operation.number} on {operation.database} was acknowledged by {location.active} alone,"
                    f" whose tenure had been taken at {down:.3f} s, before it began"
                )
        operation.acknowledged_at = self._world.loop.now
        watched.acknowledged.append(operation)
        watched.seen.pop(operation, None)
        self._look_at_eligible(watched, [operation])

    def saw(self, read: Read) -> None:
        """A client was shown the newest changes."""
        watched = self.databases[read.database]
        self.note("read", f"{read.database} {len(read.operations)}")
        if read.token >= watched.loss_at:  # what a machine that stood still shows of a branch that was given up is gone
            watched.seen.update(dict.fromkeys(read.operations))
        if read.token == watched.opened[-1][0] or self._excused(read):
            return
        for operation in reversed(watched.acknowledged):
            if operation.acknowledged_at < read.begun and operation.token > read.token:
                self.fault(
                    f"a read of {read.database} at {read.token} on {read.server} lacks operation {operation.number},"
                    f" which was acknowledged at {operation.token} before the read began"
                )
                return

    def _excused(self, read: Read) -> bool:
        """A machine that stood still may answer reads that are out of date by HOLD; so may one whose warden stands
        still, if its agent fails too (two failures)."""
        hosts = (self._world.hosts[read.server], self._world.hosts[read.reader])
        since = self._world.loop.now - EXCUSE
        return any(
            host.paused or host.warden.process.frozen or max(host.went_on_at, host.warden_stood_at) > since
            for host in hosts
        )

    # -- after each step -----------------------------------------------------------------------------------------

    def check(self) -> None:
        """What depends on time and on processes."""
        for name, watched in self.databases.items():
            if watched.location is None:
                continue
            self._look_at_eligible(watched, watched.acknowledged[-NEWEST:])
            writable = [host.name for host in self._world.hosts.values() if self._may_acknowledge(host, name)]
            if len(writable) > 1:
                self.fault(f"{name} can be written on {' and '.join(writable)}")
        for fault in self._world.loop.faults:
            self.fault(fault)
        self._world.loop.faults.clear()

    def _may_acknowledge(self, host: Host, database: str) -> bool:
        """Whether a commit that came here now would be acknowledged without anything else changing."""
        instance = host.instance(database)
        if instance is None or instance.standby or instance.closing or not instance.admitted:
            return False
        if instance.process.frozen or instance.label is None or not host.page.serving():
            return False
        self.names_changed(instance)
        epoch, single = host.page.database(self._world.numbers[database])
        if epoch != instance.label.epoch:
            return False
        if instance.waiting_defined:
            living = {one.name for one in instance.streams if one.receiver.receiver is one}
            if not all(name in living for name in instance.storage.names):
                return False
        if single:
            fence = self._world.etcd.entry(keys.fence(host.name))
            agent = host.agent
            if agent is None or agent.tenure is None or fence is None:
                return False
            return agent.process.alive and agent.tenure.fence_revision == fence.revision
        return True
