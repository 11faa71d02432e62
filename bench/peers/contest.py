"""The faults and the stop-watch, the same for each contestant."""

from __future__ import annotations

import abc
import dataclasses
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from everpost.databases.processes import alive
from everpost.lab import history
from everpost.lab.hosts import NamespaceHost, Process, kill_all
from everpost.lab.load.ledger import boottime
from everpost.lab.organisation import CommandFailed

from .pair import Pair

WRITER = Path(__file__).with_name("writer.py")
SETTLE = 2.0
"""Seconds of quiet before and after each event, so that one does not colour the next."""
AWAY = 6.0
"""Seconds that a cut or crashed passive server stays away: longer than any stall that ends by a decision of Everpost;
a longer stall is seen too, for the watch runs until a row is acknowledged again."""
PATIENCE = 120.0
WHOLE = 240.0


class SqlWriter:
    """The client of `writer.py` on a host of its own, and what it was acknowledged."""

    def __init__(self, host: NamespaceHost, *arguments: str) -> None:
        script = host.root / "writer.py"
        shutil.copy(WRITER, script)  # the lab's user may not be able to read the checkout
        script.chmod(0o644)
        self._ledger = host.root / "rows.ledger"
        self._log = host.root / "writer.log"
        argv = [sys.executable, str(script), "--ledger", str(self._ledger), *arguments]
        self._process: Process = host.spawn(argv, self._log)
        self._offset = 0
        self._times: list[float] = []
        self.rows: set[tuple[str, int]] = set()

    def times(self) -> list[float]:
        """When rows were acknowledged, so far. Raises CommandFailed when the client ended by itself."""
        if self._ledger.exists():
            with self._ledger.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
            whole = data[: data.rfind(b"\n") + 1]
            self._offset += len(whole)
            for line in whole.decode().splitlines():
                writer, n, at = line.split()
                self.rows.add((writer, int(n)))
                self._times.append(float(at))
        if not self._process.running() and not self._stop.exists():
            raise CommandFailed(f"The SQL client ended: {self._log.read_text(errors='replace')[-500:]}")
        return self._times

    @property
    def _stop(self) -> Path:
        return self._ledger.with_name(self._ledger.name + ".stop")

    def stop(self) -> None:
        """Finish what is under way."""
        self._stop.touch()
        try:
            self._process.popen.wait(30)
        except subprocess.TimeoutExpired:
            self._process.popen.kill()
            self._process.popen.wait()
        self.times()


class Contestant(Pair):
    """Two servers and a witness of one system. The first server is to be active, the second passive."""

    @abc.abstractmethod
    def build(self) -> SqlWriter:
        """From nothing to a whole system with a client that writes."""

    @abc.abstractmethod
    def whole(self) -> bool:
        """Whether both copies are in service and a commit waits for both."""

    @abc.abstractmethod
    def lead(self) -> None:
        """The first server's etcd member becomes the leader."""

    @abc.abstractmethod
    def home(self) -> None:
        """Planned switchover to the first server."""

    @abc.abstractmethod
    def stop_passive(self) -> None:
        """A clean stop of all its programs."""

    @abc.abstractmethod
    def start_passive(self) -> None:
        """Its programs again."""

    @abc.abstractmethod
    def rows(self) -> set[tuple[str, int]]:
        """What the active copy holds at the end."""

    @abc.abstractmethod
    def settings(self) -> dict[str, Any]:
        """Version, licence, and what was set, for the report."""

    @abc.abstractmethod
    def close(self) -> None:
        """End and remove everything."""


def summary(values: list[float]) -> dict[str, float]:
    """Of seconds."""
    return {"median": round(statistics.median(values), 3), "worst": round(max(values), 3)}


@dataclasses.dataclass
class Result:
    """All measurements of a contestant, in seconds. A stall is the longest time without an acknowledged row from the
    fault until the system is whole again."""

    outages: list[float] = dataclasses.field(default_factory=list)
    switchovers: list[float] = dataclasses.field(default_factory=list)
    restarts: list[float] = dataclasses.field(default_factory=list)
    crashes: list[float] = dataclasses.field(default_factory=list)
    passive_cuts: list[float] = dataclasses.field(default_factory=list)
    rejoins: list[float] = dataclasses.field(default_factory=list)
    acknowledged: int = 0
    missing: int = 0
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)

    def report(self) -> dict[str, Any]:
        """As JSON wants it."""
        return {
            "outages_s": self.outages,
            "outage": summary(self.outages),
            "switchover_pauses_s": self.switchovers,
            "switchover_pause": summary(self.switchovers),
            "passive_restart_stalls_s": self.restarts,
            "passive_restart_stall": summary(self.restarts),
            "passive_crash_stalls_s": self.crashes,
            "passive_crash_stall": summary(self.crashes),
            "passive_cut_stalls_s": self.passive_cuts,
            "passive_cut_stall": summary(self.passive_cuts),
            "rejoins_s": self.rejoins,
            "rejoin": summary(self.rejoins),
            "rows_acknowledged": self.acknowledged,
            "rows_missing": self.missing,
            "settings": self.settings,
        }


