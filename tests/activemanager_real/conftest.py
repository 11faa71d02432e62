"""One organisation for all of this folder's tests: two servers and a witness in network namespaces, two databases.

Each test leaves it whole: every database mounted at home (MB01 on EX01, MB02 on EX02) with its copy in the set.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

from everpost.databases import processes
from everpost.lab.hosts import kill_all, open_lab
from everpost.lab.organisation import Organisation, Server

HOME = {"MB01": "EX01", "MB02": "EX02"}


def kill_everything(server: Server) -> None:
    """SIGKILL every process of a server, until none is left."""
    while pids := [pid for pid in server.host.pids() if processes.alive(pid)]:
        kill_all(pids)
        processes.wait_gone(pids, 0.1)


class World:
    """The organisation with what these tests ask of it again and again."""

    def __init__(self, organisation: Organisation) -> None:
        self.o = organisation
        self.first, self.second = organisation.servers

    def location(self, name: str, server: Server | None = None) -> tuple[str, str]:
        """(active server, its state) of a database, as the server sees it."""
        for row in self.o.status(server or self.second).values():
            if row["DatabaseName"] == name and row["ActiveCopy"]:
                return str(row["MailboxServer"]), str(row["Status"])
        return "", ""

    def mounted_on(self, name: str, active: str, server: Server | None = None, seconds: float = 30.0) -> float:
        """Wait until the database is mounted there."""
        asked = server or self.o.server(active)
        return self.o.wait(
            lambda: self.location(name, asked) == (active, "Mounted"), seconds, f"{name} mounted on {active}"
        )

    def whole(self, seconds: float = 100.0) -> None:
        """Every database mounted, every copy in the set and said to be Healthy, as both servers see it."""
        self.o.wait(lambda: all(self._whole(server) for server in self.o.servers), seconds, "whole again")

    def _whole(self, server: Server) -> bool:
        rows = self.o.status(server).values()
        healthy = all(row["Status"] == ("Mounted" if row["ActiveCopy"] else "Healthy") for row in rows)
        return healthy and self.o.whole(server)

    def home(self) -> None:
        """Everything back to where it began, also after a test that failed with a server down or a database closed."""
        for server in self.o.servers:
            if not server.host.pids():
                server.start()
                self.o.wait_agent(server)
        for name in HOME:
            if self.location(name)[1] == "Dismounted":
                self.o.retry(lambda name=name: self.second.rows(f"Mount-Database {name}"))  # type: ignore[misc]
        self.whole()
        for name, active in HOME.items():
            self.second.rows(f"Move-ActiveMailboxDatabase {name} -ActivateOnServer {active}")
        self.whole()


@pytest.fixture(scope="package")
def world() -> Iterator[World]:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root")
    lab = open_lab("policy", "netns")
    organisation = Organisation(lab, roles="mailbox")
    try:
        organisation.build()
        for name, active in HOME.items():
            organisation.database(name, active)
        made = World(organisation)
        made.whole()
        yield made
    finally:
        organisation.close(keep_files="EVERPOST_KEEP" in os.environ)
