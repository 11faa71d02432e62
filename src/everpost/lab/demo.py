"""The demonstration: a server dies while mail flows, and an audit shows that nothing acknowledged was lost."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from everpost.errors import EverpostError
from everpost.lab import audit, history
from everpost.lab.hosts import Host, Process, open_lab
from everpost.lab.organisation import CommandFailed, Organisation, Server
from everpost.lab.relay import start_relays

PASSWORD = "demonstration"
DATABASES = {"MB01": 0, "MB02": 1}
USERS = {"MB01": ("anna", "ben", "carla"), "MB02": ("dora", "emil", "fritz")}
DOMAIN = "contoso.com"
BOUNDS = {"unplanned_outage_s": 5.0, "other_database_stall_s": 4.0, "switchover_pause_s": 1.0}
LEAST_ACKNOWLEDGED = 5000
ZERO = ("lost", "duplicated", "flags_lost", "uid_reused", "modseq_backwards")
REJOIN_LIMIT = 60.0


def boottime() -> float:
    """The clock of the ledgers."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Stopped(Exception):
    """SIGTERM or Ctrl-C."""


class Load:
    """The load generators and their ledgers."""

    def __init__(self, organisation: Organisation, client: Host, rate: float, own: str | None) -> None:
        self._o = organisation
        self._host = client
        self._own = own
        self.rate = rate
        self.ca = client.root / "ca.crt"
        self.ca.write_bytes((organisation.servers[0].data / "tls" / "ca.crt").read_bytes())
        self.ledgers: dict[str, Path] = {}
        self._processes: list[Process] = []

    def start_one(self, name: str, module: str, *arguments: str) -> None:
        """Start one generator; its ledger carries its name."""
        ledger = self._host.root / f"{name}.ledger"
        argv = [
            sys.executable,
            "-m",
            f"everpost.lab.load.{module}",
            "--ledger",
            str(ledger),
            "--name",
            name,
            *arguments,
        ]
        self.ledgers[name] = ledger
        self._processes.append(self._host.spawn(argv, self._host.root / f"{name}.log"))

    def start(self) -> None:
        """Deliveries to both hubs for both databases, and sessions on both servers."""
        smtp = self._host.ports.get("smtp", 25)
        imaps = self._host.ports.get("imaps", 993)
        for server in self._o.servers:
            others = [one for one in self._o.servers if one is not server]
            for name in DATABASES:
                hubs = [f"{one.host.address}:{smtp}" for one in (server, *(others if server.name == "EX01" else []))]
                to = ",".join(f"{user}@{DOMAIN}" for user in USERS[name])
                arguments = ["--hubs", ",".join(hubs), "--to", to, "--rate", str(self.rate), "--threads", "4"]
                if self._own:
                    arguments += ["--own", self._own]
                if server.name == "EX02":
                    arguments.append("--large")
                self.start_one(f"hub-{server.name}-{name}", "deliver", *arguments)
            users = ",".join(f"{user}@{DOMAIN}" for name in DATABASES for user in USERS[name])
            self.start_one(
                f"sessions-{server.name}", "sessions", "--host", server.host.address, "--port", str(imaps),
                "--ca", str(self.ca), "--users", users, "--password", PASSWORD,
            )  # fmt: skip

    def facts(self, *, only: str = "") -> list[dict[str, Any]]:
        """Lines of the ledgers whose name contains `only`."""
        return audit.facts([path for name, path in self.ledgers.items() if only in name])

    def acknowledged(self, database: str, hub: str = "") -> list[float]:
        """When deliveries to a database were acknowledged."""
        return [fact["at"] for fact in self.facts(only=f"hub-{hub}") if fact["kind"] == "ack" and _in(fact, database)]

    def count(self) -> int:
        """Deliveries acknowledged so far."""
        return sum(1 for fact in self.facts(only="hub-") if fact["kind"] == "ack")

    def stop(self) -> None:
        """Let each generator finish what is under way."""
        for ledger in self.ledgers.values():
            ledger.with_name(ledger.name + ".stop").touch()
        for process in self._processes:
            try:
                process.popen.wait(45)
            except subprocess.TimeoutExpired:
                process.popen.kill()


def _in(fact: dict[str, Any], database: str) -> bool:
    return fact["to"].partition("@")[0] in USERS[database]


