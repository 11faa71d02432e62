"""The organisation of a lab, built by the real command lines on hosts that run `everpost serve`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from everpost.errors import EverpostError
from everpost.lab.hosts import Host, Lab, Process
from everpost.manage import client
from everpost.settings import load

WITNESS = "EX10-CAHT"
DAG = "E14-DAG"


class CommandFailed(EverpostError):
    """A command line of the lab ended with an error; `what` is what it said."""


class Server:
    """One host with its `everpost serve`."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.name = host.name
        self.config = host.root / "everpost.toml"
        self.data = host.root / "data"
        self.run = host.root / "run"
        self.env = {"PYTHONUNBUFFERED": "1"}
        self.programs = ""
        """A folder with PostgreSQL's programs that is used instead of the distribution's."""
        self.process: Process | None = None

    def command(self, *arguments: str, timeout: float = 120.0) -> str:
        """`everpost ARGUMENTS` on the host; its output. Raises CommandFailed."""
        log = self.host.root / f"command-{uuid.uuid4().hex}.log"  # the screen and the story ask at the same time
        process = self.host.spawn([sys.executable, "-m", "everpost", *arguments], log, self.env)
        try:
            status = process.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            process.popen.kill()
            raise CommandFailed(f"everpost {' '.join(arguments[:3])} did not end within {timeout:.0f} s") from None
        text = log.read_text(errors="replace")
        log.unlink()
        if status != 0:
            raise CommandFailed(text.strip() or f"everpost {arguments[0]} ended with {status}")
        return text

    def folders(self) -> list[str]:
        """Options that name this host's folders, addresses and ports."""
        options = ["--config", str(self.config), "--data-dir", str(self.data), "--run-dir", str(self.run)]
        options += ["--name", self.name, "--address", self.host.address]
        options += ["--replication-address", self.host.replication_address]
        options += ["--path-root", str(self.host.root / "paths")]
        for name, port in self.host.ports.items():
            options += [f"--{name}-port", str(port)]
        return options

    def start(self) -> None:
        """`everpost serve`."""
        text = self.config.read_text()
        if self.programs and "postgres_bin" not in text:
            self.config.write_text(f'postgres_bin = "{self.programs}"\n{text}')
        argv = [sys.executable, "-m", "everpost", "serve", "--config", str(self.config)]
        self.process = self.host.spawn(argv, self.host.root / "serve.log", self.env)

    def stop(self) -> None:
        """SIGTERM."""
        if self.process is not None:
            self.process.terminate()

    def pid(self, child: str) -> int | None:
        """The pid of a child of `everpost serve`: agent, warden, etcd, clientaccess, transport."""
        try:
            return int((self.data / "log" / f"{child}.pid").read_text().split()[0])
        except (OSError, ValueError, IndexError):
            return None

    def postmaster(self, database: str) -> int | None:
        """The pid of a database's postmaster."""
        for path in (self.data / "databases" / database).glob("inc-*/postmaster.pid"):
            with contextlib.suppress(OSError, ValueError, IndexError):
                return int(path.read_text().splitlines()[0])
        return None

    def shell(self, line: str, timeout: float = 120.0) -> list[dict[str, Any]]:
        """Rows of one line of the shell."""
        text = self.command("shell", "--config", str(self.config), "-c", f"{line} -Format json", timeout=timeout)
        start = text.find("[")
        return json.loads(text[start:]) if start >= 0 else []

    def rows(self, line: str, timeout: float = 60.0) -> list[dict[str, Any]]:
        """The same as `shell` without a process of its own, for what is asked again and again while time is measured.
        Not from within an event loop."""

        async def ask() -> list[dict[str, Any]]:
            async with asyncio.timeout(timeout):
                return await client.events(load(self.config).admin_socket, line)

        try:
            events = asyncio.run(ask())
        except TimeoutError:
            raise CommandFailed(f"{self.name} did not answer {line} within {timeout:.0f} s") from None
        except EverpostError as error:
            raise CommandFailed(error.what, remedy=error.remedy) from error
        found: list[dict[str, Any]] = []
        for event in events:
            if "error" in event:
                raise CommandFailed(event["error"]["what"], remedy=event["error"].get("remedy", ""))
            found += event.get("rows", [])
        return found


