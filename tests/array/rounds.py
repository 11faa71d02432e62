"""Rounds of faults against the holder of an array's address, while a capture on the client's host looks for a second
one. Needs root.

    python -m tests.array.rounds --runs 200 --seed 1 [--json FILE]

One organisation of two servers and a witness without databases, which makes a round cheap: 10 to 15 s. The seed fixes
the faults and their order. A round that fails prints its seed and number, and the files of the lab are left.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from everpost.lab.hosts import NamespaceHost, open_lab
from everpost.lab.leader import leader
from everpost.lab.load.ledger import boottime
from everpost.lab.organisation import CommandFailed, Organisation, Server
from everpost.lab.workload import Workload
from tests.array.holders import Acquisition, Answer, two_holders
from tests.faults.nemesis import Heal
from tests.torture.nemesis import TortureNemesis

ADDRESS, GATEWAY, ARRAY = "10.77.0.50", "10.77.0.1", "CASArray"
WELL_LIMIT = 90.0
"""Seconds from the end of a fault until all is well, on a busy machine; it takes 2 to 10."""
QUIET = 0.7


def say(text: str) -> None:
    print(text, flush=True)


class Net:
    """The array of a lab as its client host sees it."""

    def __init__(self, organisation: Organisation, load: Workload) -> None:
        self.o, self.load = organisation, load

    def mac(self, server: Server) -> str:
        """Of the card in the clients' network."""
        assert isinstance(server.host, NamespaceHost)
        argv = ["ip", "-n", server.host.space, "-j", "link", "show", "mapi"]
        shown = subprocess.run(argv, capture_output=True, text=True, check=True)
        return str(json.loads(shown.stdout)[0]["address"])

    def acquisitions(self) -> list[Acquisition]:
        """By epoch, as the array processes noted them."""
        found = []
        for server in self.o.servers:
            log = server.data / "log" / "array.log"
            for line in log.read_text(errors="replace").splitlines() if log.exists() else ():
                try:
                    entry = json.loads(line)
                except ValueError:  # not a fact, or cut off by a kill
                    continue
                if entry.get("text") == "acquired":
                    found.append(Acquisition(int(entry["epoch"]), float(entry["at"]), server.name))
        return sorted(found)

    def answers(self) -> list[Answer]:
        """Every frame by which somebody answered for the address so far."""
        names = {self.mac(server): server.name for server in self.o.servers}
        facts = self.load.ledgers.facts("capture")
        return [
            Answer(fact["seen"], names.get(fact["mac"], fact["mac"]), fact["how"])
            for fact in facts
            if fact["kind"] == "answer"
        ]

    def remains(self) -> int:
        """Packets of connections that their holder had accepted, seen after the next holder answered."""
        return sum(fact["kind"] == "remains" for fact in self.load.ledgers.facts("capture"))

    def wrong(self) -> list[str]:
        """What the capture convicts; [] if there was one holder at any time."""
        return [*two_holders(self.answers(), self.acquisitions()), *self.load.dead().values()]

    def answered(self, since: float) -> bool:
        """Whether a connection through the address was there after `since`."""
        return any(fact["kind"] == "answered" and fact["at"] > since for fact in self.load.ledgers.facts("capture"))

    def status(self, by: Server) -> dict[str, Any]:
        """Get-ClientAccessArray -Status."""
        [row] = by.rows(f"Get-ClientAccessArray {ARRAY} -Status", 5.0)
        return row

    def holder(self) -> Server | None:
        """As the directory says, asked of whoever answers."""
        for server in self.o.servers:
            try:
                name = self.status(server)["Holder"]
            except CommandFailed:
                continue
            return self.o.server(name) if name else None
        return None

    def well(self) -> bool:
        """Both servers could hold the address, by both servers' word, and the name answers."""
        now = boottime()
        for server in self.o.servers:
            row = self.status(server)
            said = " ".join(row["Candidates"])
            if not row["Holder"] or not all(f"{one.name}: ready" in said for one in self.o.servers):
                return False
        time.sleep(0.1)
        return self.answered(now)


