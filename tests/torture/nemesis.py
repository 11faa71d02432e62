"""Faults of the network, the disk and the clock, and two at once, beside those of the processes."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from everpost.databases import binaries
from everpost.lab.hosts import NamespaceHost, NamespaceLab
from everpost.lab.leader import leader
from everpost.lab.organisation import CommandFailed, Organisation, Server
from tests.faults.nemesis import Heal, Nemesis

TABLE = "everpost_torture"
FULL_MARGIN = 256 * 1024
"""Bytes left when a disk is filled: less than one log segment."""
JUMPS = (-86400, -3600, -30, 30, 3600, 86400)
"""Seconds by which a wall clock jumps."""
BURSTS = 12


class Disk:
    """A file system of a server's own, small enough to be filled."""

    def __init__(self, root: Path, megabytes: int = 3000) -> None:
        self.root = root
        self._image = root.with_name(root.name + ".image")
        self._filler = root / "filler"
        subprocess.run(["truncate", "-s", f"{megabytes}M", str(self._image)], check=True)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(self._image)], check=True, capture_output=True)
        owner = root.stat()
        subprocess.run(["mount", "-o", "loop", str(self._image), str(root)], check=True, capture_output=True)
        shutil.chown(root, owner.st_uid, owner.st_gid)
        root.chmod(0o755)

    def fill(self) -> None:
        """Leave nearly nothing, again if a server freed something meanwhile."""
        with self._filler.open("ab") as file:
            block = bytes(FULL_MARGIN)
            try:
                while True:
                    file.write(block)
                    file.flush()
            except OSError:
                pass

    def free(self) -> None:
        self._filler.unlink(missing_ok=True)

    def close(self) -> None:
        """After the processes are gone."""
        self.free()
        for _ in range(20):
            if subprocess.run(["umount", str(self.root)], capture_output=True).returncode == 0:
                break
            time.sleep(0.2)
        self._image.unlink(missing_ok=True)