class Organisation:
    """EX01, EX02 and the witness of the demonstration."""

    def __init__(
        self, lab: Lab, *, roles: str = "mailbox,clientaccess,hubtransport", say: Callable[[str], None] = lambda _: None
    ) -> None:
        self.lab = lab
        self._say = say
        self._roles = roles
        self.servers = [Server(lab.host(name, number)) for name, number in (("EX01", 11), ("EX02", 12))]
        self.witness = Server(lab.host(WITNESS, 13))

    @property
    def all(self) -> list[Server]:
        """Servers and witness."""
        return [*self.servers, self.witness]

    def server(self, name: str) -> Server:
        """By name."""
        return next(server for server in self.all if server.name == name)

    def build(self) -> None:
        """From nothing to a DAG of two members and a witness."""
        self.join()
        first = self.servers[0]
        self._say(f"New-DatabaseAvailabilityGroup {DAG}")
        self.retry(
            lambda: first.shell(
                f"New-DatabaseAvailabilityGroup -Name {DAG} -WitnessServer {WITNESS}"
                " -WitnessDirectory /var/lib/fsw -Verbose"
            )
        )
        for server in self.servers:
            self._say(f"Add-DatabaseAvailabilityGroupServer {server.name}")
            first.shell(f"Add-DatabaseAvailabilityGroupServer -Identity {DAG} -MailboxServer {server.name} -Verbose")

    def add_server(self, name: str, number: int) -> None:
        """A further mailbox server, to be joined with the others."""
        self.servers.append(Server(self.lab.host(name, number)))

    def join(self) -> None:
        """From nothing to servers and a witness that are one organisation, without a DAG."""
        first, *others = self.servers
        self._say("EX01: everpost server init")
        first.command(
            "server",
            "init",
            "--organization",
            "Contoso",
            "--domain",
            "contoso.com",
            "--roles",
            self._roles,
            *first.folders(),
        )
        first.start()
        self.wait_agent(first)
        for server, roles in [*((one, self._roles) for one in others), (self.witness, "witness")]:
            self._say(f"{server.name}: everpost server join")
            token = (
                self.retry(lambda: first.command("server", "token", "--config", str(first.config)))
                .strip()
                .splitlines()[-1]
            )
            server.command("server", "join", "--token", token, "--roles", roles, *server.folders())
            server.start()
            self.wait_agent(server)

    def database(self, name: str, active: str) -> None:
        """A database with a copy on the other server."""
        first = self.servers[0]
        other = next(server.name for server in self.servers if server.name != active)
        self._say(f"New-MailboxDatabase {name} on {active}, copy on {other}")
        first.shell(f"New-MailboxDatabase -Name {name} -Server {active}")
        first.shell(f"Add-MailboxDatabaseCopy -Identity {name} -MailboxServer {other}")

    def wait_agent(self, server: Server, seconds: float = 30.0) -> None:
        """Until the server's agent takes commands."""
        self.wait(lambda: bool(server.rows("Get-ExchangeServer", 5.0)), seconds, f"the agent of {server.name}")

    def retry(self, action: Callable[[], Any], seconds: float = 20.0) -> Any:
        """Until it does not fail."""
        end = time.monotonic() + seconds
        while True:
            try:
                return action()
            except CommandFailed:
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)

    def wait(self, condition: Callable[[], bool], seconds: float, what: str) -> float:
        """Until the condition holds; seconds it took. Raises CommandFailed naming `what` after `seconds`."""
        began = time.monotonic()
        while True:
            with contextlib.suppress(CommandFailed, ValueError):
                if condition():
                    return time.monotonic() - began
            if time.monotonic() - began > seconds:
                raise CommandFailed(f"{what} did not come true within {seconds:.0f} s")
            time.sleep(0.1)

    def status(self, server: Server | None = None) -> dict[str, dict[str, Any]]:
        """Get-MailboxDatabaseCopyStatus by copy name."""
        rows = (server or self.servers[0]).rows("Get-MailboxDatabaseCopyStatus", 5.0)
        return {row["Name"]: row for row in rows}

    def whole(self, server: Server | None = None) -> bool:
        """Whether every database is mounted and every passive copy in the synchronous set."""
        rows = self.status(server).values()
        return bool(rows) and all(
            row["Status"] == "Mounted" if row["ActiveCopy"] else row["Synchronous"] for row in rows
        )

    def signal(self, pids: Sequence[int], signum: signal.Signals) -> None:
        """Send a signal to processes of the lab."""
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signum)

    def close(self, *, keep_files: bool = False) -> None:
        """Stop everything and remove what the lab made."""
        for server in self.all:
            if server.process is not None and server.process.running():
                server.process.popen.terminate()
        for server in self.all:
            server.stop()
        self.lab.close()
        if not keep_files:
            shutil.rmtree(self.lab.root, ignore_errors=True)