class ArrayNemesis(TortureNemesis):
    """Faults that meet the holder of an address."""

    def __init__(
        self, net: Net, gateway: NamespaceHost, chance: random.Random, tell: Callable[[str], None] = say
    ) -> None:
        super().__init__(net.o, chance, tell, {}, {})
        self._net, self._gateway = net, gateway
        self.kinds = {
            "cut": self._cut,
            "freeze array": lambda s: self._freeze(s, tree(s, "array")),
            "freeze agent": lambda s: self._freeze(s, self._pids(s, "agent")),
            "freeze agent and warden": lambda s: self._freeze(s, self._pids(s, "agent", "warden")),
            "freeze agent, warden and array": self._freeze_three,
            "freeze everything": lambda s: self._freeze(s, s.host.pids()),
            "freeze etcd": lambda s: self._freeze(s, self._pids(s, "etcd")),
            "stutter array": self._stutter_array,
            "kill array": lambda s: self._kill(s, "array"),
            "kill haproxy": self._kill_haproxy,
            "kill agent": lambda s: self._kill(s, "agent"),
            "kill everything": self._kill_everything,
            "kill the etcd leader": self._kill_leader,
            "cut the link": lambda s: self._between(s, both=True),
            "cut the link one way": lambda s: self._between(s, both=False),
            "cut from the witness": self._from_witness,
            "gateway silent for one": lambda s: self._drop(s, f"ip saddr {GATEWAY}"),
            "gateway silent for all": self._gateway_silent,
            "move": self._plan,
        }
        self.meanwhile = ("kill array", "kill agent", "kill haproxy", "kill the etcd leader", "stutter array", "move")
        """What may come on top of another fault."""

    def peer(self, server: Server) -> Server:
        """The other one."""
        return next(one for one in self._o.servers if one is not server)

    def _freeze_three(self, server: Server) -> Heal:
        return self._freeze(server, [*tree(server, "array"), *self._pids(server, "agent", "warden")])

    def _stutter_array(self, server: Server) -> Heal:
        """It runs for a moment now and then: about when its tenure ends, too."""
        for _ in range(6):
            heal = self._freeze(server, tree(server, "array"))
            time.sleep(self._random.uniform(0.2, 1.4))
            heal()
            time.sleep(self._random.uniform(0.001, 0.1))
        return lambda: None

    def _kill_haproxy(self, server: Server) -> Heal:
        self._o.signal(tree(server, "array")[1:], signal.SIGKILL)
        return lambda: None

    def _kill_leader(self, server: Server) -> Heal:
        leads = leader(self._o, by=server)
        if leads is not None:
            self._kill(leads, "etcd")
        return lambda: None

    def _between(self, server: Server, *, both: bool) -> Heal:
        other = self.peer(server)
        ends = [(server, other), (other, server)]
        if not both:
            ends = [self._random.choice(ends)]
        heals = [self._drop(at, self._from(from_)) for at, from_ in ends]
        return lambda: [heal() for heal in heals] and None

    def _from_witness(self, server: Server) -> Heal:
        return self._drop(server, self._from(self._o.witness))

    def _gateway_silent(self, server: Server) -> Heal:
        self._gateway.cut()
        return self._gateway.mend

    def _plan(self, server: Server) -> Heal:
        """A planned move away, which nobody waits for; given to the server that will most probably hear it."""
        by = self.peer(server)
        line = f"Move-ClusterGroup {ARRAY} -Node {by.name}"
        argv = [sys.executable, "-m", "everpost", "shell", "--config", str(by.config), "-c", line]
        mover = by.host.spawn(argv, Path("/dev/null"))

        def heal() -> None:
            try:
                mover.popen.wait(20)
            except subprocess.TimeoutExpired:
                mover.popen.kill()
                mover.popen.wait()

        return heal

    def one(self, number: int) -> str:
        """A round; the name of what it did. Raises CommandFailed when all is not well in the end."""
        holder = self._net.holder()
        server = holder if holder is not None and self._random.random() < 0.85 else self._random.choice(self._o.servers)
        kinds = [self._random.choice(sorted(self.kinds))]
        if self._random.random() < 0.4:
            kinds.append(self._random.choice([one for one in self.meanwhile if one != kinds[0]]))
        text = f"{' + '.join(kinds)} on {server.name}{' (holder)' if server is holder else ''}"
        heals: list[Heal] = []
        try:
            for place, kind in enumerate(kinds):
                if place:
                    time.sleep(self._random.uniform(0.0, 2.5))
                target = server if self._random.random() < 0.7 or not place else self.peer(server)
                try:
                    heals.append(self.kinds[kind](target))
                except (CommandFailed, subprocess.TimeoutExpired) as error:
                    self._say(f"  {kind}: {error}")
            # Around the moment when a tenure ends (1.8), the kernel acts (2.2), and another acquires (2.3 and more).
            time.sleep(self._random.choice((0.3, 1.5, 2.0, 2.3, 2.5, 2.8, 3.2, 4.0, 5.5)) + self._random.random() * 0.2)
        finally:
            for heal in heals:
                heal()
        self._o.wait(self._net.well, WELL_LIMIT, "all is well")
        time.sleep(QUIET)
        return text


