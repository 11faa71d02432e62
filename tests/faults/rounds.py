"""Fault rounds: one organisation, writers that never stop, and a fault a round; then the ledgers against the rows.

    python -m tests.faults.rounds --rounds 100 --seed 1 [--mode netns]

A round: a fault at a random moment, held for a while, healed; every database must become whole again; every row that
was ever acknowledged must be in the active copy. At the end both copies must have the same rows.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from everpost.lab.hosts import Process, open_lab
from everpost.lab.organisation import Organisation, Server
from tests.faults.nemesis import Nemesis

WHOLE_LIMIT = 90.0
SINGLE_PATIENCE = 15.0
SQLLOAD = Path(__file__).with_name("sqlload.py")


def boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Writers:
    """Writer processes on a host of their own, with their ledgers."""

    def __init__(self, organisation: Organisation, databases: dict[str, int], each: int = 2) -> None:
        self._o = organisation
        self._host = organisation.lab.host("CLIENT", 100)
        tls = organisation.servers[0].data / "tls"
        script = self._host.root / "sqlload.py"
        shutil.copy(SQLLOAD, script)
        script.chmod(0o644)
        self.ledgers: dict[str, list[Path]] = {name: [] for name in databases}
        self._processes: list[Process] = []
        for name, number in databases.items():
            hosts = [f"{server.host.address}:{64328 + number}:64326" for server in organisation.servers]
            for n in range(each):
                ledger = self._host.root / f"{name}-{n}"
                argv = [sys.executable, str(script), "--ledger", str(ledger), "--name", f"w{n}", "--database", name]
                argv += ["--tls", str(tls), "--seconds", "7200", "--pause", "0.004", *hosts]
                self._processes.append(self._host.spawn(argv, self._host.root / f"{name}-{n}.log"))
                self.ledgers[name].append(ledger)

    def acknowledged(self, database: str) -> set[tuple[str, int]]:
        """(writer, n) of every row whose ack is in a ledger."""
        found = set()
        for ledger in self.ledgers[database]:
            if ledger.exists():
                writer = "w" + ledger.name.rpartition("-")[2]
                for line in ledger.read_text().splitlines():
                    words = line.split()
                    if words and words[0] == "ack":
                        found.add((writer, int(words[1])))
        return found

    def stop(self) -> None:
        for ledgers in self.ledgers.values():
            for ledger in ledgers:
                ledger.with_name(ledger.name + ".stop").touch()
        for process in self._processes:
            try:
                process.popen.wait(20)
            except subprocess.TimeoutExpired:
                process.popen.kill()


def rows(server: Server, number: int) -> set[tuple[str, int]]:
    """What a copy holds, by SQL on its own socket."""
    argv = ["psql", "-h", str(server.run / "pg"), "-p", str(64328 + number), "-U", "everpost", "mail", "-Atc"]
    argv.append("select writer, n from public.numbered")
    if os.geteuid() == 0:
        argv = ["setpriv", "--reuid=everpost", "--regid=everpost", "--clear-groups", *argv]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True, cwd="/")
    return {(line.split("|")[0], int(line.split("|")[1])) for line in done.stdout.splitlines()}


class Rounds:
    """One fault a round, chosen by the seed."""

    def __init__(self, organisation: Organisation, seed: int, say: Callable[[str], None]) -> None:
        self._o = organisation
        self._random = random.Random(seed)
        self._patience = 0.0
        self.kinds = Nemesis(organisation, self._random, say).kinds

    def run(self, number: int) -> str:
        """One round; what was done. Raises when the organisation does not heal."""
        kind = self._random.choice(sorted(self.kinds))
        server = self._random.choice(self._o.servers)
        hold = self._random.choice((0.3, 0.6, 3.0, 5.0))
        time.sleep(self._random.uniform(0.0, 0.5))
        heal = self.kinds[kind](server)
        time.sleep(hold)
        heal()
        self._patience = time.monotonic() + SINGLE_PATIENCE
        took = self._o.wait(
            self._whole, WHOLE_LIMIT, f"round {number} ({kind} on {server.name}, {hold} s): whole again"
        )
        return f"{kind} on {server.name} for {hold} s, whole after {took:.1f} s"

    def _whole(self) -> bool:
        """Every database mounted and every passive copy in its set. A member that was shrunk for slowness is kept out
        for a minute and longer, by rule 3.7: after a while it is enough that it follows, and the next fault meets an
        organisation that is single."""
        if all(self._o.whole(server) for server in self._o.servers):
            return True
        if time.monotonic() < self._patience:
            return False
        rows = self._o.status().values()
        return all(row["Status"] == ("Mounted" if row["ActiveCopy"] else "Healthy") for row in rows)


def run(rounds: int, seed: int, mode: str | None, say: Callable[[str], None]) -> dict[str, object]:
    """The whole thing; counts for a report. `lost` must be empty."""
    lab = open_lab("rounds", mode)
    organisation = Organisation(lab, roles="mailbox", say=say)
    lost: list[str] = []
    try:
        organisation.build()
        databases = {"MB01": 0, "MB02": 1}
        organisation.database("MB01", "EX01")
        organisation.database("MB02", "EX02")
        writers = Writers(organisation, databases)
        faults = Rounds(organisation, seed, say)
        began = time.monotonic()
        for number in range(1, rounds + 1):
            say(f"round {number}: {faults.run(number)}")
            for name in databases:
                lost += _missing(organisation, writers, name, databases[name])
            if lost:
                break
        writers.stop()
        acknowledged = {name: writers.acknowledged(name) for name in databases}
        for name, number in databases.items():
            organisation.wait(
                lambda name=name, number=number: all(  # type: ignore[misc]
                    acknowledged[name] <= rows(server, number) for server in organisation.servers
                ),
                20,
                f"every acknowledged row of {name} on both copies",
            )
        return {
            "rounds": rounds,
            "seed": seed,
            "acknowledged": {name: len(found) for name, found in acknowledged.items()},
            "lost": lost,
            "seconds": round(time.monotonic() - began, 1),
        }
    except BaseException:
        say(f"the lab's files stay in {lab.root}")
        organisation.close(keep_files=True)
        raise
    finally:
        organisation.close(keep_files=bool(lost) or sys.exc_info()[0] is not None)


def _missing(organisation: Organisation, writers: Writers, name: str, number: int) -> list[str]:
    """Acknowledged rows that the active copy lacks. The ledger is read first: what came later does not matter."""
    acknowledged = writers.acknowledged(name)
    status = organisation.status()
    active = next(row["MailboxServer"] for row in status.values() if row["ActiveCopy"] and row["DatabaseName"] == name)
    try:
        held = rows(organisation.server(active), number)
    except subprocess.CalledProcessError:
        return []  # it moved meanwhile; the next round looks again
    return [f"{name} {writer} {n}" for writer, n in sorted(acknowledged - held)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mode", choices=("netns", "loopback"))
    arguments = parser.parse_args()
    report = run(arguments.rounds, arguments.seed, arguments.mode, lambda text: print(text, flush=True))
    print(json.dumps(report, indent=2))
    sys.exit(1 if report["lost"] else 0)


if __name__ == "__main__":
    main()
