"""What goes wrong: kills, freezes, cuts, slowness, administrators. A fault ends by itself, or when all is healed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from msgspec.structs import replace

from everpost.activemanager import transitions
from everpost.activemanager.transitions import IllegalMove
from everpost.directory import keys
from everpost.directory.schema import decode, encode
from everpost.model.database import CopyStatus, Location, LocationState, MailboxDatabase
from everpost.model.tenure import FencingRecord, TenureState
from tests.simulation.loop import NOBODY, Process
from tests.simulation.network import ETCD

if TYPE_CHECKING:
    from tests.simulation.host import Host
    from tests.simulation.world import World

MOST_FAULTS = (1, 1, 2, 2, 3, 4)
"""How many faults may go on at a time; the seed chooses one of these."""
FAVOUR = 10
"""How much more often than otherwise a fault strikes that a run favours."""
FUSE = 400
"""Callbacks within which an agent that is to die in the middle of something dies."""


class Nemesis:
    """Chooses by the world's seed."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._chance = world.chance
        self._undo: dict[int, Callable[[], None]] = {}
        self._number = 0
        self._most = self._chance.choice(MOST_FAULTS)
        faults: list[tuple[int, str, Callable[[Host], None]]] = [
            (10, "kill agent", lambda host: host.kill_agent()),
            (14, "stop agent in the middle", self._fuse),
            (8, "freeze agent", self._freeze_agent),
            (10, "kill postmaster", self._kill_postmaster),
            (7, "freeze postmaster", self._freeze_postmaster),
            (4, "kill warden", lambda host: host.kill_warden()),
            (3, "freeze warden", self._freeze_warden),
            (8, "power", self._power),
            (6, "pause machine", self._pause),
            (10, "cut one way", self._cut_one_way),
            (6, "cut link", self._cut_link),
            (8, "isolate", self._isolate),
            (4, "cut from directory", self._cut_directory),
            (4, "no quorum", self._no_quorum),
            (5, "bad line", self._bad_line),
            (4, "slow network", self._slow_network),
            (5, "slow disk", self._slow_disk),
            (5, "stuck disk", self._stuck_disk),
            (4, "stuck checkpointer", self._stuck_checkpointer),
        ]
        self._faults = {name: act for _, name, act in faults}
        favour = world.favour
        self._weights = [weight * (FAVOUR if name in favour else 1) for weight, name, _ in faults]

    # -- faults --------------------------------------------------------------------------------------------------

    def strike(self) -> None:
        """One fault, on the primary active manager's host, an active's, a member's or any."""
        if len(self._undo) >= self._most:
            return
        name = self._chance.choices(list(self._faults), self._weights)[0]
        host = self._victim()
        self._world.monitor.note(f"fault: {name}", host.name)
        self._faults[name](host)

    def _victim(self) -> Host:
        world = self._world
        kind = self._chance.choice(("any", "active", "active", "member", "pam"))
        location = self._any_location()
        if kind == "pam":
            holder = world.pam()
            return world.hosts[holder] if holder is not None else self._any_host()
        if kind == "active" and location is not None:
            return world.hosts[location.active]
        if kind == "member" and location is not None and location.set:
            return world.hosts[self._chance.choice(location.set).server]
        return self._any_host()

    def _any_host(self) -> Host:
        return self._chance.choice(list(self._world.hosts.values()))

    def _any_location(self) -> Location | None:
        return self._chance.choice(list(self._world.monitor.databases.values())).location

    def _seconds(self) -> float:
        low, high = self._chance.choice(((0.02, 0.5), (0.3, 2.5), (1.5, 4.0), (3.0, 9.0), (8.0, 30.0)))
        return self._chance.uniform(low, high)

    def _for_a_while(self, undo: Callable[[], None]) -> None:
        self._number += 1
        number = self._number
        self._undo[number] = undo
        self._world.loop.call_later(self._seconds(), self._end, number, context=NOBODY)

    def _end(self, number: int) -> None:
        undo = self._undo.pop(number, None)
        if undo is not None:
            undo()

    def heal(self) -> None:
        """Everything ends that goes on; whatever is to die later lives."""
        for number in list(self._undo):
            self._end(number)
        for host in self._world.hosts.values():
            host.disk_stuck_until = host.checkpointer_stuck_until = 0.0
            if host.agent is not None:
                host.agent.process.fuse = 0

    def _fuse(self, host: Host) -> None:
        if host.agent is not None and host.agent.process.alive:
            host.agent.process.fuse = self._chance.randint(1, FUSE)

    def _freeze(self, process: Process) -> None:
        process.freeze()
        self._for_a_while(process.resume)

    def _freeze_agent(self, host: Host) -> None:
        if host.agent is not None:
            self._freeze(host.agent.process)

    def _freeze_warden(self, host: Host) -> None:
        warden = host.warden.process

        def resume() -> None:
            host.warden_stood_at = self._world.loop.now
            warden.resume()

        warden.freeze()
        self._for_a_while(resume)

    def _kill_postmaster(self, host: Host) -> None:
        running = list(host.warden.instances.values())
        if running:
            self._chance.choice(running).die()

    def _freeze_postmaster(self, host: Host) -> None:
        running = list(host.warden.instances.values())
        if running:
            self._freeze(self._chance.choice(running).process)

    def _power(self, host: Host) -> None:
        host.lose_power()
        self._for_a_while(host.boot)

    def _pause(self, host: Host) -> None:
        if not host.paused:
            host.pause()
            self._for_a_while(host.go_on)

    def _cut(self, pairs: list[tuple[str, str]]) -> None:
        network = self._world.network
        fresh = [pair for pair in pairs if pair not in network.cut]
        network.cut.update(fresh)
        self._for_a_while(lambda: network.cut.difference_update(fresh))

    def _other(self, host: Host) -> str:
        return self._chance.choice([name for name in self._world.hosts if name != host.name])

    def _cut_one_way(self, host: Host) -> None:
        pair = (host.name, self._other(host))
        self._cut([pair if self._chance.random() < 0.5 else (pair[1], pair[0])])

    def _cut_link(self, host: Host) -> None:
        other = self._other(host)
        self._cut([(host.name, other), (other, host.name)])

    def _isolate(self, host: Host) -> None:
        others = [*(name for name in self._world.hosts if name != host.name), ETCD]
        away = [(host.name, other) for other in others]
        back = [(other, host.name) for other in others]
        self._cut(self._chance.choice((away, back, away + back, away + back)))

    def _cut_directory(self, host: Host) -> None:
        away, back = (host.name, ETCD), (ETCD, host.name)
        self._cut(self._chance.choice(([away], [back], [away, back], [away, back])))

    def _no_quorum(self, host: Host) -> None:
        etcd = self._world.etcd
        if etcd.quorum:
            etcd.quorum = False
            self._for_a_while(lambda: setattr(etcd, "quorum", True))

    def _bad_line(self, host: Host) -> None:
        share = self._chance.choice((0.1, 0.5, 0.95))
        self._world.set_bad_line(host, share)
        self._for_a_while(lambda: self._world.set_bad_line(host, 0.0))

    def _slow_network(self, host: Host) -> None:
        slow = self._world.network.slow
        slow[host.name] = self._chance.choice((0.02, 0.1, 0.4))
        self._for_a_while(lambda: slow.pop(host.name, None) and None)

    def _slow_disk(self, host: Host) -> None:
        host.slow_disk = self._chance.choice((0.05, 0.2, 1.5))
        self._for_a_while(lambda: setattr(host, "slow_disk", 0.0))

    def _stuck_disk(self, host: Host) -> None:
        host.disk_stuck_until = self._world.loop.now + self._seconds()

    def _stuck_checkpointer(self, host: Host) -> None:
        host.checkpointer_stuck_until = self._world.loop.now + self._seconds()

    # -- administrators ------------------------------------------------------------------------------------------

    def administer(self) -> None:
        """Move, dismount or mount a database, by a compare-and-swap as the cmdlets do."""
        location = self._any_location()
        if location is None:
            return
        if self._accept_loss() or self._go_back():
            return
        try:
            after = self._asked(location)
        except IllegalMove:
            return
        if after is not None:
            self.write(location, after)

    def _asked(self, location: Location) -> Location | None:
        if location.state is LocationState.DISMOUNTED:
            return transitions.mount_asked(location, reason="an administrator mounts it")
        if location.state is not LocationState.OPEN:
            # In the middle of something: only an order to dismount, or taking it back, is possible.
            if location.dismount:
                return transitions.dismount_taken_back(location)
            if location.lossy or self._chance.random() < 0.75:
                return None  # seldom, and not against an order to lose something: that is to be seen through
            return transitions.dismount_asked(location, reason="an administrator dismounts it")
        if self._chance.random() < 0.25:
            return transitions.dismounting(location, reason="an administrator dismounts it")
        if not location.set:
            return None
        target = self._chance.choice(location.set).server
        return transitions.moving(location, target, reason=f"moved to {target} by an administrator")

    def _accept_loss(self) -> bool:
        """Where the only complete copy is on a server that was taken, another copy may be named for an activation
        with loss: an administrator says that the former active is off, and may be wrong."""
        if not self._world.lossy:
            return False
        for watched in self._world.monitor.databases.values():
            location = watched.location
            if location is None or location.state is not LocationState.OPEN or location.set:
                continue
            fence = self._world.etcd.entry(keys.fence(location.active))
            if fence is None or decode(FencingRecord, fence.value).state is not TenureState.TAKEN:
                continue
            others = [host for host in self._world.hosts.values() if host.name != location.active]
            able = [one for one in others if location.database in one.storages and one.up]
            whole = [
                one.name for one in able if not (storage := one.storages[location.database]).spoilt and storage.wal
            ]
            if whole:
                after = transitions.begin_activation(
                    location, self._chance.choice(whole), reason="with loss, by an administrator", lossy=True
                )
                self.write(location, after)
                return True
        return False

    def _go_back(self) -> bool:
        """A step of `Move-ActiveMailboxDatabase -ReplayToTime` (`cmdlets.pointintime`), each at another moment: the
        lagged copy stands at a point in time, the database is dismounted, the copy is activated as it stands."""
        world = self._world
        if not world.past:
            return False
        name = self._chance.choice(list(world.numbers))
        found = world.database(name)
        server = found.servers[-1]
        settings, location = found.copy(server), world.location(name)
        until = settings.replay_to
        if location.state is LocationState.ACTIVATING and location.until is not None and not location.dismount:
            self.write(location, transitions.dismount_asked(location, reason="it is to be looked at first"))
            return True
        if server == location.active or self._chance.random() < 0.3:
            return False
        if until is None:
            if location.state is LocationState.OPEN and not any(one.server == server for one in location.set):
                earliest = world.loop.now - settings.replay_lag
                if self._chance.random() < 0.8:  # before the last opening it is refused
                    earliest = max(earliest, world.monitor.databases[name].opened[-1][1])
                until = self._chance.uniform(earliest, world.loop.now)
                world.set_copy(found, replace(settings, suspended=True, replay_to=until))
                return True
        elif self._chance.random() < 0.1:
            world.set_copy(found, replace(settings, suspended=False, replay_to=None))
            return True
        elif not self._stands(found, server, until):
            return self._chance.random() < 0.7
        elif location.state is LocationState.OPEN:
            self.write(location, transitions.dismounting(location, reason="it is to be opened as it was"))
            return True
        elif location.state is LocationState.DISMOUNTED and location.closed_lsn is not None:
            after = transitions.activation_in_the_past(location, server, until, reason="as it was")
            going_on = found.with_copy(server, replace(settings, suspended=False, replay_to=None))
            self.write(location, after, {keys.database(name): encode(going_on)})
            return True
        return False

    def _stands(self, found: MailboxDatabase, server: str, until: float) -> bool:
        """By what the copy's agent published last."""
        entry = self._world.etcd.entry(keys.status(server))
        rows = decode(list[CopyStatus], entry.value) if entry is not None else []
        return any(row.database == found.name and row.stands_at == until for row in rows)

    def write(self, before: Location, after: Location, more: Mapping[str, bytes] | None = None) -> None:
        """If it is still as it was."""
        key = keys.location(before.database)
        entry = self._world.etcd.entry(key)
        if entry is not None and self._world.etcd.quorum:
            self._world.monitor.note("administrator", f"{before.database} {after.state} {after.target}")
            self._world.etcd.apply({key: entry.revision}, {key: encode(after), **(more or {})})
