"""One organisation under mail load, a nemesis, and a checker that reads the histories.

Clients deliver, append, flag, file, expunge and read at full rate through both servers, while each round breaks
something (`nemesis`), heals it, and waits until the organisation is whole. After the last round the load stops and
everything is held against everything: ledgers against mailboxes, copies against each other, saved states against a full
sync.
"""

from __future__ import annotations

import itertools
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from everpost.lab import copies, history
from everpost.lab.audit import Reading
from everpost.lab.hosts import Process, open_lab
from everpost.lab.organisation import CommandFailed, Organisation
from everpost.lab.story import DATABASES, DRAFTERS, EVERYBODY, PASSWORD, PEOPLE, addresses
from everpost.lab.workload import Workload
from tests.torture.nemesis import Clock, Disk, TortureNemesis

WHOLE_LIMIT = 120.0
SINGLE_PATIENCE = 12.0
HOLDS = (0.2, 0.6, 2.0, 4.0)
RATE = 40.0
"""Messages a second of each of the four generators."""
MUST_BE_ZERO = (
    "lost", "duplicated", "changed", "unexpected", "vanished", "resurrected", "flags_lost", "uid_reused",
    "uid_disordered", "modseq_backwards",
)  # fmt: skip
RESYNC = Path(__file__).with_name("resync.py")


@dataclass
class Outcome:
    """Counts of a torture. `wrong`: everything that must not be."""

    seed: int
    rounds: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