def wait(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Until the condition holds. Raises CommandFailed naming `what`."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise CommandFailed(f"{what} did not come true within {seconds:.0f} s")
        time.sleep(0.1)


class Contest:
    """One contestant through all rounds."""

    def __init__(self, contestant: Contestant) -> None:
        self._c = contestant
        self._result = Result()
        self._writer: SqlWriter

    def run(self, rounds: int) -> Result:
        """Build, measure, count, remove."""
        try:
            self._writer = self._c.build()
            wait(lambda: len(self._writer.times()) > 100, PATIENCE, f"{self._c.name}: rows")
            for number in range(1, rounds + 1):
                self._round(number)
            self._writer.stop()
            held = self._c.rows()
            self._result.acknowledged = len(self._writer.rows)
            self._result.missing = len(self._writer.rows - held)
            self._result.settings = self._c.settings()
        finally:
            self._c.close()
        return self._result

    def _whole(self) -> None:
        wait(self._c.whole, WHOLE, f"{self._c.name}: whole again")

    def _gap(self, since: float) -> float:
        return round(history.longest_gap(self._writer.times(), since, boottime()), 3)

    def _round(self, number: int) -> None:
        leads = number % 2 == 0
        result = self._result
        self._cut_active(leads=leads)
        self._switch_home()
        result.restarts.append(self._stall(self._restart))
        result.crashes.append(self._stall(self._crash))
        result.passive_cuts.append(self._stall(self._cut_passive))
        self._c.say(
            f"{self._c.name} {number}: active cut{' (led etcd)' if leads else ''} {result.outages[-1]:.2f} s,"
            f" rejoin {result.rejoins[-1]:.1f} s, switchover {result.switchovers[-1]:.2f} s; passive restarted"
            f" {result.restarts[-1]:.2f} s, crashed {result.crashes[-1]:.2f} s, cut {result.passive_cuts[-1]:.2f} s"
        )

    def _cut_active(self, *, leads: bool) -> None:
        if leads:
            self._c.lead()
        self._whole()
        time.sleep(SETTLE)
        first = self._c.hosts[0]
        cut = boottime()
        first.cut()
        self._again(cut + 0.3)
        time.sleep(SETTLE)
        self._result.outages.append(self._gap(cut))
        back = boottime()
        first.mend()
        self._whole()
        self._result.rejoins.append(round(boottime() - back, 2))

    def _again(self, after: float) -> None:
        """Until rows are acknowledged after a moment. 0.3 s after a cut nothing that left before it can come."""
        wait(lambda: any(at > after for at in self._writer.times()[-50:]), PATIENCE, f"{self._c.name}: rows again")

    def _switch_home(self) -> None:
        time.sleep(SETTLE)
        began = boottime()
        self._c.home()
        self._again(boottime())
        time.sleep(SETTLE)
        self._result.switchovers.append(self._gap(began))
        self._whole()

    def _stall(self, fault: Callable[[], None]) -> float:
        self._whole()
        time.sleep(SETTLE)
        began = boottime()
        fault()
        self._again(boottime())
        self._whole()
        return self._gap(began)

    def _restart(self) -> None:
        self._c.stop_passive()
        self._c.start_passive()

    def _away(self) -> None:
        """The passive server stays away until the active goes on alone."""
        gone = boottime()
        time.sleep(AWAY)
        self._again(gone + 0.5)

    def _crash(self) -> None:
        host = self._c.hosts[1]
        while pids := [pid for pid in host.pids() if alive(pid)]:
            kill_all(pids)
            time.sleep(0.01)
        self._away()
        self._c.start_passive()

    def _cut_passive(self) -> None:
        host = self._c.hosts[1]
        host.cut()
        self._away()
        host.mend()