class Clock:
    """The wall clock of a server's PostgreSQL, by libfaketime. The clocks on which every safety rule stands, those
    since boot, are left alone: nobody can set them. `programs` is a folder to use as `postgres_bin`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._file = folder / "faketime"
        self.programs = folder / "bin"
        self.programs.mkdir()
        library = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)
        if library is None:
            raise RuntimeError("libfaketime is not installed; scripts/packages test installs it")
        self.jump(0)
        real = binaries.find().folder
        for program in real.iterdir():
            if program.name != "postgres":
                (self.programs / program.name).symlink_to(program)
        environment = f"LD_PRELOAD={library} FAKETIME_TIMESTAMP_FILE={self._file} FAKETIME_CACHE_DURATION=1"
        environment += " FAKETIME_DONT_FAKE_MONOTONIC=1 FAKETIME_DONT_RESET=1"
        script = self.programs / "postgres"
        script.write_text(f'#!/bin/sh\nexec env {environment} {real}/postgres "$@"\n')
        script.chmod(0o755)

    def jump(self, seconds: int) -> None:
        """To so many seconds from the true time."""
        self._file.write_text(f"{seconds:+d}\n")
        self._file.chmod(0o644)


class TortureNemesis(Nemesis):
    """In namespaces only."""

    def __init__(
        self,
        organisation: Organisation,
        chance: random.Random,
        say: Callable[[str], None],
        disks: dict[str, Disk],
        clocks: dict[str, Clock],
    ) -> None:
        super().__init__(organisation, chance, say)
        self._disks = disks
        self._clocks = clocks
        self.kinds |= {
            "cut one link": self._cut_link,
            "cut one way": self._cut_one_way,
            "cut the replication card": self._cut_replication,
            "cut the witness": self._cut_witness,
            "lose packets": self._lose_packets,
            "fill the disk": self._fill_disk,
            "stutter the disk": self._stutter,
            "jump the clock": self._jump,
            "kill the etcd leader and the active": self._kill_leader_and_active,
            "kill the witness": lambda s: self._restart_witness(),
            "starve of CPU": self._starve,
            "move during a fault": self._move_during_fault,
        }

    # -- network -----------------------------------------------------------------------------------------------

    def _host(self, server: Server) -> NamespaceHost:
        assert isinstance(server.host, NamespaceHost)
        return server.host

    def _drop(self, at: Server, rule: str) -> Heal:
        """Drop what comes in at a server by a rule of nft."""
        enter = ["ip", "netns", "exec", self._host(at).space, "nft"]
        text = f"add table inet {TABLE} {{ chain input {{ type filter hook input priority 0; {rule} drop; }}; }}"
        subprocess.run([*enter, text], check=True, capture_output=True, timeout=20)

        def heal() -> None:
            subprocess.run([*enter, f"delete table inet {TABLE}"], check=True, capture_output=True, timeout=20)

        return heal

    @staticmethod
    def _from(server: Server) -> str:
        return f"ip saddr {{ {server.host.address}, {server.host.replication_address} }}"

    def _other(self, server: Server) -> Server:
        return self._random.choice([one for one in self._o.all if one is not server])

    def _cut_link(self, server: Server) -> Heal:
        """Between this server and one other host, both ways."""
        other = self._other(server)
        heals = [self._drop(server, self._from(other)), self._drop(other, self._from(server))]
        return lambda: [heal() for heal in heals] and None

    def _cut_one_way(self, server: Server) -> Heal:
        """It does not hear one other host, which hears it."""
        return self._drop(server, self._from(self._other(server)))

    def _cut_replication(self, server: Server) -> Heal:
        lab = self._o.lab
        assert isinstance(lab, NamespaceLab)
        link = self._host(server)._links[1]
        argv = ["ip", "-n", lab.cable, "link", "set", link]
        subprocess.run([*argv, "down"], check=True, timeout=20)
        return lambda: subprocess.run([*argv, "up"], check=True, timeout=20) and None

    def _cut_witness(self, server: Server) -> Heal:
        self._o.witness.host.cut()
        return self._o.witness.host.mend

    def _lose_packets(self, server: Server) -> Heal:
        return self._drop(server, 'iifname != "lo" numgen random mod 100 < 30')

    # -- disk, clock, processor ----------------------------------------------------------------------------------

    def _fill_disk(self, server: Server) -> Heal:
        disk = self._disks[server.name]
        disk.fill()

        def heal() -> None:
            disk.fill()  # what the server freed meanwhile
            time.sleep(0.5)
            disk.free()

        return heal

    def _stutter(self, server: Server) -> Heal:
        """A disk that hangs for 200 ms again and again: everything that writes stands still as long."""
        pids = self._postmaster_trees(server) + self._pids(server, "etcd")
        for _ in range(BURSTS):
            heal = self._freeze(server, pids)
            time.sleep(0.2)
            heal()
            time.sleep(0.2)
        return lambda: None

    def _jump(self, server: Server) -> Heal:
        clock = self._clocks[server.name]
        clock.jump(self._random.choice(JUMPS))
        return lambda: clock.jump(0)

    def _starve(self, server: Server) -> Heal:
        loops = [server.host.spawn(["sh", "-c", "while :; do :; done"], Path("/dev/null")) for _ in range(4)]

        def heal() -> None:
            for loop in loops:
                loop.popen.kill()
                loop.popen.wait()

        return heal

    # -- two at once ---------------------------------------------------------------------------------------------

    def _kill_leader_and_active(self, server: Server) -> Heal:
        """The active server of a database, and the etcd leader at the same moment wherever it is."""
        leads = leader(self._o, by=self._other(server))
        heal = self._kill_everything(server)
        if leads is not None and leads is not server:
            self._kill(leads, "etcd")
        return heal

    def _restart_witness(self) -> Heal:
        return self._kill_everything(self._o.witness)

    def _move_during_fault(self, server: Server) -> Heal:
        """A planned move that a kill of one agent interrupts."""
        try:
            row = next(row for row in self._o.status(server).values() if row["ActiveCopy"])
            other = next(one.name for one in self._o.servers if one.name != row["MailboxServer"])
            line = f"Move-ActiveMailboxDatabase {row['DatabaseName']} -ActivateOnServer {other}"
            argv = [sys.executable, "-m", "everpost", "shell", "--config", str(server.config), "-c", line]
            mover = server.host.spawn(argv, Path("/dev/null"))
        except (CommandFailed, StopIteration) as error:
            self._say(f"  move: {error}")
            return lambda: None
        time.sleep(self._random.uniform(0.3, 1.2))
        self._kill(self._random.choice(self._o.servers), "agent")

        def heal() -> None:
            mover.popen.wait(60)

        return heal