class Torture:
    """Builds, breaks, checks. `say` tells the progress."""

    def __init__(self, seed: int, say: Callable[[str], None]) -> None:
        self.outcome = Outcome(seed)
        self._say = say
        self._chance = random.Random(seed)
        self.lab = open_lab("torture", "netns")
        self._o = Organisation(self.lab, say=lambda text: None)
        self._client = self.lab.host("CLIENT", 100)
        self._disks: dict[str, Disk] = {}
        self._clocks: dict[str, Clock] = {}
        self._load: Workload | None = None
        self._savers: list[Process] = []
        self._kinds: dict[str, Any] = {}

    def run(self, rounds: int) -> Outcome:
        """Everything. Raises CommandFailed when the organisation does not heal."""
        self._build()
        self._start_load()
        order = self._order(rounds)
        for number, kind in enumerate(order, 1):
            done = self._round(number, kind)
            self.outcome.rounds.append(done)
            self._say(f"seed {self.outcome.seed} round {number}: {done}")
            for name, said in self._workload.dead().items():
                raise CommandFailed(f"The load generator {name} ended: {said}")
        self._check()
        return self.outcome

    @property
    def _workload(self) -> Workload:
        assert self._load is not None
        return self._load

    def _order(self, rounds: int) -> list[str]:
        """Each kind once in a random order, then again: no kind is left out by chance."""
        order: list[str] = []
        while len(order) < rounds:
            kinds = sorted(self._kinds)
            self._chance.shuffle(kinds)
            order += kinds
        return order[:rounds]

    def _build(self) -> None:
        for server in self._o.servers:
            self._disks[server.name] = Disk(server.host.root)
            self._clocks[server.name] = clock = Clock(self._client.root.with_name(f"clock-{server.name}"))
            server.programs = str(clock.programs)
        self._o.build()
        first, second = self._o.servers
        for database, active in zip(DATABASES, (first, second), strict=True):
            self._o.database(database, active.name)
            for name in PEOPLE[database]:
                line = f"New-Mailbox -Name {name.capitalize()} -Alias {name} -Database {database} -Password {PASSWORD}"
                first.shell(line)
        self._o.wait(lambda: len(second.rows("Get-Mailbox")) == len(EVERYBODY), 10, "all mailboxes on EX02")
        nemesis = TortureNemesis(self._o, self._chance, self._say, self._disks, self._clocks)
        self._kinds = nemesis.kinds

    def _start_load(self) -> None:
        first, second = self._o.servers
        self._load = load = Workload(self._o, self._client, PASSWORD)
        for database in DATABASES:
            for near, far in ((first, second), (second, first)):
                load.deliver([near, far], database, addresses(database), rate=RATE)
        for server in self._o.servers:
            load.sessions(server, EVERYBODY, DRAFTERS)
        for user in DRAFTERS:
            self._savers.append(self._resync("save", user))
        self._o.wait(lambda: load.ledgers.count() > 50, 30, "mail flows")

    def _resync(self, what: str, user: str) -> Process:
        script = self._client.root / "resync.py"
        shutil.copy(RESYNC, script)
        script.chmod(0o644)
        at = ",".join(f"{server.host.address}:993" for server in self._o.servers)
        file = self._client.root / f"states-{user}"
        argv = [sys.executable, str(script), what, at if what == "save" else at.partition(",")[0]]
        argv += [str(self._client.root / "ca.crt"), user, PASSWORD, str(file)]
        return self._client.spawn(argv, self._client.root / f"resync-{what}-{user}.log")

    def _round(self, number: int, kind: str) -> str:
        server = self._chance.choice(self._o.servers)
        hold = self._chance.choice(HOLDS)
        time.sleep(self._chance.uniform(0.0, 0.5))
        heal = self._kinds[kind](server)
        try:
            time.sleep(hold)
        finally:
            heal()
        began = time.monotonic()
        whole = self._whole_since(began)
        took = self._o.wait(whole, WHOLE_LIMIT, f"round {number} ({kind} on {server.name}, {hold} s): whole again")
        return f"{kind} on {server.name} for {hold} s, whole after {took:.1f} s"

    def _whole_since(self, began: float) -> Callable[[], bool]:
        """Every database mounted and every passive copy in its set; a member that was shrunk for slowness stays out for
        a minute and longer (3.7), so after a while it is enough that it follows."""

        def whole() -> bool:
            if all(self._o.whole(server) for server in self._o.servers):
                return True
            if time.monotonic() < began + SINGLE_PATIENCE:
                return False
            rows = self._o.status().values()
            return all(row["Status"] == ("Mounted" if row["ActiveCopy"] else "Healthy") for row in rows)

        return whole

    # -- the checker ---------------------------------------------------------------------------------------------

    def _check(self) -> None:
        for user in DRAFTERS:
            (self._client.root / f"states-{user}.stop").touch()
        self._workload.stop()
        for saver in self._savers:
            saver.popen.wait(120)
        second = self._o.servers[1]
        self._o.wait(self._whole_since(time.monotonic()), WHOLE_LIMIT, "all copies whole at the end")
        reading = Reading.load(self._workload.read_back(second, EVERYBODY))
        verdict = history.judge(self._workload.ledgers.facts(), reading.messages, reading.highest)
        counts = {name: getattr(verdict, name) for name in (*MUST_BE_ZERO, "acknowledged", "resubmitted")}
        self.outcome.counts = {**counts, "flags_acknowledged": verdict.flags_acknowledged}
        self.outcome.wrong += [f"{name}: {counts[name]}" for name in MUST_BE_ZERO if counts[name]]
        self.outcome.wrong += verdict.cases
        self._check_copies(reading)
        for user in DRAFTERS:
            self._check_resync(user)

    def _check_copies(self, reading: Reading) -> None:
        rows = self._o.status(self._o.servers[1]).values()
        for database, number in DATABASES.items():
            mine = [row for row in rows if row["DatabaseName"] == database]
            active = next(row["MailboxServer"] for row in mine if row["ActiveCopy"])
            expected = sum(one.user in addresses(database) for one in reading.messages)
            for row in mine:
                ask = copies.asking(self._o.server(row["MailboxServer"]), number)
                if not row["ActiveCopy"]:
                    differs = copies.compare(copies.asking(self._o.server(active), number), ask, database)
                    self.outcome.wrong += [f"copies differ: {row['Name']} {differs}"] if differs else []
                held = copies.messages(ask)
                if held != expected:
                    self.outcome.wrong.append(f"{row['Name']} holds {held} messages, {expected} were read by IMAP")

    def _check_resync(self, user: str) -> None:
        process = self._resync("check", user)
        status = process.popen.wait(300)
        said = (self._client.root / f"resync-check-{user}.log").read_text(errors="replace").strip()
        states = (self._client.root / f"states-{user}").read_text().count("\n")
        self.outcome.counts["resynced"] = self.outcome.counts.get("resynced", 0) + states
        if status != 0 or said:
            self.outcome.wrong += [f"resync of {user}: {line}" for line in (said or f"status {status}").splitlines()]

    def close(self, *, keep_files: bool) -> None:
        """Take everything down; with `keep_files` the histories stay."""
        if self._load is not None:
            self._load.ask_to_stop()
        histories = self._client.root.with_name("histories")
        if keep_files:
            shutil.copytree(self._client.root, histories, dirs_exist_ok=True)
            for server in self._o.all:
                if (server.data / "log").is_dir():
                    shutil.copytree(server.data / "log", histories / server.name, dirs_exist_ok=True)
        self._o.close(keep_files=True)
        for disk in self._disks.values():
            disk.close()
        if not keep_files:
            shutil.rmtree(self.lab.root, ignore_errors=True)


def torture(seed: int, rounds: int, say: Callable[[str], None]) -> Outcome:
    """One organisation, so many rounds. An organisation that does not heal is an outcome too."""
    one = Torture(seed, say)
    try:
        one.run(rounds)
    except (CommandFailed, RuntimeError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or b""
        one.outcome.wrong.append(f"{type(error).__name__}: {error} {said.decode(errors='replace')}")
    except BaseException:
        one.close(keep_files=False)
        raise
    bad = bool(one.outcome.wrong)
    one.close(keep_files=bad)
    if bad:
        say(f"the histories stay in {one.lab.root}")
    return one.outcome


def seeds(first: int) -> itertools.count[int]:
    """One for each organisation."""
    return itertools.count(first)