def tree(server: Server, child: str) -> list[int]:
    """A child of `everpost serve` and all its descendants, the child first."""
    pid = server.pid(child)
    found: list[int] = []
    left = [pid] if pid is not None else []
    while left:
        one = left.pop()
        try:
            left += [int(word) for word in Path(f"/proc/{one}/task/{one}/children").read_text().split()]
        except OSError:
            continue
        found.append(one)
    return found


@dataclasses.dataclass
class Report:
    """What came out."""

    seed: int
    rounds: list[str] = dataclasses.field(default_factory=list)
    wrong: list[str] = dataclasses.field(default_factory=list)
    acquisitions: int = 0
    answers: dict[str, int] = dataclasses.field(default_factory=dict)
    remains: int = 0
    seconds: float = 0.0


def build(name: str) -> tuple[Net, NamespaceHost]:
    """An organisation with the array, a gateway, and a client host with the capture."""
    o = Organisation(open_lab(name, "netns"), say=say)
    gateway, client = o.lab.host("GATEWAY", 1), o.lab.host("CLIENT", 100)
    assert isinstance(gateway, NamespaceHost)
    try:
        o.build()
        net = Net(o, Workload(o, client, "no-password"))
        net.load.capture(ADDRESS)
        o.servers[0].rows(
            f"New-ClientAccessArray -Name {ARRAY} -Fqdn casarray.contoso.com -IP {ADDRESS} -Gateway {GATEWAY}"
        )
        o.wait(net.well, 60, "the array")
    except BaseException:
        o.close(keep_files=True)
        raise
    return net, gateway


def run(runs: int, seed: int) -> Report:
    """So many rounds; stops at the first that shows a second holder, or does not end well."""
    report = Report(seed)
    began = time.monotonic()
    net, gateway = build(f"array-rounds-{seed}")
    try:
        for number in range(1, runs + 1):
            at = time.monotonic()
            nemesis = ArrayNemesis(net, gateway, random.Random(f"{seed}/{number}"))
            try:
                report.rounds.append(nemesis.one(number))
            except CommandFailed as error:
                report.wrong.append(f"round {number}: {error}")
            report.wrong += net.wrong()
            last = report.rounds[-1] if report.rounds else ""
            say(f"seed {seed} round {number}: {last}: {time.monotonic() - at:.1f} s {report.wrong or 'one holder'}")
            if report.wrong:
                break
        answers = net.answers()
        report.acquisitions, report.remains = len(net.acquisitions()), net.remains()
        report.answers = dict(Counter(one.how for one in answers))
    finally:
        net.o.close(keep_files=bool(report.wrong))
    report.seconds = round(time.monotonic() - began, 1)
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.runs < 1:
        parser.error("--runs is at least 1")
    if os.geteuid() != 0:
        sys.exit("The rounds cut cables and freeze servers: they need root, for network namespaces.")
    report = run(arguments.runs, arguments.seed)
    text = json.dumps(dataclasses.asdict(report), indent=2)
    if arguments.json is not None:
        arguments.json.write_text(text + "\n")
    say(f"{len(report.rounds)} rounds in {report.seconds} s, {report.acquisitions} acquisitions, {report.answers}")
    say("FAILED: " + "; ".join(report.wrong) if report.wrong else "never two holders")
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
