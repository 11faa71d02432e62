"""Everpost as a contestant: servers with the mailbox role only, so that the SQL client writes without mail between."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import everpost
from everpost.lab import copies
from everpost.lab.hosts import NamespaceHost, NamespaceLab
from everpost.lab.leader import leader
from everpost.lab.organisation import CommandFailed, Organisation

from .contest import Contestant, SqlWriter
from .pair import Say

DATABASE = "MB01"
AGENT = 64326


class Everpost(Contestant):
    """EX01, EX02 and the witness of the demonstration."""

    name = "Everpost"

    def __init__(self, lab: NamespaceLab, say: Say) -> None:
        super().__init__(lab, say)
        self._o = Organisation(lab, roles="mailbox", say=say)

    @property
    def hosts(self) -> tuple[NamespaceHost, NamespaceHost]:
        """The two servers."""
        first, second = (server.host for server in self._o.servers)
        assert isinstance(first, NamespaceHost) and isinstance(second, NamespaceHost)
        return first, second

    def build(self) -> SqlWriter:
        """The client logs in with a server's certificate, and asks the agent for each confirmation."""
        self._o.build()
        self._o.database(DATABASE, "EX01")
        tls: Path = self._o.servers[0].data / "tls"
        at = [f"{host.address}:{copies.FIRST_PORT}:{AGENT}" for host in self.hosts]
        return SqlWriter(
            self.lab.host("CLIENT", 100), "--user", "everpost_store", "--database", "mail", "--tls", str(tls),
            "--confirm", DATABASE, *at,
        )  # fmt: skip

    def whole(self) -> bool:
        """As both servers see it."""
        try:
            return all(self._o.whole(server) for server in self._o.servers)
        except (CommandFailed, ValueError):
            return False

    def lead(self) -> None:
        """By etcd's own call."""
        leader(self._o, wanted=self._o.server("EX01"))

    def home(self) -> None:
        """By the administrator's command."""
        second = self._o.servers[1]
        self._o.retry(lambda: second.rows(f"Move-ActiveMailboxDatabase {DATABASE} -ActivateOnServer EX01"))

    def stop_passive(self) -> None:
        """SIGTERM to `everpost serve`, until it has ended."""
        self._o.servers[1].stop()

    def start_passive(self) -> None:
        """`everpost serve`."""
        self._o.servers[1].start()

    def rows(self) -> set[tuple[str, int]]:
        """By SQL on the copy's own socket."""
        active = next(row["MailboxServer"] for row in self._o.status().values() if row["ActiveCopy"])
        text = copies.sql(self._o.server(active), 0, "select writer, n from public.numbered")
        return {(writer, int(n)) for writer, n in (line.split("|") for line in text.splitlines())}

    def settings(self) -> dict[str, Any]:
        """Presets; nothing is tuned."""
        return {
            "version": everpost.__version__,
            "licence": "Apache-2.0",
            "settings": "presets",
            "transport": "TLS with certificates",
            "acknowledged": "after COMMIT returned and the agent confirmed the epoch",
        }

    def close(self) -> None:
        """End and remove everything."""
        self._o.close()
