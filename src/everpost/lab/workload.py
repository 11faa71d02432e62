"""Starts and stops the load generators on the client's host, and reads their ledgers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from everpost.lab.hosts import Host, Process
from everpost.lab.ledgers import Ledgers
from everpost.lab.organisation import Organisation, Server

STOP_LIMIT = 45.0
"""Seconds for what is under way: a hub waits up to 30 for its database."""


class Workload:
    """Load generators; a ledger carries its generator's name."""

    def __init__(self, organisation: Organisation, client: Host, password: str) -> None:
        self.ledgers = Ledgers()
        self._host = client
        self._password = password
        self._ca = client.root / "ca.crt"
        self._ca.write_bytes((organisation.servers[0].data / "tls" / "ca.crt").read_bytes())
        self._processes: dict[str, Process] = {}

    def _port(self, name: str, standard: int) -> int:
        return self._host.ports.get(name, standard)

    def _start(self, name: str, module: str, *arguments: str) -> Path:
        ledger = self._host.root / f"{name}.ledger"
        argv = [sys.executable, "-m", f"everpost.lab.load.{module}", "--ledger", str(ledger), "--name", name]
        self.ledgers.add(name, ledger)
        self._processes[name] = self._host.spawn([*argv, *arguments], self._host.root / f"{name}.log")
        return ledger

    def _hubs(self, servers: Sequence[Server]) -> str:
        return ",".join(f"{server.host.address}:{self._port('smtp', 25)}" for server in servers)

    def deliver(
        self,
        servers: Sequence[Server],
        database: str,
        users: Sequence[str],
        *,
        rate: float,
        threads: int = 4,
        large: bool = False,
        own: str | None = None,
    ) -> None:
        """Deliveries to the first server's hub; to the others' when it does not answer. `rate` a second."""
        arguments = ["--hubs", self._hubs(servers), "--to", ",".join(users), "--rate", str(rate)]
        arguments += ["--threads", str(threads), *(["--large"] if large else []), *(["--own", own] if own else [])]
        self._start(f"hub-{servers[0].name}-{database}", "deliver", *arguments)

    def probe(self, server: Server, database: str, user: str, rate: float = 20.0) -> None:
        """Tries at a steady rate by a client of this hub."""
        arguments = ["--hubs", self._hubs([server]), "--to", user, "--rate", str(rate)]
        self._start(f"probe-{server.name}-{database}", "probe", *arguments)

    def knock(self, host: str, user: str) -> None:
        """Looks at a client access array by its virtual address, as its clients do."""
        self._start(
            "knock", "knock", "--host", host, "--ca", str(self._ca), "--user", user, "--password", self._password,
        )  # fmt: skip

    def capture(self, address: str) -> None:
        """Who answers for the address, on the client's own card."""
        port = str(self._port("imap", 143))
        self._start("capture", "capture", "--link", "mapi", "--address", address, "--port", port)

    def sessions(self, server: Server, readers: Sequence[str], drafters: Sequence[str]) -> None:
        """Long-living IMAP sessions on a server."""
        self._start(
            f"sessions-{server.name}", "sessions",
            "--host", server.host.address, "--port", str(self._port("imaps", 993)), "--ca", str(self._ca),
            "--readers", ",".join(readers), "--drafters", ",".join(drafters), "--password", self._password,
        )  # fmt: skip

    def composer(self, server: Server, user: str, to: str) -> Path:
        """A client that has a message ready; it presses Send when the returned file appears."""
        ledger = self._start(
            "composer", "composer", "--host", server.host.address,
            "--submission", str(self._port("submission", 587)), "--imaps", str(self._port("imaps", 993)),
            "--ca", str(self._ca), "--user", user, "--to", to, "--password", self._password,
        )  # fmt: skip
        return ledger.with_name(ledger.name + ".go")

    def read_back(self, server: Server, users: Sequence[str]) -> str:
        """The audit's reading by IMAP, from the client's host. Raises RuntimeError with what it said."""
        out, log = self._host.root / "found.json", self._host.root / "audit.log"
        argv = [sys.executable, "-m", "everpost.lab.audit", server.host.address, str(self._port("imaps", 993))]
        argv += [str(self._ca), ",".join(users), self._password, str(out)]
        if self._host.spawn(argv, log).popen.wait(300) != 0:
            raise RuntimeError(log.read_text(errors="replace")[-2000:])
        return out.read_text()

    def dead(self) -> Mapping[str, str]:
        """Generators that ended by themselves, and the end of what they said."""
        return {
            name: (self._host.root / f"{name}.log").read_text(errors="replace")[-500:]
            for name, process in self._processes.items()
            if not process.running()
        }

    def ask_to_stop(self) -> None:
        """Each finishes what is under way."""
        for file in self.ledgers.files.values():
            file.path.with_name(file.path.name + ".stop").touch()

    def stop(self) -> None:
        """Ask, and wait until they have ended."""
        self.ask_to_stop()
        for process in self._processes.values():
            try:
                process.popen.wait(STOP_LIMIT)
            except subprocess.TimeoutExpired:
                process.popen.kill()
                process.popen.wait()
