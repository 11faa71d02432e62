"""The story of the demonstration: a server dies while mail flows, comes back, and an audit reads everything."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence

from everpost.lab import copies, history, report
from everpost.lab.audit import Reading
from everpost.lab.hosts import open_lab
from everpost.lab.load.ledger import boottime
from everpost.lab.organisation import CommandFailed, Organisation, Server
from everpost.lab.screen import Screen, table
from everpost.lab.workload import Workload

PASSWORD = "demonstration"
DOMAIN = "contoso.com"
DATABASES = {"MB01": 0, "MB02": 1}
PEOPLE = {"MB01": ("anna", "ben", "carla"), "MB02": ("dora", "emil", "fritz")}
REJOIN_LIMIT = 60.0
OUTAGE_LIMIT = 30.0
WINDOW = 8.0
"""Seconds after the cut that the surviving server serves alone, at least."""
SETTLE = 2.0
LOGIN_LIMIT = 60.0
"""Seconds for all sessions to log in at once: each password costs a tenth of a second of a core."""


def addresses(database: str) -> list[str]:
    """Of the people whose mailboxes are in a database."""
    return [f"{name}@{DOMAIN}" for name in PEOPLE[database]]


EVERYBODY = [address for database in DATABASES for address in addresses(database)]
DRAFTERS = [addresses(database)[0] for database in DATABASES]


class Story:
    """The phases, and the report that they leave."""

    def __init__(self, arguments: argparse.Namespace, screen: Screen) -> None:
        self._a = arguments
        self._screen = screen
        self.report: report.Report = {}
        self.cases: list[str] = []
        self.lab = open_lab("demo", arguments.mode)
        self.report["mode"] = self.lab.mode
        self.organisation = Organisation(self.lab, say=screen.say)
        self.client = self.lab.host("CLIENT", 100)
        self.workload: Workload | None = None
        self._last = (time.monotonic(), 0)

    def run(self) -> None:
        """Everything up to the report. Raises EverpostError when it cannot go on."""
        self._build()
        load = self._load()
        self._flow(load, self._a.seconds * 0.3, 0)
        cut = self._cut(load)
        self._back()
        self._flow(load, SETTLE, 0)
        self._alone(load, cut, boottime())
        self._home(load)
        self._flow(load, self._a.seconds * 0.2, self._a.least + self._a.least // 25)
        self._screen.say("the load stops; what is under way is finished")
        load.stop()
        self._audit(load)

    @property
    def _servers(self) -> tuple[Server, Server]:
        first, second = self.organisation.servers
        return first, second

    def _build(self) -> None:
        first, second = self._servers
        self.organisation.build()
        self.organisation.database("MB01", first.name)
        self.organisation.database("MB02", second.name)
        for database, people in PEOPLE.items():
            for name in people:
                first.shell(
                    f"New-Mailbox -Name {name.capitalize()} -Alias {name} -Database {database} -Password {PASSWORD}"
                )
        self._wait(lambda: len(second.rows("Get-Mailbox")) == len(EVERYBODY), 10, "all mailboxes on EX02")

    def _load(self) -> Workload:
        first, second = self._servers
        self.workload = load = Workload(self.organisation, self.client, PASSWORD)
        for database in DATABASES:
            common = {"rate": self._a.rate, "own": self._a.mail}
            load.deliver([first, second], database, addresses(database), **common)
            load.deliver([second], database, addresses(database), large=database == "MB02", **common)
            load.probe(second, database, addresses(database)[1])
        for server in self._servers:
            load.sessions(server, EVERYBODY, DRAFTERS)
        self._send = load.composer(second, addresses("MB02")[2], addresses("MB01")[2])
        self._screen.watch(self._panel)
        sessions = 2 * (len(EVERYBODY) + len(DRAFTERS)) + 1
        self._wait(lambda: self._logged_in(load) == sessions, LOGIN_LIMIT, f"{sessions} IMAP sessions")
        self._screen.say(f"mail flows to both servers; {sessions} IMAP sessions are open")
        self._picture()
        return load

    @staticmethod
    def _logged_in(load: Workload) -> int:
        return len({fact["session"] for fact in load.ledgers.facts() if fact["kind"] == "session"})

    def _panel(self) -> list[str]:
        """What is below the time line of a terminal."""
        assert self.workload is not None
        now, count = time.monotonic(), self.workload.ledgers.count()
        rate = (count - self._last[1]) / max(now - self._last[0], 0.1)
        self._last = (now, count)
        rows = self._servers[1].rows("Get-MailboxDatabaseCopyStatus", 2.0)
        return ["", f"{count} messages acknowledged, {rate:.0f} a second", *table(rows)]

    def _picture(self) -> None:
        self._screen.picture(self._servers[1].rows("Get-MailboxDatabaseCopyStatus"))

    def _wait(self, condition: Callable[[], bool], seconds: float, what: str) -> float:
        return self.organisation.wait(condition, seconds, what)

    def _flow(self, load: Workload, seconds: float, least: int) -> None:
        """Let mail flow for a while, and until `least` messages are acknowledged."""
        end = time.monotonic() + seconds
        limit = end + 120
        while time.monotonic() < end or (load.ledgers.count() < least and time.monotonic() < limit):
            before, at = load.ledgers.count(), time.monotonic()
            time.sleep(min(2.0, max(0.2, seconds)))
            for name, said in load.dead().items():
                raise CommandFailed(f"The load generator {name} ended: {said}")
            if not self._screen.live:
                now = load.ledgers.count()
                rate = (now - before) / (time.monotonic() - at)
                self._screen.say(f"{now} messages acknowledged, {rate:.0f} a second")

    def _cut(self, load: Workload) -> float:
        first = self._servers[0]
        loss = "all its network cards" if self.lab.mode == "netns" else "all its processes"
        self._screen.say(f"EX01 loses {loss}; a client presses Send")
        cut = boottime()
        first.host.cut()
        self._send.touch()
        self._wait(
            lambda: any(at > cut + 0.3 for at in load.ledgers.acknowledged("EX02", "MB01")),
            OUTAGE_LIMIT,
            "mail for MB01 by EX02",
        )
        self._screen.say(f"MB01 takes mail again, {boottime() - cut:.1f} s after the cut")
        self._wait(lambda: bool(self._waited(load)), OUTAGE_LIMIT, "the message that waited")
        self.report["waiting_message_s"] = waited = self._waited(load)[0]
        self._screen.say(f"the client that had a message waiting saw it sent and arrived after {waited:.1f} s")
        time.sleep(max(0.0, cut + WINDOW - boottime()))
        self._screen.say("EX02 serves both databases")
        self._picture()
        return cut

    @staticmethod
    def _waited(load: Workload) -> list[float]:
        return [fact["seconds"] for fact in load.ledgers.facts("composer") if fact["kind"] == "arrived"]

    def _back(self) -> None:
        first, second = self._servers
        self._screen.say("EX01 comes back")
        began = boottime()
        first.host.mend()
        if self.lab.mode == "loopback":
            first.start()
        self._wait(lambda: self.organisation.whole(second), REJOIN_LIMIT, "EX01 in the sets again")
        self.report["rejoin_s"] = round(boottime() - began, 2)
        self._screen.say(f"EX01 rejoined by itself after {self.report['rejoin_s']:.1f} s")
        self._picture()

    def _alone(self, load: Workload, cut: float, end: float) -> None:
        """What clients of the surviving hub met from the cut until the lost server was in the sets again."""
        for name, database in (("unplanned_outage_s", "MB01"), ("other_database_stall_s", "MB02")):
            gap = history.longest_gap(load.ledgers.acknowledged("EX02", database), cut, end)
            self.report[name] = round(gap, 3)
        self._screen.say(
            f"from the cut to the rejoin MB01 took no mail for {self.report['unplanned_outage_s']:.2f} s,"
            f" MB02 for {self.report['other_database_stall_s']:.2f} s at the longest"
        )

    def _home(self, load: Workload) -> None:
        _, second = self._servers
        self._screen.say("Move-ActiveMailboxDatabase MB01 -ActivateOnServer EX01")
        began = boottime()
        self.organisation.retry(lambda: second.rows("Move-ActiveMailboxDatabase MB01 -ActivateOnServer EX01"))
        time.sleep(SETTLE)
        pause = history.longest_gap(load.ledgers.acknowledged("EX02", "MB01"), began, boottime())
        self.report["switchover_pause_s"] = round(pause, 3)
        self._screen.say(f"MB01 is home; its clients waited {pause:.2f} s at the longest")
        self._picture()

    def _audit(self, load: Workload) -> None:
        _, second = self._servers
        self._screen.say("the audit reads every mailbox and every copy")
        self._wait(lambda: self.organisation.whole(second), REJOIN_LIMIT, "all copies whole")
        try:
            reading = Reading.load(load.read_back(second, EVERYBODY))
        except RuntimeError as error:
            raise CommandFailed(f"The audit could not read: {error}") from error
        verdict = history.judge(load.ledgers.facts(), reading.messages, reading.highest)
        self.report.update(report.counts(verdict))
        self.cases = verdict.cases
        begun = len(EVERYBODY) + len(DRAFTERS)
        facts = load.ledgers.facts(f"sessions-{second.name}")
        self.report.update(report.sessions(facts, begun))
        self.cases += [f"{fact['session']}: {fact['why']}" for fact in facts if fact["kind"] == "dropped"]
        differences = self._differences(reading)
        self.cases += differences
        self.report["copies_identical"] = not differences

    def _differences(self, reading: Reading) -> list[str]:
        """Between the copies of a database, and between each copy and what was read by IMAP."""
        found = []
        rows = self.organisation.status(self._servers[1]).values()
        for database, number in DATABASES.items():
            mine = [row for row in rows if row["DatabaseName"] == database]
            active = next(row["MailboxServer"] for row in mine if row["ActiveCopy"])
            people = addresses(database)
            expected = sum(one.user in people for one in reading.messages)
            for row in mine:
                ask = copies.asking(self.organisation.server(row["MailboxServer"]), number)
                if not row["ActiveCopy"]:
                    differs = copies.compare(copies.asking(self.organisation.server(active), number), ask, database)
                    found += [f"copies of {row['Name']} and {active} differ: {differs}"] if differs else []
                held = copies.messages(ask)
                if held != expected:
                    found.append(f"{row['Name']} holds {held} messages, {expected} were read by IMAP")
        return found

    def failures(self) -> list[str]:
        """What was promised and did not hold."""
        return report.failures(self.report, self._a.least)

    def lines(self) -> Sequence[str]:
        """The report for people."""
        return report.text(self.report, self.cases)

    def close(self) -> None:
        """End the load and remove everything that was made."""
        if self.workload is not None:
            self.workload.ask_to_stop()
        self.organisation.close(keep_files=bool(os.environ.get("EVERPOST_KEEP_FILES")))
