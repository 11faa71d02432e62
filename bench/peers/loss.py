"""The runs of `bench/loss` and their verdict."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from everpost.lab.hosts import NamespaceHost, NamespaceLab, Process, open_lab
from everpost.lab.organisation import CommandFailed

from .dovecot import Dovecot
from .mailpeers import PASSWORD, Everpost, MailPeer, kill_everything
from .pair import Say

CLIENT = Path(__file__).with_name("mailclient.py")
USERS = 10
PEER_WAITS = 5
STOP = 40.0
WARM = 30.0
"""Seconds within which the load must have begun."""


@dataclasses.dataclass(frozen=True)
class Conditions:
    """The same for all; rates a second, `seconds` from the first acknowledgement until the kill."""

    runs: int
    deliveries: float
    flags: float
    seconds: float


@dataclasses.dataclass
class Run:
    """One kill. A flag whose message is missing is missing too."""

    acknowledged: int
    flags_acknowledged: int
    deliveries_a_second: float
    flags_a_second: float
    missing: int
    flags_missing: int
    load_average: float
    crashes_before_the_kill: int
    missing_after_return: int = -1
    flags_missing_after_return: int = -1


Fact = dict[str, Any]


class Client:
    """`mailclient.py` on a host of its own."""

    def __init__(self, host: NamespaceHost, peer: MailPeer, users: list[str]) -> None:
        self._host = host
        self._script = host.root / "mailclient.py"
        shutil.copy(CLIENT, self._script)
        self._script.chmod(0o644)
        self._peer = peer
        self._common = ["--users", ",".join(users), "--password", PASSWORD]
        self._common += ["--ca", str(peer.ca)] if peer.ca is not None else []
        self._ledger = host.root / f"{users[0]}.ledger"
        self._process: Process

    def load(self, conditions: Conditions) -> None:
        """Begin."""
        argv = [sys.executable, str(self._script), "load", "--ledger", str(self._ledger)]
        argv += ["--deliver", self._peer.deliver, "--imap", self._peer.imap(self._peer.hosts[0]), *self._common]
        argv += ["--deliveries", str(conditions.deliveries), "--flags", str(conditions.flags)]
        self._process = self._host.spawn(argv, self._host.root / "mailclient.log")

    def facts(self) -> list[Fact]:
        """The whole lines of the ledger."""
        if not self._ledger.exists():
            return []
        data = self._ledger.read_bytes()
        return [json.loads(line) for line in data[: data.rfind(b"\n") + 1].splitlines()]

    def stop(self) -> None:
        """What waits for the dead server is given up."""
        self._ledger.with_name(self._ledger.name + ".stop").touch()
        try:
            self._process.popen.wait(STOP)
        except subprocess.TimeoutExpired:
            self._process.popen.kill()
            self._process.popen.wait()

    def read(self) -> dict[str, dict[str, list[str]]]:
        """Every mailbox from the second server. Raises CommandFailed."""
        out, log = self._host.root / "held.json", self._host.root / "read.log"
        argv = [sys.executable, str(self._script), "read", "--imap", self._peer.imap(self._peer.hosts[1])]
        for _ in range(5):
            if self._host.spawn([*argv, *self._common, "--out", str(out)], log).popen.wait(120) == 0:
                return json.loads(out.read_text())  # type: ignore[no-any-return]
            time.sleep(1.0)
        raise CommandFailed(f"{self._peer.name}: the mailboxes cannot be read: {log.read_text()[-500:]}")


def missing(facts: list[Fact], held: dict[str, dict[str, list[str]]]) -> tuple[int, int]:
    """Messages and flags that were acknowledged and are not there."""
    messages = sum(f["kind"] == "ack" and f["id"] not in held.get(f["user"], {}) for f in facts)
    flags = sum(f["kind"] == "flag" and f["flag"] not in held.get(f["user"], {}).get(f["id"], []) for f in facts)
    return messages, flags


def _kill(peer: MailPeer, conditions: Conditions) -> Run:
    """Load, kill, count, and count again when the killed server is back."""
    users = [f"user{n}@contoso.com" for n in range(USERS)]
    peer.mailboxes(users)
    peer.ready()
    client = Client(peer.lab.host("CLIENT", 100), peer, users)
    client.load(conditions)
    end = time.monotonic() + WARM
    while not any(fact["kind"] == "ack" for fact in client.facts()):
        if time.monotonic() > end:
            raise CommandFailed(f"{peer.name}: no mail is taken: {client.facts()[-3:]}")
        time.sleep(0.1)
    time.sleep(conditions.seconds)
    load, crashes = round(os.getloadavg()[0], 1), peer.crashes()
    kill_everything(peer.hosts[0])
    peer.serves()
    client.stop()
    facts = client.facts()
    lost, flags_lost = missing(facts, client.read())
    times = {kind: [fact["at"] for fact in facts if fact["kind"] == kind] for kind in ("ack", "flag")}
    spent = max(times["ack"]) - min(times["ack"])
    run = Run(
        acknowledged=len(times["ack"]),
        flags_acknowledged=len(times["flag"]),
        deliveries_a_second=round(len(times["ack"]) / spent, 1),
        flags_a_second=round(len(times["flag"]) / spent, 1),
        missing=lost,
        flags_missing=flags_lost,
        load_average=load,
        crashes_before_the_kill=crashes,
    )
    peer.start_first()
    run.missing_after_return, run.flags_missing_after_return = missing(facts, client.read())
    return run


def _run(make: Callable[[], MailPeer], number: int, conditions: Conditions) -> tuple[MailPeer, Run]:
    """One run from nothing: no run bears what an earlier one left."""
    peer = make()
    try:
        peer.build()
        run = _kill(peer, conditions)
    finally:
        peer.close()
    peer.say(
        f"{peer.name} {number}: {run.missing} of {run.acknowledged} messages and {run.flags_missing} of"
        f" {run.flags_acknowledged} flags missing ({run.deliveries_a_second} and {run.flags_a_second} a second were"
        f" acknowledged, load average {run.load_average}, {run.crashes_before_the_kill} crashes before);"
        f" {run.missing_after_return} and {run.flags_missing_after_return} after the killed server came back"
    )
    return peer, run


def measure(conditions: Conditions, say: Say, *, waits: bool, only: str | None) -> dict[str, Any]:
    """Every system's runs, in turns, so that what else the machine does meets all of them; by a short name."""

    def lab(name: str) -> NamespaceLab:
        found = open_lab(name, "netns")
        assert isinstance(found, NamespaceLab)
        return found

    def quietly(text: str) -> None:
        if not text.startswith(("EX", "New-", "Add-")):
            say(text)  # not how the organisation is built, again and again

    makers: dict[str, Callable[[], MailPeer]] = {
        "everpost": lambda: Everpost(lab("loss-everpost"), quietly),
        "dovecot": lambda: Dovecot(lab("loss-dovecot"), say),
    }
    if waits:
        makers["dovecot_waits"] = lambda: Dovecot(lab("loss-dovecot"), say, PEER_WAITS)
    makers = {name: make for name, make in makers.items() if only is None or name.startswith(only)}
    runs: dict[str, list[Run]] = {name: [] for name in makers}
    peers: dict[str, MailPeer] = {}
    for number in range(1, conditions.runs + 1):
        for name, make in makers.items():
            peers[name], run = _run(make, number, conditions)
            runs[name].append(run)
    return {name: _report(peers[name], found) for name, found in runs.items()}


def _report(peer: MailPeer, runs: list[Run]) -> dict[str, Any]:
    changes = [run.missing + run.flags_missing for run in runs]
    return {
        "name": peer.name,
        "missing_changes": changes,
        "missing_changes_median": statistics.median(changes),
        "missing_changes_total": sum(changes),
        "runs": [dataclasses.asdict(run) for run in runs],
        "settings": peer.settings(),
    }


def table(results: dict[str, Any]) -> list[str]:
    """Markdown; sums over all runs."""
    lines = [
        "| | messages acknowledged | missing | flags acknowledged | missing | missing changes per kill (median)"
        " | missing after the killed server came back | acknowledged a second |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for result in results.values():
        runs = result["runs"]
        total = {key: sum(run[key] for run in runs) for key in runs[0]}
        back = total["missing_after_return"] + total["flags_missing_after_return"]
        lines.append(
            f"| {result['name']} | {total['acknowledged']} | {total['missing']} | {total['flags_acknowledged']}"
            f" | {total['flags_missing']} | {result['missing_changes_median']:g} | {back}"
            f" | {total['deliveries_a_second'] / len(runs):.0f} + {total['flags_a_second'] / len(runs):.0f} |"
        )
    return lines
