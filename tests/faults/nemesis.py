"""Faults of processes and network cards. Each breaks something on one server and returns how to heal it."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable

from everpost.databases import processes
from everpost.lab.organisation import CommandFailed, Organisation, Server

Heal = Callable[[], None]
Fault = Callable[[Server], Heal]


class Nemesis:
    """The faults by name. `chance` chooses where a fault has a choice."""

    def __init__(self, organisation: Organisation, chance: random.Random, say: Callable[[str], None]) -> None:
        self._o = organisation
        self._random = chance
        self._say = say
        self.kinds: dict[str, Fault] = {
            "kill agent": lambda s: self._kill(s, "agent"),
            "kill warden": lambda s: self._kill(s, "warden"),
            "kill etcd": lambda s: self._kill(s, "etcd"),
            "kill postmaster": self._kill_postmaster,
            "kill everything": self._kill_everything,
            "cut": self._cut,
            "freeze agent": lambda s: self._freeze(s, self._pids(s, "agent")),
            "freeze agent and warden": lambda s: self._freeze(s, self._pids(s, "agent", "warden")),
            "freeze postmasters": lambda s: self._freeze(s, self._postmaster_trees(s)),
            "freeze etcd": lambda s: self._freeze(s, self._pids(s, "etcd")),
            "freeze everything": lambda s: self._freeze(s, s.host.pids()),
            "move": self._move,
        }

    def _pids(self, server: Server, *children: str) -> list[int]:
        return [pid for child in children if (pid := server.pid(child)) is not None]

    def _postmaster_trees(self, server: Server) -> list[int]:
        warden = server.pid("warden")
        return processes.tree(warden)[1:] if warden is not None else []

    def _kill(self, server: Server, child: str) -> Heal:
        self._o.signal(self._pids(server, child), signal.SIGKILL)
        return lambda: None

    def _kill_postmaster(self, server: Server) -> Heal:
        warden = server.pid("warden")
        masters = processes.children(warden) if warden is not None else []
        if masters:
            self._o.signal([self._random.choice(masters)], signal.SIGKILL)
        return lambda: None

    def _kill_everything(self, server: Server) -> Heal:
        while pids := [pid for pid in server.host.pids() if processes.alive(pid)]:
            self._o.signal(pids, signal.SIGKILL)
            time.sleep(0.01)
        return server.start

    def _cut(self, server: Server) -> Heal:
        server.host.cut()
        if self._o.lab.mode == "loopback":
            return server.start
        return server.host.mend

    def _freeze(self, server: Server, pids: list[int]) -> Heal:
        self._o.signal(pids, signal.SIGSTOP)
        return lambda: self._o.signal(pids, signal.SIGCONT)

    def _move(self, server: Server) -> Heal:
        try:
            status = self._o.status(server)
            active = next(row for row in status.values() if row["ActiveCopy"])
            other = next(one.name for one in self._o.servers if one.name != active["MailboxServer"])
            server.shell(f"Move-ActiveMailboxDatabase {active['DatabaseName']} -ActivateOnServer {other}", timeout=60)
        except (CommandFailed, StopIteration, ValueError) as error:
            self._say(f"  move: {error}")
        return lambda: None