class Story:
    """The phases, and the report that they leave."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._a = arguments
        self._began = time.monotonic()
        self.report: dict[str, Any] = {}
        self.cases: list[str] = []
        self.lab = open_lab("demo", arguments.mode)
        self.organisation = Organisation(self.lab, say=self.say)
        self.client = self.lab.host("CLIENT", 100)
        self.load: Load | None = None
        self.report["mode"] = self.lab.mode

    def say(self, text: str) -> None:
        """A line of the time line."""
        print(f"{time.monotonic() - self._began:7.1f} s  {text}", flush=True)

    def run(self) -> None:
        """Everything up to the report."""
        o = self.organisation
        first, second = o.servers
        o.build()
        o.database("MB01", "EX01")
        o.database("MB02", "EX02")
        for name, users in USERS.items():
            for user in users:
                first.shell(
                    f"New-Mailbox -Name {user.capitalize()} -Alias {user} -Database {name} -Password {PASSWORD}"
                )
        o.wait(lambda: len(second.shell("Get-Mailbox")) == 6, 10, "all mailboxes on EX02")
        self.load = load = Load(o, self.client, self._a.rate, self._a.mail)
        load.start()
        self._show("mail flows to both servers")
        self._wait_load(load, self._a.seconds * 0.3, 0)
        cut = self._cut(first, second, load)
        self._back(first, second)
        self._switchover(second, load)
        self._wait_load(load, self._a.seconds * 0.2, self._a.least + 200)
        self.say("the load stops; what is under way is finished")
        load.stop()
        self._audit(second, load, cut)

    def _wait_load(self, load: Load, seconds: float, least: int) -> None:
        end = time.monotonic() + seconds
        limit = time.monotonic() + seconds + 120
        while time.monotonic() < end or (load.count() < least and time.monotonic() < limit):
            before, at = load.count(), time.monotonic()
            time.sleep(2.0)
            now = load.count()
            self.say(f"{now} messages acknowledged, {(now - before) / (time.monotonic() - at):.0f} a second")

    def _show(self, title: str) -> None:
        self.say(title)
        server = self.organisation.servers[1]
        text = server.command("shell", "--config", str(server.config), "-c", "Get-MailboxDatabaseCopyStatus")
        for line in text.rstrip().splitlines():
            print(f"           {line}", flush=True)

    def _cut(self, first: Server, second: Server, load: Load) -> float:
        loss = "all its network cards" if self.lab.mode == "netns" else "all its processes"
        self.say(f"EX01 loses {loss}")
        cut = boottime()
        first.host.cut()
        self.organisation.wait(
            lambda: any(when > cut + 0.3 for when in load.acknowledged("MB01", "EX02")), 30, "mail for MB01 by EX02"
        )
        time.sleep(3.0)
        end = cut + 8.0
        time.sleep(max(0.0, end - boottime()))
        outage = history.longest_gap(load.acknowledged("MB01", "EX02"), cut, end)
        stall = history.longest_gap(load.acknowledged("MB02", "EX02"), cut, end)
        self.report["unplanned_outage_s"] = round(outage, 3)
        self.report["other_database_stall_s"] = round(stall, 3)
        self.say(f"MB01 took mail again after {outage:.2f} s; MB02 paused for {stall:.2f} s at most")
        self._show("EX02 serves both databases")
        return cut

    def _back(self, first: Server, second: Server) -> None:
        self.say("EX01 comes back")
        began = boottime()
        first.host.mend()
        if self.lab.mode == "loopback":
            first.start()
        self.organisation.wait(lambda: self.organisation.whole(second), REJOIN_LIMIT, "EX01 in the sets again")
        self.report["rejoin_s"] = round(boottime() - began, 2)
        self._show(f"EX01 rejoined by itself after {self.report['rejoin_s']:.1f} s")

    def _switchover(self, second: Server, load: Load) -> None:
        time.sleep(2.0)
        self.say("Move-ActiveMailboxDatabase MB01 -ActivateOnServer EX01")
        began = boottime()
        self.organisation.retry(lambda: second.shell("Move-ActiveMailboxDatabase MB01 -ActivateOnServer EX01"))
        time.sleep(2.0)
        pause = history.longest_gap(load.acknowledged("MB01"), began, boottime())
        self.report["switchover_pause_s"] = round(pause, 3)
        self._show(f"MB01 is home; nobody waited longer than {pause:.2f} s")

    def _audit(self, second: Server, load: Load, cut: float) -> None:
        self.say("the audit reads every mailbox and every copy")
        self.organisation.wait(lambda: self.organisation.whole(second), REJOIN_LIMIT, "all copies whole")
        users = ",".join(f"{user}@{DOMAIN}" for names in USERS.values() for user in names)
        out = self.client.root / "found.json"
        port = str(self.client.ports.get("imaps", 993))
        argv = [sys.executable, "-m", "everpost.lab.audit", second.host.address, port, str(load.ca), users, PASSWORD]
        reading = self.client.spawn([*argv, str(out)], self.client.root / "audit.log")
        if reading.popen.wait(300) != 0:
            raise CommandFailed((self.client.root / "audit.log").read_text()[-2000:])
        found, modseqs = audit.collected(out.read_text())
        verdict = history.judge(load.facts(), found, modseqs)
        self.cases = verdict.cases
        for name in ("acknowledged", "lost", "duplicated", "resubmitted", "flags_acknowledged", "flags_lost"):
            self.report[name] = getattr(verdict, name)
        self.report["uid_reused"] = verdict.uid_reused
        self.report["modseq_backwards"] = verdict.modseq_backwards
        sessions = load.facts(only="sessions-EX02")
        self.report["sessions_total"] = len({fact["session"] for fact in sessions if fact["kind"] == "session"})
        self.report["sessions_survived"] = sum(1 for fact in sessions if fact["kind"] == "survived")
        self.report["copies_identical"] = self._copies()

    def _copies(self) -> bool:
        rows = self.organisation.status(self.organisation.servers[1]).values()
        for name, number in DATABASES.items():
            mine = [row for row in rows if row["DatabaseName"] == name]
            active = next(row["MailboxServer"] for row in mine if row["ActiveCopy"])
            for row in mine:
                if not row["ActiveCopy"]:
                    same, where = audit.copies_identical(
                        self.organisation.server(active), self.organisation.server(row["MailboxServer"]), number
                    )
                    if not same:
                        self.cases.append(f"copies of {name} differ: {where}")
                        return False
        return True

    def failures(self) -> list[str]:
        """What was promised and did not hold."""
        report, broken = self.report, []
        broken += [f"{name} is {report[name]}, not 0" for name in ZERO if report[name] != 0]
        broken += [f"{name} is {report[name]}, over {most}" for name, most in BOUNDS.items() if report[name] > most]
        if report["copies_identical"] is not True:
            broken.append("the copies are not identical")
        if report["sessions_survived"] != report["sessions_total"] or not report["sessions_total"]:
            broken.append(f"{report['sessions_survived']} of {report['sessions_total']} sessions survived")
        if report["acknowledged"] < self._a.least:
            broken.append(f"only {report['acknowledged']} messages were acknowledged")
        return broken

    def print_report(self) -> None:
        """For people."""
        print()
        for name, value in self.report.items():
            print(f"  {name:24}{value}")
        for case in self.cases:
            print(f"  ! {case}")
        print(flush=True)

    def keep(self) -> None:
        """Leave it running until Ctrl-C, reachable from an ordinary mail client."""
        first = self.organisation.servers[0]
        print("It goes on running. Log in with a mail client (the certificate is the demonstration's own):")
        for line in start_relays(self.lab, first.host):
            print(f"  {line}")
        print(f"  user anna@{DOMAIN}, password {PASSWORD}; mail to anna@{DOMAIN} is taken")
        print(f"  management: {sys.executable} -m everpost shell --config {first.config}")
        print("Ctrl-C ends it.", flush=True)
        while True:
            time.sleep(1.0)

    def close(self) -> None:
        """Remove everything that the demonstration made."""
        if self.load is not None:
            for ledger in self.load.ledgers.values():
                ledger.with_name(ledger.name + ".stop").touch()
        self.organisation.close(keep_files=bool(os.environ.get("EVERPOST_KEEP_FILES")))


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="everpost demo", description="Two servers and a witness on this machine; one server dies; an audit."
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report as JSON")
    parser.add_argument("--mail", metavar="PATH", help="your own mail as load: mbox, Maildir or folder of .eml")
    parser.add_argument("--mode", choices=("netns", "loopback"), help="netns when root, else loopback")
    parser.add_argument("--rate", type=float, default=40.0, help="deliveries a second of each of the four senders")
    parser.add_argument("--seconds", type=float, default=30.0, help="about how long load runs beside the faults")
    parser.add_argument("--least", type=int, default=LEAST_ACKNOWLEDGED, help="acknowledged messages to reach")
    keep = parser.add_mutually_exclusive_group()
    keep.add_argument("--keep", action="store_true", default=None, help="leave it running (the default on a terminal)")
    keep.add_argument("--no-keep", dest="keep", action="store_false", help="end after the report")
    arguments = parser.parse_args(argv)
    if arguments.keep is None:
        arguments.keep = sys.stdin.isatty() and sys.stdout.isatty()
    if arguments.mode == "netns" and os.geteuid() != 0:
        parser.error("namespaces need root; leave --mode away for loopback")
    return arguments


def _stop(signum: int, frame: object) -> None:
    raise Stopped


def main(argv: list[str]) -> int:
    """0: every promise held. 1: the report says which did not. Ctrl-C while it is kept running: 0."""
    arguments = _arguments(argv)
    signal.signal(signal.SIGTERM, _stop)
    story = Story(arguments)
    done = False
    try:
        story.run()
        broken = story.failures()
        story.print_report()
        if arguments.json is not None:
            arguments.json.write_text(json.dumps(story.report, indent=2) + "\n")
        for line in broken:
            print(f"NOT KEPT: {line}", flush=True)
        if not broken:
            print("Nothing acknowledged was lost.", flush=True)
        done = True
        if arguments.keep:
            story.keep()
        return 1 if broken else 0
    except EverpostError as error:
        print(f"The demonstration could not go on: {error}", file=sys.stderr, flush=True)
        return 1
    except (KeyboardInterrupt, Stopped):
        return 0 if done else 130
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        story.close()
