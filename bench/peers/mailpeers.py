"""What `bench/loss` asks of a mail system of two servers, and Everpost's answers."""

from __future__ import annotations

import abc
import shutil
import time
from pathlib import Path
from typing import Any

import everpost
from everpost.databases.processes import alive
from everpost.lab.hosts import NamespaceHost, NamespaceLab, kill_all
from everpost.lab.organisation import Organisation

from .pair import Pair, Say

PASSWORD = "benchmark"
DATABASE = "MB01"


def kill_everything(host: NamespaceHost) -> None:
    """SIGKILL every process of a host, and those that were started meanwhile."""
    while pids := [pid for pid in host.pids() if alive(pid)]:
        kill_all(pids)
        time.sleep(0.005)


class MailPeer(Pair):
    """Two servers; clients use the first, until it dies."""

    ca: Path | None = None

    @property
    @abc.abstractmethod
    def deliver(self) -> str:
        """Where mail is delivered: `smtp:HOST:PORT` or `lmtp:HOST:PORT`."""

    @abc.abstractmethod
    def imap(self, host: NamespaceHost) -> str:
        """Where a server answers IMAP."""

    @abc.abstractmethod
    def build(self) -> None:
        """From nothing."""

    @abc.abstractmethod
    def mailboxes(self, users: list[str]) -> None:
        """New and empty ones."""

    @abc.abstractmethod
    def ready(self) -> None:
        """Wait until both servers serve and are level, the first as the one that clients use."""

    @abc.abstractmethod
    def serves(self) -> None:
        """After the first was killed: wait until the second answers for all mailboxes."""

    def crashes(self) -> int:
        """Programs of the system that crashed by themselves so far, by its logs."""
        return 0

    @abc.abstractmethod
    def start_first(self) -> None:
        """The killed server comes back with its disk."""

    @abc.abstractmethod
    def settings(self) -> dict[str, Any]:
        """Version, licence, and what was set, for the report."""

    @abc.abstractmethod
    def close(self) -> None:
        """End and remove everything."""


class Everpost(MailPeer):
    """EX01, EX02 and the witness of the demonstration."""

    name = "Everpost"

    def __init__(self, lab: NamespaceLab, say: Say) -> None:
        super().__init__(lab, say)
        self._o = Organisation(lab, say=say)

    @property
    def hosts(self) -> tuple[NamespaceHost, NamespaceHost]:
        """The two servers."""
        first, second = (server.host for server in self._o.servers)
        assert isinstance(first, NamespaceHost) and isinstance(second, NamespaceHost)
        return first, second

    @property
    def deliver(self) -> str:
        """The hub of the first server."""
        return f"smtp:{self.hosts[0].address}:25"

    def imap(self, host: NamespaceHost) -> str:
        """With TLS."""
        return f"{host.address}:993"

    def build(self) -> None:
        """One database, active on the first server."""
        self._o.build()
        self._o.database(DATABASE, "EX01")
        self.ca = self.lab.root / "ca.crt"
        shutil.copy(self._o.servers[0].data / "tls" / "ca.crt", self.ca)
        self.ca.chmod(0o644)

    def mailboxes(self, users: list[str]) -> None:
        """By the administrator's command."""
        first, second = self._o.servers
        before = len(second.rows("Get-Mailbox"))
        for user in users:
            name = user.partition("@")[0]
            first.rows(f"New-Mailbox -Name {name} -Alias {name} -Database {DATABASE} -Password {PASSWORD}")
        for server in (first, second):
            self._o.wait(lambda server=server: len(server.rows("Get-Mailbox")) == before + len(users), 20, "mailboxes")

    def ready(self) -> None:
        """Both copies in service, active on the first."""
        second = self._o.servers[1]
        self._whole()
        self._o.retry(lambda: second.rows(f"Move-ActiveMailboxDatabase {DATABASE} -ActivateOnServer EX01"), 60)
        self._whole()

    def _whole(self) -> None:
        self._o.wait(lambda: all(self._o.whole(server) for server in self._o.servers), 240, "both copies whole")

    def serves(self) -> None:
        """Until the second server's copy is the active one."""

        def mounted() -> bool:
            rows = self._o.status(self._o.servers[1]).values()
            return any(r["ActiveCopy"] and r["Status"] == "Mounted" and r["MailboxServer"] == "EX02" for r in rows)

        self._o.wait(mounted, 60, "EX02 serves")

    def start_first(self) -> None:
        """`everpost serve`, until its copy is in the set again."""
        self._o.servers[0].start()
        self._o.wait_agent(self._o.servers[0])
        self._whole()

    def settings(self) -> dict[str, Any]:
        """Presets."""
        return {"version": everpost.__version__, "licence": "Apache-2.0", "settings": "presets", "delivery": "SMTP"}

    def close(self) -> None:
        """End and remove everything."""
        self._o.close()
