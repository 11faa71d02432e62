"""keepalived (VRRP, RFC 5798) as a contestant of the array's virtual address: two hosts, `advert_int 1`, `nopreempt`.

It comes from Debian (GPL-2.0 or later; scripts/packages vrrp) and runs in namespaces of its own, never as a daemon of
this machine. A third host connects to the address every 10 ms by the same program as in Everpost's measurement; behind
the address is a listener on each host that accepts and says nothing. In turns the cards of the holder are cut.
"""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from everpost.lab import history
from everpost.lab.hosts import NamespaceHost, Process, open_lab
from everpost.lab.ledgers import Ledgers
from everpost.lab.load.ledger import boottime

from .contest import wait
from .pair import Say

HERE = Path(__file__).resolve().parent
ADDRESS = "10.77.0.50"
PROGRAM = "/usr/sbin/keepalived"
QUIET = 2.0
SPLIT = 6.0
"""Seconds for which the link between the two is cut; VRRP notices after 3 to 4."""

CONFIGURATION = """\
global_defs {{
    router_id {name}
    vrrp_garp_master_refresh 15
}}
vrrp_instance CASARRAY {{
    state BACKUP
    nopreempt
    interface mapi
    virtual_router_id 50
    priority {priority}
    advert_int 1
    virtual_ipaddress {{
        {address}/24 dev mapi
    }}
}}
"""
LISTENER = """\
import socket
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("0.0.0.0", 143))
s.listen(512)
while True:
    s.accept()[0].close()
"""


class Vrrp:
    """Two hosts with keepalived and one that connects."""

    def __init__(self) -> None:
        self.lab = open_lab("keepalived", "netns")
        hosts = [self.lab.host("ONE", 21), self.lab.host("TWO", 22)]
        self.hosts = [host for host in hosts if isinstance(host, NamespaceHost)]
        self.client = self.lab.host("CLIENT", 100)
        self.ledgers = Ledgers()
        self.processes: list[Process] = []

    def start(self) -> None:
        for host, priority in zip(self.hosts, (110, 100), strict=True):
            file = host.root / "keepalived.conf"
            file.write_text(CONFIGURATION.format(name=host.name, priority=priority, address=ADDRESS))
            self.processes.append(host.spawn([sys.executable, "-c", LISTENER], host.root / "listener.log"))
            # As root: it insists on it. In the host's namespace, with files of its own.
            line = ["ip", "netns", "exec", host.space, PROGRAM, "--dont-fork", "--vrrp", "--log-console"]
            line += ["--use-file", str(file), "--pid", str(host.root / "k.pid"), "--vrrp_pid", str(host.root / "v.pid")]
            with (host.root / "keepalived.log").open("ab") as log:
                popen = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
            self.processes.append(Process(popen))
        self._load("knock", ["--host", ADDRESS])
        self._load("capture", ["--link", "mapi", "--address", ADDRESS])
        wait(lambda: self.holders() != [] and bool(self.times()), 30, "the address answers")

    def _load(self, name: str, arguments: list[str]) -> None:
        ledger = self.client.root / f"{name}.ledger"
        argv = [sys.executable, "-m", f"everpost.lab.load.{name}", "--ledger", str(ledger), "--name", name, *arguments]
        argv += ["--connect-only"] if name == "knock" else []
        self.ledgers.add(name, ledger)
        self.processes.append(self.client.spawn(argv, self.client.root / f"{name}.log"))

    def times(self) -> list[float]:
        return [fact["at"] for fact in self.ledgers.facts("knock") if fact["kind"] == "answered"]

    def holders(self) -> list[NamespaceHost]:
        """Hosts that have the address on a card now."""
        found = []
        for host in self.hosts:
            argv = ["ip", "-n", host.space, "-j", "addr", "show", "mapi"]
            shown = json.loads(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)
            if any(one["local"] == ADDRESS for one in shown[0]["addr_info"]):
                found.append(host)
        return found

    def cut(self) -> float:
        """The outage when the cards of the holder are cut; all is well again afterwards."""
        [holder] = self.holders()
        time.sleep(QUIET)
        cut = boottime()
        holder.cut()
        wait(lambda: any(at > cut + 0.5 for at in self.times()[-50:]), 30, "the address again")
        time.sleep(QUIET)
        outage = history.longest_gap(self.times(), cut, boottime())
        holder.mend()
        wait(lambda: len(self.holders()) == 1 and self.holders() != [holder], 30, "one holder")
        return round(outage, 3)

    def split(self) -> dict[str, Any]:
        """What the client sees when the two do not hear each other, though it hears both."""
        began = boottime()
        rules = []
        for host, peer in zip(self.hosts, reversed(self.hosts), strict=True):
            enter = ["ip", "netns", "exec", host.space, "nft"]
            chain = f"chain input {{ type filter hook input priority 0; ip saddr {peer.address} drop; }}"
            subprocess.run([*enter, f"add table inet cut {{ {chain}; }}"], check=True)
            rules.append([*enter, "delete table inet cut"])
        time.sleep(SPLIT)
        answers = [f["mac"] for f in self.ledgers.facts("capture") if f["kind"] == "answer" and f["seen"] > began]
        for rule in rules:
            subprocess.run(rule, check=True)
        changes = sum(before != after for before, after in itertools.pairwise(answers))
        return {"hosts_that_answered": len(set(answers)), "changes_of_the_answering_host": changes}

    def close(self) -> None:
        for process in self.processes:
            process.terminate(5.0)
        self.lab.close()
        shutil.rmtree(self.lab.root, ignore_errors=True)


def measure(cuts: int, say: Say) -> dict[str, Any]:
    """`outages_s`, and what a cut of the link between the two does."""
    subprocess.run([str(HERE.parent.parent / "scripts" / "packages"), "vrrp"], check=True, stdout=sys.stderr)
    version = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=True).stderr.splitlines()[0]
    vrrp = Vrrp()
    outages = []
    try:
        vrrp.start()
        for number in range(1, cuts + 1):
            outages.append(vrrp.cut())
            say(f"keepalived, cut {number}: outage {outages[-1]:.2f} s")
        split = vrrp.split()
        say(f"keepalived, the link between the two cut: {split}")
    finally:
        vrrp.close()
    return {"version": version, "advert_int_s": 1, "outages_s": outages, "link_cut": split}
